"""An epoch's batches in groups, one group a step: what this process has of each, and what all processes agree on."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic

from asr import runtime
from asr.records import Rejection
from asr.train.monitor import Monitor
from asr.train.step import B


@dataclass(frozen=True, slots=True, kw_only=True)
class Group(Generic[B]):
    """The batches of one step. ``own`` are this process's that can be trained on, at ``places`` in the group, from 0.

    The rest is the same for all processes: the ``size`` in batches, the ``labels`` to be learnt, 0 where there is
    nothing to train on, what was ``rejected``, whether one was told to ``stop``, and the run's ``seconds`` so far.
    """

    own: list[B]
    places: list[int]
    size: int
    labels: int
    rejected: tuple[Rejection, ...]
    stop: bool
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Share:
    """What one process tells the others of its part of a group."""

    batches: int
    labels: int
    rejected: tuple[Rejection, ...]
    stop: bool
    seconds: float


def agreed_groups(batches: Iterator[B], size: int, monitor: Monitor, stop: threading.Event) -> Iterator[Group[B]]:
    """``size`` of ``batches``, this process's share of an epoch, at a time, until no process has any more; then one
    group without batches. So all take the same number of steps, and from what is the same for all decide alike."""
    rank, world = runtime.rank(), runtime.world()
    while True:
        taken = list(itertools.islice(batches, size))
        share = _Share(
            batches=len(taken),
            labels=sum(batch.labels for batch in taken),
            rejected=tuple(rejection for batch in taken for rejection in batch.rejected),
            stop=stop.is_set(),
            seconds=monitor.seconds,
        )
        shares = runtime.everyones(share)
        usable = [number for number, batch in enumerate(taken) if len(batch)]
        group = Group(
            own=[taken[number] for number in usable],
            places=[rank + number * world for number in usable],
            size=sum(share.batches for share in shares),
            labels=sum(share.labels for share in shares),
            rejected=tuple(rejection for share in shares for rejection in share.rejected),
            stop=any(share.stop for share in shares),
            seconds=shares[0].seconds,
        )
        yield group
        if group.size == 0:
            return

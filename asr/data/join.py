"""Joining utterances: clips of one word each teach a network to write its letters at a clip's edges, since nothing says
otherwise. Padded with silence and joined to others, they teach it where a word begins and ends.

Utterances are joined in the order in which an epoch comes, so that each is heard once, whole. Every draw comes from a
generator seeded with the run's seed, the epoch and an utterance's id, in the process that orders the epoch: what is
joined depends neither on the number of workers nor on where a run was resumed.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from asr import recipe
from asr.data.cuts import FAULT

QUIET_SECONDS = 0.02
"""The quietest stretch of so many seconds is what a clip's background sounds like."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """``cuts`` (N,) one after another, with ``silences`` (N + 1,) in seconds before, between and after them, together
    ``duration``. With ``background`` the silences are as loud as the quietest stretch of the clips, else nothing but
    zeros; ``seed`` draws it."""

    id: str
    duration: float
    cuts: tuple[Any, ...]
    silences: tuple[float, ...]
    background: bool
    seed: int

    def samples(self, parts: Sequence[np.ndarray], sample_rate: int) -> np.ndarray:
        """(S,) of the cuts' samples ``parts``, (S',) each; one that is empty could not be read, and leaves no gap."""
        draw = np.random.default_rng(self.seed)
        level = min((_floor(part, sample_rate) for part in parts if len(part)), default=0.0) * self.background
        gaps = [
            (level * draw.standard_normal(round(seconds * sample_rate))).astype(np.float32) for seconds in self.silences
        ]
        pieces = [piece for gap, part in zip(gaps, parts, strict=False) if len(part) for piece in (gap, part)]
        return np.concatenate([*pieces, gaps[-1]])


def join(cuts: Iterable[Any], settings: recipe.Join, *, salt: str, seconds: tuple[float, float]) -> Iterator[Any]:
    """An epoch's ``cuts``, or whatever else has an id and a duration, joined as ``settings`` say; ``salt`` names seed
    and epoch. Those that are shorter or longer than ``seconds`` or have a fault come alone, to be refused by name."""
    shortest, longest = seconds
    waiting: list[Any] = []
    length = target = 0.0
    for cut in cuts:
        if not shortest <= cut.duration <= longest or FAULT in (getattr(cut, "custom", None) or {}):
            yield cut
            continue
        if waiting and length + cut.duration > target:
            yield joined(waiting, settings, salt)
            waiting = []
        if not waiting:
            draw = _draw(cut, salt)
            if draw.random() >= settings.probability:
                yield cut
                continue
            length, target = 0.0, draw.uniform(0.0, min(settings.longest, longest))
        waiting.append(cut)
        length += cut.duration + sum(settings.silence) / 2
    if waiting:
        yield joined(waiting, settings, salt)


def joined(cuts: Sequence[Any], settings: recipe.Join, salt: str) -> Joined:
    """``cuts`` as one, with what is drawn for the first of them."""
    draw = _draw(cuts[0], f"{salt}/silence")
    silences = tuple(draw.uniform(*settings.silence) for _ in range(len(cuts) + 1))
    return Joined(
        id=cuts[0].id if len(cuts) == 1 else f"{cuts[0].id} and {len(cuts) - 1} more",
        duration=round(sum(silences) + sum(cut.duration for cut in cuts), 6),
        cuts=tuple(cuts),
        silences=silences,
        background=draw.random() < 0.5,
        seed=draw.getrandbits(31),
    )


def _draw(cut: Any, salt: str) -> random.Random:
    return random.Random(f"{salt}/{cut.id}/join")


def texts_to_spell(texts: Iterable[str], settings: recipe.Join | None) -> Iterator[str]:
    """``texts`` and, where utterances are joined, the first and the last as one: a tokeniser that is learnt from texts
    of one word each would know of no space."""
    first = last = None
    for text in texts:
        first, last = text if first is None else first, text
        yield text
    if settings is not None and first and last:
        yield f"{first} {last}"


def _floor(samples: np.ndarray, sample_rate: int) -> float:
    """The root mean square of the quietest ``QUIET_SECONDS`` of ``samples`` (S,)."""
    size = max(1, round(QUIET_SECONDS * sample_rate))
    whole = len(samples) // size * size
    frames = samples[:whole].reshape(-1, size) if whole else samples[None]
    return float(np.sqrt(np.square(frames, dtype=np.float64).mean(axis=1).min()))

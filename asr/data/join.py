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
from asr.data.corpora import FAULT

JOINED = "joined"
"""Of a cut's custom fields, the ``Joined`` that it stands for."""
QUIET_SECONDS = 0.02
"""The quietest stretch of so many seconds is what a clip's background sounds like."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """``cuts`` (N,) one after another, with ``silences`` (N + 1,) in seconds before, between and after them. With
    ``background`` the silences are as loud as the quietest stretch of the clips, else nothing but zeros; ``seed`` draws
    it."""

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


def join(cuts: Any, settings: recipe.Join | None, *, salt: str, seconds: tuple[float, float]) -> Any:
    """An epoch's ``cuts``, joined as ``settings`` say; ``salt`` names seed and epoch. Cuts that are shorter or longer
    than ``seconds`` or have a fault come alone, to be refused by name."""
    from lhotse import CutSet

    return cuts if settings is None else CutSet(_Joining(cuts, settings, salt, seconds))


@dataclass
class _Joining:
    cuts: Iterable[Any]
    settings: recipe.Join
    salt: str
    seconds: tuple[float, float]

    def __iter__(self) -> Iterator[Any]:
        shortest, longest = self.seconds
        waiting: list[Any] = []
        length = target = 0.0
        draw = random.Random()
        for cut in self.cuts:
            if not shortest <= cut.duration <= longest or FAULT in (getattr(cut, "custom", None) or {}):
                yield cut
                continue
            if waiting and length + cut.duration > target:
                yield self._joined(waiting, draw)
                waiting = []
            if not waiting:
                draw = random.Random(f"{self.salt}/{cut.id}/join")
                if draw.random() >= self.settings.probability:
                    yield cut
                    continue
                length, target = 0.0, draw.uniform(0.0, min(self.settings.longest, longest))
            waiting.append(cut)
            length += cut.duration + sum(self.settings.silence) / 2
        if waiting:
            yield self._joined(waiting, draw)

    def _joined(self, cuts: Sequence[Any], draw: random.Random) -> Any:
        """A cut without a recording in the place of ``cuts``, as long as they are together: what a sampler reads."""
        from lhotse.cut import PaddingCut

        joined = Joined(
            cuts=tuple(cuts),
            silences=tuple(draw.uniform(*self.settings.silence) for _ in range(len(cuts) + 1)),
            background=draw.random() < 0.5,
            seed=draw.getrandbits(31),
        )
        duration = round(sum(joined.silences) + sum(cut.duration for cut in cuts), 6)
        rate = max(cut.sampling_rate for cut in cuts)
        name = cuts[0].id if len(cuts) == 1 else f"{cuts[0].id} and {len(cuts) - 1} more"
        return PaddingCut(
            id=name,
            duration=duration,
            sampling_rate=rate,
            feat_value=0.0,
            num_samples=round(duration * rate),
            custom={JOINED: joined},
        )


def joined_of(cut: Any) -> Joined | None:
    """What ``cut`` stands for, where it was joined."""
    found: Joined | None = (getattr(cut, "custom", None) or {}).get(JOINED)
    return found


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

"""How loud a recording is from moment to moment, measured as its samples pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

REACH_SECONDS = 0.5
"""How long after a word's last token the end of its sound is looked for."""
PAUSE_SECONDS = 0.1
"""A sound ends with a quiet this long; a plosive's closure is shorter."""
FALL_DECIBELS = 35.0
"""Below its loudest a sound is over."""
ROOM_DECIBELS = 6.0
"""Above the quietest that follows, which is the room's noise, it is over too."""
LEAST_FALL_DECIBELS = 20.0
"""From the loudest to that: in a louder room an end is not heard."""
_AT_ONCE = 1 << 16
"""Samples that are squared at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loudness:
    """``levels`` (N,) in dB, one after another from the beginning, each of so many ``seconds``."""

    levels: np.ndarray
    seconds: float

    def end_of_sound(self, begin: float, heard: float, limit: float) -> float | None:
        """When the sound ends that begins at ``begin`` and still goes on at ``heard``, if it ends before ``limit``; in
        seconds. None where it does not end within reach, or cannot be told from its room."""
        first, stop = round(heard / self.seconds), round(min(limit, heard + REACH_SECONDS) / self.seconds)
        after = self.levels[first:stop]
        sound = self.levels[min(round(begin / self.seconds), first) : stop]
        if len(after) < 3:
            return None
        room = float(np.convolve(after, np.full(3, 1 / 3), "valid").min())
        loudest = np.maximum.accumulate(sound)[len(sound) - len(after) :]  # so far: a bang to come is another sound
        over = np.maximum(loudest - FALL_DECIBELS, room + ROOM_DECIBELS)
        over[loudest - over < LEAST_FALL_DECIBELS] = -np.inf
        loud = np.flatnonzero(np.append(after > over, True))  # as if it were loud again after all this
        pauses = np.diff(loud, prepend=-1) - 1
        found = np.flatnonzero(pauses * self.seconds >= PAUSE_SECONDS)
        if not len(found):
            return None
        return (first + int(loud[found[0] - 1] + 1 if found[0] else 0)) * self.seconds

    def begin_of_sound(self, heard: float, over: float, limit: float) -> float | None:
        """When the sound begins that goes on at ``heard`` and is over at ``over``, if it begins after ``limit``; in
        seconds. None as for its end: it is the end of the recording played backwards."""
        whole = len(self.levels) * self.seconds
        backwards = Loudness(levels=self.levels[::-1], seconds=self.seconds)
        end = backwards.end_of_sound(*(max(whole - seconds, 0.0) for seconds in (over, heard, limit)))
        return None if end is None else whole - end


class Meter:
    """Measures samples, block by block, at ``rate`` Hz: two levels an emission frame of ``frame`` samples, one where
    that is an odd number."""

    def __init__(self, *, rate: int, frame: int) -> None:
        self.samples = 0
        """Measured so far."""
        self._rate = rate
        self._step = frame // 2 if frame % 2 == 0 else frame
        self._left = np.zeros(0, np.float32)
        self._levels: list[np.ndarray] = []

    def feed(self, samples: np.ndarray) -> None:
        """Measures (S,) float32 samples more."""
        self.samples += len(samples)
        for start in range(0, len(samples), _AT_ONCE):
            block = np.concatenate([self._left, samples[start : start + _AT_ONCE]])
            whole = len(block) // self._step * self._step
            self._left = block[whole:].copy()
            frames = block[:whole].reshape(-1, self._step).astype(np.float64)
            energies = np.einsum("ij,ij->i", frames, frames) / self._step
            self._levels.append((10 * np.log10(energies + 1e-10)).astype(np.float32))

    def through(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The same blocks, measured on the way."""
        for block in blocks:
            self.feed(block)
            yield block

    @property
    def seconds(self) -> float:
        return self.samples / self._rate

    def loudness(self) -> Loudness:
        levels = np.concatenate([np.zeros(0, np.float32), *self._levels])
        return Loudness(levels=levels, seconds=self._step / self._rate)

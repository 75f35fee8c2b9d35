"""A stream's utterances, as its features come: what they are normalised by, and where they begin and end.

Per-utterance normalisation needs an utterance's end. In a stream it goes by the active frames heard so far, and nothing
is read before there are enough of them. Nor is long silence read, as in a file. What is said after it is a new
utterance. Both networks' streams are cut here; each measures by its own front end what it normalises by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from asr.audio.levels import (
    ACTIVE_DECIBELS,
    DECIBEL,
    DOUBT_SECONDS,
    FADING_DECIBELS,
    LEVEL_SECONDS,
    LONGEST_WARM_UP_SECONDS,
    MARGIN_SECONDS,
    MEMORY_SECONDS,
    PAUSE_SECONDS,
    RECENT_SECONDS,
    SPEECH_DECIBELS,
    STEADY_DECIBELS,
    WARM_UP_SECONDS,
    frame_loudness,
    silent,
)

S = TypeVar("S")
"""What a front end normalises an utterance by."""


class SpeechMemory(Generic[S]):
    """What a stream's speech is normalised by: ``level``, the natural log of its loudness, None before there is any,
    and the log-mel ``energies`` (N, mels) of its active frames, of the last ``MEMORY_SECONDS`` of them, with as many
    neighbours as their deltas reach.

    The level is that of the loudest frames heard lately. It is lowered neither by silence nor by ``steady`` noise,
    however long they last, and by fainter speech slowly.
    """

    def __init__(self, measure: Callable[[np.ndarray, float], S], *, shift: float, mels: int, reach: int) -> None:
        """``measure`` makes statistics of energies (N, mels) and a level; frames come every ``shift`` seconds, and
        features depend on ``reach`` frames on either side."""
        self._measure, self.reach = measure, reach
        self.loudest, self.recently = round(LEVEL_SECONDS / shift), round(RECENT_SECONDS / shift)
        self.most, self.warm_up = round(MEMORY_SECONDS / shift), round(WARM_UP_SECONDS / shift)
        self.longest_warm_up = round(LONGEST_WARM_UP_SECONDS / shift)
        self.fading = FADING_DECIBELS * DECIBEL * shift
        self.doubt = round(DOUBT_SECONDS / shift)
        self.level: float | None = None
        self.steady = True
        self.heard = self.doubtful = 0  # frames; those in which it was not clear whether the first speech had begun
        self.recent = np.zeros((0, 2), np.float32)  # of each frame, its loudness and its bins' mean energy
        self.energies = np.zeros((0, mels), np.float32)
        self.loudness = np.zeros(0, np.float32)
        self.places = np.zeros(0, np.int64)  # in the stream

    def hear(self, energies: np.ndarray) -> None:
        """Log-mel energies (T, mels) more."""
        if not len(energies):
            return
        loudness = frame_loudness(energies)
        self._follow(np.stack([loudness, energies.mean(1)], axis=1))
        places = np.arange(self.heard, self.heard + len(energies))
        self.heard += len(energies)
        self.energies = np.concatenate([self.energies, energies])
        self.loudness = np.concatenate([self.loudness, loudness])
        self.places = np.concatenate([self.places, places])
        kept = np.arange(len(self.places))[-self.recently :]
        if self.level is not None:
            reach = self.reach
            near = np.convolve(self._active(self.level), np.ones(2 * reach + 1))[reach : reach + len(self.places)] > 0
            kept = np.flatnonzero(near | (self.places >= self.heard - reach))[-self.most :]
        self.energies, self.loudness, self.places = self.energies[kept], self.loudness[kept], self.places[kept]

    def statistics(self) -> S | None:
        """None while too little speech was heard to tell."""
        if self.level is None:
            return None
        active = self.places[self._active(self.level)]
        if len(active) < self.warm_up and (not len(active) or self.heard - int(active[0]) < self.longest_warm_up):
            return None
        return self._measure(self.energies, self.level)

    def audible(self, energies: np.ndarray) -> np.ndarray:
        """Which of the frames (T, mels) heard last may be speech: (T,) bool."""
        if self.level is None or self.steady:
            return np.full(len(energies), not self.steady)
        return ~silent(energies, self.level)

    def _follow(self, heard: np.ndarray) -> None:
        """Moves the level on, by the loudness and mean energy (T, 2) of the newest frames."""
        self.recent = np.concatenate([self.recent, heard])[-max(self.recently, len(heard)) :]
        if len(self.recent) < self.loudest:
            return
        loudest, high = np.sort(self.recent, axis=0)[-self.loudest].tolist()
        varies = (high - float(np.quantile(self.recent[:, 1], 0.1))) / DECIBEL
        self.steady = varies < STEADY_DECIBELS
        if self.steady:
            self.doubtful = 0
        elif self.level is not None:
            self.level = max(loudest, self.level - self.fading * len(heard))
        elif varies >= SPEECH_DECIBELS or self.doubtful >= self.doubt:
            self.level = loudest
        else:
            self.doubtful += len(heard)

    def _active(self, level: float) -> np.ndarray:
        return np.asarray(self.loudness >= np.float32(level - ACTIVE_DECIBELS * DECIBEL))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch(Generic[S]):
    """Log-mel ``energies`` (T, mels) of a stream that are to be read, normalised by ``statistics`` (None: their own),
    or that are ``silence`` and not read. With the ``last`` stretch an utterance ends."""

    energies: np.ndarray
    statistics: S | None = None
    silence: bool = False
    last: bool = False


class UtteranceCutter(Generic[S]):
    """Cuts a stream's log-mel energies into stretches, each a multiple of ``step`` frames or an utterance's end.

    It holds what is ``unread``: the frames of the warm-up, or the margin before the next word. It ``rests`` while there
    is nothing to be read; of an utterance it has ``read`` so many frames, the last ``quiet`` of them silent.
    """

    def __init__(
        self, measure: Callable[[np.ndarray, float], S], *, shift: float, mels: int, reach: int, step: int
    ) -> None:
        """The first four are as ``SpeechMemory`` takes them."""
        self.speech, self.step = SpeechMemory(measure, shift=shift, mels=mels, reach=reach), step
        self.margin, self.pause = round(MARGIN_SECONDS / shift), round(PAUSE_SECONDS / shift)
        self.unread = self.speech.energies
        self.rests, self.rested = True, False
        self.read = self.quiet = 0

    def feed(self, energies: np.ndarray, *, last: bool = False) -> Iterator[Stretch[S]]:
        """The stretches that (T, mels) frames more complete; after the ``last``, the rest of them."""
        self.speech.hear(energies)
        self.unread = np.concatenate([self.unread, energies])
        if last and self.rests and not self.rested:  # a stream so short is read as a file is
            yield Stretch(energies=self.unread, last=True)
            return
        statistics = self.speech.statistics()
        self.rests = self.rests or self.speech.level is None
        while True:
            if self.rests:
                yield self._rest(last)
            if self.rests or (statistics is None and not last):
                return
            stretch = self._read(statistics, last)
            yield stretch
            if not self.rests:
                return

    def _rest(self, last: bool) -> Stretch[S]:
        """Up to the margin before the first sound, with which the rest is over."""
        sounds = np.flatnonzero(self.speech.audible(self.unread))
        self.rests = len(sounds) == 0
        steps = max(0, (len(self.unread) if self.rests else int(sounds[0])) - self.margin) // self.step
        frames = len(self.unread) if self.rests and last else steps * self.step
        self.rested = self.rested or frames > 0
        return Stretch(energies=self._take(frames), silence=True)

    def _read(self, statistics: S | None, last: bool) -> Stretch[S]:
        """Up to where silence has lasted for longer than a pause, with which the utterance is over."""
        sound = self.speech.audible(self.unread)
        place = np.arange(len(sound))
        quiet = place - np.maximum.accumulate(np.where(sound, place, -1 - self.quiet))
        ends = np.flatnonzero((quiet >= self.pause) & ((self.read + place + 1) % self.step == 0))
        self.rests = len(ends) > 0
        self.rested = self.rested or self.rests
        frames = int(ends[0]) + 1 if self.rests else len(sound)
        self.quiet = 0 if self.rests or frames == 0 else int(quiet[-1])
        self.read = 0 if self.rests else self.read + frames
        return Stretch(energies=self._take(frames), statistics=statistics, last=self.rests or last)

    def _take(self, frames: int) -> np.ndarray:
        taken, self.unread = self.unread[:frames], self.unread[frames:].copy()
        return taken

"""Voice activity: where in a recording somebody speaks, in memory that does not grow with it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from asr.audio.silero import CONTEXT, FRAME, RATE, VoiceNetwork

CHUNK = 1024
"""Frames that are handed on together."""
FRAME_SECONDS = FRAME / RATE

ONSET, OFFSET = 0.5, 0.35
"""Speech begins at the one probability and lasts down to the other: silero-vad's own choice."""
PAUSE_SECONDS = 0.6
"""Of silence end a span: less than that happens within a sentence."""
PADDING_SECONDS = 0.1
"""Kept before and after a span: a soft onset or a fading end is speech too. More of it costs nothing where pauses are
silent; where they are loud, a quarter of a second made half as many errors again on AN4's clips, and half a second
twice as many."""
QUIET_PADDING_SECONDS = 0.3
"""Kept where it is ``QUIET_DECIBELS`` below the span's loudest frame: utterances begin and end with some of a quiet
room in training too."""
QUIET_DECIBELS = 30.0
SHORTEST_SECONDS = 0.09
"""Less speech than that is a click."""
LONGEST_SECONDS = 30.0
"""Of a span: a longer one is cut at the quietest point of its second half."""
JOINED_SPANS = 20
"""At most so many spans go on from one to the next without a pause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """Consecutive frames of ``FRAME_SECONDS``: the probability of speech and the level in dB of each, (N,) float32."""

    probabilities: np.ndarray
    levels: np.ndarray


def activity(blocks: Iterable[np.ndarray], *, detect: bool = True) -> Iterator[Activity]:
    """The frames of a recording given as blocks of samples (S,) at ``RATE``; the last is filled up with zeros. Without
    ``detect`` all of it counts as speech."""
    network = VoiceNetwork() if detect else None
    before = np.zeros(CONTEXT, np.float32)
    for samples in _chunks(blocks, CHUNK * FRAME):
        padded = np.pad(samples, (0, -len(samples) % FRAME))
        levels = 10 * np.log10(np.square(padded.reshape(-1, FRAME)).mean(axis=1) + 1e-10)
        if network is None:
            probabilities = np.ones(len(levels), np.float32)
        else:
            heard = np.concatenate([before, padded])
            probabilities = network.hear(sliding_window_view(heard, CONTEXT + FRAME)[::FRAME])
            before = padded[-CONTEXT:]
        yield Activity(probabilities=probabilities, levels=levels)


def _chunks(blocks: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """The same samples in blocks of ``size``, the last one shorter."""
    held: list[np.ndarray] = []
    length = 0
    for block in blocks:
        held.append(block)
        length += len(block)
        if length >= size:
            joined = np.concatenate(held)
            whole = length // size * size
            yield from np.split(joined[:whole], whole // size)
            held, length = [joined[whole:]], length - whole
    if length:
        yield np.concatenate(held)


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Frames of speech, from ``start`` up to ``stop``. Where it ``goes_on`` there was no pause to cut it at: the next
    span begins where it stops."""

    start: int
    stop: int
    goes_on: bool = False


class SpanCutter:
    """Spans of speech out of a recording's frames, as they come. A span is known at the latest ``horizon`` frames after
    its start. ``longest``, ``pause`` and ``padding`` are in seconds."""

    def __init__(
        self, *, longest: float = LONGEST_SECONDS, pause: float = PAUSE_SECONDS, padding: float = PADDING_SECONDS
    ) -> None:
        self._longest = _frames(longest)
        self._pause, self._padding = _frames(pause), _frames(padding)
        self._quiet_padding = max(self._padding, _frames(QUIET_PADDING_SECONDS))
        self.horizon = self._longest + self._pause + self._quiet_padding
        self.heard = 0
        """Frames."""
        self._previous = 0  # where the last span stops
        self._start: int | None = None
        self._voiced = 0  # one past the last frame of speech
        self._spoken = 0  # frames of speech in this span
        self._joined = 0  # spans that go on into this one
        self._frames: list[tuple[float, float]] = []  # level and probability of those from ``_start``
        self._newest: deque[float] = deque(maxlen=self._quiet_padding)  # levels
        self._onset, self._before = 0, [0.0]  # where speech was found, and the levels of the frames before that

    def feed(self, frames: Activity) -> Iterator[Span]:
        for probability, level in zip(frames.probabilities.tolist(), frames.levels.tolist(), strict=True):
            now = self.heard
            self.heard += 1
            if self._start is None and probability >= ONSET:
                self._onset, self._before = now, list(self._newest)
                self._start = max(self._previous, now - self._padding)
                self._frames = [(level, probability)] * (now - self._start)
                self._spoken = 0
            self._newest.append(level)
            if self._start is None:
                continue
            self._frames.append((level, probability))
            if probability >= OFFSET:
                self._voiced = now + 1
                self._spoken += 1
            elif self.heard - self._voiced >= self._pause:
                yield from self._close()
            if self._start is not None and self.heard - self._start >= self._longest:
                yield self._cut(self._start)

    def finish(self) -> Iterator[Span]:
        """The span that the recording's end cuts off, if there is one."""
        if self._start is not None:
            yield from self._close()

    def _close(self) -> Iterator[Span]:
        assert self._start is not None
        if self._joined or self._spoken * FRAME_SECONDS >= SHORTEST_SECONDS:
            first, stop = self._first(self._start), min(self._voiced + self._padding, self.heard)
            while stop < min(self._voiced + self._quiet_padding, self.heard) and self._is_quiet(
                self._frames[stop - self._start][0]
            ):
                stop += 1
            self._previous = stop
            yield Span(start=first, stop=stop)
        self._start, self._joined = None, 0

    def _cut(self, start: int) -> Span:
        """The span up to its quietest tenth of a second, which then begins the next."""
        first_of_all = self._first(start)
        levels = np.array([level for level, _ in self._frames])
        smooth = np.convolve(levels, np.ones(3), mode="same")
        first = len(levels) // 2
        quietest = first + int(smooth[first:-1].argmin())
        self._previous = start + quietest
        goes_on = self._frames[quietest][1] >= OFFSET and self._joined < JOINED_SPANS and self._voiced > self._previous
        self._joined = self._joined + 1 if goes_on else 0
        self._frames = self._frames[quietest:]
        self._spoken = sum(probability >= OFFSET for _, probability in self._frames)
        self._start = self._previous if self._voiced > self._previous else None
        return Span(start=first_of_all, stop=self._previous, goes_on=goes_on)

    def _first(self, start: int) -> int:
        """``start``, or where the quiet before it begins."""
        earliest = max(self._previous, self._onset - len(self._before))
        while start > earliest and self._is_quiet(self._before[start - 1 - self._onset]):
            start -= 1
        return start

    def _is_quiet(self, level: float) -> bool:
        """Beside the loudest frame of the span."""
        return level < max(level for level, _ in self._frames) - QUIET_DECIBELS


def _frames(seconds: float) -> int:
    return round(seconds / FRAME_SECONDS)

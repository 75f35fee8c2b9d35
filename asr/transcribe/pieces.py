"""What the network is to read of a recording of any length, cut out of its samples as they come.

A recording that fits in a window is read in one piece. Of a longer one the spans of speech are, where voice activity
finds them. A span that goes on without a pause is cut too, but its pieces overlap by two contexts, of which either
drops one, and their emissions are joined before they are decoded: a cut within a word leaves no trace. Pieces start on
the recording's emission frames, so that times are those of the recording read in one piece.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from asr import audio
from asr.audio import voice
from asr.audio.silero import FRAME, RATE

WINDOW_SECONDS = 40.0
CONTEXT_SECONDS = 4.0
"""On either side of a cut, which a bidirectional network needs as much as what came before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """``samples`` (S,) to be read, of which those from ``start`` to ``stop`` of the recording count: of the emission
    frames those from ``first`` to ``last`` are kept, None being the end. The next piece ``goes_on`` with this one's
    last word."""

    samples: np.ndarray
    start: int
    stop: int
    first: int = 0
    last: int | None = None
    goes_on: bool = False


def pieces(
    blocks: Iterable[np.ndarray],
    *,
    rate: int,
    frame: int,
    vad: bool | None = None,
    cutter: voice.SpanCutter | None = None,
) -> Iterator[Piece]:
    """The pieces of a recording given as blocks (S,) at ``rate`` Hz, whose emission frames are ``frame`` samples each.

    ``vad`` says whether to leave out what is not speech; None does so where the recording does not fit in one window.
    Without it everything is read. ``cutter`` parts speech from what is not.
    """
    blocks = iter(blocks)
    held: list[np.ndarray] = []
    if not vad:
        room = round(WINDOW_SECONDS * rate)
        for block in blocks:
            held.append(block)
            if sum(map(len, held)) > room:
                break
        else:
            samples = np.concatenate([np.zeros(0, np.float32), *held])
            yield Piece(samples=samples, start=0, stop=len(samples))
            return
    cutter = cutter or voice.SpanCutter()
    yield from _spans(itertools.chain(held, blocks), rate, frame, cutter, detect=vad is not False)


def _spans(
    blocks: Iterable[np.ndarray], rate: int, frame: int, cutter: voice.SpanCutter, *, detect: bool
) -> Iterator[Piece]:
    kept = _Kept(blocks)
    context = round(CONTEXT_SECONDS * rate / frame)
    before = 0  # emission frames of context that the next piece has from the last one

    def piece(span: voice.Span, *, final: bool = False) -> Piece:
        nonlocal before
        start, stop = _on_grid(span.start, rate, frame), _on_grid(span.stop, rate, frame)
        after = context if span.goes_on else 0
        first, before = before, after
        # The recording's end need not be on the grid.
        end = span.stop * FRAME * rate // RATE if final else stop * frame
        samples = kept.part((start - first) * frame, end + after * frame)
        last = first + stop - start if span.goes_on else None
        return Piece(
            samples=samples,
            start=start * frame,
            stop=min(end, (start - first) * frame + len(samples)),
            first=first,
            last=last,
            goes_on=span.goes_on,
        )

    for frames in voice.activity(audio.resampled(kept.heard(), rate, RATE), detect=detect):
        yield from map(piece, cutter.feed(frames))
        kept.forget((_on_grid(cutter.heard - cutter.horizon, rate, frame) - context) * frame)
    yield from (piece(span, final=True) for span in cutter.finish())


def _on_grid(voice_frame: int, rate: int, frame: int) -> int:
    """The emission frame in which a frame of voice activity begins."""
    return voice_frame * FRAME * rate // (RATE * frame)


class _Kept:
    """The part of a recording that may still be asked for, as it is being heard. (itertools.tee lets go of blocks by
    the 57, which are an hour.)"""

    def __init__(self, blocks: Iterable[np.ndarray]) -> None:
        self._blocks = iter(blocks)
        self._ahead: deque[np.ndarray] = deque()  # asked for before they were heard
        self._samples = np.zeros(0, np.float32)
        self._start = 0  # of ``_samples`` in the recording

    def heard(self) -> Iterator[np.ndarray]:
        """The recording's blocks."""
        while self._ahead or self._read():
            yield self._ahead.popleft()

    def part(self, start: int, stop: int) -> np.ndarray:
        """The samples from ``start`` to ``stop``, or to the recording's end."""
        while self._start + len(self._samples) < stop and self._read():
            pass
        # A copy: a piece in waiting must not hold on to minutes of the recording.
        return self._samples[max(0, start - self._start) : stop - self._start].copy()

    def forget(self, stop: int) -> None:
        """What lies before ``stop`` will not be asked for."""
        gone = min(max(0, stop - self._start), len(self._samples))
        self._samples, self._start = self._samples[gone:].copy(), self._start + gone

    def _read(self) -> bool:
        if (block := next(self._blocks, None)) is None:
            return False
        self._samples = np.concatenate([self._samples, block])
        self._ahead.append(block)
        return True

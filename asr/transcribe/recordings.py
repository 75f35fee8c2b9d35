"""Many recordings at once: pieces of several in one batch, each recording's segments back in its own order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from asr.audio.loudness import Meter
from asr.decode.decoder import Decoder
from asr.decode.words import words_of
from asr.errors import AudioError
from asr.records import Emissions, Network, Segment, Transcript
from asr.text.tokenise import Tokeniser
from asr.transcribe.emissions import emit, frame_samples
from asr.transcribe.pieces import Piece, pieces

BATCH_SECONDS = 60.0
"""Of audio, padding included, that the network reads at once."""
POOL_SECONDS = 480.0
"""Of pieces that are sorted by length before they are batched: what is in memory at once."""
LONGEST_WAIT_SECONDS = 1200.0
"""Of audio, most of it silence, after which a pool is worked off that is not full."""
DECODED_TOGETHER = 32

Channels = Literal["mix", "split"] | int
"""The mix of a recording's channels, each apart, or one of them, counted from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A recording to be transcribed: how many channels it has, and the blocks (S,) of one or, None, of their mix."""

    channels: Callable[[], int]
    blocks: Callable[[int | None], Iterable[np.ndarray]]


@dataclass(slots=True, eq=False)
class Passage:
    """What is decoded in one go: one piece, or several that go on without a pause."""

    channel: int | None
    start: int
    meter: Meter
    stop: int = 0
    emissions: list[np.ndarray] = field(default_factory=list)


@dataclass(slots=True)
class _Reading:
    """A recording being read; ``samples`` is the length of its longest channel."""

    samples: int = 0
    segments: list[Segment] = field(default_factory=list)
    failure: AudioError | None = None


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A piece in the pool, and what it belongs to."""

    piece: Piece
    utterance: Passage
    reading: _Reading


class Transcription:
    """Transcribes sources in the order given; a failure takes the place of a transcript and stops no other.

    ``advance`` hears of the seconds of audio that were worked off, silence included and each channel by itself.
    """

    def __init__(
        self,
        network: Network,
        decoder: Decoder,
        tokeniser: Tokeniser,
        *,
        channels: Channels = "mix",
        vad: bool | None = None,
        advance: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        self._network, self._decoder, self._tokeniser = network, decoder, tokeniser
        self._channels, self._vad, self._advance = channels, vad, advance
        self._rate = network.sample_rate
        self._pool: list[_Waiting] = []
        self._unreported = 0  # samples read since ``advance`` was last called

    def __call__(self, sources: Iterable[Source]) -> Iterator[Transcript | AudioError]:
        finished: list[_Reading] = []
        for source in sources:
            reading = _Reading()
            try:
                for _ in self._read(source, reading):
                    if self._full():
                        self._work_off()
                        yield from map(self._result, finished)
                        finished.clear()
            except AudioError as error:
                reading.failure = error
                self._pool = [waiting for waiting in self._pool if waiting.reading is not reading]
            finished.append(reading)
        self._work_off()
        yield from map(self._result, finished)

    def _read(self, source: Source, reading: _Reading) -> Iterator[None]:
        """Fills the pool, block by block."""
        frame = frame_samples(self._network)
        channels: Iterable[int | None] = [None] if self._channels == "mix" else []
        if self._channels == "split":
            channels = range(1, source.channels() + 1)
        elif isinstance(self._channels, int):
            channels = [self._channels]
        for channel in channels:
            blocks = self._counted(source.blocks(channel), reading)
            cut = pieces(blocks, rate=self._rate, frame=frame, vad=self._vad)
            for piece, utterance in uttered(cut, channel, rate=self._rate, frame=frame):
                self._pool.append(_Waiting(piece, utterance, reading))
                if not piece.goes_on:
                    yield
        yield

    def _counted(self, blocks: Iterable[np.ndarray], reading: _Reading) -> Iterator[np.ndarray]:
        length = 0
        for block in blocks:
            length += len(block)
            reading.samples = max(reading.samples, length)
            self._unreported += len(block)
            yield block

    def _full(self) -> bool:
        pooled = sum(len(waiting.piece.samples) for waiting in self._pool)
        return pooled >= POOL_SECONDS * self._rate or self._unreported >= LONGEST_WAIT_SECONDS * self._rate

    def _work_off(self) -> None:
        """Everything that is pooled becomes segments."""
        utterances: dict[int, _Waiting] = {id(waiting.utterance): waiting for waiting in self._pool}
        emissions: dict[int, np.ndarray] = {}
        total = sum(len(waiting.piece.samples) for waiting in self._pool)
        for batch in self._batches():
            excerpts = [waiting.piece for waiting in batch]
            for piece, log_probs in zip(excerpts, emit(self._network, excerpts), strict=True):
                emissions[id(piece)] = log_probs
            done = sum(len(waiting.piece.samples) for waiting in batch)
            self._advance(self._unreported / self._rate * done / total)
        if not self._pool:
            self._advance(self._unreported / self._rate)
        self._unreported = 0
        for waiting in self._pool:
            waiting.utterance.emissions.append(emissions[id(waiting.piece)])
        self._pool = []
        self._decode(list(utterances.values()))

    def _batches(self) -> Iterator[list[_Waiting]]:
        """The pool by length, the longest first, as many at once as ``BATCH_SECONDS`` allow."""
        batch: list[_Waiting] = []
        for waiting in sorted(self._pool, key=lambda waiting: -len(waiting.piece.samples)):
            longest = len((batch or [waiting])[0].piece.samples)
            if batch and longest * (len(batch) + 1) > BATCH_SECONDS * self._rate:
                yield batch
                batch = []
            batch.append(waiting)
        if batch:
            yield batch

    def _decode(self, members: list[_Waiting]) -> None:
        readings = {id(waiting.utterance): waiting.reading for waiting in members}
        utterances = [waiting.utterance for waiting in members]
        for utterance, segment in decoded(utterances, self._network, self._decoder, self._tokeniser):
            readings[id(utterance)].segments.append(segment)

    def _result(self, reading: _Reading) -> Transcript | AudioError:
        if reading.failure:
            return reading.failure
        ordered = sorted(reading.segments, key=lambda segment: (segment.start, segment.channel or 0))
        return Transcript(segments=tuple(ordered), duration=round(reading.samples / self._rate, 3))


def uttered(
    cut: Iterable[Piece], channel: int | None = None, *, rate: int, frame: int
) -> Iterator[tuple[Piece, Passage]]:
    """The pieces of one channel, cut at ``rate`` and ``frame`` as ``pieces`` does, each with its utterance."""
    utterance: Passage | None = None
    for piece in cut:
        utterance = utterance or Passage(channel, piece.start, Meter(rate=rate, frame=frame))
        utterance.stop = piece.stop
        own = piece.first * frame
        utterance.meter.feed(piece.samples[own : own + piece.stop - piece.start])
        yield piece, utterance
        if not piece.goes_on:
            utterance = None


def decoded(
    utterances: Iterable[Passage], network: Network, decoder: Decoder, tokeniser: Tokeniser
) -> Iterator[tuple[Passage, Segment]]:
    """The segment of each utterance, whose emissions are all there; in any order."""
    shift, rate = network.frame_shift, network.sample_rate
    joined = [(utterance, np.concatenate(utterance.emissions)) for utterance in utterances]
    joined.sort(key=lambda pair: -len(pair[1]))
    for first in range(0, len(joined), DECODED_TOGETHER):
        group = joined[first : first + DECODED_TOGETHER]
        hypotheses = decoder(padded([log_probs for _, log_probs in group], shift))
        for (utterance, _), (best, *_) in zip(group, hypotheses, strict=True):
            start = utterance.start / rate
            segment = Segment(
                text=best.text,
                start=round(start, 3),
                end=round(utterance.stop / rate, 3),
                words=words_of(best, tokeniser, shift, start, decoder.calibration, utterance.meter.loudness()),
                channel=utterance.channel,
                remark=best.remark,
            )
            yield utterance, segment


def padded(rows: Sequence[np.ndarray], frame_shift: float) -> Emissions:
    """Utterances' log probabilities (T', V) as one batch."""
    lengths = np.array([len(row) for row in rows])
    log_probs = np.zeros((len(rows), int(lengths.max()), rows[0].shape[1]), np.float32)
    for i, row in enumerate(rows):
        log_probs[i, : len(row)] = row
    return Emissions(log_probs=log_probs, lengths=lengths, frame_shift=frame_shift)

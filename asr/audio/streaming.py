"""A stream's emissions, as its samples come: one walk, whichever network computes what is read on the way.

What has a finite reach, features and front end, is exact whatever the chunks. A recurrent state is carried on, so a
one-directional network gives what it gives for the whole recording. A bidirectional one hears ``context`` seconds
beyond each chunk in place of everything that comes (latency-controlled: Zhang et al. 2016). Where features are
normalised by utterance, ``audio.utterances`` says what is read, and an utterance's states are its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np

from asr import recipe
from asr.audio.lockstep import Way, walk, walk_together
from asr.audio.seamless import Seamless
from asr.audio.utterances import UtteranceCutter
from asr.recipe.frames import delta_reach, window_samples
from asr.records import blanks

Statistics = TypeVar("Statistics")
"""What a network's front end normalises an utterance by."""
States = TypeVar("States")
"""What its recurrent stack carries on from chunk to chunk, of one stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(Generic[States]):
    """A chunk that the recurrent stack is to read: ``encodings`` (T', size), of which it keeps the first ``keep``, and
    the ``states`` before it."""

    encodings: np.ndarray
    keep: int
    states: States


Read = tuple[np.ndarray, States]
"""The log probabilities (keep, V) of a step, and the states after it."""


class ChunkReader(Protocol[Statistics, States]):
    """A network as its streams use it.

    ``features`` are its recipe's. An emission frame is of ``step`` feature frames; its encoding depends on ``reach`` of
    those on either side of the first, and, where the network ``looks_ahead``, its emission on all that come after it.
    """

    features: recipe.LogMel | recipe.Mfcc
    step: int
    reach: int
    looks_ahead: bool
    encoding_size: int
    vocabulary: int

    def energies(self, samples: np.ndarray) -> np.ndarray:
        """Log-mel energies (T, mels) of samples (S,)."""
        ...

    def measure(self, energies: np.ndarray, level: float) -> Statistics:
        """What energies (N, mels) of a stream's speech, of this level, are normalised by."""
        ...

    def encode(self, energies: np.ndarray, statistics: Statistics | None) -> np.ndarray:
        """What the recurrent stack reads, (T', size), of energies (T, mels); ``statistics`` None: their own."""
        ...

    def initial_states(self) -> States:
        """Those before a stream's first chunk."""
        ...

    def read(self, steps: Sequence[Step[States]]) -> list[Read[States]]:
        """What the recurrent stack makes of steps that are alike."""
        ...


class Stream(Generic[Statistics, States]):
    """One stream's way through a network: samples in, log probabilities out.

    Whatever pieces it is fed with, it works in chunks of ``chunk`` seconds from the stream's beginning, and hears
    ``context`` seconds beyond each where the network looks ahead. A sound has been read after ``latency`` seconds at
    the most, or when the warm-up is over. Its state is what it holds: samples short of a chunk (``waiting``), the ends
    of the samples and of the energies that those to come reach back to, the ``utterances`` that it is cut into,
    encodings that lack their context (``ahead``), and the recurrent ``states``.
    """

    def __init__(self, network: ChunkReader[Statistics, States], *, chunk: float, context: float) -> None:
        self.network, settings = network, network.features
        fft, _, hop = window_samples(settings)
        frame = hop * network.step
        frame_shift = hop / settings.sample_rate * network.step
        self.chunk_samples = max(1, round(chunk / frame_shift)) * frame
        self.context = round(context / frame_shift) if network.looks_ahead else 0
        self.silence = blanks(1, network.vocabulary)
        self.waiting = np.zeros(0, np.float32)
        self.utterances: UtteranceCutter[Statistics] | None = None
        if settings.normalise == "utterance":
            self.utterances = UtteranceCutter(
                network.measure,
                shift=settings.shift,
                mels=settings.mels,
                reach=delta_reach(settings),
                step=network.step,
            )
        self.statistics: Statistics | None = None
        self.energies = Seamless(network.energies, reach=fft // 2, step=hop, size=settings.mels)
        self._begin()
        reach = self.energies.reach + hop * self.encodings.reach
        self.latency = (self.chunk_samples + reach + self.context * frame) / settings.sample_rate

    def feed(self, samples: np.ndarray, *, last: bool = False) -> np.ndarray:
        """The log probabilities (T', V) that ``samples`` (S,) complete; after the ``last``, all."""
        return walk(self.way(samples, last=last), lambda step: self.network.read([step])[0])

    def way(self, samples: np.ndarray, *, last: bool = False) -> Way[Step[States], Read[States], np.ndarray]:
        """As ``feed``, and whoever walks it reads the steps."""
        waiting = np.concatenate([self.waiting, samples])
        emissions = [self.silence[:0]]
        while len(waiting) >= self.chunk_samples:
            emissions.append((yield from self._hear(waiting[: self.chunk_samples], last=False)))
            waiting = waiting[self.chunk_samples :]
        if last:
            emissions.append((yield from self._hear(waiting, last=True)))
        self.waiting = waiting[:0] if last else waiting.copy()
        return np.concatenate(emissions)

    def _begin(self) -> None:
        """Has read nothing of the next utterance."""
        network = self.network
        self.ahead = np.zeros((0, network.encoding_size), np.float32)
        self.encodings = Seamless(
            lambda energies: network.encode(energies, self.statistics),
            reach=delta_reach(network.features) + network.reach,
            step=network.step,
            size=network.encoding_size,
        )
        self.states = network.initial_states()

    def _hear(self, samples: np.ndarray, *, last: bool) -> Way[Step[States], Read[States], np.ndarray]:
        energies = self.energies.feed(samples, last=last)
        if self.utterances is None:
            return (yield from self._read(energies, last=last))
        emissions = [self.silence[:0]]
        for stretch in self.utterances.feed(energies, last=last):
            if stretch.silence:
                emissions.append(self.silence.repeat(-(-len(stretch.energies) // self.network.step), axis=0))
                continue
            self.statistics = stretch.statistics
            emissions.append((yield from self._read(stretch.energies, last=stretch.last)))
            if stretch.last:
                self._begin()
        return np.concatenate(emissions)

    def _read(self, energies: np.ndarray, *, last: bool) -> Way[Step[States], Read[States], np.ndarray]:
        self.ahead = np.concatenate([self.ahead, self.encodings.feed(energies, last=last)])
        keep = len(self.ahead) if last else len(self.ahead) - self.context
        if keep <= 0:
            return self.silence[:0]
        log_probs, self.states = yield Step(encodings=self.ahead, keep=keep, states=self.states)
        self.ahead = self.ahead[keep:]
        return log_probs


def feed_together(
    network: ChunkReader[Statistics, States],
    streams: Sequence[Stream[Statistics, States]],
    samples: Sequence[np.ndarray],
    last: Sequence[bool],
) -> list[np.ndarray | Exception]:
    """Each stream's ``feed``, where the chunks that are alike are read as one batch, a row a stream."""
    ways = [stream.way(given, last=end) for stream, given, end in zip(streams, samples, last, strict=True)]
    return walk_together(ways, network.read, lambda step: (len(step.encodings), step.keep))

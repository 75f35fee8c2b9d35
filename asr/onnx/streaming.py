"""A stream's emissions from ONNX Runtime, as its samples come. ``asr.model.streaming`` says how it works."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from asr.audio.lockstep import Way, walk, walk_together
from asr.audio.seamless import Seamless
from asr.audio.utterances import UtteranceCutter
from asr.onnx.features import Statistics
from asr.records import blanks

if TYPE_CHECKING:
    from asr.onnx.network import OnnxNetwork, StreamGraphs


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A chunk that the recurrent stack is to read: ``encodings`` (T', size), of which it keeps the first ``keep``, and
    the ``states`` (N, H) before it; those of what does not recur are None."""

    encodings: np.ndarray
    keep: int
    states: np.ndarray | None


Read = tuple[np.ndarray, np.ndarray | None]
"""The log probabilities (keep, V) of a step, and the states (N, H) after it."""


class OnnxStream:
    """One stream's way through an exported network: samples in, log probabilities out.

    Whatever pieces it is fed with, it works in chunks of ``chunk`` seconds from the stream's beginning, and hears
    ``context`` seconds beyond each where the network looks ahead. A sound has been read after ``latency`` seconds at
    the most, or when the warm-up is over. Its state is what it holds: samples short of a chunk (``waiting``), the ends
    of the samples and of the energies that those to come reach back to, the ``utterances`` that it is cut into,
    encodings that lack their context (``ahead``), and the recurrent ``states``.
    """

    def __init__(self, network: OnnxNetwork, graphs: StreamGraphs, *, chunk: float, context: float) -> None:
        settings, front_end = network.recipe.features, network.front_end
        frame = front_end.hop * network.step
        self.front_end, self.graphs, self.step = front_end, graphs, network.step
        self.silence = blanks(1, network.vocabulary)
        self.chunk_samples = max(1, round(chunk / network.frame_shift)) * frame
        self.context = round(context / network.frame_shift) if graphs.looks_ahead else 0
        self.waiting = np.zeros(0, np.float32)
        self.utterances: UtteranceCutter[Statistics] | None = None
        if settings.normalise == "utterance":
            self.utterances = UtteranceCutter(
                front_end.measure,
                shift=settings.shift,
                mels=settings.mels,
                reach=front_end.reach,
                step=network.step,
            )
        self.statistics: Statistics | None = None
        self.energies = Seamless(
            front_end.energies,
            reach=front_end.fft // 2,
            step=front_end.hop,
            join=np.concatenate,
            nothing=np.zeros((0, settings.mels), np.float32),
        )
        self._begin()
        reach = self.energies.reach + front_end.hop * self.encodings.reach
        self.latency = (self.chunk_samples + reach + self.context * frame) / settings.sample_rate

    def feed(self, samples: np.ndarray, *, last: bool = False) -> np.ndarray:
        """The log probabilities (T', V) that ``samples`` (S,) complete; after the ``last``, all."""
        return walk(self.way(samples, last=last), lambda step: read_steps(self.graphs, [step])[0])

    def way(self, samples: np.ndarray, *, last: bool = False) -> Way[Step, Read, np.ndarray]:
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
        size = self.graphs.stack.inputs["encodings"][-1]
        self.ahead = np.zeros((0, size), np.float32)
        reach = self.front_end.reach + self.graphs.reach
        self.encodings = Seamless(self._encode, reach=reach, step=self.step, join=np.concatenate, nothing=self.ahead)
        shape = self.graphs.stack.inputs.get("states")
        self.states = None if shape is None else np.zeros((shape[0], shape[2]), np.float32)

    def _hear(self, samples: np.ndarray, *, last: bool) -> Way[Step, Read, np.ndarray]:
        energies = self.energies.feed(samples, last=last)
        if self.utterances is None:
            return (yield from self._read(energies, last=last))
        emissions = [self.silence[:0]]
        for stretch in self.utterances.feed(energies, last=last):
            if stretch.silence:
                emissions.append(self.silence.repeat(-(-len(stretch.energies) // self.step), axis=0))
                continue
            self.statistics = stretch.statistics
            emissions.append((yield from self._read(stretch.energies, last=stretch.last)))
            if stretch.last:
                self._begin()
        return np.concatenate(emissions)

    def _read(self, energies: np.ndarray, *, last: bool) -> Way[Step, Read, np.ndarray]:
        self.ahead = np.concatenate([self.ahead, self.encodings.feed(energies, last=last)])
        keep = len(self.ahead) if last else len(self.ahead) - self.context
        if keep <= 0:
            return self.silence[:0]
        log_probs, self.states = yield Step(encodings=self.ahead, keep=keep, states=self.states)
        self.ahead = self.ahead[keep:]
        return log_probs

    def _encode(self, energies: np.ndarray) -> np.ndarray:
        """Log-mel energies (T, mels) to what the recurrent stack reads, (T', size)."""
        [encodings] = self.graphs.front(features=self.front_end.normalise(energies, self.statistics)[None])
        return np.asarray(encodings[0])


def feed_together(
    graphs: StreamGraphs, streams: Sequence[OnnxStream], samples: Sequence[np.ndarray], last: Sequence[bool]
) -> list[np.ndarray | Exception]:
    """Each stream's ``feed``, where the chunks that are alike are read as one batch, a row a stream."""
    ways = [stream.way(s, last=end) for stream, s, end in zip(streams, samples, last, strict=True)]
    return walk_together(ways, lambda steps: read_steps(graphs, steps), lambda step: (len(step.encodings), step.keep))


def read_steps(graphs: StreamGraphs, steps: Sequence[Step]) -> list[Read]:
    """What the stack makes of steps that are alike."""
    if len(steps) > 1 and not graphs.batched:
        return [read_steps(graphs, [step])[0] for step in steps]
    inputs = {"encodings": np.stack([step.encodings for step in steps])}
    if graphs.looks_ahead:
        inputs["keep"] = np.array(steps[0].keep)
    states = [step.states for step in steps if step.states is not None]
    if states:
        inputs["states"] = np.stack(states, axis=1)
    log_probs, *after = graphs.stack(**inputs)
    afters = after[0].swapaxes(0, 1) if after else [None] * len(steps)
    return list(zip(log_probs, afters, strict=True))

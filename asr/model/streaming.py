"""A stream's emissions, as its samples come.

What has a finite reach, features and front end, is exact whatever the chunks. A recurrent state is carried on, so a
one-directional network gives what it gives for the whole recording. A bidirectional one hears ``context`` seconds
beyond each chunk in place of everything that comes (latency-controlled: Zhang et al. 2016). Where features are
normalised by utterance, ``audio.utterances`` says what is read, and an utterance's states are its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from asr.audio.lockstep import Way, walk, walk_together
from asr.audio.seamless import Seamless
from asr.audio.utterances import UtteranceCutter
from asr.model.acoustic import AcousticModel
from asr.model.encoder import RecurrentStack
from asr.model.features import Statistics, loader_features
from asr.model.recurrent import State
from asr.model.silence import blanks
from asr.records import Features


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A chunk that the recurrent stack is to read: ``encodings`` (T', size), of which it keeps the first ``keep``, and
    the ``states`` before it, of one stream; what does not recur has none."""

    encodings: Tensor
    keep: int
    states: tuple[State, ...]


Read = tuple[Tensor, tuple[State, ...]]
"""The log probabilities (keep, V) of a step, on the CPU, and the states after it."""


class TorchStream:
    """One stream's way through an acoustic model in evaluation mode: samples in, log-probabilities out.

    Whatever pieces it is fed with, it works in chunks of ``chunk`` seconds from the stream's beginning. A sound has
    been read after ``latency`` seconds at the most, or when the warm-up is over. Its state is what it holds: samples
    short of a chunk (``waiting``), the ends of the samples and of the energies that those to come reach back to, the
    ``utterances`` that it is cut into, encodings that lack their context (``ahead``), and the recurrent ``states``.
    """

    def __init__(self, model: AcousticModel, *, chunk: float, context: float) -> None:
        settings, encoder, extractor = model.features.settings, model.encoder, model.features
        frame = extractor.hop * encoder.subsampling
        self.model = model
        self.chunk_samples = max(1, round(chunk / model.frame_shift)) * frame
        self.context = round(context / model.frame_shift) if encoder.looks_ahead else 0
        self.waiting = torch.zeros(0)
        self.utterances: UtteranceCutter[Statistics] | None = None
        if settings.normalise == "utterance":
            self.utterances = UtteranceCutter(
                self._measure,
                shift=settings.shift,
                mels=settings.mels,
                reach=extractor.reach,
                step=encoder.subsampling,
            )
        self.statistics: Statistics | None = None
        self._featurise = loader_features(settings)
        self.energies = Seamless(
            self._extract,
            reach=extractor.fft // 2,
            step=extractor.hop,
            join=torch.cat,
            nothing=torch.zeros(0, settings.mels, device=model.device),
        )
        self._begin()
        reach = self.energies.reach + extractor.hop * self.encodings.reach
        latency = self.chunk_samples + reach + self.context * frame
        self.latency = latency / settings.sample_rate

    @torch.inference_mode()
    def feed(self, samples: np.ndarray, *, last: bool = False) -> np.ndarray:
        """The log-probabilities (T', V) that ``samples`` (S,) complete; after the ``last``, all."""
        return walk(self.way(samples, last=last), lambda step: read_steps(self.model, [step])[0])

    def way(self, samples: np.ndarray, *, last: bool = False) -> Way[Step, Read, np.ndarray]:
        """As ``feed``, and whoever walks it reads the steps."""
        waiting = torch.cat([self.waiting, torch.from_numpy(samples)])
        emissions = []
        while len(waiting) >= self.chunk_samples:
            emissions.append((yield from self._hear(waiting[: self.chunk_samples], last=False)))
            waiting = waiting[self.chunk_samples :]
        if last:
            emissions.append((yield from self._hear(waiting, last=True)))
        self.waiting = waiting[:0] if last else waiting.clone()
        vocabulary = self.model.head.out_features
        return torch.cat([torch.zeros(0, vocabulary), *emissions]).numpy()

    def _begin(self) -> None:
        """Has read nothing of the next utterance."""
        encoder, reach = self.model.encoder, self.model.features.reach
        self.ahead = torch.zeros(0, encoder.local_size, device=self.model.device)
        self.encodings = Seamless(
            self._encode, reach=reach + encoder.reach, step=encoder.subsampling, join=torch.cat, nothing=self.ahead
        )
        self.states: tuple[State, ...] = ()
        if isinstance(encoder.stack, RecurrentStack):
            self.states = encoder.stack.initial_states(1)

    def _hear(self, samples: Tensor, *, last: bool) -> Way[Step, Read, Tensor]:
        energies = self.energies.feed(samples.to(self.model.device), last=last)
        if self.utterances is None:
            return (yield from self._read(energies, last=last))
        emissions = [torch.zeros(0, self.model.head.out_features)]
        for stretch in self.utterances.feed(energies.cpu().numpy(), last=last):
            if stretch.silence:
                frames = -(-len(stretch.energies) // self.model.encoder.subsampling)
                emissions.append(blanks(frames, self.model.head.out_features))
                continue
            self.statistics = stretch.statistics
            emissions.append((yield from self._read(self._placed(stretch.energies), last=stretch.last)))
            if stretch.last:
                self._begin()
        return torch.cat(emissions)

    def _read(self, energies: Tensor, *, last: bool) -> Way[Step, Read, Tensor]:
        self.ahead = torch.cat([self.ahead, self.encodings.feed(energies, last=last)])
        keep = len(self.ahead) if last else len(self.ahead) - self.context
        if keep <= 0:
            return torch.zeros(0, self.model.head.out_features)
        log_probs, self.states = yield Step(encodings=self.ahead, keep=keep, states=self.states)
        self.ahead = self.ahead[keep:]
        return log_probs

    def _placed(self, energies: np.ndarray) -> Tensor:
        return torch.from_numpy(energies).to(self.model.device)

    def _measure(self, energies: np.ndarray, level: float) -> Statistics:
        """What the energies (N, mels) of a stream's speech are normalised by."""
        values = self._placed(energies)[None]
        lengths, levels = (torch.tensor([number], device=values.device) for number in (len(energies), level))
        return self.model.features.measure(Features(values=values, lengths=lengths), levels)

    def _extract(self, samples: Tensor) -> Tensor:
        """(S,) to log-mel energies (T, mels)."""
        if self._featurise is not None:
            return torch.from_numpy(self._featurise(samples.cpu().numpy())).to(samples.device)
        length = torch.tensor([len(samples)], device=samples.device)
        return self.model.features.extract(samples[None], length).values[0]

    def _encode(self, energies: Tensor) -> Tensor:
        """Log-mel energies (T, mels) to what the recurrent stack reads, (T', size)."""
        length = torch.tensor([len(energies)], device=energies.device)
        features = self.model.features.normalise(Features(values=energies[None], lengths=length), self.statistics)
        return self.model.encoder.local(features.values, length)[0][0]


@torch.inference_mode()
def feed_together(
    model: AcousticModel, streams: Sequence[TorchStream], samples: Sequence[np.ndarray], last: Sequence[bool]
) -> list[np.ndarray | Exception]:
    """Each stream's ``feed``, where the chunks that are alike are read as one batch, a row a stream."""
    ways = [stream.way(s, last=end) for stream, s, end in zip(streams, samples, last, strict=True)]
    return walk_together(ways, lambda steps: read_steps(model, steps), lambda step: (len(step.encodings), step.keep))


def read_steps(model: AcousticModel, steps: Sequence[Step]) -> list[Read]:
    """What the stack makes of steps that are alike."""
    encodings, stack = torch.stack([step.encodings for step in steps]), model.encoder.stack
    states: list[tuple[State, ...]] = [() for _ in steps]
    if isinstance(stack, RecurrentStack):
        layers = zip(*(step.states for step in steps), strict=True)
        before = tuple(tuple(torch.cat(parts, dim=1) for parts in zip(*layer, strict=True)) for layer in layers)
        encodings, after = stack.forward_chunk(encodings, steps[0].keep, before)
        states = [tuple(tuple(part[:, row : row + 1] for part in s) for s in after) for row in range(len(steps))]
    return list(zip(model.classify(encodings).cpu(), states, strict=True))

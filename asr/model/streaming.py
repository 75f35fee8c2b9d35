"""A stream's emissions, as its samples come.

What has a finite reach, features and front end, is exact whatever the chunks. A recurrent state is carried on, so a
one-directional network gives what it gives for the whole recording. A bidirectional one hears ``context`` seconds
beyond each chunk in place of everything that comes (latency-controlled: Zhang et al. 2016).

Per-utterance normalisation needs an utterance's end. In a stream it goes by the statistics of what was heard so far, of
the last ``MEMORY_SECONDS`` mostly: the first words are heard through rough ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

from asr.audio import Seamless
from asr.model.acoustic import AcousticModel
from asr.model.encoder import RecurrentStack
from asr.model.features import RunningStatistics, feature_size, loader_features
from asr.model.recurrent import State
from asr.records import Features

MEMORY_SECONDS = 30.0


class EmissionStream:
    """One stream's way through an acoustic model in evaluation mode: samples in, log-probabilities out.

    Whatever pieces it is fed with, it works in chunks of ``chunk`` seconds from the stream's beginning. A sound has
    been read after ``latency`` seconds at the most. Its state is what it holds: samples short of a chunk (``waiting``),
    the ends of the samples and of the features that those to come reach back to, ``statistics``, encodings that lack
    their context (``ahead``), and the recurrent ``states``.
    """

    def __init__(self, model: AcousticModel, *, chunk: float, context: float) -> None:
        settings, encoder, extractor = model.features.settings, model.encoder, model.features
        frame = extractor.hop * encoder.subsampling
        self.model = model
        self.chunk_samples = max(1, round(chunk / model.frame_shift)) * frame
        self.context = round(context / model.frame_shift) if encoder.looks_ahead else 0
        self.waiting = torch.zeros(0)
        self.statistics = RunningStatistics(feature_size(settings), round(MEMORY_SECONDS / settings.shift))
        self.ahead = torch.zeros(0, encoder.local_size, device=model.device)
        self.states: tuple[State, ...] = ()
        if isinstance(encoder.stack, RecurrentStack):
            self.states = encoder.stack.initial_states(1)
        self._featurise = loader_features(settings)
        samples_reach = extractor.fft // 2 + extractor.hop * extractor.reach
        self.features = Seamless(
            self._extract, reach=samples_reach, step=extractor.hop, width=(feature_size(settings),)
        )
        self.encodings = Seamless(
            self._encode, reach=encoder.reach, step=encoder.subsampling, width=(encoder.local_size,)
        )
        latency = self.chunk_samples + samples_reach + extractor.hop * encoder.reach + self.context * frame
        self.latency = latency / settings.sample_rate

    @torch.inference_mode()
    def feed(self, samples: Tensor, *, last: bool = False) -> Tensor:
        """The log-probabilities (T', V), on the CPU, that ``samples`` (S,) complete; after the ``last``, all."""
        waiting = torch.cat([self.waiting, samples])
        emissions = []
        while len(waiting) >= self.chunk_samples:
            emissions.append(self._hear(waiting[: self.chunk_samples], last=False))
            waiting = waiting[self.chunk_samples :]
        if last:
            emissions.append(self._hear(waiting, last=True))
        self.waiting = waiting[:0] if last else waiting.clone()
        vocabulary = self.model.head.out_features
        return torch.cat([torch.zeros(0, vocabulary), *emissions])

    def _hear(self, samples: Tensor, *, last: bool) -> Tensor:
        features = self.features.feed(samples.to(self.model.device), last=last)
        self.statistics.update(features)
        self.ahead = torch.cat([self.ahead, self.encodings.feed(features, last=last)])
        keep = len(self.ahead) if last else len(self.ahead) - self.context
        if keep <= 0:
            return torch.zeros(0, self.model.head.out_features)
        encodings = self.ahead[None]
        if isinstance(self.model.encoder.stack, RecurrentStack):
            encodings, self.states = self.model.encoder.stack.forward_chunk(encodings, keep, self.states)
        self.ahead = self.ahead[keep:]
        return self.model.classify(encodings)[0].cpu()

    def _extract(self, samples: Tensor) -> Tensor:
        """(S,) to features (T, F) before normalisation."""
        if self._featurise is not None:
            return torch.from_numpy(self._featurise(samples.cpu().numpy())).to(samples.device)
        length = torch.tensor([len(samples)], device=samples.device)
        return self.model.features.extract(samples[None], length).values[0]

    def _encode(self, values: Tensor) -> Tensor:
        """Features (T, F) to what the recurrent stack reads, (T', size)."""
        length = torch.tensor([len(values)], device=values.device)
        features = Features(values=values[None], lengths=length)
        normalised = self.model.features.normalise(features, self.statistics)
        return self.model.encoder.local(normalised.values, length)[0][0]

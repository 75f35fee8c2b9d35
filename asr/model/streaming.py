"""A stream's emissions, as its samples come.

What has a finite reach, features and front end, is exact whatever the chunks. A recurrent state is carried on, so a
one-directional network gives what it gives for the whole recording. A bidirectional one hears ``context`` seconds
beyond each chunk in place of everything that comes (latency-controlled: Zhang et al. 2016).

Per-utterance normalisation needs an utterance's end. In a stream it goes by the active frames heard so far
(``SpeechMemory``), and nothing is read before there are enough of them. What is heard before anybody speaks is not read
at all: its emissions are blanks.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from asr.audio import Seamless
from asr.model.acoustic import AcousticModel
from asr.model.encoder import RecurrentStack
from asr.model.features import (
    ACTIVE_DECIBELS,
    DECIBEL,
    LEVEL_SECONDS,
    FeatureExtractor,
    Statistics,
    frame_loudness,
    loader_features,
)
from asr.model.recurrent import State
from asr.records import BLANK, Features

MEMORY_SECONDS = 30.0
"""Of active frames, which a stream's statistics are those of."""
WARM_UP_SECONDS = 1.2
"""Of active frames that are heard before anything is read."""
LONGEST_WARM_UP_SECONDS = 2.0
"""From the first active frame on: a single word is not to wait for the next."""
RECENT_SECONDS = 5.0
"""In which a stream's level is looked for."""
SPEECH_DECIBELS = 6.0
"""By which speech rises above its pauses, within ``RECENT_SECONDS``, in the mean of its bins' energies in dB. Steady
noise of any colour varies by 3 dB."""
FADING_DECIBELS = 1.0
"""A second: how fast the level follows speech that is fainter than what was heard before."""
LEAD_SECONDS = 0.5
"""Of what was heard before the first speech are read: a word may begin softly."""
SURELY_NOT = -20.0
"""The log probability of a token where nobody speaks."""


class SpeechMemory:
    """What a stream's speech is normalised by: ``level``, the natural log of its loudness, None before there is any,
    and the log-mel ``energies`` (N, mels) of its active frames, of the last ``MEMORY_SECONDS`` of them, with as many
    neighbours as their deltas reach.

    The level is that of the loudest frames heard lately. It is not lowered by silence nor by steady noise, however long
    they last, and by fainter speech slowly.
    """

    def __init__(self, extractor: FeatureExtractor) -> None:
        shift, device = extractor.settings.shift, extractor.filters.device
        self.extractor = extractor
        self.loudest, self.recently = round(LEVEL_SECONDS / shift), round(RECENT_SECONDS / shift)
        self.most, self.warm_up = round(MEMORY_SECONDS / shift), round(WARM_UP_SECONDS / shift)
        self.longest_warm_up = round(LONGEST_WARM_UP_SECONDS / shift)
        self.fading = FADING_DECIBELS * DECIBEL * shift
        self.level: Tensor | None = None
        self.heard = 0
        """Frames."""
        self.recent = torch.zeros(0, 2, device=device)  # of each frame, its loudness and its bins' mean energy
        self.energies = torch.zeros(0, extractor.settings.mels, device=device)
        self.places = torch.zeros(0, dtype=torch.int64, device=device)  # in the stream

    def hear(self, energies: Tensor) -> None:
        """Log-mel energies (T, mels) more."""
        if not len(energies):
            return
        self._follow(energies)
        places = torch.arange(self.heard, self.heard + len(energies), device=energies.device)
        self.heard += len(energies)
        self.energies, self.places = torch.cat([self.energies, energies]), torch.cat([self.places, places])
        keep = torch.ones_like(self.places, dtype=torch.bool)
        if self.level is not None:
            reach = self.extractor.reach
            near = functional.max_pool1d(self._active()[None].float(), 2 * reach + 1, stride=1, padding=reach)[0]
            keep = (near > 0) | (self.places >= self.heard - reach)
        keep = keep.nonzero()[:, 0][-(self.recently if self.level is None else self.most) :]
        self.energies, self.places = self.energies[keep], self.places[keep]

    def statistics(self) -> Statistics | None:
        """None while too little speech was heard to tell."""
        if self.level is None:
            return None
        active = self.places[self._active()]
        if len(active) < self.warm_up and (not len(active) or self.heard - int(active[0]) < self.longest_warm_up):
            return None
        energies = Features(
            values=self.energies[None], lengths=torch.tensor([len(self.energies)], device=self.energies.device)
        )
        return self.extractor.measure(energies, self.level[None])

    def _follow(self, energies: Tensor) -> None:
        """Moves the level on."""
        loudness = torch.stack([frame_loudness(energies), energies.mean(1)], dim=1)
        self.recent = torch.cat([self.recent, loudness])[-max(self.recently, len(loudness)) :].clone()
        if len(self.recent) < self.loudest:
            return
        loudest, high = self.recent.topk(self.loudest, dim=0).values[-1]
        if high - self.recent[:, 1].quantile(0.1) < SPEECH_DECIBELS * DECIBEL:
            return
        self.level = loudest if self.level is None else loudest.maximum(self.level - self.fading * len(energies))

    def _active(self) -> Tensor:
        assert self.level is not None
        return frame_loudness(self.energies) >= self.level - ACTIVE_DECIBELS * DECIBEL


class EmissionStream:
    """One stream's way through an acoustic model in evaluation mode: samples in, log-probabilities out.

    Whatever pieces it is fed with, it works in chunks of ``chunk`` seconds from the stream's beginning. A sound has
    been read after ``latency`` seconds at the most, or when the warm-up is over. Its state is what it holds: samples
    short of a chunk (``waiting``), the ends of the samples and of the energies that those to come reach back to, the
    ``speech`` that it is normalised by, the energies of the warm-up (``cold``), encodings that lack their context
    (``ahead``), and the recurrent ``states``.
    """

    def __init__(self, model: AcousticModel, *, chunk: float, context: float) -> None:
        settings, encoder, extractor = model.features.settings, model.encoder, model.features
        frame = extractor.hop * encoder.subsampling
        self.model = model
        self.chunk_samples = max(1, round(chunk / model.frame_shift)) * frame
        self.context = round(context / model.frame_shift) if encoder.looks_ahead else 0
        self.waiting = torch.zeros(0)
        self.speech = SpeechMemory(extractor) if settings.normalise == "utterance" else None
        self.statistics: Statistics | None = None
        self.cold = torch.zeros(0, settings.mels, device=model.device)
        self.lead = round(LEAD_SECONDS / model.frame_shift) * encoder.subsampling
        self.skipped = False
        self.ahead = torch.zeros(0, encoder.local_size, device=model.device)
        self.states: tuple[State, ...] = ()
        if isinstance(encoder.stack, RecurrentStack):
            self.states = encoder.stack.initial_states(1)
        self._featurise = loader_features(settings)
        self.energies = Seamless(self._extract, reach=extractor.fft // 2, step=extractor.hop, width=(settings.mels,))
        self.encodings = Seamless(
            self._encode,
            reach=extractor.reach + encoder.reach,
            step=encoder.subsampling,
            width=(encoder.local_size,),
        )
        reach = self.energies.reach + extractor.hop * self.encodings.reach
        latency = self.chunk_samples + reach + self.context * frame
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
        energies = self.energies.feed(samples.to(self.model.device), last=last)
        if self.speech is None:
            return self._read(energies, last=last)
        self.speech.hear(energies)
        self.statistics = self.speech.statistics()
        self.cold = torch.cat([self.cold, energies])
        silence = self._skip(last=last) if self.speech.level is None else self._blanks(0)
        if self.statistics is None and not last:
            return silence
        energies, self.cold = self.cold, self.cold[:0].clone()
        return torch.cat([silence, self._read(energies, last=last)])

    def _skip(self, *, last: bool) -> Tensor:
        """Blanks for what was heard so far, but the lead of the first word. At the end of a stream in which nobody
        spoke that is all of it; a stream that was short is read after all, as a file is."""
        step = self.model.encoder.subsampling
        surplus = max(0, len(self.cold) - self.lead) // step
        if last:
            surplus = -(-len(self.cold) // step) if self.skipped else 0
        self.skipped = self.skipped or surplus > 0
        self.cold = self.cold[surplus * step :].clone()
        return self._blanks(surplus)

    def _blanks(self, frames: int) -> Tensor:
        blanks = torch.full((frames, self.model.head.out_features), SURELY_NOT)
        blanks[:, BLANK] = 0.0
        return blanks

    def _read(self, energies: Tensor, *, last: bool) -> Tensor:
        self.ahead = torch.cat([self.ahead, self.encodings.feed(energies, last=last)])
        keep = len(self.ahead) if last else len(self.ahead) - self.context
        if keep <= 0:
            return torch.zeros(0, self.model.head.out_features)
        encodings = self.ahead[None]
        if isinstance(self.model.encoder.stack, RecurrentStack):
            encodings, self.states = self.model.encoder.stack.forward_chunk(encodings, keep, self.states)
        self.ahead = self.ahead[keep:]
        return self.model.classify(encodings)[0].cpu()

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

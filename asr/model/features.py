"""Features: log-mel energies or MFCCs, normalised so that neither silence nor level changes what speech looks like.

Both backends compute the same energies (a test holds them within 1e-4): torchaudio on the model's device, and librosa
as the reference, which runs in the loader. Frames are centred and the signal is padded with zeros, so that a padded
utterance's features are those of the utterance alone.

Normalising an utterance starts from its level, the energy of its loudest frames. Frames near the level are *active*:
they alone make its mean and deviation, so that silence before, between and after the words counts for nothing; where
they are few, the deviation is drawn to that of speech at large. What lies far below the active frames is raised to a
floor there, so that digital silence looks as a quiet room does. All of it moves with the level, so that a recording at
-40 dB looks as it does at 0 dB.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from asr import recipe
from asr.audio.levels import (
    ACTIVE_DECIBELS,
    CEPSTRAL_FLOOR,
    DECIBEL,
    FIXED_FLOOR,
    FLOOR_DECIBELS,
    LEVEL_SECONDS,
    LOG_FLOOR,
    UNHEARD_DECIBELS,
    drawn_to_typical,
)
from asr.recipe.frames import feature_size, window_samples
from asr.records import Features


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """What utterances are normalised by: ``floor`` (B, 1, mels) of their log-mel energies, ``mean`` and ``deviation``
    (B, 1, F) of the features of their active frames."""

    floor: Tensor
    mean: Tensor
    deviation: Tensor


class FeatureExtractor(nn.Module):
    """Waveforms (B, S) to normalised features (B, T, F), on whatever device it is moved to.

    ``extract`` gives log-mel energies, and ``normalise`` makes features of them: log-mel energies again or, as the
    recipe has it, MFCCs.
    """

    filters: Tensor
    window: Tensor
    dct: Tensor
    mean: Tensor
    deviation: Tensor

    def __init__(self, settings: recipe.LogMel | recipe.Mfcc) -> None:
        super().__init__()
        import torchaudio

        self.settings = settings
        self.fft, self.window_length, self.hop = window_samples(settings)
        filters = torchaudio.functional.melscale_fbanks(
            self.fft // 2 + 1,
            0.0,
            settings.sample_rate / 2,
            settings.mels,
            settings.sample_rate,
            norm="slaney",
            mel_scale="slaney",
        )
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("window", torch.hann_window(self.window_length), persistent=False)
        if isinstance(settings, recipe.Mfcc):
            basis = torchaudio.functional.create_dct(settings.coefficients, settings.mels, norm="ortho")
            self.register_buffer("dct", basis, persistent=False)
        size = feature_size(settings)
        # Only what training measured is worth storing: the transforms follow from the recipe.
        learnt = settings.normalise == "global"
        self.register_buffer("mean", torch.zeros(size), persistent=learnt)
        self.register_buffer("deviation", torch.ones(size), persistent=learnt)

    def forward(self, waveforms: Tensor, lengths: Tensor) -> Features:
        return self.normalise(self.extract(waveforms, lengths))

    @torch.no_grad()
    def extract(self, waveforms: Tensor, lengths: Tensor) -> Features:
        """Log-mel energies (B, T, mels), in float32 whatever the autocast."""
        import torchaudio

        with torch.autocast(waveforms.device.type, enabled=False):
            power = torchaudio.functional.spectrogram(
                waveforms.float(),
                pad=0,
                window=self.window,
                n_fft=self.fft,
                hop_length=self.hop,
                win_length=self.window_length,
                power=2.0,
                normalized=False,
                pad_mode="constant",
            )
            values = torch.log(power.transpose(1, 2) @ self.filters + LOG_FLOOR)
        return Features(values=values, lengths=lengths // self.hop + 1)

    @torch.no_grad()
    def normalise(self, energies: Features, statistics: Statistics | None = None) -> Features:
        """Features of log-mel energies, normalised as the recipe has it, and zeros past each utterance's end.

        By utterance, active frames have zero mean and unit variance; mel bins have it the more nearly the longer the
        utterance is. ``statistics`` stand in for those of one of which the end is yet to come.
        """
        if self.settings.normalise == "utterance":
            by = statistics or self.measure(energies)
            values = (self.shape(energies, by.floor) - by.mean) / by.deviation
        else:
            values = self.shape(energies)
            if self.settings.normalise == "global":
                values = (values - self.mean) / self.deviation
        real = frame_mask(energies.lengths, values.shape[1])[:, :, None]
        return Features(values=values * real, lengths=energies.lengths)

    @torch.no_grad()
    def level(self, energies: Features) -> Tensor:
        """The level (B,) of utterances: the loudness that ``LEVEL_SECONDS`` of each exceed, or all of a shorter one."""
        real = frame_mask(energies.lengths, energies.values.shape[1])
        loudness = frame_loudness(energies.values).masked_fill(~real, -torch.inf)
        loudest = min(round(LEVEL_SECONDS / self.settings.shift), loudness.shape[1])
        ranked = loudness.topk(loudest, dim=1).values
        return ranked.gather(1, (energies.lengths.clamp(1, loudest) - 1)[:, None])[:, 0]

    @torch.no_grad()
    def measure(self, energies: Features, level: Tensor | None = None) -> Statistics:
        """The statistics of utterances, each over its own active frames; ``level`` (B,) stands in for their own."""
        real = frame_mask(energies.lengths, energies.values.shape[1])
        loudness = frame_loudness(energies.values).masked_fill(~real, -torch.inf)
        level = (self.level(energies) if level is None else level)[:, None, None]
        active = real[:, :, None] & (loudness[:, :, None] >= level - ACTIVE_DECIBELS * DECIBEL)
        frames = active.sum(1, keepdim=True)
        count = frames.clamp(min=1)
        faintest = level - UNHEARD_DECIBELS * DECIBEL
        audible = torch.logaddexp(energies.values, faintest) * active
        floor = (audible.sum(1, keepdim=True) / count - FLOOR_DECIBELS * DECIBEL).maximum(faintest)
        values = self.shape(energies, floor)
        mean = (values * active).sum(1, keepdim=True) / count
        variance = ((values - mean).square() * active).sum(1, keepdim=True) / count
        if isinstance(self.settings, recipe.LogMel):
            deviation = drawn_to_typical(variance, frames, self.settings.shift).sqrt()
        else:
            deviation = variance.sqrt() + CEPSTRAL_FLOOR
        return Statistics(floor=floor, mean=mean, deviation=deviation)

    @torch.no_grad()
    def shape(self, energies: Features, floor: Tensor | None = None) -> Tensor:
        """Features (B, T, F) before normalisation, of energies to which ``floor`` was added, in float32 whatever the
        autocast."""
        if floor is None:
            floor = torch.full((), FIXED_FLOOR, device=energies.values.device)
        values = torch.logaddexp(energies.values, floor)
        if isinstance(self.settings, recipe.Mfcc):
            with torch.autocast(values.device.type, enabled=False):
                values = values @ self.dct
            if self.settings.deltas:
                values = _with_deltas(values, energies.lengths)
        return values


def frame_loudness(energies: Tensor) -> Tensor:
    """The natural log of each frame's mean mel energy (..., T), from log-mel energies (..., T, mels)."""
    return energies.logsumexp(-1) - math.log(energies.shape[-1])


class ReferenceFeatures:
    """The librosa backend: samples (S,) to log-mel energies (T, mels). Runs in the loader's workers."""

    def __init__(self, settings: recipe.LogMel | recipe.Mfcc) -> None:
        self.settings = settings

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        import librosa

        fft, window, hop = window_samples(self.settings)
        mel = librosa.feature.melspectrogram(
            y=samples,
            sr=self.settings.sample_rate,
            n_fft=fft,
            win_length=window,
            hop_length=hop,
            n_mels=self.settings.mels,
            center=True,
            pad_mode="constant",
        )
        return np.ascontiguousarray(np.log(mel + LOG_FLOOR).T, dtype=np.float32)


def loader_features(settings: recipe.LogMel | recipe.Mfcc) -> ReferenceFeatures | None:
    """What computes the features before the model does, where the recipe asks for the librosa backend."""
    return ReferenceFeatures(settings) if settings.backend == "librosa" else None


def frame_mask(lengths: Tensor, frames: int) -> Tensor:
    """(B, T) bool, true on real frames."""
    return torch.arange(frames, device=lengths.device)[None, :] < lengths[:, None]


def _with_deltas(values: Tensor, lengths: Tensor) -> Tensor:
    """Appends first and second differences over five frames; past an utterance's end its last frame repeats, as at the
    end of an utterance alone."""
    first = _delta(values, lengths)
    return torch.cat([values, first, _delta(first, lengths)], dim=2)


def _delta(values: Tensor, lengths: Tensor) -> Tensor:
    import torchaudio

    last = (lengths - 1)[:, None].clamp(min=0)
    frame = torch.arange(values.shape[1], device=values.device)[None, :].minimum(last)
    held = values.gather(1, frame[:, :, None].expand(-1, -1, values.shape[2]))
    deltas: Tensor = torchaudio.functional.compute_deltas(held.transpose(1, 2), win_length=5, mode="replicate")
    return deltas.transpose(1, 2)

"""Features: log-mel energies or MFCCs, normalised over real frames only.

Both backends compute the same numbers (a test holds them within 1e-4): torchaudio on the model's device, and librosa as
the reference, which runs in the loader. Frames are centred and the signal is padded with zeros, so that a padded
utterance's features are those of the utterance alone.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from asr import recipe
from asr.records import Features

LOG_FLOOR = 1e-6
"""Added to mel energies before the logarithm; about the energy of 16-bit quantisation noise."""
DEVIATION_FLOOR = 1e-3
"""Added to an utterance's standard deviations, which digital silence leaves at nothing."""


def window_samples(settings: recipe.FeatureSettings) -> tuple[int, int, int]:
    """FFT size, window and hop in samples; the FFT is the next power of two."""
    window = round(settings.window * settings.sample_rate)
    return 1 << (window - 1).bit_length(), window, round(settings.shift * settings.sample_rate)


def feature_size(settings: recipe.LogMel | recipe.Mfcc) -> int:
    if isinstance(settings, recipe.Mfcc):
        return settings.coefficients * (3 if settings.deltas else 1)
    return settings.mels


def feature_frames(samples: int, settings: recipe.FeatureSettings) -> int:
    return samples // window_samples(settings)[2] + 1


class FeatureExtractor(nn.Module):
    """Waveforms (B, S) to normalised features (B, T, F), on whatever device it is moved to."""

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

    @property
    def reach(self) -> int:
        """Frames on either side that a frame depends on besides its own window's samples: those of the deltas."""
        return 4 if isinstance(self.settings, recipe.Mfcc) and self.settings.deltas else 0

    def forward(self, waveforms: Tensor, lengths: Tensor) -> Features:
        return self.normalise(self.extract(waveforms, lengths))

    @torch.no_grad()
    def extract(self, waveforms: Tensor, lengths: Tensor) -> Features:
        """Features before normalisation, in float32 whatever the autocast."""
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
            frames = lengths // self.hop + 1
            if isinstance(self.settings, recipe.Mfcc):
                values = values @ self.dct
                if self.settings.deltas:
                    values = _with_deltas(values, frames)
        return Features(values=values, lengths=frames)

    @torch.no_grad()
    def normalise(self, features: Features, running: RunningStatistics | None = None) -> Features:
        """Zero mean and unit variance per bin over each utterance's real frames (or by the global statistics), and
        zeros past them. ``running`` stands in for the statistics of an utterance of which the end is yet to come."""
        values, lengths = features.values, features.lengths
        real = frame_mask(lengths, values.shape[1])[:, :, None]
        if self.settings.normalise == "utterance" and running is not None:
            values = (values - running.mean) / (running.variance.sqrt() + DEVIATION_FLOOR)
        elif self.settings.normalise == "utterance":
            count = lengths[:, None, None].clamp(min=1)
            mean = (values * real).sum(1, keepdim=True) / count
            variance = ((values - mean).square() * real).sum(1, keepdim=True) / count
            values = (values - mean) / (variance.sqrt() + DEVIATION_FLOOR)
        elif self.settings.normalise == "global":
            values = (values - self.mean) / self.deviation
        return Features(values=values * real, lengths=lengths)


class RunningStatistics:
    """``mean`` and ``variance`` (F,) of a stream's feature frames so far; of those longer ago than ``memory`` frames, a
    fading part (Chan et al. 1983, the pairwise update, with the count held at ``memory``)."""

    def __init__(self, size: int, memory: int) -> None:
        self.mean, self.variance = torch.zeros(size), torch.zeros(size)
        self.count, self.memory = 0, memory

    def update(self, values: Tensor) -> None:
        """Hears (T, F) frames more."""
        if not len(values):
            return
        share = len(values) / (self.count + len(values))
        shift = values.mean(0) - self.mean.to(values.device)
        self.mean = self.mean.to(values.device) + share * shift
        within = (1 - share) * self.variance.to(values.device) + share * values.var(0, correction=0)
        self.variance = within + share * (1 - share) * shift.square()
        self.count = min(self.count + len(values), self.memory)


class ReferenceFeatures:
    """The librosa backend: samples (S,) to features (T, F) before normalisation. Runs in the loader's workers."""

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
        values = np.log(mel + LOG_FLOOR)
        if isinstance(self.settings, recipe.Mfcc):
            values = librosa.feature.mfcc(S=values, n_mfcc=self.settings.coefficients, dct_type=2, norm="ortho")
            if self.settings.deltas:
                first = librosa.feature.delta(values, width=5, mode="nearest")
                values = np.concatenate([values, first, librosa.feature.delta(first, width=5, mode="nearest")])
        return np.ascontiguousarray(values.T, dtype=np.float32)


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

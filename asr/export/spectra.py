"""Log-mel energies in what can be traced: a spectrogram as a convolution, since no graph has our FFT."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from asr.audio.levels import LOG_FLOOR
from asr.model.features import FeatureExtractor


class LogMelEnergies(nn.Module):
    """Samples (B, S) to log-mel energies (B, T, mels) of frames whose windows lie within them, the first at their
    beginning."""

    basis: Tensor

    def __init__(self, extractor: FeatureExtractor) -> None:
        super().__init__()
        self.filters, self.hop = extractor.filters, extractor.hop
        fft, window = extractor.fft, extractor.window_length
        self.bins = fft // 2 + 1
        angles = 2 * np.pi / fft * np.outer(np.arange(self.bins), np.arange(window))
        waves = np.concatenate([np.cos(angles), np.sin(angles)]) * extractor.window.numpy()
        self.register_buffer("basis", torch.from_numpy(waves[:, None].astype(np.float32)))

    def forward(self, samples: Tensor) -> Tensor:
        waves = functional.conv1d(samples[:, None], self.basis, stride=self.hop).square()
        power = (waves[:, : self.bins] + waves[:, self.bins :]).transpose(1, 2)
        return torch.log(power @ self.filters + LOG_FLOOR)

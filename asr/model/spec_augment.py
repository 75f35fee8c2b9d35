"""Augmentation of normalised features on the model's device, drawn for each utterance apart.

The masks are SpecAugment's (Park et al. 2019, section 2). Its time warping is left out, since speed perturbation does
that job; in its place the frequency axis can be warped as a longer or shorter vocal tract would (Jaitly and Hinton
2013).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from asr import recipe


def augment(values: Tensor, settings: recipe.SpecAugment, sample_rate: int) -> Tensor:
    """(B, T, F) with each utterance's frequencies warped and masked, its times masked; masked values become 0, the
    mean."""
    import torchaudio

    if settings.frequency_warp:
        span = math.log(1 + settings.frequency_warp)
        factors = torch.empty(values.shape[0], device=values.device).uniform_(-span, span).exp()
        values = warp_frequencies(values, factors, sample_rate)
    mask = torchaudio.functional.mask_along_axis_iid
    for _ in range(settings.time_masks):
        values = mask(values, settings.time_frames, 0.0, axis=1, p=settings.time_fraction)
    for _ in range(settings.frequency_masks):
        values = mask(values, settings.frequency_bins, 0.0, axis=2)
    return values


def warp_frequencies(values: Tensor, factors: Tensor, sample_rate: int) -> Tensor:
    """(B, T, F) mel values read at ``factors`` (B,) times each bin's frequency in Hz, between bins linearly."""
    bins = values.shape[2]
    top = _mel(torch.tensor(sample_rate / 2))
    # The filterbank's centres: evenly spaced on the mel scale, without the two ends.
    centres = top * torch.arange(1, bins + 1) / (bins + 1)
    hertz = _hertz(centres).to(values.device)
    position = _mel(hertz[None, :] * factors[:, None]) / top.item() * (bins + 1) - 1
    position = position.clamp(0, bins - 1)
    below = position.floor().clamp(max=max(bins - 2, 0)).long()
    fraction = (position - below)[:, None, :]

    def read(index: Tensor) -> Tensor:
        return values.gather(2, index[:, None, :].expand_as(values))

    return torch.lerp(read(below), read((below + 1).clamp(max=bins - 1)), fraction.to(values.dtype))


# Slaney's mel scale (Auditory Toolbox, 1998), the one of the features: linear below 1 kHz, logarithmic above.


def _mel(hertz: Tensor) -> Tensor:
    return torch.where(hertz < 1000, 3 * hertz / 200, 15 + 27 * torch.log(hertz.clamp(min=1) / 1000) / math.log(6.4))


def _hertz(mel: Tensor) -> Tensor:
    return torch.where(mel < 15, 200 * mel / 3, 1000 * torch.exp((mel - 15) * math.log(6.4) / 27))

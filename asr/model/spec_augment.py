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


def augment(values: Tensor, lengths: Tensor, settings: recipe.SpecAugment, sample_rate: int) -> Tensor:
    """(B, T, F) with each utterance's frequencies warped and masked, and its real frames masked; masked values become
    0, the mean."""
    if settings.frequency_warp:
        span = math.log(1 + settings.frequency_warp)
        factors = torch.empty(values.shape[0], device=values.device).uniform_(-span, span).exp()
        values = warp_frequencies(values, factors, sample_rate)
    widest = (lengths * settings.time_fraction).clamp(max=settings.time_frames)
    for _ in range(settings.time_masks):
        values = values.masked_fill(_band(widest, lengths, values.shape[1])[:, :, None], 0.0)
    bins = torch.full_like(lengths, values.shape[2])
    widest = bins.clamp(max=settings.frequency_bins)
    for _ in range(settings.frequency_masks):
        values = values.masked_fill(_band(widest, bins, values.shape[2])[:, None, :], 0.0)
    return values


def _band(widest: Tensor, lengths: Tensor, size: int) -> Tensor:
    """(B, size) bool: a random band within each row's first ``lengths`` places, up to ``widest`` of them wide.

    torchaudio's masks know the padded length alone, and would mask most of a short utterance in a long batch.
    """
    width = torch.rand(len(lengths), device=lengths.device) * widest
    start = torch.rand(len(lengths), device=lengths.device) * (lengths - width)
    place = torch.arange(size, device=lengths.device)[None, :]
    return (place >= start.floor()[:, None]) & (place < (start.floor() + width.floor())[:, None])


def warp_frequencies(values: Tensor, factors: Tensor, sample_rate: int) -> Tensor:
    """(B, T, F) mel values read at ``factors`` (B,) times each bin's frequency in Hz, between bins linearly."""
    bins = values.shape[2]
    top = float(_mel(torch.tensor(sample_rate / 2)))
    # The filterbank's centres: evenly spaced on the mel scale, without the two ends.
    centres = top * torch.arange(1, bins + 1, device=values.device) / (bins + 1)
    position = _mel(_hertz(centres)[None, :] * factors[:, None]) / top * (bins + 1) - 1
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

"""How many frames a recipe's network makes of samples: arithmetic alone, for whoever computes them."""

from __future__ import annotations

from asr import recipe


def window_samples(settings: recipe.FeatureSettings) -> tuple[int, int, int]:
    """FFT size, window and hop in samples; the FFT is the next power of two."""
    window = round(settings.window * settings.sample_rate)
    return 1 << (window - 1).bit_length(), window, round(settings.shift * settings.sample_rate)


def feature_size(settings: recipe.LogMel | recipe.Mfcc) -> int:
    """Values in a feature frame."""
    if isinstance(settings, recipe.Mfcc):
        return settings.coefficients * (3 if settings.deltas else 1)
    return settings.mels


def delta_reach(settings: recipe.LogMel | recipe.Mfcc) -> int:
    """Frames on either side that a feature frame depends on besides its own window's samples: those of the deltas."""
    return 4 if isinstance(settings, recipe.Mfcc) and settings.deltas else 0


def feature_frames(samples: int, settings: recipe.FeatureSettings) -> int:
    """Feature frames of an utterance of ``samples`` samples."""
    return samples // window_samples(settings)[2] + 1


def subsampled(frames: int, conv: recipe.Convolution | None) -> int:
    """Emission frames left of ``frames`` feature frames."""
    factor: int = conv.subsampling if conv else 1
    while factor > 1:
        frames = (frames - 1) // 2 + 1
        factor //= 2
    return frames


def emission_frames(samples: int, features: recipe.FeatureSettings, conv: recipe.Convolution | None) -> int:
    """Emission frames of an utterance of ``samples`` samples: what CTC has to spell its labels in."""
    return subsampled(feature_frames(samples, features), conv)

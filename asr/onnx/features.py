"""The front end in numpy: an utterance's features as the acoustic model was trained on, without torch.

What each step means, and why, stands in ``asr.model.features`` and ``asr.model.silence``; tests hold the two within
1e-4 of each other. Here an utterance is always alone, so there are neither padding nor lengths.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from asr import recipe
from asr.audio.levels import (
    ACTIVE_DECIBELS,
    CEPSTRAL_FLOOR,
    DECIBEL,
    FIXED_FLOOR,
    FLOOR_DECIBELS,
    LEVEL_SECONDS,
    LOG_FLOOR,
    MARGIN_SECONDS,
    PAUSE_SECONDS,
    UNHEARD_DECIBELS,
    drawn_to_typical,
    frame_loudness,
    silent,
)
from asr.recipe.frames import delta_reach, feature_size, window_samples

FRAMES_AT_ONCE = 128
"""Of which spectra are in memory together: they stay in the processor's cache, which makes them twice as quick."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """What an utterance is normalised by: ``floor`` (mels,) of its log-mel energies, ``mean`` and ``deviation`` (F,)
    of the features of its active frames."""

    floor: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray


class FrontEnd:
    """Samples (S,) to features (T, F), in float32."""

    def __init__(self, settings: recipe.LogMel | recipe.Mfcc) -> None:
        self.settings = settings
        self.fft, self.window_length, self.hop = window_samples(settings)
        self.window = _hann(self.window_length)
        self.filters = mel_filters(self.fft, settings.mels, settings.sample_rate)
        self.dct = _dct(settings.coefficients, settings.mels) if isinstance(settings, recipe.Mfcc) else None

    def energies(self, samples: np.ndarray) -> np.ndarray:
        """Log-mel energies (T, mels) of frames centred on every ``hop`` samples, with zeros around the signal."""
        frames = len(samples) // self.hop + 1
        before = self.fft // 2 - (self.fft - self.window_length) // 2  # the window lies in the middle of the FFT's
        padded = np.zeros((frames - 1) * self.hop + self.window_length, np.float32)
        heard = samples[: len(padded) - before]
        padded[before : before + len(heard)] = heard
        windows = sliding_window_view(padded, self.window_length)[:: self.hop]
        energies = np.empty((frames, self.settings.mels), np.float32)
        for start in range(0, frames, FRAMES_AT_ONCE):
            spectra = np.fft.rfft(windows[start : start + FRAMES_AT_ONCE] * self.window, self.fft)
            power = spectra.real**2 + spectra.imag**2
            energies[start : start + FRAMES_AT_ONCE] = np.log(power @ self.filters + np.float32(LOG_FLOOR))
        return energies

    def normalise(self, energies: np.ndarray, statistics: Statistics | None = None) -> np.ndarray:
        """Features (T, F) of log-mel energies, normalised where that goes by utterance, by ``statistics`` in place of
        its own where it is yet to end. What is normalised by training's mean and deviation is so in the graph."""
        if self.settings.normalise != "utterance":
            return self.shape(energies)
        by = statistics or self.measure(energies)
        return np.asarray((self.shape(energies, by.floor) - by.mean) / by.deviation)

    def level(self, energies: np.ndarray) -> float:
        """The loudness that ``LEVEL_SECONDS`` of an utterance exceed, or all of a shorter one."""
        loudest = min(round(LEVEL_SECONDS / self.settings.shift), len(energies))
        return float(np.sort(frame_loudness(energies))[-loudest])

    def measure(self, energies: np.ndarray, level: float | None = None) -> Statistics:
        """The statistics of an utterance over its active frames; ``level`` stands in for its own."""
        level = self.level(energies) if level is None else level
        power = np.exp(energies)
        active = power.mean(1) >= np.exp(np.float32(level - ACTIVE_DECIBELS * DECIBEL))
        faintest = np.float32(level - UNHEARD_DECIBELS * DECIBEL)
        floor = faintest
        mean: np.ndarray = np.zeros(feature_size(self.settings), np.float32)
        variance = mean
        if active.any():
            audible = np.log(power[active] + np.exp(faintest))
            floor = np.maximum(audible.mean(0) - np.float32(FLOOR_DECIBELS * DECIBEL), faintest)
            power += np.exp(floor)
            values = self._coefficients(np.log(power, out=power))[active]
            mean = values.mean(0)
            variance = np.square(values - mean).mean(0)
        if self.dct is None:
            deviation = np.sqrt(drawn_to_typical(variance, int(active.sum()), self.settings.shift))
        else:
            deviation = np.sqrt(variance) + np.float32(CEPSTRAL_FLOOR)
        return Statistics(floor=np.asarray(floor), mean=mean, deviation=deviation)

    def shape(self, energies: np.ndarray, floor: np.ndarray | None = None) -> np.ndarray:
        """Features (T, F) before normalisation, of energies to which ``floor`` was added."""
        return self._coefficients(log_of_sum(energies, np.float32(FIXED_FLOOR) if floor is None else floor))

    def _coefficients(self, values: np.ndarray) -> np.ndarray:
        """Of log-mel energies (T, mels) the features (T, F): themselves, or MFCCs with their deltas."""
        if self.dct is None:
            return values
        values = np.asarray(values @ self.dct)
        if not delta_reach(self.settings) or not len(values):
            return values
        first = _delta(values)
        return np.concatenate([values, first, _delta(first)], axis=1)

    def audible(self, energies: np.ndarray, step: int) -> np.ndarray:
        """Which emission frames (T',), of ``step`` feature frames, are read: all but long silence."""
        shift, frames = self.settings.shift, len(energies)
        sound = ~silent(energies, self.level(energies))
        since, until = _distance(sound), _distance(sound[::-1])[::-1]
        margin, pause = round(MARGIN_SECONDS / shift), round(PAUSE_SECONDS / shift)
        kept = (since <= margin) | (until <= margin) | (since + until <= pause + 1)
        kept[0] |= not sound.any()  # the encoder reads something of every utterance
        return np.asarray(np.pad(kept, (0, -frames % step)).reshape(-1, step).any(1))


def mel_filters(fft: int, mels: int, sample_rate: int) -> np.ndarray:
    """Triangular filters (fft // 2 + 1, mels) on Slaney's mel scale, each of unit area in Hz (Slaney 1998, Auditory
    Toolbox): what librosa and, with slaney named twice, torchaudio compute."""
    hertz = _mel_to_hertz(np.linspace(0.0, _hertz_to_mel(sample_rate / 2), mels + 2))
    bins = np.linspace(0.0, sample_rate / 2, fft // 2 + 1)
    slopes = hertz[None, :] - bins[:, None]
    widths = np.diff(hertz)
    rising, falling = -slopes[:, :-2] / widths[:-1], slopes[:, 2:] / widths[1:]
    return np.asarray(np.maximum(0.0, np.minimum(rising, falling)) * (2.0 / (hertz[2:] - hertz[:-2])), np.float32)


_LINEAR_HERTZ, _KNEE_HERTZ = 200.0 / 3, 1000.0
"""Below the knee a mel is so many Hz; above it 27 mels are a factor of 6.4."""
_KNEE_MEL, _LOG_STEP = _KNEE_HERTZ / _LINEAR_HERTZ, np.log(6.4) / 27


def _hertz_to_mel(hertz: float) -> float:
    if hertz < _KNEE_HERTZ:
        return hertz / _LINEAR_HERTZ
    return float(_KNEE_MEL + np.log(hertz / _KNEE_HERTZ) / _LOG_STEP)


def _mel_to_hertz(mels: np.ndarray) -> np.ndarray:
    beyond = _KNEE_HERTZ * np.exp(_LOG_STEP * (np.maximum(mels, _KNEE_MEL) - _KNEE_MEL))
    return np.where(mels < _KNEE_MEL, mels * _LINEAR_HERTZ, beyond)


def _hann(length: int) -> np.ndarray:
    """Hann's window, one period of it, as spectra want it."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)).astype(np.float32)


def _dct(coefficients: int, mels: int) -> np.ndarray:
    """The orthonormal DCT-II (mels, coefficients)."""
    basis = np.cos(np.pi / mels * (np.arange(mels)[:, None] + 0.5) * np.arange(coefficients)) * np.sqrt(2 / mels)
    basis[:, 0] /= np.sqrt(2)
    return np.asarray(basis, np.float32)


def log_of_sum(one: np.ndarray, other: np.ndarray | np.float32) -> np.ndarray:
    """log(e^a + e^b) of log-mel energies, in float32, which holds their energies themselves: none is below
    ``LOG_FLOOR``. numpy's own goes number by number."""
    total: np.ndarray = np.exp(one)
    total += np.exp(other)
    np.log(total, out=total)
    return total


def _delta(values: np.ndarray) -> np.ndarray:
    """The slope over five frames, (T, F); the first and the last frame repeat beyond the ends."""
    held = np.pad(values, ((2, 2), (0, 0)), mode="edge")
    return np.asarray((held[3:-1] - held[1:-3] + 2 * (held[4:] - held[:-4])) / np.float32(10))


def _distance(sound: np.ndarray) -> np.ndarray:
    """(T,): how many frames ago the last sound was, 0 on it; more than any pause where there was none before."""
    place = np.arange(len(sound))
    return np.asarray(place - np.maximum.accumulate(np.where(sound, place, -(1 << 20))))

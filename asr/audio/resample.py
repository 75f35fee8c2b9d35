"""One rate to another, for a whole signal and for one that comes in pieces."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import soxr

from asr.audio.recording import check_rate, door
from asr.errors import AudioError
from asr.records import Waveform

LARGEST = 1e10
"""Of a sample, which is 1 at full scale. Some writers take integers of 32 bits for floats, which are up to 2.1e9; the
resampler and the spectrum of much larger ones overflow."""


def prepare(waveform: Waveform, sample_rate: int, name: str = "the audio") -> Waveform:
    """``waveform`` checked to be finite and resampled to ``sample_rate`` Hz. Raises AudioError for NaN or infinity."""
    if waveform.sample_rate == sample_rate:
        finite(waveform.samples, name)
        return waveform
    resampling = Resampling(waveform.sample_rate, sample_rate, name)
    return Waveform(samples=resampling.feed(waveform.samples, last=True), sample_rate=sample_rate)


def as_floats(samples: np.ndarray) -> np.ndarray:
    """An array of audio, (S,), (channels, S) or (S, channels), as (channels, S) float32. The longer axis is time, and
    of a square the second. Raises AudioError."""
    if samples.ndim not in (1, 2) or samples.size == 0:
        raise AudioError(
            f"an array of audio is (S,), (channels, S) or (S, channels) and not empty; found shape {samples.shape}"
        )
    if samples.dtype == np.int16:
        samples = samples.astype(np.float32) / 32768
    elif not np.issubdtype(samples.dtype, np.floating):
        raise AudioError(f"an array of audio is floating point in [-1, 1] or int16; found {samples.dtype}")
    samples = np.atleast_2d(samples)
    return np.ascontiguousarray(samples.T if samples.shape[0] > samples.shape[1] else samples, dtype=np.float32)


def finite(samples: np.ndarray, name: str) -> np.ndarray:
    """``samples`` themselves. Raises AudioError for NaN or infinity, and for what would become one."""
    largest = max(float(samples.max()), -float(samples.min())) if samples.size else 0.0  # NaN where any sample is
    if not math.isfinite(largest):
        raise AudioError(f"{name} holds samples that are not numbers (NaN or infinity)")
    if largest > LARGEST:
        raise AudioError(f"{name} is damaged: it holds samples up to {largest:.0e}, where 1 is full scale")
    return samples


class Resampling:
    """Samples that come in pieces, as one continuous signal from ``source`` to ``target`` Hz."""

    def __init__(self, source: int, target: int, name: str = "the audio") -> None:
        """Raises AudioError for a rate that no recording has."""
        self.name = name
        self.stream: soxr.ResampleStream | None = None
        if source != target:
            check_rate(source, name)
            with door(name):
                self.stream = soxr.ResampleStream(source, target, 1, dtype="float32")

    def feed(self, samples: np.ndarray, *, last: bool = False) -> np.ndarray:
        """What ``samples`` (S,) complete of the signal at the new rate. Raises AudioError for NaN or infinity."""
        samples = finite(samples, self.name)
        if self.stream is None:
            return samples
        with door(self.name):
            resampled: np.ndarray = self.stream.resample_chunk(samples, last=last)
            return resampled


def resampled(blocks: Iterable[np.ndarray], source: int, target: int, name: str = "the audio") -> Iterator[np.ndarray]:
    """Blocks (S,) at ``source`` Hz as one continuous signal at ``target`` Hz. Raises AudioError."""
    resampling = Resampling(source, target, name)
    held: np.ndarray | None = None  # back by one, so that the last is known: a single block is resampled in one piece
    for block in blocks:
        if held is not None:
            yield resampling.feed(held)
        held = block
    if held is not None:
        yield resampling.feed(held, last=True)

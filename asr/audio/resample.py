"""One rate to another, for a whole signal and for one that comes in pieces."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from asr.audio.recording import check_rate, door
from asr.errors import AudioError
from asr.records import Waveform

if TYPE_CHECKING:
    from torch import Tensor

LONGEST_PERIOD = 1000
"""Samples after which the two rates' grids meet again: beyond it a kernel for each of its samples is too much memory (a
gigabyte from 16,001 to 16,000 Hz)."""


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
    """``samples`` themselves. Raises AudioError for NaN or infinity."""
    if not np.isfinite(samples).all():
        raise AudioError(f"{name} holds samples that are not numbers (NaN or infinity)")
    return samples


class Seamless:
    """A function of finite reach over a signal that comes in pieces: joined, its outputs are those for the whole.

    ``function`` makes ``made`` outputs, each of shape ``width``, of every ``step`` inputs along the first axis. They
    depend on inputs within ``reach`` of those, and what it is given begins and ends as a whole signal does. So each
    piece goes through it together with as much of its neighbours as it reaches, and what belongs to them is cut off.
    """

    def __init__(
        self, function: Callable[[Tensor], Tensor], *, reach: int, step: int = 1, made: int = 1, width: tuple[int, ...]
    ) -> None:
        self.function = function
        self.step, self.made, self.width = step, made, width
        self.reach = -(-reach // step) * step
        self.pending: Tensor | None = None
        """The end of the signal so far, of which the first ``done`` inputs are context alone."""
        self.done = 0

    def feed(self, piece: Tensor, *, last: bool = False) -> Tensor:
        """The outputs that ``piece`` completes, and after the ``last`` piece the rest of them."""
        import torch

        pending = piece if self.pending is None else torch.cat([self.pending, piece])
        stop = (len(pending) - self.reach) // self.step * self.step
        ready = len(pending) > 0 if last else stop > self.done
        outputs = piece.new_zeros(0, *self.width)
        if ready:
            first, end = self.done // self.step * self.made, None if last else stop // self.step * self.made
            outputs = self.function(pending)[first:end]
            kept = max(0, stop - self.reach)
            pending, self.done = pending[kept:], stop - kept
        self.pending = pending
        return outputs


class _Resampler(Protocol):
    def feed(self, samples: np.ndarray, *, last: bool) -> np.ndarray: ...


class Resampling:
    """Samples that come in pieces, as one continuous signal from ``source`` to ``target`` Hz."""

    def __init__(self, source: int, target: int, name: str = "the audio") -> None:
        """Raises AudioError for a rate that no recording has."""
        self.name = name
        self.resampler: _Resampler | None = None
        if source != target:
            check_rate(source, name)
            ratio = Fraction(target, source)
            with door(name):
                meets = max(ratio.numerator, ratio.denominator) <= LONGEST_PERIOD
                self.resampler = _Periodic(ratio) if meets else _Odd(source, target)

    def feed(self, samples: np.ndarray, *, last: bool = False) -> np.ndarray:
        """What ``samples`` (S,) complete of the signal at the new rate. Raises AudioError for NaN or infinity."""
        samples = finite(samples, self.name)
        if self.resampler is None:
            return samples
        with door(self.name):
            return self.resampler.feed(samples, last=last)


class _Periodic:
    """torchaudio's kernel, as long as it takes the two rates to meet: 441 samples from 22,050 to 16,000 Hz."""

    def __init__(self, ratio: Fraction) -> None:
        kernel = _kernel(ratio)
        self.seamless = Seamless(kernel, reach=kernel.width, step=ratio.denominator, made=ratio.numerator, width=())

    def feed(self, samples: np.ndarray, *, last: bool) -> np.ndarray:
        import torch

        resampled: np.ndarray = self.seamless.feed(torch.from_numpy(samples), last=last).numpy()
        return resampled


class _Odd:
    """soxr, for rates that meet seldom or never, such as 16,001 and 16,000 Hz."""

    def __init__(self, source: int, target: int) -> None:
        import soxr

        self.stream = soxr.ResampleStream(source, target, 1, dtype="float32")

    def feed(self, samples: np.ndarray, *, last: bool) -> np.ndarray:
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


@functools.lru_cache(maxsize=16)
def _kernel(ratio: Fraction) -> Any:
    """Kept, since building the kernel of an odd ratio (22,050 to 16,000 Hz) costs ten times what using it does."""
    import torchaudio

    return torchaudio.transforms.Resample(ratio.denominator, ratio.numerator)

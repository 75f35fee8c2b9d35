"""Decoded recordings kept in memory from epoch to epoch, shared by the loader's processes.

Decoding Opus or MP3 costs the loader several times what all the rest does together. Only recordings that are read whole
are kept: a part of a long one is decoded each time, since a decoder that seeks may give other samples than one that
does not.
"""

from __future__ import annotations

import mmap
import multiprocessing
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from asr import audio, runtime

_EMPTY, _FLOAT32, _INT16 = range(3)
_ALIGNMENT = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where a recording's samples are to lie: ``start`` in bytes; ``shape`` is (channels, S)."""

    number: int
    start: int
    shape: tuple[int, int]
    sample_rate: int

    @property
    def end(self) -> int:
        return self.start + 4 * self.shape[0] * self.shape[1]


class Recordings(Protocol):
    """Where a corpus's recordings are read from, in place of their files."""

    def read_channels(
        self, path: Path, *, offset: float = 0.0, duration: float | None = None
    ) -> tuple[np.ndarray, int]:
        """As ``audio.read_channels``."""
        ...


def keep_decoded(
    cuts: Iterable[Any], wanted: bool | Literal["auto"], recordings: Recordings | None = None
) -> DecodedAudio | None:
    """What keeps those of the ``recordings`` that are of ``cuts``, or None.

    ``auto`` keeps all where they fit in a quarter of the free memory, True as many as fit in a half of it. None outside
    Linux, where loader processes are not forked.
    """
    if not wanted or sys.platform != "linux":
        return None
    free = runtime.free_memory()
    decoded = DecodedAudio(
        cuts, limit=free // (4 if wanted == "auto" else 2), recordings=recordings, partly=wanted != "auto"
    )
    return None if wanted == "auto" and decoded.left_out else decoded


class DecodedAudio:
    """Recordings as ``recordings``, or else their files, give them, bit for bit, each decoded once: by whichever
    process reads it first, for all.

    The memory is that of anonymous pages shared by the processes that are forked off later. It is taken up as
    recordings come, 4 bytes a sample, or 2 where they are 16-bit numbers, as in most WAV and FLAC files. ``limit``
    bounds it, in bytes: recordings for which there is no room are decoded each time. Where not all of them fit and they
    are not to be kept ``partly``, no more of ``cuts`` is looked at.
    """

    def __init__(
        self, cuts: Iterable[Any], *, limit: int, recordings: Recordings | None = None, partly: bool = True
    ) -> None:
        self._read: Callable[..., tuple[np.ndarray, int]] = (
            audio.read_channels if recordings is None else recordings.read_channels
        )
        self._places: dict[str, _Place] = {}
        self.left_out = 0
        end = 0
        for cut in cuts:
            path = _whole_recording(cut)
            if path is None or path in self._places:
                continue
            recording = cut.recording
            shape = (recording.num_channels, recording.num_samples)
            place = _Place(number=len(self._places), start=end, shape=shape, sample_rate=int(recording.sampling_rate))
            if place.end > limit:
                self.left_out += 1
                if partly:
                    continue
                break
            self._places[path] = place
            end = -(-place.end // _ALIGNMENT) * _ALIGNMENT
        self.size = end
        """Bytes that are taken up at the most."""
        memory = mmap.mmap(-1, end + len(self._places) + 1)  # not a byte would be refused
        self._bytes = np.frombuffer(memory, np.uint8)
        self._kinds = self._bytes[end:]
        self._lock = multiprocessing.get_context("fork").Lock()

    def __str__(self) -> str:
        kept = f"decoded audio is kept in memory: {len(self._places)} recordings, {self.size / 1e9:.1f} GB at most"
        return kept + (f"; there is no room for {self.left_out} more" if self.left_out else "")

    @property
    def taken(self) -> int:
        """Bytes taken up so far."""
        bytes_a_sample = {_EMPTY: 0, _FLOAT32: 4, _INT16: 2}
        return sum(
            bytes_a_sample[int(self._kinds[place.number])] * place.shape[0] * place.shape[1]
            for place in self._places.values()
        )

    def read_channels(
        self, path: Path, *, offset: float = 0.0, duration: float | None = None
    ) -> tuple[np.ndarray, int]:
        """As ``audio.read_channels``: (channels, S) float32, not to be written to, and the sample rate in Hz."""
        place = self._places.get(str(path)) if offset == 0.0 and duration is None else None
        if place is None:
            return self._read(path, offset=offset, duration=duration)
        with self._lock:
            kind = int(self._kinds[place.number])
        if kind == _FLOAT32:
            return self._samples(place, np.float32), place.sample_rate
        if kind == _INT16:
            return self._samples(place, np.int16).astype(np.float32) / 32768, place.sample_rate
        samples, sample_rate = self._read(path)
        if samples.shape == place.shape and sample_rate == place.sample_rate:  # the header may have promised otherwise
            self._keep(place, samples)
        return samples, sample_rate

    def _keep(self, place: _Place, samples: np.ndarray) -> None:
        """Two processes at once would write the same bytes. The lock is for processors that reorder their writes."""
        sixteen_bits = np.clip(np.nan_to_num(samples) * 32768, -32768, 32767).astype(np.int16)
        exact = np.array_equal(sixteen_bits.astype(np.float32) / 32768, samples)
        kept = sixteen_bits if exact else samples
        self._samples(place, kept.dtype)[...] = kept
        with self._lock:
            self._kinds[place.number] = _INT16 if exact else _FLOAT32

    def _samples(self, place: _Place, dtype: Any) -> np.ndarray:
        samples: np.ndarray = self._bytes[place.start : place.end].view(dtype)
        return samples[: place.shape[0] * place.shape[1]].reshape(place.shape)


def _whole_recording(cut: Any) -> str | None:
    """The file that ``cut`` is the whole of, if that is so."""
    sources = cut.recording.sources if cut.has_recording and hasattr(cut, "recording") else []
    if len(sources) != 1 or sources[0].type != "file" or cut.recording.transforms:
        return None
    whole = cut.start == 0.0 and abs(cut.duration - cut.recording.duration) <= 1e-3  # within which lhotse reads it all
    return str(sources[0].source) if whole else None

"""N-gram models packed small for the disk: numbers quantised, words as differences, all of it compressed by zlib.

A file is safetensors, so that nothing in it can run. An n-gram takes some three bytes: its last word as the difference
from that of the n-gram before it with the same context, a step of up to 8 bits for its log probability and another for
its back-off weight. Steps are of one size, not equally frequent: entropy coding is then near the best there is at a
given error (Gish and Pierce 1968, Asymptotically efficient quantizing). Unigrams stay as they are.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

PACKED_FORMAT = "asr n-gram packed 1"
BITS = 8
MOST_EXPANSION = 100
"""How many times its size a file may unpack to: some 4 times is usual."""
_EDGE = 0.0005
"""The share of the smallest and of the largest numbers that have no steps to themselves."""
_PLANES = 4
_METADATA = 512
"""Bytes of a file that hold its format: safetensors begins with the metadata."""


def is_compiled(path: Path) -> bool:
    """Whether the file holds a model in a form of ours: safetensors, which is eight bytes of length, then JSON."""
    try:
        with path.open("rb") as file:
            return file.read(9)[8:] == b"{"
    except OSError:
        return False  # whoever reads it next will say why


def is_packed(path: Path) -> bool:
    """Whether that form is the small one, which takes a while to unpack."""
    with path.open("rb") as file:
        return PACKED_FORMAT.encode() in file.read(_METADATA)


class Packer:
    """Collects named arrays, compressed."""

    def __init__(self) -> None:
        self.tensors: dict[str, np.ndarray] = {}

    def add_bytes(self, name: str, content: bytes) -> None:
        self.tensors[name] = np.frombuffer(zlib.compress(content, 9), np.uint8)

    def add_integers(self, name: str, integers: np.ndarray) -> None:
        """Integers from 0 to 2**32 - 1, byte by byte of all: the high ones are mostly 0."""
        planes = integers.astype("<u4").view(np.uint8).reshape(-1, _PLANES).T
        self.add_bytes(name, np.ascontiguousarray(planes).tobytes())

    def add_floats(self, name: str, floats: np.ndarray) -> None:
        self.add_bytes(name, floats.astype("<f4").tobytes())

    def add_quantised(self, name: str, floats: np.ndarray, bits: int) -> None:
        """Floats as the nearest of up to 2**bits steps of one size, each the mean of the floats that it stands for."""
        low, high = np.quantile(floats, [_EDGE, 1 - _EDGE]) if len(floats) else (0.0, 0.0)
        size = (high - low) / (2**bits - 1) or 1.0
        steps = np.clip(np.rint((floats - low) / size), 0, 2**bits - 1).astype(np.uint8)
        counts = np.bincount(steps, minlength=2**bits)
        sums = np.bincount(steps, floats.astype(np.float64), minlength=2**bits)
        self.add_floats(f"{name}.steps", np.divide(sums, counts, out=np.zeros(2**bits), where=counts > 0))
        self.add_bytes(name, steps.tobytes())


class Unpacker:
    """Named arrays again. Raises ValueError or KeyError where they are damaged, missing or far too large."""

    def __init__(self, tensors: Mapping[str, np.ndarray], size: int) -> None:
        self._tensors, self._left = tensors, MOST_EXPANSION * size

    def take_bytes(self, name: str) -> bytes:
        decompressor = zlib.decompressobj()
        try:
            content = decompressor.decompress(self._tensors[name].data, max(self._left, 1))
        except zlib.error as error:
            raise ValueError(f"{name} is damaged ({error})") from error
        self._left -= len(content)
        if not decompressor.eof or self._left < 0:
            raise ValueError(f"{name} is cut short or unpacks to more than it should")
        return content

    def take_integers(self, name: str) -> np.ndarray:
        """(M,) int64."""
        planes = np.frombuffer(self.take_bytes(name), np.uint8).reshape(_PLANES, -1)
        integers: np.ndarray = np.ascontiguousarray(planes.T).view("<u4")[:, 0].astype(np.int64)
        return integers

    def take_floats(self, name: str) -> np.ndarray:
        return np.frombuffer(self.take_bytes(name), "<f4").astype(np.float32)

    def take_quantised(self, name: str) -> np.ndarray:
        steps = self.take_floats(f"{name}.steps")
        codes = np.frombuffer(self.take_bytes(name), np.uint8)
        if len(codes) and codes.max() >= len(steps):
            raise ValueError(f"{name} has more steps than it says")
        floats: np.ndarray = steps[codes]
        return floats


def differences(words: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """(M,) rising ``words`` as differences, whole again at the places ``begins``."""
    parted = np.diff(words.astype(np.int64), prepend=0)
    parted[begins] = words[begins]
    return parted


def undo_differences(parted: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """(M,) the words of ``differences``."""
    sums = np.cumsum(parted)
    words: np.ndarray = sums - np.repeat(sums[begins] - parted[begins], np.diff(begins, append=len(parted)))
    return words


def levels(sizes: list[int]) -> Iterator[tuple[int, int, int]]:
    """Of the orders from 2 on, the order and the nodes that are of it, of ``sizes`` n-grams in each order."""
    start = 1 + sizes[0]
    for n, size in enumerate(sizes[1:], start=2):
        yield n, start, start + size
        start += size

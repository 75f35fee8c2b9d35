"""libsndfile, for the formats in which what a header claims can be held against the file: WAV, FLAC, AIFF, Ogg, SPHERE.

Not for MPEG, of which it believes an estimate, nor for Ogg streams that are joined, of which it reads the first.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from asr.audio.header import CHUNKS, NEVER_CLOSED, at, chunk
from asr.audio.ogg import cut_off
from asr.audio.recording import MAX_SECONDS

HEAD_BYTES = 1024
SCANNED_BYTES = 1 << 20
"""At once, in search of a second stream."""
REMEMBERED_FILES = 10_000
_joined: dict[tuple[int, ...], bool] = {}
_BEGINS = {b"OggS": b"OggS\0\2\0\0\0\0\0\0\0\0", b"fLaC": b"fLaC\0\0\0\x22"}
"""By a file's first bytes, what a stream in it begins with: an Ogg page so marked at time 0, FLAC's first block."""


def reads(file: BinaryIO, *, exactly: bool = True) -> bool:
    """Whether libsndfile would read all of what the file is, should it know the format. Whether a second stream follows
    the first is looked for ``exactly``, all through the file, or not at all."""
    head = at(file, 0, 32)
    mark = head[:4]
    is_mpeg = mark[:3] == b"ID3" or (mark[:1] == b"\xff" and mark[1:2] >= b"\xe0")
    if is_mpeg or (mark == b"caff" and head[28:] == b"alac" and _has_broken_sizes(file)):
        return False
    return not (exactly and mark in _BEGINS and _is_joined(file, _BEGINS[mark]))


def _has_broken_sizes(file: BinaryIO) -> bool:
    """Whether a packet of an ALAC file in CAF claims 2²⁸ bytes or more, of which libsndfile prints what it thinks."""
    start, length = chunk(file, *CHUNKS[b"caff"][:2], b"pakt")
    sizes = at(file, start + 24, min(length, SCANNED_BYTES))
    return re.search(rb"[\x80-\xff]{4}", sizes) is not None


def errors() -> tuple[type[Exception], ...]:
    """What soundfile raises for a file that it cannot read."""
    import soundfile

    return (soundfile.SoundFileError, ValueError, OSError)


@dataclass(frozen=True, slots=True)
class Sound:
    """An open file: ``samples`` that it holds a channel, and ``promised`` that its header says it does."""

    file: Any
    samples: int
    promised: int
    sample_rate: int
    channels: int

    @property
    def is_believable(self) -> bool:
        """Whether the length can be one: 0 and 2⁶³ are what is left where a stream was never closed."""
        return 0 < self.samples < MAX_SECONDS * self.sample_rate

    def blocks(self, start: int, stop: int | None, size: int) -> Iterator[np.ndarray]:
        """(channels, S) float32 from sample ``start`` up to ``stop``, at most ``size`` at once. Fewer than there are
        where the file is damaged, unless that raises SoundFileError."""
        stop = self.samples if stop is None else min(stop, self.samples)
        if 0 < start < stop:
            self.file.seek(start)
        while start < stop and len(read := self.file.read(min(size, stop - start), dtype="float32", always_2d=True)):
            start += len(read)
            yield read.T


@contextlib.contextmanager
def opened_sound(file: BinaryIO) -> Iterator[Sound]:
    """What libsndfile makes of a file. Raises SoundFileError."""
    import soundfile

    excess, lost = _promised_excess(file), cut_off(file)
    file.seek(0)
    source = file.fileno() if isinstance(file, io.FileIO) else file
    with soundfile.SoundFile(source, closefd=False) as opened:
        samples: int = opened.frames
        promised = samples * excess + lost.seconds(opened.samplerate) * opened.samplerate
        if promised > MAX_SECONDS * opened.samplerate:
            promised = samples
        yield Sound(opened, samples, round(promised), opened.samplerate, opened.channels)


def _promised_excess(file: BinaryIO) -> float:
    """The bytes of samples that a header promises over those that are there, at least 1: libsndfile cuts its count to
    what the file holds, and says nothing."""
    head = at(file, 0, HEAD_BYTES)
    if head[:4] == b"NIST":
        fields = dict(re.findall(rb"\n(\w+) -i (\d{1,12})(?=\n)", head))
        counts = (b"sample_count", b"channel_count", b"sample_n_bytes")
        start, length = HEAD_BYTES, math.prod(int(fields.get(name, 0)) for name in counts)
    elif head[:4] == b".snd" and len(head) > 12:
        start, length = struct.unpack(">4xII", head[:12])
    elif head[:4] in CHUNKS:
        start, length = chunk(file, *CHUNKS[head[:4]])
        if head[:4] == b"RF64" and head[12:16] == b"ds64" and len(head) >= 36:
            (length,) = struct.unpack("<Q", head[28:36])  # 4 GB and more do not fit into the chunk's own size
    else:
        return 1.0
    there = file.seek(0, io.SEEK_END) - start
    is_promise = 0 < there < length and (length < NEVER_CLOSED or head[:4] == b"RF64")
    return length / there if is_promise else 1.0


def _is_joined(file: BinaryIO, begins: bytes) -> bool:
    """Whether a stream ``begins`` again later in the file, which takes as long to see as reading it: files are known
    by what the system says of them, since a corpus may hold a thousand segments of one."""
    if not isinstance(file, io.FileIO):
        return _begins_again(file, begins)
    status = os.fstat(file.fileno())
    identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if identity not in _joined:
        if len(_joined) >= REMEMBERED_FILES:
            _joined.clear()
        _joined[identity] = _begins_again(file, begins)
    return _joined[identity]


def _begins_again(file: BinaryIO, begins: bytes) -> bool:
    """Whether the mark is there behind the first kilobyte, where the streams that are interleaved begin."""
    file.seek(HEAD_BYTES)
    held = b""
    while content := file.read(SCANNED_BYTES):
        if begins in held + content:
            return True
        held = content[-len(begins) + 1 :]
    return False

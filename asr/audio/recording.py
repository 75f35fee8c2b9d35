"""A recording as a file that can be read, and the one door by which errors leave this room."""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from asr.audio import header
from asr.errors import AudioError

MAX_SECONDS = 24 * 3600
"""A header that claims more than a day is taken for damage."""
LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000
"""In Hz. A header that claims another is damaged: at 1 Hz, 100 kB are a day of sound, and at 16,000 Hz gigabytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A recording that is a part of a ``file``, as of a tar: ``size`` bytes from byte ``start``, called ``name``."""

    file: Path
    name: str
    start: int
    size: int


Recording = Path | bytes | Member


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioInfo:
    """How long a recording should be: ``samples`` per channel, ``sample_rate`` in Hz, ``channels``."""

    samples: int
    sample_rate: int
    channels: int

    @property
    def duration(self) -> float:
        return self.samples / self.sample_rate


@dataclass(slots=True, kw_only=True)
class Damage:
    """What is missing of a recording, in seconds, once it has been read."""

    packets: int = 0
    """That could not be decoded."""
    lost: float = 0.0
    """Left as silence, since what stood there is gone."""
    end: float = 0.0
    """Where the recording breaks off, and should not."""
    promised: float = 0.0
    """Where its header says that it ends; 0 for a recording that does not break off."""
    reason: str = ""
    """Why it could not be read to its end, in the decoder's words."""

    @property
    def seconds(self) -> float:
        return self.lost + max(0.0, self.promised - self.end)

    def __bool__(self) -> bool:
        return bool(self.packets or self.seconds or self.reason)

    def sentence(self, name: str) -> str:
        faults = []
        if self.promised > self.end:
            faults.append(f"is truncated: its header promises {self.promised:.1f} s, and {self.end:.1f} s are there")
        elif self.reason:
            faults.append(f"cannot be read past {self.end:.1f} s: {self.reason}")
        if self.lost or not faults:
            count = "1 packet" if self.packets == 1 else f"{self.packets} packets"
            damaged = f" ({count} cannot be decoded)" if self.packets else ""
            faults.append(f"is damaged: {self.lost:.2f} s of it are lost and left as silence{damaged}")
        return f"{name} {', and '.join(faults)}"


def describe(recording: Recording) -> str:
    """What messages call a recording. A name is any bytes at all; what cannot be printed is escaped."""
    if isinstance(recording, bytes):
        return f"{len(recording)} bytes of audio"
    name = f"{recording.file}/{recording.name}" if isinstance(recording, Member) else str(recording)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in name)


@contextlib.contextmanager
def door(name: str) -> Iterator[None]:
    """Whatever goes wrong inside leaves as an AudioError about ``name``.

    libsndfile, FFmpeg, the resampler and the file system raise dozens of types, and PyAV those of its own slips too
    (AttributeError for a codec without a name, IndexError for a track that appears late). None of them may end a run
    over a thousand files, so here, and nowhere else, every Exception is caught.
    """
    try:
        yield
    except AudioError:
        raise
    except MemoryError as error:
        raise AudioError(f"{name} cannot be read: it asks for more memory than there is") from error
    except Exception as error:
        raise AudioError(f"{name} cannot be read: {reason_of(error)}") from error


def reason_of(error: BaseException) -> str:
    """The error in a line, without soundfile's prefix (a file's number, an object's address) or FFmpeg's suffix."""
    reason = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    return " ".join(str(reason).split()).rstrip(".") or type(error).__name__


@contextlib.contextmanager
def opened(recording: Recording) -> Iterator[BinaryIO]:
    """The recording as a file at its beginning. Raises AudioError, for what is done inside as well.

    Decoders are given this file and never its name: FFmpeg would take "10:30.m4a" for an address and believe a suffix,
    and a name need not be text.
    """
    name = describe(recording)
    with door(name):
        if isinstance(recording, Member):
            size = recording.size
        elif isinstance(recording, bytes):
            size = len(recording)
        else:
            status = recording.stat()
            if stat.S_ISDIR(status.st_mode):
                raise AudioError(f"{name} is a folder, not a recording")
            if not stat.S_ISREG(status.st_mode):  # opening a pipe waits until somebody writes to it, for ever perhaps
                raise AudioError(f"{name} is not a file but a pipe or a device; a pipe can be read as standard input")
            size = status.st_size
        if size == 0:
            raise AudioError(f"{name} is empty (0 bytes)")
        if isinstance(recording, bytes):
            with _Memory(recording) as memory:
                yield _legible(memory)
        elif isinstance(recording, Member):
            with recording.file.open("rb", buffering=0) as whole, _Part(whole, recording.start, size) as part:
                yield _legible(cast(BinaryIO, part))
        else:
            with recording.open("rb") as named, open(named.fileno(), "rb", buffering=0, closefd=False) as file:
                yield _legible(file)


def _legible(file: BinaryIO) -> BinaryIO:
    """The file as decoders know it: without tags in front of it, and with the size that its writer did not fill in."""
    start = header.tags(file)
    change = header.filled_in(file, start)
    if start or change:
        size = file.seek(0, os.SEEK_END) - start
        file = cast(BinaryIO, _Part(file, start, size, change))
    file.seek(0)
    return file


class _Memory(io.BytesIO):
    """Bytes as a file. A decoder that follows a damaged header to before the beginning stays where it is: it sees that
    from the position, while an exception in its callback is printed and goes no further."""

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()


class _Part(io.RawIOBase):
    """A part of an open file as a file of its own, with other bytes from a place on if there is a ``change``. As
    ``_Memory``, it stays where it is rather than raise."""

    def __init__(
        self, file: BinaryIO | io.FileIO, start: int, size: int, change: tuple[int, bytes] | None = None
    ) -> None:
        self._file: Any = file
        self._start, self._size, self._position = start, size, 0
        self._change = change or (0, b"")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if place >= 0:
            self._position = place
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        wanted = min(len(buffer), max(0, self._size - self._position))
        self._file.seek(self._start + self._position)
        read = self._file.readinto(memoryview(buffer)[:wanted]) or 0
        at, change = self._change
        first, last = max(at, self._position), min(at + len(change), self._position + read)
        if first < last:
            memoryview(buffer)[first - self._position : last - self._position] = change[first - at : last - at]
        self._position += read
        return read


def check_rate(rate: int, name: str) -> None:
    """Raises AudioError for a sample rate that no recording has."""
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise AudioError(f"{name} has a sample rate of {rate} Hz; expected {LOWEST_RATE} to {HIGHEST_RATE} Hz")

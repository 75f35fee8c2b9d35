"""Whether an Ogg file breaks off within a page, of which no decoder says a word, and how much sound goes with it."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import BinaryIO

from asr.audio.header import at

_MARK = b"OggS"
_HEAD = "<4sBBqIIIB"
"""Of a page: mark, version, flags, position (of its last sample), stream, number, checksum, lacing values."""
_HEAD_BYTES = struct.calcsize(_HEAD)
_LONGEST_PAGE = _HEAD_BYTES + 255 + 255 * 255
_USUAL_TAIL = 1 << 14
"""Bytes in which there are three pages, more often than not."""
_LONGEST_SECONDS = 120.0
"""A page that claims more is damaged: it would be below 5 kbit/s."""
_OPUS_RATE = 48_000
"""In Hz, of Opus's positions, whatever it was made from."""
_FIRST_BYTES = 1024
"""In which a stream says that it is Opus."""


@dataclass(frozen=True, slots=True)
class _Page:
    """``position`` -1 where no packet ends on the page; ``stop`` is the byte after it."""

    position: int
    stream: int
    stop: int


@dataclass(frozen=True, slots=True)
class CutOff:
    """What the page in which a file breaks off held: ``positions`` at ``rate`` Hz, or at the sound's own, None."""

    positions: int = 0
    rate: int | None = None

    def seconds(self, sample_rate: int) -> float:
        """Of sound at ``sample_rate`` Hz."""
        seconds = self.positions / (self.rate or sample_rate)
        return seconds if seconds < _LONGEST_SECONDS else 0.0


def cut_off(file: BinaryIO) -> CutOff:
    """What is lost of the page that an Ogg file breaks off in; nothing where it ends with a whole one, and of other
    formats. By the position in the page's head or, where that is gone, as much as the page before it holds."""
    if at(file, 0, 4) != _MARK:
        return CutOff()
    size = file.seek(0, io.SEEK_END)
    pages: list[_Page] = []
    for tail in (_USUAL_TAIL, 3 * _LONGEST_PAGE):
        first = max(0, size - tail)
        pages = _pages(at(file, first, size - first), first)
        if pages and pages[-1].stop == size:
            return CutOff()
        if len(pages) > 2:  # the one that is cut, and two to tell how long they are
            break
    if not pages:
        return CutOff()
    last = pages[-1]
    if last.stop < size and not _MARK.startswith(at(file, last.stop, len(_MARK))):  # something has been appended
        return CutOff()
    ends = [0, *(page.position for page in pages if page.stop <= size and page.stream == last.stream)]
    ends = [position for position in ends if position >= 0]
    lost = last.position - ends[-1] if last.stop > size else 0
    if lost <= 0 and len(ends) > 1:
        lost = ends[-1] - ends[-2]
    return CutOff(max(0, lost), _OPUS_RATE if b"OpusHead" in at(file, 0, _FIRST_BYTES) else None)


def _pages(content: bytes, first: int) -> list[_Page]:
    """The pages that begin in ``content``, which begins at byte ``first`` of the file. One whose head is cut is taken
    to end a byte beyond the file."""
    pages: list[_Page] = []
    place = content.find(_MARK)
    while place >= 0:
        head = content[place : place + _HEAD_BYTES]
        step = len(_MARK)
        if len(head) < _HEAD_BYTES:
            position, stream = -1, pages[-1].stream if pages else 0
            if len(head) >= 18:
                position, stream = struct.unpack_from("<qI", head, 6)
            pages.append(_Page(position, stream, first + len(content) + 1))
        else:
            _, version, _, position, stream, _, _, count = struct.unpack(_HEAD, head)
            if version == 0:
                lacing = content[place + _HEAD_BYTES : place + _HEAD_BYTES + count]
                step = _HEAD_BYTES + count + sum(lacing)
                whole = first + place + step if len(lacing) == count else first + len(content) + 1
                pages.append(_Page(position, stream, whole))
        place = content.find(_MARK, place + step)
    return pages

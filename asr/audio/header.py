"""What stands before the sound: tags that hide the format, chunks, and the sizes that their heads claim."""

from __future__ import annotations

import io
import struct
from typing import BinaryIO

MOST_CHUNKS = 1000
"""That are looked at. Gigabytes of zeros are chunks of no length, through which either decoder would go one by one."""
NEVER_CLOSED = 0x7FFF0000
"""Sizes from here on are what a writer fills in that does not know yet: 0x7FFFFFFF, 0xFFFFFFFF and what is left of them
after the header."""
CHUNKS = {
    b"RIFF": (12, "<4sI", b"data"),
    b"RF64": (12, "<4sI", b"data"),
    b"RIFX": (12, ">4sI", b"data"),
    b"FORM": (12, ">4sI", b"SSND"),
    b"caff": (8, ">4sq", b"data"),
    b"riff": (40, "<16sQ", b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"),
}
"""Formats made of chunks, by their first four bytes: where the first chunk is, how its head is laid out, and which
holds the samples (WAV, AIFF, CAF, Wave64)."""
_AU = {b".snd": ">I", b"dns.": "<I"}
"""By their first bytes, the byte order of AU's numbers: where the sound begins, then its size."""
_ANY_SIZE = 0xFFFFFFFF
"""AU's size of a stream whose end is not known."""
_MOST_TAGS = 16
_DS64 = 28
"""Where RF64 keeps the bytes of its samples, which a chunk's own size is too narrow for."""


def tags(file: BinaryIO) -> int:
    """The bytes of the ID3v2 tags that a file begins with, in front of whatever format: MPEG has no other place for a
    title, and taggers put them before WAV and AIFF too. 0 where nothing follows them."""
    size = file.seek(0, io.SEEK_END)
    start = 0
    for _ in range(_MOST_TAGS):
        head = at(file, start, 10)
        if len(head) < 10 or head[:3] != b"ID3" or max(head[6:]) > 0x7F:
            break
        length = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        start += 10 + length + (10 if head[5] & 0x10 else 0)  # a footer repeats the head
    return start if start < size else 0


def filled_in(file: BinaryIO, start: int) -> tuple[int, bytes] | None:
    """Where the sound of a file begins at byte ``start``, and what its header should say there of the size, if its
    writer never came back to say so; None where both decoders know what to do."""
    head = at(file, start, 40)
    size = file.seek(0, io.SEEK_END) - start
    if head[:4] in _AU and len(head) >= 12:
        order = _AU[head[:4]]
        (stated,) = struct.unpack_from(order, head, 8)
        if stated == 0 or NEVER_CLOSED <= stated < _ANY_SIZE:
            return 8, struct.pack(order, _ANY_SIZE)
    if head[:4] == b"RF64" and head[12:16] == b"ds64" and len(head) >= _DS64 + 8:
        (stated,) = struct.unpack_from("<Q", head, _DS64)
        if stated == 0 or stated >= 2**63:
            begins, _ = chunk(file, start + 12, *CHUNKS[b"RF64"][1:])
            return _DS64, struct.pack("<Q", max(0, start + size - begins))
    return None


def chunk(file: BinaryIO, start: int, layout: str, wanted: bytes) -> tuple[int, int]:
    """Where the chunk of that name starts and the bytes it claims; (0, 0) where there is none."""
    head = struct.calcsize(layout)
    wide = layout.endswith("Q")  # Wave64 counts a chunk's head in and pads to 8 bytes
    for _ in range(MOST_CHUNKS):
        if len(content := at(file, start, head)) < head:
            return 0, 0
        name, length = struct.unpack(layout, content)
        if wide:
            length -= head
        if name == wanted:
            return start + head, length
        if length < 0:
            return 0, 0
        start += head + length + (-length % (8 if wide else 2 if layout.endswith("I") else 1))
    raise RuntimeError(f"none of its first {MOST_CHUNKS} chunks holds the sound")


def at(file: BinaryIO, start: int, length: int) -> bytes:
    """``length`` bytes from byte ``start``, or as many as there are."""
    file.seek(start)
    return file.read(length)

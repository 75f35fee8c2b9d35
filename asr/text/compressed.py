"""Files that may be compressed by gzip, bzip2 or xz, told by their first bytes and not by their names."""

from __future__ import annotations

import bz2
import contextlib
import functools
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from typing import IO, Any, cast

READERS: dict[bytes, tuple[str, Any]] = {
    b"\x1f\x8b": ("gzip", lambda file: gzip.GzipFile(fileobj=file)),
    b"BZh": ("bzip2", bz2.BZ2File),
    b"\xfd7zXZ\0": ("xz", lzma.LZMAFile),
    b"\x5d\0\0": ("lzma", lzma.LZMAFile),
}
WRITERS: dict[str, Any] = {
    # Without a name and a time, so that the same text is the same file.
    ".gz": functools.partial(gzip.GzipFile, "", "wb", 6, mtime=0),
    ".bz2": functools.partial(bz2.BZ2File, mode="wb"),
    ".xz": functools.partial(lzma.LZMAFile, mode="wb"),
}


class DamageError(Exception):
    """Compressed data end too early, or are not what their compressor wrote. The message names the compressor."""


@contextlib.contextmanager
def decompressed(file: io.BufferedReader[Any]) -> Iterator[IO[bytes]]:
    """``file``, from where it stands, as it was before it was compressed, if it was. Raises DamageError from within."""
    start = file.peek(6)[:6]
    name, reader = next((found for magic, found in READERS.items() if start.startswith(magic)), ("", None))
    if reader is None:
        yield cast(IO[bytes], file)
        return
    try:
        yield reader(file)
    except (EOFError, zlib.error, lzma.LZMAError) as error:
        raise DamageError(f"the {name} data") from error
    except OSError as error:
        if error.errno is not None:  # a disk's, where gzip's and bzip2's own have no number
            raise
        raise DamageError(f"the {name} data") from error


@contextlib.contextmanager
def compressing(file: IO[bytes], suffix: str) -> Iterator[IO[bytes]]:
    """``file``, what is written to it compressed as a name's ``suffix`` says, if it says so."""
    if suffix not in WRITERS:
        yield file
        return
    with WRITERS[suffix](file) if suffix != ".gz" else WRITERS[suffix](fileobj=file) as writer:
        yield writer

"""Arrays on disk, read and written by slices, for what does not fit in memory.

They lie in temporary files without a name, which the system removes when the process ends, however it ends. They are
read into memory and not mapped, so that a process's memory is what it asked for.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from asr.errors import AsrError


class Column:
    """An array (M,), or (M, width), of one type, that grows at its end."""

    def __init__(self, dtype: DTypeLike, width: int | None = None, folder: Path | None = None) -> None:
        self._dtype, self._folder = np.dtype(dtype), folder
        self.width = width
        self._tail = () if width is None else (width,)
        self._row = self._dtype.itemsize * (width or 1)
        self._length = 0
        try:
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed with the column)
        except OSError as error:
            raise self._refused(error) from error
        weakref.finalize(self, self._file.close)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(self._length)
        block = np.empty((max(stop - start, 0), *self._tail), self._dtype)
        if block.size:
            try:
                self._file.seek(start * self._row)
                self._file.readinto(block.view(np.uint8).data)
            except OSError as error:
                raise self._refused(error) from error
        return block

    def write(self, start: int, block: np.ndarray) -> None:
        """Puts ``block`` in place of the rows from ``start`` on, which lie within or at the end."""
        if block.size:
            try:
                self._file.seek(start * self._row)
                self._file.write(np.ascontiguousarray(block, self._dtype).view(np.uint8).data)
            except OSError as error:
                raise self._refused(error) from error
        self._length = max(self._length, start + len(block))

    def append(self, block: np.ndarray) -> None:
        self.write(self._length, block)

    def blocks(self, rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """The whole, ``rows`` at a time, each block with the place where it starts."""
        for start in range(0, self._length, rows):
            yield start, self[start : start + rows]

    def _refused(self, error: OSError) -> AsrError:
        where = self._folder or tempfile.gettempdir()
        return AsrError(f"temporary files cannot be kept in {where}: {error.strerror or error}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """Where columns lie, ``folder`` (None: the system's folder for temporary files), and how many bytes of ``memory``
    one step of work upon them may take."""

    folder: Path | None = None
    memory: int = 1 << 30

    def column(self, dtype: DTypeLike, width: int | None = None) -> Column:
        return Column(dtype, width, self.folder)

    def rows(self, bytes_a_row: int) -> int:
        """How many rows of work fit in the memory."""
        return max(self.memory // bytes_a_row, 1)

    def tally(self, places: Column, size: int) -> Column:
        """(size,) int32: how often each number below ``size`` comes in ``places``."""
        counts, piece, rows = self.column(np.int32), self.rows(16), self.rows(64)
        for low in range(0, size, piece):
            part = np.zeros(min(piece, size - low), np.int32)
            for _, block in places.blocks(rows):
                np.add.at(part, block[(block >= low) & (block < low + len(part))] - low, 1)
            counts.append(part)
        return counts

    def gather(self, table: Column, places: Column) -> Column:
        """``table[places]``, of float64."""
        gathered, piece, rows = self.column(np.float64), self.rows(32), self.rows(128)
        for low in range(0, len(table), piece):
            part = table[low : low + piece]
            for start, block in places.blocks(rows):
                if len(part) == len(table):
                    gathered.append(part[block])
                    continue
                inside = np.flatnonzero((block >= low) & (block < low + len(part)))
                values = gathered[start : start + len(block)] if low else np.zeros(len(block))
                values[inside] = part[block[inside] - low]
                gathered.write(start, values)
        return gathered

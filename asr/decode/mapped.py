"""Arrays in a safetensors file, mapped into memory: only the pages that are used are read."""

from __future__ import annotations

import json
import math
import mmap
from pathlib import Path

import numpy as np

_TYPES = {"I32": np.int32, "F32": np.float32, "F64": np.float64, "U8": np.uint8, "BOOL": np.bool_}
NAMES = {np.dtype(kind): name for name, kind in _TYPES.items()}
"""What safetensors calls numpy's types."""
UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)
"""What reading a file raises that is not such a file, or a damaged one."""


def map_tensors(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray], int]:
    """The file's metadata, its arrays by name, each of one dimension, and its size in bytes.

    The arrays may be written to, which changes the file in no way. Raises OSError where it cannot be read, and
    those of UNREADABLE.
    """
    with path.open("rb") as file:
        # Copy on write, because numba compiles anew for arrays that are read-only.
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    start = 8 + int.from_bytes(mapped[:8], "little")
    header = json.loads(mapped[8:start])
    metadata = header.pop("__metadata__")
    tensors: dict[str, np.ndarray] = {
        name: np.frombuffer(mapped, _TYPES[entry["dtype"]], math.prod(entry["shape"]), start + entry["data_offsets"][0])
        for name, entry in header.items()
    }
    if not all(tensor.flags.aligned for tensor in tensors.values()):
        raise ValueError("its arrays are not aligned")
    return metadata, tensors, len(mapped)

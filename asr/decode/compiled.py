"""How this room's inner loops are compiled: by numba, without Python's lock, and once for all processes."""

from __future__ import annotations

import contextlib
import functools
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.runtime.nrt import rtsys

from asr import files

_UNUSABLE = (OSError, EOFError, pickle.UnpicklingError)


def compiled(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """``numba.njit`` with ``options``, as a decorator. What it compiles is kept beside the source or in the user's
    cache, as numba does, else in ours (``$ASR_CACHE``); where nothing can be written, each process compiles anew, in
    memory.

    ``inline="always"`` is for what loops call with records of arrays: a call that LLVM does not inline is handed each
    array in seven words, and counts its references.
    """
    if function is None:
        return lambda function: compiled(function, **options)
    dispatcher = numba.njit(nogil=True, **options)(function)
    cache = _cache_of(function)
    if cache is not None:
        dispatcher._cache = cache  # what enable_caching does, which knows no other cache than numba's own
    return dispatcher


def _cache_of(function: Callable[..., Any]) -> FunctionCache | None:
    """None where no folder can be written. numba alone would refuse even to define the function then."""
    with contextlib.suppress(RuntimeError):
        return _Cache(function)
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(files.cache_directory() / "compiled")
    try:
        return _Cache(function)
    except RuntimeError:
        return None
    finally:
        numba.config.CACHE_DIR = before


@functools.cache
def _stamp() -> tuple[tuple[str, int, int], ...]:
    """Name, time and size of each file that compiled code may come from."""
    sources = sorted([*Path(__file__).parent.glob("*.py"), *(Path(__file__).parents[1] / "train").glob("*.py")])
    return tuple((path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in sources)


class _Cache(FunctionCache):  # type: ignore[misc]  # numba has no types
    """numba's, but a disk that is full and a file that a crash left torn cost time, not the command; and what is kept
    goes by all of this room's sources. numba looks at the function's own file alone, and would run machine code into
    which a function of another file, as it used to be, was compiled."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file = IndexDataCacheFile(
            cache_path=self._cache_path, filename_base=self._impl.filename_base, source_stamp=_stamp()
        )

    def save_overload(self, sig: Any, data: Any) -> None:
        with contextlib.suppress(*_UNUSABLE):
            super().save_overload(sig, data)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """As numba's own, without making ready for compiling first, which takes half a second and, where scipy is
        installed, half a second more: what is compiled already needs memory management alone, or hashing's keys."""
        import numba.cpython.hashing  # noqa: F401  # makes the keys known to LLVM

        rtsys.initialize(target_context)
        with contextlib.suppress(*_UNUSABLE):
            return self._load_overload(sig, target_context)
        return None

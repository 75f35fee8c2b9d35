"""How this room's inner loops are compiled: by numba, without Python's lock, and once for all processes."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable
from typing import Any

import numba
from numba.core.caching import FunctionCache

from asr import files

_UNUSABLE = (OSError, EOFError, pickle.UnpicklingError)


def compiled(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """``numba.njit`` with ``options``, as a decorator. What it compiles is kept beside the source or in the user's
    cache, as numba does, else in ours (``$ASR_CACHE``); where nothing can be written, each process compiles anew, in
    memory."""
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


class _Cache(FunctionCache):  # type: ignore[misc]  # numba has no types
    """numba's, but a disk that is full and a file that a crash left torn cost time, not the command."""

    def save_overload(self, sig: Any, data: Any) -> None:
        with contextlib.suppress(*_UNUSABLE):
            super().save_overload(sig, data)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        with contextlib.suppress(*_UNUSABLE):
            return super().load_overload(sig, target_context)
        return None

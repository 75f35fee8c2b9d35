"""A run folder is trained into by one process at a time, or by one group of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from asr import files, runtime
from asr.errors import AsrError, TrainingError

LOCK = "training.lock"


@contextlib.contextmanager
def claimed(directory: Path) -> Iterator[None]:
    """As ``files.claimed``. Of processes that train together the first one claims it, for all. Raises TrainingError
    where another has it."""
    with contextlib.ExitStack() as stack:
        if runtime.is_first():
            try:
                stack.enter_context(files.claimed(directory, LOCK, "trained into", "train elsewhere with --out"))
            except AsrError as error:
                raise TrainingError(str(error)) from error
        yield

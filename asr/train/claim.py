"""A run folder is trained into by one process at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

from asr import runtime
from asr.errors import TrainingError

LOCK = "training.lock"
_MOST_BYTES = 200
_claimed: set[Path] = set()
"""Folders of this process, whose own locks the system would grant it twice."""


@contextlib.contextmanager
def claimed(directory: Path) -> Iterator[None]:
    """``directory`` is this process's to train into, until the context ends or the process does, however it ends.

    The lock is the kernel's (POSIX), which loader processes do not inherit, so that a killed run's workers don't hold
    it; what is written in the file only says who has it. Of processes that train together the first one claims it, for
    all. Raises TrainingError where another has it.
    """
    if not runtime.is_first():
        yield
        return
    path = directory.resolve() / LOCK
    if path in _claimed:
        raise TrainingError(f"{directory} is being trained into by this process already: train elsewhere with --out")
    before = directory.exists()
    try:
        descriptor = _open(path, directory)
    except OSError as error:
        raise TrainingError(f"{directory} cannot be trained into: {error.strerror or error}") from error
    _claimed.add(path)
    try:
        yield
    finally:
        _claimed.discard(path)
        with contextlib.suppress(OSError):
            path.unlink()  # before it is unlocked: who opens it meanwhile sees that it is gone
        os.close(descriptor)
        if not before:
            with contextlib.suppress(OSError):  # nothing was made of it
                directory.rmdir()


def _open(path: Path, directory: Path) -> int:
    """The lock file, locked. Raises TrainingError, naming the holder, and OSError."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, _MOST_BYTES, 0).decode(errors="replace").strip()
            if error.errno in (errno.EAGAIN, errno.EACCES):
                os.close(descriptor)
                raise TrainingError(
                    f"{directory} is being trained into by {holder or 'another process'}: wait for it, stop it, or "
                    "train elsewhere with --out"
                ) from error
            # A file system without locks: better to train than not.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.lstat()):
                since = time.strftime("%Y-%m-%d %H:%M:%S")
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()} since {since}\n".encode(), 0)
                return descriptor
        os.close(descriptor)  # its holder removed it just before

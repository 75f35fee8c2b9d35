"""Files: where things lie, files that appear whole or not at all, and fetching them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import json
import os
import platform
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from asr.errors import AsrError, DownloadError

_TIMEOUT = 60
_BLOCK = 1 << 20
_LOOKED_FOR = 8
"""Writers at once whose leavings are looked for."""
_MOST_BYTES = 200
_claimed: set[Path] = set()
"""Locks of this process, which the system would grant it twice."""


def cache_directory() -> Path:
    """Where synthesised corpora and downloads are kept: ``$ASR_CACHE``, or ``asr`` under the user's cache directory."""
    if explicit := os.environ.get("ASR_CACHE"):
        return Path(explicit)
    if configured := os.environ.get("XDG_CACHE_HOME"):
        return Path(configured) / "asr"
    try:
        return Path.home() / ".cache" / "asr"
    except (
        RuntimeError
    ):  # no home at all, as in a container under any user: where nothing can be kept, as writers will say
        return Path(os.devnull) / "asr"


def data_root(explicit: str | None, recipe: str) -> Path:
    """Where relative corpus paths start: ``--data``, else ``$ASR_DATA``, else the recipe's ``data:``."""
    return Path(explicit or os.environ.get("ASR_DATA") or recipe).expanduser().absolute()


@contextlib.contextmanager
def replacing(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """A file that appears under ``path`` whole or not at all: written aside, flushed to disk, then renamed.

    Writers at the same time write aside each for itself, and the last to finish is the one that is read. What a killed
    writer left aside the next one takes over. What is no regular file (/dev/stdout, a pipe) is written to as it is.
    Raises AsrError where the disk refuses.
    """
    encoding = None if "b" in mode else "utf-8"
    target = path.resolve()  # a link stays a link
    try:
        if target.exists() and not target.is_file() and not target.is_dir():
            with target.open(mode, encoding=encoding) as file:
                yield file
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        aside, descriptor = _open_aside(target)
        try:
            with os.fdopen(descriptor, mode, encoding=encoding) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                aside.replace(target)  # while it is locked, so that no other writer takes it for abandoned
        except BaseException:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)
            raise
        _remove_abandoned(target)
    except (OSError, RuntimeError) as error:
        refusal = _refusal(error)
        if refusal is None:
            raise
        raise AsrError(f"{path} cannot be written: {refusal.strerror or refusal}") from error


def _refusal(error: BaseException | None) -> OSError | None:
    """What the system refused, be it behind another error: torch.save raises RuntimeError where the disk is full."""
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error


def _open_aside(target: Path) -> tuple[Path, int]:
    """An empty file beside ``target`` that is this writer's alone, and its descriptor, which holds the lock on it."""
    for number in itertools.count():
        aside = _aside(target, number)
        descriptor = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            locked = try_lock(descriptor)
        except OSError:  # a file system without locks: nobody else comes upon a name of chance
            os.close(descriptor)
            aside.unlink(missing_ok=True)
            aside = _aside(target, secrets.token_hex(8))
            return aside, os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        if locked and _is_named(descriptor, aside):
            os.ftruncate(descriptor, 0)
            return aside, descriptor
        os.close(descriptor)
    raise AssertionError("numbers do not end")


def _remove_abandoned(target: Path) -> None:
    """Removes what writers that were killed left beside ``target``: their locks went with them."""
    for aside in (_aside(target, number) for number in range(_LOOKED_FOR)):
        with contextlib.suppress(OSError):
            descriptor = os.open(aside, os.O_RDWR | os.O_NOFOLLOW)
            try:
                if try_lock(descriptor) and _is_named(descriptor, aside):
                    aside.unlink()
            finally:
                os.close(descriptor)


def _aside(target: Path, number: int | str) -> Path:
    return target.with_name(f".{target.name}.{number}.partial")


def _is_named(descriptor: int, path: Path) -> bool:
    """Whether ``path`` is still the open file: another may have renamed or removed it before this one had the lock."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def try_lock(descriptor: int) -> bool:
    """Takes the lock on an open file, which it holds until it is closed everywhere; False where another has it. Raises
    OSError on a file system that has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


@contextlib.contextmanager
def claimed(directory: Path, lock: str, doing: str, otherwise: str) -> Iterator[None]:
    """``directory`` is this process's to be ``doing`` ("trained into"), until the context ends or the process does,
    however it ends.

    The lock on the file ``lock`` in it is the kernel's (POSIX), which child processes do not inherit, so that a killed
    run's workers don't hold it; what is written in the file only says who has it. Raises AsrError where another has it,
    which says what to do ``otherwise``.
    """
    path = directory.resolve() / lock
    if path in _claimed:
        raise AsrError(f"{directory} is being {doing} by this process already: {otherwise}")
    before = directory.exists()
    try:
        descriptor = _open_claim(path, directory, doing, otherwise)
    except OSError as error:
        raise AsrError(f"{directory} cannot be {doing}: {error.strerror or error}") from error
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


def _open_claim(path: Path, directory: Path, doing: str, otherwise: str) -> int:
    """The lock file, locked. Raises AsrError, naming the holder, and OSError."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, _MOST_BYTES, 0).decode(errors="replace").strip()
            if error.errno in (errno.EAGAIN, errno.EACCES):
                os.close(descriptor)
                who = holder or "another process"
                raise AsrError(
                    f"{directory} is being {doing} by {who}: wait for it, stop it, or {otherwise}"
                ) from error
            # A file system without locks: better to work than not.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.lstat()):
                since = time.strftime("%Y-%m-%d %H:%M:%S")
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()} since {since}\n".encode(), 0)
                return descriptor
        os.close(descriptor)  # its holder removed it just before


def strict_json(text: str) -> Any:
    """What JSON ``text`` says. Raises ValueError, with a reason, for all that is not JSON as RFC 8259 has it (NaN among
    it), for halves of characters, which can be written nowhere, and for what Python cannot take in: numbers beyond a
    float's or of thousands of digits, and nesting too deep."""
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from error
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    except UnicodeEncodeError as error:
        raise ValueError("it holds half of a character, a lone surrogate") from error
    except ValueError as error:
        raise ValueError("it holds NaN, an infinite number, or one of thousands of digits") from error
    return value


def fetch(url: str, path: Path, sha256: str) -> None:
    """Downloads ``url`` to ``path``, going on from ``path``.part where there is one; the file appears under its name
    only once its checksum is right. Raises DownloadError."""
    import urllib.error
    import urllib.request
    from http.client import HTTPException

    if path.is_file():
        return
    part = path.with_name(path.name + ".part")
    have = part.stat().st_size if part.exists() else 0
    try:
        request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
            _receive(response, part, have if response.status == 206 else 0)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416: nothing lies past what we have, so the part is the whole or is wrong
            raise DownloadError(f"{url}: the server answered {error.code} {error.reason}") from error
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
        kept = part.stat().st_size if part.exists() else 0
        reason = getattr(error, "reason", None) or error
        raise DownloadError(f"{url}: {reason}; {kept} bytes are kept, run again to go on from there") from error
    except ValueError as error:
        raise DownloadError(f"{url} is not an address: it starts with neither https:// nor http://") from error
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        part.unlink()
        raise DownloadError(f"{url}: wrong checksum, expected SHA-256 {sha256}, found {found}; it was thrown away")
    part.replace(path)


def _receive(response: object, part: Path, have: int) -> None:
    """Appends the response to ``part`` after its first ``have`` bytes. Raises ConnectionError where it falls short."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    length = response.headers.get("Content-Length")  # type: ignore[attr-defined]
    total = have + int(length) if length else None
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with (
        part.open("ab" if have else "wb") as file,
        Progress(*columns, console=Console(stderr=True), transient=True) as progress,
    ):
        task = progress.add_task(part.stem, total=total, completed=have)
        while block := response.read(_BLOCK):  # type: ignore[attr-defined]
            file.write(block)
            have += len(block)
            progress.update(task, completed=have)
    if total is not None and have < total:
        raise ConnectionError(f"the connection was cut at {have} of {total} bytes")

"""Files: where things lie, files that appear whole or not at all, and fetching them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any

from asr.errors import AsrError, DownloadError

_TIMEOUT = 60
_BLOCK = 1 << 20


def cache_directory() -> Path:
    """Where synthesised corpora and downloads are kept: ``$ASR_CACHE``, or ``asr`` under the user's cache directory."""
    if explicit := os.environ.get("ASR_CACHE"):
        return Path(explicit)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "asr"


def data_root(explicit: str | None, recipe: str) -> Path:
    """Where relative corpus paths start: ``--data``, else ``$ASR_DATA``, else the recipe's ``data:``."""
    return Path(explicit or os.environ.get("ASR_DATA") or recipe).expanduser().absolute()


@contextlib.contextmanager
def replacing(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """A file that appears under ``path`` whole or not at all: written aside, flushed to disk, then renamed.

    The aside name is fixed, so that a killed writer leaves one file that the next overwrites. What is no regular file
    (/dev/stdout, a pipe) is written to as it is. Raises AsrError where the disk refuses.
    """
    encoding = None if "b" in mode else "utf-8"
    target = path.resolve()  # a link stays a link
    aside = target.with_name(f".{target.name}.partial")
    try:
        if target.exists() and not target.is_file() and not target.is_dir():
            with target.open(mode, encoding=encoding) as file:
                yield file
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        with aside.open(mode, encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(target)
    except OSError as error:
        raise AsrError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def fetch(url: str, path: Path, sha256: str) -> None:
    """Downloads ``url`` to ``path``, going on from ``path``.part where there is one; the file appears under its name
    only once its checksum is right. Raises DownloadError."""
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

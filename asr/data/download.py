"""Fetching LibriSpeech (OpenSLR 12): resumed where it was cut, verified, unpacked whole or not at all."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from pathlib import Path

from asr.errors import DownloadError

SHA256 = {
    "dev-clean": "76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3",
    "dev-other": "12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365",
    "test-clean": "39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23",
    "test-other": "d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29",
    "train-clean-100": "d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2",
    "train-clean-360": "146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf",
    "train-other-500": "ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2",
}
"""Checksums of OpenSLR 12's archives, as torchaudio.datasets lists them."""
_TIMEOUT = 60
_BLOCK = 1 << 20


def download_librispeech(
    folder: Path, splits: Sequence[str], mirror: str, checksums: Mapping[str, str] = SHA256
) -> None:
    """Puts each split that ``folder`` lacks into it, from ``mirror``/SPLIT.tar.gz.

    Raises DownloadError; what was fetched so far stays as SPLIT.tar.gz.part and the next call goes on from there.
    """
    for split in splits:
        if (folder / split).is_dir():
            continue
        if split not in checksums:
            raise DownloadError(f'the split "{split}" has no known checksum; known: {", ".join(sorted(checksums))}')
        try:
            folder.mkdir(parents=True, exist_ok=True)
            archive = folder / f"{split}.tar.gz"
            fetch(f"{mirror.rstrip('/')}/{split}.tar.gz", archive, checksums[split])
            _unpack(archive, split, folder)
            archive.unlink()
        except OSError as error:
            raise DownloadError(f"{split} cannot be stored in {folder}: {error.strerror or error}") from error


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


def _unpack(archive: Path, split: str, folder: Path) -> None:
    """Moves LibriSpeech/``split`` out of the archive to ``folder``/``split``."""
    aside = Path(tempfile.mkdtemp(prefix=f".{split}-", dir=folder))
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(aside, filter="data")
        inside = aside / "LibriSpeech" / split
        if not inside.is_dir():
            raise DownloadError(f"{archive} holds no LibriSpeech/{split}")
        inside.replace(folder / split)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DownloadError(f"{archive} does not unpack: {error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)

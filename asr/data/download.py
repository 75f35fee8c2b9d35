"""Fetching LibriSpeech (OpenSLR 12): resumed where it was cut, verified, unpacked whole or not at all."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from asr.errors import DownloadError
from asr.files import fetch

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

"""Which files below a folder are recordings."""

from __future__ import annotations

import logging
import os
from collections.abc import Container, Iterator
from pathlib import Path

from asr.audio.recording import describe
from asr.errors import AudioError

log = logging.getLogger(__name__)

_SUFFIXES = (
    "3gp,aac,ac3,aif,aifc,aiff,amr,au,avi,caf,flac,flv,m2ts,m4a,m4b,m4v,mka,mkv,mov,mp2,mp3,mp4,mpeg,mpg,oga,ogg,ogv,"
    "opus,snd,sph,spx,tta,w64,wav,wave,weba,webm,wma,wmv,wv"
)
"""What files that hold sound are called."""


def sounds(path: Path) -> bool:
    """Whether a file is called as recordings are."""
    return path.suffix[1:].lower() in _SUFFIXES.split(",")


def recordings_below(folder: Path, also: Container[str] = ()) -> Iterator[Path]:
    """The recordings below a folder, in folders that are links too, hidden ones left out, each folder's in the order of
    their names; files whose suffixes, such as ``.tar``, are in ``also`` too. A folder that is linked twice, or to
    itself, is searched once.

    A link that leads nowhere is logged where its name is no recording's: it may have led to a folder. Raises AudioError
    for a folder that cannot be searched.
    """

    def refuse(error: OSError) -> None:
        raise AudioError(f"{describe(Path(error.filename))} cannot be searched: {error.strerror}") from error

    seen: set[Path] = set()
    for parent, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        real = Path(os.path.realpath(parent))
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(parent, name) for name in sorted(files) if not name.startswith(".")):
            if sounds(path) or path.suffix in also:
                yield path
            elif not path.exists():
                log.warning("%s is a link that leads nowhere", describe(path))

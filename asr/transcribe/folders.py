"""Which recordings a command names, and where their transcripts go."""

from __future__ import annotations

import glob
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from asr import audio
from asr.errors import AsrError, AudioError


def find_recordings(names: Sequence[str]) -> list[Path]:
    """The files named, those that a pattern matches, and the recordings anywhere below a folder; each once, in order.

    What is named itself is taken for a recording whatever it is called. Raises AudioError for a folder or a pattern
    that leads to none.
    """
    found: dict[Path, Path] = {}
    for name in names:
        inside = [
            file for match in matching(name) for file in (audio.recordings_below(match) if match.is_dir() else [match])
        ]
        if not inside:
            raise AudioError(f"{name} holds no recordings: no file in it is called .wav, .flac, .mp3 or the like")
        for recording in inside:
            found.setdefault(direct(recording), recording)
    return list(found.values())


def matching(name: str) -> list[Path]:
    """What is named, or what the pattern ``name`` matches, in order. Raises AudioError for one that matches nothing."""
    if not _is_pattern(name):
        return [Path(name)]
    matches = sorted(map(Path, glob.iglob(name, recursive=True)))  # noqa: PTH207 - Path.glob takes no absolute one
    if not matches:
        raise AudioError(f"no file matches {name}")
    return matches


def _is_pattern(name: str) -> bool:
    return glob.has_magic(name) and not Path(name).exists()


def direct(path: Path) -> Path:
    """The absolute path without ``..``: links before the last of these are followed, and none after it."""
    path = path.absolute()
    parts = path.parts
    if ".." not in parts:
        return path
    beyond = len(parts) - parts[::-1].index("..")
    return Path(*parts[:beyond]).resolve().joinpath(*parts[beyond:])


def common_folder(names: Iterable[str]) -> Path:
    """The innermost folder that holds everything named; of a single folder, itself."""
    parents = []
    for name in names:
        path = direct(Path(name))
        if _is_pattern(name):  # after a link, .. leads elsewhere than the pattern says
            parents += [direct(match) if match.is_dir() else direct(match).parent for match in matching(name)]
        while _is_pattern(str(path)):
            path = path.parent
        parents.append(path if path.is_dir() else path.parent)
    return Path(os.path.commonpath(parents))


def output_stems(recordings: Sequence[Path], base: Path) -> dict[Path, Path]:
    """For each recording a path of its own, relative to the output folder and without suffix: the folders are those
    below ``base``, and recordings that differ in nothing but the suffix keep it (``a.wav``, ``a.mp3``)."""
    whole = {recording: Path(os.path.relpath(direct(recording), base)) for recording in recordings}
    times = Counter(path.with_suffix("") for path in whole.values())
    stems = {
        recording: path if times[path.with_suffix("")] > 1 else path.with_suffix("")
        for recording, path in whole.items()
    }
    return stems if len(set(stems.values())) == len(stems) else whole  # a.wav, a.mp3 and a.wav.mp3


def output_paths(stem: Path, forms: Iterable[str]) -> dict[str, Path]:
    """Where each form of a transcript goes."""
    return {form: stem.with_name(f"{stem.name}.{'TextGrid' if form == 'textgrid' else form}") for form in forms}


def is_finished(recording: Path, outputs: Iterable[Path]) -> bool:
    """Whether every output is there and none is older than the recording."""
    try:
        changed = recording.stat().st_mtime
        return all(output.stat().st_mtime >= changed for output in outputs)
    except OSError:
        return False


def check_writable(folder: Path) -> None:
    """Makes the folder where it is missing. Raises AsrError before hours of work that could not be kept."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise AsrError(f"nothing can be written to {folder}: {error.strerror or error}") from error

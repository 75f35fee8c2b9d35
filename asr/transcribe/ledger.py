"""What the folder of an archive's transcripts remembers: what was asked, the plan, and which shards are finished."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr import files
from asr.errors import AsrError
from asr.transcribe.archive import Inventory, Shard, inventory, read_plan, write_plan
from asr.transcribe.worker import shard_file

LOCK = "archive.lock"
_ASKED, _PLAN, _SHARDS = "archive.json", "plan.jsonl", "shards"
_OF_TRAINING = {"last.safetensors", "meta.json", "metrics.jsonl", "training.lock", "training.png"}
"""Files of a model directory that no transcript depends on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """The plan for ``folder``: so many ``shards`` of so many recordings and ``seconds`` of audio. ``is_new``: it was
    made just now."""

    folder: Path
    shards: int
    recordings: int
    seconds: float
    is_new: bool

    def all_shards(self) -> Iterator[Shard]:
        return read_plan(self.folder / _PLAN)

    def is_finished(self, shard: Shard) -> bool:
        return shard_file(shards_folder(self.folder), shard.number).exists()

    def files(self) -> list[Path]:
        """Of the shards, finished or not."""
        return [shard_file(shards_folder(self.folder), number) for number in range(self.shards)]


def shards_folder(folder: Path) -> Path:
    return folder / _SHARDS


def open_ledger(
    folder: Path, names: Sequence[str], settings: Mapping[str, Any], *, shard_minutes: float, overwrite: bool = False
) -> Ledger:
    """Plans what is named, or remembers the plan that ``folder`` has for it.

    ``settings`` are what transcripts depend on, in words that a person knows them by. Raises AsrError where the folder
    was begun with others, or where recordings have changed since; unless it is to ``overwrite`` what is there.
    """
    asked = {**settings, "minutes a shard": shard_minutes}
    remembered = _remembered(folder)
    if remembered and overwrite:
        shutil.rmtree(shards_folder(folder), ignore_errors=True)  # first: a shard must not outlive its plan
        (folder / _ASKED).unlink()
        remembered = {}
    is_new = not remembered
    if remembered:
        _check_same(folder, remembered, asked, inventory(names))
    else:
        shards_folder(folder).mkdir(exist_ok=True)
        if any(shards_folder(folder).iterdir()):
            raise AsrError(f"{shards_folder(folder)} holds files that are no archive's of asr: give another --out")
        counted = write_plan(names, folder / _PLAN, 60 * shard_minutes)
        totals = {"shards": 0, "recordings": 0, "seconds": 0.0}
        for shard in read_plan(folder / _PLAN):
            totals["shards"] += 1
            totals["recordings"] += len(shard.entries)
            totals["seconds"] += shard.seconds
        remembered = {"files": counted.files, "digest": counted.digest, "settings": asked, **totals}
        with files.replacing(folder / _ASKED) as file:
            json.dump(remembered, file, indent=1)
    return Ledger(
        folder=folder,
        shards=remembered["shards"],
        recordings=remembered["recordings"],
        seconds=remembered["seconds"],
        is_new=is_new,
    )


def _remembered(folder: Path) -> dict[str, Any]:
    """What ``folder`` was begun with; empty where it was not."""
    path = folder / _ASKED
    if not path.exists():
        return {}
    try:
        remembered: dict[str, Any] = files.strict_json(path.read_text(encoding="utf-8"))
        if remembered.keys() != {"files", "digest", "settings", "shards", "recordings", "seconds"}:
            raise ValueError("it holds other keys than expected")
    except (AttributeError, OSError, ValueError) as error:
        raise AsrError(f"{path} cannot be read: {error}; start over with --overwrite, or give another --out") from error
    return remembered


def _check_same(folder: Path, then: Mapping[str, Any], asked: Mapping[str, Any], found: Inventory) -> None:
    advice = "go on as it was begun, give another --out, or start over with --overwrite"
    for name, value in asked.items():
        if (before := then["settings"].get(name)) != json.loads(json.dumps(value)):
            raise AsrError(f"{folder} was begun with other settings ({name}: {before} then, {value} now): {advice}")
    if found.files != then["files"]:
        raise AsrError(f"{folder} was begun with {then['files']} files, and {found.files} are named now: {advice}")
    if found.digest != then["digest"]:
        raise AsrError(f"{folder} was begun with other files, or some of them have changed since: {advice}")


def fingerprint(model: Path) -> str:
    """Of what transcripts depend on in a model directory."""
    digest = hashlib.sha256()
    for path in sorted(model.iterdir()):
        if path.is_file() and path.name not in _OF_TRAINING:
            digest.update(path.name.encode(errors="surrogateescape") + b"\0")
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]

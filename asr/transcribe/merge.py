"""The files of finished shards, made into one by the recordings' ids, in memory that does not grow with them."""

from __future__ import annotations

import contextlib
import heapq
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from asr import files
from asr.records import Word
from asr.text.printable import printable
from asr.transcribe.formats import ctm_line

OPEN_FILES = 128
"""At once; of more shards, as many at a time are made into one."""
FORMS: dict[str, Callable[[dict[str, Any]], Iterable[str]]] = {
    "txt": lambda row: [f"{printable(row['id'], line=True)}\t{printable(row['text'], line=True)}"],
    "ctm": lambda row: (
        ctm_line(row["id"], word.pop("channel", None) or 1, Word(**word)) for word in map(dict, row["words"])
    ),
}
"""What an archive's transcripts are written as beside JSON: the lines of one."""


@dataclass(slots=True, kw_only=True)
class Merged:
    """What an archive's transcripts are: recordings ``transcribed``, ``failed`` and, of the transcribed ones,
    ``damaged`` ones that something is missing of; ``seconds`` of audio."""

    transcribed: int = 0
    failed: int = 0
    damaged: int = 0
    seconds: float = 0.0


def merge(shards: Sequence[Path], out: Path, forms: Iterable[str] = ()) -> Merged:
    """Writes transcripts.jsonl and failures.jsonl, and the transcripts in other ``forms``, to ``out``; by id each.

    Of recordings of the same id the first of the archive is transcribed, and the others have failed. Raises AsrError
    where the disk refuses.
    """
    merged = Merged()
    with contextlib.ExitStack() as stack:
        transcripts = stack.enter_context(files.replacing(out / "transcripts.jsonl"))
        failures = stack.enter_context(files.replacing(out / "failures.jsonl"))
        others = {form: stack.enter_context(files.replacing(out / f"transcripts.{form}")) for form in forms}
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=out, prefix=".merging-"))
        last: dict[str, Any] = {"id": None}
        for line in _by_id(shards, Path(folder)):
            row = json.loads(line)
            if row["id"] == last["id"]:
                row = {"id": row["id"], "file": row["file"], "error": f"the id {row['id']} is that of {last['file']}"}
            else:
                last = row
            if "error" in row:
                merged.failed += 1
                failures.write(json.dumps(row, ensure_ascii=False) + "\n")
                continue
            merged.transcribed += 1
            merged.damaged += "warnings" in row
            merged.seconds += row["duration"]
            transcripts.write(line)
            for form, file in others.items():
                file.writelines(f"{text}\n" for text in FORMS[form](row))
    return merged


def _by_id(shards: Sequence[Path], folder: Path) -> Iterator[str]:
    """The lines of shards by id; of the same id, in the order of the shards. ``folder`` is for what is in between."""
    level = 0
    while len(shards) > OPEN_FILES:
        level += 1
        joined = []
        for start in range(0, len(shards), OPEN_FILES):
            joined.append(folder / f"{level}-{start}")
            with joined[-1].open("w", encoding="utf-8") as file:
                file.writelines(_joined(shards[start : start + OPEN_FILES]))
        shards = joined
    yield from _joined(shards)


def _joined(shards: Sequence[Path]) -> Iterator[str]:
    with contextlib.ExitStack() as stack:
        opened: list[IO[str]] = [stack.enter_context(shard.open(encoding="utf-8")) for shard in shards]
        yield from heapq.merge(*opened, key=lambda line: json.loads(line)["id"])

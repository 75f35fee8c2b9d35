"""An archive: its recordings in an order that is always the same, cut into shards of so many seconds.

A recording may be a file, a member of a tar, a cut of a lhotse Shar, or a line of a manifest. Nothing of it is read
here but its header, and not even that where a manifest or a Shar tells how long it is. The plan lies on disk, a line a
shard, so that memory does not grow with the archive.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr import audio, files
from asr.audio import Member, describe
from asr.data import shar
from asr.data.layouts import read_manifest
from asr.errors import AudioError, CorpusError
from asr.transcribe import folders

MOST_ENTRIES = 5000
"""Of a shard, however short they are."""
_MANIFESTS = {".jsonl", ".json", ".csv", ".tsv"}
_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A recording of the archive, or the part of one from ``offset`` that is ``duration`` seconds long, None being all.

    ``seconds`` is about how long it is, 0 where its header does not tell. A ``fault`` is why it cannot be read, found
    before it was opened.
    """

    id: str
    recording: Path | Member
    seconds: float = 0.0
    offset: float = 0.0
    duration: float | None = None
    fault: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """What one process transcribes in one go."""

    number: int
    entries: tuple[Entry, ...]

    @property
    def seconds(self) -> float:
        return sum(entry.seconds for entry in self.entries)


@dataclass(slots=True, kw_only=True)
class Inventory:
    """What an archive is made of, as far as the file system tells: how many files, and a ``digest`` of their names,
    sizes and times of change."""

    files: int = 0
    digest: str = ""


def inventory(names: Sequence[str]) -> Inventory:
    """The inventory of what is named. Raises AudioError where nothing is."""
    counted = Inventory()
    for _ in _counted(names, counted):
        pass
    return counted


def write_plan(names: Sequence[str], path: Path, seconds: float) -> Inventory:
    """Cuts what is named into shards of ``seconds`` of audio or a little more, and writes them to ``path``.

    Names are of recordings, tars, manifests, Shar folders, folders of any of them but manifests, or patterns. Raises
    AudioError, CorpusError for a manifest or a Shar that is malformed, and AsrError where the disk refuses.
    """
    counted = Inventory()
    base = folders.common_folder(names)
    entries = (entry for file in _counted(names, counted) for entry in _entries(file, base))
    with files.replacing(path) as plan:
        for shard in _shards(entries, seconds):
            plan.write(json.dumps([_as_row(entry) for entry in shard.entries]) + "\n")
    return counted


def read_plan(path: Path) -> Iterator[Shard]:
    """The shards that ``write_plan`` wrote, one at a time."""
    with path.open(encoding="utf-8") as plan:
        for number, line in enumerate(plan):
            yield Shard(number=number, entries=tuple(map(_from_row, json.loads(line))))


def _shards(entries: Iterable[Entry], seconds: float) -> Iterator[Shard]:
    numbers = itertools.count()
    held: list[Entry] = []
    length = 0.0
    for entry in entries:
        held.append(entry)
        length += entry.seconds
        if length >= seconds or len(held) == MOST_ENTRIES:
            yield Shard(number=next(numbers), entries=tuple(held))
            held, length = [], 0.0
    if held:
        yield Shard(number=next(numbers), entries=tuple(held))


def _as_row(entry: Entry) -> list[Any]:
    recording = entry.recording
    member = [recording.name, recording.start, recording.size] if isinstance(recording, Member) else None
    file = recording.file if isinstance(recording, Member) else recording
    return [entry.id, str(file), member, entry.seconds, entry.offset, entry.duration, entry.fault]


def _from_row(row: list[Any]) -> Entry:
    id, file, member, seconds, offset, duration, fault = row
    recording: Path | Member = Path(file)
    if member is not None:
        recording = Member(file=Path(file), name=member[0], start=member[1], size=member[2])
    return Entry(id=id, recording=recording, seconds=seconds, offset=offset, duration=duration, fault=fault)


# ---------------------------------------------------------------------------------------------------- what is there


def _counted(names: Sequence[str], into: Inventory) -> Iterator[Path]:
    """The files of the archive in order, counted on the way. A Shar is its folder."""
    digest = hashlib.sha256()
    for path in _found(names):
        for file in _parts_of_shar(path) if path.is_dir() else [path]:
            facts = ""
            with contextlib.suppress(OSError):  # who reads it will say that it is not there
                status = file.stat()
                facts = f"{status.st_size} {status.st_mtime_ns}"
            digest.update(os.fsencode(file) + f"\0{facts}\n".encode())
            into.files += 1
        yield path
    into.digest = digest.hexdigest()


def _found(names: Sequence[str]) -> Iterator[Path]:
    for name in names:
        for match in folders.matching(name):
            yield from _within(folders.direct(match))


def _within(path: Path) -> Iterator[Path]:
    if not path.is_dir() or _parts_of_shar(path):
        yield path
        return
    inside = audio.recordings_below(path, also=(".tar",))
    first = next(inside, None)
    if first is None:
        raise AudioError(f"{path} holds no recordings: no file in it is called .wav, .flac, .mp3 or the like, or .tar")
    yield first
    yield from inside


def _parts_of_shar(folder: Path) -> list[Path]:
    """The files of a Shar that tell of recordings and hold them; none where the folder is no Shar."""
    cuts, tars = sorted(folder.glob("cuts.*.jsonl*")), sorted(folder.glob("recording.*.tar"))
    return [*cuts, *tars] if cuts and tars else []


# --------------------------------------------------------------------------------------------- files to their entries


def _entries(path: Path, base: Path) -> Iterator[Entry]:
    if path.is_dir():
        return _of_shar(path)
    if path.suffix.lower() in _MANIFESTS:
        return _of_manifest(path)
    if path.name.lower().endswith(_PACKED):
        raise AudioError(f"{path} is compressed, and is read from its middle: unpack it to a plain .tar")
    id = describe(Path(os.path.relpath(path, base)))
    if path.suffix.lower() == ".tar":
        return _of_tar(path, id)
    return iter([Entry(id=id, recording=path, seconds=_length(path))])


def _length(recording: Path | Member) -> float:
    """Of a recording, in seconds, as its header has it. What is wrong with one is said where it is transcribed."""
    with contextlib.suppress(AudioError):
        return round(audio.outline(recording).duration, 3)
    return 0.0


def _of_manifest(path: Path) -> Iterator[Entry]:
    for line in read_manifest(path, texts=False):
        seconds = line.duration or max(0.0, _length(line.audio) - line.offset)
        yield Entry(id=line.id, recording=line.audio, seconds=seconds, offset=line.offset, duration=line.duration)


def _of_tar(path: Path, id: str) -> Iterator[Entry]:
    """The members that sound, and where the tar breaks off a fault."""
    try:
        for member in _members(path):
            if audio.sounds(Path(member.name)):
                yield Entry(id=f"{id}/{describe(Path(member.name))}", recording=member, seconds=_length(member))
    except AudioError as error:
        yield Entry(id=id, recording=path, fault=str(error))


def _members(path: Path) -> Iterator[Member]:
    """The regular files of a tar, whose heads alone are read. Raises AudioError where it breaks off or is none."""
    after = "its beginning"
    try:
        with tarfile.open(path, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined] # it would remember each
                if member.isreg() and not member.issparse():
                    after = member.name
                    yield Member(file=path, name=member.name, start=member.offset_data, size=member.size)
            with path.open("rb") as file:  # tarfile takes whatever is no member for the end
                file.seek(tar.offset)
                if file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
                    raise tarfile.ReadError("there is no end mark")
    except (tarfile.TarError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise AudioError(f"{describe(path)} cannot be read past {describe(Path(after))}: {reason}") from error


def _of_shar(folder: Path) -> Iterator[Entry]:
    """The cuts of a lhotse Shar, each with its audio: the two lie in files of the same number, in the same order."""
    for shard in shar.shards_of(folder):
        assert shard.recordings is not None  # it would be no Shar here
        listing, tar, told = shard.cuts, shard.recordings, _cuts(shard)
        held = (member for member in _members(tar) if not member.name.endswith((".json", ".nometa")))
        lost = ""
        try:
            for id, seconds in told:
                lost = id
                if (member := next(held, None)) is None:
                    raise AudioError(f"{describe(tar)} ends before the audio of {id}, which {listing.name} lists")
                if str(Path(member.name).with_suffix("")) != id:
                    raise CorpusError(f"{tar}: expected the audio of {id}, found {describe(Path(member.name))}")
                fault = f"{describe(member)}: the cut holds no audio" if member.name.endswith(".nodata") else ""
                yield Entry(id=id, recording=member, seconds=seconds, fault=fault)
        except AudioError as error:
            ids = itertools.chain([lost], (id for id, _ in told))
            yield from (Entry(id=id, recording=tar, fault=str(error)) for id in ids)
        else:
            if (surplus := next(held, None)) is not None:
                raise CorpusError(f"{tar}: {listing.name} lists no cut for {describe(Path(surplus.name))}")


def _cuts(shard: shar.Shard) -> Iterator[tuple[str, float]]:
    """Ids and seconds of its cuts. Raises CorpusError with the line."""
    for number, line in enumerate(shard.lines(), 1):
        id, _, _, seconds = shar.describe(line, f"{shard.cuts}, line {number}")
        yield id, seconds

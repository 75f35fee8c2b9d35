"""Shar folders (lhotse): the cuts of each shard in a text file, their recordings in a tar file.

For training the text is read at the start, and the tar files from beginning to end in each epoch, at the disk's speed:
what a process does not need is skipped, and nothing is looked for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gzip
import itertools
import json
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asr import audio
from asr.data.cuts import again, check_sources
from asr.errors import CorpusError

_BLOCK = 1 << 20
"""Bytes that are read from a tar file at a time."""


@dataclass(frozen=True, slots=True)
class Shard:
    """``recordings`` is None in a Shar without audio."""

    cuts: Path
    recordings: Path | None

    def lines(self) -> Iterator[bytes]:
        """The JSON of each cut. Raises CorpusError."""
        try:
            with gzip.open(self.cuts) if self.cuts.suffix == ".gz" else self.cuts.open("rb") as file:
                yield from (line for line in file if line.strip())
        except (OSError, EOFError, zlib.error) as error:
            raise CorpusError(f"{self.cuts} cannot be read: {error}") from error

    def passing(self) -> Iterator[_Passing]:
        """Each recording of the tar file, until the next one is asked for. Raises CorpusError."""
        assert self.recordings is not None
        with _reading(self.recordings), tarfile.open(self.recordings, "r:*", bufsize=_BLOCK) as tar:
            while (member := tar.next()) is not None:
                recording = _Passing(tar, member, self.recordings)
                yield recording
                recording.go_past()
                tar.members.clear()  # type: ignore[attr-defined]  # or it would hold the headers of all


@contextlib.contextmanager
def _reading(tar: Path) -> Iterator[None]:
    """Raises CorpusError for whatever reading a tar file raises."""
    try:
        yield
    except (OSError, EOFError, ValueError, zlib.error, tarfile.TarError) as error:
        raise CorpusError(f"{tar} cannot be read: {error}") from error


@dataclass(slots=True)
class _Passing:
    """A recording in a tar ``file``, behind which stands what describes it."""

    tar: tarfile.TarFile
    member: tarfile.TarInfo
    file: Path
    is_past: bool = False

    @property
    def id(self) -> str:
        path = Path(self.member.name)
        return str(path.parent / path.stem)

    def read(self) -> tuple[bytes | None, bytes | None]:
        """The recording and its description, None for a cut without one. Raises CorpusError."""
        with _reading(self.file):
            recording = self._content(self.member)
            return recording, self._content(self.go_past())

    def go_past(self) -> tarfile.TarInfo | None:
        """What describes the recording, if it was not passed before."""
        if self.is_past:
            return None
        self.is_past = True
        return self.tar.next()

    def _content(self, member: tarfile.TarInfo | None) -> bytes | None:
        if member is None or member.name.endswith((".nodata", ".nometa")):
            return None
        file = self.tar.extractfile(member)
        return file.read() if file else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """An utterance of a Shar on its way to the process that decodes it: the ``line`` of its cut, its recording as it
    lies in the tar file, and the line that describes that."""

    id: str
    line: bytes
    recording: bytes | None
    described: bytes | None
    turn: int = 0

    def cut(self) -> Any:
        from lhotse.serialization import deserialize_item
        from lhotse.shar.utils import fill_shar_placeholder

        cut = deserialize_item(json.loads(self.line))
        if self.described is not None and self.recording is not None:
            recording = deserialize_item(json.loads(self.described))
            fill_shar_placeholder(manifest=recording, data=self.recording, tarpath=self.id)
            cut.recording = recording
        check_sources(cut.to_dict())
        return again(cut, self.turn)


def shards_of(path: Path) -> tuple[Shard, ...]:
    """Raises CorpusError where the folder is no Shar."""
    cuts, recordings = sorted(path.glob("cuts.*jsonl*")), sorted(path.glob("recording.*tar*"))
    if not cuts or (recordings and len(recordings) != len(cuts)):
        raise CorpusError(
            f"{path}: expected a Shar, with a recording.*.tar for each cuts.*.jsonl.gz, found {len(recordings)} and "
            f"{len(cuts)} of them"
        )
    return tuple(Shard(file, recordings[i] if recordings else None) for i, file in enumerate(cuts))


def describe(line: bytes, where: str) -> tuple[str, str, str, float]:
    """Id, text, speaker (empty where none is named) and seconds of the cut in ``line``. Raises CorpusError."""
    try:
        cut = json.loads(line)
        said = cut.get("supervisions") or []
        id, seconds = cut["id"], cut["duration"]
        if not (isinstance(seconds, int | float) and 0 < seconds < audio.MAX_SECONDS):
            raise ValueError(f"expected a duration in seconds, found {seconds}")
        text = " ".join(s["text"] for s in said if s.get("text"))
        speaker = next((str(s["speaker"]) for s in said if s.get("speaker")), "")
        f"{id}{text}{speaker}".encode()  # JSON can spell half a surrogate pair, which has no UTF-8
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorpusError(f"{where}: not a lhotse cut: {error}") from error
    return str(id), text, speaker, float(seconds)


@dataclass
class Tape:
    """The recordings of a Shar, read on and on: each pass of ``order`` names all its shards.

    ``places`` (N, 2) are each utterance's shard and line there, in the Shar's order; ``wanted`` (passes, N) which of
    them will be taken, each once in its pass. The others are skipped.
    """

    shards: Sequence[Shard]
    places: np.ndarray
    order: Sequence[Sequence[int]]
    wanted: np.ndarray

    def __post_init__(self) -> None:
        self._held: dict[tuple[int, int], Held] = {}
        self._position = 0
        self._reading = self._read()

    def __len__(self) -> int:
        """Utterances that pass."""
        return self.wanted.size

    def take(self, number: int, turn: int) -> Held:
        """Utterance ``number``, counted in the Shar's order, of pass ``turn``. Raises CorpusError."""
        while (turn, number) not in self._held:
            self._go_on()
        return self._held.pop((turn, number))

    def read_to(self, position: int) -> None:
        """Reads until so many utterances have passed."""
        while self._position < min(position, len(self)):
            self._go_on()

    def _go_on(self) -> None:
        turn, number, held = next(self._reading)
        self._position += 1
        if held is not None:
            self._held[turn, number] = dataclasses.replace(held, turn=turn)

    def _read(self) -> Iterator[tuple[int, int, Held | None]]:
        """Each utterance in the order of the tape, by pass and number; None for one that will not be taken."""
        first = np.searchsorted(self.places[:, 0], np.arange(len(self.shards) + 1)).tolist()
        for turn, order in enumerate(self.order):
            for shard in order:
                numbers = range(first[shard], first[shard + 1])
                if self.wanted[turn, numbers.start : numbers.stop].any():
                    yield from self._read_lines(turn, self.shards[shard], numbers)
                else:
                    yield from ((turn, number, None) for number in numbers)

    def _read_lines(self, turn: int, shard: Shard, numbers: range) -> Iterator[tuple[int, int, Held | None]]:
        reading = self._read_shard(shard)
        line = -1
        for number in numbers:
            while line < self.places[number, 1]:
                line += 1
                passing = next(reading, None)
            if passing is None:
                raise CorpusError(f"{shard.recordings} lacks recordings that {shard.cuts.name} lists")
            yield turn, number, passing() if self.wanted[turn, number] else None

    def _read_shard(self, shard: Shard) -> Iterator[Any]:
        """For each cut what reads it, as long as the next one is not asked for."""
        for number, (line, passing) in enumerate(
            zip(shard.lines(), shard.passing() if shard.recordings else itertools.repeat(None), strict=False), 1
        ):
            yield functools.partial(_hold, shard, line, passing, number)


def _hold(shard: Shard, line: bytes, passing: _Passing | None, number: int) -> Held:
    id, *_ = describe(line, f"{shard.cuts}, line {number}")
    if passing is None:
        return Held(id=id, line=line, recording=None, described=None)
    if passing.id != id:
        raise CorpusError(f"{shard.recordings}: expected the recording of {id}, found that of {passing.id}")
    recording, described = passing.read()
    return Held(id=id, line=line, recording=recording, described=described)

"""The layouts that corpora come in: each is a generator of utterances, read from text alone.

Nothing in a corpus is run, and nothing is skipped in silence: a malformed line raises CorpusError with its number.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr import audio
from asr.errors import AudioError, CorpusError
from asr.text.tables import (
    AUDIO_COLUMNS,
    RATE_COLUMNS,
    SPEAKER_COLUMNS,
    TEXT_COLUMNS,
    column_of,
    json_lines,
    lines,
    seconds_of,
    table_rows,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Utterance:
    """One utterance of a corpus, in the recording ``file``; ``offset`` and ``duration`` in seconds, ``duration`` None
    for "to the end", and ``sample_rate`` in Hz, 0 where the corpus does not tell it.

    ``where`` is the file that tells of it and the line there. A ``fault`` is why it cannot be used, found before its
    recording is opened.
    """

    id: str
    file: str
    text: str
    speaker: str = ""
    offset: float = 0.0
    duration: float | None = None
    sample_rate: int = 0
    where: str = ""
    fault: str = ""

    @property
    def audio(self) -> Path:
        return Path(self.file)  # not kept: making a path takes as long as reading its line


def _holds(asked: Callable[[], bool]) -> bool:
    """What ``asked`` of a path says; false for a name that no file can have, being too long."""
    try:
        return asked()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return False


def existing(path: Path) -> Path:
    return path if _holds(path.is_dir) else existing_file(path)


def existing_file(path: Path) -> Path:
    if not _holds(path.is_file):
        raise CorpusError(f"{path} is not there: give the folder that holds the corpora with --data or ASR_DATA")
    return path


def existing_folder(path: Path) -> Path:
    if not _holds(path.is_dir):
        raise CorpusError(
            f"the folder {path} is not there: give the one that holds the corpora with --data or ASR_DATA"
        )
    return path


def read_manifest(path: Path, *, texts: bool = True) -> Iterator[Utterance]:
    """Utterances of a JSON-lines, CSV or TSV manifest: ``audio_filepath`` (relative to the manifest), ``text``, and
    optionally ``duration``, ``offset`` (s), ``sampling_rate`` (Hz), ``speaker``, ``id``; also under the names that
    other tools give them. Without ``texts`` the text is optional too. Raises CorpusError with the line number."""
    if path.suffix.lower() in {".csv", ".tsv"}:
        rows = table_rows(path, "\t" if path.suffix.lower() == ".tsv" else ",")
    else:
        rows = json_lines(path)
    keys: list[str] | None = None
    manifest, folder, stem = str(path), f"{path.parent}/", path.stem
    for number, row in rows:
        where = f"{manifest}, line {number}"
        if keys != [*row]:
            keys = [*row]
            file = _column(row, AUDIO_COLUMNS, where)
            text = _column(row, TEXT_COLUMNS, where) if texts else None
            speaker, rate = column_of(row, SPEAKER_COLUMNS), column_of(row, RATE_COLUMNS)
        try:
            if not row[file]:
                raise ValueError(f"{file} is empty")
            name, said = _written(row, file), _written(row, text) if text else ""
            id, who = str(row.get("id") or f"{stem}-{number:06d}"), str(row.get(speaker or "") or "")
            offset, duration = row.get("offset"), row.get("duration")
            # JSON can spell half a surrogate pair, which no file name and no hash takes.
            f"{id}{name}{said}{who}".encode()
            utterance = Utterance(
                id=id,
                file=name if name.startswith("/") else folder + name,
                text=said,
                speaker=who,
                offset=seconds_of(offset) if offset else 0.0,
                duration=seconds_of(duration) if duration else None,
                sample_rate=_hertz(row.get(rate or "")),
                where=where,
            )
        except (TypeError, ValueError) as error:
            raise CorpusError(f"{where}: {error}") from error
        yield utterance


def _written(row: dict[str, Any], column: str) -> str:
    """What stands in a column, as text; empty where nothing does. Raises ValueError for a list or an object."""
    value = row[column]
    if type(value) is str:
        return value
    if not isinstance(value, str | int | float | None):
        raise ValueError(f"expected a string as {column}, found {str(value)[:60]}")
    return "" if value is None else str(value)


def _hertz(value: Any) -> int:
    """A sampling rate, 0 for none that a recording can have: then its header tells."""
    if type(value) is int:
        return value if 1 <= value < 1e7 else 0
    try:
        hertz = float(value or 0)
    except (TypeError, ValueError):
        return 0
    return int(hertz) if 1 <= hertz < 1e7 and hertz == int(hertz) else 0


def _column(row: dict[str, Any], names: Sequence[str], where: str) -> str:
    column = column_of(row, names)
    if column is None:
        raise CorpusError(f"{where}: '{names[0]}' is missing; found {', '.join(map(str, row))}")
    return column


def read_librispeech(split: Path) -> Iterator[Utterance]:
    """The official layout: SPLIT/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt beside its FLAC files."""
    found = False
    for transcript in sorted(split.glob("*/*/*.trans.txt")):
        for number, line in lines(transcript):
            found = True
            id, *text = line.split(maxsplit=1)
            if not text:
                raise CorpusError(f"{transcript}, line {number}: an id without a text")
            flac = transcript.parent / f"{id}.flac"
            yield Utterance(
                id=id,
                file=str(flac),
                text=text[0].strip(),
                speaker=id.split("-")[0],
                where=f"{transcript}, line {number}",
            )
    if not found:
        raise CorpusError(f"{split} holds no SPEAKER/CHAPTER/*.trans.txt: it is not laid out as LibriSpeech is")


def read_folder(folder: Path) -> Iterator[Utterance]:
    """Recordings with a .txt of the same name beside them, at any depth, in folders that are links too; the enclosing
    folder is the speaker."""
    try:
        paths = sorted(audio.recordings_below(folder))
    except AudioError as error:
        raise CorpusError(str(error)) from error
    if not paths:
        raise CorpusError(f"{folder} holds no audio files: none in it is called .wav, .flac, .mp3 or the like")
    for path in paths:
        text = path.with_suffix(".txt")
        if not text.is_file():
            raise CorpusError(f"{path} has no {text.name} beside it")
        speaker = path.parent.name if path.parent != folder else ""
        words = " ".join(line.strip() for _, line in lines(text))
        id = path.relative_to(folder).with_suffix("").as_posix()
        yield Utterance(id=id, file=str(path), text=words, speaker=speaker, where=str(text))


def read_common_voice(table: Path) -> Iterator[Utterance]:
    """A Common Voice table (path, sentence, client_id), clips in ``clips/`` beside it."""
    for number, row in table_rows(table, "\t"):
        if not row.get("path") or row.get("sentence") is None:
            raise CorpusError(f"{table}, line {number}: path or sentence is missing; found {', '.join(row)}")
        yield Utterance(
            id=Path(row["path"]).stem,
            file=str(table.parent / "clips" / row["path"]),
            text=row["sentence"],
            speaker=row.get("client_id") or "",
            where=f"{table}, line {number}",
        )


def read_kaldi(folder: Path) -> Iterator[Utterance]:
    """A Kaldi data directory: wav.scp, text, and where they are there segments and utt2spk. Recordings are looked for
    in the directory, then in the working one; a segment that ends at -1 ends with its recording. Commands (``... |``)
    in wav.scp are refused: a corpus is never run."""
    recordings = _recordings(folder)
    speakers = {key: value for _, key, value in _kaldi_table(folder / "utt2spk")}
    told: dict[str, tuple[int, str]] = {}  # each text and its line
    for number, key, value in _kaldi_table(existing_file(folder / "text")):
        if key in told:
            where = f"{folder / 'text'}, line {number}"
            fault = f"{where}: {key} has a text in line {told[key][0]} already"
            yield Utterance(id=key, file=str(folder), text=value, where=where, fault=fault)
        else:
            told[key] = number, value
    segments = folder / "segments"
    if not segments.is_file():
        for id, (number, text) in told.items():
            where = f"{folder / 'text'}, line {number}"
            file = str(_recording(recordings, id, where))
            yield Utterance(id=id, file=file, text=text, speaker=speakers.get(id, ""), where=where)
        return
    cut: set[str] = set()
    for number, id, value in _kaldi_table(segments):
        where = f"{segments}, line {number}"
        cut.add(id)
        expected = f"{where}: expected UTTERANCE RECORDING START END, found {id} {value}"
        recording, offset, duration = _stretch(value, expected)
        yield Utterance(
            id=id,
            file=str(_recording(recordings, recording, where)),
            text=told.get(id, (0, ""))[1],
            speaker=speakers.get(id, ""),
            offset=offset,
            duration=duration,
            where=where,
            fault=f"{where}: it starts where it ends, at {offset:g} s" if duration == 0 else "",
        )
    for id, (number, text) in told.items():
        if id not in cut:
            where = f"{folder / 'text'}, line {number}"
            yield Utterance(
                id=id, file=str(folder), text=text, where=where, fault=f"{where}: {id} has a text and no segment"
            )


def _kaldi_table(path: Path) -> Iterator[tuple[int, str, str]]:
    """Line numbers, keys and what follows them; nothing where the file is not there."""
    if path.is_file():
        for number, line in lines(path):
            key, *value = line.split(maxsplit=1)
            yield number, key, "".join(value).strip()


def _recordings(folder: Path) -> dict[str, Path]:
    """The recordings of a wav.scp by their names."""
    found: dict[str, Path] = {}
    for number, key, value in _kaldi_table(existing_file(folder / "wav.scp")):
        where = f"{folder / 'wav.scp'}, line {number}"
        if value.endswith("|"):
            raise CorpusError(f"{where}: a command, which is not run; write the audio out first")
        if key in found:
            raise CorpusError(f'{where}: the recording "{key}" is named twice')
        here = folder / value
        found[key] = Path(value) if not _holds(here.exists) and _holds(Path(value).exists) else here
    return found


def _recording(recordings: dict[str, Path], name: str, where: str) -> Path:
    if name not in recordings:
        raise CorpusError(f'{where}: the recording "{name}" is not in wav.scp')
    return recordings[name]


def _stretch(value: str, expected: str) -> tuple[str, float, float | None]:
    """The recording, offset and duration (s) of a segment; None for one that ends with its recording."""
    try:
        recording, start, end = value.split()
        offset = seconds_of(start)
        return recording, offset, None if float(end) == -1 else seconds_of(float(end) - float(start))
    except ValueError as error:
        raise CorpusError(expected) from error

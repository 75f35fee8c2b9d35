"""The layouts that corpora come in: each is a generator of utterances, read from text alone.

Nothing in a corpus is run, and nothing is skipped in silence: a malformed line raises CorpusError with its number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from asr.errors import CorpusError
from asr.text.tables import json_lines, lines, seconds_of, table_rows

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".mp4", ".webm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Utterance:
    """One utterance of a corpus; ``offset`` and ``duration`` in seconds, ``duration`` None for "to the end"."""

    id: str
    audio: Path
    text: str
    speaker: str = ""
    offset: float = 0.0
    duration: float | None = None


def existing(path: Path) -> Path:
    return path if path.is_dir() else existing_file(path)


def existing_file(path: Path) -> Path:
    if not path.is_file():
        raise CorpusError(f"{path} is not there: give the folder that holds the corpora with --data or ASR_DATA")
    return path


def existing_folder(path: Path) -> Path:
    if not path.is_dir():
        raise CorpusError(
            f"the folder {path} is not there: give the one that holds the corpora with --data or ASR_DATA"
        )
    return path


def read_manifest(path: Path) -> Iterator[Utterance]:
    """Utterances of a JSON-lines, CSV or TSV manifest: ``audio_filepath`` (relative to the manifest), ``text``, and
    optionally ``duration``, ``offset`` (s), ``speaker``, ``id``. Raises CorpusError with the line number."""
    if path.suffix.lower() in {".csv", ".tsv"}:
        rows = table_rows(path, "\t" if path.suffix.lower() == ".tsv" else ",")
    else:
        rows = json_lines(path)
    for number, row in rows:
        try:
            if not row["audio_filepath"]:
                raise ValueError("audio_filepath is empty")
            utterance = Utterance(
                id=str(row.get("id") or f"{path.stem}-{number:06d}"),
                audio=path.parent / str(row["audio_filepath"]),
                text=str(row["text"] if row["text"] is not None else ""),
                speaker=str(row.get("speaker") or ""),
                offset=seconds_of(row.get("offset") or 0.0),
                duration=seconds_of(row["duration"]) if row.get("duration") else None,
            )
            # JSON can spell half a surrogate pair, which no file name and no hash takes.
            f"{utterance.id}{utterance.audio}{utterance.text}{utterance.speaker}".encode()
        except KeyError as error:
            raise CorpusError(f"{path}, line {number}: {error} is missing; found {', '.join(map(str, row))}") from error
        except (TypeError, ValueError) as error:
            raise CorpusError(f"{path}, line {number}: {error}") from error
        yield utterance


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
            yield Utterance(id=id, audio=flac, text=text[0].strip(), speaker=id.split("-")[0])
    if not found:
        raise CorpusError(f"{split} holds no SPEAKER/CHAPTER/*.trans.txt: it is not laid out as LibriSpeech is")


def read_folder(folder: Path) -> Iterator[Utterance]:
    """Audio files with a .txt of the same name beside them, at any depth; the enclosing folder is the speaker."""
    found = False
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES):
        found = True
        text = path.with_suffix(".txt")
        if not text.is_file():
            raise CorpusError(f"{path} has no {text.name} beside it")
        speaker = path.parent.name if path.parent != folder else ""
        words = " ".join(line.strip() for _, line in lines(text))
        yield Utterance(id=path.relative_to(folder).with_suffix("").as_posix(), audio=path, text=words, speaker=speaker)
    if not found:
        raise CorpusError(f"{folder} holds no audio files ({', '.join(AUDIO_SUFFIXES)})")


def read_common_voice(table: Path) -> Iterator[Utterance]:
    """A Common Voice table (path, sentence, client_id), clips in ``clips/`` beside it."""
    for number, row in table_rows(table, "\t"):
        if not row.get("path") or row.get("sentence") is None:
            raise CorpusError(f"{table}, line {number}: path or sentence is missing; found {', '.join(row)}")
        yield Utterance(
            id=Path(row["path"]).stem,
            audio=table.parent / "clips" / row["path"],
            text=row["sentence"],
            speaker=row.get("client_id") or "",
        )


def read_kaldi(folder: Path) -> Iterator[Utterance]:
    """A Kaldi data directory: wav.scp, text, and where they are there segments and utt2spk. Commands (``... |``) in
    wav.scp are refused: a corpus is never run."""

    def table(name: str) -> Iterator[tuple[int, str, str]]:
        for number, line in lines(existing_file(folder / name)):
            key, *value = line.split(maxsplit=1)
            yield number, key, "".join(value).strip()

    wavs = {}
    for number, key, value in table("wav.scp"):
        if value.endswith("|"):
            raise CorpusError(
                f"{folder / 'wav.scp'}, line {number}: a command, which is not run; write the audio out first"
            )
        wavs[key] = folder / value
    texts = {key: value for _, key, value in table("text")}
    speakers = {key: value for _, key, value in table("utt2spk")} if (folder / "utt2spk").is_file() else {}

    def utterance(id: str, recording: str, offset: float, duration: float | None, where: str) -> Utterance:
        if recording not in wavs:
            raise CorpusError(f'{where}: the recording "{recording}" is not in wav.scp')
        return Utterance(
            id=id,
            audio=wavs[recording],
            text=texts.get(id, ""),
            speaker=speakers.get(id, ""),
            offset=offset,
            duration=duration,
        )

    if not (folder / "segments").is_file():
        for id in texts:
            yield utterance(id, id, 0.0, None, str(folder / "text"))
        return
    for number, id, value in table("segments"):
        where = f"{folder / 'segments'}, line {number}"
        try:
            recording, start, end = value.split()
            offset, duration = seconds_of(start), seconds_of(float(end) - float(start))
        except ValueError as error:
            raise CorpusError(f"{where}: expected UTTERANCE RECORDING START END, found {id} {value}") from error
        yield utterance(id, recording, offset, duration, where)

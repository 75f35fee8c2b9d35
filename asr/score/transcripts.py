"""Transcripts as other systems write them: what was said, and what was recognised, under one id each.

One small reader a form. Nothing is guessed at in silence: a malformed line raises CorpusError with its number, and so
does an id that comes twice.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from asr.errors import CorpusError
from asr.text.tables import json_lines, lines, seconds_of, table_rows

Form = Literal["jsonl", "csv", "tsv", "kaldi", "trn", "stm", "ctm", "plain"]

FORMS: dict[Form, str] = {
    "jsonl": "JSON lines",
    "csv": "CSV",
    "tsv": "TSV",
    "kaldi": "Kaldi text",
    "trn": "TRN",
    "stm": "STM",
    "ctm": "CTM",
    "plain": "plain text, line by line",
}
SUFFIXES: dict[str, Form] = {
    ".jsonl": "jsonl", ".json": "jsonl", ".csv": "csv", ".tsv": "tsv", ".trn": "trn", ".stm": "stm", ".ctm": "ctm",
}  # fmt: skip

_HYPOTHESIS_COLUMNS = ("hyp", "hypothesis", "pred_text", "text")
_REFERENCE_COLUMNS = ("ref", "reference", "text", "sentence")
_NOT_SCORED = "IGNORE_TIME_SEGMENT_IN_SCORING"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One utterance's text, and what else its file knows of it: the empty string, or None, where it does not.

    ``corpus`` and ``noise`` are labels to group by; ``duration`` and ``start`` are seconds, the start that of the
    utterance in its recording: in the file ``audio`` of a manifest, in the ``recording`` (file and channel) of an STM.
    ``against`` is the reference that a hypothesis was scored on when it was written, where its file tells.
    """

    id: str
    text: str
    speaker: str = ""
    corpus: str = ""
    noise: str = ""
    duration: float | None = None
    audio: Path | None = None
    recording: str = ""
    start: float | None = None
    against: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcripts:
    """A file's lines in its order, ids unique; ``skipped`` are the STM segments that say they are not to be scored."""

    path: Path
    form: Form
    lines: tuple[Line, ...]
    skipped: tuple[Line, ...] = ()

    def __str__(self) -> str:
        return f"{self.path} ({FORMS[self.form]})"


def read_references(path: Path, form: Form | None = None) -> Transcripts:
    """The texts that were said. ``form`` is that of a file whose suffix does not tell; without it, see ``form_of``.

    JSON lines and tables hold ``id`` (else ``audio_filepath``), ``ref``, ``reference``, ``text`` or ``sentence``, and
    optionally ``speaker``, ``corpus``, ``noise`` or ``snr``, ``duration``, ``offset``. Beside a Kaldi text, ``utt2spk``
    and ``utt2dur`` are read. Raises CorpusError for a file that is missing, malformed or empty, and for an id that
    comes twice.
    """
    form = SUFFIXES.get(path.suffix.lower()) or form or form_of(path)
    match form:
        case "ctm":
            raise CorpusError(f"{path} is a CTM, which tells no utterances apart: a reference is an STM or has ids")
        case "trn":
            read = list(_trn(path))
        case "stm":
            read = list(_stm(path))
        case "kaldi":
            read = list(_with_kaldi_tables(path, _kaldi(path)))
        case "plain":
            read = list(_plain(path))
        case _:
            read = [_line(row, _REFERENCE_COLUMNS, path, number) for number, row in _rows(path, form)]
    kept = tuple(line for line in read if line.text != _NOT_SCORED)
    skipped = tuple(line for line in read if line.text == _NOT_SCORED)
    return _checked(Transcripts(path=path, form=form, lines=kept, skipped=skipped))


def read_hypotheses(path: Path, references: Transcripts, form: Form | None = None) -> Transcripts:
    """What a system recognised: as ``read_references``, of ``hyp``, ``hypothesis``, ``pred_text`` or ``text``.

    A CTM's words are laid on the references: on STM segments by their midpoints, and where a word lies in none, on the
    nearest of its recording, so that no word goes uncounted; on other references by the file's name being the id.
    """
    form = SUFFIXES.get(path.suffix.lower()) or form or form_of(path)
    if (form == "plain") != (references.form == "plain"):
        raise CorpusError(
            f"{path} is {FORMS[form]} and {references.path} {FORMS[references.form]}: plain text has no ids, and is "
            "scored against plain text alone (--format says what a file is whose suffix does not)"
        )
    match form:
        case "ctm":
            read = list(_laid_out(path, references))
        case "trn":
            read = list(_trn(path))
        case "stm":
            read = list(_stm(path))
        case "kaldi":
            read = list(_kaldi(path))
        case "plain":
            read = list(_plain(path))
        case _:
            read = [_line(row, _HYPOTHESIS_COLUMNS, path, number) for number, row in _rows(path, form)]
    return _checked(Transcripts(path=path, form=form, lines=tuple(read)))


def form_of(path: Path) -> Form:
    """The form of a file whose suffix does not tell: Kaldi text where it is called ``text`` or every line begins with
    an id of its own that holds a digit, else plain text."""
    first = [line.split(maxsplit=1)[0] for _, line in lines(path)]
    ids = len(set(first)) == len(first) and all(any(c.isdigit() for c in id) for id in first)
    return "kaldi" if path.name == "text" or (first and ids) else "plain"


def listed(names: Iterable[str], count: int = 5) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


# ------------------------------------------------------------------------------------------------------- readers


def _rows(path: Path, form: Form) -> Iterator[tuple[int, dict[str, Any]]]:
    return json_lines(path) if form == "jsonl" else table_rows(path, "\t" if form == "tsv" else ",")


def _line(row: dict[str, Any], columns: tuple[str, ...], path: Path, number: int) -> Line:
    found = f"found {', '.join(map(str, row))}"
    id = next((row[key] for key in ("id", "audio_filepath") if row.get(key) not in (None, "")), None)
    if id is None:
        raise CorpusError(f"{path}, line {number}: no id; {found}")
    column = next((key for key in columns if key in row), None)
    if column is None:
        raise CorpusError(f"{path}, line {number}: no text, which is called {' or '.join(columns)}; {found}")
    others = (key for key in _REFERENCE_COLUMNS if key in row and column != key and columns is _HYPOTHESIS_COLUMNS)
    noise = next((row[key] for key in ("noise", "snr") if row.get(key) not in (None, "")), "")
    other = next(others, None)
    try:
        line = Line(
            id=str(id),
            text=_text(row[column]),
            speaker=str(row.get("speaker") or ""),
            corpus=str(row.get("corpus") or ""),
            noise=str(noise),
            duration=seconds_of(row["duration"]) if row.get("duration") else None,
            audio=path.parent / str(row["audio_filepath"]) if row.get("audio_filepath") else None,
            start=seconds_of(row["offset"]) if row.get("offset") else None,
            against=None if other is None else _text(row[other]),
        )
        # Half a surrogate pair has no UTF-8.
        f"{line.id}{line.text}{line.speaker}{line.corpus}{line.noise}{line.audio}".encode()
    except (TypeError, ValueError) as error:
        raise CorpusError(f"{path}, line {number}: {error}") from error
    return line


def _text(value: Any) -> str:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"a text is a string; found {value!r}")
    return value or ""


def _plain(path: Path) -> Iterator[Line]:
    """Blank lines count: there, nothing was said or recognised."""
    return (Line(id=f"line {number}", text=text.strip()) for number, text in lines(path, blank=True))


def _kaldi(path: Path) -> Iterator[Line]:
    for _, line in lines(path):
        id, *text = line.split(maxsplit=1)
        yield Line(id=id, text="".join(text).strip())


def _with_kaldi_tables(path: Path, read: Iterable[Line]) -> Iterator[Line]:
    def beside(name: str) -> dict[str, str]:
        file = path.with_name(name)
        return {line.id: line.text for line in _kaldi(file)} if file.is_file() else {}

    speakers, durations = beside("utt2spk"), beside("utt2dur")
    for line in read:
        seconds = durations.get(line.id)
        try:
            yield dataclasses.replace(
                line, speaker=speakers.get(line.id, ""), duration=None if seconds is None else seconds_of(seconds)
            )
        except ValueError as error:
            raise CorpusError(f"{path.with_name('utt2dur')}: {line.id}: {error}") from error


def _trn(path: Path) -> Iterator[Line]:
    """``words (speaker-utterance)``, comments after ``;;`` (NIST SCTK, whose spu_id the id is)."""
    for number, line in _nist_lines(path):
        text, bracket, id = line.removesuffix(")").rpartition("(")
        if not (line.endswith(")") and bracket and id.strip()):
            raise CorpusError(f"{path}, line {number}: expected words and an id in brackets; found {line}")
        speaker = re.match(r"([^-_]+)[-_]", id)
        yield Line(id=id.strip(), text=_spoken(text, path, number), speaker=speaker[1] if speaker else "")


def _stm(path: Path) -> Iterator[Line]:
    """``file channel speaker begin end [<labels>] words``, comments after ``;;`` (NIST SCTK)."""
    for number, line in _nist_lines(path):
        fields = line.split(maxsplit=5)
        if len(fields) < 5:
            raise CorpusError(
                f"{path}, line {number}: expected file, channel, speaker, begin, end, words; found {line}"
            )
        file, channel, speaker, *times = fields[:5]
        start, end = _times(times, path, number)
        text = fields[5] if len(fields) > 5 else ""
        if text.startswith("<") and ">" in text:
            text = text.partition(">")[2]
        yield Line(
            id=f"{file} {channel} {times[0]}-{times[1]}",
            text=_spoken(text, path, number),
            speaker=speaker,
            duration=end - start,
            recording=f"{file} {channel}",
            start=start,
        )


def _laid_out(path: Path, references: Transcripts) -> Iterator[Line]:
    """The words of a CTM, ``file channel start duration word [confidence]``, as one line for each reference."""
    words: dict[str, list[tuple[float, str]]] = defaultdict(list)
    channels: dict[str, set[str]] = defaultdict(set)
    for number, line in _nist_lines(path):
        fields = line.split()
        if len(fields) < 5:
            raise CorpusError(f"{path}, line {number}: expected file, channel, start, duration, word; found {line}")
        file, channel, *times, word = fields[:5]
        start, duration = _times(times, path, number, ordered=False)
        recording = f"{file} {channel}" if references.form == "stm" else file
        channels[recording].add(channel)
        words[recording].append((start + duration / 2, word))
    if several := [file for file, seen in channels.items() if len(seen) > 1]:
        raise CorpusError(f"{path}: {len(several)} files have several channels ({listed(several)}): refer to an STM")
    said: dict[str, list[str]] = {}
    homes: dict[str, list[Line]] = defaultdict(list)
    for reference in (*references.lines, *references.skipped):
        homes[reference.recording or reference.id].append(reference)
        said[reference.id] = []
    for recording, timed in words.items():
        if recording not in homes:
            said[recording] = [word for _, word in timed]  # of no reference: named with others of its kind
            continue
        starts = np.array([home.start or 0.0 for home in homes[recording]])
        ends = starts + np.array([home.duration or 0.0 for home in homes[recording]])
        for middle, word in sorted(timed, key=lambda pair: pair[0]):
            nearest = int(np.argmin(np.maximum(starts - middle, middle - ends).clip(0)))
            said[homes[recording][nearest].id].append(word)
    for skipped in references.skipped:
        del said[skipped.id]
    return (Line(id=id, text=" ".join(spoken)) for id, spoken in said.items())


def _spoken(text: str, path: Path, number: int) -> str:
    """The words of a NIST transcript. Raises CorpusError for its alternatives and for words that may be left out."""
    if "{" in text or "}" in text:
        raise CorpusError(f"{path}, line {number}: alternatives in braces are not read; choose one of them")
    if optional := re.search(r"\(\S+\)", text):
        raise CorpusError(
            f"{path}, line {number}: words that may be left out, as {optional[0]}, are not read; write them or not"
        )
    return text.strip()


def _nist_lines(path: Path) -> Iterator[tuple[int, str]]:
    for number, line in lines(path):
        line = line.partition(";;")[0].strip()
        if line:
            yield number, line


def _times(fields: list[str], path: Path, number: int, *, ordered: bool = True) -> tuple[float, float]:
    try:
        first, second = (float(field) for field in fields)
    except ValueError as error:
        raise CorpusError(f"{path}, line {number}: expected two times in seconds; found {' '.join(fields)}") from error
    if not (0 <= first < float("inf") and (first if ordered else 0) <= second < float("inf")):
        raise CorpusError(f"{path}, line {number}: {' '.join(fields)} is no stretch of time")
    return first, second


def _checked(transcripts: Transcripts) -> Transcripts:
    read = transcripts.lines
    if not read:
        raise CorpusError(f"{transcripts} holds no utterance")
    twice = [id for id, count in Counter(line.id for line in read).items() if count > 1]
    if twice:
        raise CorpusError(f"{transcripts}: {len(twice)} ids come more than once: {listed(twice)}")
    return transcripts

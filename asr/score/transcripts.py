"""Transcripts as other systems write them: what was said, and what was recognised, under one id each.

One small reader a form. Nothing is guessed at in silence: a malformed line raises CorpusError with its number, and so
does an id that comes twice.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from asr.errors import CorpusError
from asr.score import nist
from asr.score.forms import FORM_NAMES, SUFFIXES, Form, Line, Transcripts, listed
from asr.text.tables import (
    AUDIO_COLUMNS,
    SPEAKER_COLUMNS,
    TEXT_COLUMNS,
    column_of,
    json_lines,
    lines,
    seconds_of,
    table_rows,
)

_HYPOTHESIS_COLUMNS = ("hyp", "hypothesis", "pred_text", *TEXT_COLUMNS)
_REFERENCE_COLUMNS = ("ref", "reference", *TEXT_COLUMNS)


def read_references(path: Path, form: Form | None = None) -> Transcripts:
    """The texts that were said. ``form`` is that of a file whose suffix does not tell; without it, see ``form_of``.

    JSON lines and tables hold ``id`` (else a recording), ``ref``, ``reference``, ``text`` or what other tools call it,
    and optionally ``speaker``, ``corpus``, ``noise`` or ``snr``, ``duration``, ``offset``. Beside a Kaldi text,
    ``utt2spk`` and ``utt2dur`` are read. Raises CorpusError for a file that is missing, malformed or empty, and for an
    id that comes twice.
    """
    form = SUFFIXES.get(path.suffix.lower()) or form or form_of(path)
    match form:
        case "ctm":
            read = list(nist.read_ctm(path))
        case "trn":
            read = list(nist.read_trn(path))
        case "stm":
            read = list(nist.read_stm(path))
        case "kaldi":
            read = list(_with_kaldi_tables(path, _kaldi(path)))
        case "plain":
            read = list(_plain(path))
        case _:
            read = [_line(row, _REFERENCE_COLUMNS, path, number) for number, row in _rows(path, form)]
    kept = tuple(line for line in read if form != "stm" or nist.is_scored(line))
    skipped = tuple(line for line in read if form == "stm" and not nist.is_scored(line))
    return _checked(Transcripts(path=path, form=form, lines=kept, skipped=skipped))


def read_hypotheses(path: Path, references: Transcripts, form: Form | None = None) -> Transcripts:
    """What a system recognised: as ``read_references``, of ``hyp``, ``hypothesis``, ``pred_text`` or ``text``.

    A CTM's words are laid on the references, see ``nist.laid_out``.
    """
    form = SUFFIXES.get(path.suffix.lower()) or form or form_of(path)
    if (form == "plain") != (references.form == "plain"):
        raise CorpusError(
            f"{path} is {FORM_NAMES[form]} and {references.path} {FORM_NAMES[references.form]}: plain text has no ids, "
            "and is scored against plain text alone (--format says what a file is whose suffix does not)"
        )
    match form:
        case "ctm":
            read = list(nist.laid_out(path, references))
        case "trn":
            read = list(nist.as_referred(nist.read_trn(path), references))
        case "stm":
            read = list(nist.as_referred(nist.read_stm(path), references))
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


# ------------------------------------------------------------------------------------------------------- readers


def _rows(path: Path, form: Form) -> Iterator[tuple[int, dict[str, Any]]]:
    return json_lines(path) if form == "jsonl" else table_rows(path, "\t" if form == "tsv" else ",")


def _line(row: dict[str, Any], columns: tuple[str, ...], path: Path, number: int) -> Line:
    found = f"found {', '.join(map(str, row))}"
    id = next((row[key] for key in ("id", *AUDIO_COLUMNS) if row.get(key) not in (None, "")), None)
    if id is None:
        raise CorpusError(f"{path}, line {number}: no id; {found}")
    column = column_of(row, columns)
    if column is None:
        raise CorpusError(f"{path}, line {number}: no text, which is called {' or '.join(columns)}; {found}")
    others = (key for key in _REFERENCE_COLUMNS if key in row and column != key and columns is _HYPOTHESIS_COLUMNS)
    noise = next((row[key] for key in ("noise", "snr") if row.get(key) not in (None, "")), "")
    other = next(others, None)
    audio = row.get(column_of(row, AUDIO_COLUMNS) or "")
    try:
        line = Line(
            id=str(id),
            text=_text(row[column]),
            speaker=str(row.get(column_of(row, SPEAKER_COLUMNS) or "") or ""),
            corpus=str(row.get("corpus") or ""),
            noise=str(noise),
            duration=seconds_of(row["duration"]) if row.get("duration") else None,
            audio=path.parent / str(audio) if audio else None,
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


def _checked(transcripts: Transcripts) -> Transcripts:
    read = transcripts.lines
    if not read:
        raise CorpusError(f"{transcripts} holds no utterance")
    twice = [id for id, count in Counter(line.id for line in read).items() if count > 1]
    if twice:
        raise CorpusError(f"{transcripts}: {len(twice)} ids come more than once: {listed(twice)}")
    return transcripts

"""Text files of one record a line: plain, JSON lines, CSV and TSV, each with its line numbers.

Corpora and the transcripts to be scored are read by these. Nothing is skipped in silence: a malformed line raises
CorpusError with its number.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from asr.errors import CorpusError

AUDIO_COLUMNS = ("audio_filepath", "wav_filename", "file_name", "path", "audio_path", "audio", "wav", "filename")
TEXT_COLUMNS = ("text", "transcript", "transcription", "sentence")
SPEAKER_COLUMNS = ("speaker", "speaker_id", "client_id")
RATE_COLUMNS = ("sampling_rate", "sample_rate")
"""What manifests of this and of other tools call a recording, what is said in it, who says it, and its samples a
second."""

MOST_SECONDS = 1e9
"""Of a recording or a place in one: thirty years. More is no time, and its samples are beyond any counting."""

_QUOTED = "a quotation mark opens a cell and none closes it on the same line"


def column_of(row: dict[str, Any], names: Sequence[str]) -> str | None:
    """The first of the names that a row has as a column."""
    return next((name for name in names if name in row), None)


def lines(path: Path, *, blank: bool = False) -> Iterator[tuple[int, str]]:
    """A text file's lines with their numbers from 1, the blank ones left out unless ``blank``."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from ((number, line) for number, line in enumerate(file, 1) if blank or line.strip())
    except (UnicodeDecodeError, OSError) as error:
        raise CorpusError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8 text'}"
        ) from error


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """A JSON-lines file's objects with their line numbers."""
    for number, line in lines(path):
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise CorpusError(f"{path}, line {number}: not JSON: {error}") from error
        except ValueError as error:
            raise CorpusError(f"{path}, line {number}: it holds a number of thousands of digits") from error
        if not isinstance(row, dict):
            raise CorpusError(f"{path}, line {number}: expected a JSON object, found {type(row).__name__}")
        yield number, row


def table_rows(path: Path, delimiter: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """A table's rows by column name, with their line numbers; its first line names the columns, and a row is a line.

    Cells that a row lacks are None. Raises CorpusError with the number of a line that has more cells than columns, or
    a quotation mark that opens a cell and does not close it.
    """
    # Tables with tabs are of sentences: a quotation mark is a quotation mark.
    quoting: Literal[0, 3] = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    columns: list[str] = []
    for number, line in lines(path):
        try:
            cells = next(csv.reader([line], delimiter=delimiter, quoting=quoting, strict=True))
        except csv.Error as error:
            raise CorpusError(f"{path}, line {number}: {_QUOTED if 'end of data' in str(error) else error}") from error
        if not columns:
            columns = cells
            if twice := [name for name in columns if columns.count(name) > 1]:
                raise CorpusError(f"{path}, line {number}: two columns are called {twice[0]!r}")
            continue
        if len(cells) > len(columns):
            sign = "tab" if delimiter == "\t" else "comma that is not between quotation marks"
            surplus = ", ".join(map(repr, cells[len(columns) :]))
            raise CorpusError(
                f"{path}, line {number}: {len(cells)} cells for {len(columns)} columns, a {sign} too many; "
                f"the surplus: {surplus}"
            )
        yield number, dict(zip(columns, [*cells, *[None] * (len(columns) - len(cells))], strict=True))


def seconds_of(value: Any) -> float:
    """A number of seconds, 0 or more, that a recording can have; raises ValueError."""
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not 0 <= seconds <= MOST_SECONDS:
        excess = ", more than thirty years" if seconds > MOST_SECONDS else ""
        raise ValueError(f"offset and duration are seconds, 0 or more; found {str(value)[:60]}{excess}")
    return seconds

"""Text files of one record a line: plain, JSON lines, CSV and TSV, each with its line numbers.

Corpora and the transcripts to be scored are read by these. Nothing is skipped in silence: a malformed line raises
CorpusError with its number.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from asr.errors import CorpusError


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
        if not isinstance(row, dict):
            raise CorpusError(f"{path}, line {number}: expected a JSON object, found {type(row).__name__}")
        yield number, row


def table_rows(path: Path, delimiter: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """A table's rows by column name, with their line numbers; its first line names the columns."""
    # Blank lines too, so that the reader counts lines as an editor does; those between rows it skips itself.
    text = (line if line.strip() else "\n" for _, line in lines(path, blank=True))
    if delimiter == "\t":  # tables of sentences: a quotation mark is a quotation mark
        reader = csv.DictReader(text, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    else:
        reader = csv.DictReader(text, delimiter=delimiter)
    try:
        for row in reader:
            yield reader.line_num, {key: value for key, value in row.items() if key is not None}
    except csv.Error as error:
        raise CorpusError(f"{path}, line {reader.reader.line_num}: {error}") from error


def seconds_of(value: Any) -> float:
    """A finite number of seconds, 0 or more; raises ValueError."""
    seconds = float(value)
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"offset and duration are seconds, 0 or more; found {value}")
    return seconds

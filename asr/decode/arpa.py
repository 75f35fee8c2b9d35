"""Reading and writing ARPA files, the common text form of back-off n-gram models.

    \\data\\
    ngram 1=4
    ngram 2=2

    \\1-grams:
    -1.2    <unk>
    -99     <s>         -0.3
    -0.9    the         -0.2
    -0.5    </s>

    \\2-grams:
    -0.4    <s> the
    -0.3    the </s>

    \\end\\

Each line is log10 p(last word | the words before it), the words, and log10 of the back-off weight of the words as a
context (0 where it is left out). Files are read a megabyte at a time, and a complaint names the line.
"""

from __future__ import annotations

import contextlib
import gzip
import itertools
import math
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np

from asr import files
from asr.errors import LanguageModelError

UNKNOWN, START, END = "<unk>", "<s>", "</s>"
MISSING_UNKNOWN = -100.0
"""log10 p(<unk>) of a model that lists no <unk>, as KenLM has it: next to nothing, but a number."""
MAX_ORDER = 20
MAX_LINE_BYTES = 1 << 16
BLOCK_LINES = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """The M n-grams of one order: ``ids`` (M, n) int32 in the order of the unigrams, ``log_probs`` (M,) and
    ``backoffs`` (M,) float32 natural logs. Row i is line ``first_line + i`` of a file that was read."""

    ids: np.ndarray
    log_probs: np.ndarray
    backoffs: np.ndarray
    first_line: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Arpa:
    """A whole ARPA file: ``sections[n - 1]`` holds the n-grams, ``words[i]`` is word i. There is always an <unk>."""

    words: tuple[str, ...]
    sections: tuple[Section, ...]


_Columns = tuple[np.ndarray, np.ndarray, np.ndarray]
"""ids (M, n) int32, log_probs (M,) and backoffs (M,) float32."""


class _Lines:
    """A file's lines in order; ``taken`` of them so far."""

    def __init__(self, file: IO[bytes]) -> None:
        self.taken = 0
        self._lines = self._split(file)

    def _split(self, file: IO[bytes]) -> Iterator[bytes]:
        rest = b""
        while chunk := file.read(1 << 20):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self.taken += 1
                yield line
            if len(rest) > MAX_LINE_BYTES:
                raise LanguageModelError(f"the line after this one is longer than {MAX_LINE_BYTES} bytes")
        if rest:
            self.taken += 1
            yield rest

    def take(self, count: int) -> list[bytes]:
        """The next ``count`` lines, fewer at the end of the file."""
        return list(itertools.islice(self._lines, count))

    def one(self, expected: str, *, skip_blank: bool = True) -> str:
        """The next line, without white space at its ends. Raises LanguageModelError at the end of the file."""
        while lines := self.take(1):
            if (line := lines[0].strip()) or not skip_blank:
                return line.decode("utf-8", "replace")
        raise LanguageModelError(f"the file ends after this line, where {expected} should come: it was cut short")


def read_arpa(path: Path) -> Arpa:
    """Reads an ARPA file, plain or compressed by gzip. Raises LanguageModelError naming the file and the line."""
    lines: _Lines | None = None
    try:
        with path.open("rb") as plain:
            compressed = plain.read(2) == b"\x1f\x8b"
            plain.seek(0)
            lines = _Lines(cast(IO[bytes], gzip.GzipFile(fileobj=plain)) if compressed else plain)
            return _read(lines)
    except LanguageModelError as error:
        raise LanguageModelError(f"{path}, line {lines.taken if lines else 0}: {error}") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        place = lines.taken if lines else 0
        raise LanguageModelError(f"{path}, line {place}: the gzip data are cut short or damaged after this") from error
    except OSError as error:
        raise LanguageModelError(f"{path} cannot be read: {error.strerror or error}") from error


def write_arpa(path: Path, arpa: Arpa) -> None:
    """Writes the model, compressed where the name ends in .gz. Raises AsrError where the disk refuses."""
    names = np.array(arpa.words, dtype=object)
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(files.replacing(path, "wb"))
        if path.suffix == ".gz":
            # Without a name and a time, so that the same model is the same file.
            file = cast(IO[bytes], stack.enter_context(gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0)))
        counts = "".join(f"ngram {n}={len(section.ids)}\n" for n, section in enumerate(arpa.sections, start=1))
        file.write(f"\\data\\\n{counts}".encode())
        for n, section in enumerate(arpa.sections, start=1):
            file.write(f"\n\\{n}-grams:\n".encode())
            line = "%.7g\t" + " ".join(["%s"] * n) + ("\t%.7g\n" if n < len(arpa.sections) else "\n")
            for start in range(0, len(section.ids), BLOCK_LINES):
                rows = slice(start, start + BLOCK_LINES)
                columns = [section.log_probs[rows] / math.log(10), *names[section.ids[rows].T]]
                if n < len(arpa.sections):
                    columns.append(section.backoffs[rows] / math.log(10))
                fields = zip(*(column.tolist() for column in columns), strict=True)
                file.write("".join(map(line.__mod__, fields)).encode())
        file.write(b"\n\\end\\\n")


def _read(lines: _Lines) -> Arpa:
    counts = _read_counts(lines)
    index: dict[bytes, int] = {}
    sections = []
    for n, count in enumerate(counts, start=1):
        _expect(lines, f"\\{n}-grams:", f"are there more {n - 1}-grams than \\data\\ says?" if n > 1 else "")
        sections.append(_read_section(lines, n, count, index, highest=n == len(counts)))
    _expect(lines, "\\end\\", f"are there more {len(counts)}-grams than \\data\\ says?")
    words = [word.decode() for word in index]
    if UNKNOWN not in words and "<UNK>" in words:
        words[words.index("<UNK>")] = UNKNOWN
    elif UNKNOWN not in words:
        words.append(UNKNOWN)
        sections[0] = _with_unknown(sections[0])
    return Arpa(words=tuple(words), sections=tuple(sections))


def _read_counts(lines: _Lines) -> list[int]:
    while (first := lines.one("\\data\\")).startswith("#"):  # KenLM's comments
        pass
    if first.removeprefix("\ufeff") != "\\data\\":
        raise LanguageModelError(f"an ARPA file begins with \\data\\, and this one with {_short(first)}")
    counts: list[int] = []
    while line := lines.one("a blank line and \\1-grams:", skip_blank=False):
        match = re.fullmatch(r"ngram\s+(\d{1,3})\s*=\s*(\d{1,18})", line)
        if match is None or int(match[1]) != len(counts) + 1:
            raise LanguageModelError(f"expected 'ngram {len(counts) + 1}=COUNT' or a blank line, found {_short(line)}")
        counts.append(int(match[2]))
        if len(counts) > MAX_ORDER:
            raise LanguageModelError(f"models of an order over {MAX_ORDER} are not read")
    if not counts or counts[0] == 0:
        raise LanguageModelError("\\data\\ announces no unigrams (ngram 1=COUNT)")
    if sum(counts) >= 2**31 - 2:
        raise LanguageModelError(f"\\data\\ announces {sum(counts)} n-grams, and 2**31 are the most that are read")
    return counts


def _expect(lines: _Lines, marker: str, hint: str) -> None:
    if (line := lines.one(marker)) != marker:
        raise LanguageModelError(f"expected {marker}, found {_short(line)}" + (f"; {hint}" if hint else ""))


def _read_section(lines: _Lines, n: int, count: int, index: dict[bytes, int], *, highest: bool) -> Section:
    """``index``, from word to id, is filled by the unigrams and looked up by the rest."""
    first_line, done = lines.taken + 1, 0
    blocks: list[_Columns] = [(np.zeros((0, n), np.int32), np.zeros(0, np.float32), np.zeros(0, np.float32))]
    while done < count:
        rows = [line.split() for line in lines.take(min(BLOCK_LINES, count - done))]
        if not rows:
            raise LanguageModelError(f"the file ends after this line, with {done} of the {count} {n}-grams announced")
        columns = _parse(rows, n, index, highest=highest)
        if columns is None:
            row, reason = _first_fault(rows, n, index, highest=highest)
            lines.taken += row + 1 - len(rows)
            raise LanguageModelError(f"{reason} (this should be {n}-gram {done + row + 1} of {count})")
        blocks.append(columns)
        done += len(rows)
    ids, log_probs, backoffs = (np.concatenate(column) for column in zip(*blocks, strict=True))
    return Section(ids=ids, log_probs=log_probs, backoffs=backoffs, first_line=first_line)


def _parse(rows: list[list[bytes]], n: int, index: dict[bytes, int], *, highest: bool) -> _Columns | None:
    """The columns of a block of lines, split in fields; None where a line is wrong, and _first_fault says how."""
    if not {len(row) for row in rows} <= {n + 1, n + 2}:
        return None
    try:
        log_probs = _natural([row[0] for row in rows])
        backoffs = _natural([row[n + 1] if len(row) == n + 2 else b"0" for row in rows])
        if n == 1:
            new = dict.fromkeys(row[1] for row in rows)
            b"\n".join(new).decode()
            if len(new) < len(rows) or not new.keys().isdisjoint(index):
                return None
            index.update(zip(new, itertools.count(len(index)), strict=False))
    except ValueError:
        return None
    ids = np.fromiter((index.get(word, -1) for row in rows for word in row[1 : n + 1]), np.int32, n * len(rows))
    if ids.min() < 0 or log_probs.max() > 0 or not np.isfinite(log_probs).all() or not np.isfinite(backoffs).all():
        return None
    if highest and backoffs.any():
        return None
    return ids.reshape(-1, n), log_probs, backoffs


def _natural(log10s: list[bytes]) -> np.ndarray:
    """(M,) float32 natural logs; what is past float32's range becomes an infinity. Raises ValueError."""
    with np.errstate(over="ignore"):
        return (math.log(10) * np.array([float(text) for text in log10s])).astype(np.float32)


def _first_fault(rows: list[list[bytes]], n: int, index: dict[bytes, int], *, highest: bool) -> tuple[int, str]:
    """The first row that _parse cannot take, and why: the same rules, one row at a time."""
    for i, row in enumerate(rows):
        one = _parse([row], n, index, highest=highest)
        if one is None:
            return i, _reason(row, n, index, highest=highest)
    raise AssertionError("a block was refused, but none of its rows")


def _reason(row: list[bytes], n: int, index: dict[bytes, int], *, highest: bool) -> str:
    if not n + 1 <= len(row) <= n + 2:
        return f"expected a log probability, {n} words and perhaps a back-off weight, found {_short(b' '.join(row))}"
    for text in (row[0], *row[n + 1 :]):
        try:
            if not np.isfinite(_natural([text])[0]):
                return f"{_short(text)} is not finite"
        except ValueError:
            return f"expected a number and not {_short(text)} in {_short(b' '.join(row))}"
    if float(row[0]) > 0:
        return f"the log probability {_short(row[0])} is positive"
    for word in row[1 : n + 1]:
        try:
            word.decode()
        except UnicodeDecodeError:
            return f"the word {word!r} is not UTF-8"
        if n > 1 and word not in index:
            return f"the word {_short(word)} is not among the unigrams"
    if highest and len(row) == n + 2:
        return f"n-grams of the highest order can have no back-off weight, and this has {_short(row[-1])}"
    return f"the word {_short(row[1])} is there twice"


def _with_unknown(unigrams: Section) -> Section:
    return Section(
        ids=np.append(unigrams.ids, np.int32(len(unigrams.ids)))[:, None],
        log_probs=np.append(unigrams.log_probs, np.float32(math.log(10) * MISSING_UNKNOWN)),
        backoffs=np.append(unigrams.backoffs, np.float32(0)),
        first_line=unigrams.first_line,
    )


def _short(text: str | bytes) -> str:
    """``text`` in quotes, cut to what fits a sentence."""
    text = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return repr(text if len(text) <= 60 else text[:57] + "...")

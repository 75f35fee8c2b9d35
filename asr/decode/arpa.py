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
context (0 where it is left out). Before \\data\\ may stand any text: the tools of CMU say there what made the model.
Files are read a megabyte at a time, and a complaint names the line.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import numpy as np

from asr import files
from asr.errors import LanguageModelError
from asr.text.compressed import DamageError, compressing, decompressed

UNKNOWN, START, END = "<unk>", "<s>", "</s>"
MISSING_UNKNOWN = -100.0
"""log10 p(<unk>) of a model that lists no <unk>, as KenLM has it: next to nothing, but a number."""
MAX_ORDER = 20
MAX_LINE_BYTES = 1 << 16
BLOCK_LINES = 50_000
HEAD_BYTES = 1 << 12

_OTHER_FILES = {
    b"mmap lm http://kheafield.com/code": "a KenLM binary, which only KenLM reads: give the ARPA file it is built from",
    b"blmt": "an IRSTLM binary: write it as ARPA (compile-lm --text=yes)",
    b"SRILM_BINARY_NGRAM": "an SRILM binary: write it as ARPA (ngram -lm BINARY -write-lm ARPA)",
    b"Trie Language Model": "a binary of CMU Sphinx: write it as ARPA (sphinx_lm_convert -ofmt arpa)",
    b"\x11\0\0\0Darpa Trigram": "a binary of CMU Sphinx: write it as ARPA (sphinx_lm_convert -ofmt arpa)",
    b"\0\0\0\x11Darpa Trigram": "a binary of CMU Sphinx: write it as ARPA (sphinx_lm_convert -ofmt arpa)",
    b"\xd6\xfd\xb2\x7e": "an OpenFst transducer: give the ARPA file it was built from",
    b"PK\x03\x04": "a zip archive: give the ARPA file in it",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive: give the ARPA file in it",
    b"\x28\xb5\x2f\xfd": "compressed by Zstandard: decompress it (zstd -d), or compress it by gzip, bzip2 or xz",
    b"\x04\x22\x4d\x18": "compressed by LZ4: decompress it (lz4 -d), or compress it by gzip, bzip2 or xz",
    b"\x1f\x9d": "compressed by compress: decompress it (uncompress), or compress it by gzip, bzip2 or xz",
    b"\xff\xfe": "UTF-16 text: write it as UTF-8 (iconv -f UTF-16 -t UTF-8)",
    b"\xfe\xff": "UTF-16 text: write it as UTF-8 (iconv -f UTF-16 -t UTF-8)",
    b"version https://git-lfs": "a pointer of Git LFS, and the model is not there yet: get it (git lfs pull)",
}
"""How files begin that are handed over for ARPA files, and what to do about each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """The M n-grams of one order: ``ids`` (M, n) int32 in the order of the unigrams, ``log_probs`` (M,) and
    ``backoffs`` (M,) float32 natural logs. ``first_line`` is row 0's line in a file that was read, and ``gaps`` are the
    rows, in order, before each of which a blank line was passed over."""

    ids: np.ndarray
    log_probs: np.ndarray
    backoffs: np.ndarray
    first_line: int = 0
    gaps: tuple[int, ...] = ()

    def line(self, row: int) -> int:
        """The line of row ``row``, counted from 1."""
        return self.first_line + row + bisect.bisect_right(self.gaps, row)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arpa:
    """A whole ARPA file: ``sections[n - 1]`` holds the n-grams, ``words[i]`` is word i. There is always an <unk>.

    ``remarks`` are sentences about what the file says twice.
    """

    words: tuple[str, ...]
    sections: tuple[Section, ...]
    remarks: tuple[str, ...] = ()


class Rows(Protocol):
    """What is read slice by slice: an array, or one that lies on disk."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> np.ndarray: ...


class Listing(Protocol):
    """The n-grams of one order as a Section has them, not all of them in memory."""

    @property
    def ids(self) -> Rows: ...

    @property
    def log_probs(self) -> Rows: ...

    @property
    def backoffs(self) -> Rows: ...


class Listings(Protocol):
    """A model to be written: an Arpa, or one that lies on disk."""

    @property
    def words(self) -> tuple[str, ...]: ...

    @property
    def sections(self) -> Sequence[Listing]: ...


_Columns = tuple[np.ndarray, np.ndarray, np.ndarray]
"""ids (M, n) int32, log_probs (M,) and backoffs (M,) float32."""


class _Malformed(Exception):
    """What is wrong at the line that was taken last."""


class _Lines:
    """A file's lines in order; ``taken`` of them so far."""

    def __init__(self, file: IO[bytes]) -> None:
        self.taken = 0
        self.head = file.read(HEAD_BYTES)
        self._lines = self._split(file)

    def _split(self, file: IO[bytes]) -> Iterator[bytes]:
        rest = b""
        for chunk in itertools.chain([self.head], iter(lambda: file.read(1 << 20), b"")):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self.taken += 1
                yield line
            if len(rest) > MAX_LINE_BYTES:
                raise _Malformed(f"the line after this one is longer than {MAX_LINE_BYTES} bytes")
        if rest:
            self.taken += 1
            yield rest

    def take(self, count: int) -> list[bytes]:
        """The next ``count`` lines, fewer at the end of the file."""
        return list(itertools.islice(self._lines, count))

    def one(self, expected: str) -> str:
        """The next line that is not blank, stripped. Raises _Malformed at the end of the file."""
        while lines := self.take(1):
            if line := lines[0].strip():
                return line.decode("utf-8", "replace")
        raise _Malformed(f"the file ends after this line, where {expected} should come: it was cut short")


def read_arpa(path: Path) -> Arpa:
    """Reads an ARPA file, plain or compressed by gzip, bzip2 or xz. Raises LanguageModelError naming file and line."""
    lines: _Lines | None = None
    try:
        with path.open("rb") as plain, decompressed(plain) as file:
            lines = _Lines(file)
            _check_kind(lines.head, path)
            return _read(lines)
    except _Malformed as error:
        raise LanguageModelError(f"{path}, line {lines.taken if lines else 0}: {error}") from error
    except DamageError as error:
        place = lines.taken if lines else 0
        raise LanguageModelError(f"{path}, line {place}: {error} are cut short or damaged after this") from error
    except OSError as error:
        raise LanguageModelError(f"{path} cannot be read: {error.strerror or error}") from error


def _check_kind(head: bytes, path: Path) -> None:
    """Raises LanguageModelError where the file begins as another kind of file does."""
    for magic, kind in _OTHER_FILES.items():
        if head.startswith(magic):
            raise LanguageModelError(f"{path} is {kind}")
    if head[257:262] == b"ustar":
        raise LanguageModelError(f"{path} is a tar archive: give the ARPA file in it")
    if re.match(rb"\s*<(!doctype|html|\?xml)", head, re.IGNORECASE):
        raise LanguageModelError(f"{path} is a web page and no language model: is its address right?")
    if b"\0" in head:
        raise LanguageModelError(f"{path} is a binary file, and an ARPA file is text")


def write_arpa(path: Path, arpa: Listings, advance: Callable[[float], object] = lambda _: None) -> None:
    """Writes the model, compressed where the name ends in .gz, .bz2 or .xz; ``advance`` is told what fraction is
    written. Raises AsrError where the disk refuses."""
    total, written = sum(len(section.ids) for section in arpa.sections), 0
    names = np.array(arpa.words, dtype=object)
    with contextlib.ExitStack() as stack:
        plain = stack.enter_context(files.replacing(path, "wb"))
        file = stack.enter_context(compressing(plain, path.suffix))
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
                written += min(BLOCK_LINES, len(section.ids) - start)
                advance(written / total)
        file.write(b"\n\\end\\\n")


def _read(lines: _Lines) -> Arpa:
    counts = _read_counts(lines)
    index: dict[bytes, int] = {}
    sections = []
    for n, count in enumerate(counts, start=1):
        if n > 1:
            _expect(lines, f"\\{n}-grams:", f"are there more {n - 1}-grams than \\data\\ says?")
        sections.append(_read_section(lines, n, count, index, highest=n == len(counts)))
    _expect(lines, "\\end\\", f"are there more {len(counts)}-grams than \\data\\ says?")
    words = [word.decode() for word in index]
    sections[0], remark = _without_repeats(sections[0], words)
    if UNKNOWN not in words and "<UNK>" in words:
        words[words.index("<UNK>")] = UNKNOWN
    elif UNKNOWN not in words:
        words.append(UNKNOWN)
        sections[0] = _with_unknown(sections[0])
    return Arpa(words=tuple(words), sections=tuple(sections), remarks=(remark,) if remark else ())


def _read_counts(lines: _Lines) -> list[int]:
    """How many n-grams of each order there are, and the lines up to the unigrams' heading taken."""
    _pass_preamble(lines)
    counts: list[int] = []
    while (line := lines.one("ngram 1=COUNT" if not counts else "\\1-grams:")) != "\\1-grams:":
        match = re.fullmatch(r"ngram\s+(\d{1,3})\s*=\s*(\d{1,18})", line)
        if match is None or int(match[1]) != len(counts) + 1:
            raise _Malformed(f"expected 'ngram {len(counts) + 1}=COUNT' or \\1-grams:, found {_short(line)}")
        counts.append(int(match[2]))
        if len(counts) > MAX_ORDER:
            raise _Malformed(f"models of an order over {MAX_ORDER} are not read")
        if sum(counts) >= 2**31 - 2:
            raise _Malformed(f"\\data\\ announces {sum(counts)} n-grams, and 2**31 are the most that are read")
    if not counts or counts[0] == 0:
        raise _Malformed("\\data\\ announces no unigrams (ngram 1=COUNT)")
    return counts


def _pass_preamble(lines: _Lines) -> None:
    """Takes the lines up to \\data\\, the text of whatever tool wrote the file."""
    first = ""
    while taken := lines.take(1):
        line = taken[0].strip().decode("utf-8", "replace").removeprefix("\ufeff")
        if line == "\\data\\":
            return
        first = first or line
    begins = f"and begins with {_short(first)}" if first else "and is empty"
    raise _Malformed(f"the file ends here without a line \\data\\, where an ARPA model begins, {begins}")


def _expect(lines: _Lines, marker: str, hint: str) -> None:
    if (line := lines.one(marker)) != marker:
        raise _Malformed(f"expected {marker}, found {_short(line)}; {hint}")


def _read_section(lines: _Lines, n: int, count: int, index: dict[bytes, int], *, highest: bool) -> Section:
    """``index``, from word to id, is filled by the unigrams and looked up by the rest."""
    first_line, done = lines.taken + 1, 0
    blocks: list[_Columns] = [(np.zeros((0, n), np.int32), np.zeros(0, np.float32), np.zeros(0, np.float32))]
    gaps: list[int] = []
    while done < count:
        taken = [line.split() for line in lines.take(min(BLOCK_LINES, count - done))]
        if not taken:
            raise _Malformed(f"the file ends after this line, with {done} of the {count} {n}-grams announced")
        rows = taken
        if not all(taken):
            places = list(itertools.accumulate((bool(row) for row in taken), initial=done))
            gaps += [place for place, row in zip(places, taken, strict=False) if not row]
            rows = [row for row in taken if row]
        if not rows:
            continue
        columns = _parse(rows, n, index, highest=highest)
        if columns is None:
            row, reason = _first_fault(rows, n, index, highest=highest)
            place = [i for i, fields in enumerate(taken) if fields][row]
            lines.taken += place + 1 - len(taken)
            raise _Malformed(f"{reason} (this should be {n}-gram {done + row + 1} of {count})")
        blocks.append(columns)
        done += len(rows)
    ids, log_probs, backoffs = (np.concatenate(column) for column in zip(*blocks, strict=True))
    return Section(ids=ids, log_probs=log_probs, backoffs=backoffs, first_line=first_line, gaps=tuple(gaps))


def _parse(rows: list[list[bytes]], n: int, index: dict[bytes, int], *, highest: bool) -> _Columns | None:
    """The columns of a block of lines, split in fields; None where a line is wrong, and _first_fault says how.

    Of a block that is wrong nothing has got into ``index``.
    """
    if not {len(row) for row in rows} <= {n + 1, n + 2}:
        return None
    try:
        log_probs = _natural([row[0] for row in rows])
        backoffs = _natural([row[n + 1] if len(row) == n + 2 else b"0" for row in rows])
        if n == 1:
            b"\n".join(row[1] for row in rows).decode()
    except ValueError:
        return None
    if log_probs.max() > 0 or not np.isfinite(log_probs).all() or not np.isfinite(backoffs).all():
        return None
    if highest and backoffs.any():
        return None
    if n == 1:
        for row in rows:
            index.setdefault(row[1], len(index))
    ids = np.fromiter((index.get(word, -1) for row in rows for word in row[1 : n + 1]), np.int32, n * len(rows))
    return None if ids.min() < 0 else (ids.reshape(-1, n), log_probs, backoffs)


def _natural(log10s: list[bytes]) -> np.ndarray:
    """(M,) float32 natural logs; what is past float32's range becomes an infinity. Raises ValueError."""
    with np.errstate(over="ignore"):
        return (math.log(10) * np.array([float(text) for text in log10s])).astype(np.float32)


def _first_fault(rows: list[list[bytes]], n: int, index: dict[bytes, int], *, highest: bool) -> tuple[int, str]:
    """The first row that _parse cannot take, and why: the same rules, one row at a time."""
    for i, row in enumerate(rows):
        one = _parse([row], n, index, highest=highest)
        if one is None:
            return i, _reason(row, n, index)
    raise AssertionError("a block was refused, but none of its rows")


def _reason(row: list[bytes], n: int, index: dict[bytes, int]) -> str:
    if row[0].startswith(b"\\"):
        return f"the {n}-grams end here, and \\data\\ announces more: found {_short(b' '.join(row))}"
    if not n + 1 <= len(row) <= n + 2:
        return f"expected a log probability, {n} words and perhaps a back-off weight, found {_short(b' '.join(row))}"
    for text in (row[0], *row[n + 1 :]):
        try:
            if not np.isfinite(_natural([text])[0]):
                return f"{_short(text)} is not finite (for no probability ARPA files have -99)"
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
    return f"n-grams of the highest order can have no back-off weight, and this has {_short(row[-1])}"


def repeats_remark(section: Section, words: Sequence[str], rows: np.ndarray) -> str:
    """A sentence about the ``rows`` that say again what a row before them says."""
    first = int(rows.min())
    ngram = " ".join(words[i] for i in section.ids[first])
    again = f"line {section.line(first)} lists {_short(ngram)} again"
    if len(rows) > 1:
        again += f", and {len(rows)} lines in all repeat others"
    return f"{again}; of such lines the first counts, as in KenLM"


def _without_repeats(unigrams: Section, words: Sequence[str]) -> tuple[Section, str]:
    """The unigrams with each word's first line alone, and a sentence about the other lines, if there are any."""
    _, kept = np.unique(unigrams.ids[:, 0], return_index=True)
    if len(kept) == len(unigrams.ids):
        return unigrams, ""
    repeated = np.setdiff1d(np.arange(len(unigrams.ids)), kept)
    remark = repeats_remark(unigrams, words, repeated)
    columns = unigrams.ids[kept], unigrams.log_probs[kept], unigrams.backoffs[kept]
    return Section(ids=columns[0], log_probs=columns[1], backoffs=columns[2], first_line=unigrams.first_line), remark


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

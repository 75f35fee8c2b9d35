"""The distinct words of word lists, texts and ARPA language models."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

from asr.errors import TextError
from asr.text.normalise import normalise
from asr.text.sentences import read_sentences

_MARKERS = frozenset(["<s>", "</s>", "<unk>", "<UNK>"])
_PREAMBLE = 1000
"""Lines of text that may stand before an ARPA file's \\data\\, as the tools of CMU write there."""


def read_vocabulary(files: Sequence[str], form: str, advance: Callable[[int], object] = lambda _: None) -> list[str]:
    """Every word of ``files``, once, sorted; "-" is standard input. Texts and lists are normalised to ``form``, and a
    list's words may be followed by their counts. Of an ARPA file the unigrams are read, as they are: what has a line
    \\data\\ among its first lines is one.

    ``advance`` is told the bytes of each file as they are read. Raises TextError as ``read_sentences`` does, and for an
    ARPA file without unigrams.
    """
    words: set[str] = set()
    for name in files:
        lines = read_sentences([name], "none", advance)
        first = list(itertools.islice(lines, _PREAMBLE))
        if "\\data\\" in first:
            rest = itertools.chain(first[first.index("\\data\\") + 1 :], lines)
            words.update(_unigrams(name, rest))
            continue
        for line in itertools.chain(first, lines):
            words.update(_words(line, form))
    return sorted(words)


def _words(line: str, form: str) -> list[str]:
    word, _, count = line.partition(" ")
    return normalise(word if count.isdecimal() else line, form).split()


def _unigrams(name: str, lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        if line == "\\1-grams:":
            break
    found = 0
    for line in lines:
        if line.startswith("\\"):
            break
        _, *rest = line.split()
        if not 1 <= len(rest) <= 2:
            raise TextError(f'{name}: expected a unigram (a log probability and a word), found "{line[:60]}"')
        found += 1
        if rest[0] not in _MARKERS:
            yield rest[0]
    if not found:
        raise TextError(f"{name} begins as an ARPA file and holds no unigrams: it was cut short")

"""Subtitles that people can read: words into cues of two lines, parted where the speaker pauses.

The limits are those of broadcasters' guides (42 characters a line, two lines, one to seven seconds). Where to part is
decided for a whole stretch of speech at once, as TeX parts a paragraph into lines (Knuth and Plass 1981): the cheapest
of all ways, a break inside flowing speech, a pause inside a cue and a cue too short to be read each having their price.
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from asr.records import Word

LINE_CHARACTERS = 42
LINES = 2
SHORTEST_SECONDS, LONGEST_SECONDS = 1.0, 7.0
PAUSE_SECONDS = 0.6
"""A silence as long as that ends a sentence, or might: there is no punctuation to tell."""
LINGER_SECONDS = 0.3
"""A cue stays for a moment after its last word, if the next leaves it the time."""
FLICKER_SECONDS = 0.5
"""Less than that without a cue is seen as a flicker: the cue before stays until the next one comes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cue:
    """``lines`` of text, shown from ``start`` to ``end``, in whole milliseconds."""

    start: int
    end: int
    lines: tuple[str, ...]


def cues(stretches: Iterable[tuple[str, Sequence[Word]]]) -> list[Cue]:
    """The cues of stretches of speech, each with a name that its cues begin with ("channel 1: ", or none), in order of
    time and without overlap. No cue holds words of two stretches.

    Where speech leaves no room, because two channels speak at once or words are shorter than cues may be, a cue begins
    when the one before it has ended.
    """
    parts: list[tuple[Sequence[Word], str]] = []
    for name, stretch in stretches:
        words = [part for word in stretch for part in _parts(word, LINE_CHARACTERS - len(name))]
        parts += [(words[first:last], name) for first, last in _broken(words, len(name))]
    parts.sort(key=lambda part: part[0][0].start)
    return list(_timed(parts))


def _timed(parts: Sequence[tuple[Sequence[Word], str]]) -> Iterator[Cue]:
    free = 0  # where the cue before ends
    for (words, name), after in itertools.zip_longest(parts, parts[1:]):
        limit = _milliseconds(after[0][0].start) if after else free + 10**12
        start = max(free, _milliseconds(words[0].start))
        spoken = _milliseconds(max(word.end for word in words))
        end = max(start + _milliseconds(SHORTEST_SECONDS), spoken, min(spoken + _milliseconds(LINGER_SECONDS), limit))
        if limit - end < _milliseconds(FLICKER_SECONDS):
            end = max(end, limit)
        free = min(end, start + _milliseconds(LONGEST_SECONDS))
        yield Cue(start=start, end=free, lines=_lines(name + " ".join(word.text for word in words)))


def _broken(words: Sequence[Word], indent: int) -> list[tuple[int, int]]:
    """From which word to which each cue goes, at the least cost in all."""
    best: list[tuple[float, int]] = [(0.0, 0)]  # of the first n words: the cost, and where their last cue begins
    for last in range(1, len(words) + 1):
        choices = []
        for first in range(last - 1, -1, -1):
            if first < last - 1 and not _fits(words[first:last], indent):
                break
            choices.append((best[first][0] + _cost(words, first, last), first))
        best.append(min(choices))
    spans, last = [], len(words)
    while last:
        spans.append((best[last][1], last))
        last = best[last][1]
    return spans[::-1]


def _fits(words: Sequence[Word], indent: int) -> bool:
    if words[-1].end - words[0].start > LONGEST_SECONDS:
        return False
    text = "x" * indent + " ".join(word.text for word in words)
    return len(text) <= LINES * (LINE_CHARACTERS + 1) and len(_lines(text)) <= LINES


def _cost(words: Sequence[Word], first: int, last: int) -> float:
    """Of one cue: itself, the break after it, pauses within, and the time that it lacks to be read."""
    gaps = [b.start - a.end for a, b in itertools.pairwise(words[first:last])]
    cost = 1.0 + sum(2 * (gap - PAUSE_SECONDS) + 0.5 for gap in gaps if gap > PAUSE_SECONDS)
    shown = words[last - 1].end + LINGER_SECONDS
    if last < len(words):
        gap = words[last].start - words[last - 1].end
        cost += 2 * max(0.0, 1 - gap / PAUSE_SECONDS)
        shown = words[last].start
    return cost + 4 * max(0.0, SHORTEST_SECONDS - (shown - words[first].start))


def _lines(text: str) -> tuple[str, ...]:
    """``text`` in one line, or in two that are as even as words allow."""
    if len(text) <= LINE_CHARACTERS:
        return (text,)
    breaks = [i for i, character in enumerate(text) if character == " "]
    even = [i for i in breaks if i <= LINE_CHARACTERS and len(text) - i - 1 <= LINE_CHARACTERS]
    if even:
        middle = min(even, key=lambda i: abs(2 * i + 1 - len(text)))
        return text[:middle], text[middle + 1 :]
    return tuple(textwrap.wrap(text, LINE_CHARACTERS, break_on_hyphens=False))


def _parts(word: Word, room: int) -> Iterator[Word]:
    """A word, or the parts of one that is longer than a line, each with its share of the time."""
    pieces = [word.text[i : i + room] for i in range(0, len(word.text), room)]
    share = (word.end - word.start) / max(1, len(pieces))
    for i, text in enumerate(pieces):
        start = word.start + i * share
        yield Word(text=text, start=start, end=start + share, confidence=word.confidence)


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)

"""Transcripts with alternatives, as NIST writes them, and their alignment as NIST's sclite counts it.

In NIST's notation ``{ a b / c / @ }`` is one of "a b", "c" and nothing, recursively; ``(um)`` may be left out; ``th-``
and ``-ing`` are fragments of words; ``%hesitation`` stands for any filled pause; what follows a semicolon in a word is
a tag, ``\\;`` the semicolon itself. Such a transcript is a graph of words, and the alignment is the cheapest pair of
paths through the reference's graph and the hypothesis's (SCTK, sclite's manual: 4 for a substitution, 3 for a deletion
or an insertion, 2 where the word may be left out, next to nothing for "@").
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from asr.score.edits import Alignment, Edit
from asr.text.normalise import normalise

NOTHING = "@"
"""The word of an arc that says nothing."""

# In thousandths, so that sums are exact.
_NOTHING_COST = 1
_BOTH_NOTHING_COST = 1000
_OPTIONAL_COST = 2000
_GAP_COST = 3000
_SUBSTITUTION_COST = 4000
_NEVER = 10**12

_FILLERS_DROPPED = ("english", "spelled")
"""The forms of text that drop filled pauses."""

DEEPEST = 50
"""Alternatives within alternatives; people write two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arc:
    """A word of a graph. ``before`` are the arcs that it may follow, by index; ``place`` is the element of the
    transcript, a word or a choice of alternatives, that it belongs to."""

    word: str
    before: tuple[int, ...]
    place: int
    optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WordGraph:
    """``arcs`` in an order in which each comes after those that it may follow; the first is the start and no word.
    ``last`` are the arcs that a path may end with; ``places`` is the number of the transcript's elements."""

    arcs: tuple[Arc, ...]
    last: tuple[int, ...]
    places: int


_START = Arc(word="", before=(), place=-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphAlignment:
    """The cheapest alignment, and its ``slots`` of errors, (2 * places + 1,), as ``edits.error_slots`` has them: all
    errors in one choice of alternatives stand in one slot, whichever was chosen."""

    edits: Alignment
    slots: np.ndarray


def plain_graph(text: str) -> WordGraph:
    """The graph of a text without any notation."""
    words = text.split()
    arcs = [Arc(word=word, before=(n,), place=n) for n, word in enumerate(words)]
    return WordGraph(arcs=(_START, *arcs), last=(len(words),), places=len(words))


# ---------------------------------------------------------------------------------------------------- the notation


@dataclass(frozen=True, slots=True)
class _Word:
    text: str
    optional: bool = False


@dataclass(frozen=True, slots=True)
class _Choice:
    alternatives: list[list[_Word | _Choice]]


_Element = _Word | _Choice


def word_graph(text: str, form: str = "none", *, fragments: bool = False) -> WordGraph:
    """The graph of a transcript in NIST's notation, its words normalised to ``form``, runs of plain words together.

    With ``fragments`` the hyphen that marks one is kept, whatever the form. Raises ValueError where braces do not
    match, or are nested more than ``DEEPEST`` deep.
    """
    elements = _elements(_Tokens(text), form, fragments, depth=0)
    arcs = [_START]
    ends: tuple[int, ...] = (0,)
    for place, element in enumerate(elements):
        ends = _append(arcs, element, ends, place)
    return WordGraph(arcs=tuple(arcs), last=ends, places=len(elements))


class _Tokens:
    """A transcript's words and signs, one after the other; a slash is a sign within braces alone."""

    def __init__(self, text: str) -> None:
        self._left: list[str] = [token for word in text.split() for token in re.findall(r"[{}]|[^{}]+", word)][::-1]

    def next(self, *, nested: bool) -> str | None:
        if not self._left:
            return None
        token = self._left.pop()
        if nested and "/" in token and token != "/":
            self._left += [part for part in re.findall(r"/|[^/]+", token)][::-1]
            token = self._left.pop()
        return token


def _elements(tokens: _Tokens, form: str, fragments: bool, *, depth: int) -> list[_Element]:
    """The elements up to the end; within braces, of which ``depth`` are open, up to the closing one, as one
    ``_Choice``."""
    if depth > DEEPEST:
        raise ValueError(f"braces are nested more than {DEEPEST} deep")
    nested = depth > 0
    alternatives: list[list[_Element]] = [[]]
    run: list[str] = []  # plain words, normalised together

    def flush() -> None:
        alternatives[-1].extend(map(_Word, normalise(" ".join(run), form).split()))
        run.clear()

    while (token := tokens.next(nested=nested)) is not None:
        if token not in "{}" and not (nested and token == "/"):
            special = _special(token, form, fragments)
            if special is None:
                run.append(_untagged(token))
            else:
                flush()
                alternatives[-1] += special
            continue
        flush()
        if token == "{":
            alternatives[-1] += _elements(tokens, form, fragments, depth=depth + 1)
        elif token == "/":
            alternatives.append([])
        elif nested:
            return [_Choice(alternatives)] if any(alternatives) else []
        else:
            raise ValueError("a closing brace without an opening one")
    if nested:
        raise ValueError("an opening brace without a closing one")
    flush()
    return alternatives[0]


def _special(token: str, form: str, fragments: bool) -> list[_Element] | None:
    """What a token stands for that is not simply a word of the language; None where it is one."""
    if len(token) > 1 and token[0] == "(" and token[-1] == ")":
        words = _marked(token[1:-1], form, fragments)
        words = normalise(_untagged(token[1:-1]), form).split() if words is None else words
        return [_Word(word, optional=True) for word in words]
    marked = _marked(_untagged(token), form, fragments)
    return None if marked is None else [_Word(word) for word in marked]


def _marked(word: str, form: str, fragments: bool) -> list[str] | None:
    """The words, one or none, of a mark that no form of text may take away; None where the word is no mark."""
    if word == NOTHING:
        return [NOTHING]
    if len(word) > 1 and word[0] == "%" and form != "none":
        return [] if form.startswith(_FILLERS_DROPPED) else [f"%{normalise(word[1:], 'lower')}"]
    if fragments and len(word) > 1 and "-" in (word[0], word[-1]):
        stem = normalise(word.strip("-"), form).replace(" ", "")
        return ["-" * (word[0] == "-") + stem + "-" * (word[-1] == "-")] if stem else []
    return None


def _untagged(token: str) -> str:
    """A token without its tags (``word;tag1;tag2``) and the asterisk that marks a mispronunciation."""
    word = re.sub(r"\\(.)", r"\1", re.split(r"(?<!\\);", token, maxsplit=1)[0])
    return word[:-1] if len(word) > 1 and word[-1] == "*" else word


def _append(arcs: list[Arc], element: _Element, ends: tuple[int, ...], place: int) -> tuple[int, ...]:
    """Adds an element's arcs after ``ends``; returns the arcs that it ends with. Their order settles between paths of
    one cost."""
    if isinstance(element, _Word):
        arcs.append(Arc(word=element.text, before=ends, place=place, optional=element.optional))
        return (len(arcs) - 1,)
    last: list[int] = []
    for alternative in element.alternatives:
        inside = ends
        for part in alternative or [_Word(NOTHING)]:
            inside = _append(arcs, part, inside, place)
        last += inside
    return tuple(last)


# --------------------------------------------------------------------------------------------------- the alignment


def align(reference: WordGraph, hypothesis: WordGraph, *, fragments: bool = False) -> GraphAlignment:
    """The cheapest pair of paths. Among those of one cost it is the one that sclite finds.

    A word that may be left out, and is, is forgiven, and so is one that is added; with ``fragments`` a fragment is
    right where the other word begins (or ends) as it does.
    """
    steps = _cheapest(reference.arcs, hypothesis.arcs, reference.last, hypothesis.last, fragments)
    edits: list[Edit] = []
    slots = np.zeros(2 * reference.places + 1, dtype=int)
    place = -1
    for said, heard in steps:
        place = said.place if said else place
        edit = _edit(said, heard, fragments)
        if edit is None:
            continue
        edits.append(edit)
        if edit.kind == "insertion":
            slots[2 * place + 2] += 1
        elif edit.kind != "hit":
            slots[2 * place + 1] += 1
    return GraphAlignment(edits=tuple(edits), slots=slots)


def _edit(said: Arc | None, heard: Arc | None, fragments: bool) -> Edit | None:
    """None where nothing stands against nothing."""
    word = said.word if said and said.word != NOTHING else ""
    other = heard.word if heard and heard.word != NOTHING else ""
    if not word and not other:
        return None
    left_out = (said is None or heard is None) and (said or heard).optional  # type: ignore[union-attr]
    alike = said is not None and heard is not None and _alike(word, other, fragments)
    return Edit(word, other, forgiven=word != other and (left_out or alike))


def _alike(said: str, heard: str, fragments: bool) -> bool:
    if said == heard or not fragments:
        return said == heard
    for part, whole in ((said, heard), (heard, said)):
        if len(part) > 1 and part[0] == "-":
            return whole.endswith(part[1:])
        if len(part) > 1 and part[-1] == "-":
            return whole.startswith(part[:-1])
    return False


def _gap_cost(arc: Arc) -> int:
    return _NOTHING_COST if arc.word == NOTHING else _OPTIONAL_COST if arc.optional else _GAP_COST


def _pair_cost(said: Arc, heard: Arc, fragments: bool) -> int:
    if said.word == heard.word:
        return _BOTH_NOTHING_COST if said.word == NOTHING else 0
    return 0 if fragments and _alike(said.word, heard.word, fragments) else _SUBSTITUTION_COST


def _cheapest(
    said: Sequence[Arc], heard: Sequence[Arc], said_last: Sequence[int], heard_last: Sequence[int], fragments: bool
) -> list[tuple[Arc | None, Arc | None]]:
    """The steps of the cheapest alignment in order: a pair of arcs, or one of them against None."""
    gaps = [_gap_cost(arc) for arc in heard]
    width = len(heard)
    costs: list[array[int]] = []  # of the cheapest alignment that ends with arcs i and j
    origins: list[array[int]] = []  # the pair of arcs that it came from, as i * width + j
    for i, arc in enumerate(said):
        above, sources = _best_rows(costs, arc.before, width)
        gap = _gap_cost(arc)
        row, came = array("q", bytes(8 * width)), array("q", bytes(8 * width))
        for j, other in enumerate(heard):
            if not i and not j:
                continue
            deleted = above[j] + gap
            paired = inserted = _NEVER
            left = corner = 0
            if j:
                left = min(other.before, key=row.__getitem__) if len(other.before) > 1 else other.before[0]
                inserted = row[left] + gaps[j]
                corner = left
                if len(other.before) > 1:
                    corner = min(other.before, key=lambda q: (above[q], sources[q][0]))
                paired = above[corner] + _pair_cost(arc, other, fragments)
            if i and paired <= deleted and paired <= inserted:
                row[j], came[j] = paired, sources[corner][1] * width + corner
            elif deleted < inserted:
                row[j], came[j] = deleted, sources[j][1] * width + j
            else:
                row[j], came[j] = inserted, i * width + left
        costs.append(row)
        origins.append(came)
    i, j = min(((p, q) for p in said_last for q in heard_last), key=lambda pair: costs[pair[0]][pair[1]])
    steps: list[tuple[Arc | None, Arc | None]] = []
    while i or j:
        up, left = divmod(origins[i][j], width)
        steps.append((said[i] if up != i else None, heard[j] if left != j else None))
        i, j = up, left
    return steps[::-1]


def _best_rows(
    costs: Sequence[Sequence[int]], before: Sequence[int], width: int
) -> tuple[Sequence[int], list[tuple[int, int]]]:
    """The least cost in each column over the rows ``before``, and the first row that has it: its place there, and its
    index."""
    if len(before) == 1:
        return costs[before[0]], [(0, before[0])] * width
    if not before:
        return [_NEVER] * width, [(0, 0)] * width
    best = [min((costs[p][j], n) for n, p in enumerate(before)) for j in range(width)]
    return [cost for cost, _ in best], [(n, before[n]) for _, n in best]

"""Word and character errors, counted and aligned by jiwer: the fewest substitutions, deletions and insertions.

NIST's sclite aligns by weight instead, 4 for a substitution and 3 for a deletion or an insertion, so that it may find
an error more where two substitutions are a deletion and an insertion beside a hit; its rates are defined alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from asr.records import ErrorCounts

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class Edit:
    """A word (or character) of the reference against one of the hypothesis; an empty one where nothing stands.

    ``forgiven`` is what differs and counts as a hit: a word that may be left out, a fragment of a word.
    """

    reference: str
    hypothesis: str
    forgiven: bool = False

    @property
    def kind(self) -> Literal["hit", "substitution", "deletion", "insertion"]:
        if self.forgiven or self.reference == self.hypothesis:
            return "hit"
        if not self.hypothesis:
            return "deletion"
        return "substitution" if self.reference else "insertion"


Alignment = tuple[Edit, ...]

Unit = Literal["word", "character"]

_UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u312f\u3400-\u4dbf\u4e00-\u9fff"
    "\ua9e0-\ua9ff\uaa60-\uaa7f\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Scripts that are written without spaces between words: Thai, Lao, Tibetan, Burmese, Khmer, Japanese, Chinese."""
_LONGEST_WORDS = 5
"""Letters of them to a space: more, and the spaces are those of punctuation and phrases, not of words."""


def unit_of(texts: Iterable[str]) -> Unit:
    """What errors in texts like these are told by: characters where most letters are of scripts written without spaces,
    and words are not parted all the same."""
    letters = alike = spaces = 0
    for text in texts:
        letters += sum(map(str.isalnum, text))
        alike += len(_UNSPACED.findall(text))
        spaces += max(len(text.split()) - 1, 0)
    return "character" if 2 * alike > letters and alike > _LONGEST_WORDS * spaces else "word"


def word_errors(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorCounts:
    """Pooled word errors; each text is words parted by white space.

    An empty reference counts every hypothesis word as an insertion, an empty hypothesis every reference word as a
    deletion.
    """
    import jiwer

    return _count(jiwer.process_words, references, hypotheses, lambda text: len(text.split()))


def character_errors(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorCounts:
    """Pooled character errors; the one space between two words counts as a character."""
    import jiwer

    return _count(jiwer.process_characters, references, hypotheses, len)


def word_hits(alignment: Alignment) -> tuple[bool, ...]:
    """Of each of the hypothesis's words, whether the alignment with the reference makes it a hit."""
    return tuple(edit.kind == "hit" for edit in alignment if edit.hypothesis)


def _count(  # type: ignore[no-untyped-def]
    process, references: Sequence[str], hypotheses: Sequence[str], size: Callable[[str], int]
) -> ErrorCounts:
    # jiwer parts words at spaces alone, so that a tab or a no-break space would glue two together.
    pairs = [(" ".join(r.split()), " ".join(h.split())) for r, h in zip(references, hypotheses, strict=True)]
    # jiwer refuses empty references, where every hypothesis unit is an insertion.
    spoken = [(r, h) for r, h in pairs if r]
    invented = sum(size(h) for r, h in pairs if not r)
    if not spoken:
        return ErrorCounts(insertions=invented)
    counts = process([r for r, _ in spoken], [h for _, h in spoken])
    return ErrorCounts(
        hits=counts.hits,
        substitutions=counts.substitutions,
        deletions=counts.deletions,
        insertions=counts.insertions + invented,
    )


def align_words(references: Sequence[str], hypotheses: Sequence[str]) -> list[Alignment]:
    """Each hypothesis's words against its reference's, as ``word_errors`` counts them."""
    import jiwer

    return _align(jiwer.process_words, references, hypotheses, str.split)


def align_characters(references: Sequence[str], hypotheses: Sequence[str]) -> list[Alignment]:
    """Each hypothesis's characters against its reference's, as ``character_errors`` counts them."""
    import jiwer

    return _align(jiwer.process_characters, references, hypotheses, list)


def count(edits: Iterable[Edit]) -> ErrorCounts:
    kinds = [edit.kind for edit in edits]
    return ErrorCounts(
        hits=kinds.count("hit"),
        substitutions=kinds.count("substitution"),
        deletions=kinds.count("deletion"),
        insertions=kinds.count("insertion"),
    )


def error_slots(alignment: Alignment) -> np.ndarray:
    """Where the errors stand, (2R + 1,) for R reference units: insertions at even slots, before, between and after the
    units; at odd slots 1 for each unit that was substituted or deleted."""
    import numpy as np

    slots = [0]
    for edit in alignment:
        if edit.reference:
            slots += [int(edit.kind != "hit"), 0]
        else:
            slots[-1] += 1
    return np.array(slots)


def _align(  # type: ignore[no-untyped-def]
    process, references: Sequence[str], hypotheses: Sequence[str], units: Callable[[str], list[str]]
) -> list[Alignment]:
    pairs = [(" ".join(r.split()), " ".join(h.split())) for r, h in zip(references, hypotheses, strict=True)]
    spoken = [(r, h) for r, h in pairs if r]  # as in _count
    chunks = iter(process([r for r, _ in spoken], [h for _, h in spoken]).alignments if spoken else ())
    aligned = []
    for reference, hypothesis in pairs:
        said, recognised = units(reference), units(hypothesis)
        if not said:
            aligned.append(tuple(Edit("", unit) for unit in recognised))
            continue
        edits: list[Edit] = []
        for chunk in next(chunks):
            left = said[chunk.ref_start_idx : chunk.ref_end_idx]
            right = recognised[chunk.hyp_start_idx : chunk.hyp_end_idx]
            length = max(len(left), len(right))  # one of them is empty where the chunk is of deletions or insertions
            edits += map(Edit, left or [""] * length, right or [""] * length)
        aligned.append(tuple(edits))
    return aligned

"""Word and character errors, counted by jiwer."""

from __future__ import annotations

from collections.abc import Sequence

from asr.records import ErrorCounts


def word_errors(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorCounts:
    """Pooled word errors; each text is words parted by white space.

    An empty reference counts every hypothesis word as an insertion, an empty hypothesis every reference word as a
    deletion.
    """
    import jiwer

    return _count(jiwer.process_words, references, hypotheses, [len(text.split()) for text in hypotheses])


def character_errors(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorCounts:
    """Pooled character errors, spaces between words counted as characters."""
    import jiwer

    return _count(jiwer.process_characters, references, hypotheses, [len(text) for text in hypotheses])


def _count(process, references: Sequence[str], hypotheses: Sequence[str], sizes: Sequence[int]) -> ErrorCounts:  # type: ignore[no-untyped-def]
    # jiwer refuses empty references, where every hypothesis unit is an insertion.
    spoken = [(r, h) for r, h in zip(references, hypotheses, strict=True) if r.strip()]
    invented = sum(size for r, size in zip(references, sizes, strict=True) if not r.strip())
    if not spoken:
        return ErrorCounts(insertions=invented)
    counts = process([r for r, _ in spoken], [h for _, h in spoken])
    return ErrorCounts(
        hits=counts.hits,
        substitutions=counts.substitutions,
        deletions=counts.deletions,
        insertions=counts.insertions + invented,
    )

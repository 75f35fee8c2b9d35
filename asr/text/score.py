"""Word and character errors, counted by jiwer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from asr.records import ErrorCounts


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


def word_hits(reference: str, hypothesis: str) -> tuple[bool, ...]:
    """Of each of the hypothesis's words, whether the alignment with the reference makes it a hit."""
    import jiwer

    words = hypothesis.split()
    hits = [False] * len(words)
    if words and reference.split():
        [chunks] = jiwer.process_words(" ".join(reference.split()), " ".join(words)).alignments
        for chunk in chunks:
            if chunk.type == "equal":
                hits[chunk.hyp_start_idx : chunk.hyp_end_idx] = [True] * (chunk.hyp_end_idx - chunk.hyp_start_idx)
    return tuple(hits)


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

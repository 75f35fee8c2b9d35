"""Phone errors: how well the sounds were recognised, whatever became of the words."""

from __future__ import annotations

from collections.abc import Iterable

from asr.errors import TextError
from asr.records import ErrorCounts, Hypothesis
from asr.score.edits import word_errors
from asr.text.tokenise import PhoneTokeniser


def phone_errors(references: Iterable[str], readings: Iterable[Hypothesis], tokeniser: PhoneTokeniser) -> ErrorCounts:
    """The readings' phones against those of the references' words, each said its first way, pooled. A reference with a
    word that has no pronunciation is left out."""
    counts = ErrorCounts()
    for reference, reading in zip(references, readings, strict=True):
        try:
            spoken = tokeniser.decode(tokeniser.encode(reference))
        except TextError:
            continue
        counts += word_errors([spoken], [tokeniser.decode(reading.tokens)])
    return counts

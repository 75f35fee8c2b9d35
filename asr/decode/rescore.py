"""Rescoring: an n-best list reordered by a language model that is too slow for the search, or came after it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from asr.model.language import LanguageModel
from asr.records import Hypothesis


def rescore(
    nbest: Sequence[Hypothesis], model: LanguageModel, *, weight: float, length_bonus: float = 0.0
) -> tuple[Hypothesis, ...]:
    """``nbest`` with ``model`` heard, best first; of equal ones the earlier stays before the later.

    ``weight`` times the natural log of a whole sentence's probability, and ``length_bonus`` for each of its words, are
    added to ``lm_score``: what the search's own language model said still counts, so that two models interpolate
    log-linearly. The model must be in evaluation mode and spell in the hypotheses' tokens.
    """
    scores = model.score([hypothesis.tokens for hypothesis in nbest])
    return reorder(nbest, scores, weight=weight, length_bonus=length_bonus)


def reorder(
    nbest: Sequence[Hypothesis], scores: Sequence[float], *, weight: float, length_bonus: float = 0.0
) -> tuple[Hypothesis, ...]:
    """As ``rescore``, with the model's ``scores`` at hand."""
    rescored = [
        dataclasses.replace(
            hypothesis,
            lm_score=hypothesis.lm_score + weight * score + length_bonus * len(hypothesis.text.split()),
        )
        for hypothesis, score in zip(nbest, scores, strict=True)
    ]
    return tuple(sorted(rescored, key=lambda hypothesis: -hypothesis.score))

"""Rescoring: an n-best list reordered by a language model that is too slow for the search, or came after it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from asr.records import Hypothesis
from asr.text.tokenise import Tokeniser


class PrefixRows(Protocol):
    """What a language model says may follow each prefix of a search's growing tree. Prefixes are numbered as they come;
    0 is the empty one."""

    @property
    def rows(self) -> np.ndarray:
        """(N, V) natural log: what may follow each of N prefixes; at the blank's place, its end."""
        ...

    def grow(self, parents: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Takes in prefixes N, N + 1, ...: earlier ones, ``parents`` (M,), and one more token each, ``tokens`` (M,).
        Returns their rows (M, V)."""
        ...


class TokenModel(Protocol):
    """A language model over the recogniser's own tokens."""

    def score(self, sentences: Sequence[Sequence[int]]) -> list[float]:
        """Natural-log probability of each sentence, its end included."""
        ...

    def prefixes(self) -> PrefixRows: ...


@dataclass(frozen=True, slots=True)
class TextModel:
    """A language model that spells a reading's text with a tokeniser of its own, for readings whose tokens do not.

    Characters that it cannot spell are passed over.
    """

    model: TokenModel
    tokeniser: Tokeniser

    def score(self, texts: Sequence[str]) -> list[float]:
        """Natural-log probability of each text, its end included."""
        known = {character for token in self.tokeniser.tokens[1:] for character in token} | {" "}
        return self.model.score(
            [self.tokeniser.encode("".join(character for character in text if character in known)) for text in texts]
        )


def sentence_scores(nbest: Sequence[Hypothesis], model: TokenModel | TextModel) -> list[float]:
    """Natural-log probability of each whole sentence."""
    if isinstance(model, TextModel):
        return model.score([hypothesis.text for hypothesis in nbest])
    return model.score([hypothesis.tokens for hypothesis in nbest])


def rescore(
    nbest: Sequence[Hypothesis], model: TokenModel | TextModel, *, weight: float, length_bonus: float = 0.0
) -> tuple[Hypothesis, ...]:
    """``nbest`` with ``model`` heard, best first; of equal ones the earlier stays before the later.

    ``weight`` times the natural log of a whole sentence's probability, and ``length_bonus`` for each of its words, are
    added to ``lm_score``: what the search's own language model said still counts, so that two models interpolate
    log-linearly. The model must be in evaluation mode and, unless it reads text, spell in the hypotheses' tokens.
    """
    return reorder(nbest, sentence_scores(nbest, model), weight=weight, length_bonus=length_bonus)


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

"""Back-off weights that make the probabilities after every context sum to one, whatever n-grams a model lists."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from asr.decode.arpa import Arpa
from asr.decode.compiled import compiled
from asr.decode.ngram import ROOT, NgramArrays, NgramModel, advance

LEAST = 1e-9
"""Probability left over that is taken for rounding."""


def weigh_backoffs(arpa: Arpa, start: str, name: str) -> NgramModel:
    """The model of ``arpa``, whatever its back-off weights, with new ones; its n-grams are sorted by context and last
    word, and ``start`` is the word that is never predicted. Raises LanguageModelError."""
    for section in arpa.sections:
        section.backoffs[:] = 0
    model = NgramModel.from_sorted(arpa, name)
    _weigh(model.arrays, model.index(start))
    return replace(model, start=advance(model.arrays, ROOT, model.index(start))[1])


@compiled
def left_over(arrays: NgramArrays, context: int, start: int) -> tuple[float, float]:
    """What the n-grams that extend ``context`` leave of its probability, and what their last words leave of that after
    the next shorter context: the back-off weight is the one over the other."""
    own = lower = 1.0
    for node in range(arrays.first_child[context], arrays.first_child[context + 1]):
        if arrays.words[node] != start:
            own -= np.exp(arrays.log_probs[node])
            lower -= np.exp(advance(arrays, arrays.suffixes[context], arrays.words[node])[0])
    return own, lower


@compiled
def log_ratio(own: float, lower: float) -> float:
    """The log of a back-off weight, 0 where either leaves nothing but rounding."""
    return np.log(own / lower) if own > LEAST and lower > LEAST else 0.0


@compiled
def _weigh(arrays: NgramArrays, start: int) -> None:
    # Shorter contexts come first, so that their weights are the new ones where longer contexts look them up.
    for context in range(ROOT + 1, len(arrays.backoffs)):
        if arrays.first_child[context] < arrays.first_child[context + 1]:
            own, lower = left_over(arrays, context, start)
            arrays.backoffs[context] = log_ratio(own, lower)

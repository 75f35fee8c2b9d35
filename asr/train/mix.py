"""Linear interpolation of back-off models: one model whose n-grams are those of all.

p(w | h) is the weighted mean of the models' for every n-gram that any of them lists, and the back-off weights make the
rest sum to one (as ngram -mix-lm of SRILM; Stolcke 2002). A word that a model lacks has no probability in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from asr.decode.arpa import MISSING_UNKNOWN, START, Arpa, Section
from asr.decode.compiled import compiled
from asr.decode.ngram import ROOT, NgramArrays, NgramModel, advance

LEAST = 1e-9
"""Probability left over that is taken for rounding."""


def mix(models: Sequence[NgramModel], weights: Sequence[float]) -> NgramModel:
    """The models' interpolation by ``weights``, which sum to one; of the order of the longest."""
    words = tuple(dict.fromkeys(word for model in models for word in model.words))
    places = {word: i for i, word in enumerate(words)}
    numbers = []  # a model's number of each word, -1 where it lacks it
    for model in models:
        own = {word: i for i, word in enumerate(model.words)}
        numbers.append(np.array([own.get(word, -1) for word in words], np.int32))
    sections = []
    for n in range(1, max(model.order for model in models) + 1):
        spelled = [np.array([places[word] for word in model.words], np.int32)[_spelled(model, n)] for model in models]
        ids = np.unique(np.concatenate(spelled), axis=0)
        probabilities = sum(
            weight * np.exp(_last(model.arrays, own[ids], model.unknown))
            for model, own, weight in zip(models, numbers, weights, strict=True)
        )
        log_probs = np.log(np.clip(probabilities, 10.0**MISSING_UNKNOWN, 1.0)).astype(np.float32)
        sections.append(Section(ids=ids, log_probs=log_probs, backoffs=np.zeros(len(ids), np.float32)))
    mixed = NgramModel.from_arpa(Arpa(words=words, sections=tuple(sections)), "the mixed model")
    start = mixed.index(START)
    _weigh_backoffs(mixed.arrays, start)
    return replace(mixed, start=advance(mixed.arrays, ROOT, start)[1])


def _spelled(model: NgramModel, order: int) -> np.ndarray:
    """(M, order) the model's n-grams of this order, in its own numbers of words."""
    first, last, spelled = 0, 1, np.zeros((1, 0), np.int32)
    for _ in range(order):
        first_child = model.arrays.first_child
        if first >= len(first_child) - 1 or first == last:
            return np.zeros((0, order), np.int32)
        bounds = first_child[first : last + 1]
        contexts = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
        first, last = int(bounds[0]), int(bounds[-1])
        spelled = np.concatenate([spelled[contexts], model.arrays.words[first:last, None]], axis=1)
    return spelled


@compiled
def _last(arrays: NgramArrays, ids: np.ndarray, unknown: int) -> np.ndarray:
    """(M,) log p of the last word of each row of ``ids`` (M, n) after those before it; a word that is lacking, -1, is
    <unk> to what follows it and has no probability itself."""
    log_probs = np.empty(len(ids))
    for i in range(len(ids)):
        state = ROOT
        for word in ids[i]:
            log_probs[i], state = advance(arrays, state, word if word >= 0 else unknown)
        if ids[i, -1] < 0:
            log_probs[i] = -np.inf
    return log_probs


@compiled
def _weigh_backoffs(arrays: NgramArrays, start: int) -> None:
    """Fills in the back-off weights, those of shorter contexts first, on which the longer ones' depend."""
    for context in range(1, len(arrays.backoffs)):
        own = lower = 1.0
        for node in range(arrays.first_child[context], arrays.first_child[context + 1]):
            if arrays.words[node] != start:  # which is never predicted
                own -= np.exp(arrays.log_probs[node])
                lower -= np.exp(advance(arrays, arrays.suffixes[context], arrays.words[node])[0])
        if own < 1.0 and own > LEAST and lower > LEAST:
            arrays.backoffs[context] = np.log(own / lower)

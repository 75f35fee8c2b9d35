"""Linear interpolation of back-off models: one model whose n-grams are those of all.

p(w | h) is the weighted mean of the models' for every n-gram that any of them lists, the back-off weights make the rest
sum to one (as ngram -mix-lm of SRILM; Stolcke 2002). The weights are those under which a text is most probable, found
by expectation maximisation (Jelinek and Mercer 1980).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from asr.decode.arpa import MISSING_UNKNOWN, START, UNKNOWN, Arpa, Section
from asr.decode.compiled import compiled
from asr.decode.ngram import NgramArrays, NgramModel, advance
from asr.errors import LanguageModelError
from asr.train.backoffs import weigh_backoffs

ROUNDS = 200
CLOSE = 1e-6
"""The change of a weight below which expectation maximisation has converged."""
PARTS, ENOUGH = 5, 1_000
"""In how many parts a text is held out, one after the other; and how many sentences in a part are enough for one."""
SEEN_BEFORE, FORESEEN_BEFORE = 20, 1
"""What is believed of a text before it is seen: as if of so many words its own model had foreseen so many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """One weight a model, which sum to one; the perplexity of the text with them, ``mixed``, and with each model
    ``alone``, infinite where it lacks a word that another has."""

    values: tuple[float, ...]
    mixed: float
    alone: tuple[float, ...]


def find_weights(models: Sequence[NgramModel], sentences: Iterable[Sequence[str]]) -> Weights:
    """The weights under which ``sentences`` are most probable. Raises LanguageModelError where there are none.

    A word that no model has is <unk> to all; one that some have has no probability in the others.
    """
    probabilities = _probabilities(models, sentences)
    weights = _maximise(probabilities)
    with np.errstate(divide="ignore", over="ignore"):
        alone = np.exp(-np.log(probabilities).mean(1))
    return Weights(
        values=tuple(weights.tolist()),
        mixed=float(np.exp(-np.log(weights @ probabilities).mean())),
        alone=tuple(alone.tolist()),
    )


def find_share(
    model: NgramModel, sentences: Sequence[Sequence[str]], estimate: Callable[[Sequence[Sequence[str]]], NgramModel]
) -> float:
    """The weight, in (0, 1), that the model of ``sentences``, which ``estimate`` makes, should have beside ``model``.

    That is the weight under which sentences of the same kind are most probable: each fifth of the text in turn is held
    out and scored with the model of the rest, since on the text that it is made of every model is far too sure. Where
    there is next to nothing to hold out, the weight is small: it is the most probable one (MAP) under a Beta prior.
    """
    scores = [np.zeros((2, 0))]
    every = max(PARTS, len(sentences) // ENOUGH)
    for part in range(PARTS if every == PARTS else 1):
        held_out = sentences[part::every]
        rest = [sentence for i, sentence in enumerate(sentences) if i % every != part]
        if held_out and rest:
            scores.append(_probabilities([model, estimate(rest)], held_out))
    prior = np.array([SEEN_BEFORE - FORESEEN_BEFORE, FORESEEN_BEFORE])
    return float(_maximise(np.concatenate(scores, axis=1), prior)[1])


def _probabilities(models: Sequence[NgramModel], sentences: Iterable[Sequence[str]]) -> np.ndarray:
    """(M, N) what each model gives to each word and each end of ``sentences``."""
    scores: list[np.ndarray] = []
    known = set().union(*(model.words for model in models))
    for sentence in sentences:
        words = [word if word in known else UNKNOWN for word in sentence]
        columns = []
        for model in models:
            column = np.array(model.score(words))
            column[:-1][[model.index(word) == model.unknown and word != UNKNOWN for word in words]] = -np.inf
            columns.append(column)
        scores.append(np.stack(columns))
    if not scores:
        raise LanguageModelError("there are no sentences to choose the weights by")
    probabilities: np.ndarray = np.exp(np.concatenate(scores, axis=1))
    return probabilities


def _maximise(probabilities: np.ndarray, prior: np.ndarray | float = 0.0) -> np.ndarray:
    """(M,) the weights under which events of these ``probabilities`` (M, N) are most probable, ``prior`` (M,) events
    counted besides, of which it is known which model they come from."""
    weights = np.full(len(probabilities), 1 / len(probabilities))
    for _ in range(ROUNDS):
        parts = weights[:, None] * probabilities
        new = (parts / parts.sum(0)).sum(1) + prior
        new /= new.sum()
        moved, weights = np.abs(new - weights).max(), new
        if moved < CLOSE:
            break
    return weights


def mix(models: Sequence[NgramModel], weights: Sequence[float]) -> NgramModel:
    """The models' interpolation, of the order of the longest."""
    words = tuple(dict.fromkeys(itertools.chain.from_iterable(model.words for model in models)))
    ids = {word: i for i, word in enumerate(words)}
    own_ids = [np.array([ids[word] for word in model.words], np.int32) for model in models]
    # Each model's number of a word; -1 where it lacks it.
    numbers = [np.array([model.ids.get(word, -1) for word in words], np.int32) for model in models]
    nodes = [np.zeros(1, np.int64) for _ in models]  # where each model's contexts are among the mixed ones
    states = [np.zeros(1, np.int64) for _ in models]  # in which state a model is after each mixed context
    spelled, sections = np.zeros((1, 0), np.int32), []
    for n in range(1, max(model.order for model in models) + 1):
        keys = [_keys(model, n, nodes[i], own_ids[i], len(words)) for i, model in enumerate(models)]
        union = np.unique(np.concatenate(keys))
        contexts, last = union // len(words), (union % len(words)).astype(np.int32)
        mixed = np.full(len(union), -np.inf)
        for i, model in enumerate(models):
            log_probs, states[i] = _walk(model.arrays, states[i][contexts], numbers[i][last], model.unknown)
            with np.errstate(divide="ignore"):
                mixed = np.logaddexp(mixed, np.log(weights[i]) + log_probs)
            nodes[i] = np.searchsorted(union, keys[i])
        spelled = np.concatenate([spelled[contexts], last[:, None]], axis=1)
        sections.append(
            Section(
                ids=spelled,
                log_probs=np.clip(mixed, math.log(10) * MISSING_UNKNOWN, 0).astype(np.float32),
                backoffs=np.zeros(len(union), np.float32),
            )
        )
    return weigh_backoffs(Arpa(words=words, sections=tuple(sections)), START, "the mixed model")


def _keys(model: NgramModel, n: int, nodes: np.ndarray, own_ids: np.ndarray, vocabulary: int) -> np.ndarray:
    """(M,) of the model's n-grams of order ``n``: the place of the context among the mixed ones, times V, and the last
    word; rising or not."""
    start, stop = model.level(n)
    if start == stop:
        return np.zeros(0, np.int64)
    first, last = model.level(n - 1)
    contexts = np.repeat(np.arange(last - first), np.diff(model.arrays.first_child[first : last + 1]))
    keys: np.ndarray = nodes[contexts] * vocabulary + own_ids[model.arrays.words[start:stop]]
    return keys


@compiled
def _walk(arrays: NgramArrays, states: np.ndarray, words: np.ndarray, unknown: int) -> tuple[np.ndarray, np.ndarray]:
    """log p of each of ``words`` (M,) after its state, and the state then; a word that is lacking, -1, has no
    probability, and is <unk> to what follows it."""
    log_probs, after = np.empty(len(words)), np.empty(len(words), np.int64)
    for i in range(len(words)):
        log_probs[i], after[i] = advance(arrays, states[i], words[i] if words[i] >= 0 else unknown)
        if words[i] < 0:
            log_probs[i] = -np.inf
    return log_probs, after

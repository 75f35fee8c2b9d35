"""Entropy pruning: Stolcke's formula by brute force, probabilities that sum to one, nothing lost that others extend."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest

from asr.decode.arpa import Arpa
from asr.decode.ngram import ROOT, NgramModel, advance
from asr.errors import LanguageModelError
from asr.train.kneser_ney import estimate, read_text
from asr.train.prune import losses, prune


def small_model(order: int = 3, seed: int = 1) -> NgramModel:
    draw = random.Random(seed)
    text = [draw.choices("abcd", [4, 3, 2, 1], k=draw.randint(1, 7)) for _ in range(40)]
    return NgramModel.from_arpa(estimate(read_text(text), order=order).model)


def entries(arpa: Arpa) -> dict[tuple[str, ...], tuple[float, float]]:
    return {
        tuple(arpa.words[i] for i in ids): (float(log_prob), float(backoff))
        for section in arpa.sections
        for ids, log_prob, backoff in zip(section.ids, section.log_probs, section.backoffs, strict=True)
    }


def log_prob(listed: dict, history: tuple[str, ...], word: str) -> float:
    if (*history, word) in listed:
        return listed[(*history, word)][0]
    return listed.get(history, (0, 0.0))[1] + log_prob(listed, history[1:], word)


def chain(listed: dict, history: tuple[str, ...]) -> float:
    """log p of the history's words, </s> in place of <s>."""
    first = "</s>" if history[0] == "<s>" else history[0]
    return log_prob(listed, (), first) + sum(log_prob(listed, history[:i], history[i]) for i in range(1, len(history)))


def loss(listed: dict, ngram: tuple[str, ...], frequency: float) -> float:
    """By what fraction the perplexity rises: relative entropy of the two distributions after the context, word by word,
    each normalised by hand, with the context's frequency as its weight."""
    history, word = ngram[:-1], ngram[-1]
    predicted = [words[0] for words in listed if len(words) == 1 and words != ("<s>",)]
    before = {w: math.exp(log_prob(listed, history, w)) for w in predicted}
    kept = [w for w in predicted if (*history, w) in listed and w != word]
    lower = {w: math.exp(log_prob(listed, history[1:], w)) for w in predicted}
    weight = (1 - sum(before[w] for w in kept)) / (1 - sum(lower[w] for w in kept))
    after = {w: before[w] if w in kept else weight * lower[w] for w in predicted}
    return math.expm1(frequency * sum(before[w] * math.log(before[w] / after[w]) for w in predicted))


def brute_losses(listed: dict, frequency) -> dict[tuple[str, ...], float]:
    lost = {ngram: loss(listed, ngram, frequency(ngram[:-1])) for ngram in listed if len(ngram) > 1}
    for ngram in sorted(lost, key=len, reverse=True):
        if len(ngram) > 2:
            lost[ngram[:-1]] = max(lost[ngram[:-1]], lost[ngram])
    return lost


def check_losses(model: NgramModel, found: np.ndarray, expected: dict[tuple[str, ...], float]) -> None:
    names = list(entries(model.to_arpa()))
    assert np.isinf(found[: 1 + len(model.words)]).all()
    assert len(expected) == len(found) - 1 - len(model.words) > 50
    for node, ngram in enumerate(names, start=1):
        if len(ngram) > 1:
            assert found[node] == pytest.approx(expected[ngram], rel=1e-3, abs=2e-8), ngram


def test_an_ngrams_loss_is_the_relative_entropy_of_leaving_it_out():
    model = small_model()
    listed = entries(model.to_arpa())
    check_losses(model, losses(model), brute_losses(listed, lambda history: math.exp(chain(listed, history))))


def test_a_running_history_is_as_frequent_as_in_text_that_the_model_makes_up():
    model = small_model()
    listed = entries(model.to_arpa())
    words = [word for word in model.words if word != "<s>"]
    histories = [("<s>",), *itertools.product(["<s>", *words], words)]
    moves = np.zeros((len(histories), len(histories)))
    for i, history in enumerate(histories):
        if history[-1] == "</s>":
            continue
        for word in words:
            after = ("<s>",) if word == "</s>" else (*history, word)[-2:]
            moves[i, histories.index(after)] += math.exp(log_prob(listed, history, word))
    places = np.linalg.matrix_power(moves, 4096)[0]
    places /= places.sum()

    def frequency(history: tuple[str, ...]) -> float:
        return sum(p for p, seen in zip(places, histories, strict=True) if seen[-len(history) :] == history)

    check_losses(model, losses(model, "running"), brute_losses(listed, frequency))


def test_a_pruned_model_lists_what_costs_most_and_sums_to_one_after_every_context():
    model = small_model()
    lost = losses(model)
    threshold = float(np.median(lost[np.isfinite(lost)]))
    pruned = prune(model, threshold=threshold)
    names = entries(model.to_arpa())
    left = entries(pruned.to_arpa())
    assert left.keys() == {ngram for ngram, worth in zip(names, lost[1:], strict=True) if worth >= threshold}
    assert all(left[ngram][0] == names[ngram][0] for ngram in left)
    assert all(ngram[:-1] in left for ngram in left if len(ngram) > 1)
    for history in itertools.product(range(len(pruned.words)), repeat=2):
        state = ROOT
        for word in history:
            state = advance(pruned.arrays, state, word)[1]
        total = sum(math.exp(advance(pruned.arrays, state, w)[0]) for w in range(len(pruned.words)) if w != 1)
        assert total == pytest.approx(1, abs=1e-5)


def test_a_number_of_ngrams_is_kept_to_and_the_unigrams_stay():
    model = small_model()
    for wanted in (40, 12, len(model.words)):
        kept = sum(len(section.ids) for section in prune(model, ngrams=wanted).to_arpa().sections)
        assert len(model.words) <= kept <= wanted
        assert kept > wanted - 4 or wanted == len(model.words)
    whole = prune(model, ngrams=10_000)
    np.testing.assert_allclose(whole.arrays.backoffs, model.arrays.backoffs, atol=1e-5)
    with pytest.raises(LanguageModelError, match="7 words, which stay"):
        prune(model, ngrams=3)

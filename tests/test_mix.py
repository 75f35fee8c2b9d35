"""Interpolation of language models: the weighted mean by brute force, weights that make a text most probable."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from asr.decode.ngram import ROOT, NgramModel, advance
from asr.errors import LanguageModelError
from asr.train.kneser_ney import estimate, read_text
from asr.train.mix import find_weights, mix


def model_of(*sentences: str, order: int) -> NgramModel:
    return NgramModel.from_arpa(estimate(read_text(sentence.split() for sentence in sentences), order=order).model)


ONE = model_of("a b a c", "a b", "b a a", "c a b a", order=3)
OTHER = model_of("d a b", "a d d b", "b d", order=2)
DEV = [sentence.split() for sentence in ("a b a", "d a b", "c a b", "z d")]


def test_every_listed_ngram_has_the_weighted_mean_of_the_models():
    mixed = mix([ONE, OTHER], [0.7, 0.3])
    arpa = mixed.to_arpa()
    listed = [
        tuple(arpa.words[i] for i in ids)
        for section in arpa.sections
        for ids in section.ids
        if arpa.words[ids[-1]] != "<s>"
    ]
    for model in (ONE, OTHER):
        own = model.to_arpa()
        assert {tuple(own.words[i] for i in ids) for section in own.sections for ids in section.ids} <= {
            *listed,
            ("<s>",),
        }
    for section in arpa.sections:
        for ids, log_prob in zip(section.ids, section.log_probs, strict=True):
            *history, word = (arpa.words[i] for i in ids)
            expected = 0.0
            for model, weight in ((ONE, 0.7), (OTHER, 0.3)):
                state = ROOT
                for before in history:
                    state = advance(model.arrays, state, model.index(before))[1]
                if word in model.ids:
                    expected += weight * math.exp(advance(model.arrays, state, model.index(word))[0])
            assert math.exp(log_prob) == pytest.approx(expected, rel=1e-5), (history, word)


def test_a_mixed_model_sums_to_one_after_every_context():
    mixed = mix([ONE, OTHER], [0.4, 0.6])
    assert set(mixed.words) == {"<unk>", "<s>", "</s>", "a", "b", "c", "d"}
    for history in itertools.product(range(len(mixed.words)), repeat=2):
        state = ROOT
        for word in history:
            state = advance(mixed.arrays, state, word)[1]
        total = sum(math.exp(advance(mixed.arrays, state, mixed.index(w))[0]) for w in mixed.words if w != "<s>")
        assert total == pytest.approx(1, abs=1e-5)


def test_the_weights_are_those_under_which_the_text_is_most_probable():
    found = find_weights([ONE, OTHER], DEV)
    assert sum(found.values) == pytest.approx(1)

    def perplexity(weight: float) -> float:
        logs = []
        for sentence in DEV:
            spelled = [word if word in "abcd" else "<unk>" for word in sentence]
            one, other = (np.exp(model.score(spelled)) for model in (ONE, OTHER))
            for i, word in enumerate(spelled):
                one[i] *= word in ONE.ids
                other[i] *= word in OTHER.ids
            logs += np.log(weight * one + (1 - weight) * other).tolist()
        return math.exp(-sum(logs) / len(logs))

    weights = np.linspace(0.001, 0.999, 999)
    best = min(weights, key=perplexity)
    assert found.values[0] == pytest.approx(best, abs=2e-3)
    assert found.mixed == pytest.approx(perplexity(found.values[0]))
    assert found.alone == (math.inf, math.inf)  # "d" is no word of the one, "c" none of the other


def test_a_model_mixed_with_itself_is_itself():
    found = find_weights([ONE, ONE], DEV[:1])
    assert found.mixed == pytest.approx(found.alone[0])
    assert mix([ONE, ONE], found.values).score(["a", "b", "a"]) == pytest.approx(ONE.score(["a", "b", "a"]), abs=1e-5)


def test_weights_need_a_text():
    with pytest.raises(LanguageModelError, match="no sentences"):
        find_weights([ONE, OTHER], [])

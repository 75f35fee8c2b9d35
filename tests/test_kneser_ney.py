"""Modified Kneser-Ney estimation: a corpus worked by hand, lmplz's numbers, probabilities that sum to one."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.decode.arpa import Arpa, read_arpa, write_arpa
from asr.decode.ngram import ROOT, NgramModel, advance
from asr.errors import AsrError, LanguageModelError
from asr.train.columns import Workspace
from asr.train.kneser_ney import Estimate, estimate, read_text


def model_of(*sentences: str, order: int, prune: tuple[int, ...] = (0,), **limits: int) -> Estimate:
    return estimate(read_text((sentence.split() for sentence in sentences), **limits), order=order, prune=prune)


def entries(model: Arpa) -> dict[str, tuple[float, float]]:
    """Probability and back-off weight of each n-gram."""
    return {
        " ".join(model.words[i] for i in ids): (math.exp(log_prob), math.exp(backoff))
        for section in model.sections
        for ids, log_prob, backoff in zip(section.ids, section.log_probs, section.backoffs, strict=True)
    }


# The two sentences hold: <s> a (twice), a b, b </s>, a </s>. Nothing comes three times, so that D1 is 0.5 and D2 is 1.
# A unigram counts the words it follows: a 1, b 1, </s> 2. Their discounts leave 2 of 4 to the uniform 1/4.
BY_HAND = {
    "<unk>": (0.5 / 4, 1),
    "<s>": (1, 0.5),
    "</s>": ((2 - 1) / 4 + 0.5 / 4, 1),
    "a": ((1 - 0.5) / 4 + 0.5 / 4, 0.5),
    "b": ((1 - 0.5) / 4 + 0.5 / 4, 0.5),
    "<s> a": ((2 - 1) / 2 + 0.5 * 0.25, 1),
    "a b": ((1 - 0.5) / 2 + 0.5 * 0.25, 1),
    "a </s>": ((1 - 0.5) / 2 + 0.5 * 0.375, 1),
    "b </s>": ((1 - 0.5) / 1 + 0.5 * 0.375, 1),
}


def test_a_small_corpus_comes_out_as_by_hand():
    made = model_of("a b", "a", order=2)
    assert made.fallbacks == (1, 2)
    found = entries(made.model)
    assert found.keys() == BY_HAND.keys()
    for ngram, expected in BY_HAND.items():
        assert found[ngram] == pytest.approx(expected, abs=1e-6), ngram


def test_a_pruned_ngram_gives_all_its_probability_to_the_lower_order():
    found = entries(model_of("a b", "a", order=2, prune=(0, 1)).model)
    assert found.keys() == BY_HAND.keys() - {"a b", "a </s>", "b </s>"}
    assert found["<s> a"] == pytest.approx(BY_HAND["<s> a"])
    assert found["a"] == pytest.approx((0.25, 1))
    assert found["b"] == pytest.approx((0.25, 1))


# lmplz -o 3 --prune 0 0 1 --discount_fallback, of KenLM 0.3.0, on the same text: log10 p and back-off.
LMPLZ = {
    "<unk>": (-2.6254742, 0),
    "<s>": (0, -0.79892206),
    "</s>": (-1.0928488, 0),
    "w46": (-2.0891428, -0.20133166),
    "w3": (-1.2920157, -0.5224931),
    "w0": (-1.0928488, -0.6460597),
    "w6 w3": (-1.2542732, 0),
    "w40 w0": (-0.8581919, 0),
    "w8 w4": (-0.8549166, -0.2683877),
    "w5 w41": (-1.9705853, 0),
    "w2 w0 w0": (-0.63814896, 0),
    "w10 w1 w2": (-0.66781956, 0),
    "<s> w0 w39": (-1.4958581, 0),
    "w1 w1 w15": (-1.1768811, 0),
}


def test_a_pruned_model_is_lmplzs():
    draw = random.Random(7)
    names, weights = [f"w{i}" for i in range(60)], [1 / (i + 1) for i in range(60)]
    made = model_of(
        *(" ".join(draw.choices(names, weights, k=draw.randint(1, 8))) for _ in range(300)), order=3, prune=(0, 0, 1)
    )
    assert [len(section.ids) for section in made.model.sections] == [63, 606, 133]
    assert made.fallbacks == (1,)
    assert made.discounts[1] == pytest.approx((0.65812, 1.17077, 0.931624), abs=1e-5)
    assert made.discounts[2] == pytest.approx((0.856089, 1.07806, 1.16552), abs=1e-5)
    found = entries(made.model)
    for ngram, expected in LMPLZ.items():
        assert np.log10(found[ngram]) == pytest.approx(expected, abs=2e-6), ngram


sentences = st.lists(st.lists(st.sampled_from("abcd"), max_size=7).map(" ".join), min_size=1, max_size=30)


@settings(max_examples=40)
@given(sentences, st.integers(1, 4), st.lists(st.integers(0, 2), max_size=3), st.integers(1, 3))
def test_the_probabilities_after_every_context_sum_to_one(sentences, order, thresholds, min_count):
    prune = (0, *sorted(thresholds))[:order]
    made = model_of(*sentences, order=order, prune=prune, min_count=min_count).model
    model = NgramModel.from_arpa(made)
    predicted = [i for i, word in enumerate(model.words) if word != "<s>"]
    for history in itertools.product(range(len(model.words)), repeat=min(order - 1, 2)):
        state = ROOT
        for word in history:
            _, state = advance(model.arrays, state, word)
        assert sum(math.exp(advance(model.arrays, state, word)[0]) for word in predicted) == pytest.approx(1, abs=1e-6)


def test_every_ngram_has_its_context_and_its_suffix():
    draw = random.Random(5)
    text = [" ".join(draw.choices("abcdefgh", k=8)) for _ in range(200)]
    model = model_of(*text, order=4, prune=(0, 0, 1, 2)).model
    listed = {tuple(ids) for section in model.sections for ids in section.ids.tolist()}
    for ngram in listed:
        assert len(ngram) == 1 or {ngram[:-1], ngram[1:]} <= listed


@pytest.mark.parametrize(("order", "prune"), [(1, (0,)), (3, (0, 0, 1)), (5, (0, 1))])
def test_the_numbers_are_the_same_to_the_last_bit_in_however_little_memory(order, prune):
    draw = random.Random(3)
    text = [draw.choices("abcdefgh", [2**i for i in range(8)], k=draw.randint(0, 9)) for _ in range(40)]
    models = []
    for memory in (1 << 30, 20_000, 2_000):
        workspace = Workspace(memory=memory)
        models.append(
            estimate(read_text(text, workspace=workspace), order=order, prune=prune, workspace=workspace).model
        )
    for model in models[1:]:
        for section, expected in zip(model.sections, models[0].sections, strict=True):
            for name in ("ids", "log_probs", "backoffs"):
                np.testing.assert_array_equal(getattr(section, name), getattr(expected, name))


def test_a_disk_that_refuses_temporary_files_is_a_sentence(tmp_path):
    with pytest.raises(AsrError, match=f"temporary files cannot be kept in {tmp_path / 'nowhere'}: No such file"):
        read_text([["a"]], workspace=Workspace(folder=tmp_path / "nowhere"))


def test_words_past_the_vocabulary_are_unknown_and_their_probability_is_learnt():
    text = read_text([["a", "b", "a"], ["a", "c", "b"]], vocabulary=2)
    assert text.words == ("<unk>", "<s>", "</s>", "a", "b")
    assert text.tokens[:].tolist() == [1, 3, 4, 3, 2, 1, 3, 0, 4, 2]
    assert read_text([["a", "b", "a"], ["a", "c", "b"]], min_count=3).words == ("<unk>", "<s>", "</s>", "a")


@pytest.mark.parametrize(
    ("order", "prune", "reason"),
    [
        (0, (0,), "order of 0"),
        (21, (0,), "order of 21"),
        (2, (1,), "stay"),
        (3, (0, 2, 1), "lower"),
        (2, (0, 0, 1), "2"),
    ],
)
def test_an_order_or_thresholds_that_make_no_model_are_a_sentence(order, prune, reason):
    with pytest.raises(LanguageModelError, match=reason):
        model_of("a b", order=order, prune=prune)


@pytest.mark.parametrize("word", ["<s>", "</s>"])
def test_a_sentence_marker_among_the_words_is_refused(word):
    with pytest.raises(LanguageModelError, match=word):
        model_of(f"a {word} b", order=2)


@pytest.mark.parametrize("name", ["lm.arpa", "lm.arpa.gz"])
def test_a_written_model_reads_as_itself_and_is_the_same_file_each_time(tmp_path, name):
    model = model_of("grüße aus köln", "grüße", order=3).model
    path = tmp_path / name
    write_arpa(path, model)
    first = path.read_bytes()
    write_arpa(path, model)
    assert path.read_bytes() == first
    again = read_arpa(path)
    assert again.words == model.words
    for read, written in zip(again.sections, model.sections, strict=True):
        np.testing.assert_array_equal(read.ids, written.ids)
        np.testing.assert_allclose(read.log_probs, written.log_probs, atol=1e-6)
        np.testing.assert_allclose(read.backoffs, written.backoffs, atol=1e-6)


@pytest.mark.parametrize(("order", "prune"), [(1, (0,)), (2, (0,)), (4, (0, 0, 1, 2))])
def test_a_model_built_slice_by_slice_from_disk_is_the_one_built_in_memory(order, prune, monkeypatch):
    monkeypatch.setattr("asr.decode.ngram._ROWS", 7)
    draw = random.Random(11)
    made = model_of(*(" ".join(draw.choices("abcdef", k=6)) for _ in range(60)), order=order, prune=prune)
    sliced, whole = NgramModel.from_sorted(made), NgramModel.from_arpa(made.model)
    assert (sliced.order, sliced.words, sliced.start) == (whole.order, whole.words, whole.start)
    for name, expected in whole.arrays._asdict().items():
        np.testing.assert_array_equal(getattr(sliced.arrays, name), expected, name, strict=True)

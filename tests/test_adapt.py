"""Adapting to a text: new words, a mixed language model, a copy that is whole or not there."""

import math
import random

import numpy as np
import pytest
import toy
from click.testing import CliRunner

from asr import adapt, checkpoint, recipe
from asr.cli import main
from asr.decode.ngram import NgramModel
from asr.errors import CheckpointError, TextError
from asr.text.pronounce import Pronunciation, PronunciationLexicon
from asr.text.tokenise import PhoneTokeniser
from asr.train.kneser_ney import estimate, read_text
from asr.train.mix import find_share, mix


def model_of(sentences, order: int = 3) -> NgramModel:
    return NgramModel.from_arpa(estimate(read_text(sentences), order=order).model)


OWN = model_of([line.split() for line in ("a b c", "a b", "c a", "b b a c", "a c")])
TEXT = model_of([line.split() for line in ("a d", "a b d", "d d c", "c a d")], order=2)


def probability(model: NgramModel, history: list[str], word: str) -> float:
    return math.exp(model.score([*history, word], eos=False)[-1])


@pytest.mark.parametrize("history", [[], ["a"], ["b"], ["a", "b"]])
def test_a_mixed_models_probabilities_are_the_weighted_means_and_sum_to_one(history):
    mixed = mix([OWN, TEXT], [0.25, 0.75])
    assert mixed.order == 3
    total = 0.0
    for word in ("a", "b", "c", "d", "<unk>"):
        parts = [probability(m, history, word) if word in m.words else 0.0 for m in (OWN, TEXT)]
        found = probability(mixed, history, word)
        total += found
        if _lists(mixed, [*history, word]):
            assert found == pytest.approx(0.25 * parts[0] + 0.75 * parts[1], rel=1e-5)
    end = math.exp(mixed.score(history)[-1])
    assert total + end == pytest.approx(1.0, abs=1e-5)


def _lists(model: NgramModel, ngram: list[str]) -> bool:
    """Whether the model has the n-gram after <s> itself, so that no back-off weight is in its probability."""
    from asr.decode.ngram import find_child

    state = 0
    for word in ["<s>", *ngram][-model.order :]:
        if word not in model.words:
            return False
        state = find_child(model.arrays, state, model.words.index(word))
        if state < 0:
            return False
    return True


def test_a_model_mixed_with_itself_is_itself():
    mixed = mix([OWN, OWN], [0.5, 0.5])
    for sentence in ("a b c", "c b a", "b"):
        np.testing.assert_allclose(mixed.score(sentence.split()), OWN.score(sentence.split()), rtol=1e-4)


GENERAL = model_of([random.Random(i).choices("abcdefgh", k=8) for i in range(200)])
"""Of a language in which any word may follow any other."""


def share(sentences: list[str]) -> float:
    return find_share(GENERAL, [list(sentence) for sentence in sentences], lambda rest: model_of(rest))


def test_a_text_that_foresees_its_own_held_out_parts_gets_most_of_the_language_model():
    assert share(["abcdefgh", "bcdefgh"] * 30) > 0.9


def test_a_text_whose_parts_say_nothing_of_each_other_gets_little_however_long_it_is():
    assert share(["".join(random.Random(-i).choices("abcdefgh", k=8)) for i in range(1, 60)]) < 0.25


@pytest.mark.parametrize(("sentences", "most"), [(["abcd"], 0.05), (["abcdefgh", "hgfdbeca"], 0.15)])
def test_a_sentence_or_two_get_a_small_part_of_the_language_model(sentences, most):
    assert 0.02 < share(sentences) <= most


def adapted(model, sentences, out, weight: float = 0.5) -> adapt.Adapted:
    return adapt.adapt(model, sentences, out, share=weight, estimate=lambda s, n: model_of(s, n), mix=mix)


@pytest.fixture
def speller(tmp_path):
    """A model of the letters a, b and c that decodes greedily."""
    return toy.save_babbler(tmp_path / "speller")


@pytest.fixture
def phones(tmp_path):
    """A model of phones whose words are those of a small text, and that can pronounce "new"."""
    folder = toy.save_babbler(tmp_path / "phones", "abc")
    settings, _ = checkpoint.load_description(folder)
    lexicon = PronunciationLexicon({word: (Pronunciation((word.upper(),)),) for word in "abc"})
    tokeniser = PhoneTokeniser(("A", "B", "C"), lexicon, recipe.Phones(kind="phones", lexicon="mine.txt"))
    decoder = recipe.Beam(language_model="own.ngrams", alpha=0.7, width=8, lexicon="words.txt")
    checkpoint.save_description(folder, settings.model_copy(update={"decoder": decoder}), tokeniser)
    OWN.save(folder / "own.ngrams")
    (folder / "words.txt").write_text("a\nb\nc\n")
    (folder / "training").mkdir()
    (folder / "training" / "state.pt").touch()
    return folder


def test_a_copy_has_the_words_the_mixed_language_model_and_the_decoders_settings(phones, tmp_path):
    settings, tokeniser = checkpoint.load_description(phones)
    tokeniser.lexicon.generate = None
    (phones / "pronunciations.txt").write_text("a A\nb B\nc C\nab A B\n")  # as asr lexicon add leaves it
    learnt = adapted(phones, ["a ab", "ab b xyzzy"], tmp_path / "out", weight=0.25)
    assert (learnt.new, learnt.lacking, learnt.weight) == (("ab",), ("xyzzy",), 0.25)
    found, _ = checkpoint.load_description(tmp_path / "out")
    expected = settings.decoder.model_copy(
        update={"language_model": "adapted.ngrams", "lexicon": "adapted-lexicon.txt"}
    )
    assert found.decoder == expected
    assert (tmp_path / "out" / "adapted-lexicon.txt").read_text().split() == ["a", "b", "c", "ab"]
    mixed = NgramModel.load(tmp_path / "out" / "adapted.ngrams")
    assert set("abc") | {"ab"} <= {*mixed.words}
    assert "xyzzy" not in mixed.words
    assert mixed.score(["ab"])[0] > OWN.score(["ab"])[0]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert not names & {"training", "own.ngrams"}, "neither the training's state nor the old language model"
    checkpoint.load_checkpoint(phones)


def test_new_words_are_pronounced_in_the_copy(phones, tmp_path, monkeypatch):
    generate = lambda words: {w: (Pronunciation(("A", "C")),) for w in words if w == "new"}  # noqa: E731
    monkeypatch.setattr("asr.text.tokenise.generator", lambda _settings: generate)
    adapted(phones, ["new a"], tmp_path / "out")
    assert "new A C\n" in (tmp_path / "out" / "pronunciations.txt").read_text()


def test_a_model_of_letters_without_a_language_model_gets_the_texts(speller, tmp_path):
    learnt = adapted(speller, ["ab cab", "cab é"], tmp_path / "out")
    assert (learnt.new, learnt.lacking, learnt.weight) == (("ab", "cab"), ("é",), None)
    decoder = checkpoint.load_description(tmp_path / "out")[0].decoder
    assert decoder == recipe.Beam(language_model="adapted.ngrams")
    assert {"ab", "cab"} <= {*NgramModel.load(tmp_path / "out" / "adapted.ngrams").words}


def test_a_language_model_over_letters_is_mixed_with_the_texts_letters(speller, tmp_path):
    settings, tokeniser = checkpoint.load_description(speller)
    model_of([list("ab▁c"), list("c▁ab")]).save(speller / "letters.ngrams")
    decoder = recipe.Beam(language_model="letters.ngrams")
    checkpoint.save_description(speller, settings.model_copy(update={"decoder": decoder}), tokeniser)
    adapted(speller, ["cab ab"], tmp_path / "out")
    mixed = NgramModel.load(tmp_path / "out" / "adapted.ngrams")
    assert {*mixed.words} == {"<unk>", "<s>", "</s>", "▁", "a", "b", "c"}


@pytest.mark.parametrize(("text", "sentence"), [([], "holds no words"), (["жы é"], "can write none of the 2 words")])
def test_a_text_with_nothing_to_learn_is_a_sentence_and_leaves_nothing(speller, tmp_path, text, sentence):
    with pytest.raises(TextError, match=sentence):
        adapted(speller, text, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["speller"]


def test_a_copy_appears_whole_or_not_at_all_and_replaces_nothing(speller, tmp_path):
    (speller / "meta.json").write_text("no JSON")
    with pytest.raises(CheckpointError, match=r"meta\.json"):
        adapted(speller, ["a"], tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["speller"]
    with pytest.raises(CheckpointError, match="is there already"):
        adapted(speller, ["a"], speller)


def test_the_command_takes_several_texts_and_says_what_was_learnt(speller, tmp_path):
    for name, text in (("one.txt", "Ab, cab!\n"), ("two.txt", "cab b\n\n")):
        (tmp_path / name).write_text(text)
    texts = [str(tmp_path / name) for name in ("one.txt", "two.txt")]
    result = CliRunner().invoke(main, ["adapt", str(speller), "--text", *texts, "-o", str(tmp_path / "out")])
    assert result.output.splitlines()[-1] == (
        f"{tmp_path / 'out'}: 3 new words (ab, cab, b); a language model, which it lacked, from 2 sentences of 3 "
        "different words"
    )

"""Tuning: how many trials it makes, what it says it chose, and that a model directory is whole at each moment of it."""

from types import SimpleNamespace

import numpy as np
import pytest
import toy

from asr import checkpoint, recipe
from asr.cli.tune import _weights
from asr.decode.arpa import read_arpa
from asr.decode.beam import BeamDecoder, Knowledge
from asr.decode.decoder import gather_knowledge
from asr.decode.fusion import Fusion
from asr.decode.greedy import GreedyDecoder
from asr.decode.ngram import NgramModel
from asr.errors import LanguageModelError
from asr.model.language import LanguageModel
from asr.recipe.reading import validate_recipe
from asr.records import Emissions, ErrorCounts
from asr.text.pronounce import Pronunciation, PronunciationLexicon
from asr.text.tokenise import CharacterTokeniser, PhoneTokeniser
from asr.tune import DevSet, Trial, keep, trials, tune, weighing

WORDS = CharacterTokeniser(" abc")
ARPA = "\\data\\\nngram 1=5\n\n\\1-grams:\n-1 <s>\n-1 </s>\n-2 <unk>\n-0.5 a\n-0.7 cab\n\n\\end\\\n"


@pytest.fixture
def dev() -> DevSet:
    log_probs = np.log(np.random.default_rng(1).dirichlet(np.ones(5), size=(2, 12))).astype(np.float32)
    heard = Emissions(log_probs=log_probs, lengths=np.array([12, 9]), frame_shift=0.04)
    return DevSet(emissions=(heard,), references=("a cab", "cab a"), greedy=ErrorCounts())


def decoder(tmp_path, *, ngram: bool, lstm: str | None) -> BeamDecoder:
    (tmp_path / "words.arpa").write_text(ARPA)
    model = NgramModel.from_arpa(read_arpa(tmp_path / "words.arpa")) if ngram else None
    network = LanguageModel(recipe.Network(hidden=4, embedding=2, layers=1), 5).eval() if lstm else None
    part = recipe.LstmFusion(path="lm", mode=lstm, nbest=4) if lstm else None
    settings = recipe.Beam(width=8, language_model="words.arpa" if ngram else None, lstm=part)
    return BeamDecoder(WORDS, settings, Knowledge(fusion=Fusion(WORDS, model=model), lstm=network))


@pytest.mark.parametrize(("ngram", "lstm"), [(True, None), (False, "rescore"), (False, "fuse"), (True, "rescore")])
def test_as_many_trials_are_made_as_are_announced(ngram, lstm, dev, tmp_path):
    weighed = decoder(tmp_path, ngram=ngram, lstm=lstm)
    made = list(tune(weighed, dev))
    assert all(trial.settings.alpha < 1.4 and trial.settings.beta < 4 for trial in made)
    assert len(made) == trials(weighed.settings)


def test_the_grid_grows_while_its_edge_is_best(dev, tmp_path, monkeypatch):
    """As if an error vanished with each step of alpha up to 2, and each of beta."""
    tried = []

    def attempt(_decoder: BeamDecoder, _dev: DevSet, settings: recipe.Beam) -> Trial:
        tried.append((settings.alpha, settings.beta))
        wrong = round(10 * abs(settings.alpha - 2.0)) + max(0, round(8 - settings.beta))
        errors = ErrorCounts(substitutions=wrong, hits=100)
        return Trial(settings=settings, words=errors, characters=errors)

    monkeypatch.setattr("asr.tune._attempt", attempt)
    *_, chosen = tune(decoder(tmp_path, ngram=True, lstm=None), dev)
    assert (chosen.settings.alpha, chosen.settings.beta) == (2.0, 8.0)
    assert {alpha for alpha, _ in tried} >= {1.6, 2.0, 2.5}
    assert not any(alpha >= 3.0 for alpha, _ in tried)


@pytest.mark.parametrize(("errors", "chosen"), [((9, 9, 9), -5.0), ((9, 7, 7), -7.0)])
def test_a_search_that_drops_less_is_chosen_where_it_makes_fewer_errors(dev, tmp_path, monkeypatch, errors, chosen):
    of = dict(zip([(-5.0, 10.0), (-7.0, 10.0), (-7.0, 14.0)], errors, strict=True))

    def attempt(_decoder: BeamDecoder, _dev: DevSet, settings: recipe.Beam) -> Trial:
        wrong = ErrorCounts(substitutions=of[settings.token_threshold, settings.score_threshold], hits=100)
        return Trial(settings=settings, words=wrong, characters=wrong)

    monkeypatch.setattr("asr.tune._attempt", attempt)
    *_, found = tune(decoder(tmp_path, ngram=True, lstm=None), dev)
    assert (found.settings.token_threshold, found.settings.score_threshold) == (chosen, 10.0)


@pytest.mark.parametrize("unweighed", [GreedyDecoder(WORDS), BeamDecoder(WORDS, recipe.Beam())])
def test_without_a_language_model_there_is_nothing_to_tune(unweighed):
    with pytest.raises(LanguageModelError, match="--lm or --lstm"):
        weighing(unweighed)


def test_the_closing_line_names_the_weights_that_were_chosen():
    part = recipe.LstmFusion(path="lm", weight=0.2, beta=3.0)
    ngram = recipe.Beam(language_model="lm.arpa", alpha=0.4, beta=1.5, unknown=-2.0)
    lstm = recipe.Beam(lstm=part, width=32)
    assert _weights(ngram, ngram) == "alpha 0.4, beta 1.5, unknown -2, beam 64"
    assert _weights(lstm, lstm) == "LSTM weight 0.2, LSTM beta 3, beam 32"
    assert _weights(lstm, recipe.Beam()) == "the LSTM left out, beam 64"


def test_a_tuning_that_is_cut_short_leaves_the_one_before_it_whole(tmp_path, monkeypatch):
    described = validate_recipe(toy.recipe(), "toy")
    model = tmp_path / "model"
    checkpoint.save_description(model, described, WORDS)
    recogniser = SimpleNamespace(recipe=described, tokeniser=WORDS)

    def tuned(word: str) -> set[str]:
        """The directory's files after a tuning with a language model and a lexicon of this word."""
        (tmp_path / "lm.arpa").write_text(ARPA.replace("cab", word))
        (tmp_path / "words.txt").write_text(word)
        keep(model, recogniser, recipe.Beam(language_model="lm.arpa", lexicon="words.txt"), root=tmp_path)
        return {path.name for path in model.iterdir()}

    def heard() -> tuple[str, str]:
        decoder = checkpoint.load_description(model)[0].decoder
        words = NgramModel.load(model / decoder.language_model).words
        return " ".join(w for w in words if w in {"b", "c"}), (model / decoder.lexicon).read_text().replace("\n", " ")

    assert len(tuned("b")) == 4
    assert heard() == ("b", "b ")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save_description", killed)
        with pytest.raises(KeyboardInterrupt):
            tuned("c")
    assert heard() == ("b", "b ")
    for words in ("c", "b", "c"):
        assert len(tuned(words)) == 4
        assert heard() == (words, f"{words} ")


def test_the_words_that_a_language_model_brought_are_kept_with_their_pronunciations(tmp_path):
    """A lexicon that lacks "cab", of phones that a new word is pronounced in letter by letter."""

    def generate(words):
        return {word: (Pronunciation(tuple(word.upper())),) for word in words}

    settings = recipe.Phones(kind="phones")
    tokeniser = PhoneTokeniser("ABC", PronunciationLexicon({"a": (Pronunciation(("A",)),)}, generate), settings)
    described = validate_recipe(toy.recipe(text={"tokeniser": {"kind": "phones"}}), "toy")
    model = tmp_path / "model"
    checkpoint.save_description(model, described, tokeniser)
    (tmp_path / "lm.arpa").write_text(ARPA)
    chosen = recipe.Beam(language_model="lm.arpa")
    gather_knowledge(chosen, tokeniser, root=tmp_path, form="none")
    keep(model, SimpleNamespace(recipe=described, tokeniser=tokeniser), chosen, root=tmp_path)
    assert (model / checkpoint.PRONUNCIATIONS).read_text() == "a A\ncab C A B\n"
    again, tokeniser = checkpoint.load_description(model)
    assert gather_knowledge(again.decoder, tokeniser, root=model, form="none").words == ("a", "cab")

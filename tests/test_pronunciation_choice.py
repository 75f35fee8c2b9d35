"""Which of a word's pronunciations an utterance says, by the model's own alignment."""

import os
import signal

import pytest
import torch
import toy

from asr import checkpoint, recipe
from asr.errors import CheckpointError, TrainingStopped
from asr.recipe.reading import validate_recipe
from asr.text.pronounce import Pronunciation, PronunciationLexicon
from asr.text.tokenise import PhoneTokeniser
from asr.train import acoustic, monitor, pronunciations
from asr.train.acoustic import train_acoustic_model

LEXICON = PronunciationLexicon(
    {
        "a": (Pronunciation(("AH",)), Pronunciation(("EY",))),
        "the": (Pronunciation(("DH", "AH")), Pronunciation(("DH", "IY"))),
        "tea": (Pronunciation(("T", "IY")),),
    }
)
TOKENISER = PhoneTokeniser(LEXICON.phones, LEXICON, recipe.Phones(kind="phones"))


def emissions_of(phones: str) -> torch.Tensor:
    """(T', V): two sure frames for each phone, and a blank after it."""
    frames = [id for phone in phones.split() for id in (*[TOKENISER.tokens.index(phone)] * 2, 0)]
    return torch.nn.functional.one_hot(torch.tensor(frames), len(TOKENISER.tokens)).mul(6.0).log_softmax(-1)


@pytest.mark.parametrize(
    ("said", "choice"),
    [
        ("AH T IY DH AH", (0, 0, 0)),
        ("EY T IY DH AH", (1, 0, 0)),
        ("AH T IY DH IY", (0, 0, 1)),
        ("EY T IY DH IY", (1, 0, 1)),
    ],
)
def test_each_word_takes_the_pronunciation_that_was_said(said, choice):
    ways = [TOKENISER.pronounce(word) for word in ("a", "tea", "the")]
    assert pronunciations._likeliest(emissions_of(said), ways, TOKENISER) == choice
    assert TOKENISER.decode(pronunciations.spell("a tea the", choice, TOKENISER)) == said


def test_an_utterance_without_room_for_its_words_keeps_their_first_pronunciations():
    ways = [TOKENISER.pronounce(word) for word in ("a", "tea", "the")]
    assert pronunciations._likeliest(emissions_of("EY")[:2], ways, TOKENISER) == (0, 0, 0)


def test_how_often_each_was_said_becomes_its_probability_in_the_lexicon():
    chosen = [("1", "a tea", (1, 0)), ("2", "a the", (1, 0)), ("3", "a tea", (0, 0))]
    weighed = pronunciations.weighed(LEXICON, chosen)
    assert [way.probability for way in weighed["a"]] == [pytest.approx(2 / 3), 1.0]
    assert [way.probability for way in weighed["the"]] == [1.0, pytest.approx(1 / 2)]
    assert weighed["tea"] == LEXICON["tea"]


def test_choices_are_read_back_and_a_damaged_file_is_a_sentence(tmp_path):
    assert pronunciations.load_choices(tmp_path) is None
    pronunciations.save_choices(tmp_path, {"1": (1, 0)})
    assert pronunciations.load_choices(tmp_path) == {"1": (1, 0)}
    (tmp_path / pronunciations.CHOICES).write_text("[1")
    with pytest.raises(CheckpointError, match=r"pronunciations\.json does not load"):
        pronunciations.load_choices(tmp_path)


def test_what_was_chosen_is_said_in_a_line():
    assert pronunciations.summary({"1": (1, 0), "2": (0, 0, 2)}) == (
        "pronunciations chosen: 2 of the 5 words in 2 utterances are said otherwise than the lexicon says first"
    )


def test_choosing_tells_how_far_it_is_and_stops_where_it_is_told_to(tmp_path, monkeypatch, capsys):
    toy.write_corpus(tmp_path, 12, name="train")
    toy.write_corpus(tmp_path, 2, seed=9, name="dev")
    toy.write_lexicon(tmp_path / "lexicon.txt")
    raw = toy.recipe(text={"tokeniser": {"kind": "phones", "lexicon": "lexicon.txt"}})
    training = {**raw["training"], "epochs": 1, "choose_pronunciations": 0, "max_batch_seconds": 3.2}
    settings = validate_recipe({**raw, "training": training}, "toy")
    heard: list[int] = []

    def choose(model, tokeniser, batches, advance):
        def told(utterances: int) -> None:
            advance(utterances)
            heard.append(utterances)
            if sum(heard) < 12:
                os.kill(os.getpid(), signal.SIGTERM)

        return pronunciations.choose(model, tokeniser, batches, told)

    with monkeypatch.context() as patched:
        patched.setattr(acoustic, "choose", choose)
        patched.setattr(monitor, "PLAIN_SECONDS", -1)
        with pytest.raises(TrainingStopped, match="stopped before epoch 1 after 0 steps, and nothing is lost"):
            train_acoustic_model(settings, tmp_path / "model", root=tmp_path)
    assert len(heard) == 1, "the batch under way was the last"
    said = capsys.readouterr().err
    assert f"choosing pronunciations  {heard[0]}/12" in said
    assert "pronunciations chosen" not in said
    assert not (tmp_path / "model" / pronunciations.CHOICES).exists()
    train_acoustic_model(settings, tmp_path / "model", root=tmp_path, resume=True)
    assert "pronunciations chosen: " in capsys.readouterr().err
    assert (tmp_path / "model" / pronunciations.CHOICES).exists()


def test_training_chooses_and_the_model_directory_keeps_what_it_chose(tmp_path):
    toy.write_corpus(tmp_path, 40, name="train")
    toy.write_corpus(tmp_path, 4, seed=9, name="dev")
    toy.write_lexicon(tmp_path / "lexicon.txt")
    raw = toy.recipe(text={"tokeniser": {"kind": "phones", "lexicon": "lexicon.txt"}})
    training = {**raw["training"], "epochs": 8, "choose_pronunciations": 7, "criterion": {"kind": "ctc_crf"}}
    settings = validate_recipe({**raw, "training": training}, "toy")
    meta = train_acoustic_model(settings, tmp_path / "model", root=tmp_path)

    assert meta["results"]["dev"].keys() == {"loss", "per"}
    assert meta["results"]["dev"]["per"] < 0.5
    _, tokeniser = checkpoint.load_description(tmp_path / "model")
    ways = {way.phones: way.probability for way in tokeniser.lexicon["a"]}
    assert ways[("A",)] == 1.0
    assert ways[("B",)] < 0.5

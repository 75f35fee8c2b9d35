"""Training from a model: what is carried over, what begins anew, what stands still, and what is refused."""

import hashlib
import json
import shutil

import pytest
import torch
import toy
from click.testing import CliRunner
from safetensors.torch import load_file

from asr import checkpoint, recipe
from asr.cli import main
from asr.errors import CheckpointError, RecipeError
from asr.model.acoustic import AcousticModel
from asr.recipe.reading import dump_recipe, load_recipe, validate_recipe
from asr.text.pronounce import Pronunciation, PronunciationLexicon
from asr.text.tokenise import CharacterTokeniser, PhoneTokeniser
from asr.train import start as starting
from asr.train.acoustic import train_acoustic_model as train

pytestmark = pytest.mark.usefixtures("no_pictures")

SHORT = {
    "epochs": 2,
    "max_batch_seconds": 4,
    "workers": 0,
    "precision": "float32",
    "save_minutes": 1e-6,
    "averaging": {"kind": "none"},
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    toy.write_corpus(folder, 12, name="train")
    toy.write_corpus(folder, 2, seed=9, name="dev")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return toy.save_babbler(tmp_path_factory.mktemp("models") / "babbler")


def recipe_from(model, *, without=("features", "encoder"), **sections) -> recipe.Recipe:
    raw = toy.recipe(training=dict(SHORT), **sections)
    raw = {key: value for key, value in raw.items() if key not in without}
    return validate_recipe({"start": {"model": str(model)}, **raw}, "toy")


def settled(settings: recipe.Recipe) -> tuple[recipe.Recipe, starting.StartModel]:
    origin = starting.open_start(settings.start)
    return starting.settle(settings, origin), origin


def test_what_the_recipe_leaves_out_is_the_start_models(model):
    settings, _ = settled(recipe_from(model))
    theirs = load_recipe(model / "recipe.yaml")
    assert (settings.features, settings.encoder) == (theirs.features, theirs.encoder)
    assert settings.start.model == str(model.absolute())


def test_a_section_given_in_part_takes_the_rest_from_the_start_model(model):
    settings, _ = settled(recipe_from(model, without=("features",), encoder={"dropout": 0.4}))
    theirs = load_recipe(model / "recipe.yaml").encoder
    assert settings.encoder == theirs.model_copy(update={"dropout": 0.4})


@pytest.mark.parametrize(
    ("given", "rate", "warmup"),
    [
        ({}, starting.LEARNING_RATE, starting.WARMUP_STEPS),
        ({"learning_rate": 1e-3}, 1e-3, starting.WARMUP_STEPS),
        ({"warmup_steps": 300}, starting.LEARNING_RATE, 300),
    ],
)
def test_the_rate_is_smaller_and_the_warm_up_shorter_unless_the_recipe_says_otherwise(model, given, rate, warmup):
    raw = {"corpora": toy.recipe()["corpora"], "start": {"model": str(model)}, "training": given}
    settings, _ = settled(validate_recipe(raw, "toy"))
    assert (settings.training.learning_rate, settings.training.warmup_steps) == (rate, warmup)


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        ({"features": {"sample_rate": 16000}}, "features.sample_rate is 16000, and .*babbler was trained with 8000"),
        ({"features": {"kind": "mfcc"}}, "features.kind is mfcc, and .*babbler was trained with log_mel"),
        ({"encoder": {"hidden": 64, "layers": 5}}, "encoder.layers is 5, and .*babbler was trained with 1: leave enc"),
        ({"encoder": {"kind": "gru"}}, "encoder.kind is gru, and .*babbler was trained with lstm"),
    ],
)
def test_the_first_difference_from_the_start_model_is_a_sentence_that_says_what_to_do(model, sections, sentence):
    without = {"features", "encoder"} - sections.keys()
    with pytest.raises(RecipeError, match=sentence):
        settled(recipe_from(model, without=without, **sections))


def test_shared_tokens_and_the_blank_keep_their_rows_and_the_others_begin_anew(model):
    settings, origin = settled(recipe_from(model))
    tokeniser = CharacterTokeniser("bdc")
    torch.manual_seed(1)
    fresh = AcousticModel(settings, 4)
    anew = fresh.head.weight[2].clone()
    carried = starting.hand_on(origin, fresh, tokeniser, settings.start)
    theirs = origin.loaded.model
    assert (carried.kept, carried.new, carried.dropped) == (("b", "c"), ("d",), (" ", "a"))
    # The start model's are blank, space, a, b, c.
    assert torch.equal(fresh.head.weight, torch.stack([*theirs.head.weight[[0, 3]], anew, theirs.head.weight[4]]))
    assert torch.equal(fresh.head.bias[[0, 1, 3]], theirs.head.bias[[0, 3, 4]])
    for name, tensor in theirs.encoder.state_dict().items():
        assert torch.equal(fresh.encoder.state_dict()[name], tensor)


@pytest.mark.parametrize(
    ("text", "alphabet"),
    [
        ({}, " abcé"),
        ({"tokeniser": {"kind": "characters"}}, " abcé"),
        ({"tokeniser": {"kind": "characters", "alphabet": "aé"}}, "aé"),
    ],
)
def test_letters_are_the_start_models_and_the_corpus_new_ones_unless_the_recipe_names_them(model, text, alphabet):
    settings, origin = settled(recipe_from(model, text=text))
    found = starting.build_tokeniser_from(origin, settings.text, ["é ab"], model)
    assert found.tokens[1:] == tuple(alphabet)


LEXICON = PronunciationLexicon({"a": (Pronunciation(("AH",)),), "tea": (Pronunciation(("T", "IY")),)})


def phone_start(model, settings: recipe.Phones) -> starting.StartModel:
    _, origin = settled(recipe_from(model))
    lexicon = PronunciationLexicon(
        LEXICON, lambda words: {word: (Pronunciation(("OW",)),) for word in words if word == "oh"}
    )
    tokeniser = PhoneTokeniser(("T", "IY", "AH"), lexicon, settings)
    loaded = checkpoint.Checkpoint(
        model=origin.loaded.model, tokeniser=tokeniser, recipe=origin.loaded.recipe, meta=origin.loaded.meta
    )
    return starting.StartModel(name="babbler", directory=model, loaded=loaded, digest="")


def test_a_phone_models_lexicon_learns_the_new_corpus_words_and_keeps_its_own(model):
    phones = recipe.Phones(kind="phones")
    origin = phone_start(model, phones)
    found = starting.build_tokeniser_from(origin, recipe.Text(tokeniser=phones), ["oh tea", "xyzzy"], model)
    assert found.tokens[1:] == ("T", "IY", "AH", "OW"), "the start model's in their order, and the new word's"
    assert {word: way[0].phones for word, way in found.lexicon.items()} == {
        "a": ("AH",),
        "tea": ("T", "IY"),
        "oh": ("OW",),
    }
    carried = starting.carry(origin, found, recipe.Start(model="babbler"))
    assert (carried.kept, carried.new, carried.dropped, carried.words) == (("T", "IY", "AH"), ("OW",), (), 2)


def test_a_lexicon_file_comes_before_the_start_models_lexicon_in_its_phones(model, tmp_path):
    (tmp_path / "mine.txt").write_text("tea T AH0\nhat HH AH0 T\n")
    origin = phone_start(model, recipe.Phones(kind="phones"))
    text = recipe.Text(tokeniser=recipe.Phones(kind="phones", lexicon="mine.txt", separator=True))
    found = starting.build_tokeniser_from(origin, text, ["hat tea oh"], tmp_path)
    assert found.tokens[1:] == (" ", "T", "IY", "AH", "HH", "OW")
    assert [way.phones for way in found.lexicon["tea"]] == [("T", "AH"), ("T", "IY")]
    assert found.settings.lexicon == "cmudict", "which pronounces what neither lexicon has"


@pytest.mark.parametrize("alphabet", ["жы ", "¡ '"])
def test_an_alphabet_that_shares_no_letter_is_refused_unless_the_head_is_to_begin_anew(model, alphabet):
    _, origin = settled(recipe_from(model))
    tokeniser = CharacterTokeniser(alphabet)
    with pytest.raises(RecipeError, match=r"babbler spells in letters \(␣ a b c\) and the recipe in letters \(.*start"):
        starting.carry(origin, tokeniser, recipe.Start(model="babbler"))
    carried = starting.carry(origin, tokeniser, recipe.Start(model="babbler", head="new"))
    assert (carried.kept, carried.new) == ((), tuple(alphabet))


def test_a_damaged_start_model_is_a_sentence(model, tmp_path):
    shutil.copytree(model, tmp_path / "broken")
    (tmp_path / "broken" / "tokenizer.json").write_text('{"kind": "characters", "alphabet": ["a", "a"]}')
    with pytest.raises(CheckpointError, match="broken is not a whole model directory: not a tokeniser"):
        starting.open_start(recipe.Start(model=str(tmp_path / "broken")))
    with pytest.raises(CheckpointError, match="there is no such folder"):
        starting.open_start(recipe.Start(model=str(tmp_path / "nothing")))


def test_the_built_in_model_is_named_english_and_missed_in_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoint, "__file__", str(tmp_path / "checkpoint.py"))
    with pytest.raises(CheckpointError, match='the built-in model "english" is not part of this install'):
        checkpoint.resolve("english")
    (tmp_path / "english").mkdir()
    assert checkpoint.resolve("english") == tmp_path / "english"


@pytest.mark.parametrize("steps", [0, 2])
def test_a_killed_run_resumes_bit_for_bit_without_the_start_model(corpus, model, tmp_path, monkeypatch, steps):
    origin = tmp_path / "origin"
    shutil.copytree(model, origin)
    settings = recipe_from(origin)
    whole = train(settings, tmp_path / "whole", root=corpus)
    with monkeypatch.context() as patched:
        toy.kill_after(steps, patched)
        with pytest.raises(KeyboardInterrupt):
            train(settings, tmp_path / "cut", root=corpus)
    assert (tmp_path / "cut" / "training" / "state.pt").exists() is bool(steps)
    shutil.rmtree(origin)
    meta = train(settings, tmp_path / "cut", root=corpus, resume=True)
    expected, found = (load_file(tmp_path / name / "last.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    record = meta["training"]["start"]
    assert record == whole["training"]["start"]
    assert record["model"] == "origin"
    assert str(tmp_path) not in json.dumps(meta), "whoever is given the model need not know where it was made"
    assert record["weights_sha256"] == hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
    assert record["carried_over"] == {"kept": 4, "new": [], "dropped": [], "words": 0}


def test_the_front_end_and_first_layers_stand_still_for_the_first_steps_alone(corpus, model, tmp_path):
    before = load_file(model / "model.safetensors")

    def moved_after(steps: int, layers: int) -> set[str]:
        start = {"model": str(model), "freeze_steps": steps, "freeze_layers": layers}
        directory = tmp_path / f"{steps}-{layers}"
        train(recipe_from(model, start=start), directory, root=corpus)
        after = load_file(directory / "last.safetensors")
        return {".".join(name.split(".")[:2]) for name in before if not torch.equal(before[name], after[name])}

    everything = {"encoder.front_end", "encoder.stack", "head.weight", "head.bias"}
    assert moved_after(1000, layers=1) == {"head.weight", "head.bias"}
    assert moved_after(1000, layers=0) == everything - {"encoder.front_end"}
    assert moved_after(1, layers=1) == everything


def asr(*arguments: object):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_check_says_what_would_be_carried_over_and_train_takes_from(corpus, model, tmp_path):
    path = tmp_path / "toy.yaml"
    path.write_text(dump_recipe(recipe_from(model)))
    raw = {key: value for key, value in toy.recipe(training=SHORT).items() if key not in ("features", "encoder")}
    path.write_text(json.dumps(raw))
    said = asr("check", path, "--data", corpus, "--from", model)
    assert f"from {model}: features and encoder, 4 tokens kept, 0 new, 0 dropped" in said.output
    ended = asr("train", path, "--data", corpus, "--from", model, "--out", tmp_path / "mine")
    assert ended.exit_code == 0, ended.output
    again = asr("train", path, "--data", corpus, "--out", tmp_path / "mine", "--resume")
    assert again.exit_code == 0, "a run that is resumed knows where it came from"
    meta = json.loads((tmp_path / "mine" / "meta.json").read_text())
    assert meta["training"]["start"]["model"] == model.name
    refused = asr("train", path, "--data", corpus, "--from", tmp_path / "none", "--out", tmp_path / "other")
    assert (refused.exit_code, refused.output.count("\n")) == (1, 1)

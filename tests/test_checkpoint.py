"""The model directory: what is saved is what is loaded, and a stranger's directory can only be refused."""

import importlib
import json
import os
import pickle
import shutil
import time
from pathlib import Path

import pytest
import torch
import toy
from click.testing import CliRunner

from asr import checkpoint, load, recipe
from asr.cli import main
from asr.cli.options import model_directory
from asr.errors import CheckpointError
from asr.files import replacing
from asr.model.acoustic import AcousticModel
from asr.recipe.reading import validate_recipe
from asr.text.tokenise import CharacterTokeniser
from asr.train import start


@pytest.fixture
def directory(tmp_path):
    settings, tokeniser = validate_recipe(toy.recipe(), "toy"), CharacterTokeniser(" abc")
    folder = tmp_path / "model"
    checkpoint.save_description(folder, settings, tokeniser)
    torch.manual_seed(0)
    checkpoint.save_weights(folder / checkpoint.WEIGHTS, AcousticModel(settings, 5).state_dict())
    checkpoint.save_meta(folder, {"results": {}})
    return folder


def test_what_is_loaded_is_what_was_saved(directory):
    loaded = checkpoint.load_checkpoint(directory)
    torch.manual_seed(0)
    original = AcousticModel(loaded.recipe, 5)
    for name, tensor in original.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor)
    assert loaded.tokeniser.tokens == ("<blank>", " ", "a", "b", "c")
    assert not loaded.model.training


@pytest.mark.parametrize("name", ["recipe.yaml", "tokenizer.json", "model.safetensors", "meta.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "noise"])
def test_a_damaged_file_is_a_sentence_that_names_the_directory(directory, name, damage):
    file = directory / name
    file.unlink()
    if damage != "missing":
        file.write_bytes(b"" if damage == "empty" else b"\x80\x04\x95garbage")
    with pytest.raises(CheckpointError, match=str(directory)):
        checkpoint.load_checkpoint(directory)


def test_weights_of_another_size_are_refused(directory):
    tokenizer = json.loads((directory / "tokenizer.json").read_text())
    tokenizer["alphabet"].append("d")
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(CheckpointError, match="does not load"):
        checkpoint.load_checkpoint(directory)


def test_a_pickle_in_the_weights_place_is_not_run(directory, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    (directory / checkpoint.WEIGHTS).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError):
        checkpoint.load_checkpoint(directory)
    assert not (tmp_path / "ran").exists()


def test_the_newest_model_is_the_one_whose_weights_were_written_last(directory, tmp_path):
    assert checkpoint.newest(tmp_path) == directory
    other = tmp_path / "other"
    other.mkdir()
    time.sleep(0.02)
    (other / checkpoint.WEIGHTS).touch()
    assert checkpoint.newest(tmp_path) == other
    with pytest.raises(CheckpointError, match="train one"):
        checkpoint.newest(tmp_path / "nothing")


def test_a_model_that_is_still_trained_and_a_language_model_are_not_the_newest(directory, tmp_path):
    for name, meta in (
        ("begun", {"training": {"finished": False}, "results": {"dev": {"wer": 0.5}}}),
        ("language", {"training": {"finished": True}, "results": {"dev": {"perplexity": 9.0}}}),
    ):
        (tmp_path / name).mkdir()
        checkpoint.save_meta(tmp_path / name, meta)
        (tmp_path / name / checkpoint.WEIGHTS).touch()
    os.utime(directory / checkpoint.WEIGHTS, (1, 1))
    assert checkpoint.newest(tmp_path) == directory
    (directory / checkpoint.WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=r"has finished its training, begun: .*begun; go on with asr train"):
        checkpoint.newest(tmp_path)


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    file = tmp_path / "file"
    file.write_text("before")

    def interrupted() -> None:
        with replacing(file) as handle:
            handle.write("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert file.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_without_a_model_the_built_in_one_is_used_and_said(tmp_path, monkeypatch, capsys):
    meta = {"results": {"test": {"set-a": {"wer": 0.142}}}}
    checkpoint.save_meta(tmp_path / checkpoint.BUILT_IN, meta)
    monkeypatch.setattr(checkpoint, "__file__", str(tmp_path / "checkpoint.py"))
    monkeypatch.chdir(tmp_path)
    assert model_directory(None) == tmp_path / checkpoint.BUILT_IN
    assert capsys.readouterr().err == "using English (built in): WER 14.2 % on set-a\n"


@pytest.fixture
def english(tmp_path, monkeypatch) -> Path:
    """A built-in model, and a working directory elsewhere."""
    built_in = toy.save_babbler(tmp_path / "package" / checkpoint.BUILT_IN)
    monkeypatch.setattr(checkpoint, "__file__", str(tmp_path / "package" / "checkpoint.py"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return built_in


def named_by(command: str) -> Path:
    """The directory that a command takes "english" for."""
    words = command.split()
    parent = main.commands[words[0]]
    found = parent.commands[words[1]] if len(words) > 1 else parent
    [parameter] = [parameter for parameter in found.params if parameter.name == "model"]
    return parameter.type.convert("english", parameter, None)


COMMANDS = ["adapt", "align", "evaluate", "export", "info", "inspect", "lexicon add", "listen", "transcribe", "tune"]


@pytest.mark.parametrize("command", [*COMMANDS, "warm-up"])
def test_every_command_takes_english_for_the_built_in_model(english, command):
    assert named_by(command) == english


def test_serve_a_start_and_load_take_english_for_the_built_in_model(english):
    serve = importlib.import_module("asr.cli.serve")
    assert serve._named(("english", "mine=english")) == {"english": english, "mine": english}
    assert start.open_start(recipe.Start(model="english")).directory == english
    assert start.open_start(recipe.Start(model="english")).name == "english"
    assert load("english").meta == checkpoint.load_meta(english)


def test_a_folder_called_english_is_meant_by_that_name_where_it_is_a_model_directory_and_by_its_path_always(english):
    here = Path.cwd() / "english"
    here.mkdir()
    (here / "clip.wav").touch()
    assert checkpoint.resolve("english") == english
    assert checkpoint.resolve("./english").resolve() == here
    shutil.rmtree(here)
    toy.save_babbler(here)
    assert checkpoint.resolve("english").resolve() == here
    assert named_by("evaluate").resolve() == here
    assert start.open_start(recipe.Start(model="english")).directory == here


@pytest.mark.usefixtures("english")
@pytest.mark.parametrize("arguments", [["tune", "english", "dev.jsonl"], ["lexicon", "add", "english", "word"]])
def test_no_command_changes_the_built_in_model(arguments):
    said = CliRunner().invoke(main, arguments)
    assert (said.exit_code, said.output.count("stays as it is: change a copy")) == (1, 1)

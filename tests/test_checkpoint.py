"""The model directory: what is saved is what is loaded, and a stranger's directory can only be refused."""

import json
import os
import pickle
import time
from pathlib import Path

import pytest
import torch
import toy

from asr import checkpoint
from asr.cli.options import model_directory
from asr.errors import CheckpointError
from asr.files import replacing
from asr.model.acoustic import AcousticModel
from asr.recipe.reading import validate_recipe
from asr.text.tokenise import CharacterTokeniser


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
    assert model_directory(Path("english")).resolve() == tmp_path / checkpoint.BUILT_IN
    assert capsys.readouterr().err == "using English (built in): WER 14.2 % on set-a\n"

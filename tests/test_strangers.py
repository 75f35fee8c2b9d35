"""A stranger's model directory is read inside its own walls, or refused in a sentence: whatever its files hold."""

import json
import os
import random
import shutil
import struct
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import toy
import yaml
from safetensors.numpy import save
from safetensors.torch import load_file

from asr import checkpoint, recipe
from asr.errors import AsrError, CheckpointError
from asr.model.acoustic import AcousticModel
from asr.transcribe.recogniser import Recogniser
from asr.tune import keep


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return toy.save_babbler(tmp_path_factory.mktemp("stranger") / "model")


@pytest.fixture
def directory(model, tmp_path):
    return shutil.copytree(model, tmp_path / "model")


def describe(directory, **changes):
    described = yaml.safe_load((directory / "recipe.yaml").read_text())
    (directory / "recipe.yaml").write_text(yaml.safe_dump({**described, **changes}))


def beam(**settings):
    return {"kind": "beam", **settings}


# ------------------------------------------------------------------------------------------------------ paths


@pytest.mark.parametrize("key", ["language_model", "lexicon", "lstm"])
@pytest.mark.parametrize("path", ["/etc/passwd", "../secret", "inside", "a\0b", "x" * 5000, "loop"])
def test_a_recipes_path_that_leads_out_of_its_directory_is_refused_and_nothing_of_it_shown(directory, key, path):
    (directory.parent / "secret").write_text("root:hush\n")
    (directory / "inside").symlink_to("../secret")
    (directory / "loop").symlink_to("loop")
    describe(directory, decoder=beam(**{key: {"path": path} if key == "lstm" else path}))
    with pytest.raises(AsrError) as refusal:
        Recogniser.load(directory)
    assert "hush" not in str(refusal.value)
    assert "root:x" not in str(refusal.value)


@pytest.mark.parametrize("path", ["/nonexistent/file", "../nothing"])
def test_whether_a_file_outside_exists_is_not_told(directory, path):
    describe(directory, decoder=beam(lexicon=path))
    with pytest.raises(CheckpointError, match=r"leads out of it.*name it yourself: --lexicon"):
        Recogniser.load(directory)


@pytest.mark.parametrize("key", ["language_model", "lexicon"])
def test_a_pipe_in_a_model_directory_is_not_waited_for(directory, key):
    os.mkfifo(directory / "pipe")
    describe(directory, decoder=beam(**{key: "pipe"}))
    with pytest.raises(CheckpointError, match="pipe is not a regular file"):
        Recogniser.load(directory)


@pytest.mark.parametrize("name", ["recipe.yaml", "tokenizer.json", "meta.json", checkpoint.WEIGHTS])
@pytest.mark.parametrize("kind", ["pipe", "device", "link out", "folder"])
def test_a_model_directorys_own_files_are_files_of_its_own(directory, name, kind):
    file = directory / name
    if kind == "link out":
        file.rename(directory.parent / "elsewhere")
        file.symlink_to("../elsewhere")
    else:
        file.unlink()
        {"pipe": os.mkfifo, "device": lambda path: path.symlink_to("/dev/zero"), "folder": os.mkdir}[kind](file)
    with pytest.raises(CheckpointError, match=f"{name} (leads out of it|is not a regular file)"):
        checkpoint.load_checkpoint(directory)


def test_a_path_that_the_user_gives_may_lie_anywhere(directory):
    words = directory.parent / "words.txt"
    words.write_text("abc\n")
    describe(directory, decoder=beam(lexicon=str(words)))
    decoder = checkpoint.load_description(directory)[0].decoder
    for given in ("decoder.lexicon=words.txt", "decoder={kind: greedy}"):
        checkpoint.check_paths(directory, decoder, [given])
    for given in ([], ["decoder.width=8"], ["decoder.lexicons=words.txt"], ["decoder.language_model=lm.arpa"]):
        with pytest.raises(CheckpointError, match="leads out of it"):
            checkpoint.check_paths(directory, decoder, given)


def test_a_directory_that_is_reached_by_a_link_is_inside_itself(directory):
    (directory / "words.txt").write_text("abc\n")
    (directory.parent / "link").symlink_to("model")
    checkpoint.check_paths(directory.parent / "link", recipe.Beam(lexicon="words.txt"))
    assert checkpoint.load_checkpoint(directory.parent / "link").tokeniser


def test_a_tuned_lstm_is_kept_in_the_model_directory_and_the_one_before_it_goes(directory, tmp_path):
    settings, tokeniser = checkpoint.load_description(directory)
    recogniser = SimpleNamespace(recipe=settings, tokeniser=tokeniser)
    for kept, gone in (("tuned-lstm", "tuned-lstm-2"), ("tuned-lstm-2", "tuned-lstm")) * 2:
        shutil.copytree(directory, tmp_path / "lm", dirs_exist_ok=True)
        keep(directory, recogniser, recipe.Beam(lstm=recipe.LstmFusion(path="lm")), root=tmp_path)
        decoder = checkpoint.load_description(directory)[0].decoder
        assert decoder.lstm.path == kept
        checkpoint.check_paths(directory, decoder)
        assert (directory / kept / checkpoint.WEIGHTS).is_file()
        assert not (directory / gone).exists()


# ------------------------------------------------------------------------------------------------------ sizes


@pytest.mark.parametrize(
    "encoder",
    [
        {"kind": "lstm", "layers": 32, "hidden": 8192},
        {"kind": "lstm", "layers": 32, "hidden": 8192, "bidirectional": False, "projection": 8192},
        {"kind": "rnn", "layers": 32, "hidden": 8192, "init": "identity"},
        {"kind": "feedforward", "layers": 32, "hidden": 8192, "context": 100},
        {"kind": "lstm", "conv": {"channels": [2**40, 2**40]}},
        {"kind": "lstm", "conv": {"channels": [10**30, 32]}},
    ],
)
def test_sizes_that_the_weights_do_not_have_are_refused_before_memory_is_taken(directory, encoder, monkeypatch):
    monkeypatch.setattr("asr.model.acoustic.AcousticModel", lambda *_: pytest.fail("the model was made"))
    describe(directory, encoder=encoder)
    with pytest.raises(CheckpointError, match="does not load"):
        checkpoint.load_checkpoint(directory)


def test_a_tensor_too_many_is_refused_before_it_is_read(directory, monkeypatch):
    file = directory / checkpoint.WEIGHTS
    header = json.dumps({"x": {"dtype": "F32", "shape": [2**38], "data_offsets": [0, 2**40]}}).encode()
    with file.open("wb") as handle:
        handle.write(struct.pack("<Q", len(header)) + header)
        handle.truncate(8 + len(header) + 2**40)  # a hole
    monkeypatch.setattr("safetensors.torch.load_file", lambda *_: pytest.fail("the weights were read"))
    with pytest.raises(CheckpointError, match="does not load"):
        checkpoint.load_checkpoint(directory)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_by_name(directory, value):
    state = load_file(directory / checkpoint.WEIGHTS)
    state["head.bias"][1] = value
    checkpoint.save_weights(directory / checkpoint.WEIGHTS, state)
    with pytest.raises(CheckpointError, match=r"NaN or infinite weights in head\.bias"):
        checkpoint.load_checkpoint(directory)


def test_weights_of_whole_numbers_are_refused(directory):
    state = load_file(directory / checkpoint.WEIGHTS)
    (directory / checkpoint.WEIGHTS).write_bytes(save({k: v.numpy().astype(np.int64) for k, v in state.items()}))
    with pytest.raises(CheckpointError, match="is of type I64"):
        checkpoint.load_checkpoint(directory)


@pytest.mark.parametrize("init", ["uniform", "orthogonal", "identity"])
def test_the_outline_is_that_of_the_model(init):
    settings = recipe.Recipe.model_validate(
        {"corpora": {"train": [{"kind": "manifest", "path": "x"}], "dev": [{"kind": "manifest", "path": "x"}]}},
        strict=False,
    ).model_copy(update={"encoder": recipe.Rnn(kind="rnn", hidden=4, init=init)})
    outlined = checkpoint._outline(settings, 3).state_dict()
    made = AcousticModel(settings, 3).state_dict()
    assert {name: t.shape for name, t in outlined.items()} == {name: t.shape for name, t in made.items()}


# ------------------------------------------------------------------------------------------------------ contents

DEEP = "[" * 100_000 + "]" * 100_000
JSON = {
    "5000 digits": f'{{"format": 1, "x": {"9" * 5000}}}',
    "deep": f'{{"format": 1, "x": {DEEP}}}',
    "surrogate": '{"format": 1, "x": "\\ud800"}',
    "surrogate key": '{"format": 1, "\\udfff": 1}',
    "NaN": '{"format": 1, "x": NaN}',
    "infinity": '{"format": 1, "x": 1e999}',
    "list": "[1]",
    "null": "null",
    "other format": '{"format": [2]}',
    "long format": f'{{"format": "{"x" * 10000}"}}',
    "latin": b'{"format": 1, "x": "\xe9"}',
    "NUL": "\0",
}


@pytest.mark.parametrize("content", JSON.values(), ids=JSON)
@pytest.mark.parametrize("name", ["meta.json", "tokenizer.json", "recipe.yaml"])
def test_any_content_is_refused_in_a_short_sentence(directory, name, content):
    if name == "recipe.yaml" and isinstance(content, str):
        content = content.replace(DEEP, DEEP[98_500:-98_500])  # as deep as it need be: PyYAML is slow
    (directory / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CheckpointError) as refusal:
        checkpoint.load_checkpoint(directory)
    assert len(str(refusal.value)) < 1000
    str(refusal.value).encode()


@pytest.mark.parametrize("name", ["meta.json", "tokenizer.json", "recipe.yaml"])
def test_a_huge_file_is_not_read(directory, name):
    with (directory / name).open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(CheckpointError, match=r"bytes"):
        checkpoint.load_checkpoint(directory)


def test_figures_that_are_no_numbers_are_null_in_meta_json(directory):
    checkpoint.save_meta(directory, {"results": {"dev": {"wer": float("inf"), "cer": 0.5}, "x": (float("nan"),)}})
    assert checkpoint.load_meta(directory)["results"] == {"dev": {"wer": None, "cer": 0.5}, "x": [None]}


SPICE = [
    b"\xff", b"\0", b"\\ud800", b"9" * 5000, b"-1", b"NaN", b"1e999", b"[[[[", b"]", b"{", b"}", b'"', b":", b",",
    b"null", b"true", b"\n", b"kind", b"/dev/zero", b"18446744073709551616", b"\xe2\x80\xae", b"- ", b"  ",
    b"&a", b"*a",
]  # fmt: skip


def mutated(content: bytes, draw: random.Random) -> bytes:
    """A few bytes changed, cut out, said twice, or replaced by what has hurt before."""
    changed = bytearray(content)
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(changed) + 1)
        match draw.randrange(5):
            case 0 if changed:
                changed[min(at, len(changed) - 1)] ^= 1 << draw.randrange(8)
            case 1:
                del changed[at : at + draw.randint(1, 30)]
            case 2:
                changed[at:at] = changed[at : at + draw.randint(1, 30)]
            case 3:
                changed[at : at + draw.randint(0, 8)] = draw.choice(SPICE)
            case _:
                del changed[at:]
    return bytes(changed)


@pytest.mark.parametrize("name", ["recipe.yaml", "tokenizer.json", "meta.json"])
@pytest.mark.parametrize("seed", range(4))
def test_a_mutated_description_loads_or_is_a_checkpoint_error(directory, name, seed):
    draw = random.Random(f"{name} {seed}")
    content = (directory / name).read_bytes()
    if name == "recipe.yaml":  # its sections that matter here: parsing all of it is slow
        describe(directory, training={}, augment={})
        content = (directory / name).read_bytes()
    for _ in range(10):
        (directory / name).write_bytes(mutated(content, draw))
        try:
            checkpoint.load_description(directory)
            checkpoint.load_meta(directory)
        except CheckpointError as error:
            str(error).encode()


@pytest.mark.parametrize("seed", range(4))
def test_a_mutated_weights_file_loads_or_is_a_checkpoint_error(directory, seed):
    draw = random.Random(seed)
    file = directory / checkpoint.WEIGHTS
    content = file.read_bytes()
    outline = checkpoint._outline(checkpoint.load_description(directory)[0], 5)
    head = 8 + int.from_bytes(content[:8], "little")
    for _ in range(20):
        file.write_bytes(mutated(content[:head], draw) + content[head:])
        try:
            state = checkpoint._load_weights(lambda: outline, directory, checkpoint.WEIGHTS)
        except CheckpointError as error:
            str(error).encode()
        else:
            assert all(tensor.isfinite().all() for tensor in state.values())
            assert all(isinstance(tensor, torch.Tensor) for tensor in state.values())

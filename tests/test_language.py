"""asr lm: language models trained and measured as the user does it."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import re
import signal
import subprocess
import sys
import time

import pytest
import toy
from click.testing import CliRunner, Result

from asr import checkpoint
from asr.cli import main
from asr.decode.ngram import NgramModel
from asr.recipe.reading import load_recipe
from asr.text.tokenise import CharacterTokeniser


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ASR_CACHE", str(tmp_path_factory.mktemp("cache")))


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(main, ["lm", *map(str, arguments)], input=stdin)


@pytest.fixture
def text(tmp_path):
    draw = random.Random(2)
    path = tmp_path / "text.txt"
    path.write_text("".join(" ".join(draw.choices(["One", "two,", "three"], k=6)) + "\n" for _ in range(50)))
    return path


@pytest.mark.parametrize("name", ["lm.arpa", "lm.arpa.gz", "lm.arpa.xz", "lm.safetensors"])
def test_a_model_is_trained_and_measured(tmp_path, text, name):
    lm = tmp_path / name
    done = run("train", text, "-o", lm, "--order", 2, "--prune", "0")
    assert done.exit_code == 0, done.output
    assert f"{lm}: 6 + " in done.output
    assert "from 300 words in 50 sentences" in done.output
    assert set(NgramModel.load(lm).words[3:]) == {"one", "two", "three"}
    done = run("perplexity", lm, text)
    assert done.exit_code == 0, done.output
    assert float(done.output.split()[1].rstrip(",")) == pytest.approx(3, abs=0.8)
    assert "0 of 300 words unknown (0.00%)" in done.output


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_text_comes_from_several_files_compressed_ones_and_standard_input(tmp_path, text, compress):
    packed = tmp_path / "packed.txt.gz"
    packed.write_bytes(compress(b"four\n\nfive\n"))
    done = run("train", text, packed, "-", "-o", tmp_path / "lm.arpa", "--order", 2, stdin=b"six")
    assert done.exit_code == 0, done.output
    assert {"one", "four", "five", "six"} <= set(NgramModel.load(tmp_path / "lm.arpa").words)
    done = run("perplexity", tmp_path / "lm.arpa", "-", stdin=b"one seven\n")
    assert "1 of 2 words unknown (50.00%); 1 sentences" in done.output


def test_normalisation_can_be_left_off(tmp_path, text):
    assert run("train", text, "-o", tmp_path / "lm.arpa", "--normalise", "none").exit_code == 0
    assert {"One", "two,", "three"} <= set(NgramModel.load(tmp_path / "lm.arpa").words)


def test_a_model_over_tokens_spells_text_as_its_tokeniser_does(tmp_path, text):
    settings = load_recipe(toy.write_recipe(tmp_path / "toy.yaml"))
    checkpoint.save_description(tmp_path / "model", settings, CharacterTokeniser(" ehnortw"))
    text.write_text(text.read_text() + "fünf\n")
    lm = tmp_path / "lm.arpa"
    done = run("train", text, "-o", lm, "--order", 5, "--tokeniser", tmp_path / "model")
    assert done.exit_code == 0, done.output
    assert "1 sentences hold characters outside the alphabet" in done.output
    assert set(NgramModel.load(lm).words[3:]) == set("▁ehnortw")
    assert "0 of" in run("perplexity", lm, text, "--tokeniser", tmp_path / "model").output


@pytest.mark.parametrize(
    ("content", "options", "reason"),
    [
        (None, [], "text.txt cannot be read: No such file"),
        (b"", [], "holds no sentences"),
        (b"\n\n", [], "holds no sentences"),
        (b"caf\xe9\n", [], "line 1: this is not UTF-8"),
        (gzip.compress(b"hello\n" * 99)[:-9], [], "damaged"),
        (b"a b\n", ["--order", "50"], "order of 50"),
        (b"a b\n", ["--prune", "0,3,2"], "0,3,2"),
        (b"<s> b\n", ["--normalise", "none"], "<s>"),
    ],
)
def test_what_cannot_be_trained_on_is_a_sentence_and_leaves_no_file(tmp_path, content, options, reason):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    done = run("train", path, "-o", tmp_path / "lm.arpa", *options)
    assert done.exit_code == 1
    assert done.output.strip().startswith("asr: ")
    assert reason in done.output
    assert [file.name for file in tmp_path.iterdir() if file != path] == []


def test_thresholds_that_are_no_numbers_are_named(tmp_path, text):
    done = run("train", text, "-o", tmp_path / "lm.arpa", "--prune", "0,x")
    assert done.exit_code == 1
    assert "no list of counts" in done.output


def test_a_missing_model_and_an_empty_text_are_sentences(tmp_path, text):
    assert "nothing.arpa cannot be read" in run("perplexity", tmp_path / "nothing.arpa", text).output
    run("train", text, "-o", tmp_path / "lm.arpa")
    done = run("perplexity", tmp_path / "lm.arpa", "-", stdin=b"")
    assert (done.exit_code, "no sentences" in done.output) == (1, True)


def test_an_interrupted_training_leaves_nothing(tmp_path):
    command = [sys.executable, "-c", "from asr.cli import main; main()", "lm", "train", "-", "-o", tmp_path / "lm.arpa"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=toy.heed_interrupts)
    process.stdin.write(b"one two three\n" * 10_000)
    process.stdin.flush()
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.decode().endswith("asr: stopped\n")
    assert list(tmp_path.iterdir()) == []


def test_a_training_that_is_killed_leaves_nothing(tmp_path):
    command = [sys.executable, "-c", "from asr.cli import main; main()", "lm", "train", "-", "-o", tmp_path / "lm.arpa"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE)
    process.stdin.write(b"one two three\n" * 400_000)  # more than is read before it lands on disk
    process.kill()
    process.communicate(timeout=60)
    assert list(tmp_path.iterdir()) == []


def test_a_piped_training_says_now_and_then_how_long_it_will_take(tmp_path, text, monkeypatch):
    monkeypatch.setattr(sys.modules["asr.cli.lm"], "SECONDS_BETWEEN_LINES", 0.0)
    done = run("train", text, "-o", tmp_path / "lm.arpa", "--memory", "300MB", "--temporary", tmp_path)
    assert re.search(r"asr: counting 3-grams, \d+% done, \d+ s left\n", done.stderr), done.stderr


@pytest.mark.parametrize(("memory", "reason"), [("1T5", "no size like 500M"), ("-4G", "no size"), ("9M", "250M")])
def test_a_memory_that_is_no_size_or_too_small_is_named(tmp_path, text, memory, reason):
    done = run("train", text, "-o", tmp_path / "lm.arpa", "--memory", memory)
    assert (done.exit_code, reason in done.output) == (1, True), done.output

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
        (gzip.compress(b"hello\n" * 99, mtime=0)[:-9], [], "damaged"),
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


def numbers(done: Result, pattern: str) -> list[float]:
    assert done.exit_code == 0, done.output
    return [float(number) for number in re.search(pattern, done.output).groups()]


def test_a_model_is_pruned_packed_and_mixed(tmp_path, text):
    draw = random.Random(8)
    other = tmp_path / "other.txt"
    other.write_text("".join(" ".join(draw.choices(["three", "four", "five"], k=4)) + "\n" for _ in range(80)))
    for name in (text, other):
        done = run("train", name, "-o", tmp_path / f"{name.stem}.arpa", "--order", 3, "--prune", "0")
        assert done.exit_code == 0, done.output
    one, two = tmp_path / "text.arpa", tmp_path / "other.arpa"
    [pruned, whole] = numbers(
        run("prune", one, "-o", tmp_path / "a.arpa", "--threshold", 1e-3), r" (\d+) of .* (\d+) n-"
    )
    assert 0 < pruned < whole
    done = run("mix", one, two, "--dev", other, "-o", tmp_path / "mixed.lm")
    [first, second, mixed] = numbers(done, r"(?s)weight (\S+),.*weight (\S+),.*perplexity (\S+), ")
    assert (first + second, second > 0.9) == (pytest.approx(1), True)
    assert numbers(run("perplexity", tmp_path / "mixed.lm", other), r"perplexity (\S+),") == [
        pytest.approx(mixed, rel=0.02)
    ]
    done = run("compress", tmp_path / "mixed.lm", "-o", tmp_path / "mixed.arpa.gz")
    assert done.exit_code == 0, done.output
    assert NgramModel.load(tmp_path / "mixed.arpa.gz").words == NgramModel.load(tmp_path / "mixed.lm").words


def test_a_model_is_pruned_to_a_size(tmp_path):
    text, draw = tmp_path / "text.txt", random.Random(1)
    words = ["".join(draw.choices("abcdefgh", k=5)) for _ in range(300)]
    text.write_text("".join(" ".join(draw.choices(words, k=12)) + "\n" for _ in range(900)))
    run("train", text, "-o", tmp_path / "lm.safetensors", "--order", 2, "--prune", "0")
    done = run("prune", tmp_path / "lm.safetensors", "-o", tmp_path / "small.lm", "--size", "16kB")
    assert done.exit_code == 0, done.output
    assert 0.95 * 16_000 < (tmp_path / "small.lm").stat().st_size <= 16_000
    done = run("prune", tmp_path / "lm.safetensors", "-o", tmp_path / "tiny.lm", "--size", "1kB")
    assert (done.exit_code, "1000 bytes do not hold the model's 300 words" in done.output) == (1, True), done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lm.safetensors", "small.lm", "text.txt"]


def test_pruning_and_mixing_say_what_they_lack(tmp_path, text):
    run("train", text, "-o", tmp_path / "lm.arpa", "--order", 2)
    assert "one of --threshold" in run("prune", tmp_path / "lm.arpa", "-o", tmp_path / "x.lm").output
    assert "two models" in run("mix", tmp_path / "lm.arpa", "--dev", text, "-o", tmp_path / "x.lm").output


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


KILLED = """
import os, signal, sys
from asr.cli import main
at, *sys.argv[1:] = sys.argv[1:]
progress = sys.modules["asr.cli.lm"]._Progress
progress.show = lambda _self, _step, done: os.kill(os.getpid(), signal.SIGKILL) if done > float(at) else None
main()
"""
"""A command that kills itself, as nothing can refuse to be killed, when so much of it is done."""


@pytest.mark.parametrize("done", [0.6, 0.9], ids=["counting", "writing"])
def test_a_training_that_was_killed_and_is_begun_again_gives_the_same_file_and_leaves_nothing_else(
    tmp_path, text, done
):
    arguments = ["train", text, "--order", 3, "--memory", "300MB", "-o"]
    whole, again = tmp_path / "whole.arpa", tmp_path / "again" / "lm.arpa"
    assert run(*arguments, whole).exit_code == 0
    command = [sys.executable, "-c", KILLED, done, "lm", *arguments, again]
    assert subprocess.run([*map(str, command)], check=False).returncode == -signal.SIGKILL
    assert not again.exists()
    assert run(*arguments, again).exit_code == 0
    assert again.read_bytes() == whole.read_bytes()
    assert [path.name for path in again.parent.iterdir()] == ["lm.arpa"]


def test_a_piped_training_says_now_and_then_how_long_it_will_take(tmp_path, text, monkeypatch):
    monkeypatch.setattr(sys.modules["asr.cli.options"], "PLAIN_SECONDS", 0.0)
    done = run("train", text, "-o", tmp_path / "lm.arpa", "--memory", "300MB", "--temporary", tmp_path)
    assert re.search(r"^counting 3-grams +\d+% +\d+ s left$", done.stderr, re.MULTILINE), done.stderr


@pytest.mark.parametrize(("memory", "reason"), [("1T5", "no size like 500M"), ("-4G", "no size"), ("9M", "250M")])
def test_a_memory_that_is_no_size_or_too_small_is_named(tmp_path, text, memory, reason):
    done = run("train", text, "-o", tmp_path / "lm.arpa", "--memory", memory)
    assert (done.exit_code, reason in done.output) == (1, True), done.output

"""Training: it learns, it resumes to the same weights, it says what it leaves out and why it stops."""

import dataclasses
import functools
import itertools
import json
import math
import multiprocessing
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import toy
from commands import Command, run
from safetensors.torch import load_file
from torch import nn

import asr
from asr import checkpoint, recipe
from asr.data.corpora import open_corpora, sources_of
from asr.errors import CheckpointError, CorpusError, RecipeError, TrainingError
from asr.model.acoustic import AcousticModel
from asr.recipe import reading
from asr.recipe.reading import validate_recipe
from asr.text.tokenise import CharacterTokeniser
from asr.train import optimiser
from asr.train.acoustic import AcousticTask, loss_of
from asr.train.acoustic import train_acoustic_model as train
from asr.train.step import Trainer
from asr.transcribe.corpus import utterances

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    toy.write_corpus(folder, 60, name="train")
    toy.write_corpus(folder, 8, seed=9, name="dev")
    return folder


def settings_of(**training) -> recipe.Recipe:
    raw = toy.recipe()
    return validate_recipe({**raw, "training": {**raw["training"], **training}}, "toy")


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    """With its training.png, since a fixture of the module comes before ``no_pictures``."""
    directory = tmp_path_factory.mktemp("models") / "toy"
    meta = train(settings_of(epochs=25), directory, root=corpus)
    return directory, meta


def test_a_toy_language_is_learnt_from_the_recipe(trained, corpus):
    directory, meta = trained
    assert meta["results"]["dev"]["wer"] < 0.2
    row = json.loads((corpus / "dev.jsonl").read_text().splitlines()[0])
    transcript = asr.load(directory).transcribe(corpus / row["audio_filepath"])
    assert transcript.duration == pytest.approx(row["duration"], abs=1e-3)
    assert [word.text for word in transcript.words] == transcript.text.split()


def test_a_model_directory_holds_what_the_documentation_says(trained):
    directory, meta = trained
    names = {path.name for path in directory.iterdir()}
    assert names == {
        "model.safetensors",
        "last.safetensors",
        "recipe.yaml",
        "tokenizer.json",
        "meta.json",
        "metrics.jsonl",
        "training.png",
        "training",
    }
    assert json.loads((directory / "meta.json").read_text()) == {"format": 1, **meta}
    assert (directory / "training.png").read_bytes().startswith(b"\x89PNG")
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    epochs = [line for line in lines if line["kind"] == "epoch"]
    assert [line["epoch"] for line in epochs] == list(range(1, 26))
    assert epochs[-1]["train_loss"] < 0.3 * epochs[0]["train_loss"]
    steps = [line for line in lines if line["kind"] == "step"]
    assert {"loss", "blank_rate", "gradient_norm", "learning_rate", "audio_hours_per_hour"} <= set(steps[0])


def test_resuming_a_finished_run_trains_no_further(trained, corpus):
    directory, meta = trained
    before = (directory / "model.safetensors").stat().st_mtime_ns
    assert train(settings_of(epochs=25), directory, root=corpus, resume=True) == meta
    assert (directory / "model.safetensors").stat().st_mtime_ns == before


def steps_logged(directory) -> int:
    metrics = directory / "metrics.jsonl"
    return sum('"step"' in line for line in metrics.read_text().splitlines()) if metrics.exists() else 0


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    toy.write_corpus(folder, 30, name="train")
    toy.write_corpus(folder, 3, seed=9, name="dev")
    toy.write_lexicon(folder / "lexicon.txt")
    return folder


@pytest.fixture(scope="module")
def unkilled(small):
    """Of letters or of phones: a recipe, and the model directory of a run of it that nothing stopped."""

    @functools.cache
    def run_of(phones: bool):
        often = {**toy.recipe()["training"], "epochs": 4, "max_batch_seconds": 3, "save_minutes": 1e-3}
        sections = {"training": often}
        if phones:
            sections = {
                "training": {**often, "criterion": {"kind": "ctc_crf", "order": 3}, "choose_pronunciations": 1},
                "text": {"tokeniser": {"kind": "phones", "lexicon": str(small / "lexicon.txt")}},
            }
        path = toy.write_recipe(small / ("phones.yaml" if phones else "letters.yaml"), **sections)
        train(reading.load_recipe(path), small / path.stem, root=small)
        return path, small / path.stem

    return run_of


@pytest.mark.parametrize(
    ("kill", "phones"),
    [(signal.SIGKILL, False), (signal.SIGTERM, False), (signal.SIGINT, False), (signal.SIGKILL, True)],
)
def test_a_run_killed_mid_epoch_resumes_to_the_same_weights_bit_for_bit(small, unkilled, tmp_path, kill, phones):
    path, whole = unkilled(phones)
    # A worker process beside the killed run, none in the other: the batches must not depend on it.
    command = ("train", path, "--data", small, "--set", "training.workers=1", "--out")
    cut = tmp_path / "cut"

    process = Command(*command, cut, pictures=False)
    deadline = time.monotonic() + 120
    while steps_logged(cut) < 2 or not (cut / "training" / "state.pt").exists():
        assert process.returncode is None, process.stderr()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill(kill)  # the loader's worker gets it too
    killed = process.wait(60)
    if kill == signal.SIGKILL:
        assert killed.returncode == -signal.SIGKILL
    else:
        assert killed.returncode == 1
        assert f"go on with: asr train {path} --data {small}".encode() in killed.stderr
    state = torch.load(cut / "training" / "state.pt", weights_only=True)["progress"]
    assert not state["finished"]

    resumed = run(*command, cut, "--resume", pictures=False)
    assert resumed.returncode == 0, resumed.stderr
    for name in ("model.safetensors", "last.safetensors"):
        expected, found = load_file(whole / name), load_file(cut / name)
        assert all(torch.equal(expected[key], found[key]) for key in expected)
    epochs = [json.loads(line) for line in (cut / "metrics.jsonl").read_text().splitlines() if '"epoch"' in line[:20]]
    assert [line["epoch"] for line in epochs] == [1, 2, 3, 4]


def test_a_run_goes_on_without_its_metrics(corpus, tmp_path):
    directory = tmp_path / "model"
    whole = train(settings_of(epochs=2), tmp_path / "whole", root=corpus)
    train(settings_of(epochs=2), directory, root=corpus)
    (directory / "metrics.jsonl").unlink()
    meta = train(settings_of(epochs=2), directory, root=corpus, resume=True)
    assert meta["results"] == whole["results"]


def test_a_trained_model_without_its_state_is_not_trained_over(corpus, tmp_path):
    directory = tmp_path / "model"
    train(settings_of(epochs=2), directory, root=corpus)
    before = (directory / "model.safetensors").read_bytes()
    shutil.rmtree(directory / "training")
    with pytest.raises(CheckpointError, match="train elsewhere with --out"):
        train(settings_of(epochs=2), directory, root=corpus, resume=True)
    assert (directory / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        ({"dev": [{"kind": "manifest", "path": "dev.jsonl", "speakers": [0.0, 1e-9]}]}, "corpora.dev holds no utter"),
        ({"train": [{"kind": "manifest", "path": "dev.jsonl", "speakers": [0.0, 1e-9]}]}, "corpora.train holds no"),
    ],
)
def test_an_empty_corpus_is_a_sentence_before_anything_is_trained(corpus, tmp_path, sections, sentence):
    raw = toy.recipe()
    settings = validate_recipe({**raw, "corpora": {**raw["corpora"], **sections}}, "toy")
    with pytest.raises(CorpusError, match=sentence):
        train(settings, tmp_path / "model", root=corpus)
    assert not (tmp_path / "model" / "recipe.yaml").exists()


def test_a_dev_set_that_cannot_be_read_stops_the_run_rather_than_flatter_it(corpus, tmp_path):
    (tmp_path / "train.jsonl").write_text(
        "".join(
            json.dumps({**row, "audio_filepath": str(corpus / row["audio_filepath"])}) + "\n"
            for row in map(json.loads, (corpus / "train.jsonl").read_text().splitlines()[:8])
        )
    )
    (tmp_path / "dev.jsonl").write_text('{"audio_filepath": "gone.flac", "text": "a", "id": "lost"}\n')
    with pytest.raises(TrainingError, match="no utterance of the dev corpora can be read"):
        train(settings_of(epochs=1), tmp_path / "model", root=tmp_path)
    assert '"lost"' in (tmp_path / "model" / "training" / "rejected.jsonl").read_text()


def test_a_run_with_a_held_out_dev_set_is_resumed_and_evaluated_with_the_same_one(corpus, tmp_path):
    raw = toy.recipe()
    sections = {"corpora": {"train": raw["corpora"]["train"], "dev": {"share": 0.3}}}
    settings = validate_recipe({**raw, **sections, "training": {**raw["training"], "epochs": 1}}, "toy")
    meta = train(settings, tmp_path / "model", root=corpus)
    assert train(settings, tmp_path / "model", root=corpus, resume=True) == meta
    stored, _ = checkpoint.load_description(tmp_path / "model")
    held_out, left = (
        [told.id for told in open_corpora(sources_of(stored, split), corpus).told()] for split in ("dev", "train")
    )
    assert len(held_out) == 15  # one of four speakers
    assert len(left) == 45


def test_accumulated_batches_give_the_gradient_of_one_batch(corpus):
    settings = validate_recipe(
        toy.recipe(encoder={"layers": 1, "hidden": 16, "dropout": 0.0}, augment={"spec_augment": None}), "toy"
    )
    tokeniser = CharacterTokeniser(" abc")
    cuts = list(itertools.islice(open_corpora(settings.corpora.train, corpus).whole(), 6))
    dataset = dataclasses.replace(utterances(settings), tokeniser=tokeniser)

    def momenta_after(*groups) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = AcousticModel(settings, 5).train()
        trainer = Trainer(model, loss_of, settings.training)
        figures = trainer.step([dataset[group] for group in groups], 1e-3)
        assert figures.labels == sum(len(tokeniser.encode(text)) for text in dataset[cuts].texts)
        return [state["exp_avg"] for state in trainer.optimiser.state.values()]

    # After one step Adam's first moment is a tenth of the clipped gradient.
    for parts, whole in zip(momenta_after(cuts[:2], cuts[2:]), momenta_after(cuts), strict=True):
        torch.testing.assert_close(parts, whole, atol=1e-6, rtol=1e-3)


def test_the_optimiser_takes_the_steps_of_torchs_adamw_bit_for_bit_and_goes_on_from_its_state():
    def trained_by(build, *, again: bool) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        stepping = build(model)
        for number in range(4):
            if again and number == 2:
                state, stepping = stepping.state_dict(), build(model)
                stepping.load_state_dict(state)
            model(torch.randn(5, 3)).square().sum().backward()
            stepping.step()
            stepping.zero_grad()
        return model.state_dict()

    settings = recipe.TrainerSettings(weight_decay=0.1)

    def torchs(model: nn.Module) -> torch.optim.AdamW:
        groups = [{"params": [model.weight], "weight_decay": 0.1}, {"params": [model.bias], "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98))

    def ours(model: nn.Module) -> torch.optim.AdamW:
        return optimiser.build_optimiser(model, settings)

    found = [trained_by(ours, again=again) for again in (False, True)]
    for name, tensor in trained_by(torchs, again=True).items():
        assert all(torch.equal(one[name], tensor) for one in found)


def test_training_loads_neither_torchs_compiler_nor_numba(corpus, tmp_path):
    toy.write_recipe(tmp_path / "toy.yaml", training={**toy.recipe()["training"], "epochs": 1})
    script = """
import sys
from pathlib import Path
from asr.recipe.reading import load_recipe
from asr.train.acoustic import train_acoustic_model
from asr.train.monitor import Monitor
Monitor._draw = lambda _: None
recipe, out, data = map(Path, sys.argv[1:])
train_acoustic_model(load_recipe(recipe), out, root=data, device="cpu")
print({"torch._dynamo", "triton", "numba"} & sys.modules.keys() or "neither")
"""
    words = [sys.executable, "-c", script, tmp_path / "toy.yaml", tmp_path / "model", corpus]
    done = subprocess.run(words, capture_output=True, text=True, timeout=250)
    assert done.stdout == "neither\n", done.stderr


def test_the_last_batches_of_an_epoch_are_trained_on_though_they_fill_no_group(corpus, tmp_path):
    meta = train(settings_of(epochs=2, accumulate=1000), tmp_path / "model", root=corpus)
    assert meta["training"]["steps"] == 2


def test_a_directory_with_a_run_in_it_is_not_overwritten(trained, corpus):
    with pytest.raises(RecipeError, match="--resume"):
        train(settings_of(epochs=25), trained[0], root=corpus)


def test_a_run_is_not_resumed_with_another_recipe_and_each_difference_is_named(trained, corpus):
    with pytest.raises(RecipeError, match=r"training.learning_rate: was 0.01, is 0.5"):
        train(settings_of(epochs=25, learning_rate=0.5), trained[0], root=corpus, resume=True)


def test_bad_utterances_are_named_counted_and_left_out(corpus, tmp_path):
    lines = (corpus / "train.jsonl").read_text().splitlines()[:12]
    rows = [{**row, "audio_filepath": str(corpus / row["audio_filepath"])} for row in map(json.loads, lines)]
    rows[0]["text"] = ""
    rows[1]["text"] = "abc" * 200
    (tmp_path / "broken.flac").write_bytes(b"fLaC, but no more")
    rows[2]["audio_filepath"] = str(tmp_path / "broken.flac")
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[3:]))
    train(settings_of(epochs=2), tmp_path / "model", root=tmp_path)
    named = [json.loads(line) for line in (tmp_path / "model" / "training" / "rejected.jsonl").read_text().splitlines()]
    reasons = {line["id"]: line["reason"] for line in named}
    assert set(reasons) == {rows[0]["id"], rows[1]["id"], rows[2]["id"]}
    assert "empty" in reasons[rows[0]["id"]]
    assert "too short for its labels" in reasons[rows[1]["id"]]
    assert "broken.flac" in reasons[rows[2]["id"]]


def test_a_loss_that_is_no_number_stops_the_run_with_advice(corpus, tmp_path):
    with pytest.raises(TrainingError, match=r"lower training\.learning_rate"):
        train(settings_of(learning_rate=1e30, warmup_steps=0, epochs=5), tmp_path / "model", root=corpus)


def epochs_logged(directory) -> list[dict]:
    lines = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == "epoch"]


def test_a_run_by_the_clock_ends_with_its_time_scored_and_saved(corpus, tmp_path, monkeypatch):
    looks = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: 0.02 * next(looks))  # the same on a busy machine
    directory = tmp_path / "model"
    meta = train(settings_of(epochs=1, minutes=0.05, dev_every=1000), directory, root=corpus)
    assert meta["training"]["minutes"] >= 0.05
    assert meta["training"]["finished"]
    assert meta["training"]["epochs"] > 1, "epochs end nothing where there are minutes"
    assert [line["epoch"] for line in epochs_logged(directory) if "dev_wer" in line] == [meta["training"]["epochs"]]
    assert meta["results"]["best_epoch"] == meta["training"]["epochs"]
    before = (directory / "model.safetensors").read_bytes()
    again = train(settings_of(epochs=1, minutes=0.05, dev_every=1000), directory, root=corpus, resume=True)
    assert again == meta
    assert (directory / "model.safetensors").read_bytes() == before


def test_a_stopped_run_by_the_clock_goes_on_with_the_time_that_it_has_left(corpus, tmp_path):
    directory = tmp_path / "model"
    train(settings_of(epochs=1), directory, root=corpus)
    state = torch.load(directory / "training" / "state.pt", weights_only=True)
    state["progress"] |= {"seconds": 60.0, "finished": False}
    torch.save(state, directory / "training" / "state.pt")
    path = directory / "recipe.yaml"
    path.write_text(path.read_text().replace("minutes: null", "minutes: 1.02"))
    meta = train(settings_of(epochs=1, minutes=1.02), directory, root=corpus, resume=True)
    assert 1.02 <= meta["training"]["minutes"] < 2
    assert meta["training"]["epochs"] >= 2


def test_an_epoch_that_the_clock_cuts_short_ends_its_loader(corpus, tmp_path, monkeypatch):
    left = []
    score_dev = AcousticTask.score_dev

    def counting(task, model, monitor):
        left.append(len(multiprocessing.active_children()))
        return score_dev(task, model, monitor)

    monkeypatch.setattr(AcousticTask, "score_dev", counting)
    train(settings_of(minutes=0.001, workers=1, max_batch_seconds=3), tmp_path / "model", root=corpus)
    assert left == [0]


def test_the_dev_set_is_scored_as_often_as_asked_for_and_after_the_last_epoch(corpus, tmp_path):
    often, seldom = tmp_path / "often", tmp_path / "seldom"
    train(settings_of(epochs=3), often, root=corpus)
    train(settings_of(epochs=3, dev_every=2), seldom, root=corpus)
    assert [line["epoch"] for line in epochs_logged(seldom)] == [1, 2, 3]
    assert [line["epoch"] for line in epochs_logged(seldom) if "dev_wer" in line] == [2, 3]
    # It is looked at, and moves nothing.
    expected, found = load_file(often / "last.safetensors"), load_file(seldom / "last.safetensors")
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_early_stopping_waits_its_patience(corpus, tmp_path):
    meta = train(settings_of(epochs=20, patience=2, learning_rate=3.0, clip=1e3), tmp_path / "model", root=corpus)
    assert meta["training"]["finished"]
    assert meta["training"]["epochs"] == meta["results"]["best_epoch"] + 2 < 20


@pytest.mark.parametrize(
    "sections",
    [
        {"features": {"kind": "mfcc", "sample_rate": toy.RATE, "mels": 24}},
        {"features": {"kind": "log_mel", "sample_rate": toy.RATE, "mels": 24, "backend": "librosa"}},
        {"features": {"kind": "log_mel", "sample_rate": toy.RATE, "mels": 24, "normalise": "global"}},
        {"text": {"tokeniser": {"kind": "sentencepiece", "vocabulary": 12}}},
        {"augment": {"reverb": {"probability": 1.0}, "noise": {"path": "train", "probability": 1.0}}},
    ],
    ids=["mfcc", "librosa", "global statistics", "sentencepiece", "noise and reverberation"],
)
def test_every_choice_of_a_recipe_trains_and_loads(corpus, tmp_path, sections):
    raw = toy.recipe(**sections)
    raw["training"]["epochs"] = 1
    meta = train(validate_recipe(raw, "toy"), tmp_path / "model", root=corpus)
    assert math.isfinite(meta["results"]["dev"]["loss"])
    row = json.loads((corpus / "dev.jsonl").read_text().splitlines()[0])
    assert asr.load(tmp_path / "model").transcribe(corpus / row["audio_filepath"]).duration > 0


def rates(settings: recipe.Training, total: int, seconds_a_step: float = 0.0) -> list[float]:
    shares = [optimiser.share_left(step, total, step * seconds_a_step, settings) for step in range(total)]
    return [optimiser.learning_rate(step, left, settings) for step, left in enumerate(shares)]


def test_the_learning_rate_warms_up_then_decays():
    found = rates(recipe.Training(learning_rate=1.0, warmup_steps=10), 110)
    assert found[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert found[10] == pytest.approx(1.0)
    assert found[60] == pytest.approx(0.5)
    assert all(a >= b for a, b in itertools.pairwise(found[10:]))


@pytest.mark.parametrize(("decay", "half"), [("cosine", 0.5), ("linear", 0.5), ("constant", 1.0)])
def test_in_a_run_by_the_clock_the_decay_follows_the_share_of_the_time_however_many_steps_that_is(decay, half):
    settings = recipe.Training(learning_rate=1.0, warmup_steps=10, minutes=2.0, decay=decay)
    for steps in (100, 1000):
        found = rates(settings, steps, seconds_a_step=120 / steps)
        assert found[:5] == pytest.approx([0.1 * (i + 1) for i in range(5)])
        assert found[steps // 2] == pytest.approx(half)
        assert found[-1] == pytest.approx(1.0 if decay == "constant" else 0.01, abs=0.01)


def test_the_mean_of_the_last_epochs_weights_is_their_mean():
    model = nn.Linear(1, 1)
    average = optimiser.build_average(recipe.LastK(kind="last", epochs=2), model)
    for value in (1.0, 2.0, 4.0):
        nn.init.constant_(model.weight, value)
        average.after_epoch(model)
    assert average.weights(model)["weight"].item() == 3.0


def test_an_exponential_average_follows_the_weights():
    model = nn.Linear(1, 1)
    average = optimiser.build_average(recipe.Ema(decay=0.5), model)
    nn.init.constant_(model.weight, 8.0)
    for _ in range(60):
        average.after_step(model)
    assert average.weights(model)["weight"].item() == pytest.approx(8.0, abs=1e-4)
    assert average.weights(model)["weight"] is not model.weight


def test_what_a_killed_run_leaves_is_never_a_torn_file(corpus, tmp_path):
    path = toy.write_recipe(
        tmp_path / "toy.yaml", training={**toy.recipe()["training"], "epochs": 50, "save_minutes": 1e-3}
    )
    process = Command("train", path, "--data", corpus, "--out", tmp_path / "model", pictures=False)
    deadline = time.monotonic() + 120
    while not (tmp_path / "model" / "model.safetensors").exists():
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert asr.load(tmp_path / "model").transcribe(corpus / "dev" / "0.flac").duration > 0

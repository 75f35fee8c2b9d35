"""A finished run goes on: with more epochs, over a corpus that has grown, after its decoder was tuned."""

import json
import os
import signal

import pytest
import torch
import toy
from click.testing import CliRunner
from safetensors.torch import load_file

from asr import checkpoint, recipe
from asr.cli import main
from asr.errors import RecipeError
from asr.recipe.reading import validate_recipe
from asr.train import optimiser, stretch
from asr.train.acoustic import train_acoustic_model as train
from asr.train.state import Progress
from asr.train.step import Trainer

pytestmark = pytest.mark.usefixtures("no_pictures")

CONTENTS = stretch.Contents(utterances=10, train="abc", dev="def")


def settings_of(epochs: int = 20, **training) -> recipe.TrainerSettings:
    return recipe.TrainerSettings(epochs=epochs, **training)


def finished(epochs: int = 20, **known) -> Progress:
    """A run of ``epochs``, of 10 steps each, that is over."""
    run = Progress(epoch=epochs, step=10 * epochs, finished=True, seconds=600.0, best_epoch=epochs - 1)
    for key, value in {"asked_epochs": epochs, "epochs": epochs, "train_digest": "abc", "dev_digest": "def"}.items():
        setattr(run, key, known.get(key, value))
    return run


def test_a_new_run_has_the_steps_and_the_schedule_of_its_recipe():
    run = Progress()
    settings, said, changed = stretch.go_on(run, settings_of(20), CONTENTS)
    assert (settings, said, changed) == (settings_of(20), [], False)
    assert stretch.steps_in_all(run, settings, 10) == 200
    assert (run.warm_from, run.utterances) == (0, 10)


def test_a_finished_run_stays_finished_where_no_more_is_asked_for():
    for epochs in (20, 15):
        run = finished(20)
        stretch.go_on(run, settings_of(epochs), CONTENTS)
        assert run.finished


def rates(run: Progress, settings: recipe.TrainerSettings) -> list[float]:
    total = stretch.steps_in_all(run, settings, 10)
    return [
        optimiser.learning_rate(
            step, optimiser.share_left(step, total, 0.0, settings), settings, warm_from=run.warm_from
        )
        for step in range(run.step, total)
    ]


def test_more_epochs_warm_up_to_where_a_run_of_that_length_is_and_fall_to_the_floor():
    run = finished(20)
    settings, said, _ = stretch.go_on(run, settings_of(40, warmup_steps=10, learning_rate=1.0), CONTENTS)
    assert "goes on after epoch 20 until epoch 40" in said[0]
    assert not run.finished
    found = rates(run, settings)
    assert len(found) == 200
    assert found[:4] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert max(found) == pytest.approx(0.5, abs=0.05)
    assert found[-1] == optimiser.FLOOR


def test_few_epochs_more_are_trained_at_a_low_rate():
    run = finished(20)
    settings, _, _ = stretch.go_on(run, settings_of(22, warmup_steps=0, learning_rate=1.0), CONTENTS)
    assert max(rates(run, settings)) < 0.03


def test_a_run_stopped_half_way_may_be_given_more_epochs_but_not_fewer_than_are_trained():
    run = Progress(epoch=5, step=50, asked_epochs=20, epochs=20, train_digest="abc", dev_digest="def")
    settings, _, _ = stretch.go_on(run, settings_of(30), CONTENTS)
    assert stretch.steps_in_all(run, settings, 10) == 300
    with pytest.raises(RecipeError, match=r"training\.epochs is 4, and 5 of 30 are trained"):
        stretch.go_on(run, settings_of(4), CONTENTS)


def test_a_grown_corpus_gives_a_finished_run_a_stretch_as_long_as_its_recipe_says_once():
    run, grown = finished(20), stretch.Contents(utterances=12, train="xyz", dev="def")
    settings, said, changed = stretch.go_on(run, settings_of(20), grown)
    assert changed
    assert settings.epochs == 40
    assert said[0] == "the corpus has changed: an epoch had 0 utterances and has 12 now"
    assert stretch.steps_in_all(run, settings, 12) == 200 + 20 * 12
    run.epoch, run.finished = 40, True
    stretch.go_on(run, settings_of(20), grown)
    assert run.finished, "the same corpus is no reason to go on a second time"


def test_a_grown_corpus_goes_on_until_the_epochs_asked_for():
    run = finished(20)
    settings, _, _ = stretch.go_on(run, settings_of(25), stretch.Contents(utterances=12, train="xyz", dev="def"))
    assert settings.epochs == 25


def test_a_run_stopped_in_an_epoch_begins_it_again_where_the_corpus_has_changed():
    run = Progress(epoch=5, batch=7, step=57, asked_epochs=20, epochs=20, train_digest="abc", dev_digest="def")
    settings, said, _ = stretch.go_on(run, settings_of(20), stretch.Contents(utterances=12, train="xyz", dev="def"))
    assert (run.epoch, run.batch, settings.epochs) == (5, 0, 20)
    assert "epoch 6 begins again" in said[0]


def test_another_dev_set_judges_from_now_on():
    run = finished(20)
    stretch.go_on(run, settings_of(21), stretch.Contents(utterances=10, train="abc", dev="other"))
    assert run.best_epoch == 0


def test_a_run_by_the_clock_goes_on_when_it_is_given_more_minutes():
    run = finished(20)
    run.asked_minutes = run.minutes = 10.0
    settings, _, _ = stretch.go_on(run, settings_of(20, minutes=15.0), CONTENTS)
    assert not run.finished
    assert settings.minutes == 15.0


def test_patience_counts_from_where_the_stretch_began():
    settings, run = settings_of(40, patience=2), finished(20)
    stretch.go_on(run, settings, CONTENTS)
    run.best_epoch, run.best_dev, run.epoch = 5, {"wer": 0.1}, 21
    run.judge({"wer": 0.2}, settings)
    assert not run.finished
    run.epoch = 22
    run.judge({"wer": 0.2}, settings)
    assert run.finished


def test_the_state_of_an_earlier_version_is_gone_on_with():
    run = Progress(epoch=20, step=200, finished=True)
    stretch.go_on(run, settings_of(20), CONTENTS)
    assert run.finished
    stretch.go_on(run, settings_of(30), CONTENTS)
    assert (run.finished, run.stretch_step) == (False, 200)


def test_a_digest_does_not_depend_on_the_order():
    assert stretch.digest(["a 1.0", "b 2.0"]) == stretch.digest(["b 2.0", "a 1.0"]) != stretch.digest(["a 1.0", "c 2"])


@pytest.fixture
def corpus(tmp_path):
    toy.write_corpus(tmp_path, 6, name="train")
    toy.write_corpus(tmp_path, 2, seed=9, name="dev")
    return tmp_path


def toy_recipe(*, training: dict[str, object] | None = None, **sections) -> recipe.Recipe:
    raw = toy.recipe(**sections)
    raw["training"] |= {"epochs": 1, "averaging": {"kind": "none"}, **(training or {})}
    return validate_recipe(raw, "toy")


def test_a_tuned_run_goes_on_over_new_utterances_and_keeps_its_decoder(corpus, capsys):
    toy.write_lexicon(corpus / "lexicon.txt")
    phones = {"text": {"tokeniser": {"kind": "phones", "lexicon": "lexicon.txt"}}}
    settings, directory = toy_recipe(**phones), corpus / "model"
    train(settings, directory, root=corpus)
    stored, tokeniser = checkpoint.load_description(directory)
    tuned = stored.model_copy(update={"decoder": stored.decoder.model_copy(update={"alpha": 0.7})})
    checkpoint.save_description(directory, tuned, tokeniser)
    assert train(settings, directory, root=corpus, resume=True)["training"]["epochs"] == 1, "it is finished"
    lines = (corpus / "train.jsonl").read_text().splitlines()
    more = {**json.loads(lines[0]), "id": "new"}
    (corpus / "train.jsonl").write_text("\n".join([*lines, json.dumps(more)]))

    meta = train(settings, directory, root=corpus, resume=True)
    assert (meta["training"]["epochs"], meta["training"]["finished"]) == (2, True)
    assert "an epoch had 6 utterances and has 7 now" in capsys.readouterr().err
    again = train(toy_recipe(**phones, training={"epochs": 3}), directory, root=corpus, resume=True)
    assert again["training"]["epochs"] == 3
    assert checkpoint.load_description(directory)[0].decoder.alpha == 0.7
    assert checkpoint.load_description(directory)[0].training.epochs == 3


def test_a_stretch_that_is_killed_resumes_bit_for_bit(corpus, monkeypatch):
    often = {"max_batch_seconds": 4, "save_minutes": 1e-6}
    for name in ("whole", "cut"):
        train(toy_recipe(training=often), corpus / name, root=corpus)
    longer = toy_recipe(training={**often, "epochs": 2})
    train(longer, corpus / "whole", root=corpus, resume=True)
    with monkeypatch.context() as patched:
        toy.kill_after(1, patched)
        with pytest.raises(KeyboardInterrupt):
            train(longer, corpus / "cut", root=corpus, resume=True)
    train(longer, corpus / "cut", root=corpus, resume=True)
    expected, found = (load_file(corpus / name / "last.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_an_interrupted_run_says_the_command_that_goes_on(corpus, monkeypatch):
    step = Trainer.step

    def interrupted(self, *arguments, **options):
        os.kill(os.getpid(), signal.SIGINT)
        return step(self, *arguments, **options)

    monkeypatch.setattr(Trainer, "step", interrupted)
    path = toy.write_recipe(corpus / "my toy.yaml")
    command = ["train", str(path), "--data", str(corpus), "--out", str(corpus / "model")]
    result = CliRunner().invoke(main, [*command, "--set", "training.epochs=2"])
    assert result.exit_code == 1
    expected = (
        f"go on with: asr train '{path}' --data {corpus} --out {corpus / 'model'} --set training.epochs=2 --resume"
    )
    assert result.output.splitlines()[-1].endswith(f"stopped in epoch 1 after 1 steps, and nothing is lost; {expected}")

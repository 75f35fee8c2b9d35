"""A damaged run folder is refused in a sentence, or goes on without what was lost; nothing in it runs."""

import json
import pickle
import random
from dataclasses import asdict

import pytest
import torch
from torch import nn

from asr import recipe
from asr.errors import CheckpointError
from asr.train.monitor import Monitor, json_lines
from asr.train.state import STATE, Progress, load_state, save_state
from asr.train.step import Loss, Trainer

SETTINGS = recipe.TrainerSettings(precision="float32", epochs=3)


class Ones:
    """A batch of a toy problem."""

    labels, rejected = 1, ()

    def __len__(self):
        return 1


def trained() -> Trainer:
    torch.manual_seed(1)
    model = nn.Linear(3, 2)
    trainer = Trainer(model, lambda model, _: Loss(nats=model(torch.ones(1, 3)).square().sum()), SETTINGS)
    trainer.step([Ones()], 0.1)
    return trainer


@pytest.fixture
def folder(tmp_path):
    save_state(tmp_path, Progress(epoch=1, batch=2, step=3, best_dev={"wer": 0.5}), trained())
    return tmp_path


def damage(folder, change) -> None:
    state = torch.load(folder / STATE, weights_only=True)
    change(state)
    torch.save(state, folder / STATE)


def test_what_was_saved_is_restored(folder):
    progress = load_state(folder, trained())
    assert asdict(progress) == asdict(Progress(epoch=1, batch=2, step=3, best_dev={"wer": 0.5}))


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.clear(),
        lambda state: state["progress"].update(epoch="x"),
        lambda state: state["progress"].update(epoch=-1),
        lambda state: state["progress"].update(best_dev=[1]),
        lambda state: state.update(progress=None),
        lambda state: state.update(model=[]),
        lambda state: state["model"].update(weight=torch.zeros(9, 9)),
        lambda state: state["model"]["weight"].fill_(float("nan")),
        lambda state: state["optimiser"].update(state={}, param_groups=[]),
        lambda state: state["optimiser"]["state"][0].update(exp_avg=torch.zeros(7)),
        lambda state: state["optimiser"]["state"][0].update(exp_avg="x"),
        lambda state: state["average"].update(shadow=None),
        lambda state: state["average"]["shadow"].update(weight=torch.zeros(9)),
    ],
    ids=range(13),
)
def test_a_state_of_other_contents_is_a_sentence(folder, change):
    damage(folder, change)
    with pytest.raises(CheckpointError, match=r"state\.pt does not load: .+; restore it"):
        load_state(folder, trained())


def test_code_in_a_state_is_not_run(folder):
    class Bomb:
        def __reduce__(self):
            return (folder.joinpath("ran").touch, ())

    (folder / STATE).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match="does not load"):
        load_state(folder, trained())
    torch.save({"progress": Bomb()}, folder / STATE)
    with pytest.raises(CheckpointError, match="does not load"):
        load_state(folder, trained())
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("seed", range(4))
def test_a_mutated_state_loads_or_is_a_sentence(folder, seed):
    draw = random.Random(seed)
    content = (folder / STATE).read_bytes()
    trainer = trained()
    for _ in range(25):
        changed = bytearray(content)
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(len(changed))
            if draw.random() < 0.7:
                changed[at] = draw.randrange(256)
            else:
                del changed[at : at + draw.randint(1, 200)]
        (folder / STATE).write_bytes(changed)
        try:
            load_state(folder, trainer)
        except CheckpointError as error:
            assert "\n" not in str(error)  # noqa: PT017 (what is not raised is as right)


LINE = {"kind": "step", "step": 1, "epoch": 1, "loss": 1.5, "gradient_norm": None}


def test_the_metrics_of_a_run_are_read_and_a_torn_last_line_is_dropped(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(json.dumps(LINE) + "\n" + json.dumps(LINE)[:20])
    assert json_lines(tmp_path / "metrics.jsonl") == [LINE]
    assert json_lines(tmp_path / "nothing") == []


@pytest.mark.parametrize(
    "line",
    [
        "[1]", "null", "7", "{}", "{", "[" * 100_000, '{"kind": "step", "step": %s, "epoch": 1}' % ("9" * 5000),
        json.dumps({**LINE, "step": "x"}), json.dumps({**LINE, "kind": "other"}), json.dumps({**LINE, "loss": "x"}),
        json.dumps({**LINE, "loss": [1]}), json.dumps({**LINE, "loss": 10**400}), "\0",
    ],
    ids=range(13),
)  # fmt: skip
def test_a_line_that_training_did_not_write_is_named(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text(f"{json.dumps(LINE)}\n{line}\n{json.dumps(LINE)}\n")
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl, line 2: "):
        json_lines(tmp_path / "metrics.jsonl")


def test_metrics_that_are_not_text_are_a_sentence(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b"\xff\xfe\n")
    with pytest.raises(CheckpointError, match="is not UTF-8 text"):
        json_lines(tmp_path / "metrics.jsonl")


def test_torn_lines_among_the_rejected_do_not_stop_a_run(tmp_path):
    (tmp_path / "training").mkdir()
    rejected = tmp_path / "training" / "rejected.jsonl"
    rejected.write_text('{"id": "a", "rea\n[1]\n{"id": 3}\n{"id": "b", "reason": "silent"}\n')
    with Monitor(tmp_path, Progress(), SETTINGS, batches=1) as monitor:
        assert monitor._rejected == {"b": "silent"}

"""Training on a GPU: float16 with a loss scaler, and what the scaler may skip."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import toy
from torch import nn

from asr import recipe, runtime
from asr.errors import DivergenceError
from asr.model.acoustic import AcousticModel
from asr.model.collation import LoadedUtterance, collate
from asr.model.encoder import RecurrentStack
from asr.model.features import frame_mask
from asr.model.recurrent import RecurrentLayer
from asr.recipe.reading import validate_recipe
from asr.train.acoustic import train_acoustic_model
from asr.train.monitor import MOST_SKIPPED, Monitor
from asr.train.state import Progress
from asr.train.step import Loss, StepFigures, Trainer

SETTINGS = recipe.Training(precision="float16", averaging=recipe.Ema(decay=0.5))


class OneLabel:
    labels = 1
    rejected = ()

    def __len__(self) -> int:
        return 1


def overflowing(model: nn.Module, _batch: OneLabel) -> Loss:
    """A finite loss whose gradient, scaled, is beyond float32."""
    return Loss(nats=1e37 * model.weight.sum())


def test_a_step_whose_gradient_overflows_is_skipped_and_the_scale_halved():
    model = nn.Linear(1, 1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = Trainer(model, overflowing, SETTINGS)
    scale = trainer.scaler.get_scale()
    figures = trainer.step([OneLabel()], 0.1)
    assert not figures.gradient_norm.isfinite()
    assert trainer.scaler.get_scale() == scale / 2
    for state in (model.state_dict(), trainer.average.weights(model)):
        assert all(torch.equal(state[name], before[name]) for name in before)


def test_a_run_begun_without_a_scaler_goes_on_with_one():
    begun = Trainer(nn.Linear(1, 1), overflowing, recipe.Training(precision="float32"))
    goes_on = Trainer(nn.Linear(1, 1), overflowing, SETTINGS)
    goes_on.load_state_dict(begun.state_dict())
    assert torch.equal(goes_on.model.weight, begun.model.weight)
    assert goes_on.scaler.is_enabled()


def watch(folder, norms: list[float], *, may_skip: bool) -> None:
    (folder / "training").mkdir()
    with Monitor(folder, Progress(), SETTINGS, batches=1000, may_skip=may_skip) as monitor:
        for norm in norms:
            losses = (Loss(nats=torch.tensor(1.0)),)
            monitor.step(StepFigures(losses=losses, labels=1, gradient_norm=torch.tensor(norm), learning_rate=1e-3))
        monitor.read()


@pytest.mark.parametrize(
    "norms",
    [[float("inf")] * MOST_SKIPPED + [1.0], ([float("nan")] * 20 + [1.0]) * 4],
    ids=["while the scale is found", "now and then"],
)
def test_skipped_steps_are_no_divergence(tmp_path, norms):
    watch(tmp_path, norms, may_skip=True)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {line["gradient_norm"] for line in lines} == {1.0, None}


def test_each_ten_steps_are_a_line_of_their_own_numbers(tmp_path):
    (tmp_path / "training").mkdir()
    progress = Progress()
    with Monitor(tmp_path, progress, SETTINGS, batches=1000) as monitor:
        for step in range(1, 24):
            progress.step = step
            losses = tuple(
                Loss(nats=torch.tensor(nats), blank_rate=torch.tensor(0.5), audio_seconds=1.0)
                for nats in (float(step), 1.0)
            )
            norm = torch.tensor(float(step))
            monitor.step(StepFigures(losses=losses, labels=2, gradient_norm=norm, learning_rate=step / 100))
        monitor.read()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 23]
    assert [line["loss"] for line in lines] == [(5.5 + 1) / 2, (15.5 + 1) / 2, (22 + 1) / 2]
    assert [line["gradient_norm"] for line in lines] == [10.0, 20.0, 23.0]
    assert [line["learning_rate"] for line in lines] == [0.1, 0.2, 0.23]
    assert [line["blank_rate"] for line in lines] == [0.5, 0.5, 0.5]
    assert progress.epoch_labels == 2 * 23


@pytest.mark.parametrize(("count", "may_skip"), [(1, False), (MOST_SKIPPED + 1, True)])
def test_a_gradient_that_stays_no_number_stops_the_run(tmp_path, count, may_skip):
    with pytest.raises(DivergenceError, match=r"lower training\.learning_rate"):
        watch(tmp_path, [1.0, *[float("nan")] * count], may_skip=may_skip)


@pytest.mark.cuda
@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("float32", torch.float32), ("bfloat16", torch.float16), ("float16", torch.float16), ("auto", torch.float16)],
)
def test_cudnns_recurrent_layers_compute_in_float16_under_any_autocast(precision, dtype):
    layer = RecurrentLayer(recipe.Lstm(hidden=128, layer_norm=False), 128).cuda()
    values, lengths = torch.randn(8, 20, 128, device="cuda"), torch.full((8,), 20, device="cuda")
    with runtime.autocast(torch.device("cuda"), precision):
        outputs, _ = layer(values, lengths)
    assert outputs.dtype == dtype


@pytest.mark.cuda
@pytest.mark.parametrize("rows", [1, 5, 8])
def test_a_batch_filled_up_for_cudnn_has_the_rows_and_the_gradients_of_its_own(rows):
    torch.manual_seed(3)
    stack = RecurrentStack(recipe.Lstm(hidden=128, layers=2, dropout=0.0), 128).cuda().train()
    values, lengths = torch.randn(rows, 40, 128, device="cuda"), torch.full((rows,), 40, device="cuda")
    lengths[0] = 25
    real = frame_mask(lengths, 40)[:, :, None]

    def read() -> tuple[torch.Tensor, torch.Tensor]:
        stack.zero_grad()
        outputs, _ = stack(values, lengths)
        (outputs.float() * real).square().mean().backward()
        return outputs, stack.layers[0].forwards.weight_hh_l0.grad.clone()

    expected, expected_gradient = read()
    with runtime.autocast(torch.device("cuda"), "float16"):
        found, gradient = read()
    assert found.shape == expected.shape
    torch.testing.assert_close((found * real).float(), expected * real, atol=2e-2, rtol=2e-2)
    torch.testing.assert_close(gradient, expected_gradient, atol=2e-4, rtol=5e-2)


@pytest.mark.cuda
@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_recurrent_dropout_reaches_cudnn_with_the_weights_that_it_left(kind):
    settings = {"lstm": recipe.Lstm, "gru": recipe.Gru, "rnn": recipe.Rnn}[kind](
        kind=kind, hidden=16, recurrent_dropout=0.5, layer_norm=False
    )
    torch.manual_seed(1)
    layer = RecurrentLayer(settings, 8).cuda().train()
    kept = [cell.weight_hh_l0.detach().clone() for cell in (layer.forwards, layer.backwards)]
    values, lengths = torch.randn(3, 9, 8, device="cuda"), torch.tensor([9, 4, 6], device="cuda")
    torch.manual_seed(2)
    outputs, _ = layer(values, lengths)
    outputs.sum().backward()
    torch.manual_seed(2)
    with torch.no_grad():  # the backward direction is read first, and draws first
        for cell, weights in ((layer.backwards, kept[1]), (layer.forwards, kept[0])):
            cell.weight_hh_l0.copy_(nn.functional.dropout(weights, 0.5))
    expected, _ = layer.eval()(values, lengths)
    torch.testing.assert_close(outputs, expected, atol=1e-4, rtol=1e-4)
    assert all(cell.weight_hh_l0.grad.any() for cell in (layer.forwards, layer.backwards))


@pytest.mark.cuda
def test_a_toy_language_is_learnt_on_a_gpu_in_float16(tmp_path):
    toy.write_corpus(tmp_path, 60, name="train")
    toy.write_corpus(tmp_path, 8, seed=9, name="dev")
    raw = toy.recipe()
    settings = validate_recipe({**raw, "training": {**raw["training"], "epochs": 25, "precision": "auto"}}, "toy")
    meta = train_acoustic_model(settings, tmp_path / "model", root=tmp_path, device="cuda")
    assert meta["device"] == "cuda:0"
    assert meta["results"]["dev"]["wer"] < 0.2
    state = torch.load(tmp_path / "model" / "training" / "state.pt", weights_only=True)
    assert state["scaler"]["scale"] > 1
    assert train_acoustic_model(settings, tmp_path / "model", root=tmp_path, device="cuda", resume=True) == meta


@pytest.mark.cuda
def test_the_loader_hands_over_batches_that_a_gpu_copies_by_itself():
    batch = collate([LoadedUtterance(samples=np.ones(16, np.float32), id="a", text="a", tokens=(1, 2))])
    pinned = batch.pin_memory()
    tensors = (pinned.waveforms, pinned.waveform_lengths, pinned.tokens, pinned.token_lengths)
    assert all(tensor.is_pinned() for tensor in tensors)
    assert torch.equal(pinned.waveforms, batch.waveforms)
    assert (pinned.ids, pinned.labels) == (("a",), 2)


@pytest.mark.cuda
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_the_next_batch_is_handed_to_a_gpu_that_is_still_at_work_on_the_last():
    samples = np.random.default_rng(0).standard_normal(4000).astype(np.float32)
    batch = collate([LoadedUtterance(samples=samples, id="a", text="a", tokens=(1, 2))]).pin_memory()
    model = AcousticModel(validate_recipe(toy.recipe(), "toy"), 4).cuda()
    expected = model.energies(batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        energies = model.energies(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(energies.values, expected.values)
    assert energies.lengths.tolist() == expected.lengths.tolist()


@pytest.mark.cuda
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_training_steps_on_a_gpu_do_not_wait_for_it_in_the_optimiser():
    model = nn.Linear(64, 64).cuda()
    trainer = Trainer(model, lambda m, _b: Loss(nats=m(torch.ones(1, 64, device="cuda")).sum()), SETTINGS)
    trainer.step([OneLabel()], 0.1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.step([OneLabel()], 0.1)
    finally:
        torch.cuda.set_sync_debug_mode("default")

"""The cells' equations against the kernels that train and transcribe."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from asr import recipe
from asr.model.cells import (
    Gates,
    GruGates,
    LstmGates,
    RnnGates,
    Weights,
    gru_step,
    lstm_step,
    rnn_step,
    run_layer,
    unroll,
)
from asr.model.encoder import RecurrentStack
from asr.model.recurrent import RecurrentLayer

KINDS = {
    "tanh": recipe.Rnn(kind="rnn", nonlinearity="tanh"),
    "relu": recipe.Rnn(kind="rnn", nonlinearity="relu"),
    "gru": recipe.Gru(kind="gru"),
    "lstm": recipe.Lstm(),
}
SHAPES = {
    "plain": {"bidirectional": False, "layer_norm": False},
    "normed": {"bidirectional": False},
    "both_ways": {},
    "both_ways_projected": {"projection": 5},
    "projected": {"bidirectional": False, "projection": 5, "layer_norm": False},
}


def stack_of(kind: recipe.Recurrent, shape: dict[str, object]) -> RecurrentStack:
    torch.manual_seed(0)
    settings = kind.model_copy(update={"hidden": 8, "layers": 3, **shape})
    return RecurrentStack(settings, 6).eval()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@torch.inference_mode()
def test_a_stack_run_step_by_step_equals_the_fast_path_over_a_padded_batch(kind, shape):
    stack = stack_of(kind, shape)
    lengths = torch.tensor([40, 1, 23])
    values = torch.randn(3, 40, 6)
    fast, _ = stack(values, lengths)
    for row, length in enumerate(lengths.tolist()):
        outputs = values[row, :length]
        for layer in stack.layers:
            outputs = run_layer(layer, outputs).outputs
        torch.testing.assert_close(outputs, fast[row, :length], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@torch.inference_mode()
def test_both_directions_gates_lie_in_the_order_of_time(kind):
    layer = stack_of(kind, {"layer_norm": False}).layers[0]
    values = torch.randn(9, 6)
    run = run_layer(layer, values)
    fast = layer(values[None], torch.tensor([9]))[0][0]
    assert run.backwards is not None
    torch.testing.assert_close(torch.cat([run.forwards.hidden, run.backwards.hidden], dim=1), fast, atol=1e-5, rtol=0)
    # The backward direction's first step is at the last frame.
    torch.testing.assert_close(run.backwards.hidden[-1], unroll(layer.backwards, values[-1:])[0].hidden)


@torch.inference_mode()
def test_the_cell_state_equals_the_kernels():
    layer = stack_of(KINDS["lstm"], {"bidirectional": False}).layers[0]
    values = torch.randn(30, 6)
    gates = run_layer(layer, values).forwards
    _, (hidden, cell) = layer.forwards(values[None])
    assert isinstance(gates, LstmGates)
    torch.testing.assert_close(gates.hidden[-1], hidden[0, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(gates.cell[-1], cell[0, 0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_gradients_flow_through_the_steps_as_through_the_kernel(kind):
    cell = stack_of(kind, {"bidirectional": False}).layers[0].forwards
    values = torch.randn(12, 2, 6)
    slow, fast = values.clone().requires_grad_(), values.clone().requires_grad_()
    unroll(cell, slow)[-1].hidden.square().sum().backward()
    cell(fast.transpose(0, 1))[0][:, -1].square().sum().backward()
    torch.testing.assert_close(slow.grad, fast.grad, atol=1e-6, rtol=1e-4)


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def weights_of(*rows: tuple[float, float, float, float]) -> Weights:
    """A cell of one unit and one input: (W, R, b, d) a gate."""
    columns = [torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True)]
    return Weights(
        input=columns[0][:, None], recurrent=columns[1][:, None], input_bias=columns[2], recurrent_bias=columns[3]
    )


def one(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


def numbers(gates: Gates) -> dict[str, float]:
    return {name: getattr(gates, name).item() for name in type(gates).__dataclass_fields__}


def test_a_simple_rnn_by_hand():
    weights = weights_of((2.0, 3.0, 0.5, -1.0))
    assert numbers(rnn_step(one(0.1), one(0.2), weights, "tanh")) == pytest.approx({"hidden": math.tanh(0.3)})
    assert numbers(rnn_step(one(-9.0), one(0.2), weights, "relu")) == {"hidden": 0.0}


def test_a_gru_by_hand_resets_after_the_matrix_product():
    weights = weights_of((1.0, 2.0, 0.1, 0.2), (-1.0, 0.5, 0.3, 0.4), (2.0, -3.0, 0.5, 0.6))
    x, h = 0.7, -0.4
    r = logistic(x + 2 * h + 0.3)
    z = logistic(-x + 0.5 * h + 0.7)
    n = math.tanh(2 * x + 0.5 + r * (-3 * h + 0.6))
    expected = {"reset_gate": r, "update_gate": z, "candidate": n, "hidden": (1 - z) * n + z * h}
    assert numbers(gru_step(one(x), one(h), weights)) == pytest.approx(expected)


def test_an_lstm_by_hand():
    weights = weights_of((1.0, 2.0, 0.1, 0.2), (-1.0, 0.5, 1.0, 0.0), (2.0, -3.0, 0.5, 0.6), (0.3, 0.2, 0.1, -0.5))
    x, h, c = 0.7, -0.4, 1.5
    i, f = logistic(x + 2 * h + 0.3), logistic(-x + 0.5 * h + 1)
    g, o = math.tanh(2 * x - 3 * h + 1.1), logistic(0.3 * x + 0.2 * h - 0.4)
    cell = f * c + i * g
    expected = {
        "input_gate": i,
        "forget_gate": f,
        "candidate": g,
        "output_gate": o,
        "cell": cell,
        "hidden": o * math.tanh(cell),
    }
    assert numbers(lstm_step(one(x), one(h), one(c), weights)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("kind", "gates"), [("tanh", RnnGates), ("relu", RnnGates), ("gru", GruGates), ("lstm", LstmGates)]
)
def test_each_cell_has_its_own_gates(kind, gates):
    layer = RecurrentLayer(KINDS[kind].model_copy(update={"hidden": 3}), 2)
    run = run_layer(layer, torch.zeros(4, 2))
    assert type(run.forwards) is type(run.backwards) is gates
    assert run.forwards.hidden.shape == (4, 3)


def test_weights_are_those_of_the_cell_itself():
    cell = nn.GRU(2, 3)
    assert Weights.of(cell).recurrent is cell.weight_hh_l0

"""The recurrent cells as their equations say, a frame at a time: what the fast kernels compute, to be looked into.

PyTorch's and cuDNN's kernels give a layer's outputs and no more. Here each gate has a name, the code is the equation,
and a test holds the outputs to the fast path's. Weights are the layer's own. Everything is differentiable.

Notation: x(t) the input, h(t) the hidden state, W and R the input's and the recurrent weights, b and d their biases
(the kernels add two), σ the logistic function, * element by element.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from asr.model.recurrent import RecurrentLayer


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Of a cell with G gates and candidates, stacked: ``input`` W (G H, inputs), ``recurrent`` R (G H, H),
    ``input_bias`` b and ``recurrent_bias`` d (G H,)."""

    input: Tensor
    recurrent: Tensor
    input_bias: Tensor
    recurrent_bias: Tensor

    @classmethod
    def of(cls, cell: nn.RNNBase) -> Weights:
        """Those of a one-directional cell of one layer."""
        return cls(
            input=cell.get_parameter("weight_ih_l0"),
            recurrent=cell.get_parameter("weight_hh_l0"),
            input_bias=cell.get_parameter("bias_ih_l0"),
            recurrent_bias=cell.get_parameter("bias_hh_l0"),
        )

    def of_input(self, frame: Tensor) -> Tensor:
        """W x(t) + b: (..., inputs) to (..., G H)."""
        return frame @ self.input.T + self.input_bias

    def of_hidden(self, hidden: Tensor) -> Tensor:
        """R h(t-1) + d: (..., H) to (..., G H)."""
        return hidden @ self.recurrent.T + self.recurrent_bias


@dataclass(frozen=True, slots=True, kw_only=True)
class RnnGates:
    """The simple RNN has no gates: ``hidden`` (..., H) is all there is to see."""

    hidden: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class GruGates:
    """A GRU's insides, each (..., H): gates in [0, 1], ``candidate`` and ``hidden`` in [-1, 1]."""

    reset_gate: Tensor
    update_gate: Tensor
    candidate: Tensor
    hidden: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class LstmGates:
    """An LSTM's insides, each (..., H): gates in [0, 1], ``candidate`` and ``hidden`` in [-1, 1]; ``cell`` may pass
    them."""

    input_gate: Tensor
    forget_gate: Tensor
    candidate: Tensor
    output_gate: Tensor
    cell: Tensor
    hidden: Tensor


Gates = RnnGates | GruGates | LstmGates
"""A cell's insides, of one frame or, with T in front, of an utterance."""


def rnn_step(frame: Tensor, hidden: Tensor, weights: Weights, nonlinearity: str) -> RnnGates:
    """The simple RNN (Elman 1990, "Finding structure in time"):

    h(t) = φ(W x(t) + b + R h(t-1) + d)        φ = tanh, or relu(a) = max(0, a)
    """
    activation = {"tanh": torch.tanh, "relu": torch.relu}[nonlinearity]
    return RnnGates(hidden=activation(weights.of_input(frame) + weights.of_hidden(hidden)))


def gru_step(frame: Tensor, hidden: Tensor, weights: Weights) -> GruGates:
    """The gated recurrent unit (Cho et al. 2014), weights stacked r, z, n:

        r(t) = σ(W_r x(t) + b_r + R_r h(t-1) + d_r)           reset gate
        z(t) = σ(W_z x(t) + b_z + R_z h(t-1) + d_z)           update gate
        n(t) = tanh(W_n x(t) + b_n + r(t) * (R_n h(t-1) + d_n))   candidate
        h(t) = (1 - z(t)) * n(t) + z(t) * h(t-1)

    As cuDNN and PyTorch have it: the reset gate acts after the matrix product, where the paper has R_n (r * h(t-1)), so
    that one product serves all three. z keeps, as in that paper; Chung et al. (2014) write it the other way round.
    """
    from_input = weights.of_input(frame).chunk(3, dim=-1)
    from_hidden = weights.of_hidden(hidden).chunk(3, dim=-1)
    reset_gate = torch.sigmoid(from_input[0] + from_hidden[0])
    update_gate = torch.sigmoid(from_input[1] + from_hidden[1])
    candidate = torch.tanh(from_input[2] + reset_gate * from_hidden[2])
    return GruGates(
        reset_gate=reset_gate,
        update_gate=update_gate,
        candidate=candidate,
        hidden=(1 - update_gate) * candidate + update_gate * hidden,
    )


def lstm_step(frame: Tensor, hidden: Tensor, cell: Tensor, weights: Weights) -> LstmGates:
    """The LSTM (Hochreiter & Schmidhuber 1997) with a forget gate (Gers et al. 2000), weights stacked i, f, g, o:

        i(t) = σ(W_i x(t) + b_i + R_i h(t-1) + d_i)      input gate: what is written
        f(t) = σ(W_f x(t) + b_f + R_f h(t-1) + d_f)      forget gate: what is kept
        g(t) = tanh(W_g x(t) + b_g + R_g h(t-1) + d_g)   candidate
        o(t) = σ(W_o x(t) + b_o + R_o h(t-1) + d_o)      output gate: what is read
        c(t) = f(t) * c(t-1) + i(t) * g(t)               cell
        h(t) = o(t) * tanh(c(t))

    Without peepholes, as cuDNN and PyTorch have it.
    """
    i, f, g, o = (weights.of_input(frame) + weights.of_hidden(hidden)).chunk(4, dim=-1)
    input_gate, forget_gate, output_gate = torch.sigmoid(i), torch.sigmoid(f), torch.sigmoid(o)
    candidate = torch.tanh(g)
    cell = forget_gate * cell + input_gate * candidate
    return LstmGates(
        input_gate=input_gate,
        forget_gate=forget_gate,
        candidate=candidate,
        output_gate=output_gate,
        cell=cell,
        hidden=output_gate * torch.tanh(cell),
    )


def unroll(cell: nn.RNNBase, values: Tensor) -> list[Gates]:
    """What the cell does over an utterance, from a zero state: (T, ..., inputs) to its gates at T frames, (..., H)."""
    weights = Weights.of(cell)
    hidden = kept = values.new_zeros(*values.shape[1:-1], cell.hidden_size)
    steps: list[Gates] = []
    for frame in values:
        gates: Gates
        if isinstance(cell, nn.LSTM):
            gates = lstm_step(frame, hidden, kept, weights)
            kept = gates.cell
        elif isinstance(cell, nn.GRU):
            gates = gru_step(frame, hidden, weights)
        else:
            gates = rnn_step(frame, hidden, weights, {"RNN_TANH": "tanh", "RNN_RELU": "relu"}[cell.mode])
        hidden = gates.hidden
        steps.append(gates)
    return steps


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRun:
    """One layer over one utterance: ``outputs`` (T, size), as the layer hands them on, and each direction's gates, each
    (T, H) in the order of time; ``backwards`` is None in a one-directional layer."""

    outputs: Tensor
    forwards: Gates
    backwards: Gates | None


def run_layer(layer: RecurrentLayer, values: Tensor) -> LayerRun:
    """Reads one utterance, (T, inputs) without padding, step by step: the outputs are those of ``layer`` itself."""
    forwards = _stacked(unroll(layer.forwards, values))
    backwards = None
    hidden = forwards.hidden
    if layer.backwards is not None:
        backwards = _stacked(unroll(layer.backwards, values.flip(0))[::-1])
        hidden = torch.cat([hidden, backwards.hidden], dim=-1)
    return LayerRun(outputs=layer.norm(layer.projection(hidden)), forwards=forwards, backwards=backwards)


def _stacked(steps: list[Gates]) -> Gates:
    """T gates of a frame, each (..., H), as gates of an utterance, each (T, ..., H)."""
    kind = type(steps[0])
    return kind(**{f.name: torch.stack([getattr(step, f.name) for step in steps]) for f in fields(kind)})

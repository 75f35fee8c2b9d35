"""Recurrent layers over padded input and lengths.

The backward direction runs the same one-directional kernel on a length-aware flip: each utterance's real frames are
reversed in place, its padding stays behind them. That is exact under padding, several times faster on a CPU than
``nn.LSTM(bidirectional=True)`` over packed sequences, and leaves cuDNN free to choose its persistent kernels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from asr import recipe

State = tuple[Tensor, ...]
"""One layer's state: (h,) for an RNN or GRU, (h, c) for an LSTM, each (1, B, H)."""


_RECURRENT_WEIGHTS: dict[str, Callable[[Tensor], object]] = {
    "uniform": lambda weights: weights,  # as PyTorch has drawn them
    "orthogonal": nn.init.orthogonal_,
    "identity": nn.init.eye_,
}


def flip_within(values: Tensor, lengths: Tensor) -> Tensor:
    """(B, T, ...) with each utterance's first ``lengths`` frames reversed and the rest left where they are."""
    batch, frames = values.shape[:2]
    frame = torch.arange(frames, device=values.device)[None, :]
    last = lengths[:, None] - 1
    index = torch.where(frame <= last, last - frame, frame)
    row = index + frames * torch.arange(batch, device=values.device)[:, None]
    # By whole rows, which copies quicker than a gather, whose index is as large as the values.
    return values.flatten(0, 1).index_select(0, row.flatten()).view(values.shape)


def _cell(settings: recipe.Recurrent, inputs: int) -> nn.RNNBase:
    if isinstance(settings, recipe.Rnn):
        return nn.RNN(inputs, settings.hidden, nonlinearity=settings.nonlinearity, batch_first=True)
    kind = nn.GRU if isinstance(settings, recipe.Gru) else nn.LSTM
    return kind(inputs, settings.hidden, batch_first=True)


class RecurrentLayer(nn.Module):
    """One layer, in one or both directions, with optional projection and layer norm: (B, T, inputs) to (B, T, size)."""

    def __init__(self, settings: recipe.Recurrent, inputs: int) -> None:
        super().__init__()
        self.forwards = _cell(settings, inputs)
        self.backwards = _cell(settings, inputs) if settings.bidirectional else None
        self.recurrent_dropout = settings.recurrent_dropout
        self.size = settings.hidden * (2 if settings.bidirectional else 1)
        self.projection: nn.Module = nn.Identity()
        if settings.projection:
            self.projection = nn.Linear(self.size, settings.projection)
            self.size = settings.projection
        self.norm = nn.LayerNorm(self.size) if settings.layer_norm else nn.Identity()
        for cell in (self.forwards, self.backwards):
            if isinstance(cell, nn.LSTM):
                _open_forget_gate(cell)
            elif isinstance(settings, recipe.Rnn) and cell is not None:
                _RECURRENT_WEIGHTS[settings.init](cell.get_parameter("weight_hh_l0"))

    def forward(self, values: Tensor, lengths: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        """``state`` carries a one-directional layer on from an earlier chunk; the state after each utterance's last
        real frame comes back. Without one (whole utterances, or both directions) none comes back."""
        if self.backwards is not None:
            if state is not None:
                raise ValueError("a bidirectional layer reads whole utterances: it has no state to carry on")
            backwards = flip_within(self._read(self.backwards, flip_within(values, lengths)), lengths)
            outputs = torch.cat([self._read(self.forwards, values), backwards], dim=2)
        elif state is None:
            outputs = self._read(self.forwards, values)
        else:
            outputs, state = _carry_on(self.forwards, values, lengths, state)
        return self.norm(self.projection(outputs)), state

    def forward_chunk(self, values: Tensor, keep: int, state: State) -> tuple[Tensor, State]:
        """A chunk of a stream, the first ``keep`` frames of (B, T, inputs), with what lies ahead of it: (B, T, size),
        and the state after the chunk.

        The forward direction is carried on exactly; the backward one starts from zero where ``values`` end (Zhang et
        al. 2016, "Highway long short-term memory RNNs for distant speech recognition": latency-controlled). Outputs
        ahead of the chunk serve the layer above to look ahead, and are made anew with the next chunk.
        """
        full = torch.full((len(values),), values.shape[1])
        outputs, state = _carry_on(self.forwards, values[:, :keep], full.clamp(max=keep), state)
        if keep < values.shape[1]:
            ahead, _ = _carry_on(self.forwards, values[:, keep:], full - keep, state)
            outputs = torch.cat([outputs, ahead], dim=1)
        if self.backwards is not None:
            outputs = torch.cat([outputs, self.backwards(values.flip(1))[0].flip(1)], dim=2)
        return self.norm(self.projection(outputs)), state

    def _read(self, cell: nn.RNNBase, values: Tensor) -> Tensor:
        """Whole utterances from the zero state, (B, T, inputs) to (B, T, H); in training, with some of the weights from
        state to state left out, the same ones at all frames."""
        if not self.training or not self.recurrent_dropout:
            outputs: Tensor = cell(values)[0]
            return outputs
        return _read_thinned(cell, values, self.recurrent_dropout)

    def initial_state(self, batch: int) -> State:
        """The zero state of ``batch`` streams."""
        zeros = torch.zeros(
            1, batch, self.forwards.hidden_size, device=self.forwards.get_parameter("weight_hh_l0").device
        )
        return (zeros, zeros.clone()) if isinstance(self.forwards, nn.LSTM) else (zeros,)


_KERNELS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "LSTM": torch.lstm,
    "GRU": torch.gru,
    "RNN_TANH": torch.rnn_tanh,
    "RNN_RELU": torch.rnn_relu,
}


def _read_thinned(cell: nn.RNNBase, values: Tensor, probability: float) -> Tensor:
    """DropConnect of the recurrent weights (Merity et al. 2018, section 2): what the module's own forward computes, by
    the same kernels, with other weights."""
    input_weights, recurrent, input_bias, recurrent_bias = (
        cell.get_parameter(f"{name}_l0") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    parts = [input_weights, functional.dropout(recurrent, probability), input_bias, recurrent_bias]
    # In one piece of memory, in the order in which cuDNN wants them: else it would put them there, with a warning.
    flat = torch.cat([part.flatten() for part in parts])
    pieces = torch.split(flat, [part.numel() for part in parts])
    weights = [piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True)]
    zero = values.new_zeros(1, values.shape[0], cell.hidden_size)
    state = [zero, zero] if isinstance(cell, nn.LSTM) else zero
    return _KERNELS[cell.mode](values, state, weights, True, 1, 0.0, True, False, True)[0]


def _carry_on(cell: nn.RNNBase, values: Tensor, lengths: Tensor, state: State) -> tuple[Tensor, State]:
    """Packed where a row ends early, since that alone reports the state at each utterance's own end."""
    carried = state if isinstance(cell, nn.LSTM) else state[0]
    if int(lengths.min()) == values.shape[1]:
        if values.shape[1] == 1:
            return _read_one_frame(cell, values[:, 0], state)
        outputs, final = cell(values, carried)
        return outputs, final if isinstance(final, tuple) else (final,)
    packed = nn.utils.rnn.pack_padded_sequence(values, lengths.cpu(), batch_first=True, enforce_sorted=False)
    outputs, final = cell(packed, carried)
    padded, _ = nn.utils.rnn.pad_packed_sequence(outputs, batch_first=True, total_length=values.shape[1])
    return padded, final if isinstance(final, tuple) else (final,)


def _read_one_frame(cell: nn.RNNBase, frame: Tensor, state: State) -> tuple[Tensor, State]:
    """As the cell does over one frame, (B, inputs) to (B, 1, H), without what oneDNN prepares at each call for a long
    sequence: several times faster on a CPU."""
    weights = [cell.get_parameter(f"{name}_l0") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    before = [part[0] for part in state]
    after: State
    if isinstance(cell, nn.LSTM):
        after = torch.lstm_cell(frame, before, *weights)
    else:
        step = {"GRU": torch.gru_cell, "RNN_TANH": torch.rnn_tanh_cell, "RNN_RELU": torch.rnn_relu_cell}[cell.mode]
        after = (step(frame, before[0], *weights),)
    return after[0][:, None], tuple(part[None] for part in after)


def _open_forget_gate(cell: nn.LSTM) -> None:
    """Forget-gate bias 1 (Jozefowicz et al. 2015, section 2.2). PyTorch adds two biases, its gates are i, f, g, o."""
    hidden = cell.hidden_size
    with torch.no_grad():
        for name, value in (("bias_ih_l0", 1.0), ("bias_hh_l0", 0.0)):
            cell.get_parameter(name)[hidden : 2 * hidden].fill_(value)

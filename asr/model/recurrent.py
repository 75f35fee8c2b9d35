"""Recurrent layers over padded input and lengths.

The backward direction runs the same one-directional kernel on a length-aware flip: each utterance's real frames are
reversed in place, its padding stays behind them. That is exact under padding, several times faster on a CPU than
``nn.LSTM(bidirectional=True)`` over packed sequences, and leaves cuDNN free to choose its persistent kernels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from asr import recipe

State = tuple[Tensor, ...]
"""One layer's state: (h,) for an RNN or GRU, (h, c) for an LSTM, each (1, B, H)."""


def flip_within(values: Tensor, lengths: Tensor) -> Tensor:
    """(B, T, ...) with each utterance's first ``lengths`` frames reversed and the rest left where they are."""
    frame = torch.arange(values.shape[1], device=values.device)[None, :]
    last = lengths[:, None] - 1
    index = torch.where(frame <= last, last - frame, frame)
    return values.gather(1, index[:, :, None].expand(-1, -1, values.shape[2]))


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
        self.size = settings.hidden * (2 if settings.bidirectional else 1)
        self.projection: nn.Module = nn.Identity()
        if settings.projection:
            self.projection = nn.Linear(self.size, settings.projection)
            self.size = settings.projection
        self.norm = nn.LayerNorm(self.size) if settings.layer_norm else nn.Identity()
        for cell in (self.forwards, self.backwards):
            if isinstance(cell, nn.LSTM):
                _open_forget_gate(cell)

    def forward(self, values: Tensor, lengths: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """``state`` carries a one-directional layer on from an earlier chunk. The state returned is the one after each
        utterance's last real frame; with both directions it is the forward one's and only good for inspection."""
        outputs, state = self._run(self.forwards, values, state, lengths)
        if self.backwards is not None:
            reversed_outputs, _ = self._run(self.backwards, flip_within(values, lengths), None, None)
            outputs = torch.cat([outputs, flip_within(reversed_outputs, lengths)], dim=2)
        return self.norm(self.projection(outputs)), state

    @staticmethod
    def _run(cell: nn.RNNBase, values: Tensor, state: State | None, lengths: Tensor | None) -> tuple[Tensor, State]:
        initial = None if state is None else (state if isinstance(cell, nn.LSTM) else state[0])
        ragged = lengths is not None and state is not None and bool((lengths != values.shape[1]).any())
        if ragged:  # only packing reports the state at each utterance's own end
            packed = nn.utils.rnn.pack_padded_sequence(
                values, lengths.cpu(), batch_first=True, enforce_sorted=False  # type: ignore[union-attr]
            )
            packed_outputs, final = cell(packed, initial)
            outputs, _ = nn.utils.rnn.pad_packed_sequence(
                packed_outputs, batch_first=True, total_length=values.shape[1]
            )
        else:
            outputs, final = cell(values, initial)
        return outputs, final if isinstance(final, tuple) else (final,)


def _open_forget_gate(cell: nn.LSTM) -> None:
    """Forget-gate bias 1 (Jozefowicz et al. 2015, section 2.2). PyTorch adds two biases, its gates are i, f, g, o."""
    hidden = cell.hidden_size
    with torch.no_grad():
        cell.bias_ih_l0[hidden : 2 * hidden].fill_(1.0)
        cell.bias_hh_l0[hidden : 2 * hidden].zero_()

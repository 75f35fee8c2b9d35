"""Gradient flow: how much of an error reaches the hidden states of earlier frames.

Back-propagation through time multiplies the gradient by the recurrent Jacobian once a frame, so that with the distance
it vanishes or explodes (Hochreiter 1991; Bengio, Simard & Frasconi 1994; Pascanu, Mikolov & Bengio 2013).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from asr.model.acoustic import AcousticModel
from asr.model.cells import unroll
from asr.model.criterion import ctc_loss
from asr.model.emitted import Emitted
from asr.model.encoder import RecurrentStack
from asr.model.recurrent import RecurrentLayer, flip_within
from asr.records import Batch, Features

FRAMES = 6
"""Frames of an utterance from which the error is followed back."""
REACH_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientFlow:
    """‖∂L(t)/∂h(t-k)‖ / ‖∂L(t)/∂h(t)‖ over frames t of real utterances: quartiles (K,) at ``lags`` k (K,), seconds.

    L(t) is the part of the CTC loss that enters at emission frame t, h the hidden states of the last recurrent layer in
    the direction of time, whose gradient has no way back but through its own recurrence.
    """

    lags: Tensor
    low: Tensor
    median: Tensor
    high: Tensor

    def left_after(self, seconds: float) -> float | None:
        """The median at the lag nearest to ``seconds``; None where no utterance was long enough."""
        nearest = int((self.lags - seconds).abs().argmin())
        return float(self.median[nearest]) if seconds <= float(self.lags[-1] + self.lags[1]) else None


def gradient_flow(model: AcousticModel, utterances: Sequence[Batch]) -> GradientFlow | None:
    """``utterances`` are batches of one, with their tokens; None where nothing recurs, no gradient is a number, or
    all are too short to tell.

    What recurs is computed in float64, so that what vanishes is seen to. Lags end where no utterance is long enough.
    """
    if not isinstance(model.encoder.stack, RecurrentStack):
        return None
    exact = copy.deepcopy(model).double().eval()
    reach = round(REACH_SECONDS / model.frame_shift)
    rows = [row for each in utterances for row in _followed_back(exact, model.featurise(each), each, reach)]
    if not rows or max(map(len, rows)) < 2:
        return None
    norms = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=float("nan"))
    quartiles = norms.nanquantile(torch.tensor([0.25, 0.5, 0.75], dtype=norms.dtype), dim=0)
    return GradientFlow(
        lags=torch.arange(norms.shape[1]) * model.frame_shift, low=quartiles[0], median=quartiles[1], high=quartiles[2]
    )


def _followed_back(exact: AcousticModel, features: Features, utterance: Batch, reach: int) -> list[Tensor]:
    """For a few frames t in the utterance's second half, the norms at lags 0, 1, ... as far back as there are frames,
    at most ``reach``, each over the one at lag 0."""
    stack = exact.encoder.stack
    assert isinstance(stack, RecurrentStack)
    with torch.no_grad():
        values, lengths = exact.encoder.local(features.values.double(), features.lengths)
        *below, layer = stack.recurrent_layers()
        for each in below:
            values, _ = each(values, lengths)
    hidden, encodings = _read(layer, values, lengths)
    loss = ctc_loss(Emitted(exact.classify(encodings), lengths), utterance.tokens, utterance.token_lengths)
    [error] = torch.autograd.grad(loss, encodings, retain_graph=True)
    last = len(hidden) - 1
    followed = []
    for t in sorted({last // 2 + (last - last // 2) * i // FRAMES for i in range(1, FRAMES + 1)}):
        gradients = _followed(error, encodings, hidden[max(0, t - reach) : t + 1], t)
        norms = torch.stack([gradient.norm() for gradient in reversed(gradients)])
        if torch.isfinite(norms).all() and norms[0] > 0:
            followed.append((norms / norms[0]).cpu())
    return followed


def _followed(error: Tensor, encodings: Tensor, hidden: Sequence[Tensor], t: int) -> tuple[Tensor, ...]:
    """The gradient of L(t) with respect to each of ``hidden``, (H,)."""
    # A scalar whose gradient with respect to the encodings is the loss's own at frame t, and zero elsewhere.
    entering = (error[0, t] * encodings[0, t]).sum()
    return torch.autograd.grad(entering, hidden, retain_graph=True)


def _read(layer: RecurrentLayer, values: Tensor, lengths: Tensor) -> tuple[list[Tensor], Tensor]:
    """The layer's forward hidden states, T' of (H,), and its outputs (1, T', size), which depend on them in the graph
    as the equations say."""
    hidden = [gates.hidden for gates in unroll(layer.forwards, values[0])]
    read = torch.stack(hidden)[None]
    if layer.backwards is not None:
        with torch.no_grad():
            backwards = flip_within(layer.backwards(flip_within(values, lengths))[0], lengths)
        read = torch.cat([read, backwards], dim=2)
    return hidden, layer.norm(layer.projection(read))

"""Effective memory: how far away an input still changes what is emitted, measured by occlusion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from asr.model.acoustic import AcousticModel
from asr.records import BLANK, Batch, Features

SPIKES = 4
"""Emission frames looked at in an utterance, in either direction."""
LAG_SECONDS = tuple(0.02 * 2 ** (k / 2) for k in range(17))
"""0.02 s to 5.1 s."""
NOTICEABLE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """How much the emission at frame t changes when all that is further than a lag from it is hidden: the mean total
    variation distance ½ Σ_v |p(v) - p'(v)|, in [0, 1], at ``lags`` (K,) in seconds, of what came before (``past``) and
    what comes after (``future``), both (K,); not a number where no utterance is long enough to tell.

    Hidden features are set to their mean. Frames t are those at which a token is emitted, where the decisions are.
    """

    lags: Tensor
    past: Tensor
    future: Tensor

    @property
    def past_seconds(self) -> float:
        """The shortest lag beyond which nothing changes the emission by ``NOTICEABLE``; infinite where the longest that
        could be tried still does; not a number where none could, since no token is emitted."""
        return _reach(self.lags, self.past)

    @property
    def future_seconds(self) -> float:
        """As ``past_seconds``, ahead."""
        return _reach(self.lags, self.future)


def effective_memory(model: AcousticModel, utterances: Sequence[Batch]) -> Memory:
    """``utterances`` are batches of one; the longer they are, the further they tell."""
    shift = model.features.hop / model.features.settings.sample_rate
    lags = torch.tensor(sorted({max(1, round(seconds / shift)) for seconds in LAG_SECONDS}))
    past, future = [], []
    for utterance in utterances:
        with torch.no_grad():
            features = model.featurise(utterance)
            best = model.emit(features).log_probs[0].argmax(dim=1)
        spikes = (best != BLANK).nonzero()[:, 0].tolist()
        middle = len(best) // 2
        past += [_changes(model, features, t, -lags) for t in _spread([t for t in spikes if t >= middle])]
        future += [_changes(model, features, t, lags) for t in _spread([t for t in spikes if t < middle])]
    return Memory(lags=lags * shift, past=_mean(past, len(lags)), future=_mean(future, len(lags)))


@torch.no_grad()
def _changes(model: AcousticModel, features: Features, t: int, lags: Tensor) -> Tensor:
    """What hiding all features before (negative ``lags``, (K,)) or after (positive) frame t's own, and further than the
    lag from it, changes there: (K,)."""
    [frames] = features.lengths.tolist()
    place = torch.arange(frames, device=features.values.device)
    edge = (t * model.encoder.subsampling + lags.to(place.device))[:, None]
    hidden = place < edge if lags[0] < 0 else place > edge
    telling = hidden.any(dim=1)
    values = features.values.expand(1 + int(telling.sum()), -1, -1).clone()
    mean = features.values[0].mean(dim=0)
    values[1:] = torch.where(hidden[telling][:, :, None], mean, values[1:])
    read = model.emit(Features(values=values, lengths=features.lengths.expand(len(values))))
    emitted = read.log_probs[:, t].exp()
    changes = torch.full((len(lags),), float("nan"))
    changes[telling.cpu()] = 0.5 * (emitted[1:] - emitted[0]).abs().sum(dim=1).cpu()
    return changes


def _spread(places: list[int]) -> list[int]:
    """At most ``SPIKES`` of them, evenly."""
    count = min(SPIKES, len(places))
    return [places[len(places) * i // count] for i in range(count)]


def _mean(rows: list[Tensor], size: int) -> Tensor:
    return torch.stack(rows).nanmean(dim=0) if rows else torch.full((size,), float("nan"))


def _reach(lags: Tensor, changes: Tensor) -> float:
    known = ~changes.isnan()
    if not known.any():
        return float("nan")
    lags, changes = lags[known], changes[known]
    noticed = int((changes >= NOTICEABLE).nonzero().max()) + 1 if (changes >= NOTICEABLE).any() else 0
    return float(lags[noticed]) if noticed < len(lags) else float("inf")

"""From utterances in memory to a padded batch: where the loader and the recogniser meet.

Apart from the loader, so that whoever transcribes one recording does not wait for lhotse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from asr.records import Batch, Features, Rejection


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedUtterance:
    """``samples`` (S,) float32 at the recipe's rate; ``features`` (T, F) where the loader computes them."""

    samples: np.ndarray
    features: np.ndarray | None = None
    id: str = ""
    text: str = ""
    speaker: str = ""
    tokens: tuple[int, ...] = ()


def collate(utterances: Sequence[LoadedUtterance], rejected: Sequence[Rejection] = ()) -> Batch:
    waveforms, waveform_lengths = _pad([torch.from_numpy(u.samples) for u in utterances])
    tokens, token_lengths = _pad([torch.tensor(u.tokens, dtype=torch.int64) for u in utterances])
    features = None
    computed = [torch.from_numpy(u.features) for u in utterances if u.features is not None]
    if computed:
        values, lengths = _pad(computed)
        features = Features(values=values, lengths=lengths)
    return Batch(
        ids=tuple(u.id for u in utterances),
        texts=tuple(u.text for u in utterances),
        speakers=tuple(u.speaker for u in utterances),
        waveforms=waveforms,
        waveform_lengths=waveform_lengths,
        tokens=tokens,
        token_lengths=token_lengths,
        features=features,
        rejected=tuple(rejected),
    )


def _pad(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows padded with zeros to the longest, and their lengths."""
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    if not rows:
        return torch.zeros(0, 0), lengths
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths

"""Emissions of a recording of any length, from overlapping windows, in memory that does not grow with it.

A bidirectional network needs what comes next as much as what came before. So a long recording is read in windows, the
emissions within ``CONTEXT_SECONDS`` of a window's cut edges are dropped, and the rest is joined. Windows start on
emission frames, so that frames and times are those of the recording read in one piece. Features are normalised over
each window, as they are over each utterance in training.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from asr import recipe
from asr.data.collation import Utterance, collate
from asr.model.acoustic import AcousticModel
from asr.model.features import ReferenceFeatures, loader_features
from asr.records import Emissions

WINDOW_SECONDS = 40.0
CONTEXT_SECONDS = 4.0
WINDOWS_A_BATCH = 4


class Excerpt(Protocol):
    """A window, or a piece (``transcribe.pieces``)."""

    @property
    def samples(self) -> np.ndarray: ...
    @property
    def first(self) -> int: ...
    @property
    def last(self) -> int | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """``samples`` (S,) of a recording; of its emission frames those from ``first`` to ``last`` are kept, None being
    its end."""

    samples: np.ndarray
    first: int
    last: int | None


def windows(blocks: Iterable[np.ndarray], *, frame: int, frames: int, context: int) -> Iterator[Window]:
    """Windows of ``frames`` emission frames of ``frame`` samples each, from a recording's blocks of samples (S,).

    Each overlaps the one before by two contexts, of which either drops one; a recording that fits in one window is one.
    """
    size, hop = frames * frame, (frames - 2 * context) * frame
    pending, first = np.zeros(0, np.float32), 0
    for block in blocks:
        pending = np.concatenate([pending, block])
        while len(pending) > size:
            yield Window(samples=pending[:size], first=first, last=frames - context)
            pending, first = pending[hop:], context
    yield Window(samples=pending, first=first, last=None)


@torch.inference_mode()
def stream_emissions(model: AcousticModel, settings: recipe.Recipe, blocks: Iterable[np.ndarray]) -> Iterator[Tensor]:
    """Log-probabilities (T', V) on the CPU, piece by piece in order, of a recording given as blocks of samples (S,) at
    the recipe's rate. The model must be in evaluation mode."""
    frame = round(model.frame_shift * settings.features.sample_rate)
    cut = windows(
        blocks,
        frame=frame,
        frames=round(WINDOW_SECONDS / model.frame_shift),
        context=round(CONTEXT_SECONDS / model.frame_shift),
    )
    featurise = loader_features(settings.features)
    for members in _batched(cut, WINDOWS_A_BATCH):
        yield from emit(model, featurise, members)


def emit(model: AcousticModel, featurise: ReferenceFeatures | None, excerpts: Sequence[Excerpt]) -> list[Tensor]:
    """Log-probabilities (T', V) on the CPU of what is kept of each excerpt, all read in one batch."""
    emissions = model(
        collate([Utterance(samples=e.samples, features=featurise(e.samples) if featurise else None) for e in excerpts])
    )
    return [
        # An excerpt that is cut at its end has a last frame that is centred on its first missing sample.
        log_probs[excerpt.first : int(length) if excerpt.last is None else excerpt.last]
        for excerpt, log_probs, length in zip(excerpts, emissions.log_probs.cpu(), emissions.lengths, strict=True)
    ]


def emissions_of(model: AcousticModel, settings: recipe.Recipe, blocks: Iterable[np.ndarray]) -> Emissions:
    """As ``stream_emissions``, joined: a batch of one."""
    log_probs = torch.cat(list(stream_emissions(model, settings, blocks)))
    return Emissions(log_probs=log_probs[None], lengths=torch.tensor([len(log_probs)]), frame_shift=model.frame_shift)


def _batched(cut: Iterator[Window], size: int) -> Iterator[list[Window]]:
    while members := list(itertools.islice(cut, size)):
        yield members

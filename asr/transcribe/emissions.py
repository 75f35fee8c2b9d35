"""What a network emits of a recording: of pieces, several in one batch, and of the whole, in one array.

Pieces start on emission frames, so that frames and times are those of the recording read at once. What is no speech in
a long recording is not read. Its emissions are blanks.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from asr import recipe
from asr.audio import voice
from asr.data.collation import Utterance, collate
from asr.model.acoustic import AcousticModel
from asr.model.encoder import emission_frames
from asr.model.features import ReferenceFeatures, loader_features
from asr.model.silence import blanks
from asr.records import Emissions
from asr.transcribe.pieces import Piece, pieces

PIECES_A_BATCH = 4
SILENCE_SECONDS = 2.0
"""Without speech, in a long recording, may be left out, but for ``MARGIN_SECONDS`` before and after speech: what voice
activity overhears must not be lost to a text that holds it."""
MARGIN_SECONDS = 0.8


def emit(model: AcousticModel, featurise: ReferenceFeatures | None, members: Sequence[Piece]) -> list[Tensor]:
    """Log-probabilities (T', V) on the CPU of what is kept of each piece, all read in one batch."""
    emissions = model(
        collate([Utterance(samples=p.samples, features=featurise(p.samples) if featurise else None) for p in members])
    )
    return [
        # A piece that is cut at its end has a last frame that is centred on its first missing sample.
        log_probs[piece.first : int(length) if piece.last is None else piece.last]
        for piece, log_probs, length in zip(members, emissions.log_probs.cpu(), emissions.lengths, strict=True)
    ]


@torch.inference_mode()
def emissions_of(
    model: AcousticModel, settings: recipe.Recipe, blocks: Iterable[np.ndarray], *, vad: bool | None = None
) -> Emissions:
    """A batch of one: the emissions of a recording given as blocks of samples (S,) at the recipe's rate. ``vad`` is
    that of ``pieces``. The model must be in evaluation mode."""
    rate, heard = settings.features.sample_rate, 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal heard
        for block in blocks:
            heard += len(block)
            yield block

    frame, tokens = round(model.frame_shift * rate), model.head.out_features
    cutter = voice.SpanCutter(pause=SILENCE_SECONDS, padding=MARGIN_SECONDS)
    cut = pieces(counted(), rate=rate, frame=frame, vad=vad, cutter=cutter)
    featurise = loader_features(settings.features)
    rows, length = [blanks(0, tokens)], 0
    for members in _batched(cut, PIECES_A_BATCH):
        for piece, log_probs in zip(members, emit(model, featurise, members), strict=True):
            # Where a piece begins, the one before has ended, but for the frame centred on its first missing sample.
            start = piece.start // frame
            rows[-1] = rows[-1][: len(rows[-1]) - max(0, length - start)]
            rows += [blanks(max(0, start - length), tokens), log_probs]
            length = start + len(log_probs)
    whole = emission_frames(heard, settings.features, settings.encoder.conv)
    log_probs = torch.cat([*rows, blanks(max(0, whole - length), tokens)])[:whole]
    return Emissions(log_probs=log_probs[None], lengths=torch.tensor([whole]), frame_shift=model.frame_shift)


def _batched(cut: Iterator[Piece], size: int) -> Iterator[list[Piece]]:
    while members := list(itertools.islice(cut, size)):
        yield members

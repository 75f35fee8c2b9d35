"""What a network emits of a whole recording, in one array.

Pieces start on emission frames, so that frames and times are those of the recording read at once. What is no speech in
a long recording is not read. Its emissions are blanks.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from asr.audio import voice
from asr.records import Emissions, Network, blanks
from asr.transcribe.pieces import Piece, pieces

PIECES_A_BATCH = 4
SILENCE_SECONDS = 2.0
"""Without speech, in a long recording, may be left out, but for ``MARGIN_SECONDS`` before and after speech: what voice
activity overhears must not be lost to a text that holds it."""
MARGIN_SECONDS = 0.8


def emit(network: Network, members: Sequence[Piece]) -> list[np.ndarray]:
    """Log probabilities (T', V) of what is kept of each piece, all read in one batch."""
    emissions = network.emit([piece.samples for piece in members])
    return [
        # A piece that is cut at its end has a last frame that is centred on its first missing sample.
        log_probs[piece.first : length if piece.last is None else piece.last]
        for piece, log_probs, length in zip(members, emissions.log_probs, emissions.lengths.tolist(), strict=True)
    ]


def emissions_of(network: Network, blocks: Iterable[np.ndarray], *, tokens: int, vad: bool | None = None) -> Emissions:
    """A batch of one: the emissions, of so many ``tokens``, of a recording given as blocks of samples (S,) at the
    network's rate. ``vad`` is that of ``pieces``."""
    heard = 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal heard
        for block in blocks:
            heard += len(block)
            yield block

    frame = frame_samples(network)
    cutter = voice.SpanCutter(pause=SILENCE_SECONDS, padding=MARGIN_SECONDS)
    cut = pieces(counted(), rate=network.sample_rate, frame=frame, vad=vad, cutter=cutter)
    rows, length = [blanks(0, tokens)], 0
    for members in _batched(cut, PIECES_A_BATCH):
        for piece, log_probs in zip(members, emit(network, members), strict=True):
            # Where a piece begins, the one before has ended, but for the frame centred on its first missing sample.
            start = piece.start // frame
            rows[-1] = rows[-1][: len(rows[-1]) - max(0, length - start)]
            rows += [blanks(max(0, start - length), tokens), log_probs]
            length = start + len(log_probs)
    whole = heard // frame + 1
    log_probs = np.concatenate([*rows, blanks(max(0, whole - length), tokens)])[:whole]
    return Emissions(log_probs=log_probs[None], lengths=np.array([whole]), frame_shift=network.frame_shift)


def frame_samples(network: Network) -> int:
    """Samples from one emission frame to the next."""
    return round(network.frame_shift * network.sample_rate)


def _batched(cut: Iterator[Piece], size: int) -> Iterator[list[Piece]]:
    while members := list(itertools.islice(cut, size)):
        yield members

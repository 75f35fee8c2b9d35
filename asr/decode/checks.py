"""What every decoder asks of emissions before it reads them: rows of log probabilities of the tokeniser's tokens."""

from __future__ import annotations

from typing import Any

import numpy as np

from asr.errors import EmissionsError
from asr.records import Emissions
from asr.text.tokenise import Tokeniser

TOLERANCE = 0.1
"""How far a frame's probabilities may sum to something else than 1, as they do where they were rounded to 16 bits."""


def checked(emissions: Emissions, tokeniser: Tokeniser) -> tuple[np.ndarray, np.ndarray]:
    """``log_probs`` (B, T', V), float32 and contiguous, and ``lengths`` (B,) int64 of what is what it should be. What
    lies past an utterance's length is not looked at. Raises EmissionsError."""
    log_probs = _of_tokens(emissions.log_probs, 3, tokeniser)
    lengths = checked_lengths(emissions.lengths, *log_probs.shape[:2])
    _check_sums(log_probs, real_frames(lengths, log_probs.shape[1]))
    return log_probs, lengths


def checked_frames(log_probs: np.ndarray, tokeniser: Tokeniser) -> np.ndarray:
    """As ``checked``, of frames (T', V) of one utterance."""
    log_probs = _of_tokens(log_probs, 2, tokeniser)
    _check_sums(log_probs[None], np.ones((1, len(log_probs)), bool))
    return log_probs


def checked_lengths(lengths: Any, count: int, frames: int) -> np.ndarray:
    """``lengths`` (B,) int64 of ``count`` utterances in ``frames`` frames. Raises EmissionsError."""
    array = array_of(lengths, "the lengths")
    if array.shape != (count,) or array.dtype.kind not in "iu":
        raise EmissionsError(
            f"emissions of {count} utterances in {frames} frames need {count} lengths, integers; found the shape "
            f"{array.shape} of {array.dtype}"
        )
    if count and not (array.min() >= 0 and array.max() <= frames):
        raise EmissionsError(
            f"the lengths of emissions in {frames} frames are from 0 to {frames}; found {array.tolist()}"
        )
    return array.astype(np.int64, copy=False)


def real_frames(lengths: np.ndarray, frames: int) -> np.ndarray:
    """(B, T'): whether a frame is an utterance's own, and no padding."""
    return np.arange(frames) < lengths[:, None]


def array_of(values: Any, name: str) -> np.ndarray:
    """``values`` as an array, from whatever library they are. Raises EmissionsError."""
    try:
        if hasattr(values, "detach"):  # a tensor of PyTorch's, which may want a gradient or lie on a GPU
            values = values.detach().cpu()
            values = values.float() if values.is_floating_point() else values
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise EmissionsError(f"{name} are no array: {error}") from error
    if array.dtype.kind not in "iuf":
        raise EmissionsError(f"{name} are numbers; found an array of {array.dtype}")
    return array


def _of_tokens(values: Any, dimensions: int, tokeniser: Tokeniser) -> np.ndarray:
    """Compiled code would read past the end of an array of another shape."""
    array = array_of(values, "emissions")
    if array.ndim != dimensions or array.shape[-1] != len(tokeniser.tokens):
        raise EmissionsError(
            f"emissions have a log probability for each of the tokeniser's {len(tokeniser.tokens)} tokens, the blank "
            f"first, in {dimensions} dimensions; found the shape {array.shape}"
        )
    return np.ascontiguousarray(array, np.float32)


def _check_sums(log_probs: np.ndarray, real: np.ndarray) -> None:
    """Raises EmissionsError where a frame that is ``real`` (B, T') is no distribution over the tokens. A frame in which
    nothing is possible, all of -inf, is let through."""
    with np.errstate(over="ignore", invalid="ignore"):
        sums = np.exp(log_probs).sum(axis=-1)
        wrong = real & ~(np.abs(sums - 1.0) <= TOLERANCE)
    if not wrong.any():
        return
    wrong[wrong] = ~(log_probs[wrong] == -np.inf).all(axis=-1)
    if not wrong.any():
        return
    utterance, frame = np.argwhere(wrong)[0].tolist()
    row, where = log_probs[utterance, frame], f"frame {frame} of utterance {utterance} of the batch"
    if not (row < np.inf).all():
        raise EmissionsError(f"emissions are log probabilities, and {where} holds NaN or infinity: {_short(row)}")
    guess = "probabilities" if ((row >= 0) & (row <= 1)).all() and abs(row.sum() - 1) <= TOLERANCE else "logits"
    raise EmissionsError(
        f"emissions are natural logs of probabilities that sum to 1, and those of {where} sum to "
        f"{float(sums[utterance, frame]):.4g}: are they {guess}? asr.CtcDecoder takes them with kind={guess!r}"
    )


def _short(row: np.ndarray) -> str:
    strange = row[~(row < np.inf)]
    return f"{len(strange)} of {len(row)} numbers, {strange[0]} for one"

"""Forced alignment: the frames at which given tokens are said, by the Viterbi algorithm over CTC's trellis.

The trellis has a blank before each label and after the last (Graves et al. 2006, section 4.1). The search is exact and
its memory linear in frames plus labels: the first pass keeps the scores of ``CHECKPOINTS`` frames alone, and each
stretch between two of them is solved again, from its end, over the few labels that it can hold. That is why it is not
``torchaudio.functional.forced_align``, whose back-pointers are frames times twice the labels (18 GB for an hour of
speech); the tests hold the two to the same scores.

Text and audio that differ are let apart instead of being bent (``Slack``): a word may be left out at a price, and
between two words frames may hold speech that the text lacks, at another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from asr.decode.compiled import compiled
from asr.errors import TextError
from asr.records import BLANK

CHECKPOINTS = 64
MOST_PAIRS = 1 << 22
"""Score pairs (8 bytes each) held at once: a stretch of more than these is parted once more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slack:
    """What it costs text and audio to differ, in nats.

    A word is left out for ``word``, and ``token`` for each of its tokens. A frame between two words that holds neither
    blank nor separator is passed over for ``frame`` below its likeliest token. The defaults were chosen on clips of
    AN4's dev speakers and of mini LibriSpeech's, with words put in, taken out and exchanged: higher prices bend more
    wrong words to fit, lower ones lose more right words.
    """

    word: float = 4.0
    token: float = 2.0
    frame: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """Where each token is said: from frame ``first[u]`` to frame ``last[u]``, both its own, or -1 where it was left
    out. ``probabilities[u]`` is its highest posterior on the way, 0 where it was left out; ``score`` the path's log
    probability, in nats, prices included."""

    first: np.ndarray
    last: np.ndarray
    probabilities: np.ndarray
    score: float


def align(
    log_probs: np.ndarray,
    tokens: Sequence[int],
    *,
    words: Sequence[int] = (),
    separator: int | None = None,
    slack: Slack | None = None,
) -> Alignment:
    """The likeliest path through emissions ``log_probs`` (T, V), natural logs, that spells ``tokens`` (U,).

    With ``slack``, ``words`` says at which token each word begins, a ``separator`` (the token between words, if there
    is one) being counted to the word after it; separators may then be missing from the audio for nothing. Raises
    TextError where the frames are too few for the tokens.
    """
    labels = np.asarray(tokens, dtype=np.int32)
    repeated = labels[1:] == labels[:-1]
    needed = 0 if slack else len(labels) + int(repeated.sum())
    if len(log_probs) < needed:
        raise TextError(f"the text needs {needed} emission frames, and the audio has {len(log_probs)}")
    trellis = _trellis(labels, words, separator, slack)
    best = log_probs.max(axis=1)
    fillers = log_probs[:, BLANK].copy()
    if slack:
        pauses = fillers if separator is None else np.maximum(fillers, log_probs[:, separator])
        fillers = np.maximum(pauses, best - np.float32(slack.frame))
    emissions = _Emissions(log_probs, fillers, best)
    path = _path(trellis, emissions)
    first, last, probabilities, score = _read_off(trellis, emissions, path)
    return Alignment(first=first, last=last, probabilities=probabilities, score=float(score))


class _Trellis(NamedTuple):
    """Label i and the blank before it, i = 0..U; the last label is a dummy, which gives the last blank its index.

    ``labels`` (U + 1,) are token ids. ``repeats`` and ``gaps`` (U + 1,) are scores of passing over the blank before
    label i, and label i - 1 between its two blanks: 0 or minus infinity. ``boundary`` (U + 1,) is true where the blank
    before label i stands between words, ``boundaries`` (W + 1,) says where that is, and ``prices`` (W,) what leaving
    out the word from there to the next costs.
    """

    labels: np.ndarray
    repeats: np.ndarray
    gaps: np.ndarray
    boundary: np.ndarray
    boundaries: np.ndarray
    prices: np.ndarray


class _Emissions(NamedTuple):
    """``log_probs`` (T, V); ``fillers`` (T,), those of a frame between words; ``best`` (T,), of the likeliest token.

    Scores are counted from ``best``: sums over an hour stay small enough for float32.
    """

    log_probs: np.ndarray
    fillers: np.ndarray
    best: np.ndarray


def _trellis(labels: np.ndarray, words: Sequence[int], separator: int | None, slack: Slack | None) -> _Trellis:
    size = len(labels) + 1
    repeats = np.full(size, -np.inf, np.float32)
    repeats[1:-1][labels[1:] != labels[:-1]] = 0
    gaps = np.full(size, -np.inf, np.float32)
    boundary = np.zeros(size, np.bool_)
    boundaries, prices = np.zeros(0, np.int64), np.zeros(0, np.float32)
    if slack is not None:
        if separator is not None:
            gaps[1:][labels == separator] = 0
        boundaries = np.append(np.asarray(words, np.int64), size - 1)
        boundary[boundaries] = True
        prices = (slack.word + slack.token * np.diff(boundaries)).astype(np.float32)
    return _Trellis(np.append(labels, np.int32(BLANK)), repeats, gaps, boundary, boundaries, prices)


def _path(trellis: _Trellis, emissions: _Emissions) -> np.ndarray:
    """The state of each frame (T,): 2i for the blank before label i, 2i + 1 for label i."""
    frames, size = len(emissions.best), len(trellis.labels)
    path = np.empty(frames, np.int64)
    if frames == 0:
        return path
    entry = np.full((2, size), -np.inf, np.float32)
    entry[0, 0] = 0
    _leave_out(trellis, entry[0], 0)
    every, kept, scores = _forward_over(trellis, emissions, 0, frames, 0, entry)
    ends_on_label = size > 1 and scores[1, -2] > scores[0, -1]
    end = 2 * size - 3 if ends_on_label else 2 * size - 2
    _trace(trellis, emissions, 0, frames, 0, every, kept, scores, end, path)
    return path


def _forward_over(
    trellis: _Trellis, emissions: _Emissions, first: int, last: int, low: int, entry: np.ndarray
) -> tuple[int, np.ndarray, np.ndarray]:
    """Scores after frames ``first`` to ``last``, those kept on the way, and every how many frames they were kept."""
    frames, size = last - first, entry.shape[1]
    every = 1 if frames * size <= MOST_PAIRS else -(-frames // CHECKPOINTS)
    kept = np.empty((-(-frames // every), 2, size), np.float32)
    return every, kept, _forward(trellis, emissions, first, last, low, entry, every, kept)


def _trace(
    trellis: _Trellis,
    emissions: _Emissions,
    first: int,
    last: int,
    low: int,
    every: int,
    kept: np.ndarray,
    scores: np.ndarray,
    end: int,
    path: np.ndarray,
) -> int:
    """Writes ``path[first:last]``, which ends in state ``end``; the state before it is returned.

    ``kept`` are the score pairs of labels ``low``.. before every ``every``-th frame, ``scores`` those after the last.
    """
    if every == 1:
        return int(_backtrack(trellis, emissions, first, low, kept, scores, end, path))
    for j in reversed(range(len(kept))):
        start, stop = first + j * every, min(first + (j + 1) * every, last)
        high = end // 2 + 1
        target = scores[end % 2, end // 2 - low]
        width = stop - start
        while True:
            # Without words left out the stretch holds fewer labels than frames. Whatever it holds, its score tells
            # whether the labels looked at were enough, since the same sums are made in the same order.
            bottom = max(low, high - width)
            entry = np.ascontiguousarray(kept[j][:, bottom - low : high - low])
            inner_every, inner_kept, inner = _forward_over(trellis, emissions, start, stop, bottom, entry)
            if bottom == low or inner[end % 2, end // 2 - bottom] == target:
                break
            width *= 4
        end = _trace(trellis, emissions, start, stop, bottom, inner_every, inner_kept, inner, end, path)
        scores = kept[j]
    return end


@compiled
def _leave_out(trellis, blanks, low):  # type: ignore[no-untyped-def]
    """From each blank between words to the next, leaving out the word between them, which takes no frame."""
    boundaries = trellis.boundaries
    last = np.searchsorted(boundaries, low + len(blanks))
    for k in range(np.searchsorted(boundaries, low) + 1, last):
        jumped = blanks[boundaries[k - 1] - low] - trellis.prices[k - 1]
        if jumped > blanks[boundaries[k] - low]:
            blanks[boundaries[k] - low] = jumped


@compiled(fastmath={"nnan", "nsz"})
def _step(trellis, row, filler, before, after, low):  # type: ignore[no-untyped-def]
    """One frame: from the score pairs (2, n) of labels ``low``.. before it to those after it. ``row`` (V,) are its
    tokens' scores. Written so that the compiler vectorises the loops."""
    n = before.shape[1]
    blanks, tokens, new_blanks, new_tokens = before[0], before[1], after[0], after[1]
    labels, boundary = trellis.labels[low : low + n], trellis.boundary[low : low + n]
    repeats, gaps = trellis.repeats[low : low + n], trellis.gaps[low : low + n]
    blank = row[BLANK]
    new_blanks[0] = blanks[0] + (filler if boundary[0] else blank)
    new_tokens[0] = max(tokens[0], blanks[0]) + row[labels[0]]
    for i in range(1, n):
        stay, step, skip = blanks[i], tokens[i - 1], blanks[i - 1] + gaps[i]
        best = stay if stay > step else step
        best = best if best > skip else skip
        new_blanks[i] = best + (filler if boundary[i] else blank)
    for i in range(1, n):
        stay, step, skip = tokens[i], blanks[i], tokens[i - 1] + repeats[i]
        best = stay if stay > step else step
        best = best if best > skip else skip
        new_tokens[i] = best + row[labels[i]]


@compiled
def _forward(trellis, emissions, first, last, low, entry, every, kept):  # type: ignore[no-untyped-def]
    """The score pairs after frames ``first`` to ``last``, from the pairs ``entry`` (2, n) of labels ``low``.. before
    them; those before every ``every``-th frame go into ``kept``."""
    before, after = entry.copy(), np.empty_like(entry)
    row = np.empty(emissions.log_probs.shape[1], np.float32)
    for t in range(first, last):
        if (t - first) % every == 0:
            kept[(t - first) // every] = before
        best = emissions.best[t]
        for v in range(len(row)):
            row[v] = emissions.log_probs[t, v] - best
        _step(trellis, row, emissions.fillers[t] - best, before, after, low)
        _leave_out(trellis, after[0], low)
        before, after = after, before
    return before


@compiled
def _backtrack(trellis, emissions, first, low, kept, scores, end, path):  # type: ignore[no-untyped-def]
    """The path that ends in ``end``, from the scores before each frame (``kept``) and after the last: whichever
    predecessor gives a state's score is its predecessor. Returns the state before frame ``first``."""
    log_probs, fillers, bests = emissions.log_probs, emissions.fillers, emissions.best
    i, on_label = end // 2 - low, end % 2 == 1
    after = scores
    for j in range(len(kept) - 1, -1, -1):
        t, before = first + j, kept[j]
        blanks, tokens = before[0], before[1]
        while True:
            if on_label:
                stay, step = tokens[i], blanks[i]
                skip = tokens[i - 1] + trellis.repeats[low + i] if i > 0 else np.float32(-np.inf)
                break
            stay = blanks[i]
            step = tokens[i - 1] if i > 0 else np.float32(-np.inf)
            skip = blanks[i - 1] + trellis.gaps[low + i] if i > 0 else np.float32(-np.inf)
            emitted = fillers[t] if trellis.boundary[low + i] else log_probs[t, BLANK]
            if max(stay, step, skip) + (emitted - bests[t]) >= after[0, i] or not trellis.boundary[low + i]:
                break
            word = np.searchsorted(trellis.boundaries, low + i)
            if word == 0 or trellis.boundaries[word - 1] < low:
                break
            i = trellis.boundaries[word - 1] - low
        path[t] = 2 * (low + i) + on_label
        if stay >= step and stay >= skip:
            pass
        elif on_label:
            if step >= skip:
                on_label = False
            else:
                i -= 1
        else:
            on_label = step >= skip
            i -= 1
        after = before
    return 2 * (low + i) + on_label


@compiled
def _read_off(trellis, emissions, path):  # type: ignore[no-untyped-def]
    """Each label's first and last frame and highest posterior on a path, and the path's score, in float64."""
    labels = trellis.labels
    first, last = np.full(len(labels) - 1, -1), np.full(len(labels) - 1, -1)
    highest = np.full(len(labels) - 1, -np.inf)
    score = 0.0
    for t in range(len(path)):
        i = path[t] // 2
        if path[t] % 2 == 0:
            score += emissions.fillers[t] if trellis.boundary[i] else emissions.log_probs[t, BLANK]
            continue
        value = emissions.log_probs[t, labels[i]]
        score += value
        highest[i] = max(highest[i], value)
        last[i] = t
        if first[i] < 0:
            first[i] = t
    for k in range(len(trellis.prices)):
        if last[trellis.boundaries[k + 1] - 1] < 0:
            score -= trellis.prices[k]
    return first, last, np.exp(highest), score

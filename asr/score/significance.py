"""How far an error rate can be trusted, and a difference between two.

Arrays hold one number an utterance, (N,), or a column for each system. What is drawn, and taken as independent, are
blocks: each utterance by itself, or all of one speaker's together. Rates are fractions; every function is
deterministic.

- Bisani, Ney (2004). Bootstrap estimates for confidence intervals in ASR performance evaluation. ICASSP.
- Efron (1987). Better bootstrap confidence intervals. JASA 82(397): BCa.
- Hesterberg (2015). What teachers should know about the bootstrap. The American Statistician 69(4), section 3.
- Gillick, Cox (1989). Some statistical issues in the comparison of speech recognition algorithms. ICASSP.
- Holm (1979). A simple sequentially rejective multiple test procedure. Scand. J. Statist. 6(2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from asr.score.student import normal_cdf, normal_quantile, student_cdf, student_quantile

CONFIDENCE = 0.95
SAMPLES = 10_000
"""Draws of a bootstrap: the ends of an interval settle to about a fiftieth of its width."""
FEWEST_BLOCKS = 8
"""With fewer utterances or speakers than these, no interval is given. At this number one of 95 % covers the truth in 91
of 100 simulated sets, from some 100 in 94 (tests/test_significance.py)."""
FEWEST_SEGMENTS = 10
"""With fewer segments than these, MAPSSWE says nothing: their differences have no variance to speak of."""

_DRAWN_AT_ONCE = 2**21


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A 95 % confidence interval, as fractions."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What B's error rate is above A's, as a fraction: below 0, B is better. ``p`` is two-sided."""

    estimate: float
    interval: Interval
    p: float


def rate_interval(
    errors: np.ndarray, lengths: np.ndarray, blocks: Sequence[str] | None = None, *, samples: int = SAMPLES
) -> Interval | None:
    """The 95 % interval of the pooled rate of ``errors`` (N,) to ``lengths`` (N,), by bootstrap over blocks.

    ``blocks`` names each utterance's, its speaker say; without them each utterance is its own. None where there are
    fewer than ``FEWEST_BLOCKS``. Errors crowd in a few utterances, so that the percentile interval of Bisani & Ney too
    often lies below the truth: this one is corrected for that skew (Efron's BCa), and its tails are widened from the
    normal to the Student distribution (Hesterberg's expansion). Where there is no error at all, nothing varies to be
    drawn from: then it ends at 3 / words, the rule of three, as if words erred independently.
    """
    columns = _by_block(np.stack([errors, lengths]), blocks)
    count = columns.shape[1]
    if count < FEWEST_BLOCKS:
        return None
    if not columns[0].any():
        return Interval(low=0.0, high=3 / max(float(columns[1].sum()), 3.0))
    drawn = _resample(columns, samples)
    rates = drawn[0] / np.maximum(drawn[1], 1)
    rate = columns[0].sum() / max(columns[1].sum(), 1)
    influence = columns[0] - rate * columns[1]
    acceleration = (influence**3).sum() / (6 * max((influence**2).sum(), 1e-12) ** 1.5)
    below = ((rates < rate).mean() + (rates <= rate).mean()) / 2
    bias = normal_quantile(min(max(float(below), 1 / samples), 1 - 1 / samples))
    ends = bias + np.array([-1, 1]) * _half_width(count)
    low, high = np.quantile(rates, [normal_cdf(end) for end in (bias + ends / (1 - acceleration * ends)).tolist()])
    return Interval(low=float(low), high=float(high))


def paired_bootstrap(
    errors_a: np.ndarray,
    errors_b: np.ndarray,
    lengths: np.ndarray,
    blocks: Sequence[str] | None = None,
    *,
    samples: int = SAMPLES,
) -> Difference | None:
    """B's pooled rate less A's over the same utterances, both drawn together (Bisani & Ney 2004, section 4).

    All arrays (N,). ``p`` is the level at which the interval would just touch zero, so that the two never disagree; it
    is never below 1 / ``samples``. None where there are fewer than ``FEWEST_BLOCKS`` blocks.
    """
    columns = _by_block(np.stack([errors_b - errors_a, lengths]), blocks)
    count = columns.shape[1]
    if count < FEWEST_BLOCKS:
        return None
    drawn = _resample(columns, samples)
    differences = drawn[0] / np.maximum(drawn[1], 1)
    tail = (min(int((differences <= 0).sum()), int((differences >= 0).sum())) + 1) / (samples + 1)
    p = 2 * student_cdf(count - 1, normal_quantile(min(tail, 0.5)) * math.sqrt((count - 1) / count))
    total = columns.sum(1)
    low, high = np.quantile(differences, [normal_cdf(sign * _half_width(count)) for sign in (-1, 1)])
    interval = Interval(low=float(low), high=float(high))
    return Difference(estimate=float(total[0] / max(total[1], 1)), interval=interval, p=p)


def segment_errors(slots_a: Sequence[np.ndarray], slots_b: Sequence[np.ndarray]) -> np.ndarray:
    """The errors of A and of B in each segment, (2, segments), of utterances whose errors stand in slots.

    An utterance of R reference words has 2R + 1 slots: a gap before each word and one after the last, which count
    insertions, and between them the words, 1 where substituted or deleted. A segment is what lies between stretches of
    two or more words that both systems have right with nothing inserted between them, or the utterance's ends: errors
    in one segment then have little to do with those in another (Gillick & Cox 1989). Segments without errors are left
    out, as in NIST's sc_stats.
    """
    found: list[np.ndarray] = []
    for a, b in zip(slots_a, slots_b, strict=True):
        both = np.stack([a, b])
        wrong = np.flatnonzero(both.sum(0))
        if len(wrong):
            right_words_between = wrong[1:] // 2 - (wrong[:-1] + 1) // 2
            starts = np.concatenate([[0], np.flatnonzero(right_words_between >= 2) + 1])
            found.append(np.add.reduceat(both[:, wrong], starts, axis=1))
    return np.concatenate(found, axis=1) if found else np.zeros((2, 0))


def matched_pairs(errors: np.ndarray) -> float | None:
    """Two-sided p of the matched-pairs sentence-segment word error test, MAPSSWE (Gillick & Cox 1989).

    ``errors`` (2, segments) as ``segment_errors`` gives them. The mean difference over its standard error is compared
    with Student's distribution, to which the paper's normal one is the limit. None with fewer than ``FEWEST_SEGMENTS``.
    """
    differences = errors[1] - errors[0]
    count = len(differences)
    if count < FEWEST_SEGMENTS:
        return None
    spread, mean = float(differences.std(ddof=1)), float(differences.mean())
    if spread == 0:
        return 1.0 if mean == 0 else 0.0
    return 2 * student_cdf(count - 1, -abs(mean) / (spread / math.sqrt(count)))


def utterances_needed(difference: Difference, utterances: int) -> float:
    """How many utterances like these a difference of this size would take to be found at the 5 % level four times in
    five. Infinite for no difference."""
    width = (difference.interval.high - difference.interval.low) / 2 / normal_quantile(0.5 + CONFIDENCE / 2)
    if difference.estimate == 0:
        return math.inf
    wanted = normal_quantile(0.5 + CONFIDENCE / 2) + normal_quantile(0.8)
    return utterances * (wanted * width / difference.estimate) ** 2


def holm(values: Sequence[float]) -> list[float]:
    """p values of several tests, raised so that any false alarm among them all keeps its level (Holm 1979)."""
    adjusted = [0.0] * len(values)
    floor = 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        floor = max(floor, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = floor
    return adjusted


def _by_block(columns: np.ndarray, blocks: Sequence[str] | None) -> np.ndarray:
    """``columns`` (K, N) summed over each block's utterances, float64, sorted: what is drawn, and so every result, does
    not depend on the order of the utterances."""
    columns = columns.astype(float)
    if blocks is not None:
        _, index = np.unique(np.array(blocks), return_inverse=True)
        columns = np.stack([np.bincount(index, weights=column) for column in columns])
    return columns[:, np.lexsort(columns)]


def _resample(columns: np.ndarray, samples: int) -> np.ndarray:
    """The sums of ``columns`` (K, N) over N blocks drawn with replacement, ``samples`` times: (K, samples)."""
    generator = np.random.default_rng(0)
    blocks = columns.shape[1]
    rows = max(1, _DRAWN_AT_ONCE // blocks)
    sums = []
    for start in range(0, samples, rows):
        drawn = generator.integers(0, blocks, size=(min(rows, samples - start), blocks))
        sums.append(np.stack([column[drawn].sum(1) for column in columns]))
    return np.concatenate(sums, axis=1)


def _half_width(blocks: int) -> float:
    """Of a 95 % interval, in standard deviations of what the bootstrap draws: Student's, and for the n - 1 in n."""
    return student_quantile(blocks - 1, 0.5 + CONFIDENCE / 2) * math.sqrt(blocks / (blocks - 1))

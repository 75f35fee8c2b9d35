"""Calibration: whether words said to be right with confidence 0.8 are right four times in five (Guo et al. 2017), and
what makes it so after a language model was heard, of whose opinion the network's posteriors know nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from asr import recipe

BINS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """Words in ``BINS`` bins of equal width by confidence: ``counts``, mean ``confidence`` and ``accuracy`` of each,
    which are NaN for an empty bin."""

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error: the mean gap between confidence and accuracy, each bin weighed by its words."""
        gaps = np.abs(self.confidence - self.accuracy)
        return float(np.nansum(self.counts * gaps) / max(self.counts.sum(), 1))


def reliability(confidences: np.ndarray, hits: np.ndarray) -> Reliability:
    """Of N words' ``confidences`` (N,) in [0, 1] and whether each is right, ``hits`` (N,)."""
    place = np.minimum((confidences * BINS).astype(int), BINS - 1)
    counts = np.bincount(place, minlength=BINS)
    means = [
        np.divide(sums, counts, out=np.full(BINS, np.nan), where=counts > 0)
        for sums in (np.bincount(place, weights=values, minlength=BINS) for values in (confidences, hits.astype(float)))
    ]
    return Reliability(counts=counts, confidence=means[0], accuracy=means[1])


def fit_calibration(words: Sequence[Sequence[float]], hits: Sequence[bool]) -> recipe.Calibration:
    """The likeliest calibration, of words' tokens' posteriors and whether each word is right.

    Logistic regression (Platt 1999) with a word's length besides: a language model makes long words surer than their
    letters are. A normal prior of width 1 around leaving all as it is settles what few words leave open.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    evidence = np.array([(1.0, log_odds(math.prod(word)), len(word)) for word in words]).reshape(-1, 3)
    right, prior = np.array(hits, dtype=float), np.array([0.0, 1.0, 0.0])

    def cost(weights: np.ndarray) -> tuple[float, np.ndarray]:
        """Negative log posterior and its gradient."""
        logits, away = evidence @ weights, weights - prior
        value = np.logaddexp(0.0, logits).sum() - right @ logits + 0.5 * (away @ away)
        return value, evidence.T @ (expit(logits) - right) + away

    weights = minimize(cost, prior, jac=True).x.round(3)
    offset, slope, length = weights.tolist()
    mean = round(_bounded(float(expit(evidence @ weights).mean())), 3) if len(words) else None
    return recipe.Calibration(offset=offset, slope=slope, length=length, mean=mean)


def confidence(probabilities: Sequence[float], calibration: recipe.Calibration | None) -> float:
    """A word's, of its tokens' ``probabilities``."""
    product = min(1.0, math.prod(probabilities))
    if calibration is None:
        return product
    evidence = calibration.offset + calibration.slope * log_odds(product) + calibration.length * len(probabilities)
    return sigmoid(evidence)


def sigmoid(log_odds: float) -> float:
    """The probability of such log odds, taken as between -30 and 30."""
    return 1.0 / (1.0 + math.exp(-max(-30.0, min(30.0, log_odds))))


def log_odds(probability: float) -> float:
    """log(p / (1 - p)), as if a network were never surer than 0.999: beyond that its figures say little."""
    bounded = _bounded(probability)
    return math.log(bounded / (1.0 - bounded))


def _bounded(probability: float) -> float:
    return min(max(probability, 0.001), 0.999)

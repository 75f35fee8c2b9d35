"""The normal and Student distributions, so that scoring needs no more than numpy."""

from __future__ import annotations

import math
from statistics import NormalDist

_NORMAL = NormalDist()
_TINY = 1e-300
_STEPS = 400


def normal_cdf(x: float) -> float:
    """The probability of less than ``x`` under the standard normal distribution."""
    return _NORMAL.cdf(x)


def normal_quantile(p: float) -> float:
    """The ``x`` of which ``normal_cdf`` is ``p``, in (0, 1)."""
    return _NORMAL.inv_cdf(p)


def student_cdf(degrees: float, t: float) -> float:
    """The probability of less than ``t`` under Student's distribution of so many ``degrees`` of freedom."""
    tail = 0.5 * _incomplete_beta(degrees / 2, 0.5, degrees / (degrees + t * t))
    return tail if t < 0 else 1.0 - tail


def student_quantile(degrees: float, p: float) -> float:
    """The ``t`` of which ``student_cdf`` is ``p``, in (0, 1), by bisection to the last bits of a float."""
    if p < 0.5:
        return -student_quantile(degrees, 1.0 - p)
    low, high = 0.0, 1.0
    while student_cdf(degrees, high) < p:
        low, high = high, 2 * high
    for _ in range(64):
        middle = (low + high) / 2
        low, high = (middle, high) if student_cdf(degrees, middle) < p else (low, middle)
    return (low + high) / 2


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22, Lentz's method)."""
    if x <= 0.0 or x >= 1.0:
        return min(max(x, 0.0), 1.0)
    if x > (a + 1) / (a + b + 2):  # where the fraction converges quickly
        return 1.0 - _incomplete_beta(b, a, 1.0 - x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    fraction = c = 1.0
    d = 0.0
    for step in range(_STEPS):
        m = step // 2
        if step == 0:
            term = 1.0
        elif step % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1.0 + term * d
        d = 1.0 / (d if abs(d) > _TINY else _TINY)
        c = 1.0 + term / (c if abs(c) > _TINY else _TINY)
        fraction *= c * d
        if step and abs(1.0 - c * d) < 1e-15:
            break
    return front * (fraction - 1.0)

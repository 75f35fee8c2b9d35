"""A function of a signal, computed piece by piece as the signal comes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


class Seamless:
    """A function of finite reach over a signal that comes in pieces: joined, its outputs are those for the whole.

    ``function`` makes an output (``size`` floats) of every ``step`` inputs along the first axis. It depends on inputs
    within ``reach`` of those, and what it is given begins and ends as a whole signal does. So each piece goes through
    it together with as much of its neighbours as it reaches, and what belongs to them is cut off.
    """

    def __init__(self, function: Callable[[np.ndarray], np.ndarray], *, reach: int, step: int = 1, size: int) -> None:
        self.function: Callable[[np.ndarray], np.ndarray] = function
        self.step, self.nothing = step, np.zeros((0, size), np.float32)
        self.reach = -(-reach // step) * step
        self.pending: np.ndarray | None = None
        """The end of the signal so far, of which the first ``done`` inputs are context alone."""
        self.done = 0

    def feed(self, piece: np.ndarray, *, last: bool = False) -> np.ndarray:
        """The outputs that ``piece`` completes, and after the ``last`` piece the rest of them."""
        pending = piece if self.pending is None else np.concatenate([self.pending, piece])
        stop = (len(pending) - self.reach) // self.step * self.step
        ready = len(pending) > 0 if last else stop > self.done
        outputs = self.nothing
        if ready:
            first, end = self.done // self.step, None if last else stop // self.step
            outputs = self.function(pending)[first:end]
            kept = max(0, stop - self.reach)
            pending, self.done = pending[kept:], stop - kept
        self.pending = pending
        return outputs

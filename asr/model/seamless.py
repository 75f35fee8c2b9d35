"""A function of a signal, computed piece by piece as the signal comes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Seamless:
    """A function of finite reach over a signal that comes in pieces: joined, its outputs are those for the whole.

    ``function`` makes ``made`` outputs, each of shape ``width``, of every ``step`` inputs along the first axis. They
    depend on inputs within ``reach`` of those, and what it is given begins and ends as a whole signal does. So each
    piece goes through it together with as much of its neighbours as it reaches, and what belongs to them is cut off.
    """

    def __init__(
        self, function: Callable[[Tensor], Tensor], *, reach: int, step: int = 1, made: int = 1, width: tuple[int, ...]
    ) -> None:
        self.function = function
        self.step, self.made, self.width = step, made, width
        self.reach = -(-reach // step) * step
        self.pending: Tensor | None = None
        """The end of the signal so far, of which the first ``done`` inputs are context alone."""
        self.done = 0

    def feed(self, piece: Tensor, *, last: bool = False) -> Tensor:
        """The outputs that ``piece`` completes, and after the ``last`` piece the rest of them."""
        pending = piece if self.pending is None else torch.cat([self.pending, piece])
        stop = (len(pending) - self.reach) // self.step * self.step
        ready = len(pending) > 0 if last else stop > self.done
        outputs = piece.new_zeros(0, *self.width)
        if ready:
            first, end = self.done // self.step * self.made, None if last else stop // self.step * self.made
            outputs = self.function(pending)[first:end]
            kept = max(0, stop - self.reach)
            pending, self.done = pending[kept:], stop - kept
        self.pending = pending
        return outputs

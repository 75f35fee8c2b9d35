"""A function of a signal, computed piece by piece as the signal comes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar


class _Signal(Protocol):
    """An array or a tensor: cut along its first axis it is one again."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> Any: ...


Signal = TypeVar("Signal", bound=_Signal)


class Seamless(Generic[Signal]):
    """A function of finite reach over a signal that comes in pieces: joined, its outputs are those for the whole.

    ``function`` makes an output of every ``step`` inputs along the first axis. It depends on inputs within ``reach`` of
    those, and what it is given begins and ends as a whole signal does. So each piece goes through it together with as
    much of its neighbours as it reaches, and what belongs to them is cut off. ``join`` is ``np.concatenate`` or
    ``torch.cat``, and ``nothing`` are no outputs.
    """

    def __init__(
        self,
        function: Callable[[Signal], Signal],
        *,
        reach: int,
        step: int = 1,
        join: Callable[[list[Signal]], Signal],
        nothing: Signal,
    ) -> None:
        self.function: Callable[[Signal], Signal] = function
        self.join: Callable[[list[Signal]], Signal] = join
        self.step, self.nothing = step, nothing
        self.reach = -(-reach // step) * step
        self.pending: Signal | None = None
        """The end of the signal so far, of which the first ``done`` inputs are context alone."""
        self.done = 0

    def feed(self, piece: Signal, *, last: bool = False) -> Signal:
        """The outputs that ``piece`` completes, and after the ``last`` piece the rest of them."""
        pending = piece if self.pending is None else self.join([self.pending, piece])
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

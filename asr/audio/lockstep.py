"""Many signals' ways through one function, side by side: what several wait for at once is computed in one batch."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Sequence
from typing import TypeVar

Wanted = TypeVar("Wanted")
Given = TypeVar("Given")
Result = TypeVar("Result")
Way = Generator[Wanted, Given, Result]
"""A computation that yields what it wants computed, is sent what that gave, and returns a result."""

MOST = 16
"""In a batch: on a CPU, more rows are no quicker (recipes/guides/measurements.md)."""


def walk(way: Way[Wanted, Given, Result], compute: Callable[[Wanted], Given]) -> Result:
    """One way alone."""
    try:
        wanted = next(way)
        while True:
            wanted = way.send(compute(wanted))
    except StopIteration as end:
        result: Result = end.value
        return result


def walk_together(
    ways: Sequence[Way[Wanted, Given, Result]],
    compute: Callable[[Sequence[Wanted]], Sequence[Given]],
    alike: Callable[[Wanted], Hashable],
) -> list[Result | Exception]:
    """All of them: in each round, what is wanted goes through ``compute`` in batches of those that are ``alike``, of
    ``MOST`` at the most. One that raises gives its exception in place of its result, and the others go on; what
    ``compute`` raises is raised."""
    results: dict[int, Result | Exception] = {}
    wanted: dict[int, Wanted] = {}

    def go(number: int, given: Given | None) -> None:
        wanted.pop(number, None)
        try:
            wanted[number] = next(ways[number]) if given is None else ways[number].send(given)
        except StopIteration as end:
            results[number] = end.value
        except Exception as error:
            results[number] = error

    for number in range(len(ways)):
        go(number, None)
    while wanted:
        groups: dict[Hashable, list[int]] = {}
        for number, step in wanted.items():
            groups.setdefault(alike(step), []).append(number)
        for numbers in groups.values():
            for first in range(0, len(numbers), MOST):
                batch = numbers[first : first + MOST]
                for number, given in zip(batch, compute([wanted[number] for number in batch]), strict=True):
                    go(number, given)
    return [results[number] for number in range(len(ways))]

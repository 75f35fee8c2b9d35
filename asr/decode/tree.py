"""Spellings as a tree, breadth first, so that a place's children are neighbours: of words in letters or in phones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from asr.decode.compiled import compiled

START, OFF = 0, -1
"""Places in a tree: nothing spelled yet; off it, where nothing is spelled so."""
LONGEST = 60
"""Symbols of a spelling, at most: the longest bounds the memory that it takes to build a tree."""


class Tree(NamedTuple):
    """N places. The children of place i are ``first_child[i]`` to ``first_child[i + 1] - 1``, sorted by ``symbol``.

    ``first_child`` (N + 1,), ``symbol`` (N,); ``ends`` (R,), the place where each spelling ends.
    """

    first_child: np.ndarray
    symbol: np.ndarray
    ends: np.ndarray


def build_tree(spellings: Sequence[str]) -> Tree:
    """The tree of ``spellings``, sorted, none empty: a character for each symbol, whose code point it is.

    Of those that are spelled alike, each ends at the same place.
    """
    symbols = np.array(spellings)
    symbols = symbols.view(np.uint32).reshape(len(spellings), -1).astype(np.int32)
    lengths = np.array([len(spelling) for spelling in spellings])
    shared = np.zeros(len(spellings), np.int64)  # symbols in common with the spelling before
    shared[1:] = np.cumprod(symbols[1:] == symbols[:-1], axis=1).sum(axis=1)
    shared = np.minimum(shared, lengths)  # of two that are alike, not their padding

    parents, levels = [], [np.zeros(1, np.int32)]
    place = np.zeros(len(spellings), np.int64)  # of each spelling's beginning at this depth
    total = 1
    for depth in range(symbols.shape[1]):
        new = (shared <= depth) & (lengths > depth)
        here = total + np.cumsum(new) - 1
        parents.append(place[new])
        levels.append(symbols[new, depth])
        place = np.where(lengths > depth, here, place)
        total += int(new.sum())
    children = np.bincount(np.concatenate(parents), minlength=total)
    first_child = np.concatenate([[1], 1 + np.cumsum(children)])
    return Tree(first_child=first_child.astype(np.int32), symbol=np.concatenate(levels).astype(np.int32), ends=place)


def best_below(tree: Tree, values: np.ndarray) -> np.ndarray:
    """(N,) the largest of ``values`` (R,), one a spelling, at or below each place; -inf where there is none."""
    best = np.full(len(tree.symbol), -np.inf)
    np.maximum.at(best, tree.ends, values)
    _lift(tree.first_child, best)
    return best


@compiled
def _lift(first_child, best):  # type: ignore[no-untyped-def]
    """Makes ``best`` (N,) of each place the largest of its own and its children's."""
    for place in range(len(best) - 1, -1, -1):
        for child in range(first_child[place], first_child[place + 1]):
            best[place] = max(best[place], best[child])


@compiled(inline="always")
def descend(tree, place, symbol):  # type: ignore[no-untyped-def]
    """The child of ``place`` under ``symbol``, or OFF."""
    low, high = tree.first_child[place], tree.first_child[place + 1]
    while low < high:
        middle = (low + high) // 2
        if tree.symbol[middle] < symbol:
            low = middle + 1
        else:
            high = middle
    if low < tree.first_child[place + 1] and tree.symbol[low] == symbol:
        return low
    return OFF

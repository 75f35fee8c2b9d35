"""Draws sentences from an n-gram model, to try `asr lm train` on more text than there is:

python scripts/draw_sentences.py LM WORDS [SEED] | asr lm train - -o big.arpa.gz --memory 4G
"""

import sys
from pathlib import Path

import numba
import numpy as np

from asr.decode.arpa import START
from asr.decode.ngram import ROOT, NgramArrays, NgramModel, advance, find_child

AT_ONCE = 1_000_000


@numba.njit
def draw_word(arrays: NgramArrays, sums: np.ndarray, state: int, start: int) -> int:
    """A word after ``state``, where ``sums`` (N,) adds up the probabilities of all nodes before and with each.

    Where it is none that the state lists, it is drawn after the state's suffix until it is none of those.
    """
    low, high = arrays.first_child[state], arrays.first_child[state + 1]
    while state == ROOT:
        node = low + np.searchsorted(
            sums[low:high], sums[low - 1] + np.random.random() * (sums[high - 1] - sums[low - 1])
        )
        if arrays.words[node] != start:
            return arrays.words[node]
    target = sums[low - 1] + np.random.random()
    if high > low and target < sums[high - 1]:
        return arrays.words[low + np.searchsorted(sums[low:high], target)]
    while True:
        word = draw_word(arrays, sums, arrays.suffixes[state], start)
        if find_child(arrays, state, word) < 0:
            return word


@numba.njit
def draw(arrays: NgramArrays, sums: np.ndarray, first: int, start: int, end: int, count: int, seed: int) -> np.ndarray:
    """(count,) words of sentences one after the other, each with its end."""
    np.random.seed(seed)
    words, state = np.empty(count, np.int32), first
    for i in range(count):
        words[i] = draw_word(arrays, sums, state, start)
        state = first if words[i] == end else advance(arrays, state, words[i])[1]
    return words


def main(path: str, count: int, seed: int = 0) -> None:
    model = NgramModel.load(Path(path))
    start = model.index(START)
    probabilities = np.exp(model.arrays.log_probs.astype(np.float64))
    probabilities[[0, 1 + start]] = 0
    sums = np.cumsum(probabilities)
    names = [f"{word} " for word in model.words]
    names[model.end] = "\n"
    for block in range(-(-count // AT_ONCE)):
        size = min(AT_ONCE, count - block * AT_ONCE)
        words = draw(model.arrays, sums, model.start, start, model.end, size, seed + block)
        sys.stdout.write("".join(names[word] for word in words.tolist()))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))

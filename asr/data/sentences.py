"""Written sentences in batches, for a language model to learn from."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from asr.errors import TextError
from asr.records import Rejection, SentenceBatch
from asr.text.tokenise import Tokeniser


class SentenceBatches:
    """A text in batches of sentences of like length, at most ``max_characters`` in each, padding counted.

    Every epoch has the same number of batches, drawn anew from sentences of equal length and shuffled; the draw depends
    on ``seed`` and the epoch alone. A sentence of more than ``longest`` characters is left out, and one that no tokens
    spell; each is named by its number in the text, from 1.
    """

    def __init__(
        self, text: Sequence[str], tokeniser: Tokeniser, *, max_characters: int, longest: int = 1000, seed: int = 0
    ) -> None:
        self.text = text
        self.tokeniser = tokeniser
        self.longest = longest
        self.seed = seed
        self._lengths = np.array([len(sentence) for sentence in text], dtype=np.int64)
        self._cuts = _cuts(np.sort(self._lengths), max_characters)

    def __len__(self) -> int:
        return len(self._cuts) - 1

    def epoch(self, number: int, *, skip: int = 0, every: int = 1) -> Generator[SentenceBatch, None, None]:
        """The batches of epoch ``number``, the first ``skip`` left out, and of the rest one in ``every``."""
        random = np.random.default_rng((self.seed, number))
        order = np.lexsort((random.random(len(self.text)), self._lengths))
        for batch in random.permutation(len(self))[skip::every]:
            yield self._collate(order[self._cuts[batch] : self._cuts[batch + 1]].tolist())

    def _collate(self, indices: Sequence[int]) -> SentenceBatch:
        ids, rows, rejected = [], [], []
        for index in indices:
            sentence, name = self.text[index], f"sentence {index + 1}"
            begins = f'"{sentence[:40]}"'
            if len(sentence) > self.longest:
                reason = f"{begins} has {len(sentence)} characters; sentences.longest is {self.longest}"
                rejected.append(Rejection(id=name, fault="outside the limits", reason=reason))
                continue
            try:
                rows.append(torch.tensor(self.tokeniser.encode(sentence), dtype=torch.int64))
            except TextError as error:
                rejected.append(Rejection(id=name, fault="outside the alphabet", reason=f"{begins}: {error}"))
                continue
            ids.append(name)
        return SentenceBatch(
            ids=tuple(ids),
            tokens=pad_sequence(rows, batch_first=True) if rows else torch.zeros(0, 0, dtype=torch.int64),
            token_lengths=torch.tensor([len(row) for row in rows], dtype=torch.int64),
            rejected=tuple(rejected),
        )


def _cuts(lengths: np.ndarray, max_characters: int) -> list[int]:
    """Where to cut sentences of ascending ``lengths`` into batches: the first is 0, the last their number."""
    cuts = [0]
    for i, length in enumerate(lengths.tolist()):
        if i > cuts[-1] and (i + 1 - cuts[-1]) * length > max_characters:
            cuts.append(i)
    return [*cuts, len(lengths)]

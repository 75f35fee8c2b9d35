"""The LSTM language model (Mikolov et al. 2010; Sundermeyer et al. 2012): how likely a sentence is, token by token.

It spells in the acoustic model's own tokens, so nothing is outside its vocabulary and every prefix of a beam search
can be weighed. Token 0, the CTC blank, spells nothing there; here it is the sentence's boundary: read, it is the
beginning; predicted, the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from asr import recipe
from asr.model.encoder import RecurrentStack
from asr.model.features import frame_mask
from asr.model.recurrent import State

BOUNDARY = 0
MAX_BATCH_TOKENS = 16384
"""Tokens that ``score`` runs at once, padding counted."""

States = tuple[State, ...]
"""What the network remembers of N prefixes: a state a layer, rows along dimension 1."""


class LanguageModel(nn.Module):
    """Embedding, LSTM layers, softmax over ``vocabulary`` tokens."""

    def __init__(self, settings: recipe.Network, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, settings.embedding)
        layers = recipe.Lstm(
            conv=None,
            layers=settings.layers,
            hidden=settings.hidden,
            dropout=settings.dropout,
            layer_norm=False,
            bidirectional=False,
            projection=settings.embedding if settings.tied else None,
        )
        self.stack = RecurrentStack(layers, settings.embedding)
        self.head = None if settings.tied else nn.Linear(self.stack.size, vocabulary)
        if settings.tied:
            nn.init.normal_(self.embedding.weight, std=settings.embedding**-0.5)

    @property
    def device(self) -> torch.device:
        return self.embedding.weight.device

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """(B, U + 1, V) natural log, float32: row ``u`` is what may follow the first ``u`` of ``tokens`` (B, U)."""
        begun = functional.pad(tokens.to(self.device), (1, 0), value=BOUNDARY)
        encodings, _ = self.stack(self.embedding(begun), lengths.to(self.device) + 1)
        return self._next(encodings)

    def log_probability(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """(B,) natural log of each whole sentence's probability, its end included."""
        tokens, lengths = tokens.to(self.device), lengths.to(self.device)
        real = frame_mask(lengths, tokens.shape[1])
        ended = functional.pad(tokens.masked_fill(~real, BOUNDARY), (0, 1), value=BOUNDARY)
        each: Tensor = self(tokens, lengths).gather(2, ended[:, :, None])[:, :, 0]
        past = ~frame_mask(lengths + 1, ended.shape[1])
        return each.masked_fill(past, 0.0).sum(1)

    @torch.inference_mode()
    def score(self, sentences: Sequence[Sequence[int]]) -> list[float]:
        """Natural-log probability of each sentence, given as token ids, its end included. In evaluation mode it depends
        on nothing but the sentence."""
        scores = [0.0] * len(sentences)
        for indices in _batches([len(sentence) for sentence in sentences]):
            rows = [torch.tensor(sentences[i], dtype=torch.int64) for i in indices]
            tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True)
            found = self.log_probability(tokens, torch.tensor([len(row) for row in rows])).tolist()
            for i, score in zip(indices, found, strict=True):
                scores[i] = score
        return scores

    def begin(self) -> States:
        """The state of one empty prefix, before its BOUNDARY is read."""
        return self.stack.initial_states(1)

    @torch.inference_mode()
    def step(self, tokens: Tensor, states: States) -> tuple[Tensor, States]:
        """Reads one more token of each of N prefixes: ``tokens`` (N,) to log-probabilities (N, V) of what follows it,
        and the states after it. The first token of a sentence is BOUNDARY."""
        inputs = self.embedding(tokens.to(self.device))[:, None]
        encodings, after = self.stack(inputs, torch.ones(len(tokens), dtype=torch.int64), states)
        return self._next(encodings[:, 0]), after

    def prefixes(self) -> PrefixRows:
        """What follows each prefix of a search's growing tree."""
        return PrefixRows(self)

    def _next(self, encodings: Tensor) -> Tensor:
        """(..., H) to log-probabilities (..., V)."""
        logits = functional.linear(encodings, self.embedding.weight) if self.head is None else self.head(encodings)
        return functional.log_softmax(logits.float(), dim=-1)


def select(states: States, rows: Tensor) -> States:
    """The states of the prefixes ``rows`` (N',) of N, in that order; one may be taken several times."""
    return tuple(tuple(part.index_select(1, rows.to(part.device)) for part in state) for state in states)


class PrefixRows:
    """What may follow each prefix of a growing tree: the model's side of shallow fusion (Gulcehre et al. 2015).

    A search names its prefixes by number, in the order in which it meets them; 0 is the empty one. A prefix costs its
    states' memory, 4 KiB with 512 units, until the search is over.
    """

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        log_probs, self._states = model.step(torch.tensor([BOUNDARY]), model.begin())
        self._rows = log_probs
        self._count = 1

    @property
    def rows(self) -> np.ndarray:
        """(N, V) natural log: what may follow each of the N prefixes; at BOUNDARY, its end."""
        return self._rows[: self._count].cpu().numpy()

    @torch.inference_mode()
    def grow(self, parents: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Takes in prefixes N, N + 1, ...: each an earlier one of ``parents`` (M,) and one more of ``tokens`` (M,).
        Returns their rows (M, V)."""
        before = select(self._states, torch.from_numpy(parents.astype(np.int64)))
        log_probs, after = self.model.step(torch.from_numpy(tokens.astype(np.int64)), before)
        end = self._count + len(tokens)
        if end > len(self._rows):
            more = max(end, 2 * len(self._rows)) - len(self._rows)
            self._rows = _lengthened(self._rows, more, dim=0)
            self._states = tuple(tuple(_lengthened(part, more, dim=1) for part in state) for state in self._states)
        self._rows[self._count : end] = log_probs
        for state, new_state in zip(self._states, after, strict=True):
            for part, new in zip(state, new_state, strict=True):
                part[:, self._count : end] = new
        self._count = end
        return log_probs.cpu().numpy()


def _lengthened(values: Tensor, more: int, *, dim: int) -> Tensor:
    shape = list(values.shape)
    shape[dim] = more
    return torch.cat([values, values.new_empty(shape)], dim=dim)


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices of sentences of like length together, at most MAX_BATCH_TOKENS in a batch."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * (lengths[i] + 1) > MAX_BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch

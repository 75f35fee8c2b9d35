"""Interpolated modified Kneser-Ney estimation of n-gram models.

Chen and Goodman, An Empirical Study of Smoothing Techniques for Language Modeling, 1998; the details (counts of
sentence starts, pruning) are those of Heafield et al., Scalable Modified Kneser-Ney Language Model Estimation, 2013.

The n-grams of a text are ranked order by order: an n-gram is a pair, its context's rank among the (n-1)-grams and its
last word, so that each order costs one sort of as many integers as the text has words. Everything is in memory, some
80 bytes a word of the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from asr.decode.arpa import END, MAX_ORDER, START, UNKNOWN, Arpa, Section
from asr.errors import LanguageModelError

FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)
"""D1, D2 and D3+ where the text is too small or too strange to estimate them: KenLM's choice."""
_SPECIAL = (UNKNOWN, START, END)
_UNKNOWN_ID, _START_ID, _END_ID = range(3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A training text: ``tokens`` (T,) int32 index ``words`` (V), which begin with <unk>, <s> and </s>.

    Each sentence is <s>, its words, </s>.
    """

    words: tuple[str, ...]
    tokens: np.ndarray
    sentences: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The model, the discounts D1, D2 and D3+ of each order, and the orders whose discounts could not be estimated."""

    model: Arpa
    discounts: tuple[tuple[float, float, float], ...]
    fallbacks: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counts:
    """The M distinct n-grams of one order, sorted by context and last word; K is the M of the order below.

    ``contexts`` and ``suffixes`` (M,) rank the n-gram without its last and without its first word among the K,
    ``words`` (M,) is the last word, ``counts`` (M,) how often the text holds the n-gram.
    """

    contexts: np.ndarray
    suffixes: np.ndarray
    words: np.ndarray
    counts: np.ndarray
    begins: np.ndarray
    """(M,) bool: whether the first word is <s>."""


def read_text(sentences: Iterable[Sequence[str]], *, vocabulary: int | None = None, min_count: int = 1) -> Text:
    """Numbers the words of ``sentences``, the most frequent first.

    Words seen fewer than ``min_count`` times, or past the ``vocabulary`` most frequent ones, become <unk>. Raises
    LanguageModelError where there is no sentence, or where one holds <s> or </s>.
    """
    ids = {word: i for i, word in enumerate(_SPECIAL)}
    blocks: list[np.ndarray] = []
    block: list[int] = []
    count = 0
    for sentence in sentences:
        block.append(_START_ID)
        block += [ids.setdefault(word, len(ids)) for word in sentence]
        block.append(_END_ID)
        count += 1
        if len(block) > 1_000_000:
            blocks.append(np.array(block, np.int32))
            block.clear()
    blocks.append(np.array(block, np.int32))
    tokens = np.concatenate(blocks)
    if count == 0:
        raise LanguageModelError("the text holds no sentences to estimate a model from")
    if (tokens == _START_ID).sum() > count or (tokens == _END_ID).sum() > count:
        raise LanguageModelError(f"the text holds the word {START} or {END}, which mark sentences in the model alone")
    names = list(ids)
    frequencies = np.bincount(tokens, minlength=len(names))
    ranking = sorted(range(len(_SPECIAL), len(names)), key=lambda i: (-frequencies[i], names[i]))
    kept = [i for i in ranking[:vocabulary] if frequencies[i] >= min_count]
    renumbered = np.zeros(len(names), np.int32)
    renumbered[[_START_ID, _END_ID, *kept]] = np.arange(1, 3 + len(kept))
    return Text(
        words=(*_SPECIAL, *(names[i] for i in kept)),
        tokens=renumbered[tokens],
        sentences=count,
    )


def estimate(text: Text, *, order: int, prune: Sequence[int] = (0,)) -> Estimate:
    """The model of ``text`` with n-grams up to ``order``.

    n-grams that the text holds ``prune[n - 1]`` times or fewer are left out, their probability given to the lower
    orders; the last threshold holds for the orders after it too. Unigrams stay. Raises LanguageModelError for an
    order or for thresholds that make no model.
    """
    if not 1 <= order <= MAX_ORDER:
        raise LanguageModelError(f"an order of {order} was asked for: expected 1 to {MAX_ORDER}")
    if not prune or len(prune) > order or min(prune) < 0 or prune[0] != 0 or list(prune) != sorted(prune):
        raise LanguageModelError(
            f"the pruning thresholds {','.join(map(str, prune))} do not fit a model of order {order}: expected up to "
            f"{order}, the first 0 (unigrams stay), none lower than the one before it"
        )
    thresholds = [*prune, *[prune[-1]] * (order - len(prune))]
    levels = _count(text, order)
    kept = [level.counts > threshold for level, threshold in zip(levels, thresholds, strict=True)]
    kept[0][:] = True
    lower = np.full(1, 1 / (len(text.words) - 1))  # uniform over what can be predicted: all but <s>
    log_probs, backoffs, discounts, fallbacks = [], [], [], []
    for n, level in enumerate(levels, start=1):
        adjusted = _adjust(level, levels[n] if n < order else None)
        discount = _discounts(adjusted)
        if discount is None:
            fallbacks.append(n)
        discounts.append(discount or FALLBACK_DISCOUNTS)
        taken = np.array([0.0, *discounts[-1]])[np.minimum(adjusted, 3)]
        totals = np.bincount(level.contexts, adjusted, minlength=len(lower))
        # Pruned n-grams give up all they have, so that each context's probabilities still sum to one.
        freed = np.bincount(level.contexts, np.where(kept[n - 1], taken, adjusted), minlength=len(lower))
        backoff = np.divide(freed, totals, out=np.ones(len(lower)), where=totals > 0)
        lower = (adjusted - taken) / totals[level.contexts] + backoff[level.contexts] * lower[level.suffixes]
        if n == 1:
            lower[_START_ID] = 1.0  # never predicted: KenLM's convention
        log_probs.append(np.log(np.minimum(lower, 1.0)))
        backoffs.append(np.log(backoff))
    backoffs.append(np.zeros(len(lower)))
    sections = tuple(
        Section(
            ids=_spell(levels[:n], np.flatnonzero(kept[n - 1])),
            log_probs=log_probs[n - 1][kept[n - 1]].astype(np.float32),
            backoffs=backoffs[n][kept[n - 1]].astype(np.float32),
        )
        for n in range(1, order + 1)
    )
    return Estimate(
        model=Arpa(words=text.words, sections=sections), discounts=tuple(discounts), fallbacks=tuple(fallbacks)
    )


def _count(text: Text, order: int) -> list[_Counts]:
    """The n-grams of each order up to ``order``."""
    tokens, vocabulary = text.tokens, len(text.words)
    words = np.arange(vocabulary, dtype=np.int32)
    zeros = np.zeros_like(words)
    counts = np.bincount(tokens, minlength=vocabulary)
    levels = [_Counts(contexts=zeros, suffixes=zeros, words=words, counts=counts, begins=words == _START_ID)]
    places = np.arange(len(tokens), dtype=np.int64)
    places -= np.maximum.accumulate(np.where(tokens == _START_ID, places, 0))  # in the sentence, <s> at 0
    ranks = tokens  # of the n-gram that ends at each token
    for n in range(2, order + 1):
        ends = np.flatnonzero(places >= n - 1)
        keys = ranks[ends - 1] * np.int64(vocabulary) + tokens[ends]
        distinct, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
        suffixes = np.empty(len(distinct), np.int32)
        suffixes[inverse] = ranks[ends]
        ranks = np.zeros_like(tokens)
        ranks[ends] = inverse
        contexts = (distinct // vocabulary).astype(np.int32)
        levels.append(
            _Counts(
                contexts=contexts,
                suffixes=suffixes,
                words=(distinct % vocabulary).astype(np.int32),
                counts=counts,
                begins=levels[-1].begins[contexts],
            )
        )
    return levels


def _adjust(level: _Counts, higher: _Counts | None) -> np.ndarray:
    """(M,) adjusted counts: in how many different words' company an n-gram comes, or, where no word can come before it
    or where it is of the highest order, how often."""
    if higher is None:
        adjusted = level.counts.copy()
    else:
        left_words = np.bincount(higher.suffixes, minlength=len(level.counts))
        adjusted = np.where(level.begins, level.counts, left_words)
    if len(adjusted) and level.contexts is level.suffixes:  # unigrams
        adjusted[_START_ID] = 0
    return adjusted


def _discounts(adjusted: np.ndarray) -> tuple[float, float, float] | None:
    """D1, D2, D3+ (Chen and Goodman, equation 26), or None where they cannot be estimated."""
    _, n1, n2, n3, n4 = np.bincount(adjusted[adjusted <= 4], minlength=5).tolist()
    if not (n1 and n2 and n3):
        return None
    y = n1 / (n1 + 2 * n2)
    one, two, more = 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3
    return (one, two, more) if 0 < one <= 1 and 0 < two <= 2 and 0 < more <= 3 else None


def _spell(levels: Sequence[_Counts], rows: np.ndarray) -> np.ndarray:
    """(M, n) the words of the n-grams ``rows`` (M,) of the last of ``levels``."""
    columns = []
    for level in reversed(levels):
        columns.append(level.words[rows])
        rows = level.contexts[rows]
    return np.stack(columns[::-1], axis=1)

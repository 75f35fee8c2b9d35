"""Interpolated modified Kneser-Ney estimation of n-gram models.

Chen and Goodman, An Empirical Study of Smoothing Techniques for Language Modeling, 1998; the details (counts of
sentence starts, pruning) are those of Heafield et al., Scalable Modified Kneser-Ney Language Model Estimation, 2013.

The n-grams of a text are ranked order by order: an n-gram is a pair, its context's rank among the (n-1)-grams and its
last word, so that each order costs one sort of as many integers as the text has words. The text, the ranks and the
n-grams lie on disk. What memory does not hold at once is done in several passes, each over a range of contexts; every
sum is taken in the same order however many passes there are, so that the numbers are the same to the last bit.

In memory are, whatever was asked for: the words of the text, each once, and the places of the most frequent context,
some 2 bytes a word of the text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from asr.decode.arpa import END, MAX_ORDER, START, UNKNOWN, Arpa, Section
from asr.errors import LanguageModelError
from asr.train.columns import Column, Workspace

FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)
"""D1, D2 and D3+ where the text is too small or too strange to estimate them: KenLM's choice."""
_SPECIAL = (UNKNOWN, START, END)
_UNKNOWN_ID, _START_ID, _END_ID = range(3)
_READ_AT_ONCE = 1 << 20
_BYTES_A_PLACE = 48
"""What sorting the n-gram at one place of the text takes in memory."""
_BYTES_A_ROW = 160
"""What computing one n-gram's probability takes in memory, its words included."""
COUNTING_SHARE = 0.5
"""Of the time that the estimation takes."""

Advance = Callable[[str, float], object]
"""Told what is being done ("counting 3-grams") and what fraction of the estimation is done."""


def _say_nothing(_step: str, _fraction: float) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A training text: ``tokens`` (T,) int32 index ``words`` (V), which begin with <unk>, <s> and </s>.

    Each sentence is <s>, its words, </s>. ``counts`` (V,) says how often each word comes.
    """

    words: tuple[str, ...]
    tokens: Column
    counts: np.ndarray
    sentences: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The n-grams of one order as ``Section`` has them, on disk."""

    ids: Column
    log_probs: Column
    backoffs: Column


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The model's ``words`` and n-grams, the discounts D1, D2 and D3+ of each order, and the orders whose discounts
    could not be estimated. ``write_arpa`` takes it as it is."""

    words: tuple[str, ...]
    sections: tuple[Listing, ...]
    discounts: tuple[tuple[float, float, float], ...]
    fallbacks: tuple[int, ...]

    @property
    def model(self) -> Arpa:
        """The whole in memory."""
        sections = (
            Section(ids=listing.ids[:], log_probs=listing.log_probs[:], backoffs=listing.backoffs[:])
            for listing in self.sections
        )
        return Arpa(words=self.words, sections=tuple(sections))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counts:
    """The M distinct n-grams of one order, sorted by context and last word; K is the M of the order below.

    ``contexts`` and ``suffixes`` (M,) rank the n-gram without its last and without its first word among the K,
    ``words`` (M,) is the last word, ``counts`` (M,) how often the text holds the n-gram: all int32.
    """

    contexts: Column
    suffixes: Column
    words: Column
    counts: Column

    def __len__(self) -> int:
        return len(self.words)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """Rows ``start`` to ``stop`` of the n-grams of one order: all that extend the contexts ``first`` to ``last``, the
    latter excluded. ``contexts`` are counted from ``first``."""

    start: int
    stop: int
    first: int
    last: int
    contexts: np.ndarray

    @property
    def rows(self) -> slice:
        return slice(self.start, self.stop)


class _Numbers(dict[str, int]):
    """Words to their numbers, in the order in which they are first asked for."""

    def __missing__(self, word: str) -> int:
        number = self[word] = len(self)
        return number

    def of(self, words: Sequence[str]) -> np.ndarray:
        """(N,) int32 of N words."""
        return np.fromiter(map(self.__getitem__, words), np.int32, len(words))


def read_text(
    sentences: Iterable[Sequence[str]],
    *,
    vocabulary: int | None = None,
    min_count: int = 1,
    workspace: Workspace | None = None,
) -> Text:
    """Numbers the words of ``sentences``, the most frequent first.

    Words seen fewer than ``min_count`` times, or past the ``vocabulary`` most frequent ones, become <unk>. Raises
    LanguageModelError where there is no sentence, or where one holds <s> or </s>.
    """
    workspace = workspace or Workspace()
    ids = _Numbers((word, i) for i, word in enumerate(_SPECIAL))
    numbered = workspace.column(np.int32)
    block: list[str] = []
    count = 0
    for sentence in sentences:
        block.append(START)
        block.extend(sentence)
        block.append(END)
        count += 1
        if len(block) > _READ_AT_ONCE:
            numbered.append(ids.of(block))
            block.clear()
    numbered.append(ids.of(block))
    if count == 0:
        raise LanguageModelError("the text holds no sentences to estimate a model from")
    if len(numbered) >= 2**31:
        raise LanguageModelError(f"the text holds {len(numbered)} words, and 2**31 are the most that are counted")
    names = list(ids)
    frequencies = np.zeros(len(names), np.int64)
    for _, part in numbered.blocks(_READ_AT_ONCE):
        frequencies += np.bincount(part, minlength=len(names))
    if frequencies[_START_ID] > count or frequencies[_END_ID] > count:
        raise LanguageModelError(f"the text holds the word {START} or {END}, which mark sentences in the model alone")
    frequent = frequencies.tolist()
    ranking = sorted(range(len(_SPECIAL), len(names)), key=lambda i: (-frequent[i], names[i]))
    kept = [i for i in ranking[:vocabulary] if frequent[i] >= min_count]
    renumbered = np.zeros(len(names), np.int32)
    renumbered[[_START_ID, _END_ID, *kept]] = np.arange(1, 3 + len(kept))
    for start, part in numbered.blocks(_READ_AT_ONCE):
        numbered.write(start, renumbered[part])
    return Text(
        words=(*_SPECIAL, *(names[i] for i in kept)),
        tokens=numbered,
        counts=np.bincount(renumbered, frequencies, minlength=len(_SPECIAL) + len(kept)).astype(np.int32),
        sentences=count,
    )


def estimate(
    text: Text,
    *,
    order: int,
    prune: Sequence[int] = (0,),
    workspace: Workspace | None = None,
    advance: Advance = _say_nothing,
) -> Estimate:
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
    workspace = workspace or Workspace()
    thresholds = [-1, *prune[1:], *[prune[-1]] * (order - len(prune))]
    levels = _count(text, order, workspace, lambda step, part: advance(step, part * COUNTING_SHARE))
    lower, spelled = workspace.column(np.float64), workspace.column(np.int32, 0)
    lower.append(np.full(1, 1 / (len(text.words) - 1)))  # uniform over what can be predicted: all but <s>
    spelled.append(np.zeros((1, 0), np.int32))
    sections: list[Listing] = []
    discounts, fallbacks = [], []
    for n, level in enumerate(levels, start=1):
        step = f"weighing {n}-grams"
        done = COUNTING_SHARE + (1 - COUNTING_SHARE) * (n - 1) / order
        advance(step, done)
        contexts, spelled = spelled, workspace.column(np.int32, n)
        adjusted, histogram = _adjust(level, levels[n] if n < order else None, contexts, spelled, workspace)
        discount = _discounts(histogram)
        if discount is None:
            fallbacks.append(n)
        discounts.append(discount or FALLBACK_DISCOUNTS)
        below = workspace.gather(lower, level.suffixes)
        listing, lower, backoffs = _weigh(
            level, adjusted, below, spelled, discounts[-1], thresholds[n - 1], workspace, len(lower)
        )
        if n > 1:
            for start, counts in levels[n - 2].counts.blocks(workspace.rows(64)):
                kept = counts > thresholds[n - 2]
                sections[-1].backoffs.append(backoffs[start : start + len(counts)][kept])
        sections.append(listing)
    for start in range(0, len(sections[-1].log_probs), workspace.rows(64)):
        rows = len(sections[-1].log_probs) - start
        sections[-1].backoffs.append(np.zeros(min(rows, workspace.rows(64)), np.float32))
    return Estimate(words=text.words, sections=tuple(sections), discounts=tuple(discounts), fallbacks=tuple(fallbacks))


def _count(text: Text, order: int, workspace: Workspace, advance: Advance) -> list[_Counts]:
    """The n-grams of each order up to ``order``."""
    level = _new_level(workspace)
    zeros = np.zeros(len(text.words), np.int32)
    for column, values in (
        (level.contexts, zeros),
        (level.suffixes, zeros),
        (level.words, np.arange(len(text.words))),
        (level.counts, text.counts),
    ):
        column.append(values)
    levels = [level]
    ranks = text.tokens  # of the n-gram that ends at each token; -1 where the sentence holds none
    for n in range(2, order + 1):
        longer, longer_ranks = _new_level(workspace), workspace.column(np.int32) if n < order else None
        ranges = list(_ranges(levels[-1], workspace))
        for i, (low, high, places) in enumerate(ranges):
            advance(f"counting {n}-grams", (n - 2 + i / len(ranges)) / (order - 1))
            _rank(text, ranks, (low, high), places, longer, longer_ranks, workspace)
        levels.append(longer)
        ranks = longer_ranks or ranks
    return levels


def _new_level(workspace: Workspace) -> _Counts:
    contexts, suffixes, words, counts = (workspace.column(np.int32) for _ in range(4))
    return _Counts(contexts=contexts, suffixes=suffixes, words=words, counts=counts)


def _ranges(level: _Counts, workspace: Workspace) -> Iterator[tuple[int, int, int]]:
    """Parts the n-grams of ``level`` so that the longer ones that each part begins can be sorted in memory: from
    which to which, and in how many places of the text they come. A range is never empty; one n-gram may be too
    frequent for the memory, and is then a range by itself."""
    capacity = workspace.rows(_BYTES_A_PLACE)
    start = place = filled = 0
    for first, counts in level.counts.blocks(workspace.rows(64)):
        followed = np.where(level.words[first : first + len(counts)] == _END_ID, 0, counts)
        while len(followed):
            sums = np.cumsum(followed, dtype=np.int64)
            fit = int(np.searchsorted(sums, capacity - filled, side="right"))
            fit = max(fit, 1) if place == start else fit
            filled += int(sums[fit - 1]) if fit else 0
            place += fit
            if fit < len(followed):
                yield start, place, filled
                start, filled = place, 0
            followed = followed[fit:]
    yield start, place, filled


def _rank(
    text: Text,
    ranks: Column,
    contexts: tuple[int, int],
    places: int,
    longer: _Counts,
    longer_ranks: Column | None,
    workspace: Workspace,
) -> None:
    """Sorts the n-grams whose context's rank is in the range ``contexts``, which come in so many ``places`` of the
    text, appends them to ``longer``, and fills in their ranks at the places where they end."""
    low, high = contexts
    vocabulary, base = len(text.words), len(longer)
    keys, suffixes = np.empty(places, np.int64), np.empty(places, np.int32)
    filled = 0
    for _, ends, before, tokens, own in _places(text, ranks, low, high, workspace):
        rows = slice(filled, filled + len(ends))
        keys[rows] = (before - np.int64(low)) * vocabulary + tokens
        suffixes[rows] = own
        filled += len(ends)
    order = np.argsort(keys)
    keys = keys[order]
    new = np.append(True, keys[1:] != keys[:-1])[:places]
    firsts = np.flatnonzero(new)
    longer.contexts.append(low + keys[firsts] // vocabulary)
    longer.words.append(keys[firsts] % vocabulary)
    longer.suffixes.append(suffixes[order[firsts]])
    longer.counts.append(np.diff(firsts, append=places))
    if longer_ranks is None:
        return
    del keys, suffixes
    found = np.empty(places, np.int32)
    found[order] = np.cumsum(new, dtype=np.int32) + np.int32(base - 1)
    del order
    filled = 0
    for start, ends, before, _, _ in _places(text, ranks, low, high, workspace):
        size = min(start + _at_once(workspace), len(text.tokens)) - start
        block = longer_ranks[start : start + size] if low else np.full(size, -1, np.int32)
        block[ends] = found[filled : filled + len(before)]
        longer_ranks.write(start, block)
        filled += len(before)


def _at_once(workspace: Workspace) -> int:
    return min(max(workspace.memory // 512, 1), 1 << 22)


def _places(
    text: Text, ranks: Column, low: int, high: int, workspace: Workspace
) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Where an n-gram ends whose context's rank is from ``low`` to ``high``, block by block of the text: the block's
    start, and for each such place where it is in the block, its context's rank, its last word, its suffix's rank."""
    last = np.full(1, -1, np.int32)
    for start, tokens in text.tokens.blocks(_at_once(workspace)):
        own = ranks[start : start + len(tokens)]
        before = np.append(last, own[:-1])
        last = own[-1:]
        ends = np.flatnonzero((before >= low) & (before < high) & (tokens != _START_ID))
        yield start, ends, before[ends], tokens[ends], own[ends]


def _blocks(level: _Counts, contexts: int, workspace: Workspace) -> Iterator[_Block]:
    """The n-grams of ``level`` in blocks that part none of its ``contexts``."""
    start = first = 0
    while start < len(level) or first < contexts:
        rows, stop = workspace.rows(_BYTES_A_ROW), start
        while stop == start and start < len(level):
            block = level.contexts[start : start + rows]
            whole = start + len(block) == len(level)
            stop = start + (len(block) if whole else int(np.searchsorted(block, block[-1])))
            rows *= 2
        block = level.contexts[start:stop]
        last = contexts if stop == len(level) else int(block[-1]) + 1
        yield _Block(start=start, stop=stop, first=first, last=last, contexts=block - first)
        start, first = stop, last


def _adjust(
    level: _Counts, higher: _Counts | None, contexts: Column, spelled: Column, workspace: Workspace
) -> tuple[Column, np.ndarray]:
    """(M,) adjusted counts: in how many different words' company an n-gram comes, or, where no word can come before it
    or where it is of the highest order, how often; and how many n-grams have each count from 0 to 4.

    Fills ``spelled`` (M, n) with the n-grams' words; ``contexts`` (K, n - 1) are those of the order below.
    """
    left_words = level.counts if higher is None else workspace.tally(higher.suffixes, len(level))
    adjusted, histogram = workspace.column(np.int32), np.zeros(5, np.int64)
    for block in _blocks(level, len(contexts), workspace):
        before = contexts[block.first : block.last]
        words = np.concatenate([before[block.contexts], level.words[block.rows][:, None]], axis=1)
        spelled.append(words)
        counts = np.where(words[:, 0] == _START_ID, level.counts[block.rows], left_words[block.rows])
        if words.shape[1] == 1:
            counts[_START_ID] = 0
        adjusted.append(counts)
        histogram += np.bincount(counts[counts <= 4], minlength=5)
    return adjusted, histogram


def _weigh(
    level: _Counts,
    adjusted: Column,
    below: Column,
    spelled: Column,
    discounts: tuple[float, float, float],
    threshold: int,
    workspace: Workspace,
    contexts: int,
) -> tuple[Listing, Column, Column]:
    """The n-grams that are kept, without back-offs yet; all n-grams' probabilities (M,), where ``below`` (M,) are
    those of their suffixes; and the log back-offs of all ``contexts`` (K,)."""
    kept = Listing(
        ids=workspace.column(np.int32, spelled.width),
        log_probs=workspace.column(np.float32),
        backoffs=workspace.column(np.float32),
    )
    probabilities, backoffs = workspace.column(np.float64), workspace.column(np.float32)
    table = np.array([0.0, *discounts])
    for block in _blocks(level, contexts, workspace):
        counts, rows, size = adjusted[block.rows], block.contexts, block.last - block.first
        keep = level.counts[block.rows] > threshold
        taken = table[np.minimum(counts, 3)]
        totals = np.bincount(rows, counts, minlength=size)
        # Pruned n-grams give up all they have, so that each context's probabilities still sum to one.
        freed = np.bincount(rows, np.where(keep, taken, counts), minlength=size)
        backoff = np.divide(freed, totals, out=np.ones(size), where=totals > 0)
        probability = (counts - taken) / totals[rows] + backoff[rows] * below[block.rows]
        if threshold < 0:
            probability[_START_ID] = 1.0  # never predicted: KenLM's convention
        probabilities.append(probability)
        backoffs.append(np.log(backoff))
        kept.log_probs.append(np.log(np.minimum(probability[keep], 1.0)))
        kept.ids.append(spelled[block.rows][keep])
    return kept, probabilities, backoffs


def _discounts(histogram: np.ndarray) -> tuple[float, float, float] | None:
    """D1, D2, D3+ (Chen and Goodman, equation 26), or None where they cannot be estimated, of how many n-grams have
    each adjusted count from 0 to 4."""
    _, n1, n2, n3, n4 = histogram.tolist()
    if not (n1 and n2 and n3):
        return None
    y = n1 / (n1 + 2 * n2)
    one, two, more = 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3
    return (one, two, more) if 0 < one <= 1 and 0 < two <= 2 and 0 < more <= 3 else None

"""What a search over pronunciations knows besides the emissions: the lexicon, a language model over words, hotwords.

Words exist through the lexicon alone. It is a tree of phones; where a pronunciation ends lie all of the words that
sound so, and a word lies wherever one of its pronunciations ends. No token says that a word has ended, unless there is
a separator: a prefix at a place that bears words may end any of them and go on with the first phone of the next.

As in ``decode.fusion``, a prefix has what its ended words have earned, and a potential for the begun one, which is
taken back where that one ends and so moves no final score.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from asr.decode.compiled import compiled
from asr.decode.fusion import (
    HOPE,
    MARK,
    MOST,
    NO_MODEL,
    NO_NGRAMS,
    NONE,
    OVER_WORDS,
    checked_weight,
    exemption_of,
    unigrams_of,
)
from asr.decode.ngram import NgramArrays, NgramModel, advance
from asr.decode.spoken import Entry, PhoneTree, SpokenWords, pronounce, uniform
from asr.decode.tree import START
from asr.errors import LanguageModelError, TextError
from asr.text.tokenise import PhoneTokeniser


class Phrases(NamedTuple):
    """Hotwords as an automaton over words (Aho & Corasick 1975), whose S states are beginnings of phrases.

    The edges of state s are ``first_edge[s]`` to ``first_edge[s + 1] - 1``, sorted by ``word``, and lead to ``target``;
    without one the next word is looked up from ``fallback`` (S,). ``gain`` (S,) is what the phrases that end in a state
    are worth, ``hope`` (S,) what those begun may still be. ``share`` (N,), empty without hotwords, is what one that
    begins with a word of this place is worth so far; -inf where no hotword's word is pronounced so.
    """

    first_edge: np.ndarray
    word: np.ndarray
    target: np.ndarray
    fallback: np.ndarray
    gain: np.ndarray
    hope: np.ndarray
    share: np.ndarray


class LexicalTables(NamedTuple):
    """All that the search's compiled code reads, see the records above.

    ``unit`` (W,) are the words' ids in the language model, and ``foreign`` (W,) says which of them cost ``unknown``.
    Others that the model lacks have ``exemption`` more than its <unk>, as in ``FusionTables``. Without a model each
    word's log probability is ``uniform``. After a word's end, token t leads to the place
    ``opens[t]``, or nowhere (NONE), and ``opening[t]`` is the factor of that place's potential. ``most`` words end at
    one place.
    """

    model: int
    alpha: float
    beta: float
    unknown: float
    exemption: float
    unknown_id: int
    uniform: float
    end_id: int
    off: float
    most: int
    separator: int
    opens: np.ndarray
    opening: np.ndarray
    unit: np.ndarray
    foreign: np.ndarray
    tree: PhoneTree
    ngrams: NgramArrays
    phrases: Phrases


@compiled(inline="always")
def _next_state(phrases, state, word):  # type: ignore[no-untyped-def]
    """The automaton's state after ``word``."""
    while True:
        low, end = phrases.first_edge[state], phrases.first_edge[state + 1]
        low += np.searchsorted(phrases.word[low:end], word)
        if low < end and phrases.word[low] == word:
            return phrases.target[low]
        if state == 0:
            return 0
        state = phrases.fallback[state]


@compiled(inline="always")
def earn(tables, word, context, hotword, language):  # type: ignore[no-untyped-def]
    """What ``word`` makes of (context, hotword, language) when it ends."""
    if tables.model == OVER_WORDS:
        log_prob, context = advance(tables.ngrams, context, tables.unit[word])
    else:
        log_prob = tables.uniform
    language += tables.alpha * log_prob + tables.beta
    if tables.foreign[word]:
        language += tables.unknown
    elif tables.model == OVER_WORDS and tables.unit[word] == tables.unknown_id:
        language += tables.alpha * tables.exemption
    if len(tables.phrases.share):
        hotword = _next_state(tables.phrases, hotword, word)
        language += tables.phrases.gain[hotword]
    return context, hotword, language


@compiled(inline="always")
def hope(tables, place, hotword):  # type: ignore[no-untyped-def]
    """The potential at ``place`` that hotwords give."""
    phrases = tables.phrases
    if len(phrases.share) == 0 or phrases.share[place] == -math.inf:
        return 0.0
    return max(phrases.hope[hotword], phrases.share[place])


@compiled(inline="always")
def outlook(tables, place):  # type: ignore[no-untyped-def]
    """The potential at ``place`` that the language model gives."""
    if place == START:
        return 0.0
    best = tables.tree.best[place]
    return tables.off if best == -math.inf else tables.alpha * best + tables.beta


@compiled
def conclude(tables, context, language):  # type: ignore[no-untyped-def]
    """``language`` with the sentence ended after its last word."""
    if tables.model == OVER_WORDS:
        log_prob, _ = advance(tables.ngrams, context, tables.end_id)
        language += tables.alpha * log_prob
    return language


class LexicalFusion:
    """What the search is to know of the words that ``tokeniser`` pronounces.

    ``words``, where given, are all that it may find, besides those of the ``hotwords``: phrases and their weights in
    nats, of which 200 count at the most. Otherwise it finds those of the tokeniser's lexicon. Raises LanguageModelError
    for a model over tokens, or none of whose words is pronounced, and TextError for a hotword or one of ``words``
    without a pronunciation, or a weight that is NaN.
    """

    def __init__(
        self,
        tokeniser: PhoneTokeniser,
        *,
        model: NgramModel | None = None,
        alpha: float = 0.0,
        beta: float = 0.0,
        unknown: float = 0.0,
        lexicon: Iterable[str] | None = None,
        hotwords: Mapping[str, float] | None = None,
    ) -> None:
        if model is not None and any(word.startswith(MARK) for word in model.words):
            raise LanguageModelError(
                "the language model is over sub-words, and a model of phones takes one over words (asr lm train TEXT)"
            )
        hot = list(dict.fromkeys(word for phrase in hotwords or () for word in phrase.split()))
        closed = None if lexicon is None else [*hot, *lexicon]
        spoken = SpokenWords.keep(tokeniser, model) if closed is None else None
        if spoken is None or not spoken.has(hot):
            spoken = SpokenWords.make(tokeniser, model, closed, closed or hot)
        self.words, tree = spoken.words, spoken.tree
        self.start = 0 if model is None else model.start
        opens = np.full(len(tokeniser.tokens), NONE, np.int32)
        separator = tokeniser.tokens.index(tokeniser.space) if tokeniser.settings.separator else NONE
        if separator == NONE:
            roots = np.arange(tree.first_child[0], tree.first_child[1])
            opens[tree.symbol[roots]] = roots
        else:
            opens[separator] = START
        self._unknown_log_prob = uniform(self.words) if model is None else float(unigrams_of(model)[model.unknown])
        tables = LexicalTables(
            model=NO_MODEL if model is None else OVER_WORDS,
            alpha=0.0,
            beta=0.0,
            unknown=0.0,
            exemption=0.0 if model is None else exemption_of(model),
            unknown_id=0 if model is None else model.unknown,
            uniform=uniform(self.words),
            end_id=0 if model is None else model.end,
            off=0.0,
            most=spoken.most,
            separator=separator,
            opens=opens,
            opening=np.zeros(len(opens)),
            unit=spoken.unit,
            foreign=spoken.foreign,
            tree=tree,
            ngrams=NO_NGRAMS if model is None else model.arrays,
            phrases=_build_phrases(hotwords or {}, self.words, pronounce(tokeniser, hot, hot) if hot else [], tree),
        )
        self.tables = self._weigh(tables, alpha, beta, unknown)

    def reweighted(self, *, alpha: float, beta: float, unknown: float) -> LexicalFusion:
        """The same knowledge, otherwise weighed."""
        other = copy.copy(self)
        other.tables = self._weigh(self.tables, alpha, beta, unknown)
        return other

    def favouring(self, tokeniser: PhoneTokeniser, hotwords: Mapping[str, float]) -> LexicalFusion | None:
        """The same knowledge, which was built without hotwords, with these: all but their automaton is shared. None
        where a word is new to the lexicon or the language model, so that the tree has to be built anew.

        Raises TextError.
        """
        named = sorted({word for phrase in hotwords for word in phrase.split()})
        index = {word: i for i, word in enumerate(self.words)}
        if any(word not in index or self.tables.foreign[index[word]] for word in named):
            return None
        entries = pronounce(tokeniser, named, named) if named else []
        other = copy.copy(self)
        other.tables = self.tables._replace(phrases=_build_phrases(hotwords, self.words, entries, self.tables.tree))
        return other

    def _weigh(self, tables: LexicalTables, alpha: float, beta: float, unknown: float) -> LexicalTables:
        off = alpha * self._unknown_log_prob + unknown + beta
        tables = tables._replace(alpha=float(alpha), beta=float(beta), unknown=float(unknown), off=float(off))
        potentials = [outlook(tables, place) if place != NONE else -math.inf for place in tables.opens.tolist()]
        return tables._replace(opening=np.exp(potentials))


def _build_phrases(
    weights: Mapping[str, float], vocabulary: Sequence[str], entries: Sequence[Entry], tree: PhoneTree
) -> Phrases:
    """The automaton of phrases with these ``weights`` in nats, over the words ``vocabulary``; ``entries`` are the
    pronunciations of their own.

    Raises TextError for an empty one.
    """
    index = {word: i for i, word in enumerate(vocabulary)} if weights else {}
    children: list[dict[int, int]] = [{}]
    own, begun = [0.0], [0.0]
    first: dict[int, float] = {}
    for phrase, weight in weights.items():
        words = [index[word] for word in phrase.split()]
        if not words:
            raise TextError("a hotword is empty")
        weight = checked_weight(phrase, weight)
        first[words[0]] = max(first.get(words[0], 0.0), min(weight, HOPE) / len(words))
        state = 0
        for done, word in enumerate(words, start=1):
            if word not in children[state]:
                children[state][word] = len(children)
                children.append({})
                own.append(0.0)
                begun.append(0.0)
            state = children[state][word]
            if done < len(words):
                begun[state] = max(begun[state], min(weight, HOPE) * done / len(words))
        own[state] += weight
    fallback = _link_phrases(children, own, begun)
    edges = [sorted(each.items()) for each in children]
    flat = np.array([edge for each in edges for edge in each], np.int32).reshape(-1, 2)
    return Phrases(
        first_edge=np.cumsum([0, *map(len, edges)]).astype(np.int32),
        word=flat[:, 0].copy(),
        target=flat[:, 1].copy(),
        fallback=fallback,
        gain=np.clip(own, -MOST, MOST),
        hope=np.array(begun),
        share=_shares(first, {index[word] for phrase in weights for word in phrase.split()}, index, entries, tree),
    )


def _link_phrases(children: Sequence[Mapping[int, int]], gain: list[float], begun: list[float]) -> np.ndarray:
    """(S,) where each state's longest proper suffix stands, whose phrases' ``gain`` and hope it takes in."""
    fallback = np.zeros(len(children), np.int32)
    queue = [0]
    for state in queue:
        for word, child in children[state].items():
            suffix = int(fallback[state])
            while suffix and word not in children[suffix]:
                suffix = int(fallback[suffix])
            fallback[child] = children[suffix].get(word, 0) if state else 0
            gain[child] += gain[fallback[child]]
            begun[child] = max(begun[child], begun[fallback[child]])
            queue.append(child)
    return fallback


def _shares(
    first: Mapping[int, float], hot: set[int], index: Mapping[str, int], entries: Sequence[Entry], tree: PhoneTree
) -> np.ndarray:
    """See ``Phrases.share``, of phrases that begin with the words ``first`` and hold the words ``hot``."""
    if not hot:
        return np.zeros(0)
    share = np.full(len(tree.symbol), -np.inf)
    share[START] = 0.0
    for spelled, name, _ in entries:
        word = index[name]
        if word in hot:
            place = START
            for depth, phone in enumerate(map(ord, spelled), start=1):
                low, high = tree.first_child[place], tree.first_child[place + 1]
                place = int(low + np.searchsorted(tree.symbol[low:high], phone))
                share[place] = max(share[place], first.get(word, 0.0) * depth / len(spelled))
    return share

"""What a beam search knows besides the emissions: a language model over words or sub-words, a lexicon, hotwords.

All of it is one log weight a prefix: what its finished words have earned (``language``), and with them a potential for
what is begun and may still fail (``total``): the best that any word of the lexicon with this beginning could earn, and
of a hotword the share that is spelled already. A potential that is not fulfilled is taken back by the letter that ends
the hope, so it moves no final score; it only keeps promising prefixes in the beam. What a hotword may still earn keeps
prefixes in places of their own: whatever its weight, it drives none out that would be there without it.

Words are spelled in characters, whatever the tokeniser: a token is a word boundary, or not, and then some characters.
Symbol 0 is the boundary, the alphabet's characters follow.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from asr.decode.compiled import compiled
from asr.decode.ngram import NgramArrays, NgramModel, advance
from asr.decode.tree import LONGEST, OFF, START, best_below, build_tree, descend
from asr.errors import LanguageModelError, TextError
from asr.records import BLANK
from asr.text.tokenise import Tokeniser, lm_symbols

NO_MODEL, OVER_WORDS, OVER_TOKENS = 0, 1, 2
NONE = -1
BOUNDARY = 0
HOPE = 20.0
"""Nats: the most that hotwords which are begun are worth in the search. It is twice the default score threshold."""
MOST = 200.0
"""Nats: the most that the hotwords which end with a word earn or cost, so that a mass stays a number."""
MARK = "▁"
"""Begins a sub-word model's symbols, see ``lm_symbols``."""


class Lexicon(NamedTuple):
    """Words as a tree of their letters, see ``Tree``; off it, a prefix is in a word that the lexicon lacks.

    ``word`` (N,) is the id of the word that ends at a place, or NONE, and ``best`` (N,) the log probability of the
    likeliest word at or below it.
    """

    first_child: np.ndarray
    symbol: np.ndarray
    word: np.ndarray
    best: np.ndarray


class Hotwords(NamedTuple):
    """An automaton over symbols (Aho & Corasick 1975) whose matches begin at word boundaries.

    ``follow`` (N, symbols) is the next place; ``potential`` (N,) what a match so far is worth, ``sober`` (N,) the
    factor that takes it off a mass again; ``gain`` (N,) what the phrases that end at the place are worth once the word
    ends too. Place 0 is the start of a word, place 1 the inside of one that matches nothing: without phrases there are
    no others.
    """

    follow: np.ndarray
    potential: np.ndarray
    sober: np.ndarray
    gain: np.ndarray


class FusionTables(NamedTuple):
    """All that the search's compiled code reads, see the records above.

    A token t ends a word first where ``boundary[t]``, and then spells ``spelling[spelling_start[t] : spelling_start[t +
    1]]``. ``unit`` maps tokens to a sub-word model's ids. ``alpha`` weighs the model's log probabilities, ``beta`` is
    added for each word (each token over sub-words), ``unknown`` for a word that the lexicon lacks; where ``closed``,
    such words are not spelled at all. Words of the lexicon that the model lacks have ``exemption`` more than its
    <unk>, see ``exemption_of``.
    """

    model: int
    has_words: bool
    closed: bool
    alpha: float
    beta: float
    unknown: float
    exemption: float
    unknown_id: int
    end_id: int
    off: float
    boundary: np.ndarray
    spelling_start: np.ndarray
    spelling: np.ndarray
    unit: np.ndarray
    lexicon: Lexicon
    ngrams: NgramArrays
    hotwords: Hotwords


@compiled
def _end_word(tables, word, context, hotword, language):  # type: ignore[no-untyped-def]
    """What a word boundary makes of (word, context, hotword, language); ``language`` is -inf where none may stand."""
    if tables.has_words and word != START:
        id = NONE if word == OFF else tables.lexicon.word[word]
        if id == NONE:
            id = tables.unknown_id
            language += -math.inf if tables.closed else tables.unknown
        elif id == tables.unknown_id:
            language += tables.alpha * tables.exemption
        if tables.model == OVER_WORDS:
            log_prob, context = advance(tables.ngrams, context, id)
            language += tables.alpha * log_prob
        language += tables.beta
    language += tables.hotwords.gain[hotword]
    return START, context, tables.hotwords.follow[hotword, BOUNDARY], language


@compiled
def extend(tables, rows, prefixes, prefix, token, candidate):  # type: ignore[no-untyped-def]
    """Fills ``candidate`` with what is known of the prefix grown by ``token``; False where no word begins so.

    ``rows[prefix]`` is what an LSTM adds for each next token, and for the sentence's end at BLANK; or there are none.
    """
    before = prefixes[prefix]
    word, context, hotword, language = before.word, before.context, before.hotword, before.language
    if tables.boundary[token]:
        word, context, hotword, language = _end_word(tables, word, context, hotword, language)
    for i in range(tables.spelling_start[token], tables.spelling_start[token + 1]):
        symbol = tables.spelling[i]
        if tables.has_words and word != OFF:
            word = descend(tables.lexicon, word, symbol)
        hotword = tables.hotwords.follow[hotword, symbol]
    if language == -math.inf or (tables.closed and word == OFF):
        return False
    if tables.model == OVER_TOKENS:
        log_prob, context = advance(tables.ngrams, context, tables.unit[token])
        language += tables.alpha * log_prob + tables.beta
    if len(rows):
        language += rows[prefix, token]
    candidate.word = word
    candidate.context = context
    candidate.hotword = hotword
    candidate.language = language
    potential = tables.hotwords.potential[hotword]
    if tables.has_words and word != START:
        potential += tables.off if word == OFF else tables.alpha * tables.lexicon.best[word] + tables.beta
    candidate.total = language + potential
    return True


@compiled
def finish(tables, rows, prefixes, prefix):  # type: ignore[no-untyped-def]
    """The prefix's final log weight, its last word ended and the sentence too; -inf where it is no whole word."""
    last = prefixes[prefix]
    _, context, _, language = _end_word(tables, last.word, last.context, last.hotword, last.language)
    if tables.model != NO_MODEL:
        log_prob, _ = advance(tables.ngrams, context, tables.end_id)
        language += tables.alpha * log_prob
    if len(rows):
        language += rows[prefix, BLANK]
    return language


class Fusion:
    """What the search is to know besides emissions that ``tokeniser`` spells.

    ``hotwords`` are phrases and their weights in nats, of which 200 count at the most; ``lexicon``, where given, closes
    the vocabulary to its words and the hotwords'. Raises LanguageModelError for a model over other units than the
    tokeniser's, TextError for a hotword that cannot be spelled or whose weight is NaN.
    """

    def __init__(
        self,
        tokeniser: Tokeniser,
        *,
        model: NgramModel | None = None,
        alpha: float = 0.0,
        beta: float = 0.0,
        unknown: float = 0.0,
        lexicon: Iterable[str] | None = None,
        hotwords: Mapping[str, float] | None = None,
    ) -> None:
        spelling = _Spelling(tokeniser)
        automaton = _build_hotwords(hotwords or {}, spelling)
        over = NO_MODEL if model is None else OVER_TOKENS if _is_over_tokens(model, tokeniser) else OVER_WORDS
        named = {word for phrase in hotwords or () for word in phrase.split()}
        words = _weigh_words(model if over == OVER_WORDS else None, lexicon, named)
        has_words = over != OVER_TOKENS or lexicon is not None
        self.words, self.spelled = len(words), 0
        tree = _NO_LEXICON
        if has_words:
            tree, self.spelled = _build_lexicon(words, spelling)
            if words and self.spelled < len(words) / 2:
                strange = next(word for word in words if spelling.spell(word) is None)
                raise LanguageModelError(
                    f"{len(words) - self.spelled} of the language model's {len(words)} words cannot be spelled with "
                    f'the model\'s characters, "{strange}" for one: was it trained on text that is written otherwise?'
                )
        self._unknown_log_prob = 0.0 if model is None else float(unigrams_of(model)[model.unknown])
        self._knows_words = model is not None or lexicon is not None
        self.start = 0 if model is None else model.start
        tables = FusionTables(
            model=over,
            has_words=has_words,
            closed=lexicon is not None,
            alpha=0.0,
            beta=0.0,
            unknown=0.0,
            exemption=0.0 if model is None else exemption_of(model),
            unknown_id=0 if model is None else model.unknown,
            end_id=0 if model is None else model.end,
            off=0.0,
            boundary=spelling.boundary,
            spelling_start=spelling.start,
            spelling=spelling.symbols,
            unit=_units(model, tokeniser) if model is not None and over == OVER_TOKENS else np.zeros(0, np.int32),
            lexicon=tree,
            ngrams=NO_NGRAMS if model is None else model.arrays,
            hotwords=automaton,
        )
        self.tables = self._weigh(tables, alpha, beta, unknown)

    def reweighted(self, *, alpha: float, beta: float, unknown: float) -> Fusion:
        """The same knowledge, otherwise weighed."""
        other = copy.copy(self)
        other.tables = self._weigh(self.tables, alpha, beta, unknown)
        return other

    def favouring(self, tokeniser: Tokeniser, hotwords: Mapping[str, float]) -> Fusion | None:
        """The same knowledge, which was built without hotwords, with these: all but their automaton is shared. None
        where a word is not in the lexicon, so that this has to be built anew. Raises TextError."""
        spelling, lexicon = _Spelling(tokeniser), self.tables.lexicon
        automaton = _build_hotwords(hotwords, spelling)
        if self.tables.has_words:
            for word in {word for phrase in hotwords for word in phrase.split()}:
                place = START
                for symbol in spelling.spell(word) or ():
                    place = OFF if place == OFF else descend(lexicon, place, symbol)
                if place == OFF or lexicon.word[place] == NONE:
                    return None
        other = copy.copy(self)
        other.tables = self.tables._replace(hotwords=automaton)
        return other

    def _weigh(self, tables: FusionTables, alpha: float, beta: float, unknown: float) -> FusionTables:
        if not self._knows_words:
            unknown = 0.0  # every word is, and none is the worse for it
        off = alpha * self._unknown_log_prob + unknown + beta
        return tables._replace(alpha=float(alpha), beta=float(beta), unknown=float(unknown), off=float(off))


class _Spelling:
    """A tokeniser's tokens as symbols."""

    def __init__(self, tokeniser: Tokeniser) -> None:
        bare = [token.replace(tokeniser.space, "") for token in tokeniser.tokens]
        self.characters = sorted({character for token in bare[1:] for character in token})
        self._symbol = {character: i + 1 for i, character in enumerate(self.characters)}
        self.boundary = np.array([token.startswith(tokeniser.space) for token in tokeniser.tokens])
        spelt = [[self._symbol[c] for c in token] if i else [] for i, token in enumerate(bare)]
        self.start = np.cumsum([0, *map(len, spelt)]).astype(np.int32)
        self.symbols = np.array([symbol for symbols in spelt for symbol in symbols], np.int32)

    @property
    def size(self) -> int:
        return len(self.characters) + 1

    def spell(self, word: str) -> list[int] | None:
        """The word's symbols, None where the alphabet lacks one."""
        symbols = [self._symbol.get(character, 0) for character in word]
        return symbols if all(symbols) else None


def _is_over_tokens(model: NgramModel, tokeniser: Tokeniser) -> bool:
    """Whether the model's words are the tokeniser's tokens: where any of its words begins with the sub-word mark.

    Raises LanguageModelError where they should be and are not.
    """
    if not any(word.startswith(MARK) for word in model.words):
        return False
    known = set(model.words)
    missing = [token for token in lm_symbols(tokeniser)[1:] if token not in known]
    if len(missing) > len(tokeniser.tokens) / 4:
        raise LanguageModelError(
            f"the language model is over sub-words, and lacks {len(missing)} of the model's "
            f'{len(tokeniser.tokens) - 1} tokens, "{missing[0]}" for one: train it over them (asr lm train)'
        )
    return True


def _units(model: NgramModel, tokeniser: Tokeniser) -> np.ndarray:
    return np.array([model.index(symbol) for symbol in lm_symbols(tokeniser)], np.int32)


def unigrams_of(model: NgramModel) -> np.ndarray:
    """(V,) log probabilities of the model's words with no history."""
    return model.arrays.log_probs[1 : 1 + len(model.words)]


def exemption_of(model: NgramModel) -> float:
    """By how much a word that the model lacks is likelier than its <unk>, where it was asked for by name, as a hotword
    or in a lexicon: it counts as the model's rarest word, so that a small p(<unk>) does not keep it out."""
    return max(0.0, model.rarest - float(unigrams_of(model)[model.unknown]))


def _weigh_words(
    model: NgramModel | None, lexicon: Iterable[str] | None, named: Iterable[str]
) -> dict[str, tuple[int, float]]:
    """Word to (id in the model, unigram log probability). A word that the model lacks has the unknown one's id."""
    if model is None:
        return dict.fromkeys([*(lexicon or ()), *named], (0, 0.0))
    unigrams = unigrams_of(model).tolist()
    unknown = (model.unknown, unigrams[model.unknown] + exemption_of(model))
    known = {
        word: (i, log_prob)
        for i, (word, log_prob) in enumerate(zip(model.words, unigrams, strict=True))
        if word not in ("<s>", "</s>", "<unk>")
    }
    if lexicon is not None:
        return {word: known.get(word, unknown) for word in (*lexicon, *named)}
    return {**{word: unknown for word in named}, **known}


NO_NGRAMS = NgramArrays(
    words=np.zeros(1, np.int32),
    log_probs=np.zeros(1, np.float32),
    suffixes=np.zeros(1, np.int32),
    backoffs=np.zeros(1, np.float32),
    first_child=np.zeros(2, np.int32),
)
_NO_LEXICON = Lexicon(
    first_child=np.zeros(2, np.int32),
    symbol=np.zeros(1, np.int32),
    word=np.full(1, NONE, np.int32),
    best=np.zeros(1),
)


def _build_lexicon(words: Mapping[str, tuple[int, float]], spelling: _Spelling) -> tuple[Lexicon, int]:
    """The tree of all words that can be spelled, and their number."""
    alphabet = set(spelling.characters)
    table = str.maketrans({character: chr(i + 1) for i, character in enumerate(spelling.characters)})
    # What is longer than any real word is left to the unknown one.
    rows = sorted(
        (w.translate(table), i, p) for w, (i, p) in words.items() if 0 < len(w) <= LONGEST and alphabet.issuperset(w)
    )
    if not rows:
        return _NO_LEXICON, 0
    spelled, ids, log_probs = zip(*rows, strict=True)
    tree = build_tree(spelled)
    word = np.full(len(tree.symbol), NONE, np.int32)
    word[tree.ends] = ids
    lexicon = Lexicon(
        first_child=tree.first_child, symbol=tree.symbol, word=word, best=best_below(tree, np.array(log_probs))
    )
    return lexicon, len(rows)


def _build_hotwords(phrases: Mapping[str, float], spelling: _Spelling) -> Hotwords:
    off = 1
    children: list[dict[int, int]] = [{}, {}]
    own, potential = [0.0, 0.0], [0.0, 0.0]
    for phrase, weight in phrases.items():
        spelt: list[int] = []
        for word in phrase.split():
            symbols = spelling.spell(word)
            if symbols is None:
                raise TextError(f'the hotword "{phrase}" cannot be spelled with the model\'s characters')
            spelt += [BOUNDARY, *symbols] if spelt else symbols
        if not spelt:
            raise TextError("a hotword is empty")
        weight, place = checked_weight(phrase, weight), 0
        for depth, symbol in enumerate(spelt, start=1):
            if symbol not in children[place]:
                children[place][symbol] = len(children)
                children.append({})
                own.append(0.0)
                potential.append(0.0)
            place = children[place][symbol]
            potential[place] = max(potential[place], min(weight, HOPE) * depth / len(spelt))
        own[place] += weight

    follow = np.full((len(children), spelling.size), off, np.int32)
    follow[:, BOUNDARY] = 0
    gain, hope = np.array(own), np.array(potential)
    queue = [(0, off)]  # place, and where its longest proper suffix from a word boundary stands
    for place, fallback in queue:
        follow[place] = follow[fallback]
        gain[place] += gain[fallback]
        hope[place] = max(hope[place], hope[fallback])
        for symbol, child in children[place].items():
            queue.append((child, int(follow[fallback, symbol])))
            follow[place, symbol] = child
    return Hotwords(follow=follow, potential=hope, sober=np.exp(-hope), gain=np.clip(gain, -MOST, MOST))


def checked_weight(phrase: str, weight: float) -> float:
    """A hotword's weight, as far as it counts. Raises TextError for one that is NaN."""
    if math.isnan(weight):
        raise TextError(f'the weight of the hotword "{phrase}" is NaN; expected a number of nats')
    return min(max(weight, -MOST), MOST)

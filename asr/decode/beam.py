"""CTC prefix beam search (Graves 2006; Hannun et al. 2014, algorithm 1): sums over paths, where greedy decoding takes
one.

The search grows a tree of prefixes. A beam is a prefix with the probability mass of all paths that spell it so far,
those that end in a blank apart from those that end in its last token. Masses are linear, not logarithms: a frame costs
multiplications and additions, and dividing by the best beam's mass now and then keeps them in range. What a language
model, a lexicon or hotwords say of a prefix (``decode.fusion``) is a factor on its mass.

Three things make it quick. Tokens that are unlikely in a frame are not tried, and a CTC model leaves most frames to the
blank alone, which costs one addition. A prefix enters the tree only where it survives a frame. And a batch is one call
of compiled code, which returns two arrays: to wrap each one that comes back takes as long as to search a few frames.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np

from asr import recipe, runtime
from asr.decode import lexical_search, prefix_search
from asr.decode.checks import checked, checked_frames
from asr.decode.fusion import NO_MODEL, Fusion, FusionTables
from asr.decode.lexical import LexicalFusion, LexicalTables
from asr.decode.prefix_search import NONE, READING
from asr.decode.rescore import PrefixRows, TextModel, TokenModel, rescore
from asr.errors import EmissionsError
from asr.records import Emissions, Hypothesis
from asr.text.tokenise import PhoneTokeniser, Tokeniser

WORK_A_THREAD = 400_000
"""Frames times width, without a language model: with less, some 2 ms, sharing costs more than it gains."""
FUSED_WORK = 20
"""How much dearer a frame is with one, or more."""
SPARE = 0.03
"""Where n-best lists are asked for, so much counts of a prefix that is sure to stay behind another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Knowledge:
    """What a search knows besides the emissions. An LSTM that takes part in it needs a fusion, if an empty one; a
    search for the words of phones needs a lexical one."""

    fusion: Fusion | LexicalFusion | None = None
    lstm: TokenModel | TextModel | None = None

    @property
    def words(self) -> tuple[str, ...] | None:
        """The words that readings are made of, where the tokens do not spell them."""
        return self.fusion.words if isinstance(self.fusion, LexicalFusion) else None

    @property
    def core(self) -> ModuleType:
        """The compiled search for it."""
        return prefix_search if self.words is None else lexical_search

    def weighed(self, settings: recipe.Beam) -> Knowledge:
        """The same as ``settings`` weigh it. ``beta`` goes with an n-gram; an LSTM that takes part has its own."""
        if self.fusion is None:
            return self
        beta = settings.beta if self.fusion.tables.model != NO_MODEL else 0.0
        if settings.lstm is not None and settings.lstm.mode == "fuse":
            beta += settings.lstm.beta
        return replace(self, fusion=self.fusion.reweighted(alpha=settings.alpha, beta=beta, unknown=settings.unknown))


class BeamDecoder:
    """Emissions to n-best lists, best first. ``threads`` share a batch's utterances; 0 takes every core."""

    def __init__(
        self,
        tokeniser: Tokeniser,
        settings: recipe.Beam,
        knowledge: Knowledge | None = None,
        *,
        nbest: int = 1,
        threads: int = 0,
    ) -> None:
        self.tokeniser = tokeniser
        self.settings = settings
        self.calibration = settings.calibration
        self.knowledge = knowledge or Knowledge()
        if isinstance(tokeniser, PhoneTokeniser) and self.knowledge.fusion is None:
            self.knowledge = replace(self.knowledge, fusion=LexicalFusion(tokeniser)).weighed(settings)
        self.nbest = min(nbest, settings.width)
        self.threads = threads or runtime.cores()

    def __call__(self, emissions: Emissions) -> list[tuple[Hypothesis, ...]]:
        """Raises EmissionsError where emissions are not of the tokeniser's tokens, or no log probabilities."""
        log_probs, lengths = checked(emissions, self.tokeniser)
        work = int(lengths.sum()) * self.settings.width * (FUSED_WORK if self.knowledge.fusion else 1)
        shares = min(self.threads, len(lengths), 1 + work // WORK_A_THREAD)
        if shares <= 1:
            return self._decode(log_probs, lengths)
        parts = self._pool.map(self._decode, np.array_split(log_probs, shares), np.array_split(lengths, shares))
        return [hypotheses for part in parts for hypotheses in part]

    @functools.cached_property
    def _pool(self) -> ThreadPoolExecutor:
        """Kept, since to start threads takes 200 us: as long as a batch of short clips."""
        return ThreadPoolExecutor(self.threads)

    def begin(self) -> BeamSearch:
        return BeamSearch(self.tokeniser, self.settings, self.knowledge, nbest=self.nbest)

    def reset(self, settings: recipe.Beam, *, nbest: int = 1) -> BeamDecoder:
        """A decoder that knows the same, with other ``settings`` and weights."""
        return BeamDecoder(
            self.tokeniser, settings, self.knowledge.weighed(settings), nbest=nbest, threads=self.threads
        )

    def favouring(self, hotwords: Mapping[str, float]) -> BeamDecoder | None:
        """A decoder that knows the same and favours these phrases, normalised as its words are, by weights in nats:
        without a second language model and lexicon. None where those would be others. Raises TextError."""
        fusion = self.knowledge.fusion
        if fusion is None or self.settings.hotwords:
            return None
        favoured: Fusion | LexicalFusion | None
        if isinstance(fusion, LexicalFusion):
            assert isinstance(self.tokeniser, PhoneTokeniser)
            favoured = fusion.favouring(self.tokeniser, hotwords)
        else:
            favoured = fusion.favouring(self.tokeniser, hotwords)
        if favoured is None:
            return None
        settings, knowledge = self.settings.model_copy(update={"hotwords": dict(hotwords)}), self.knowledge
        return BeamDecoder(
            self.tokeniser, settings, replace(knowledge, fusion=favoured), nbest=self.nbest, threads=self.threads
        )

    def _decode(self, log_probs: np.ndarray, lengths: np.ndarray) -> list[tuple[Hypothesis, ...]]:
        lstm, network = self.settings.lstm, self.knowledge.lstm
        if lstm is None or network is None:
            return self._search(log_probs, lengths, self.nbest)
        if lstm.mode == "rescore":
            nbest = min(max(self.nbest, lstm.nbest), self.settings.width)
            found = self._search(log_probs, lengths, nbest)
            return [_rescored(readings, network, lstm)[: self.nbest] for readings in found]
        lists = []
        for row, length in zip(log_probs, lengths, strict=True):
            search = BeamSearch(self.tokeniser, self.settings, self.knowledge)
            search.feed(row[:length])
            lists.append(search.nbest(self.nbest))
        return lists

    def _search(self, log_probs: np.ndarray, lengths: np.ndarray, nbest: int) -> list[tuple[Hypothesis, ...]]:
        (tables, context), limits = _tables_of(self.knowledge), _limits(self.settings, log_probs.shape[2], nbest)
        readings, spelt = self.knowledge.core.search(log_probs, lengths, tables, context, limits, nbest)
        return _hypotheses(readings, spelt, lengths.tolist(), self.tokeniser, self.knowledge.words)


class BeamSearch:
    """One utterance's search, fed with frames as they come: for live speech, and for an LSTM that takes part."""

    revises = True

    def __init__(self, tokeniser: Tokeniser, settings: recipe.Beam, knowledge: Knowledge, *, nbest: int = 1) -> None:
        self._tokeniser = tokeniser
        self._tables, context = _tables_of(knowledge)
        self._lstm: PrefixRows | None = None
        self._rescoring: tuple[TokenModel | TextModel, recipe.LstmFusion, int] | None = None
        if knowledge.lstm is not None and settings.lstm is not None and settings.lstm.mode == "rescore":
            nbest = max(nbest, min(settings.lstm.nbest, settings.width))
            self._rescoring = (knowledge.lstm, settings.lstm, nbest)
        elif knowledge.lstm is not None and not isinstance(knowledge.lstm, TextModel) and settings.lstm is not None:
            self._lstm, self._weight = knowledge.lstm.prefixes(), settings.lstm.weight
        self._limits = _limits(settings, len(tokeniser.tokens), nbest)
        self._words, self._core = knowledge.words, knowledge.core
        fused = self._lstm is not None
        self._state = self._core.begin(self._limits, len(tokeniser.tokens), self._tables, context, fused)
        if self._lstm is not None:
            self._state.rows[0] = self._weight * self._lstm.rows[0]

    def feed(self, log_probs: np.ndarray) -> None:
        """Reads (T', V) emissions more. Raises EmissionsError as the decoder does."""
        log_probs = checked_frames(log_probs, self._tokeniser)
        frame = 0
        while frame < len(log_probs):
            self._state = self._core.with_room(self._state, self._tables)
            known = self._prefixes
            frame = self._core.advance(log_probs, frame, self._tables, self._limits, self._state)
            if self._lstm is not None and self._prefixes > known:
                new = self._state.prefixes[known : self._prefixes]
                self._state.rows[known : self._prefixes] = self._weight * self._lstm.grow(new["parent"], new["token"])
        _check_score(float(self._state.progress["scale"][0]))

    @property
    def _prefixes(self) -> int:
        """How many the tree has."""
        return int(self._state.progress["prefixes"][0])

    def best(self) -> Hypothesis:
        """The best reading of the frames so far, as if the sentence ended here, but for a word that has not."""
        return self._read(1, partial=True)[0]

    def conclude(self) -> Hypothesis:
        """The best reading of a sentence that has ended, rescored where the settings say so."""
        if self._rescoring is None:
            return self.nbest(1)[0]
        network, part, count = self._rescoring
        return _rescored(self.nbest(count), network, part)[0]

    def nbest(self, count: int) -> tuple[Hypothesis, ...]:
        """The ``count`` best readings of the frames so far, as if the sentence ended here."""
        return self._read(count, partial=False)

    def _read(self, count: int, *, partial: bool) -> tuple[Hypothesis, ...]:
        frames = int(self._state.progress["frames"][0])
        readings, spelt = np.zeros((1, count), READING), np.zeros(frames * count, self._core.SPELT)
        self._state = self._core.with_room(self._state, self._tables)
        end = self._core.read_out(self._tables, self._state, readings[0], spelt, 0, partial)
        [hypotheses] = _hypotheses(readings, spelt[:end], [frames], self._tokeniser, self._words)
        return hypotheses


def _rescored(
    readings: tuple[Hypothesis, ...], network: TokenModel | TextModel, part: recipe.LstmFusion
) -> tuple[Hypothesis, ...]:
    return rescore(readings, network, weight=part.weight, length_bonus=part.beta)


def _tables_of(knowledge: Knowledge) -> tuple[FusionTables | LexicalTables | None, int]:
    """What the compiled code reads, and the language model's state at a sentence's start."""
    return (None, 0) if knowledge.fusion is None else (knowledge.fusion.tables, knowledge.fusion.start)


def _check_score(score: float) -> None:
    """Raises EmissionsError where the settings' weights have made a score infinite, or NaN."""
    if not score < math.inf:
        raise EmissionsError(
            f"an utterance's score is {score}: look for weights beyond measure in the decoder's settings (alpha, beta, "
            "unknown, lstm)"
        )


def _limits(settings: recipe.Beam, vocabulary: int, nbest: int) -> tuple[int, int, float, float, float]:
    """What bounds a search; last, what counts of a prefix's mass where another one of the same future is ahead."""
    spare = SPARE if nbest > 1 else 0.0
    return (
        settings.width,
        min(settings.tokens, vocabulary - 1),
        settings.token_threshold,
        settings.score_threshold,
        spare,
    )


def _hypotheses(
    readings: np.ndarray,
    spelt: np.ndarray,
    lengths: Sequence[int],
    tokeniser: Tokeniser,
    words: Sequence[str] | None,
) -> list[tuple[Hypothesis, ...]]:
    """``readings`` (B, N) of ``lengths`` (B,) frames, whose tokens lie in ``spelt`` one after another; NONE ends a list
    that is shorter. Of readings made of ``words``, each word is told with its last token."""
    tokens, frames, probabilities = (tuple(spelt[name].tolist()) for name in ("token", "frame", "probability"))
    ended = None if words is None else spelt["word"].tolist()
    _check_score(float(readings["acoustic"][:, 0].max(initial=-math.inf)))
    start, lists = 0, []
    for row, length in zip(readings.tolist(), lengths, strict=True):
        hypotheses = []
        for end, acoustic, language in row:
            if end == NONE:
                break
            own = tokens[start:end]
            if words is None or ended is None:
                text, spans = tokeniser.decode(own), None
            else:
                text = " ".join(words[word] for word in ended[start:end] if word != NONE)
                spans = _spans(own, ended[start:end], tokeniser)
            hypotheses.append(
                Hypothesis(
                    tokens=own,
                    frames=frames[start:end],
                    probabilities=probabilities[start:end],
                    text=text,
                    acoustic_score=acoustic,
                    lm_score=language,
                    spans=spans,
                    length=length,
                )
            )
            start = end
        lists.append(tuple(hypotheses))
    return lists


def _spans(tokens: Sequence[int], ended: Sequence[int], tokeniser: Tokeniser) -> tuple[tuple[int, int], ...]:
    """From which token to which each word goes, without the separators around it."""
    spans, start = [], 0
    for place, word in enumerate(ended):
        if tokeniser.tokens[tokens[place]] == tokeniser.space:
            start = place + 1
        elif word != NONE:
            spans.append((start, place + 1))
            start = place + 1
    return tuple(spans)

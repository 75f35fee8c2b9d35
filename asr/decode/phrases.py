"""Decoding to one of given phrases: the likeliest path of CTC through an automaton, or nothing where none was said.

The words of a grammar (``decode.grammar``) are spelled in the model's tokens, in each way that a lexicon pronounces
them. A path spells a phrase as CTC's do (Graves et al. 2006), with a blank between two tokens that are alike; before
and after it, frames of the blank and the word separator are passed over. The Viterbi algorithm finds the best path of
all, exactly, in time linear in frames times tokens of the automaton.

How well a phrase fits is its likelihood over that of each frame's likeliest token, which is what the network reads when
it is free to: a filler that anything can be said to. Its geometric mean over the tokens is the ``confidence``, which
depends neither on the silence around nor on the length of a phrase.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from asr import recipe
from asr.decode.checks import checked, checked_frames
from asr.decode.compiled import compiled
from asr.decode.grammar import END, START, Grammar
from asr.errors import TextError
from asr.records import BLANK, Emissions, Hypothesis
from asr.text.tokenise import PhoneTokeniser, Tokeniser

NONE = -1
STAY, AFTER_BLANK, AFTER_TOKEN, AFTER_OTHER, FROM_START = range(5)
"""Where a path came from when it is on a token: the same, the blank before, the token before, at a junction the best
token of another label, silence."""


class Network(NamedTuple):
    """K tokens, one after another in a word, and J junctions between words.

    ``labels`` (K,) are token ids. ``sources`` (K,) and ``targets`` (K,) are the junctions before a word's first token
    and after its last, else NONE. ``opens`` (K,) says whether a phrase may begin with a token. ``words`` (K,) are a
    word's place in the list of them, at its last token, else NONE; ``separators`` (K,) whether a token only sets words
    apart. ``skips`` (E, 2) are junctions in topological order. ``quiet`` are the token ids of silence.
    """

    labels: np.ndarray
    sources: np.ndarray
    targets: np.ndarray
    opens: np.ndarray
    words: np.ndarray
    separators: np.ndarray
    skips: np.ndarray
    junctions: int
    quiet: np.ndarray


class _State(NamedTuple):
    """Scores of the best paths that end on a token (K,), on the blank after it (K,), on a blank at a junction (J,), and
    those of the silence before and after (2,). ``arrivals`` (J, 2) are the best paths whose last token ends a word
    before a junction, of two labels; ``labels`` and ``tokens`` (J, 2) are that token's label and place."""

    tokens: np.ndarray
    blanks: np.ndarray
    between: np.ndarray
    outside: np.ndarray
    arrivals: np.ndarray
    arrived_labels: np.ndarray
    arrived_tokens: np.ndarray


class _Trace(NamedTuple):
    """Of T frames, where each path came from: ``tokens`` (T, K) as STAY to FROM_START; whether a path on a blank was on
    a token before, ``blanks`` (T, K), ``between`` (T, J) and ``after`` (T,); ``arrived`` (T, J, 2), see _State."""

    tokens: np.ndarray
    blanks: np.ndarray
    between: np.ndarray
    after: np.ndarray
    arrived: np.ndarray


def build_network(grammar: Grammar, tokeniser: Tokeniser) -> tuple[Network, tuple[str, ...]]:
    """The grammar in tokens, and its words. Raises TextError for a word that they cannot spell, naming its line."""
    index: dict[str, int] = {}
    spellings: dict[str, list[list[int]]] = {}
    separator = [i for i, token in enumerate(tokeniser.tokens) if i != BLANK and token == tokeniser.space]
    between = [] if tokeniser.space == "▁" else separator[:1]
    opening = _opening(grammar)
    rows: list[tuple[int, int, int, bool, int, bool]] = []
    for spoken in grammar.words:
        if spoken.word not in spellings:
            try:
                spellings[spoken.word] = _spell(spoken.word, tokeniser)
            except TextError as error:
                raise TextError(f"{grammar.name}, line {spoken.line}: {error}") from None
            index[spoken.word] = len(index)
        for tokens in spellings[spoken.word]:
            chain = [*between, *tokens]
            for place, label in enumerate(chain):
                rows.append(
                    (
                        label,
                        NONE if place else spoken.start,
                        spoken.end if place == len(chain) - 1 else NONE,
                        place == len(between) and spoken.start in opening,
                        index[spoken.word] if place == len(chain) - 1 else NONE,
                        place < len(between),
                    )
                )
    labels, sources, targets, opens, words, separators = zip(*rows, strict=True)
    network = Network(
        labels=np.array(labels, np.int32),
        sources=np.array(sources, np.int32),
        targets=np.array(targets, np.int32),
        opens=np.array(opens, np.bool_),
        words=np.array(words, np.int32),
        separators=np.array(separators, np.bool_),
        skips=np.array(grammar.skips, np.int32).reshape(-1, 2),
        junctions=grammar.junctions,
        quiet=np.array([BLANK, *separator], np.int32),
    )
    return network, tuple(index)


def _spell(word: str, tokeniser: Tokeniser) -> list[list[int]]:
    """Each way to spell a word, once."""
    ways = tokeniser.pronounce(word) if isinstance(tokeniser, PhoneTokeniser) else [tokeniser.encode(word)]
    return list(map(list, dict.fromkeys(map(tuple, ways))))


def _opening(grammar: Grammar) -> set[int]:
    """The junctions where no word has been said yet."""
    opening = {START}
    for before, after in grammar.skips:
        if before in opening:
            opening.add(after)
    return opening


# -------------------------------------------------------------------------------------------------------- search


def _begin(network: Network) -> _State:
    def never(*shape: int) -> np.ndarray:
        return np.full(shape, -np.inf)

    size, junctions = len(network.labels), network.junctions
    return _State(
        tokens=never(size),
        blanks=never(size),
        between=never(junctions),
        outside=np.array([0.0, -np.inf]),
        arrivals=never(junctions, 2),
        arrived_labels=np.full((junctions, 2), NONE, np.int32),
        arrived_tokens=np.full((junctions, 2), NONE, np.int32),
    )


def _new_trace(network: Network, frames: int) -> _Trace:
    size, junctions = len(network.labels), network.junctions
    return _Trace(
        tokens=np.zeros((frames, size), np.uint8),
        blanks=np.zeros((frames, size), np.bool_),
        between=np.zeros((frames, junctions), np.bool_),
        after=np.zeros(frames, np.bool_),
        arrived=np.zeros((frames, junctions, 2), np.int32),
    )


@compiled
def _advance(log_probs, network, state, trace):  # type: ignore[no-untyped-def]
    """Takes ``state`` over frames ``log_probs`` (T, V) and fills their ``trace``."""
    before = state.tokens.copy()
    for t in range(len(log_probs)):
        row = log_probs[t]
        blank, quiet = np.float64(row[BLANK]), -math.inf
        for label in network.quiet:
            quiet = max(quiet, row[label])
        before[:] = state.tokens
        _enter_tokens(row, network, state, before, trace.tokens[t])
        for k in range(len(before)):  # blanks within words
            if network.targets[k] == NONE:
                trace.blanks[t, k] = before[k] > state.blanks[k]
                state.blanks[k] = max(before[k], state.blanks[k]) + blank
        for j in range(network.junctions):
            trace.between[t, j] = state.arrivals[j, 0] > state.between[j]
            state.between[j] = max(state.arrivals[j, 0], state.between[j]) + blank
        trace.after[t] = state.arrivals[END, 0] > state.outside[1]
        state.outside[1] = max(state.arrivals[END, 0], state.outside[1]) + quiet
        state.outside[0] += quiet
        _arrive(network, state)
        trace.arrived[t] = state.arrived_tokens


@compiled
def _enter_tokens(row, network, state, before, origins):  # type: ignore[no-untyped-def]
    """One frame's paths on tokens, from all paths ``before`` it."""
    for k in range(len(before)):
        label, source = network.labels[k], network.sources[k]
        best, origin = before[k], STAY
        if source == NONE:
            if state.blanks[k - 1] > best:
                best, origin = state.blanks[k - 1], AFTER_BLANK
            if network.labels[k - 1] != label and before[k - 1] > best:
                best, origin = before[k - 1], AFTER_TOKEN
        else:
            if state.between[source] > best:
                best, origin = state.between[source], AFTER_BLANK
            if state.arrived_labels[source, 0] != label:
                if state.arrivals[source, 0] > best:
                    best, origin = state.arrivals[source, 0], AFTER_TOKEN
            elif state.arrivals[source, 1] > best:
                best, origin = state.arrivals[source, 1], AFTER_OTHER
        if network.opens[k] and state.outside[0] > best:
            best, origin = state.outside[0], FROM_START
        state.tokens[k] = best + row[label]
        origins[k] = origin


@compiled
def _arrive(network, state):  # type: ignore[no-untyped-def]
    """Paths whose word has ended come to the junction after it, and over skips to others."""
    state.arrivals[:] = -math.inf
    state.arrived_labels[:] = NONE
    for k in range(len(network.labels)):
        if network.targets[k] != NONE:
            _offer(state, network.targets[k], state.tokens[k], network.labels[k], k)
    for e in range(len(network.skips)):
        a, b = network.skips[e]
        for i in range(2):
            _offer(state, b, state.arrivals[a, i], state.arrived_labels[a, i], state.arrived_tokens[a, i])


@compiled
def _offer(state, junction, score, label, token):  # type: ignore[no-untyped-def]
    """Keeps the best two of different labels."""
    scores, labels, tokens = state.arrivals[junction], state.arrived_labels[junction], state.arrived_tokens[junction]
    if score > scores[0]:
        if label != labels[0]:
            scores[1], labels[1], tokens[1] = scores[0], labels[0], tokens[0]
        scores[0], labels[0], tokens[0] = score, label, token
    elif label != labels[0] and score > scores[1]:
        scores[1], labels[1], tokens[1] = score, label, token


@compiled
def _read_back(network, trace, on_token):  # type: ignore[no-untyped-def]
    """(T,) the token that the best path is on at each frame, NONE for blanks and silence; ``on_token`` where it ends on
    one. The path ends at the junction END."""
    frames = len(trace.after)
    path = np.full(frames, NONE, np.int32)
    t = frames - 1
    while not on_token and t >= 0:
        on_token = trace.after[t]
        t -= 1
    k = trace.arrived[t, END, 0] if t >= 0 else NONE
    while t >= 0 and k != NONE:
        path[t] = k
        origin, source = trace.tokens[t, k], network.sources[k]
        t -= 1
        if origin == FROM_START:
            break
        if origin == AFTER_BLANK:
            entered = False
            while not entered:
                entered = trace.blanks[t, k - 1] if source == NONE else trace.between[t, source]
                t -= 1
        if origin != STAY:
            k = k - 1 if source == NONE else trace.arrived[t, source, 1 if origin == AFTER_OTHER else 0]
    return path


# ------------------------------------------------------------------------------------------------------- decoder


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """The phrase that fits best, whether or not it was said: its token ``path`` (T,), see ``_read_back``, its ``score``
    in nats, and its ``confidence``, from 0 to 1."""

    path: np.ndarray
    score: float
    confidence: float


class PhraseDecoder:
    """Emissions to one of the phrases of ``grammar``, or to none. Raises TextError for words that cannot be spelled."""

    calibration = None

    def __init__(self, tokeniser: Tokeniser, grammar: Grammar, settings: recipe.Phrases) -> None:
        self.tokeniser = tokeniser
        self.settings = settings
        self.network, self.words = build_network(grammar, tokeniser)

    def __call__(self, emissions: Emissions) -> list[tuple[Hypothesis, ...]]:
        """Raises EmissionsError where emissions are not of the tokeniser's tokens, or no log probabilities."""
        pause = max(1, round(self.settings.pause / emissions.frame_shift))
        log_probs, lengths = checked(emissions, self.tokeniser)
        return [(self._whole(row[:length], pause),) for row, length in zip(log_probs, lengths.tolist(), strict=True)]

    def begin(self) -> PhraseSearch:
        return PhraseSearch(self)

    def _whole(self, log_probs: np.ndarray, pause: int) -> Hypothesis:
        """A phrase after each pause, as a stream's utterances end there."""
        quiet = np.isin(log_probs.argmax(axis=1), self.network.quiet) if len(log_probs) else np.zeros(0, np.bool_)
        edges = [0, *_middles(quiet, pause), len(log_probs)]
        readings = []
        for start, end in itertools.pairwise(edges):
            search = self.begin()
            search.take(log_probs[start:end])
            readings.append((start, search.conclude()))
        return replace(_in_a_row(readings), length=len(log_probs))

    def read(self, match: Match, log_probs: np.ndarray) -> Hypothesis:
        """The hypothesis of a phrase's tokens: a token's frame is where it is likeliest."""
        network = self.network
        frames: list[int] = []
        places: list[int] = []
        for frame in np.flatnonzero(match.path != NONE).tolist():
            place = int(match.path[frame])
            entered = frame == 0 or match.path[frame - 1] != place
            if entered:
                places.append(place)
                frames.append(frame)
            elif log_probs[frame, network.labels[place]] > log_probs[frames[-1], network.labels[place]]:
                frames[-1] = frame
        labels = network.labels[places].tolist()
        ends = [i + 1 for i, place in enumerate(places) if network.words[place] != NONE]
        starts = [0, *ends[:-1]]
        separated = [start + bool(network.separators[places[start]]) for start in starts]
        return Hypothesis(
            tokens=tuple(labels),
            frames=tuple(frames),
            probabilities=tuple(math.exp(log_probs[f, label]) for f, label in zip(frames, labels, strict=True)),
            text=" ".join(self.words[network.words[places[end - 1]]] for end in ends),
            acoustic_score=match.score,
            spans=tuple(zip(separated, ends, strict=True)),
            length=len(log_probs),
        )


class PhraseSearch:
    """One utterance's search, fed with frames as they come."""

    revises = True

    def __init__(self, decoder: PhraseDecoder) -> None:
        self._decoder = decoder
        self._state = _begin(decoder.network)
        self._traces: list[_Trace] = []
        self._log_probs: list[np.ndarray] = [np.zeros((0, len(decoder.tokeniser.tokens)), np.float32)]

    def feed(self, log_probs: np.ndarray) -> None:
        """Reads (T', V) emissions more. Raises EmissionsError as the decoder does."""
        self.take(checked_frames(log_probs, self._decoder.tokeniser))

    def take(self, log_probs: np.ndarray) -> None:
        """As ``feed``, of frames that are checked already."""
        trace = _new_trace(self._decoder.network, len(log_probs))
        _advance(log_probs, self._decoder.network, self._state, trace)
        self._traces.append(trace)
        self._log_probs.append(log_probs)

    def best(self) -> Hypothesis:
        """The phrase said so far, if one was, as if the utterance ended here."""
        reading = self.conclude()
        return reading if reading.text else _NOTHING

    def conclude(self) -> Hypothesis:
        """The phrase of an utterance that has ended, or nothing, and why."""
        log_probs = np.concatenate(self._log_probs)
        match = self._match(log_probs)
        reading = _NOTHING if match is None else self._decoder.read(match, log_probs)
        if match is not None and match.confidence >= self._decoder.settings.reject:
            return reading
        heard = _labels_heard(log_probs, self._decoder.network.quiet)
        if not heard:
            return _NOTHING
        nearest = f'; the nearest is "{reading.text}", of confidence {match.confidence:.2g}' if match else ""
        return Hypothesis(
            tokens=(),
            frames=(),
            probabilities=(),
            text="",
            acoustic_score=float(log_probs.max(axis=1).sum()),
            remark=f"none of the phrases{nearest}",
        )

    def _match(self, log_probs: np.ndarray) -> Match | None:
        """The phrase that fits best; None where the frames have room for none."""
        network, state = self._decoder.network, self._state
        score = float(max(state.arrivals[END, 0], state.outside[1]))
        if score == -math.inf:
            return None
        trace = _Trace(*map(np.concatenate, zip(*self._traces, strict=True)))
        path = _read_back(network, trace, bool(state.arrivals[END, 0] >= state.outside[1]))
        free = float(log_probs.max(axis=1).sum(dtype=np.float64))
        said = np.count_nonzero((path != NONE) & (path != np.append(NONE, path[:-1])))
        tokens = max(int(said), _labels_heard(log_probs, network.quiet))
        return Match(path=path, score=score, confidence=min(1.0, math.exp((score - free) / tokens)))


_NOTHING = Hypothesis(tokens=(), frames=(), probabilities=(), text="", acoustic_score=0.0)


def _labels_heard(log_probs: np.ndarray, quiet: np.ndarray) -> int:
    """How many tokens the best path of all spells, silence not counted."""
    if not len(log_probs):
        return 0
    path = log_probs.argmax(axis=1)
    return int(np.count_nonzero(~np.isin(path, quiet) & (path != np.append(BLANK, path[:-1]))))


def _middles(quiet: np.ndarray, pause: int) -> list[int]:
    """The frames in the middle of each stretch of at least ``pause`` frames of silence between others."""
    heard = np.flatnonzero(~quiet)
    gaps = np.diff(heard)
    return [int(start + (gap + 1) // 2) for start, gap in zip(heard, gaps, strict=False) if gap > pause]


def _in_a_row(readings: Sequence[tuple[int, Hypothesis]]) -> Hypothesis:
    """One hypothesis of several, and the frame that each begins with."""
    spans: list[tuple[int, int]] = []
    length = 0
    for _, reading in readings:
        spans += [(length + start, length + end) for start, end in reading.spans or ()]
        length += len(reading.tokens)
    return Hypothesis(
        tokens=tuple(token for _, reading in readings for token in reading.tokens),
        frames=tuple(start + frame for start, reading in readings for frame in reading.frames),
        probabilities=tuple(probability for _, reading in readings for probability in reading.probabilities),
        text=" ".join(reading.text for _, reading in readings if reading.text),
        acoustic_score=sum(reading.acoustic_score for _, reading in readings),
        spans=tuple(spans),
        remark="; ".join(reading.remark for _, reading in readings if reading.remark),
    )

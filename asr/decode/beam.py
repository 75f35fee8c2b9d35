"""CTC prefix beam search (Graves 2006; Hannun et al. 2014, algorithm 1): sums over paths, where greedy decoding takes
one.

The search grows a tree of prefixes. A beam is a prefix with the probability mass of all paths that spell it so far,
those that end in a blank apart from those that end in its last token. Masses are linear, not logarithms: a frame costs
multiplications and additions, and dividing by the best beam's mass after each frame keeps them in range. What a
language model, a lexicon or hotwords say of a prefix (``decode.fusion``) is a factor on its mass.

Two things make it quick. Tokens that are unlikely in a frame are not tried, and a CTC model leaves most frames to the
blank alone, which costs one multiplication a beam. And a prefix enters the tree only where it survives a frame.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numba
import numpy as np
import torch

from asr import recipe, runtime
from asr.decode.fusion import NO_MODEL, Fusion, extend, finish
from asr.decode.rescore import rescore
from asr.model.language import LanguageModel, PrefixRows
from asr.records import BLANK, Emissions, Hypothesis
from asr.text.tokenise import Tokeniser

NONE = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Knowledge:
    """What a search knows besides the emissions. An LSTM that takes part in it needs a fusion, if an empty one."""

    fusion: Fusion | None = None
    lstm: LanguageModel | None = None

    def weighed(self, settings: recipe.Beam) -> Knowledge:
        """The same as ``settings`` weigh it. ``beta`` goes with an n-gram; an LSTM that takes part has its own."""
        if self.fusion is None:
            return self
        beta = settings.beta if self.fusion.tables.model != NO_MODEL else 0.0
        if settings.lstm is not None and settings.lstm.mode == "fuse":
            beta += settings.lstm.beta
        return replace(self, fusion=self.fusion.reweighted(alpha=settings.alpha, beta=beta, unknown=settings.unknown))


_FUSION = [
    ("word", np.int32),
    ("context", np.int32),
    ("hotword", np.int32),
    ("language", np.float64),
    ("total", np.float64),
]
_PREFIX = np.dtype(
    [
        ("parent", np.int32),
        ("token", np.int32),
        ("child", np.int32),  # the newest of its extensions, each of which names the one before it as its sibling
        ("sibling", np.int32),
        ("slot", np.int32),  # its place among this frame's candidates, or NONE
        ("frame", np.int32),  # where its token is likeliest among the frames that most of its mass has it in,
        ("probability", np.float64),  # and its posterior there
        ("factor", np.float64),  # exp(total - its parent's total)
        *_FUSION,
    ]
)
_CANDIDATE = np.dtype(
    [
        ("prefix", np.int32),  # NONE where it is not in the tree yet
        ("parent", np.int32),
        ("token", np.int32),
        ("blank", np.float64),
        ("nonblank", np.float64),
        *_FUSION,
    ]
)
_BEAM = np.dtype([("prefix", np.int32), ("blank", np.float64), ("nonblank", np.float64)])
_SPELT = np.dtype([("token", np.int32), ("frame", np.int32), ("probability", np.float64)])
_READING = np.dtype([("end", np.int64), ("acoustic", np.float64), ("language", np.float64)])


@numba.njit(cache=True, nogil=True)
def _likely_tokens(log_probs, threshold, limit, tokens, probabilities):  # type: ignore[no-untyped-def]
    """The frame's tokens but the blank of at least ``threshold``, likeliest first, at most ``limit``; their number."""
    count = 0
    for token in range(BLANK + 1, len(log_probs)):
        if log_probs[token] < threshold:
            continue
        probability = math.exp(log_probs[token])
        if count == limit and probability <= probabilities[count - 1]:
            continue
        place = count if count < limit else count - 1
        while place > 0 and probabilities[place - 1] < probability:
            tokens[place], probabilities[place] = tokens[place - 1], probabilities[place - 1]
            place -= 1
        tokens[place], probabilities[place] = token, probability
        count = min(count + 1, limit)
    return count


@numba.njit(cache=True, nogil=True)
def _nth_largest(values, count, n):  # type: ignore[no-untyped-def]
    """The ``n``-th largest (from 1) of the first ``count`` values, which are reordered (Hoare's quickselect)."""
    low, high, wanted = 0, count - 1, n - 1
    while low < high:
        pivot = values[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while values[i] > pivot:
                i += 1
            while values[j] < pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if wanted <= j:
            high = j
        elif wanted >= i:
            low = i
        else:
            break
    return values[wanted]


@numba.njit(cache=True, nogil=True)
def _advance(  # type: ignore[no-untyped-def]
    log_probs,
    frame,
    tables,
    rows,
    pause,
    limits,
    prefixes,
    candidates,
    beams,
    sizes,
    scale,
    tokens,
    probabilities,
    dense,
    masses,
):
    """Searches on from ``frame``; returns the first frame not read.

    That is the end, or where the tree lacks room for one frame's prefixes, or with ``pause`` after a frame that brought
    new prefixes. ``sizes`` holds the numbers of prefixes, of beams and of frames read, ``scale`` the log of what masses
    were divided by. ``dense`` holds zeros, here and on return.
    """
    width, token_limit, token_threshold, score_threshold = limits
    floor_factor = math.exp(-score_threshold)
    sure_blank = math.log1p(-math.exp(token_threshold)) if token_threshold < 0.0 else 0.0
    rested = False
    while frame < len(log_probs):
        prefix_count, beam_count, read = sizes
        if prefix_count + width > len(prefixes):
            return frame
        # Where the blank has nearly all of the frame, nothing is left for a token to pass the threshold with.
        count = 0
        if log_probs[frame, BLANK] <= sure_blank:
            count = _likely_tokens(log_probs[frame], token_threshold, token_limit, tokens, probabilities)
        blank_log_prob = log_probs[frame, BLANK]
        frame += 1
        sizes[2] += 1

        if count == 0:
            if blank_log_prob == -np.inf:
                continue  # nothing is possible here but what is impossible everywhere
            # The first such frame ends what the beams end in, the next are one factor for all.
            if not rested:
                for i in range(beam_count):
                    beams[i].blank += beams[i].nonblank
                    beams[i].nonblank = 0.0
                rested = True
            scale[0] += blank_log_prob
            continue

        rested = False
        blank = math.exp(blank_log_prob)
        for j in range(count):
            dense[tokens[j]] = probabilities[j]
        # A beam stays what it is with a blank, or with its last token once more.
        best = 0.0
        for i in range(beam_count):
            prefix = beams[i].prefix
            candidate = candidates[i]
            candidate.prefix = prefix
            candidate.blank = (beams[i].blank + beams[i].nonblank) * blank
            candidate.nonblank = beams[i].nonblank * dense[prefixes[prefix].token]
            prefixes[prefix].slot = i
            best = max(best, candidate.blank + candidate.nonblank)
        # Or it grows by a token: after itself only where a blank lies between.
        candidate_count = beam_count
        for i in range(beam_count):
            prefix = beams[i].prefix
            last = prefixes[prefix].token
            both = beams[i].blank + beams[i].nonblank
            for j in range(count):
                token = tokens[j]
                mass = (beams[i].blank if token == last else both) * probabilities[j]
                if mass == 0.0:
                    continue
                if tables is None:  # noqa: SIM102 (numba drops such a branch, but no conjunction)
                    if mass < best * floor_factor:
                        continue
                child = prefixes[prefix].child
                while child != NONE and prefixes[child].token != token:
                    child = prefixes[child].sibling
                if child != NONE:
                    mass *= prefixes[child].factor
                    slot = prefixes[child].slot
                    if slot != NONE:
                        candidates[slot].nonblank += mass
                        best = max(best, candidates[slot].blank + candidates[slot].nonblank)
                        continue
                    candidates[candidate_count].prefix = child
                else:
                    candidate = candidates[candidate_count]
                    if tables is not None:
                        if not extend(tables, rows, prefixes, prefix, token, candidate):
                            continue
                        mass *= math.exp(candidate.total - prefixes[prefix].total)
                    candidate.prefix = NONE
                    candidate.parent = prefix
                    candidate.token = token
                if mass < best * floor_factor:
                    continue
                candidates[candidate_count].blank = 0.0
                candidates[candidate_count].nonblank = mass
                candidate_count += 1
                best = max(best, mass)
        for i in range(beam_count):
            prefixes[beams[i].prefix].slot = NONE
        if best == 0.0:
            for j in range(count):
                dense[tokens[j]] = 0.0
            continue  # as above

        least, ties = best * floor_factor, candidate_count
        for i in range(candidate_count):
            masses[i] = candidates[i].blank + candidates[i].nonblank
        if candidate_count > width:
            nth = _nth_largest(masses, candidate_count, width)
            if nth > least:
                least, ties = nth, width
                for i in range(width):
                    if masses[i] > nth:
                        ties -= 1
        rescale = 1.0 / best
        beam_count = 0
        for i in range(candidate_count):
            candidate = candidates[i]
            mass = candidate.blank + candidate.nonblank
            if mass < least or mass == 0.0:
                continue
            if mass == least:
                if ties == 0:
                    continue
                ties -= 1
            prefix = candidate.prefix
            if prefix == NONE:
                prefix = prefix_count
                prefix_count += 1
                parent = candidate.parent
                new = prefixes[prefix]
                new.parent = parent
                new.token = candidate.token
                new.child = NONE
                new.sibling = prefixes[parent].child
                prefixes[parent].child = prefix
                new.slot = NONE
                new.probability = 0.0
                new.factor = 1.0
                if tables is not None:
                    new.word = candidate.word
                    new.context = candidate.context
                    new.hotword = candidate.hotword
                    new.language = candidate.language
                    new.total = candidate.total
                    new.factor = math.exp(candidate.total - prefixes[parent].total)
            probability = dense[prefixes[prefix].token]
            if candidate.nonblank > candidate.blank and probability > prefixes[prefix].probability:
                prefixes[prefix].frame = read
                prefixes[prefix].probability = probability
            beams[beam_count].prefix = prefix
            beams[beam_count].blank = candidate.blank * rescale
            beams[beam_count].nonblank = candidate.nonblank * rescale
            beam_count += 1
        for j in range(count):
            dense[tokens[j]] = 0.0
        scale[0] += math.log(best)
        grown = prefix_count > sizes[0]
        sizes[0], sizes[1] = prefix_count, beam_count
        if pause and grown:
            return frame
    return frame


@numba.njit(cache=True, nogil=True)
def _begin(prefixes, beams, sizes, scale, context):  # type: ignore[no-untyped-def]
    """One beam, the empty prefix, with all of the mass."""
    root = prefixes[0]
    root.parent = root.child = root.sibling = root.slot = NONE
    root.token = BLANK
    root.frame = NONE
    root.probability = 0.0
    root.factor = 1.0
    root.word = root.hotword = 0
    root.context = context
    root.language = root.total = 0.0
    beams[0].prefix = 0
    beams[0].blank = 1.0
    beams[0].nonblank = 0.0
    sizes[0], sizes[1], sizes[2] = 1, 1, 0
    scale[:] = 0.0


@numba.njit(cache=True, nogil=True)
def _read_out(tables, rows, prefixes, beams, sizes, scale, readings, spelt, end):  # type: ignore[no-untyped-def]
    """Fills ``readings`` with the best beams as if the sentence ended here, and ``spelt`` from ``end`` on with their
    tokens. Returns how many there are, and where their tokens end. What a closed lexicon leaves unfinished is cut off.
    """
    beam_count = sizes[1]
    acoustic, language = np.empty(beam_count), np.zeros(beam_count)
    last = np.empty(beam_count, np.int32)
    for i in range(beam_count):
        prefix = last[i] = beams[i].prefix
        acoustic[i] = math.log(beams[i].blank + beams[i].nonblank) + scale[0]
        if tables is not None:
            acoustic[i] -= prefixes[prefix].total
            language[i] = finish(tables, rows, prefixes, prefix)
            while language[i] == -np.inf:
                last[i] = prefixes[last[i]].parent
                language[i] = finish(tables, rows, prefixes, last[i])
    order = np.argsort(-(acoustic + language), kind="mergesort")[: len(readings)]
    for i in range(len(order)):
        prefix = last[order[i]]
        while prefixes[prefix].parent != NONE:
            prefix = prefixes[prefix].parent
            end += 1
        place, prefix = end, last[order[i]]
        while prefixes[prefix].parent != NONE:
            place -= 1
            spelt[place].token = prefixes[prefix].token
            spelt[place].frame = prefixes[prefix].frame
            spelt[place].probability = prefixes[prefix].probability
            prefix = prefixes[prefix].parent
        readings[i].end = end
        readings[i].acoustic = acoustic[order[i]]
        readings[i].language = language[order[i]]
    return len(order), end


@numba.njit(cache=True, nogil=True)
def _search(log_probs, lengths, tables, context, limits, nbest):  # type: ignore[no-untyped-def]
    """Searches utterances (B, T', V) one after another in the same arrays: a search may be shorter than its call.

    Returns the readings (B, nbest), how many each utterance has (B,), and the tokens of all, one after another.
    """
    width, token_limit, _, _ = limits
    vocabulary = log_probs.shape[2]
    room = width * (1 + token_limit)
    prefixes = np.empty(1024 + 4 * width, _PREFIX)
    candidates = np.empty(room, _CANDIDATE)
    beams = np.empty(width, _BEAM)
    sizes, scale, rows = np.empty(3, np.int64), np.empty(1), np.empty((0, 0), np.float32)
    tokens, probabilities = np.empty(vocabulary, np.int32), np.empty(vocabulary)
    dense, masses = np.zeros(vocabulary), np.empty(room)
    readings = np.empty((len(log_probs), nbest), _READING)
    found = np.empty(len(log_probs), np.int64)
    spelt, end = np.empty(lengths.sum() * nbest, _SPELT), 0
    for i in range(len(log_probs)):
        utterance, frame = log_probs[i, : lengths[i]], 0
        _begin(prefixes, beams, sizes, scale, context)
        while frame < len(utterance):
            if sizes[0] + width > len(prefixes):
                larger = np.empty(2 * len(prefixes), _PREFIX)
                larger[: len(prefixes)] = prefixes
                prefixes = larger
            frame = _advance(
                utterance,
                frame,
                tables,
                rows,
                False,
                limits,
                prefixes,
                candidates,
                beams,
                sizes,
                scale,
                tokens,
                probabilities,
                dense,
                masses,
            )
        found[i], end = _read_out(tables, rows, prefixes, beams, sizes, scale, readings[i], spelt, end)
    return readings, found, spelt[:end]


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
        self.knowledge = knowledge or Knowledge()
        self.nbest = min(nbest, settings.width)
        self.threads = threads or runtime.cores()

    def __call__(self, emissions: Emissions) -> list[tuple[Hypothesis, ...]]:
        log_probs = np.ascontiguousarray(emissions.log_probs.numpy())
        lengths = emissions.lengths.numpy().astype(np.int64)
        shares = min(self.threads, len(lengths))
        if shares <= 1:
            return self._decode(log_probs, lengths)
        with ThreadPoolExecutor(shares) as pool:
            parts = pool.map(self._decode, np.array_split(log_probs, shares), np.array_split(lengths, shares))
            return [hypotheses for part in parts for hypotheses in part]

    def begin(self) -> BeamSearch:
        return BeamSearch(self.tokeniser, self.settings, self.knowledge)

    def reset(self, settings: recipe.Beam, *, nbest: int = 1) -> BeamDecoder:
        """A decoder that knows the same, with other ``settings`` and weights."""
        return BeamDecoder(
            self.tokeniser, settings, self.knowledge.weighed(settings), nbest=nbest, threads=self.threads
        )

    def _decode(self, log_probs: np.ndarray, lengths: np.ndarray) -> list[tuple[Hypothesis, ...]]:
        lstm, network = self.settings.lstm, self.knowledge.lstm
        if lstm is None or network is None:
            return self._search(log_probs, lengths, self.nbest)
        if lstm.mode == "rescore":
            nbest = min(max(self.nbest, lstm.nbest), self.settings.width)
            found = self._search(log_probs, lengths, nbest)
            return [
                rescore(readings, network, weight=lstm.weight, length_bonus=lstm.beta)[: self.nbest]
                for readings in found
            ]
        lists = []
        for row, length in zip(log_probs, lengths, strict=True):
            search = BeamSearch(self.tokeniser, self.settings, self.knowledge)
            search.feed(row[:length])
            lists.append(search.nbest(self.nbest))
        return lists

    def _search(self, log_probs: np.ndarray, lengths: np.ndarray, nbest: int) -> list[tuple[Hypothesis, ...]]:
        fusion, limits = self.knowledge.fusion, _limits(self.settings, log_probs.shape[2])
        tables, context = (None, 0) if fusion is None else (fusion.tables, fusion.start)
        readings, found, spelt = _search(log_probs, lengths, tables, context, limits, nbest)
        return _hypotheses(readings, found, spelt, self.tokeniser)


class BeamSearch:
    """One utterance's search, fed with frames as they come: for live speech, and for an LSTM that takes part."""

    revises = True

    def __init__(self, tokeniser: Tokeniser, settings: recipe.Beam, knowledge: Knowledge) -> None:
        vocabulary, fusion = len(tokeniser.tokens), knowledge.fusion
        self._tokeniser = tokeniser
        self._tables = None if fusion is None else fusion.tables
        self._limits = _limits(settings, vocabulary)
        width, room = settings.width, settings.width * (1 + self._limits[1])
        self._prefixes, self._candidates = np.zeros(1024 + 4 * width, _PREFIX), np.zeros(room, _CANDIDATE)
        self._beams, self._sizes, self._scale = np.zeros(width, _BEAM), np.zeros(3, np.int64), np.zeros(1)
        self._work = (np.zeros(vocabulary, np.int32), np.zeros(vocabulary), np.zeros(vocabulary), np.zeros(room))
        start = 0 if fusion is None else fusion.start
        _begin(self._prefixes, self._beams, self._sizes, self._scale, start)
        self._lstm, self._rows = None, np.zeros((0, 0), np.float32)
        self._rescoring = None
        if knowledge.lstm is not None and settings.lstm is not None and settings.lstm.mode == "rescore":
            self._rescoring = (knowledge.lstm, settings.lstm.weight, min(settings.lstm.nbest, width))
        elif knowledge.lstm is not None and settings.lstm is not None:
            self._lstm, self._weight = PrefixRows(knowledge.lstm), settings.lstm.weight
            self._rows = np.zeros((len(self._prefixes), vocabulary), np.float32)
            self._rows[0] = self._weight * self._lstm.rows[0].cpu().numpy()

    def feed(self, log_probs: np.ndarray) -> None:
        """Reads (T', V) emissions more."""
        frame = 0
        while frame < len(log_probs):
            known = int(self._sizes[0])
            frame = _advance(
                log_probs,
                frame,
                self._tables,
                self._rows,
                self._lstm is not None,
                self._limits,
                self._prefixes,
                self._candidates,
                self._beams,
                self._sizes,
                self._scale,
                *self._work,
            )
            if self._lstm is not None and self._sizes[0] > known:
                new = self._prefixes[known : self._sizes[0]]
                rows = self._lstm.grow(torch.from_numpy(new["parent"].copy()), torch.from_numpy(new["token"].copy()))
                self._rows[known : self._sizes[0]] = self._weight * rows.cpu().numpy()
            if self._sizes[0] + len(self._beams) > len(self._prefixes):
                self._prefixes = np.concatenate([self._prefixes, np.zeros_like(self._prefixes)])
                if self._lstm is not None:
                    self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])

    def best(self) -> Hypothesis:
        """The best reading of the frames so far, as if the sentence ended here."""
        return self.nbest(1)[0]

    def conclude(self) -> Hypothesis:
        """The best reading of a sentence that has ended, rescored where the settings say so."""
        if self._rescoring is None:
            return self.best()
        network, weight, count = self._rescoring
        return rescore(self.nbest(count), network, weight=weight)[0]

    def nbest(self, count: int) -> tuple[Hypothesis, ...]:
        """The ``count`` best readings of the frames so far, as if the sentence ended here."""
        readings, spelt = np.zeros((1, count), _READING), np.zeros(int(self._sizes[2]) * count, _SPELT)
        found, end = _read_out(
            self._tables, self._rows, self._prefixes, self._beams, self._sizes, self._scale, readings[0], spelt, 0
        )
        [hypotheses] = _hypotheses(readings, np.array([found]), spelt[:end], self._tokeniser)
        return hypotheses


def _limits(settings: recipe.Beam, vocabulary: int) -> tuple[int, int, float, float]:
    return settings.width, min(settings.tokens, vocabulary - 1), settings.token_threshold, settings.score_threshold


def _hypotheses(
    readings: np.ndarray, found: np.ndarray, spelt: np.ndarray, tokeniser: Tokeniser
) -> list[tuple[Hypothesis, ...]]:
    """``readings`` (B, N), the first ``found`` (B,) of each row, whose tokens lie in ``spelt`` one after another."""
    tokens, frames, probabilities = (spelt[name].tolist() for name in ("token", "frame", "probability"))
    start, lists = 0, []
    for row, count in zip(readings.tolist(), found.tolist(), strict=True):
        hypotheses = []
        for end, acoustic, language in row[:count]:
            own = slice(start, end)
            hypotheses.append(
                Hypothesis(
                    tokens=tuple(tokens[own]),
                    frames=tuple(frames[own]),
                    probabilities=tuple(probabilities[own]),
                    text=tokeniser.decode(tokens[own]),
                    acoustic_score=acoustic,
                    lm_score=language,
                )
            )
            start = end
        lists.append(tuple(hypotheses))
    return lists

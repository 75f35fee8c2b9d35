"""The prefix beam search over a tokeniser's letters or sub-words, compiled: ``decode.beam`` is its face."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from asr.decode.compiled import compiled
from asr.decode.fusion import extend, finish
from asr.records import BLANK

NONE = -1
LEAST = 1e-300  # a mass below is none; the best is kept above 1e-50

_FUSION = [
    ("word", np.int32),
    ("context", np.int32),
    ("hotword", np.int32),
    ("language", np.float64),
    ("total", np.float64),
]
PREFIX = np.dtype(
    [
        ("parent", np.int32),
        ("token", np.int32),
        ("child", np.int32),  # the newest of its extensions, each of which names the one before it as its sibling
        ("sibling", np.int32),
        ("slot", np.int32),  # its place among the candidates when it was a beam last
        ("frame", np.int32),  # where its token is likeliest among the frames that most of its mass has it in,
        ("probability", np.float64),  # and its posterior there
        ("factor", np.float64),  # exp(total - its parent's total)
        *_FUSION,
    ],
    align=True,
)
CANDIDATE = np.dtype(
    [
        ("prefix", np.int32),  # NONE where it is not in the tree yet
        ("parent", np.int32),
        ("token", np.int32),
        ("blank", np.float64),
        ("nonblank", np.float64),
        *_FUSION,
    ],
    align=True,
)
BEAM = np.dtype([("prefix", np.int32), ("blank", np.float64), ("nonblank", np.float64)], align=True)
PROGRESS = np.dtype(
    [
        ("prefixes", np.int64),  # how many there are
        ("beams", np.int64),
        ("frames", np.int64),  # read so far
        ("scale", np.float64),  # the log of what the masses were divided by
    ]
)
SPELT = np.dtype([("token", np.int32), ("frame", np.int32), ("probability", np.float64)])
READING = np.dtype([("end", np.int64), ("acoustic", np.float64), ("language", np.float64)])


class State(NamedTuple):
    """A search between two frames, and the room that it works in.

    ``prefixes`` (N,) are the tree, ``rows`` (N, V) what an LSTM adds for their next tokens, (0, V) without one. The
    rest is a frame's: ``beams`` (W,), ``candidates`` and ``masses`` (R,) for what they may become, ``tokens`` and
    ``probabilities`` (V,) for the likely ones, and ``dense`` (V,) for these by token, zeros between frames.
    """

    progress: np.ndarray
    prefixes: np.ndarray
    rows: np.ndarray
    beams: np.ndarray
    candidates: np.ndarray
    masses: np.ndarray
    tokens: np.ndarray
    probabilities: np.ndarray
    dense: np.ndarray


@compiled
def _restart(state, context):  # type: ignore[no-untyped-def]
    """Makes it a search that has read nothing."""
    root, beam, now = state.prefixes[0], state.beams[0], state.progress[0]
    root.parent = root.child = root.sibling = root.frame = NONE
    root.slot = 0
    root.token = BLANK
    root.probability = 0.0
    root.factor = 1.0
    root.word = root.hotword = 0
    root.context = context
    root.language = root.total = 0.0
    beam.prefix = 0
    beam.blank = 1.0
    beam.nonblank = 0.0
    now.prefixes = now.beams = 1
    now.frames = 0
    now.scale = 0.0


@compiled
def begin(limits, vocabulary, tables, context, lstm):  # type: ignore[no-untyped-def]
    """A search that has one beam, the empty prefix, with all of the mass."""
    width, token_limit, _, _, _ = limits
    if tables is not None:
        width *= 1 + (len(tables.hotwords.sober) > 2)  # see ``advance``
    room = 1024 + 4 * width
    state = State(
        np.zeros(1, PROGRESS),
        np.empty(room, PREFIX),
        np.zeros((room if lstm else 0, vocabulary), np.float32),
        np.empty(width, BEAM),
        np.empty(width * (1 + token_limit), CANDIDATE),
        np.empty(width * (1 + token_limit)),
        np.empty(vocabulary, np.int32),
        np.empty(vocabulary),
        np.zeros(vocabulary),
    )
    _restart(state, context)
    return state


@compiled
def with_room(state, _tables):  # type: ignore[no-untyped-def]
    """The same search, its tree large enough for the next frame."""
    progress, prefixes, rows, beams, candidates, masses, tokens, probabilities, dense = state
    if progress[0].prefixes + len(beams) <= len(prefixes):
        return state
    more_prefixes, more_rows = np.empty(2 * len(prefixes), PREFIX), np.zeros((2 * len(rows), len(dense)), np.float32)
    more_prefixes[: len(prefixes)], more_rows[: len(rows)] = prefixes, rows
    return State(progress, more_prefixes, more_rows, beams, candidates, masses, tokens, probabilities, dense)


@compiled
def likely_tokens(log_probs, frame, threshold, limit, tokens, probabilities):  # type: ignore[no-untyped-def]
    """The frame's tokens but the blank of at least ``threshold``, likeliest first, at most ``limit``; their number.

    NONE where one has no probability, for it is NaN or past all measure.
    """
    count = 0
    for token in range(BLANK + 1, log_probs.shape[1]):
        if log_probs[frame, token] < threshold:
            continue
        probability = math.exp(log_probs[frame, token])
        if not probability < np.inf:
            return NONE
        if count == limit and probability <= probabilities[count - 1]:
            continue
        place = count if count < limit else count - 1
        while place > 0 and probabilities[place - 1] < probability:
            tokens[place], probabilities[place] = tokens[place - 1], probabilities[place - 1]
            place -= 1
        tokens[place], probabilities[place] = token, probability
        count = min(count + 1, limit)
    return count


@compiled
def nth_largest(values, count, n):  # type: ignore[no-untyped-def]
    """The ``n``-th largest (from 1) of the first ``count`` values, and how many of its equals the ``n`` largest hold.

    The values are used up. Quickselect (Hoare 1961), without a branch for each value: those are foreseen badly.
    """
    while True:
        pivot = values[count // 2]
        greater = equal = 0
        for i in range(count):
            greater += values[i] > pivot
            equal += values[i] == pivot
        if greater < n <= greater + equal:
            return pivot, n - greater
        kept = 0
        for i in range(count):
            value = values[i]
            values[kept] = value
            kept += value > pivot if n <= greater else value < pivot
        if n > greater:
            n -= greater + equal
        count = kept


@compiled
def thresholds(limits):  # type: ignore[no-untyped-def]
    """What a frame is held to: a token's least log probability; the blank's above which it has so much of the frame
    that no token can pass; and the share of the best mass that a candidate has at the least."""
    _, _, token_threshold, score_threshold, _ = limits
    sure_blank = math.log1p(-math.exp(token_threshold)) if token_threshold < 0.0 else 0.0
    return np.float32(token_threshold), sure_blank, math.exp(-score_threshold)


@compiled
def pass_over(state, count, blank_log_prob, rested):  # type: ignore[no-untyped-def]
    """Reads a frame without tokens, for which ``likely_tokens`` found none or NONE. The first that is the blank's alone
    ends what the beams end in, the next are one factor for all: whether they have ``rested`` so."""
    now, beams = state.progress[0], state.beams
    if count == NONE:
        now.scale = np.inf
        return rested
    if blank_log_prob == -np.inf:
        return rested  # nothing is possible here but what is impossible everywhere
    if not rested:
        for i in range(now.beams):
            beams[i].blank += beams[i].nonblank
            beams[i].nonblank = 0.0
    now.scale += blank_log_prob
    return True


@compiled
def cut(least, masses, count, width):  # type: ignore[no-untyped-def]
    """The mass that is kept at the least of the first ``count``, of which only ``width`` have room, and how many of
    those that have just that mass are. Masses are used up where they are more than that."""
    least, ties = max(least, LEAST), count
    if count > width:
        nth, equals = nth_largest(masses, count, width)
        if nth > least:
            least, ties = nth, equals
    return least, ties


@compiled
def divisor_of(best, now):  # type: ignore[no-untyped-def]
    """What all masses are divided by to stay in range, of which ``now`` keeps account."""
    if 1e-50 < best < 1e50:
        return 1.0
    now.scale += math.log(best)
    return best


@compiled
def advance(log_probs, frame, tables, limits, state):  # type: ignore[no-untyped-def]
    """Searches on from ``frame``; returns the first frame not read.

    That is the end, or where the tree lacks room for one frame's prefixes, or where new ones want an LSTM's ``rows``.
    Where it meets what is no log probability, it passes over that frame, and ``scale`` is NaN or infinite ever after.

    Hotwords that are begun lift a prefix for a while. So that this drives no other one out, there are two competitions
    for ``width`` places each where there are hotwords: one of the masses, and one of the sober masses, without hope.
    """
    width, token_limit, _, _, _ = limits
    progress, prefixes, rows, beams, candidates, masses, tokens, probabilities, dense = state
    now = progress[0]
    least_log_prob, sure_blank, floor = thresholds(limits)
    early_floor = floor if tables is None else 0.0  # a language model may lift what is behind
    hoping = False
    if tables is not None:
        hoping = len(tables.hotwords.sober) > 2
    before, rested = now.frames - frame, False
    while frame < len(log_probs):
        count = 0
        blank_log_prob = log_probs[frame, BLANK]
        if blank_log_prob <= sure_blank:
            count = likely_tokens(log_probs, frame, least_log_prob, token_limit, tokens, probabilities)
        if count > 0 and now.prefixes + len(beams) > len(prefixes):
            break
        frame += 1
        if count <= 0:
            rested = pass_over(state, count, blank_log_prob, rested)
            continue

        rested = False
        blank = math.exp(blank_log_prob)
        for j in range(count):
            dense[tokens[j]] = probabilities[j]
        # A beam stays what it is with a blank, or with its last token once more.
        beam_count, best, sober_best = now.beams, 0.0, 0.0
        for i in range(beam_count):
            prefix = beams[i].prefix
            candidate = candidates[i]
            candidate.prefix = prefix
            candidate.blank = (beams[i].blank + beams[i].nonblank) * blank
            candidate.nonblank = beams[i].nonblank * dense[prefixes[prefix].token]
            candidate.hotword = prefixes[prefix].hotword
            prefixes[prefix].slot = i
            best = max(best, candidate.blank + candidate.nonblank)
            if tables is not None:
                sober = tables.hotwords.sober[prefixes[prefix].hotword]
                sober_best = max(sober_best, (candidate.blank + candidate.nonblank) * sober)
        # Or it grows by a token: after itself only where a blank lies between.
        candidate_count = beam_count
        for i in range(beam_count):
            prefix = beams[i].prefix
            last = prefixes[prefix].token
            both = beams[i].blank + beams[i].nonblank
            for j in range(count):
                token = tokens[j]
                mass = (beams[i].blank if token == last else both) * probabilities[j]
                if mass <= best * early_floor:
                    continue
                child = prefixes[prefix].child
                while child != NONE and prefixes[child].token != token:
                    child = prefixes[child].sibling
                candidate, hotword = candidates[candidate_count], 0
                if child != NONE:
                    mass *= prefixes[child].factor
                    hotword = prefixes[child].hotword
                    slot = prefixes[child].slot
                    if slot < beam_count and candidates[slot].prefix == child:
                        candidates[slot].nonblank += mass
                        best = max(best, candidates[slot].blank + candidates[slot].nonblank)
                        if tables is not None:
                            sober = tables.hotwords.sober[hotword]
                            sober_best = max(sober_best, (candidates[slot].blank + candidates[slot].nonblank) * sober)
                        continue
                elif tables is not None:
                    if not extend(tables, rows, prefixes, prefix, token, candidate):
                        continue
                    mass *= math.exp(candidate.total - prefixes[prefix].total)
                    hotword = candidate.hotword
                sober = mass
                if tables is not None:
                    sober *= tables.hotwords.sober[hotword]
                if mass < best * floor and not (hoping and sober >= sober_best * floor):
                    continue
                candidate.prefix = child
                candidate.parent = prefix
                candidate.token = token
                candidate.blank = 0.0
                candidate.nonblank = mass
                candidate_count += 1
                best, sober_best = max(best, mass), max(sober_best, sober)
                candidate.hotword = hotword
        if best == 0.0 or best == np.inf:
            for j in range(count):
                dense[tokens[j]] = 0.0
            now.scale += best
            continue  # as where nothing is possible, or what is no log probability

        if candidate_count > width:
            for i in range(candidate_count):
                masses[i] = candidates[i].blank + candidates[i].nonblank
        least, ties = cut(best * floor, masses, candidate_count, width)
        if hoping and candidate_count > width:
            for i in range(candidate_count):
                masses[i] = candidates[i].blank + candidates[i].nonblank
                if tables is not None:
                    masses[i] *= tables.hotwords.sober[candidates[i].hotword]
        sober_least, sober_ties = cut(sober_best * floor, masses, candidate_count if hoping else 0, width)
        rescale = 1.0 / divisor_of(best, now)
        prefix_count, beam_count = now.prefixes, 0
        for i in range(candidate_count):
            candidate = candidates[i]
            mass = candidate.blank + candidate.nonblank
            placed = mass > least
            if mass == least and ties > 0:
                placed = True
                ties -= 1
            if hoping and tables is not None:
                sober = mass * tables.hotwords.sober[candidate.hotword]
                if sober > sober_least:
                    placed = True
                elif sober == sober_least and sober_ties > 0:
                    placed = True
                    sober_ties -= 1
            if not placed:
                continue
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
                new.slot = 0
                new.probability = 0.0
                new.factor = 1.0
                if tables is not None:
                    new.word = candidate.word
                    new.context = candidate.context
                    new.hotword = candidate.hotword
                    new.language = candidate.language
                    new.total = candidate.total
                    new.factor = math.exp(candidate.total - prefixes[parent].total)
            if candidate.nonblank > candidate.blank:
                probability = dense[prefixes[prefix].token]
                if probability > prefixes[prefix].probability:
                    prefixes[prefix].frame = before + frame - 1
                    prefixes[prefix].probability = probability
            beam = beams[beam_count]
            beam.prefix = prefix
            beam.blank = candidate.blank * rescale
            beam.nonblank = candidate.nonblank * rescale
            beam_count += 1
        for j in range(count):
            dense[tokens[j]] = 0.0
        grown = prefix_count > now.prefixes
        now.prefixes, now.beams = prefix_count, beam_count
        if grown and len(rows):
            break
    now.frames = before + frame
    return frame


@compiled
def read_out(tables, state, readings, spelt, end, _partial):  # type: ignore[no-untyped-def]
    """Fills ``readings`` with the best beams as if the sentence ended here, and ``spelt`` from ``end`` on with their
    tokens; returns where these end. What a closed lexicon leaves unfinished is cut off, at the cost of its potential,
    but for what hotwords hope.

    An ended beam lies in its place among the candidates, its acoustic score in ``total``.
    """
    prefixes, rows, beams, scores, now = state.prefixes, state.rows, state.beams, state.masses, state.progress[0]
    for i in range(now.beams):
        ended = state.candidates[i]
        ended.prefix = beams[i].prefix
        ended.language, ended.total = 0.0, math.log(beams[i].blank + beams[i].nonblank) + now.scale
        if tables is not None:
            ended.total -= prefixes[ended.prefix].total
            ended.language, cost = finish(tables, rows, prefixes, ended.prefix), 0.0
            if ended.language == -np.inf:
                last = prefixes[ended.prefix]
                cost = last.total - last.language - tables.hotwords.potential[last.hotword]
            while ended.language == -np.inf:
                ended.prefix = prefixes[ended.prefix].parent
                ended.language = finish(tables, rows, prefixes, ended.prefix) + cost
        scores[i] = ended.total + ended.language
    count = min(now.beams, len(readings))
    for n in range(count):
        best = np.argmax(scores[: now.beams])
        scores[best] = -np.inf
        ended = state.candidates[best]
        prefix = ended.prefix
        while prefixes[prefix].parent != NONE:
            prefix = prefixes[prefix].parent
            end += 1
        place, prefix, frame = end, ended.prefix, now.frames
        while prefixes[prefix].parent != NONE:
            place -= 1
            spelt[place].token = prefixes[prefix].token
            frame = min(frame, prefixes[prefix].frame)  # each token chose its own, for all that may follow it
            spelt[place].frame = frame
            spelt[place].probability = prefixes[prefix].probability
            prefix = prefixes[prefix].parent
        readings[n].end = end
        readings[n].acoustic = ended.total
        readings[n].language = ended.language
    for n in range(count, len(readings)):
        readings[n].end = NONE
    return end


@compiled
def search(log_probs, lengths, tables, context, limits, nbest):  # type: ignore[no-untyped-def]
    """Searches utterances (B, T', V) one after another in the same arrays: a search may be shorter than its call.

    Returns the readings (B, nbest), and the tokens of all, one after another.
    """
    # Typed, since numba compiles anew whatever is called with a constant, which live search calls with variables.
    no, first = np.bool_(False), np.int64(0)
    state = begin(limits, log_probs.shape[2], tables, context, no)
    readings = np.empty((len(log_probs), nbest), READING)
    spelt, end = np.empty(lengths.sum() * nbest, SPELT), first
    for i in range(len(log_probs)):
        utterance, frame = log_probs[i, : lengths[i]], first
        _restart(state, context)
        while frame < len(utterance):
            state = with_room(state, tables)
            frame = advance(utterance, frame, tables, limits, state)
        end = read_out(tables, state, readings[i], spelt, end, no)
    return readings, spelt[:end]

"""The beam search over pronunciations, compiled: ``decode.prefix_search`` with words that no token announces.

Two trees grow. A history is a sequence of ended words, whichever way each was pronounced: its state of the language
model is looked up once. A prefix is a history and the phones of the word that is begun, so that readings which differ
only in how an earlier word was pronounced are one beam, with the mass of all. A prefix's parent is the one that most of
its mass came from: it says which phones and frames a reading has.

Where there are more than the beam has room for, those that differ only in words that the language model has forgotten
will never change places, so the best of them goes before the rest: with a 4-gram and homophones everywhere, a beam of
64 finds then what takes 1024 otherwise.

A separator ends a word, where there is one, and is a prefix of its own; more of them in a row, or at the start, say no
more than the first.

Why a second loop over the frames: what it shares with the first (the tokens of a frame, frames of the blank alone, the
bounds of the beam) are the functions of ``prefix_search`` that both call. How a prefix stays, grows, meets another and
enters the tree is not shared, and is most of a frame. There the text is the prefix, so what it grows by is found by its
token; here a frame may also end words and begin others, several for one token, that meet others by their history. One
loop would ask at each of these steps which of the two it is, with records that have the fields of both.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from asr.decode.compiled import compiled
from asr.decode.lexical import conclude, earn, hope, outlook
from asr.decode.prefix_search import (
    BEAM,
    NONE,
    PROGRESS,
    READING,
    cut,
    divisor_of,
    likely_tokens,
    pass_over,
    thresholds,
)
from asr.decode.tree import OFF, START, descend
from asr.records import BLANK

HISTORY = np.dtype(
    [
        ("before", np.int32),  # the history that its last word was added to
        ("word", np.int32),
        ("same", np.int32),  # the first record of the same history, which stands for all
        ("multiple", np.int32),  # the newest history that adds a word of several pronunciations to this one,
        ("sibling", np.int32),  # each of which names the one before it
        ("child", np.int32),  # the newest of the prefixes that begin the next word
        ("place", np.int32),  # its newest place among a frame's new candidates, or a read-out's readings
        ("context", np.int32),
        ("hotword", np.int32),
        ("language", np.float64),
        ("factor", np.float64),  # of the mass of the prefix that ends in its last word
    ],
    align=True,
)
PREFIX = np.dtype(
    [
        ("parent", np.int32),
        ("token", np.int32),
        ("place", np.int32),  # in the lexicon's tree
        ("history", np.int32),
        ("ended", np.int32),  # the first of the histories that its end makes, one a word that ends here; or NONE
        ("child", np.int32),  # the newest of its extensions within the word, linked as in ``prefix_search``
        ("sibling", np.int32),
        ("slot", np.int32),
        ("frame", np.int32),
        ("probability", np.float64),
        ("factor", np.float64),  # exp(total - its parent's total), within a word
        ("total", np.float64),  # what its history has earned and its potential
        ("sober", np.float64),  # the factor that takes off its mass what hotwords hope, see ``prefix_search.advance``
    ],
    align=True,
)
CANDIDATE = np.dtype(
    [
        ("prefix", np.int32),  # NONE where it is not in the tree yet
        ("parent", np.int32),
        ("token", np.int32),
        ("place", np.int32),
        ("history", np.int32),  # where it begins a word, the history before that; else NONE
        ("next", np.int32),  # the candidate before it that begins a word after the same history
        ("share", np.float64),  # of its mass, that counts where room is short
        ("sober", np.float64),
        ("blank", np.float64),
        ("nonblank", np.float64),
    ],
    align=True,
)
ENDED = np.dtype(
    [
        ("history", np.int32),
        ("prefix", np.int32),
        ("most", np.float64),
        ("acoustic", np.float64),
        ("language", np.float64),
    ],
    align=True,
)
SPELT = np.dtype([("token", np.int32), ("frame", np.int32), ("word", np.int32), ("probability", np.float64)])


class State(NamedTuple):
    """As ``prefix_search.State``, with ``histories`` (M,), of which ``known`` (1,) are in use, and ``futures``, a hash
    table of candidates."""

    progress: np.ndarray
    known: np.ndarray
    prefixes: np.ndarray
    histories: np.ndarray
    beams: np.ndarray
    candidates: np.ndarray
    masses: np.ndarray
    tokens: np.ndarray
    probabilities: np.ndarray
    dense: np.ndarray
    futures: np.ndarray


@compiled
def _restart(state, context):  # type: ignore[no-untyped-def]
    """Makes it a search that has read nothing."""
    root, history, beam, now = state.prefixes[0], state.histories[0], state.beams[0], state.progress[0]
    root.parent = root.ended = root.child = root.sibling = root.frame = NONE
    root.slot = root.history = 0
    root.token = BLANK
    root.place = START
    root.probability = root.total = 0.0
    root.factor = root.sober = 1.0
    history.before = history.word = history.multiple = history.sibling = history.child = history.place = NONE
    history.same = history.hotword = 0
    history.context = context
    history.language = 0.0
    history.factor = 1.0
    beam.prefix = 0
    beam.blank = 1.0
    beam.nonblank = 0.0
    now.prefixes = now.beams = state.known[0] = 1
    now.frames = 0
    now.scale = 0.0


@compiled
def begin(limits, vocabulary, tables, context, _lstm):  # type: ignore[no-untyped-def]
    """A search that has one beam, the empty prefix, with all of the mass. No LSTM takes part in it."""
    width, token_limit, _, _, _ = limits
    width *= 1 + (len(tables.phrases.share) > 0)
    room = 1024 + 4 * width
    most = width * (1 + token_limit * (1 + tables.most))
    state = State(
        np.zeros(1, PROGRESS),
        np.zeros(1, np.int64),
        np.empty(room, PREFIX),
        np.empty(room + width * tables.most, HISTORY),
        np.empty(width, BEAM),
        np.empty(most, CANDIDATE),
        np.empty(most),
        np.empty(vocabulary, np.int32),
        np.empty(vocabulary),
        np.zeros(vocabulary),
        np.empty(_room_for(most), np.int32),
    )
    _restart(state, context)
    return state


@compiled
def with_room(state, tables):  # type: ignore[no-untyped-def]
    """The same search, its trees large enough for the next frame."""
    progress, known, prefixes, histories, beams, candidates, masses, tokens, probabilities, dense, futures = state
    if progress[0].prefixes + len(beams) > len(prefixes):
        more_prefixes = np.empty(2 * len(prefixes), PREFIX)
        more_prefixes[: len(prefixes)] = prefixes
        prefixes = more_prefixes
    if known[0] + len(beams) * tables.most > len(histories):
        more_histories = np.empty(2 * len(histories), HISTORY)
        more_histories[: len(histories)] = histories
        histories = more_histories
    return State(progress, known, prefixes, histories, beams, candidates, masses, tokens, probabilities, dense, futures)


@compiled(inline="always")
def _end_words(tables, state, index):  # type: ignore[no-untyped-def]
    """Makes the histories that the prefix's end makes, one for each word that ends at its place; the first of them."""
    prefix, histories = state.prefixes[index], state.histories
    prefix.ended = state.known[0]
    before = histories[prefix.history]
    for end in range(tables.tree.first_end[prefix.place], tables.tree.first_end[prefix.place + 1]):
        word = tables.tree.word[end]
        new = histories[state.known[0]]
        new.before = prefix.history
        new.word = word
        new.same = state.known[0]
        new.multiple = new.child = new.place = NONE
        earlier = NONE
        if not tables.tree.only[end]:
            earlier = before.multiple
            while earlier != NONE and histories[earlier].word != word:
                earlier = histories[earlier].sibling
        if earlier != NONE:
            new.same = earlier
            new.language = histories[earlier].language
        else:
            new.context, new.hotword, new.language = earn(tables, word, before.context, before.hotword, before.language)
            if not tables.tree.only[end]:
                new.sibling = before.multiple
                before.multiple = state.known[0]
        new.factor = math.exp(new.language - prefix.total + tables.tree.log_prob[end])
        state.known[0] += 1
    return prefix.ended


@compiled(inline="always")
def _place_of(state, history, token, beam_count, candidate_count):  # type: ignore[no-untyped-def]
    """(prefix, candidate): of ``token`` after ``history``, each NONE where there is none yet."""
    prefixes, candidates = state.prefixes, state.candidates
    child = state.histories[history].child
    while child != NONE and prefixes[child].token != token:
        child = prefixes[child].sibling
    if child != NONE:
        slot = prefixes[child].slot
        if slot < candidate_count and candidates[slot].prefix == child:
            return child, slot
        return child, NONE
    # A number that an earlier frame left points to another's candidate, or to none.
    place = state.histories[history].place
    if not (beam_count <= place < candidate_count and candidates[place].history == history):
        return NONE, NONE
    while place != NONE and candidates[place].token != token:
        place = candidates[place].next
    return NONE, place


@compiled
def advance(log_probs, frame, tables, limits, state):  # type: ignore[no-untyped-def]
    """As ``prefix_search.advance``."""
    width, token_limit, _, _, spare = limits
    prefixes, histories, beams, candidates, masses = (
        state.prefixes,
        state.histories,
        state.beams,
        state.candidates,
        state.masses,
    )
    tokens, probabilities, dense = state.tokens, state.probabilities, state.dense
    now = state.progress[0]
    least_log_prob, sure_blank, floor = thresholds(limits)
    before, rested = now.frames - frame, False
    first_end, hoping = tables.tree.first_end, len(tables.phrases.share) > 0
    while frame < len(log_probs):
        count = 0
        blank_log_prob = log_probs[frame, BLANK]
        if blank_log_prob <= sure_blank:
            count = likely_tokens(log_probs, frame, least_log_prob, token_limit, tokens, probabilities)
        if count > 0 and (
            now.prefixes + len(beams) > len(prefixes) or state.known[0] + len(beams) * tables.most > len(histories)
        ):
            break
        frame += 1
        if count <= 0:
            rested = pass_over(state, count, blank_log_prob, rested)
            continue

        rested = False
        blank = math.exp(blank_log_prob)
        for j in range(count):
            dense[tokens[j]] = probabilities[j]
        # A beam stays what it is with a blank, with its last token once more or, between words, with a separator.
        beam_count, best, sober_best = now.beams, 0.0, 0.0
        for i in range(beam_count):
            index = beams[i].prefix
            prefix, candidate = prefixes[index], candidates[i]
            both = beams[i].blank + beams[i].nonblank
            candidate.prefix = index
            candidate.history = NONE
            candidate.blank = both * blank
            if tables.separator != NONE and prefix.place == START:
                candidate.nonblank = both * dense[tables.separator]
            else:
                candidate.nonblank = beams[i].nonblank * dense[prefix.token]
            prefix.slot = i
            candidate.sober = prefix.sober
            mass = candidate.blank + candidate.nonblank
            best, sober_best = max(best, mass), max(sober_best, mass * candidate.sober)
        # Or it grows by a token: within the word, or by the first of the next.
        candidate_count = beam_count
        for i in range(beam_count):
            index = beams[i].prefix
            prefix = prefixes[index]
            both = beams[i].blank + beams[i].nonblank
            ends = first_end[prefix.place + 1] - first_end[prefix.place]
            leaf = tables.tree.first_child[prefix.place + 1] == tables.tree.first_child[prefix.place]
            for j in range(count):
                token = tokens[j]
                mass = (beams[i].blank if token == prefix.token else both) * probabilities[j]
                if mass <= 0.0:
                    continue
                if not leaf:
                    child = prefix.child
                    while child != NONE and prefixes[child].token != token:
                        child = prefixes[child].sibling
                    grown, sober = mass, 1.0
                    place = slot = NONE
                    if child != NONE:
                        grown *= prefixes[child].factor
                        sober = prefixes[child].sober
                        slot = prefixes[child].slot
                        if not (slot < beam_count and candidates[slot].prefix == child):
                            slot = NONE
                        place = prefixes[child].place
                    else:
                        place = descend(tables.tree, prefix.place, token)
                        if place != OFF:
                            history = histories[prefix.history]
                            total = history.language + outlook(tables, place)
                            if hoping:
                                hoped = hope(tables, place, history.hotword)
                                total += hoped
                                sober = math.exp(-hoped)
                            grown *= math.exp(total - prefix.total)
                    if slot != NONE:
                        candidates[slot].nonblank += grown
                        grown = candidates[slot].blank + candidates[slot].nonblank
                        best, sober_best = max(best, grown), max(sober_best, grown * sober)
                    elif place != OFF and (grown >= best * floor or (hoping and grown * sober >= sober_best * floor)):
                        candidate = candidates[candidate_count]
                        candidate.prefix = child
                        candidate.parent = index
                        candidate.token = token
                        candidate.place = place
                        candidate.history = NONE
                        candidate.blank = 0.0
                        candidate.nonblank = grown
                        candidate.sober = sober
                        candidate_count += 1
                        best, sober_best = max(best, grown), max(sober_best, grown * sober)
                place = tables.opens[token]
                if ends == 0 or place == NONE:
                    continue
                mass *= tables.opening[token]
                # Asked in ``_end_words``, though that is inlined, this doubles the search's time.
                first = prefix.ended
                if first == NONE:
                    first = _end_words(tables, state, index)
                for ended in range(first, first + ends):
                    grown = mass * histories[ended].factor
                    same, sober = histories[ended].same, 1.0
                    if hoping:
                        hoped = hope(tables, place, histories[same].hotword)
                        grown *= math.exp(hoped)
                        sober = math.exp(-hoped)
                    if grown < best * floor and not (hoping and grown * sober >= sober_best * floor):
                        continue
                    child, slot = _place_of(state, same, token, beam_count, candidate_count)
                    if slot != NONE:
                        candidate = candidates[slot]
                        if grown > candidate.blank + candidate.nonblank:
                            if child == NONE:
                                candidate.parent = index
                            else:
                                prefixes[child].parent = index
                        candidate.nonblank += grown
                        grown = candidate.blank + candidate.nonblank
                        best, sober_best = max(best, grown), max(sober_best, grown * sober)
                        continue
                    candidate = candidates[candidate_count]
                    candidate.prefix = child
                    candidate.parent = index
                    candidate.token = token
                    candidate.place = place
                    candidate.history = same
                    candidate.next = NONE
                    if child == NONE:
                        newest = histories[same].place
                        if beam_count <= newest < candidate_count and candidates[newest].history == same:
                            candidate.next = newest
                        histories[same].place = candidate_count
                    else:
                        candidate.history = NONE
                        prefixes[child].slot = candidate_count
                        prefixes[child].parent = index
                    candidate.blank = 0.0
                    candidate.nonblank = grown
                    candidate.sober = sober
                    candidate_count += 1
                    best, sober_best = max(best, grown), max(sober_best, grown * sober)
        if best == 0.0 or best == np.inf:
            for j in range(count):
                dense[tokens[j]] = 0.0
            now.scale += best
            continue

        if candidate_count > width:
            _compare(state, candidate_count, spare)
            for i in range(candidate_count):
                masses[i] = (candidates[i].blank + candidates[i].nonblank) * candidates[i].share
        least, ties = cut(best * floor, masses, candidate_count, width)
        if hoping and candidate_count > width:
            for i in range(candidate_count):
                mass = (candidates[i].blank + candidates[i].nonblank) * candidates[i].share
                masses[i] = mass * candidates[i].sober
        sober_least, sober_ties = cut(sober_best * floor, masses, candidate_count if hoping else 0, width)
        rescale = 1.0 / divisor_of(best, now)
        beam_count = 0
        for i in range(candidate_count):
            candidate = candidates[i]
            mass = candidate.blank + candidate.nonblank
            if candidate_count > width:
                mass *= candidate.share
            placed = mass > least
            if mass == least and ties > 0:
                placed = True
                ties -= 1
            if hoping:
                mass *= candidate.sober
                if mass > sober_least:
                    placed = True
                elif mass == sober_least and sober_ties > 0:
                    placed = True
                    sober_ties -= 1
            if not placed:
                continue
            index = candidate.prefix
            if index == NONE:
                index = _take_in(tables, state, candidate)
            if candidate.nonblank > candidate.blank:
                probability = dense[prefixes[index].token]
                if probability > prefixes[index].probability:
                    prefixes[index].frame = before + frame - 1
                    prefixes[index].probability = probability
            beam = beams[beam_count]
            beam.prefix = index
            beam.blank = candidate.blank * rescale
            beam.nonblank = candidate.nonblank * rescale
            beam_count += 1
        for j in range(count):
            dense[tokens[j]] = 0.0
        now.beams = beam_count
    now.frames = before + frame
    return frame


@compiled
def _room_for(count):  # type: ignore[no-untyped-def]
    """The size of a hash table that ``count`` entries leave half empty, a power of two."""
    size = 64
    while size < 2 * count:
        size *= 2
    return size


@compiled(inline="always")
def _future_of(state, candidate):  # type: ignore[no-untyped-def]
    """All that what follows depends on: (context, hotword, place, token)."""
    if candidate.prefix != NONE:
        prefix = state.prefixes[candidate.prefix]
        history, place, token = state.histories[prefix.history], prefix.place, prefix.token
    else:
        at = candidate.history if candidate.history != NONE else state.prefixes[candidate.parent].history
        history, place, token = state.histories[at], candidate.place, candidate.token
    return history.context, history.hotword, place, token


@compiled
def _compare(state, count, spare):  # type: ignore[no-untyped-def]
    """Sets the ``share`` of each of the first ``count`` candidates: 1 for the best with its future, else ``spare``."""
    candidates, futures = state.candidates, state.futures
    mask = _room_for(count) - 1
    futures[: mask + 1] = NONE
    for i in range(count):
        candidate = candidates[i]
        candidate.share = 1.0
        future = _future_of(state, candidate)
        context, hotword, place, token = future
        at = (context * 1_000_003 + place * 10_007 + hotword * 31 + token) & mask
        while futures[at] != NONE and _future_of(state, candidates[futures[at]]) != future:
            at = (at + 1) & mask
        if futures[at] != NONE:
            best = candidates[futures[at]]
            if best.blank + best.nonblank >= candidate.blank + candidate.nonblank:
                candidate.share = spare
                continue
            best.share = spare
        futures[at] = i


@compiled(inline="always")
def _take_in(tables, state, candidate):  # type: ignore[no-untyped-def]
    """Makes the candidate a prefix; its number."""
    prefixes, now = state.prefixes, state.progress[0]
    index = now.prefixes
    now.prefixes += 1
    parent, new = prefixes[candidate.parent], prefixes[index]
    new.parent = candidate.parent
    new.token = candidate.token
    new.place = candidate.place
    new.ended = new.child = NONE
    new.slot = new.frame = 0
    new.probability = 0.0
    if candidate.history == NONE:
        new.history = parent.history
        new.sibling = parent.child
        parent.child = index
    else:
        new.history = candidate.history
        new.sibling = state.histories[candidate.history].child
        state.histories[candidate.history].child = index
    history = state.histories[new.history]
    new.total = history.language + outlook(tables, new.place) + hope(tables, new.place, history.hotword)
    new.factor = math.exp(new.total - parent.total)
    new.sober = candidate.sober
    return index


@compiled
def _gather(ended, count, histories, history, prefix, acoustic, language):  # type: ignore[no-untyped-def]
    """Adds a reading of the words of ``history`` to the ``count`` ones in ``ended``; how many they are then."""
    place = histories[history].place
    if not (0 <= place < count and ended[place].history == history):
        new = ended[count]
        new.history = history
        new.prefix = prefix
        new.most = new.acoustic = acoustic
        new.language = language
        histories[history].place = count
        return count + 1
    known = ended[place]
    if acoustic > known.most:
        known.prefix = prefix
        known.most = acoustic
    high, low = max(known.acoustic, acoustic), min(known.acoustic, acoustic)
    known.acoustic = high + math.log1p(math.exp(low - high))
    return count


@compiled
def _end_all(tables, state, partial):  # type: ignore[no-untyped-def]
    """The readings if the sentence ended here, by their words: the sum over pronunciations; and their number.

    Where ``partial``, or where no beam is at a word's end, what a beam has begun is cut off, at the cost of its
    potential, but for what hotwords hope.
    """
    prefixes, histories, beams, now = state.prefixes, state.histories, state.beams, state.progress[0]
    first_end = tables.tree.first_end
    ended, count = np.empty(now.beams * max(tables.most, 1), ENDED), 0
    for i in range(now.beams):
        index = beams[i].prefix
        prefix = prefixes[index]
        acoustic = math.log(beams[i].blank + beams[i].nonblank) + now.scale - prefix.total
        if prefix.place == START:
            history = histories[prefix.history]
            language = conclude(tables, history.context, history.language)
            count = _gather(ended, count, histories, prefix.history, index, acoustic, language)
            continue
        ends = first_end[prefix.place + 1] - first_end[prefix.place]
        if ends:
            first = prefix.ended
            if first == NONE:
                first = _end_words(tables, state, index)
            for k in range(ends):
                same = histories[first + k].same
                language = conclude(tables, histories[same].context, histories[same].language)
                share = acoustic + tables.tree.log_prob[first_end[prefix.place] + k]
                count = _gather(ended, count, histories, same, index, share, language)
    if count and not partial:
        return ended, count
    whole = count
    for i in range(now.beams):
        index = beams[i].prefix
        prefix = prefixes[index]
        if first_end[prefix.place + 1] > first_end[prefix.place] or prefix.place == START:
            continue
        place = histories[prefix.history].place
        if 0 <= place < whole and ended[place].history == prefix.history:
            continue
        acoustic = math.log(beams[i].blank + beams[i].nonblank) + now.scale - prefix.total
        language = prefix.total + math.log(prefix.sober)
        while prefixes[index].history == prefix.history and prefixes[index].parent != NONE:
            index = prefixes[index].parent
        count = _gather(ended, count, histories, prefix.history, index, acoustic, language)
    return ended, count


@compiled
def read_out(tables, state, readings, spelt, end, partial):  # type: ignore[no-untyped-def]
    """Fills ``readings`` with the best, and ``spelt`` from ``end`` on with their tokens and, at each word's last token,
    the word; returns where these end."""
    prefixes, histories, now = state.prefixes, state.histories, state.progress[0]
    ended, found = _end_all(tables, state, partial)
    scores = ended["acoustic"][:found] + ended["language"][:found]
    count = min(found, len(readings))
    for n in range(count):
        best = np.argmax(scores)
        scores[best] = -np.inf
        reading = ended[best]
        index = reading.prefix
        while prefixes[index].parent != NONE:
            index = prefixes[index].parent
            end += 1
        place, index, frame = end, reading.prefix, now.frames
        word = histories[reading.history].word if reading.history != prefixes[index].history else NONE
        while prefixes[index].parent != NONE:
            place -= 1
            prefix = prefixes[index]
            spelt[place].token = prefix.token
            spelt[place].word = word
            frame = min(frame, prefix.frame)
            spelt[place].frame = frame
            spelt[place].probability = prefix.probability
            index = prefix.parent
            word = histories[prefix.history].word if prefixes[index].history != prefix.history else NONE
        readings[n].end = end
        readings[n].acoustic = reading.acoustic
        readings[n].language = reading.language
    for n in range(count, len(readings)):
        readings[n].end = NONE
    return end


@compiled
def search(log_probs, lengths, tables, context, limits, nbest):  # type: ignore[no-untyped-def]
    """As ``prefix_search.search``."""
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
        state = with_room(state, tables)
        end = read_out(tables, state, readings[i], spelt, end, no)
    return readings, spelt[:end]

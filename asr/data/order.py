"""The order of an epoch: which utterances it has, how often, and in which batches, drawn before any is read.

Each utterance has a place in the epoch, drawn from its id's hash, the seed and the epoch: files anywhere; what is read
in order, from a Shar, within a window of its place in the stream. So an order depends neither on how a corpus is stored
nor on the number of processes, and a run that goes on in the middle of an epoch finds its batch at once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from asr import recipe
from asr.data.cuts import FAULT
from asr.data.join import Joined, join, joined
from asr.data.listing import Listing, Part, Waiting
from asr.data.shar import Tape

Item = Waiting | Joined


class Epoch:
    """An epoch's ``batches``, its ``seconds`` of audio and its ``utterances``, each as often as it comes.

    N utterances in U units: those that are joined are one, each other is one of its own.
    """

    def __init__(
        self,
        listing: Listing,
        training: recipe.Training,
        *,
        seed: int,
        number: int,
        joins: recipe.Join | None = None,
        weighted: bool = True,
    ) -> None:
        """Unless ``weighted``, every utterance comes once."""
        self._listing, self._joins, self._salt = listing, joins, f"{seed}/{number}"
        times = _times(listing, seed, number) if weighted else np.ones(len(listing), np.int32)
        shars = {i: times[part.first : part.last] for i, part in enumerate(listing.parts) if part.shards}
        self._tapes = {
            i: _wind(listing.parts[i], int(wanted.max(initial=0)), f"{self._salt}/{i}") for i, wanted in shars.items()
        }
        self._windows = max([1, *(math.ceil(wanted.sum() / training.shuffle_window) for wanted in shars.values())])
        self._numbers, self._turns = _each(times)
        windows = self._arrange()
        seconds = listing.seconds[self._numbers]
        self.utterances, self.seconds = len(seconds), float(seconds.sum())
        self._ends = np.arange(1, len(seconds) + 1, dtype=np.int32)
        self._are_joined = np.zeros(len(seconds), np.bool_)
        if joins is not None:
            self._ends, self._are_joined, seconds = self._join(training.utterance_seconds, joins)
            windows = windows[self._ends - 1]
        self._units, self._bounds, self._passed = _batch(
            seconds, windows, training.max_batch_seconds, training.buckets, _number(f"{self._salt}/batches")
        )
        self.batches = len(self._passed)

    def share(self, skip: int = 0, every: int = 1) -> Iterator[list[Item]]:
        """The batches without the first ``skip``, and of the rest one in ``every``, the first and so on."""
        own = range(skip, self.batches, every)
        tapes = self._open_tapes(own)
        for batch in own:
            yield [self._item(unit, tapes) for unit in self._of(batch).tolist()]
            for tape, _ in tapes:  # a window ahead, so that no window begins with a wait
                tape.read_to(math.ceil((self._passed[batch] + 1) * len(tape) / self._windows))

    def joined_texts(self) -> Iterator[list[str]]:
        """As the corpora have them, the texts of those utterances that are joined."""
        for unit in np.flatnonzero(self._are_joined).tolist():
            yield [self._listing.told(int(number))[1] for number in self._numbers[self._span(unit)]]

    # ------------------------------------------------------------------------------------------------- the drawing

    def _arrange(self) -> np.ndarray:
        """Puts the utterances into the epoch's order; the window of each, (N,)."""
        places = self._places(self._numbers, self._turns)
        order = np.argsort(places, kind="stable")
        self._numbers, self._turns = self._numbers[order], self._turns[order]
        return places[order].astype(np.int32)

    def _places(self, numbers: np.ndarray, turns: np.ndarray) -> np.ndarray:
        """(N,): where in the epoch each utterance comes, counted in windows."""
        places = draw(self._listing.keys[numbers], turns, _number(self._salt))
        if self._windows > 1:
            for i, part in enumerate(self._listing.parts):
                low, high = np.searchsorted(numbers, (part.first, part.last))
                if part.shards:
                    positions = self._tapes[i].positions
                    along = positions[turns[low:high], numbers[low:high] - part.first]
                    places[low:high] += along * self._windows // positions.size
                else:
                    places[low:high] *= self._windows
        return places

    def _join(self, limits: tuple[float, float], joins: recipe.Join) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(U,): where each unit ends, whether its utterances are joined, and its duration."""
        ends, are_joined, seconds, end = array("Q"), bytearray(), array("d"), 0
        for unit in join(self._named(slice(None)), joins, salt=self._salt, seconds=limits):
            is_joined = isinstance(unit, Joined)
            end += len(unit.cuts) if isinstance(unit, Joined) else 1
            ends.append(end)
            are_joined.append(is_joined)
            seconds.append(unit.duration)
        return np.array(ends, np.int32), np.frombuffer(are_joined, np.bool_), np.array(seconds)

    def _named(self, span: slice) -> Iterator[_Named]:
        for number, turn in zip(self._numbers[span].tolist(), self._turns[span].tolist(), strict=True):
            id, _ = self._listing.told(number)
            yield _Named(
                id=id if turn == 0 else f"{id}#{turn + 1}",
                duration=float(self._listing.seconds[number]),
                custom={FAULT: ""} if self._listing.faulty[number] else None,
            )

    # ------------------------------------------------------------------------------------------------- the reading

    def _of(self, batch: int) -> np.ndarray:
        units: np.ndarray = self._units[self._bounds[batch] : self._bounds[batch + 1]]
        return units

    def _span(self, unit: int) -> slice:
        return slice(int(self._ends[unit - 1]) if unit else 0, int(self._ends[unit]))

    def _item(self, unit: int, tapes: list[tuple[Tape, Part]]) -> Item:
        span = self._span(unit)
        waiting = tuple(
            self._waiting(number, turn, tapes)
            for number, turn in zip(self._numbers[span].tolist(), self._turns[span].tolist(), strict=True)
        )
        if self._joins is None or not self._are_joined[unit]:
            return waiting[0]
        return dataclasses.replace(joined([*self._named(span)], self._joins, self._salt), cuts=waiting)

    def _waiting(self, number: int, turn: int, tapes: list[tuple[Tape, Part]]) -> Waiting:
        for tape, part in tapes:
            if part.first <= number < part.last:
                return tape.take(number - part.first, turn)
        return self._listing.waiting(number, turn)

    def _open_tapes(self, own: range) -> list[tuple[Tape, Part]]:
        """A tape for each Shar, which keeps what the batches ``own`` have of it."""
        if not self._tapes:
            return []
        is_own = np.zeros(self.batches, np.bool_)
        is_own[own.start : own.stop : own.step] = True
        of_unit = np.zeros(len(self._units), np.bool_)
        of_unit[self._units] = np.repeat(is_own, np.diff(self._bounds))
        taken = np.repeat(of_unit, np.diff(self._ends, prepend=0))
        tapes = []
        for i, wound in self._tapes.items():
            part = self._listing.parts[i]
            inside = taken & (self._numbers >= part.first) & (self._numbers < part.last)
            wanted = np.zeros(wound.positions.shape, np.bool_)
            wanted[self._turns[inside], self._numbers[inside] - part.first] = True
            assert part.places is not None
            tapes.append((Tape(part.shards, part.places, wound.shards, wanted), part))
        return tapes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Named:
    """What decides whether an utterance is joined."""

    id: str
    duration: float
    custom: dict[str, str] | None


@dataclass(frozen=True, slots=True)
class _Wound:
    """A Shar's ``shards`` in the order of each pass of an epoch, and the ``positions`` (passes, N) of its utterances
    along all of them."""

    shards: tuple[tuple[int, ...], ...]
    positions: np.ndarray


def _wind(part: Part, passes: int, salt: str) -> _Wound:
    assert part.places is not None
    sizes = np.bincount(part.places[:, 0], minlength=len(part.shards))
    earlier = np.cumsum(sizes) - sizes
    orders, positions = [], np.empty((passes, len(part)), np.int64)
    for turn in range(passes):
        shards = np.random.default_rng(_number(f"{salt}/{turn}" if turn else salt)).permutation(len(sizes))
        begins = np.empty(len(sizes), np.int64)
        begins[shards] = np.cumsum(sizes[shards]) - sizes[shards] + turn * len(part)
        positions[turn] = np.arange(len(part)) + np.repeat(begins - earlier, sizes)
        orders.append(tuple(shards.tolist()))
    return _Wound(tuple(orders), positions)


def _times(listing: Listing, seed: int, number: int) -> np.ndarray:
    """(N,): how often each utterance comes in epoch ``number``: of a weight of 0.25 once in every four epochs."""
    times = np.ones(len(listing), np.int32)
    for part in listing.parts:
        if part.weight != 1:
            keys = listing.keys[part.first : part.last]
            begun = draw(keys, np.zeros(len(keys), np.uint8), _number(f"{seed}/weight"))
            before, after = (np.floor(part.weight * epochs + begun) for epochs in (number, number + 1))
            times[part.first : part.last] = after - before
    return times


def _each(times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The utterances of an epoch, each as often as it comes; and which time each is, from 0."""
    numbers = np.repeat(np.arange(len(times), dtype=np.int32), times)
    turns = np.arange(len(numbers), dtype=np.int32)
    turns -= np.repeat(np.cumsum(times, dtype=np.int32) - times, times)
    return numbers, turns


def _batch(
    seconds: np.ndarray, windows: np.ndarray, most: float, buckets: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Units (U,) batch by batch; where the batches begin and end, (batches + 1,); and how much of the epoch has passed
    after each, in windows.

    Each bucket has an equal share of the audio. A batch is filled from one of them, in order, while its longest unit
    times their number is at most ``most`` seconds, and it comes in the window where it was filled, anywhere.
    """
    limits = _limits(seconds, buckets if len(seconds) >= 2 * buckets else 1)
    bucket_of = np.searchsorted(limits, seconds, side="right").astype(np.int32)
    batch_of, batches = array("i"), 0
    last, size, longest = [0] * buckets, [0] * buckets, [0.0] * buckets
    for bucket, duration in zip(bucket_of.data, seconds.data, strict=True):
        length = max(longest[bucket], duration)
        if size[bucket] == 0 or (size[bucket] + 1) * length > most:
            last[bucket], size[bucket], length = batches, 0, duration
            batches += 1
        size[bucket] += 1
        longest[bucket] = length
        batch_of.append(last[bucket])
    filled = np.asarray(batch_of, np.int32)
    window_of = np.zeros(batches, np.int32)
    window_of[filled] = windows  # of several units the last
    order = np.argsort(window_of + np.random.default_rng(seed).random(batches), kind="stable")
    rank = np.empty(batches, np.int32)
    rank[order] = np.arange(batches, dtype=np.int32)
    in_window = np.bincount(window_of)
    begun = (np.cumsum(in_window) - in_window)[window_of[order]]
    passed = window_of[order] + (np.arange(1, batches + 1) - begun) / in_window[window_of[order]]
    place = rank[filled]
    bounds = np.concatenate([[0], np.cumsum(np.bincount(place, minlength=batches))])
    return np.argsort(place, kind="stable").astype(np.int32), bounds, passed


def _limits(seconds: np.ndarray, buckets: int) -> np.ndarray:
    """(buckets - 1,): the shortest unit of each bucket but the first."""
    ordered = np.sort(seconds)
    shares = np.cumsum(ordered)
    shares /= max(float(ordered.sum()), 1e-9)
    limits: np.ndarray = ordered[np.searchsorted(shares, np.arange(1, buckets) / buckets)]
    return limits


def draw(keys: np.ndarray, turns: np.ndarray, seed: int) -> np.ndarray:
    """(N,) in [0, 1), of each id and turn the same again for the same ``seed``: SplitMix64 (Steele et al. 2014)."""
    mixed = turns.astype(np.uint64)
    mixed *= np.uint64(0x9E3779B97F4A7C15)
    mixed += keys
    mixed += np.uint64(seed)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed ^= mixed >> np.uint64(shift)
        mixed *= np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    mixed >>= np.uint64(11)
    drawn: np.ndarray = mixed / 2.0**53
    return drawn


def _number(salt: str) -> int:
    return int.from_bytes(hashlib.blake2b(salt.encode(), digest_size=8).digest())

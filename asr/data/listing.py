"""A split's utterances, listed once: what an epoch is ordered by lies in flat arrays, the rest in a temporary file.

No recording is opened where the corpus tells how long it is.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import marshal
import os
import pickle
import tempfile
import weakref
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from asr.data.corpora import DescribedCuts, LhotseCuts, Mixture, id_taken
from asr.data.cuts import Described, Packing, again, header_of, is_told, seconds_of
from asr.data.shar import Held, Shard, describe, shards_of

HEADERS = 4096
"""Headers remembered while a corpus is listed: the parts of one recording stand near each other."""
TOGETHER = 1024
"""Utterances that are read at once where all are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A cut of a lhotse cuts file on its way to the process that loads it."""

    id: str
    packed: bytes
    turn: int

    def cut(self) -> Any:
        return again(pickle.loads(self.packed), self.turn)


Waiting = Described | Stored | Held
"""An utterance on its way to the process that loads it, which makes a cut of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Utterances ``first`` to ``last`` of a listing, those of one source, each ``weight`` times an epoch; ``shards``
    where they are read in order, from the ``places`` (N, 2) that ``data.shar.Tape`` takes."""

    first: int
    last: int
    weight: float
    shards: tuple[Shard, ...] = ()
    places: np.ndarray | None = None

    def __len__(self) -> int:
        return self.last - self.first


class Listing:
    """The utterances of a mixture, numbered from 0 in the order of its sources.

    ``seconds`` (N,) are their durations, ``keys`` (N,) 64 bits of each id's hash, ``faulty`` (N,) whether they are
    known to be of no use. ``digest`` tells the whole from others. Raises CorpusError for what is malformed.
    """

    def __init__(self, mixture: Mixture) -> None:
        self._file, self._starts = tempfile.TemporaryFile(), array("Q", [0])  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._seconds, self._keys, self._faulty = array("d"), array("Q"), array("b")
        self._faults: dict[int, str] = {}
        self._packing = Packing()
        self.parts = tuple(self._list(cuts, weight) for cuts, weight in mixture.parts)
        self._file.flush()
        self.seconds, self.keys = np.asarray(self._seconds, np.float64), _apart(np.asarray(self._keys, np.uint64))
        self.faulty = np.array(self._faulty, np.bool_)
        self.digest = self._digest()

    def __len__(self) -> int:
        return len(self._seconds)

    def told(self, number: int) -> tuple[str, str]:
        """Id and text as its corpus has it."""
        id, text, *_ = marshal.loads(self._bytes(number))
        return id, text

    def texts(self) -> Iterator[str]:
        """Of all, as their corpora have them."""
        return (text for _, text in self.all_told())

    def all_told(self) -> Iterator[tuple[str, str]]:
        """As ``told``, of all."""
        for first in range(0, len(self), TOGETHER):
            starts = self._starts[first : first + TOGETHER + 1]
            packed = memoryview(os.pread(self._file.fileno(), starts[-1] - starts[0], starts[0]))
            for start, end in itertools.pairwise(starts):
                id, text, *_ = marshal.loads(packed[start - starts[0] : end - starts[0]])
                yield id, text

    def waiting(self, number: int, turn: int = 0) -> Described | Stored:
        """Utterance ``number`` of a source that is no Shar."""
        packed = self._bytes(number)
        fields = marshal.loads(packed)
        if len(fields) == 3:
            return Stored(id=fields[0], packed=fields[2], turn=turn)
        return self._packing.unpack(packed, turn, self._faults.get(number, ""))

    def outlined(self) -> Iterator[Any]:
        """Cuts as far as they are known, files alone: no recording is opened."""
        for part in self.parts:
            for number in range(part.first, part.last) if not part.shards else ():
                waiting = self.waiting(number)
                yield waiting.outline() if isinstance(waiting, Described) else waiting.cut()

    def _bytes(self, number: int) -> bytes:
        start, end = self._starts[number : number + 2]
        return os.pread(self._file.fileno(), end - start, start)

    # ------------------------------------------------------------------------------------------------ the one pass

    def _list(self, cuts: DescribedCuts | LhotseCuts, weight: float) -> Part:
        first, places = len(self), array("I")
        shards: tuple[Shard, ...] = ()
        if isinstance(cuts, DescribedCuts):
            self._list_described(cuts)
            self._file.flush()
            self._mark_twins(first)
        elif cuts.shar:
            shards = shards_of(cuts.shar)
            self._list_shar(cuts, shards, places)
        else:
            for cut in cuts:
                text = " ".join(s.text for s in cut.supervisions if s.text)
                self._add(cut.id, float(cut.duration), marshal.dumps((cut.id, text, pickle.dumps(cut))))
        table = np.array(places, np.int64).reshape(-1, 2) if shards else None
        return Part(first=first, last=len(self), weight=weight, shards=shards, places=table)

    def _list_described(self, cuts: DescribedCuts) -> None:
        remembered = functools.lru_cache(HEADERS)(header_of)
        for utterance in cuts.taken():
            header = None
            if not is_told(utterance):
                header = cuts.headers.get(utterance.audio) or remembered(utterance.audio)
            seconds = seconds_of(utterance, header)
            self._add(utterance.id, seconds, self._packing.pack(utterance, header), bool(utterance.fault))

    def _list_shar(self, cuts: LhotseCuts, shards: tuple[Shard, ...], places: array[int]) -> None:
        for number, shard in enumerate(shards):
            for line, content in enumerate(shard.lines()):
                id, text, speaker, seconds = describe(content, f"{shard.cuts}, line {line + 1}")
                if cuts.takes(speaker, id):
                    places.extend((number, line))
                    self._add(id, seconds, marshal.dumps((id, text)))

    def _add(self, id: str, seconds: float, packed: bytes, faulty: bool = False) -> None:
        self._file.write(packed)
        self._starts.append(self._starts[-1] + len(packed))
        self._seconds.append(seconds)
        self._keys.append(int.from_bytes(hashlib.blake2b(id.encode(), digest_size=8).digest()))
        self._faulty.append(faulty)

    def _mark_twins(self, first: int) -> None:
        """Gives those whose id an earlier one of the source has that for a fault."""
        owners: dict[str, str] = {}
        for number in (_repeated(np.array(self._keys[first:], np.uint64)) + first).tolist():
            utterance = self.waiting(number).utterance  # type: ignore[union-attr]
            where = utterance.where if utterance.fault else owners.setdefault(utterance.id, utterance.where)
            if where != utterance.where:
                self._faults[number], self._faulty[number] = id_taken(utterance, where), True
                self._seconds[number] = seconds_of(self.waiting(number).utterance, None)  # type: ignore[union-attr]

    def _digest(self) -> str:
        """Of ids and, since batches depend on them, durations and weights; whatever their order."""
        milliseconds = np.round(self.seconds * 1000).astype(np.int64)
        weights = np.repeat([part.weight for part in self.parts], [len(part) for part in self.parts])
        columns = (self.keys, milliseconds, weights)
        order = np.lexsort(columns)
        digest = hashlib.blake2b(digest_size=8)
        for column in columns:
            for first in range(0, len(order), TOGETHER):
                digest.update(column[order[first : first + TOGETHER]].tobytes())
        return digest.hexdigest()


def _repeated(keys: np.ndarray) -> np.ndarray:
    """Where in ``keys`` (N,) those stand that come more than once, in order."""
    ordered = np.sort(keys)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    return np.flatnonzero(np.isin(keys, twice)) if len(twice) else np.empty(0, np.int64)


def _apart(keys: np.ndarray) -> np.ndarray:
    """``keys`` (N,), those that are equal told apart: of an id that several sources have, an epoch must not put the
    copies side by side."""
    numbers = _repeated(keys)
    numbers = numbers[np.argsort(keys[numbers], kind="stable")]
    same = keys[numbers]
    starts = np.flatnonzero(np.concatenate([[True], same[1:] != same[:-1]])[: len(same)])
    earlier = np.arange(len(same)) - np.repeat(starts, np.diff(starts, append=len(same)))
    keys[numbers] += earlier.astype(np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F)
    return keys

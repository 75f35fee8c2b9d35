"""What one process of many does with an archive: it holds a recogniser, and makes of each shard a file of its own.

The file appears whole or not at all, so that a shard is finished if its file is there, whoever was killed meanwhile.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr import audio, files, runtime
from asr.audio import describe
from asr.errors import AsrError, AudioError
from asr.transcribe.archive import Entry, Shard

if TYPE_CHECKING:  # whoever hands out the work needs no recogniser
    import numpy as np

    from asr.checkpoint import Engine
    from asr.transcribe.recordings import Channels, Source

DEADLY = 2
"""Processes that die of a recording before it is left out."""
_ROUNDED_SECONDS = 0.1
"""A manifest rounds durations: a shorter one by so much means the whole recording."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """How shards are to be transcribed, and the folder that their files go to. ``threads`` compute in each process."""

    model: Path
    shards: Path
    decoding: tuple[str, ...] = ()
    engine: Engine = "auto"
    device: str = "auto"
    channels: Channels = "mix"
    vad: bool | None = None
    threads: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Of a shard that is finished: how many recordings were ``transcribed`` and ``failed``, its ``seconds`` as planned,
    and the ``processor_seconds`` that it took."""

    number: int
    transcribed: int
    failed: int
    seconds: float
    processor_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A sentence that concerns every shard: the model does not load, or the disk is full."""

    sentence: str


def shard_file(folder: Path, number: int) -> Path:
    return folder / f"{number:06}.jsonl"


class Worker:
    """A process's recogniser, and what it is asked. Nothing is raised: a Refusal can be sent between processes."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders

    def load(self) -> Refusal | None:
        """The recogniser, ready for its first shard."""
        orders = self._orders
        os.environ["OMP_NUM_THREADS"] = str(orders.threads)  # both engines go by it
        runtime.keep_few_kernels()
        try:
            from asr.transcribe.recogniser import Recogniser

            self._recogniser = Recogniser.load(
                orders.model, engine=orders.engine, device=orders.device, decoding=orders.decoding
            )
            self._recogniser.warm_up()
        except ModuleNotFoundError as error:
            return Refusal(sentence=f"the process that transcribes lacks the package {error.name}")
        except (AsrError, OSError) as error:
            return Refusal(sentence=str(error))
        return None

    def transcribe(self, shard: Shard, *, warily: bool = False) -> Report | Refusal:
        """Writes the shard's file: a JSON object a line, by id, a transcript's or one with the ``error`` that there is
        none. ``warily`` reads one recording after the other, and leaves out those of which processes have died."""
        began = os.times()
        suspects = self._orders.shards / f".{shard.number:06}.suspects"
        try:
            rows = self._warily(shard, suspects) if warily else self._at_once(shard)
            rows.sort(key=lambda row: row["id"])
            with files.replacing(shard_file(self._orders.shards, shard.number)) as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            suspects.unlink(missing_ok=True)
        except (AsrError, OSError) as error:
            return Refusal(sentence=str(error))
        ended = os.times()
        failed = sum("error" in row for row in rows)
        return Report(
            number=shard.number,
            transcribed=len(rows) - failed,
            failed=failed,
            seconds=shard.seconds,
            processor_seconds=ended.user + ended.system - began.user - began.system,
        )

    def _at_once(self, shard: Shard) -> list[dict[str, Any]]:
        try:
            return self._rows(shard.entries)
        except AsrError:
            raise
        except Exception:  # of one recording, that made a library stumble: which, and no other, must fail
            return [row for entry in shard.entries for row in self._alone(entry)]

    def _warily(self, shard: Shard, suspects: Path) -> list[dict[str, Any]]:
        """What is read is noted first: the last of a dead process's notes is what it died of."""
        rows: list[dict[str, Any]] = []
        begun = Counter(suspects.read_text().splitlines()) if suspects.exists() else Counter()
        with suspects.open("a") as notes:
            for number, entry in enumerate(shard.entries):
                if begun[f"begun {number}"] - begun[f"ended {number}"] >= DEADLY:
                    rows.append(_failure(entry, "the process that read it died, each time"))
                    continue
                print("begun", number, file=notes, flush=True)
                rows += self._alone(entry)
                print("ended", number, file=notes, flush=True)
        return rows

    def _alone(self, entry: Entry) -> list[dict[str, Any]]:
        try:
            return self._rows((entry,))
        except AsrError:
            raise
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1].name
            return [_failure(entry, f"{type(error).__name__} in {where}: {error}")]

    def _rows(self, entries: tuple[Entry, ...]) -> list[dict[str, Any]]:
        from asr.transcribe.formats import as_document

        orders, rate = self._orders, self._recogniser.network.sample_rate
        rows = []
        with _Warnings() as warned:
            sources = (warned.heeding(number, _source(entry, rate)) for number, entry in enumerate(entries))
            outcomes = self._recogniser.transcribe_all(sources, channels=orders.channels, vad=orders.vad)
            for number, (entry, outcome) in enumerate(zip(entries, outcomes, strict=True)):
                if isinstance(outcome, AudioError):
                    rows.append(_failure(entry, str(outcome)))
                else:
                    document = as_document(outcome, describe(entry.recording))
                    rows.append({"id": entry.id, **document, **warned.of(number)})
        return rows


def _failure(entry: Entry, reason: str) -> dict[str, Any]:
    return {"id": entry.id, "file": describe(entry.recording), "error": reason}


def _source(entry: Entry, rate: int) -> Source:
    """What is to be heard of an entry, at ``rate`` Hz. Nothing is opened before it is asked for."""
    from asr.transcribe.recogniser import source_of
    from asr.transcribe.recordings import Source

    def channels() -> int:
        return 1 if entry.fault else audio.outline(entry.recording).channels

    def blocks(channel: int | None) -> Iterator[np.ndarray]:
        if entry.fault:
            raise AudioError(entry.fault)
        if entry.offset == 0 and (
            entry.duration is None or entry.duration > audio.outline(entry.recording).duration - _ROUNDED_SECONDS
        ):
            yield from source_of(entry.recording, None, rate).blocks(channel)
        else:
            part, own_rate = audio.read_channels(entry.recording, offset=entry.offset, duration=entry.duration)
            yield from source_of(part, own_rate, rate).blocks(channel)

    return Source(channels=channels, blocks=blocks)


class _Warnings(logging.Handler):
    """What the package logs of each recording while it is read: damage that leaves something of it to be heard."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._said: defaultdict[int, list[str]] = defaultdict(list)
        self._reading: int | None = None

    def __enter__(self) -> _Warnings:
        logging.getLogger("asr").addHandler(self)
        return self

    def __exit__(self, *_raised: object) -> None:
        logging.getLogger("asr").removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        if self._reading is not None:
            self._said[self._reading].append(record.getMessage())

    def heeding(self, number: int, source: Source) -> Source:
        """The source, of which what is logged is remembered."""

        def blocks(channel: int | None) -> Iterator[np.ndarray]:
            heard = iter(source.blocks(channel))
            while True:
                self._reading = number
                try:
                    block = next(heard, None)
                finally:
                    self._reading = None
                if block is None:
                    return
                yield block

        return dataclasses.replace(source, blocks=blocks)

    def of(self, number: int) -> dict[str, list[str]]:
        return {"warnings": self._said[number]} if number in self._said else {}

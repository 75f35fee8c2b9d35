"""Shards given out to many processes, whoever dies: each is finished once, or the run stops with a sentence."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import connection
from typing import Protocol

from asr.errors import AsrError
from asr.transcribe.archive import Shard
from asr.transcribe.worker import Orders, Refusal, Report, Worker

SUDDEN = 2
"""Deaths over a shard after which it is read warily."""
STILLBORN = 3
"""Processes in a row that die before they can transcribe: the next would, too."""
_TICK_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A worker has loaded its model."""

    worker: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A worker has finished its shard."""

    worker: int
    report: Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Died:
    """A worker is no more, with its shard if it had one."""

    worker: int
    reason: str


Event = Ready | Done | Died


class Pool(Protocol):
    """Processes that transcribe, here or elsewhere, each known by a number that is not given twice."""

    def start(self) -> int:
        """Another worker, which will be ready, or die."""
        ...

    def give(self, worker: int, shard: Shard, *, warily: bool) -> None:
        """To a worker that is ready, or done with its last one."""
        ...

    def events(self, seconds: float) -> list[Event]:
        """What has happened; where nothing has, what happens within ``seconds``. Raises AsrError for a Refusal."""
        ...

    def close(self) -> None:
        """Ends all workers at once."""
        ...


def work_off(shards: Iterable[Shard], pool: Pool, workers: int) -> Iterator[Report | None]:
    """The reports of ``shards`` as they are finished, and None now and then in between.

    A shard whose worker died is given to another. Raises AsrError where the workers cannot go on.
    """
    waiting, again = iter(shards), deque[Shard]()
    idle: list[int] = []
    busy: dict[int, Shard] = {}
    deaths: Counter[int] = Counter()
    stillborn = 0
    for _ in range(workers):
        pool.start()
    following = next(waiting, None)
    while busy or again or following:
        while idle and (again or following):
            shard = again.popleft() if again else following
            if shard is following:
                following = next(waiting, None)
            assert shard is not None
            worker = idle.pop()
            busy[worker] = shard
            pool.give(worker, shard, warily=deaths[shard.number] >= SUDDEN)
        happened = pool.events(_TICK_SECONDS)
        for event in happened:
            if isinstance(event, Died):
                if (lost := busy.pop(event.worker, None)) is not None:
                    deaths[lost.number] += 1
                    again.append(lost)
                elif event.worker in idle:
                    idle.remove(event.worker)
                elif (stillborn := stillborn + 1) == STILLBORN:
                    raise AsrError(f"the processes that transcribe die as they start: {event.reason}")
                pool.start()
            else:
                stillborn = 0
                idle.append(event.worker)
                if isinstance(event, Done):
                    del busy[event.worker]
                    yield event.report
        if not happened:
            yield None


class LocalPool:
    """Processes of this machine."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        # Each starts afresh: a fork would take threads' locks and open files along.
        self._processes = multiprocessing.get_context("spawn")
        self._alive: dict[int, tuple[multiprocessing.process.BaseProcess, connection.Connection]] = {}
        self._started = 0

    def start(self) -> int:
        ours, theirs = self._processes.Pipe()
        process = self._processes.Process(target=_serve, args=(self._orders, theirs), daemon=True)
        process.start()
        theirs.close()  # so that its end is heard of
        self._started += 1
        self._alive[self._started] = process, ours
        return self._started

    def give(self, worker: int, shard: Shard, *, warily: bool) -> None:
        with contextlib.suppress(OSError):  # it died: ``events`` will tell
            self._alive[worker][1].send((shard, warily))

    def events(self, seconds: float) -> list[Event]:
        spoken = connection.wait([pipe for _, pipe in self._alive.values()], seconds)
        return [self._heard(worker, pipe) for worker, (_, pipe) in list(self._alive.items()) if pipe in spoken]

    def _heard(self, worker: int, pipe: connection.Connection) -> Event:
        try:
            answer: Report | Refusal | None = pipe.recv()
        except (EOFError, OSError):
            process, _ = self._alive.pop(worker)
            pipe.close()
            process.join()
            return Died(worker=worker, reason=_end_of(process.exitcode))
        if isinstance(answer, Refusal):
            raise AsrError(answer.sentence)
        return Ready(worker=worker) if answer is None else Done(worker=worker, report=answer)

    def close(self) -> None:
        for process, _ in self._alive.values():
            process.kill()  # what it has not renamed yet does not count
        for process, pipe in self._alive.values():
            process.join()
            pipe.close()
        self._alive.clear()


def _end_of(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"killed by {signal.Signals(-exitcode).name}"
    return f"exit code {exitcode}"


def _serve(orders: Orders, pipe: connection.Connection) -> None:
    """A worker process: it answers that it is ready, then each shard, until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of a terminal's processes: the first one acts
    threading.Thread(target=_end_with_parent, daemon=True).start()
    worker = Worker(orders)
    try:
        pipe.send(worker.load())
        while True:
            shard, warily = pipe.recv()
            pipe.send(worker.transcribe(shard, warily=warily))
    except (EOFError, OSError):  # whoever asked is gone
        return


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)

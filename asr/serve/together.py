"""Live streams of many threads, read by one network together: the chunks that are due are a batch.

There is no clock: while a batch is read, others become due, and are the next one. So a lone stream waits for nobody,
and the fuller the server, the fuller the batches.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from asr.audio.lockstep import MOST
from asr.errors import AsrError
from asr.records import EmissionStream, Streaming
from asr.transcribe.recogniser import Recogniser


def read_together(recognisers: Iterable[Recogniser]) -> int:
    """Has the recognisers read their streams together where that is quicker. How many a batch holds, at the most."""
    most = 1
    for recogniser in recognisers:
        with contextlib.suppress(AsrError):  # of a model that reads no live speech: whoever asks for a stream hears it
            if getattr(recogniser.streaming(), "batches_streams", False):
                recogniser.share(Together)
                most = MOST
    return most


@dataclass(slots=True, eq=False)
class _Due:
    """Samples that a stream was fed, and what became of them."""

    stream: EmissionStream
    samples: np.ndarray
    last: bool
    result: np.ndarray | Exception | None = None


class Together:
    """``asr.records.Streaming``, of a ``network`` that ``batches_streams``. The first thread that finds nobody reading
    reads for all that wait."""

    batches_streams = False

    def __init__(self, network: Streaming) -> None:
        self.network, self.sample_rate, self.frame_shift = network, network.sample_rate, network.frame_shift
        self.steps = 0
        """Batches that were read."""
        self._waiting: list[_Due] = []
        self._reading = False
        self._changed = threading.Condition()

    def stream(self, *, chunk: float, context: float) -> EmissionStream:
        return _Stream(self, self.network.stream(chunk=chunk, context=context))

    def feed_together(
        self, streams: Iterable[EmissionStream], samples: Iterable[np.ndarray], *, last: Iterable[bool]
    ) -> list[np.ndarray | Exception]:
        return [s.feed(given, last=end) for s, given, end in zip(streams, samples, last, strict=True)]

    def read(self, due: _Due) -> np.ndarray:
        """The emissions of what is due, which is read with whatever else is. Raises what its stream raises."""
        with self._changed:
            self._waiting.append(due)
            while self._reading and due.result is None:
                self._changed.wait()
            if due.result is None:
                self._reading, batch, self._waiting = True, self._waiting, []
        if due.result is None:
            self._read_all(batch)
        if isinstance(due.result, Exception):
            raise due.result
        assert due.result is not None
        return due.result

    def _read_all(self, batch: list[_Due]) -> None:
        results: list[np.ndarray | Exception]
        try:
            results = self.network.feed_together(
                [due.stream for due in batch], [due.samples for due in batch], last=[due.last for due in batch]
            )
        except Exception as error:
            results = [error] * len(batch)
        with self._changed:
            self.steps += 1
            for due, result in zip(batch, results, strict=True):
                due.result = result
            self._reading = False
            self._changed.notify_all()


class _Stream:
    """One of ``together``'s."""

    def __init__(self, together: Together, own: EmissionStream) -> None:
        self._together, self._own, self.latency = together, own, own.latency

    def feed(self, samples: np.ndarray, *, last: bool = False) -> np.ndarray:
        return self._together.read(_Due(self._own, samples, last))

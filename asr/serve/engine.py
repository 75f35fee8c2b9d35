"""The engine that transcribes files: pieces of many requests' recordings in one batch.

Each recording has a thread that reads it, a minute ahead at the most; one thread has the network. A batch is filled
from the recordings of which the least was read, so that a short one does not wait for a long one's end. One that comes
later begins with what the least served of the others has (start-time fair queueing: Goyal, Vin, Cheng 1996), so that
no number of short ones starves a long one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from asr import audio
from asr.decode.decoder import Decoder
from asr.errors import AsrError
from asr.records import Segment, blanks
from asr.serve import streams
from asr.serve.errors import RequestError, unexpected
from asr.serve.metrics import Metrics
from asr.text.normalise import normalise
from asr.transcribe.emissions import emit, frame_samples
from asr.transcribe.pieces import Piece, pieces
from asr.transcribe.recogniser import Recogniser
from asr.transcribe.recordings import BATCH_SECONDS, Passage, decoded, padded, uttered

AHEAD_SECONDS = 60.0
"""Of a recording's pieces that wait for the network, at the most, before its reader waits too."""
PROBE_SECONDS = 1.0
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a server serves. Times are in seconds.

    ``queue`` recordings are received and transcribed at once, ``streams`` of live speech heard, and ``sockets``
    connections held. A request for which the queue has no room waits for ``patience``, unread, before it is told to
    come back. Nothing is heard of a client for ``idle_timeout`` before it is let go. Beside its own, a server heeds
    pages of the ``origins`` ("https://example.org"). Once told to end, it has ``drain`` to finish what runs.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    origins: tuple[str, ...] = ()
    queue: int = 16
    patience: float = 10.0
    streams: int = 64
    sockets: int = 256
    upload_bytes: int = 1 << 30
    audio_seconds: float = 12 * 3600.0
    idle_timeout: float = 60.0
    drain: float = 30.0


class Models:
    """Recognisers by name; the first is what a client gets that names none."""

    def __init__(self, recognisers: Mapping[str, Recogniser]) -> None:
        self._recognisers = dict(recognisers)
        self.names = tuple(self._recognisers)

    def get(self, name: str) -> Recogniser:
        """Raises KeyError for a name that is not one of ``names``."""
        return self._recognisers[name]


def model_of(models: Models, name: str | None) -> Recogniser:
    """The model that a request names, or the first. Raises RequestError (404)."""
    try:
        return models.get(name or models.names[0])
    except KeyError:
        raise RequestError(
            404,
            f"there is no model {str(name)[:80]!r} here: expected one of {', '.join(models.names)}",
            param="model",
            code="model_not_found",
        ) from None


@dataclass(frozen=True, slots=True)
class Finished:
    """A recording's end: its duration in seconds, and what is missing of it, in sentences."""

    duration: float
    warnings: tuple[str, ...]


Event = Segment | Finished | Exception
"""What is told of a recording: its segments in order, then that it is finished, or what went wrong."""


class _Cancelled(Exception):
    """The client is gone, or the server ends."""


@dataclass(slots=True, eq=False, kw_only=True)
class Work:
    """A recording of a request. ``hotwords`` are phrases and their weights in nats, None being the model's own; of
    ``hints`` those that the model cannot spell are passed over. ``tell`` is called in the engine's threads."""

    recording: Path
    recogniser: Recogniser
    hotwords: Mapping[str, float] | None = None
    hints: Mapping[str, float] = field(default_factory=dict)
    tell: Callable[[Event], None]
    decoder: Decoder | None = None
    waiting: deque[tuple[Piece, Passage]] = field(default_factory=deque)
    served: int = 0
    samples: int = 0
    reading: bool = True
    ended: bool = False
    warnings: list[str] = field(default_factory=list)

    @property
    def ahead(self) -> int:
        """Samples that wait for the network."""
        return sum(len(piece.samples) for piece, _ in self.waiting)


@dataclass(frozen=True, slots=True)
class _Member:
    """Of a batch."""

    work: Work
    piece: Piece
    utterance: Passage


class Engine:
    """``start`` it, ``submit`` work to it, and ``stop`` it. It is ``alive`` while its thread is, and ``ready`` once
    every network has been seen to work."""

    def __init__(self, models: Models, settings: Settings, metrics: Metrics) -> None:
        self._models, self._settings, self._metrics = models, settings, metrics
        self._works: list[Work] = []
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="asr-engine", daemon=True)
        self._admitted: dict[object, float] = {}
        self._line: dict[object, asyncio.Future[None]] = {}
        self._promised: list[float] = []
        self._usual = 1.0  # seconds that a request takes, of late
        self._stopping = self.draining = self.ready = False

    # ------------------------------------------------------------------------------- in the event loop's thread

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        """Ends the thread; what runs is cancelled."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self.refuse()
        if self._thread.is_alive():
            self._thread.join(10.0)

    def drain(self) -> None:
        """No new request is admitted. May be called in a signal handler."""
        self.draining = True

    def refuse(self) -> None:
        """What still runs is told that the server ends."""
        with self._changed:
            works = tuple(self._works)
        for work in works:
            self._end(work, _ending())

    @property
    def standing(self) -> int:
        """How many requests wait for a place in the queue."""
        return len(self._line)

    @contextlib.asynccontextmanager
    async def admitted(self) -> AsyncIterator[None]:
        """A place in the queue, in the order of coming. Raises RequestError (503) where there is none in time."""
        self._check_able()
        place = object()
        if len(self._admitted) < self._settings.queue:
            self._admitted[place] = time.monotonic()
        else:
            await self._stand_in_line(place)
        began = self._admitted[place]
        try:
            self._check_able()
            self._metrics.queue.set(len(self._admitted))
            yield
        finally:
            self._leave(place)
            self._usual += 0.2 * (time.monotonic() - began - self._usual)

    async def _stand_in_line(self, place: object) -> None:
        """Until somebody leaves, whose place in the queue it takes."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line[place] = turn
        try:
            await asyncio.wait_for(turn, self._settings.patience)
        except TimeoutError:
            raise RequestError(
                503,
                f"{self._settings.queue} recordings are transcribed, as many as are taken at once: try again later",
                code="queue_full",
                retry_after=self._promise(),
            ) from None
        except asyncio.CancelledError:
            if place in self._admitted:  # it was its turn at the same moment
                self._leave(place)
            raise
        finally:
            self._line.pop(place, None)

    def _leave(self, place: object) -> None:
        del self._admitted[place]
        self._metrics.queue.set(len(self._admitted))
        while self._line and len(self._admitted) < self._settings.queue:
            first = next(iter(self._line))
            turn = self._line.pop(first)
            if not turn.done():
                self._admitted[first] = time.monotonic()
                turn.set_result(None)

    def _check_able(self) -> None:
        """Raises RequestError (503) where no more work is taken."""
        if self.draining:
            raise _ending()
        if not self.alive:
            raise RequestError(503, "the engine of this server has died: it must be restarted", code="engine_dead")

    def _promise(self) -> float:
        """Seconds after which a client may expect a place: as many are called back at once as there are places."""
        now = time.monotonic()
        self._promised = [due for due in self._promised if due > now]
        round_ = max([self._usual, *(now - began for began in self._admitted.values())])
        wait = min(60.0, max(1.0, round_) * (1 + len(self._promised) // self._settings.queue))
        self._promised.append(now + wait)
        return wait

    def submit(self, work: Work) -> None:
        with self._changed:
            if self._stopping:
                work.ended = True
                work.tell(_ending())
                return
            work.served = min((other.served for other in self._works), default=0)
            self._works.append(work)
        threading.Thread(target=self._read, args=[work], name="asr-reader", daemon=True).start()

    def cancel(self, work: Work) -> None:
        """Nobody waits for it any more. Of work that has ended, nothing is left to cancel."""
        self._end(work, None)

    # ---------------------------------------------------------------------------------- in a recording's thread

    def _read(self, work: Work) -> None:
        """Reads a recording into pieces, as long as somebody waits for them."""
        network = work.recogniser.network
        try:
            with _warnings_of_this_thread(work.warnings):
                work.decoder = _decoder(work)
                rate, frame = network.sample_rate, frame_samples(network)
                blocks = self._heard(work, audio.stream(work.recording, sample_rate=rate))
                cut = pieces(blocks, rate=rate, frame=frame, vad=True)
                for piece, utterance in uttered(cut, rate=rate, frame=frame):
                    self._offer(work, piece, utterance)
        except _Cancelled:
            return
        except AsrError as error:
            self._end(work, error)
        except Exception as error:
            log.error("reading an upload failed: %s: %s", type(error).__name__, error)
            self._end(work, unexpected())
        with self._changed:
            work.reading = False
            self._changed.notify_all()

    def _heard(self, work: Work, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        most = self._settings.audio_seconds
        for block in blocks:
            work.samples += len(block)
            if work.ended:
                raise _Cancelled
            if work.samples > most * work.recogniser.network.sample_rate:
                raise too_long(most)
            yield block

    def _offer(self, work: Work, piece: Piece, utterance: Passage) -> None:
        most = AHEAD_SECONDS * work.recogniser.network.sample_rate
        with self._changed:
            while not work.ended and work.waiting and work.ahead + len(piece.samples) > most:
                self._changed.wait()
            if work.ended:
                raise _Cancelled
            work.waiting.append((piece, utterance))
            self._changed.notify_all()

    # ----------------------------------------------------------------------------------- in the engine's thread

    def _run(self) -> None:
        try:
            self._probe()
            if self._settings.streams:
                streams.probe(self._models)
            self.ready = True
            while batch := self._next_batch():
                self._transcribe(batch)
        except BaseException as error:
            log.error("the engine died: %s: %s", type(error).__name__, error)
        finally:
            self.ready = False
            with self._changed:
                self._stopping, works = True, tuple(self._works)
            for work in works:
                self._end(work, unexpected())

    def _probe(self) -> None:
        """Each network reads a second of silence. Raises whatever it raises."""
        for name in self._models.names:
            network = self._models.get(name).network
            network.emit([np.zeros(round(PROBE_SECONDS * network.sample_rate), np.float32)])

    def _next_batch(self) -> list[_Member]:
        """Waits for work; nothing once the engine is stopped."""
        with self._changed:
            while True:
                self._finish_read()
                if self._stopping:
                    return []
                if any(work.waiting for work in self._works):
                    break
                self._changed.wait()
            batch = self._fill()
            self._changed.notify_all()  # readers have room
            waiting = sum(work.ahead / work.recogniser.network.sample_rate for work in self._works)
            self._metrics.waiting.set(waiting)
            return batch

    def _finish_read(self) -> None:
        """What was read to its end and has no piece left is finished."""
        for work in [work for work in self._works if not work.reading and not work.waiting]:
            duration = round(work.samples / work.recogniser.network.sample_rate, 3)
            self._end(work, Finished(duration, tuple(work.warnings)))

    def _fill(self) -> list[_Member]:
        """Pieces for one network, each time the next of the recording that was served least; no more of them than
        ``BATCH_SECONDS``, and than twice what they are without padding."""
        batch: list[_Member] = []
        able = [work for work in self._works if work.waiting]
        longest = whole = 0
        while able:
            work = min(able, key=lambda work: work.served)
            if not batch:
                able = [other for other in able if other.recogniser is work.recogniser]
            length = len(work.waiting[0][0].samples)
            padded = max(longest, length) * (len(batch) + 1)
            room = BATCH_SECONDS * work.recogniser.network.sample_rate
            if batch and padded > min(room, 2 * (whole + length)):
                able.remove(work)
                continue
            batch.append(_Member(work, *work.waiting.popleft()))
            longest, whole = max(longest, length), whole + length
            work.served += length
            if not work.waiting:
                able.remove(work)
        return batch

    def _transcribe(self, batch: list[_Member]) -> None:
        complete: dict[int, list[_Member]] = {}
        for member, log_probs in self._emitted(batch):
            member.utterance.emissions.append(log_probs)
            if not member.piece.goes_on and not member.work.ended:
                complete.setdefault(id(member.work.decoder), []).append(member)
        told = [pair for members in complete.values() for pair in self._decoded(members)]
        for work, segment in sorted(told, key=lambda pair: pair[1].start):
            if not work.ended:
                work.tell(segment)

    def _emitted(self, batch: list[_Member]) -> list[tuple[_Member, np.ndarray]]:
        """A batch that fails is read again one by one, so that a recording which nothing can read fails alone; where
        silence fails too, the engine is at its end."""
        network = batch[0].work.recogniser.network
        try:
            rows = emit(network, [member.piece for member in batch])
        except Exception as error:
            log.error("a batch failed: %s: %s", type(error).__name__, error)
            self._probe()
            if len(batch) > 1:
                return [pair for member in batch for pair in self._emitted([member])]
            self._end(batch[0].work, unexpected())
            return []
        self._metrics.batches.inc()
        self._metrics.audio.inc(sum(len(member.piece.samples) for member in batch) / network.sample_rate)
        return list(zip(batch, rows, strict=True))

    def _decoded(self, members: list[_Member]) -> list[tuple[Work, Segment]]:
        """As ``_emitted``, of utterances that one decoder decodes."""
        works = {id(member.utterance): member.work for member in members}
        recogniser = members[0].work.recogniser
        decoder = members[0].work.decoder or recogniser.decoder
        utterances = [member.utterance for member in members]
        try:
            segments = list(decoded(utterances, recogniser.network, decoder, recogniser.tokeniser))
        except Exception as error:
            log.error("decoding failed: %s: %s", type(error).__name__, error)
            if len(members) > 1:
                return [pair for member in members for pair in self._decoded([member])]
            self._end(members[0].work, unexpected())
            return []
        return [(works[id(utterance)], segment) for utterance, segment in segments]

    def _end(self, work: Work, event: Finished | Exception | None) -> None:
        with self._changed:
            if work.ended:
                return
            work.ended = True
            work.waiting.clear()
            self._works.remove(work)
            self._changed.notify_all()
        if event is not None:
            work.tell(event)


def too_long(most: float) -> RequestError:
    return RequestError(
        413, f"the recording is longer than {most / 3600:g} hours, the limit here", param="file", code="audio_too_long"
    )


def _ending() -> RequestError:
    return RequestError(503, "the server is shutting down: try again", code="shutting_down", retry_after=5)


def _decoder(work: Work) -> Decoder:
    """Raises LanguageModelError, TextError."""
    recogniser = work.recogniser
    form = recogniser.recipe.text.form
    spelled = {}
    for phrase, weight in work.hints.items():
        with contextlib.suppress(AsrError):
            if (normal := normalise(phrase, form)) and recogniser.tokeniser.encode(normal):
                spelled[phrase] = weight
    if work.hotwords is None and not spelled:
        return recogniser.decoder
    decoder = recogniser.decoder_for({**spelled, **(work.hotwords or {})}, None)
    # The search is compiled at its first use on a machine, for which only this request waits, and not the engine.
    decoder(padded([blanks(1, len(recogniser.tokeniser.tokens))], recogniser.network.frame_shift))
    return decoder


@contextlib.contextmanager
def _warnings_of_this_thread(said: list[str]) -> Iterator[None]:
    """What reading logs of a recording (that it is cut short, say) is told to whoever sent it."""
    own = threading.get_ident()

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == own and len(said) < 20:
                said.append(record.getMessage())

    keep, source = Keep(logging.WARNING), logging.getLogger("asr.audio")
    source.addHandler(keep)
    try:
        yield
    finally:
        source.removeHandler(keep)

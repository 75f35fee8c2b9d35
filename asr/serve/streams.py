"""One live stream over a WebSocket, whatever its protocol: who may open it, its limits both ways, how it ends.

A client that sends faster than it is read is not read: the network's own flow control stops it, so that a file may be
sent as fast as it goes and a flood is held in the client's memory. So it is with a client that does not read. What a
stream holds is bounded by ``MESSAGE_BYTES`` and ``AHEAD_SECONDS``.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import os
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import anyio
import numpy as np
from starlette.responses import JSONResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from asr.errors import AsrError
from asr.transcribe.recogniser import Recogniser

logger = logging.getLogger(__name__)

MESSAGE_BYTES = 4 << 20
"""The longest message: 87 s of 24 kHz audio in base64 come to 5.6 MB, 60 s to 3.8."""
AHEAD_SECONDS = 5.0
"""Of audio that is held unread; then the connection is not read until there is room."""
MESSAGE_COST = 256
"""Bytes that a message takes beside its content, so that a flood of empty ones is bounded too."""
BEHIND_SECONDS = 20.0
"""After which a stream is closed that could not be read in real time for as long."""
SEND_SECONDS = 10.0
"""After which a stream is closed whose client does not read what it is told."""
STEP_SECONDS = 1.0
"""Of audio read in one go, after which it may be another stream's turn."""
TURN_SECONDS = 0.05
"""That a thread goes on with what one stream sent: its turn costs more than the step of a short message."""

FINISHED = 1000
INVALID = 1007
"""The audio, or a message, is not what it should be."""
NOT_READING = 1008
TOO_LONG = 1009
BROKEN = 1011
"""A fault of ours; the log has it."""
OVERLOADED = 1013
IDLE = 4408


class Models(Protocol):
    """The models that are served; the first of ``names`` is taken where none is asked for."""

    @property
    def names(self) -> Collection[str]: ...

    def get(self, name: str) -> Recogniser:
        """Raises KeyError for a name that is not among ``names``."""
        ...


class Settings(Protocol):
    """``origins`` are those of pages, beside our own, that may open a stream; ``idle_timeout`` in seconds; ``streams``
    is how many may be open at once."""

    @property
    def api_key(self) -> str | None: ...
    @property
    def origins(self) -> tuple[str, ...]: ...
    @property
    def idle_timeout(self) -> float: ...
    @property
    def streams(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Close:
    """The end of a connection: a WebSocket close code, and a sentence."""

    code: int
    reason: str


class Reading(Protocol):
    """What a protocol makes of one connection."""

    subprotocols: tuple[str, ...]
    """Those it speaks."""

    @property
    def rate(self) -> float:
        """Bytes of messages that hold a second of audio, about."""
        ...

    def begin(self) -> list[str]:
        """What is told at the beginning."""
        ...

    def hear(self, message: str | bytes) -> Iterator[list[str] | Close]:
        """What a message makes known, after each ``STEP_SECONDS`` of audio. Runs in a thread. Raises AsrError."""
        ...


class Refusal(Exception):
    """A connection that is not opened: an HTTP ``status`` and, as OpenAI has them, a ``code`` and a message."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Streams:
    """The streams of one server: how many are ``open``, and the ``threads`` that read for them, as many as the network
    reads in one ``batch`` or as there are cores."""

    def __init__(self, *, batch: int = 1) -> None:
        self.open = 0
        self.threads = ThreadPoolExecutor(max_workers=max(batch, os.cpu_count() or 1), thread_name_prefix="live")

    @contextlib.contextmanager
    def place(self, most: int) -> Iterator[None]:
        """A place for one stream more. Raises Refusal where ``most`` are open."""
        if self.open >= most:
            raise Refusal(503, "too_many_streams", f"{most} live streams are open, which is the most; try again later")
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1


def model_of(models: Models, name: str | None) -> Recogniser:
    """Raises Refusal for a name that is not known."""
    try:
        return models.get(name or next(iter(models.names)))
    except KeyError:
        known = ", ".join(models.names)
        raise Refusal(404, "model_not_found", f'there is no model "{name}" here; there is {known}') from None


def probe(models: Models) -> None:
    """A stream of each model hears a second of silence, so that none of a client's waits for what is compiled when it
    is first needed: the search, for a minute on a busy machine. A model that reads no live speech is passed over.
    Raises whatever a network or a search raises."""
    for name in models.names:
        try:
            stream = models.get(name).stream()
        except AsrError:
            continue
        stream.feed(np.zeros(stream.sample_rate, np.float32))
        stream.finish()


def check_client(websocket: WebSocket, settings: Settings) -> None:
    """Raises Refusal for a page of another origin, and for a client without the key."""
    origin, host = websocket.headers.get("origin"), websocket.headers.get("host")
    # A browser lets any page open a WebSocket to any host, this machine's too, and says which page it is.
    if origin not in (None, *settings.origins, f"http://{host}", f"https://{host}"):
        raise Refusal(403, "origin_not_allowed", "pages of this origin may not open a stream: see --origin")
    if settings.api_key is not None and not any(
        hmac.compare_digest(key.encode(), settings.api_key.encode()) for key in _keys(websocket)
    ):
        raise Refusal(
            401,
            "invalid_api_key",
            "a stream needs the server's key, as Authorization: Bearer KEY or, from a browser, as the subprotocol "
            f"{KEY_SUBPROTOCOL}KEY",
        )


KEY_SUBPROTOCOL = "openai-insecure-api-key."
"""A browser can set no header of a WebSocket: OpenAI's clients send the key so."""


def _keys(websocket: WebSocket) -> Iterator[str]:
    kind, _, key = websocket.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        yield key.strip()
    for protocol in websocket.scope["subprotocols"]:
        if protocol.startswith(KEY_SUBPROTOCOL):
            yield protocol.removeprefix(KEY_SUBPROTOCOL)


async def refuse(websocket: WebSocket, refusal: Refusal) -> None:
    """Answers the handshake with an HTTP error, in JSON as OpenAI's."""
    kind = "server_error" if refusal.status >= 500 else "invalid_request_error"
    error = {"message": str(refusal), "type": kind, "param": None, "code": refusal.code}
    headers = {"Retry-After": "5"} if refusal.status == 503 else {}
    if "websocket.http.response" in websocket.scope.get("extensions", {}):
        response = JSONResponse({"error": error}, status_code=refusal.status, headers=headers)
        await websocket.send_denial_response(response)
    else:
        await websocket.close()


async def converse(websocket: WebSocket, reading: Reading, settings: Settings, streams: Streams) -> None:
    """Accepts the connection and serves it until one side ends it."""
    offered = websocket.scope["subprotocols"]
    await websocket.accept(next((name for name in offered if name in reading.subprotocols), None))
    await _Conversation(websocket, reading, settings.idle_timeout, streams.threads).run()


class _Conversation:
    """One task takes messages while there is room, another reads them, one after the other, and tells what it heard."""

    def __init__(
        self, websocket: WebSocket, reading: Reading, idle_timeout: float, threads: ThreadPoolExecutor
    ) -> None:
        self.websocket, self.reading = websocket, reading
        self.idle_timeout, self.threads = idle_timeout, threads
        self.backlog = _Backlog()

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._take, tasks.cancel_scope)
            with contextlib.suppress(WebSocketDisconnect):
                end = await self._read()
                with anyio.move_on_after(1.0):  # a client that does not read takes no farewell either
                    await self.websocket.close(end.code, _cut(end.reason))
            tasks.cancel_scope.cancel()

    async def _take(self, scope: anyio.CancelScope) -> None:
        while True:
            message = None
            with anyio.move_on_after(self.idle_timeout):
                message = await self.websocket.receive()
            if message is None:
                end = Close(IDLE, f"nothing came for {self.idle_timeout:g} s")
                return await self.backlog.put(end, 0, self.reading.rate)
            if message["type"] == "websocket.disconnect":
                scope.cancel()
                return None
            text, octets = message.get("text"), message.get("bytes")
            content: str | bytes | Close = text if text is not None else octets or b""
            size = len(text if text is not None else octets or b"")
            if size > MESSAGE_BYTES:
                content = Close(TOO_LONG, f"a message of {size:,} bytes; the most is {MESSAGE_BYTES:,}")
            await self.backlog.put(content, size, self.reading.rate)
            if isinstance(content, Close):
                return None

    async def _read(self) -> Close:
        """Until the end, which it returns."""
        if not await self._tell(self.reading.begin()):
            return _DEAF
        while True:
            messages = await self.backlog.get(self.reading.rate)
            if self.backlog.behind(self.reading.rate):
                return Close(OVERLOADED, "the server cannot read this stream in real time; try again later")
            steps = self._steps(messages)
            turn = _Turn([], more=True)
            while turn.more:
                turn = await asyncio.get_running_loop().run_in_executor(self.threads, _take_turn, steps)
                if turn.events and not await self._tell(turn.events):
                    return _DEAF
            if turn.end is not None:
                return turn.end

    def _steps(self, messages: Iterable[str | bytes | Close]) -> Iterator[list[str] | Close]:
        for message in messages:
            if isinstance(message, Close):
                yield message
            else:
                yield from self.reading.hear(message)

    async def _tell(self, events: list[str]) -> bool:
        """Whether the client took them in time."""
        with anyio.move_on_after(SEND_SECONDS) as waiting:
            for event in events:
                await self.websocket.send_text(event)
        return not waiting.cancelled_caught


@dataclass(frozen=True, slots=True)
class _Turn:
    """What a thread heard in one go, how the stream ends where it does, and whether there is ``more`` to be heard."""

    events: list[str]
    end: Close | None = None
    more: bool = False


def _take_turn(steps: Iterator[list[str] | Close]) -> _Turn:
    """As many steps as begin within ``TURN_SECONDS``."""
    events: list[str] = []
    over = time.monotonic() + TURN_SECONDS
    try:
        for step in steps:
            if isinstance(step, Close):
                return _Turn(events, step)
            events += step
            if time.monotonic() > over:
                return _Turn(events, more=True)
    except AsrError as error:
        return _Turn(events, Close(INVALID, str(error)))
    except Exception:
        logger.exception("a live stream ended in an error that should not be")
        return _Turn(events, Close(BROKEN, "an error of the server's, which its log has"))
    return _Turn(events)


_DEAF = Close(NOT_READING, f"what was told was not read for {SEND_SECONDS:g} s")


class _Backlog:
    """Messages that were taken and not yet read, and how long reading has been behind them."""

    def __init__(self) -> None:
        self.held: deque[tuple[str | bytes | Close, int]] = deque()
        self.cost = self.read = 0  # bytes that are held; bytes that were read since it filled up
        self.filled: float | None = None  # when it did
        self.changed = anyio.Condition()

    async def put(self, message: str | bytes | Close, size: int, rate: float) -> None:
        """Waits until there is room, which an empty one always has. ``rate`` as a ``Reading`` has it."""
        cost = size + MESSAGE_COST
        async with self.changed:
            while self.held and self.cost + cost > AHEAD_SECONDS * rate + 16 * MESSAGE_COST:
                if self.filled is None:
                    self.filled, self.read = time.monotonic(), 0
                await self.changed.wait()
            self.held.append((message, size))
            self.cost += cost
            self.changed.notify_all()

    async def get(self, rate: float) -> list[str | bytes | Close]:
        """At least one message, and of those that wait as many as hold ``STEP_SECONDS``. A turn of a thread's for each
        would cost more than short ones do, and a stream that has fallen behind would stay there."""
        async with self.changed:
            if not self.held:
                self.filled = None
            while not self.held:
                await self.changed.wait()
            taken: list[str | bytes | Close] = []
            cost = 0
            while self.held and (not taken or cost + self.held[0][1] + MESSAGE_COST <= STEP_SECONDS * rate):
                message, size = self.held.popleft()
                taken.append(message)
                cost += size + MESSAGE_COST
                self.read += size
            self.cost -= cost
            self.changed.notify_all()
            return taken

    def behind(self, rate: float) -> bool:
        """Whether what was read since it filled up took longer than it lasts, and too long."""
        if self.filled is None:
            return False
        took = time.monotonic() - self.filled
        return took > BEHIND_SECONDS and self.read / rate < took


def _cut(reason: str) -> str:
    """The protocol has room for 123 bytes."""
    whole = reason.encode()
    return reason if len(whole) <= 123 else whole[:120].decode(errors="ignore") + "…"

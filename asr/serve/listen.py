"""/v1/listen: bare samples in, the events of ``asr listen --format json`` out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket

from asr.errors import AsrError
from asr.serve.streams import (
    FINISHED,
    INVALID,
    STEP_SECONDS,
    Close,
    Models,
    Refusal,
    Settings,
    Streams,
    check_client,
    converse,
    model_of,
    refuse,
)
from asr.transcribe.formats import LiveEvents
from asr.transcribe.live import LiveRecogniser

ENCODINGS: dict[str, np.dtype[Any]] = {"int16": np.dtype("<i2"), "float32": np.dtype("<f4")}


def routes(models: Models, settings: Settings, streams: Streams | None = None) -> list[BaseRoute]:
    """``streams`` are those of the whole server, where others than these count."""
    streams = streams or Streams()

    async def listen(websocket: WebSocket) -> None:
        """``?sample_rate=`` in Hz, by default the model's own; ``encoding`` int16 or float32, little-endian, one
        channel; ``model``. A text message {"type": "finish"} ends the stream."""
        try:
            check_client(websocket, settings)
            with streams.place(settings.streams):
                await converse(websocket, _Listening(models, dict(websocket.query_params)), settings, streams)
        except Refusal as refusal:
            await refuse(websocket, refusal)

    return [WebSocketRoute("/v1/listen", listen)]


class _Listening:
    """One stream. ``left`` are octets of a sample whose rest is to come."""

    subprotocols: tuple[str, ...] = ("listen",)

    def __init__(self, models: Models, query: dict[str, str]) -> None:
        unknown = query.keys() - {"sample_rate", "encoding", "model"}
        if unknown:
            known = "sample_rate, encoding and model"
            raise Refusal(400, "unknown_parameter", f"/v1/listen knows {known}; found {', '.join(sorted(unknown))}")
        encoding = query.get("encoding", "int16")
        if encoding not in ENCODINGS:
            raise Refusal(400, "invalid_value", f"encoding is {' or '.join(ENCODINGS)}; found {encoding}")
        given = query.get("sample_rate")
        if given is not None and not (given.isascii() and given.isdecimal() and len(given) <= 6):
            raise Refusal(400, "invalid_value", f"sample_rate is a whole number of Hz; found {given}")
        recogniser = model_of(models, query.get("model"))
        try:
            self.stream: LiveRecogniser = recogniser.stream(sample_rate=None if given is None else int(given))
        except AsrError as error:
            raise Refusal(400, "invalid_value", str(error)) from None
        self.dtype = ENCODINGS[encoding]
        self.rate = float(self.stream.sample_rate * self.dtype.itemsize)
        self.events = LiveEvents()
        self.left = b""

    def begin(self) -> list[str]:
        return []

    def hear(self, message: str | bytes) -> Iterator[list[str] | Close]:
        if isinstance(message, str):
            if not _finishes(message):
                yield Close(INVALID, 'a text message is {"type": "finish"}; audio comes in binary messages')
                return
            yield list(self.events(self.stream.finish(), self.stream.heard))
            yield Close(FINISHED, "finished")
            return
        octets = self.left + message
        whole = len(octets) - len(octets) % self.dtype.itemsize
        self.left = octets[whole:]
        samples = np.frombuffer(octets[:whole], self.dtype)
        step = round(STEP_SECONDS * self.stream.sample_rate)
        for first in range(0, len(samples), step):
            yield list(self.events(self.stream.feed(samples[first : first + step]), self.stream.heard))


def _finishes(message: str) -> bool:
    try:
        event = json.loads(message)
    except (ValueError, RecursionError):
        return False
    return isinstance(event, dict) and event.get("type") == "finish"

"""Listening: uvicorn, with the limits that it lacks, and an end that lets requests finish."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from asr.errors import AsrError
from asr.serve.engine import Engine, Settings
from asr.serve.streams import MESSAGE_BYTES

HEADER_BYTES = 32 << 10
FIRST_SECONDS = 20.0
"""In which a connection's first request must have come."""
GRACE_SECONDS = 5.0
"""For answers to be written once what still runs was refused."""


def listening(settings: Settings) -> socket.socket:
    """A socket bound to the settings' address. Raises AsrError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        where = f"{settings.host}, port {settings.port}"
        raise AsrError(f"the server cannot listen at {where}: {error.strerror or error}") from error
    return bound


def serve(
    app: Starlette,
    settings: Settings,
    bound: socket.socket,
    *,
    certificate: Path | None = None,
    key: Path | None = None,
    started: Callable[[], None] = lambda: None,
) -> None:
    """Serves until SIGTERM or Ctrl-C. Raises AsrError for a certificate that cannot be read."""
    try:
        config = configuration(app, settings, certificate, key)
        config.load()
    except OSError as error:  # ssl's errors are some
        raise AsrError(f"the certificate {certificate} cannot be used: {error.strerror or error}") from error
    server = Server(config, app.state.engine, settings.drain, started)
    server.run(sockets=[bound])


def configuration(
    app: Starlette, settings: Settings, certificate: Path | None = None, key: Path | None = None
) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=_limited(settings),
        ws="websockets-sansio",
        ws_max_size=MESSAGE_BYTES,
        ws_ping_interval=20.0,
        # An answer waits behind the audio that is not read yet, longer where a file is sent as fast as it goes. Clients
        # that are gone are found by the streams' own idle timeout.
        ws_ping_timeout=None,
        h11_max_incomplete_event_size=HEADER_BYTES,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=round(settings.drain + GRACE_SECONDS),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="on",
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )


def _limited(settings: Settings) -> type[H11Protocol]:
    class Limited(H11Protocol):
        """Closes a connection over the limit, and one that asks nothing."""

        _asked = False

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > 2 * settings.sockets:
                transport.close()
                return
            self._first = self.loop.call_later(FIRST_SECONDS, self._close_unasked)

        def connection_lost(self, exc: Exception | None) -> None:
            if hasattr(self, "_first"):
                self._first.cancel()
            super().connection_lost(exc)

        def _close_unasked(self) -> None:
            # A WebSocket, which began as a request of this protocol, has the connection from then on.
            if not self._asked and self.transport.get_protocol() is self:
                self.transport.close()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._asked = self._asked or self.cycle is not None

    return Limited


class Server(uvicorn.Server):
    """A signal ends it: requests that run may finish for ``drain`` seconds, new ones are refused at once."""

    def __init__(
        self, config: uvicorn.Config, engine: Engine, drain: float, started: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(config)
        self._engine, self._drain, self._told = engine, drain, started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._told()

    def handle_exit(self, sig: int, _frame: FrameType | None) -> None:
        """As uvicorn's, but the signal is not raised again once the server has ended: the command ends as it should."""
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True
        self._engine.drain()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._engine.drain()
        asyncio.get_running_loop().call_later(self._drain, self._engine.refuse)
        await super().shutdown(sockets)

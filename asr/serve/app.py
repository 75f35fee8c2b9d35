"""The application: its routes, and the gate that every request passes."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import time
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asr.errors import AsrError
from asr.serve import listen, page, realtime, subtitles, transcriptions, uploads
from asr.serve.engine import Engine, Models, Settings
from asr.serve.errors import RequestError, unexpected
from asr.serve.metrics import CONTENT_TYPE, Metrics
from asr.serve.openapi import document
from asr.serve.streams import Streams
from asr.serve.together import read_together

OPEN = ("/health", "/ready", "/openapi.json")
"""What is answered without a key, beside the page."""
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}
"""Of every answer that does not say otherwise itself."""
DRAINED_SECONDS = 5.0
"""For which the rest of a refused request is read and thrown away, so that its sender gets to read the answer."""
LEFT = 499
"""The status counted for a client that did not wait for its answer."""
log = logging.getLogger(__name__)


def build_app(models: Models, settings: Settings) -> Starlette:
    """The server's application; ``app.state.engine`` is its engine, which runs while the application does."""
    metrics = Metrics()
    engine = Engine(models, settings, metrics)
    streams = Streams(batch=read_together(map(models.get, models.names)))

    @contextlib.asynccontextmanager
    async def running(_app: Starlette) -> AsyncIterator[None]:
        uploads.remove_abandoned()
        engine.start()
        try:
            yield
        finally:
            await asyncio.to_thread(engine.stop)

    routes: list[BaseRoute] = [
        *_status_routes(models, engine, metrics),
        *transcriptions.routes(models, settings, engine),
        *subtitles.routes(settings),
        *realtime.routes(models, settings, streams),
        *listen.routes(models, settings, streams),
        *page.routes(settings),
    ]
    app = Starlette(routes=routes, lifespan=running, exception_handlers=_HANDLERS)
    app.router.redirect_slashes = False
    app.state.engine, app.state.metrics = engine, metrics
    app.add_middleware(Gate, settings=settings, metrics=metrics, routes=routes)
    return app


def _status_routes(models: Models, engine: Engine, metrics: Metrics) -> list[Route]:
    loaded = int(time.time())

    def described(name: str) -> dict[str, object]:
        return {"id": name, "object": "model", "created": loaded, "owned_by": "asr"}

    async def listed(_request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [described(name) for name in models.names]})

    async def one(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in models.names:
            raise RequestError(404, f"there is no model {name[:80]!r} here", param="model", code="model_not_found")
        return JSONResponse(described(name))

    async def health(_request: Request) -> Response:
        alive = engine.alive
        return JSONResponse({"status": "alive" if alive else "the engine has died"}, status_code=200 if alive else 503)

    async def ready(_request: Request) -> Response:
        able = engine.ready and engine.alive and not engine.draining
        return JSONResponse({"status": "ready" if able else "not ready"}, status_code=200 if able else 503)

    async def measured(_request: Request) -> Response:
        return Response(metrics.page(), headers={"content-type": CONTENT_TYPE})

    async def described_api(_request: Request) -> Response:
        return JSONResponse(document(models.names))

    answers = {
        "/v1/models": listed,
        "/v1/models/{name:path}": one,
        "/health": health,
        "/ready": ready,
        "/metrics": measured,
        "/openapi.json": described_api,
    }
    return [Route(path, answer, methods=["GET"]) for path, answer in answers.items()]


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    request.scope["asr.refused"] = error.code
    return error.response()


async def _unanswered(request: Request, error: Exception) -> Response:
    """A path that is not there, or not in that way."""
    assert isinstance(error, HTTPException)
    what = f"{request.method} {request.url.path[:200]!r}"
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "refused")
    message = f"{what} is not answered here: see /openapi.json"
    response = RequestError(error.status_code, message, code=code).response()
    response.headers.update(error.headers or {})
    return response


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, AsrError)
    return await _refused(request, RequestError(400, str(error), code="invalid_value"))


async def _left(request: Request, _error: Exception) -> Response:
    request.scope["asr.refused"] = "client_gone"
    return Response(status_code=LEFT)


_HANDLERS = {RequestError: _refused, AsrError: _failed, HTTPException: _unanswered, ClientDisconnect: _left}


class Gate:
    """What every request passes: how many there may be, who may ask, what is counted, and that an answer is JSON
    whatever happens.

    A page of another site is refused, which a browser would otherwise let post to this machine; so is, without a key, a
    name that this server does not go by, which a site could make point here (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, *, settings: Settings, metrics: Metrics, routes: list[BaseRoute]) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics
        self._paths = {route.path for route in routes if isinstance(route, Route)}
        self._pages = {path for path in self._paths if not path.startswith("/v1/")} - {"/metrics"}
        self._open = 0
        self._hosts = {settings.host, "localhost", "127.0.0.1", "::1"}
        self._hosts |= {urlsplit(origin).hostname or origin for origin in settings.origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        self._open += 1
        self._metrics.in_flight.set(self._open)
        try:
            await self._pass(scope, receive, send)
        finally:
            self._open -= 1
            self._metrics.in_flight.set(self._open)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope)
        if scope["type"] == "websocket":
            if refusal is None:
                await self._app(scope, receive, send)
            else:
                self._metrics.rejects.labels(refusal.code).inc()
                await send({"type": "websocket.close", "code": 1008, "reason": str(refusal)[:100]})
            return
        answer = _Answer(scope, receive, send)
        began = time.monotonic()
        try:
            if refusal is None:
                await self._app(scope, answer.receive, answer.send)
            else:
                scope["asr.refused"] = refusal.code
                await refusal.response()(scope, answer.receive, answer.send)
        except Exception as error:
            log.error("answering %s failed: %s: %s", self._route(scope), type(error).__name__, error)
            if answer.status is None:
                await unexpected().response()(scope, answer.receive, answer.send)
        route = self._route(scope)
        self._metrics.requests.labels(route, str(answer.status or LEFT)).inc()
        self._metrics.latency.labels(route).observe(time.monotonic() - began)
        if reason := scope.get("asr.refused"):
            self._metrics.rejects.labels(reason).inc()

    def _route(self, scope: Scope) -> str:
        """A path of ours or "other": a stranger's words are no label."""
        path: str = scope["path"]
        return path if path in self._paths else "/v1/models/{name}" if path.startswith("/v1/models/") else "other"

    def _refusal(self, scope: Scope) -> RequestError | None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if self._open > self._settings.sockets:
            message = f"{self._settings.sockets} connections are open here, the most: try again later"
            return RequestError(503, message, code="too_many_connections", retry_after=5)
        host = headers.get("host", "")
        if self._settings.api_key is None and urlsplit(f"//{host}").hostname not in self._hosts:
            message = f"this server does not go by the name {host[:80]!r}: --origin tells it that it does"
            return RequestError(403, message, code="host_not_allowed")
        if scope["type"] == "websocket":
            return None  # a stream's own answer to a foreign page or a wrong key is one that its clients read
        origin = headers.get("origin")
        if origin is not None and origin not in (*self._settings.origins, f"http://{host}", f"https://{host}"):
            message = f"pages of {origin[:80]!r} may not ask here: --origin tells the server that they may"
            return RequestError(403, message, code="origin_not_allowed")
        if scope["path"] not in self._pages and not self._has_key(headers.get("authorization", "")):
            return RequestError(401, "this server needs its key: Authorization: Bearer KEY", code="invalid_api_key")
        return None

    def _has_key(self, authorization: str) -> bool:
        if self._settings.api_key is None:
            return True
        kind, _, key = authorization.partition(" ")
        given = key.strip().encode("latin-1", "replace")
        return kind.lower() == "bearer" and hmac.compare_digest(given, self._settings.api_key.encode())


class _Answer:
    """The two ends of a request: sends the headers that all answers have, and reads the rest of a request that is
    answered early. Its sender may not look for an answer before it has sent everything, and would find a connection
    closed meanwhile broken."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.status: int | None = None
        self._receive, self._send = receive, send
        names = {name for name, _ in scope["headers"]}
        self._unread = bool(names & {b"content-length", b"transfer-encoding"})
        self._gone = False

    async def receive(self) -> Message:
        message = await self._receive()
        self._gone = self._gone or message["type"] == "http.disconnect"
        self._unread = self._unread and not self._gone and message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if self._gone and message["type"] == "http.response.start":
            self.status = LEFT
        if message["type"] == "http.response.start":
            self.status = self.status or message["status"]
            headers = list(message.get("headers", []))
            there = {name.lower() for name, _ in headers}
            headers += [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in there]
            if self._unread:
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        elif self._unread and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._read_rest(), DRAINED_SECONDS)
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)

    async def _read_rest(self) -> None:
        while self._unread:
            await self.receive()

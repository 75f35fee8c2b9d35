"""Multipart forms, streamed: the recording goes to a file as it comes, counted byte by byte.

A file of a server that was killed is removed by the next one: each is locked by its owner while that lives.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from asr.serve.engine import Settings
from asr.serve.errors import RequestError, invalid

PREFIX = "asr-upload-"
FIELDS = 256
FIELD_BYTES = 1 << 20
"""Of all fields but the recording."""
WRITTEN_AT_ONCE = 1 << 20


@dataclass(slots=True)
class Form:
    """``fields`` by name, each with its values in order; ``file`` holds ``size`` bytes and is gone after the request,
    None where the form has none."""

    fields: dict[str, list[str]] = field(default_factory=dict)
    file: Path | None = None
    size: int = 0

    def all(self, *names: str) -> list[str]:
        """The values of a field that goes by several names."""
        return [value for name in names for value in self.fields.get(name, ())]

    def one(self, name: str) -> str | None:
        """Raises RequestError where a field comes twice."""
        values = self.fields.get(name, [])
        if len(values) > 1:
            raise invalid(f"the field {name} comes {len(values)} times: give it once", name)
        return values[0] if values else None


@contextlib.asynccontextmanager
async def received(request: Request, settings: Settings) -> AsyncIterator[Form]:
    """The form of a request. Raises RequestError: 400 for one that is malformed or has no recording, 408 for a client
    that stops sending, 413 for a recording over the limit, 503 where the disk is full; ClientDisconnect for a client
    that is gone."""
    boundary = _boundary(request.headers.get("content-type", ""))
    _check_length(request.headers.get("content-length"), settings)
    with _storing():
        file = tempfile.NamedTemporaryFile(prefix=PREFIX, buffering=0)  # noqa: SIM115 - closed below
    with file:
        with _storing():
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            form = await _read(request, _Parts(boundary), file, settings)
        yield form


@contextlib.contextmanager
def _storing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise RequestError(
            503, f"the server cannot store the recording: {reason}", code="storage", retry_after=60
        ) from error


def remove_abandoned() -> None:
    """Removes what killed servers have left."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def _boundary(content_type: str) -> bytes:
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise invalid(
            "the request is not a form with a file: expected Content-Type: multipart/form-data with a boundary",
            None,
            "invalid_form",
        )
    return boundary


def _check_length(stated: str | None, settings: Settings) -> None:
    if stated is not None and stated.isdecimal() and int(stated) > settings.upload_bytes + 2 * FIELD_BYTES:
        raise _too_large(settings)


def _too_large(settings: Settings) -> RequestError:
    most = settings.upload_bytes
    return RequestError(
        413, f"the recording is larger than {most} bytes, the limit here", param="file", code="file_too_large"
    )


async def blocks(request: Request, idle_timeout: float, what: str) -> AsyncIterator[bytes]:
    """The body of a request, as it comes; ``what`` it is, for the sentence where nothing came for ``idle_timeout``
    seconds. Raises RequestError then, and ClientDisconnect."""
    more = True
    while more:
        try:
            message = await asyncio.wait_for(request.receive(), idle_timeout)
        except TimeoutError:
            sentence = f"nothing came for {idle_timeout:g} s, and the {what} has not ended"
            raise RequestError(408, sentence, code="timeout") from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        yield message.get("body", b"")
        more = message.get("more_body", False)


async def _read(request: Request, parts: _Parts, file: IO[bytes], settings: Settings) -> Form:
    async for block in blocks(request, settings.idle_timeout, "form"):
        parts.feed(block)
        if parts.size > settings.upload_bytes:
            raise _too_large(settings)
        if parts.held_bytes >= WRITTEN_AT_ONCE:
            await asyncio.to_thread(_write, file, parts.take())
        if parts.complete:
            break
    else:
        raise invalid("the form breaks off: its last boundary is missing", None, "invalid_form")
    await asyncio.to_thread(_write, file, parts.take())
    return Form(parts.fields, Path(file.name) if parts.has_file else None, parts.size)


def _write(file: IO[bytes], blocks: list[bytes]) -> None:
    for block in blocks:
        view = memoryview(block)
        while view:
            view = view[file.write(view) :]


class _Parts:
    """What has come of a form: its fields, and the recording's bytes that are ``held`` until they are written."""

    def __init__(self, boundary: bytes) -> None:
        self.fields: dict[str, list[str]] = {}
        self.complete = self.has_file = False
        self.size = self.held_bytes = 0
        self._held: list[bytes] = []
        self._header = [bytearray(), bytearray()]  # the name and value of the one being read
        self._disposition = b""
        self._name: str | None = None  # of the field being read, None in the recording
        self._value = bytearray()
        self._field_bytes = self._field_count = 0
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
                    "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._end_headers,
                    "on_part_data": self._add,
                    "on_part_end": self._end,
                    "on_end": self._finish,
                },
            )
        except FormParserError as error:
            raise _malformed(error) from error

    def feed(self, data: bytes) -> None:
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise _malformed(error) from error

    def take(self) -> list[bytes]:
        held, self._held, self.held_bytes = self._held, [], 0
        return held

    def _begin(self) -> None:
        self._disposition, self._value = b"", bytearray()

    def _end_header(self) -> None:
        name, value = map(bytes, self._header)
        if name.lower() == b"content-disposition":
            self._disposition = value
        self._header = [bytearray(), bytearray()]

    def _end_headers(self) -> None:
        kind, options = parse_options_header(self._disposition)
        name = options.get(b"name")
        if kind != b"form-data" or name is None:
            raise invalid("a part of the form has no name: expected form-data; name=...", None, "invalid_form")
        if name == b"file":
            if self.has_file:
                raise invalid("the form holds two recordings: send each in a request of its own", "file")
            self.has_file, self._name = True, None
            return
        self._field_count += 1
        self._name = _text(name, None)
        self._count(len(name))

    def _add(self, data: bytes, start: int, end: int) -> None:
        if self._name is None:
            self.size += end - start
            self.held_bytes += end - start
            self._held.append(data[start:end])
        else:
            self._count(end - start)
            self._value += data[start:end]

    def _count(self, size: int) -> None:
        self._field_bytes += size
        if self._field_bytes > FIELD_BYTES or self._field_count > FIELDS:
            raise RequestError(
                413, f"the form's fields are more than {FIELDS}, or {FIELD_BYTES} bytes in all", code="fields_too_large"
            )

    def _end(self) -> None:
        if self._name is not None:
            self.fields.setdefault(self._name, []).append(_text(bytes(self._value), self._name))

    def _finish(self) -> None:
        self.complete = True


def _text(value: bytes, name: str | None) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise invalid("a field of the form is not text in UTF-8", name) from None


def _malformed(error: Exception) -> RequestError:
    return invalid(f"the form is malformed: {error}", None, "invalid_form")

"""Subtitles of words that a client has heard already: /v1/subtitles, which is ours, for the page's downloads."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from asr.records import Segment, Transcript, Word
from asr.serve.errors import RequestError, invalid
from asr.transcribe.formats import as_srt, as_vtt

LARGEST_BYTES = 8 << 20
"""Of a request: the words of some fifty hours."""
KINDS = {"srt": "text/plain", "vtt": "text/vtt"}

Seconds = Annotated[float, Field(ge=0, le=1e7, allow_inf_nan=False)]


class _Said(BaseModel):
    """A word as ``asr transcribe --format json`` and the server's events write it; its confidence is passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    text: str
    start: Seconds
    end: Seconds


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["srt", "vtt"]
    segments: list[list[_Said]]
    """The words of each stretch of speech, in order of time."""

    def written(self) -> str:
        segments = (_segment(words) for words in self.segments if words)
        transcript = Transcript(segments=tuple(segments), duration=0.0)
        return (as_srt if self.format == "srt" else as_vtt)(transcript) + "\n"


def routes() -> list[Route]:
    async def answer(request: Request) -> Response:
        asked = _parsed(await _body(request))
        return Response(await asyncio.to_thread(asked.written), media_type=KINDS[asked.format])

    return [Route("/v1/subtitles", answer, methods=["POST"])]


async def _body(request: Request) -> bytes:
    """Raises RequestError before more than the most is in memory."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > LARGEST_BYTES:
            raise RequestError(413, f"a request for subtitles has {LARGEST_BYTES} bytes at most", code="too_large")
    return bytes(body)


def _parsed(body: bytes) -> _Asked:
    """Raises RequestError for what is no such JSON, and names where."""
    try:
        return _Asked.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise invalid(f"{where or 'the body'}: {first['msg']}"[:300], where or None) from error


def _segment(words: list[_Said]) -> Segment:
    said = [Word(text=word.text, start=word.start, end=max(word.start, word.end), confidence=1.0) for word in words]
    text = " ".join(word.text for word in said)
    return Segment(text=text, start=said[0].start, end=said[-1].end, words=tuple(said))

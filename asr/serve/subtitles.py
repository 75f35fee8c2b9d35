"""Subtitles of words that a client has heard already: /v1/subtitles, which is ours, for the page's downloads."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from asr.records import Segment, Transcript, Word
from asr.serve.engine import Settings
from asr.serve.errors import RequestError, invalid
from asr.serve.uploads import blocks
from asr.transcribe.formats import as_srt, as_vtt

LARGEST_BYTES = 2 << 20
"""Of a request: the words of some three hours, each with its times and confidence."""
KINDS = {"srt": "text/plain", "vtt": "text/vtt"}

Seconds = Annotated[float, Field(ge=0, le=1e7, allow_inf_nan=False)]


class _Said(BaseModel):
    """A word as ``asr transcribe --format json`` and the server's events write it; its confidence is passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    text: str
    start: Seconds
    end: Seconds


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: Literal["srt", "vtt"]
    # The first fault is enough: a list of a million would take gigabytes.
    segments: Annotated[list[Annotated[list[_Said], FailFast()]], FailFast()]
    """The words of each stretch of speech, in order of time."""


def routes(settings: Settings) -> list[Route]:
    one_at_a_time = asyncio.Semaphore(1)  # of work that no request may have all threads for

    async def answer(request: Request) -> Response:
        body = await _body(request, settings.idle_timeout)
        async with one_at_a_time:
            text, form = await asyncio.to_thread(_written, body)
        return Response(text, media_type=KINDS[form])

    return [Route("/v1/subtitles", answer, methods=["POST"])]


async def _body(request: Request, idle_timeout: float) -> bytes:
    """Raises RequestError before more than the most is in memory, and where nothing comes for so many seconds."""
    body = bytearray()
    async for block in blocks(request, idle_timeout, "request"):
        body += block
        if len(body) > LARGEST_BYTES:
            raise RequestError(413, f"a request for subtitles has {LARGEST_BYTES} bytes at most", code="too_large")
    return bytes(body)


def _written(body: bytes) -> tuple[str, str]:
    """The subtitles and their form. Raises RequestError for what is no such JSON, and names where."""
    try:
        asked = _Asked.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise invalid(f"{where or 'the body'}: {first['msg']}"[:300], where or None) from error
    segments = tuple(segment for words in asked.segments if (segment := _segment(words)).words)
    transcript = Transcript(segments=segments, duration=0.0)
    return (as_srt if asked.format == "srt" else as_vtt)(transcript) + "\n", asked.format


def _segment(words: list[_Said]) -> Segment:
    """Their text in one line: an empty one would end a cue."""
    said = [
        Word(text=text, start=word.start, end=max(word.start, word.end), confidence=1.0)
        for word in words
        if (text := " ".join(word.text.split()))
    ]
    start, end = (said[0].start, said[-1].end) if said else (0.0, 0.0)
    return Segment(text=" ".join(word.text for word in said), start=start, end=end, words=tuple(said))

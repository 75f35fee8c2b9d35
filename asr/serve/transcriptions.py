"""Files over HTTP: /v1/audio/transcriptions as OpenAI documents it, and /v1/audio/alignments, which is ours."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import math
import re
import zlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event as Flag
from typing import Any, TypeVar

import numpy as np
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from asr import audio
from asr.audio import describe
from asr.audio.loudness import Meter
from asr.errors import AsrError, AudioError
from asr.records import AlignedText, Segment, Transcript, Word
from asr.serve.engine import Engine, Event, Finished, Models, Settings, Work, model_of, too_long
from asr.serve.errors import RequestError, invalid, unexpected
from asr.serve.uploads import Form, received
from asr.transcribe.recogniser import Recogniser

FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
HOTWORD_WEIGHT = 6.0
HOTWORDS = 1000
ALIGNED_SECONDS = 4 * 3600.0
"""The longest recording that a text is aligned with: its emissions are in memory at once."""
T = TypeVar("T")


def routes(models: Models, settings: Settings, engine: Engine) -> list[Route]:
    aligner = ThreadPoolExecutor(1, "asr-aligner")

    async def transcribe(request: Request) -> Response:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(engine.admitted())
            form = await stack.enter_async_context(received(request, settings))
            asked = Asked.of(form, models)
            events: asyncio.Queue[Event] = asyncio.Queue()
            work = Work(
                recording=_recording(form),
                recogniser=asked.recogniser,
                hotwords=asked.hotwords,
                hints=asked.hints,
                tell=_teller(events),
            )
            engine.submit(work)
            stack.callback(engine.cancel, work)
            if asked.stream:
                return _Stream(_streamed(asked, work, events), stack.pop_all())
            return await _unless_gone(request, _answered(asked, work, events))

    async def align(request: Request) -> Response:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(engine.admitted())
            form = await stack.enter_async_context(received(request, settings))
            text, recording = form.one("text"), _recording(form)
            recogniser = model_of(models, form.one("model"))
            if not text or not text.strip():
                raise invalid("the field text is missing: expected the text that is said in the recording", "text")
            gone = Flag()
            stack.callback(gone.set)
            most = min(settings.audio_seconds, ALIGNED_SECONDS)
            job = functools.partial(_align, recogniser, recording, text, most, gone)
            try:
                running = asyncio.get_running_loop().run_in_executor(aligner, job)
                aligned = await _unless_gone(request, _awaited(running))
            except AsrError as error:
                raise _fault(error, recording) from error
            return JSONResponse(_alignment(aligned))

    return [
        Route("/v1/audio/transcriptions", transcribe, methods=["POST"]),
        Route("/v1/audio/alignments", align, methods=["POST"]),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a form asks for. ``hotwords`` and ``hints`` are the phrases of its keywords and of its prompt."""

    recogniser: Recogniser
    form: str
    language: str
    stream: bool
    words: bool
    segments: bool
    logprobs: bool
    temperature: float
    hotwords: dict[str, float] | None
    hints: dict[str, float]

    @classmethod
    def of(cls, form: Form, models: Models) -> Asked:
        """Raises RequestError."""
        shape = form.one("response_format") or "json"
        if shape not in FORMATS:
            raise invalid(f"the response_format {shape[:40]!r} is not one of {', '.join(FORMATS)}", "response_format")
        recogniser = model_of(models, form.one("model"))
        details = _choices(form, "timestamp_granularities", ("word", "segment"))
        if details and shape != "verbose_json":
            raise invalid("timestamp_granularities go with response_format verbose_json", "timestamp_granularities")
        included = _choices(form, "include", ("logprobs",))
        _check_chunking(form)
        keywords = form.all("keywords[]", "keywords", "hotwords")
        return cls(
            recogniser=recogniser,
            form=shape,
            language=_language(form.one("language"), recogniser),
            stream=_truth(form, "stream"),
            words="word" in details,
            segments="segment" in details or not details,
            logprobs="logprobs" in included,
            temperature=_temperature(form),
            hotwords=_phrases(keywords, "keywords") if keywords else None,
            hints=_phrases([form.one("prompt") or ""], "prompt"),
        )


def _choices(form: Form, name: str, known: Sequence[str]) -> set[str]:
    chosen = set(form.all(f"{name}[]", name))
    for strange in sorted(chosen - set(known))[:1]:
        raise invalid(f"{name} {strange[:40]!r} is not one of {', '.join(known)}", name)
    return chosen


def _truth(form: Form, name: str) -> bool:
    given = (form.one(name) or "false").lower()
    if given not in ("true", "false", "1", "0"):
        raise invalid(f"{name} {given[:40]!r} is neither true nor false", name)
    return given in ("true", "1")


def _temperature(form: Form) -> float:
    """Heeded by no search here, which finds the likeliest words whatever it is."""
    given = form.one("temperature") or "0"
    try:
        value = float(given)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise invalid(f"the temperature {given[:40]!r} is not a number from 0 to 1", "temperature")
    return value


def _check_chunking(form: Form) -> None:
    """``auto``, or an object of the type ``server_vad``: recordings are cut where nobody speaks either way."""
    given = form.one("chunking_strategy") or form.one("chunking_strategy[type]") or "auto"
    with contextlib.suppress(ValueError, AttributeError):
        given = json.loads(given).get("type", given) if given.startswith("{") else given
    if given not in ("auto", "server_vad"):
        raise invalid(f"the chunking_strategy {str(given)[:40]!r} is neither auto nor server_vad", "chunking_strategy")


def _language(asked: str | None, recogniser: Recogniser) -> str:
    """The language asked for, else the model's, else "". Raises RequestError for one that the model does not speak."""
    text = recogniser.recipe.text
    own = text.language or getattr(text.tokeniser, "language", "")
    if not asked:
        return own
    if not re.fullmatch("[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8})*", asked):
        raise invalid(f"the language {asked[:40]!r} is no tag such as en or pt-BR", "language")
    if own and asked.lower().split("-")[0] != own.lower().split("-")[0]:
        raise invalid(f"this model's language is {own}, not {asked}: leave the field out", "language")
    return asked


def _phrases(given: Sequence[str], param: str) -> dict[str, float]:
    """Phrases parted by commas or lines, each with a weight in nats where one is given: ``Kettering:8, saturn``."""
    phrases: dict[str, float] = {}
    for entry in filter(None, (part.strip() for value in given for part in re.split("[,;\n]", value))):
        phrase, colon, weight = entry.rpartition(":")
        try:
            phrases[phrase.strip() if colon else entry] = float(weight) if colon else HOTWORD_WEIGHT
        except ValueError:
            phrases[entry] = HOTWORD_WEIGHT
    phrases.pop("", None)
    if len(phrases) > HOTWORDS:
        raise invalid(f"{len(phrases)} phrases are more than the {HOTWORDS} that are heeded", param)
    if any(not math.isfinite(weight) for weight in phrases.values()):
        raise invalid("a phrase's weight is a finite number of nats", param)
    return phrases


def _recording(form: Form) -> Path:
    if form.file is None:
        raise invalid("the field file is missing: expected a recording", "file")
    return form.file


# ----------------------------------------------------------------------------------------------------- answers


def _teller(events: asyncio.Queue[Event]) -> Callable[[Event], None]:
    loop = asyncio.get_running_loop()

    def tell(event: Event) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            loop.call_soon_threadsafe(events.put_nowait, event)

    return tell


async def _heard(work: Work, events: asyncio.Queue[Event]) -> AsyncIterator[Segment | Finished]:
    """Raises RequestError."""
    while True:
        event = await events.get()
        if isinstance(event, Exception):
            raise _fault(event, work.recording)
        yield event
        if isinstance(event, Finished):
            return


def _fault(error: Exception, recording: Path) -> RequestError:
    """An error as the client may hear it: its recording has no name there but "the recording"."""
    if isinstance(error, RequestError):
        return error
    if not isinstance(error, AsrError):
        return unexpected()
    message = str(error).replace(describe(recording), "the recording")
    if isinstance(error, AudioError):
        return invalid(message, "file", "invalid_audio")
    return invalid(message, None)


async def _answered(asked: Asked, work: Work, events: asyncio.Queue[Event]) -> Response:
    segments, end = [], Finished(0.0, ())
    async for event in _heard(work, events):
        if isinstance(event, Finished):
            end = event
        else:
            segments.append(event)
    transcript = Transcript(segments=tuple(segments), duration=end.duration)
    warnings = _warnings(end, work)
    if asked.form == "json":
        return JSONResponse(_document(asked, transcript, warnings))
    if asked.form == "verbose_json":
        return JSONResponse(_verbose(asked, transcript, warnings))
    written = {"text": lambda: transcript.text, "srt": transcript.to_srt, "vtt": transcript.to_vtt}[asked.form]()
    kind = "text/vtt" if asked.form == "vtt" else "text/plain"
    headers = {"X-Warning": json.dumps(warnings)} if warnings else {}
    return PlainTextResponse(written + "\n", media_type=kind, headers=headers)


async def _streamed(asked: Asked, work: Work, events: asyncio.Queue[Event]) -> AsyncIterator[str]:
    """Server-sent events: a delta for each stretch of speech, then the whole."""
    segments: list[Segment] = []
    try:
        async for event in _heard(work, events):
            if isinstance(event, Segment):
                delta = (" " if any(segment.text for segment in segments) else "") + event.text
                segments.append(event)
                if event.text:
                    logprobs = {"logprobs": _logprobs(event.words)} if asked.logprobs else {}
                    yield _sent({"type": "transcript.text.delta", "delta": delta, **logprobs})
            else:
                transcript = Transcript(segments=tuple(segments), duration=event.duration)
                document = _document(asked, transcript, _warnings(event, work))
                yield _sent({"type": "transcript.text.done", **document})
    except RequestError as error:
        yield _sent({"type": "error", **error.body})


def _sent(event: dict[str, Any]) -> str:
    return f"data: {json.dumps(event, ensure_ascii=False)}\n\n"


def _warnings(end: Finished, work: Work) -> list[str]:
    return [warning.replace(describe(work.recording), "the recording") for warning in end.warnings]


def _document(asked: Asked, transcript: Transcript, warnings: list[str]) -> dict[str, Any]:
    document: dict[str, Any] = {"text": transcript.text}
    if asked.logprobs:
        document["logprobs"] = _logprobs(transcript.words)
    document["usage"] = {"type": "duration", "seconds": transcript.duration}
    return document | ({"warnings": warnings} if warnings else {})


def _verbose(asked: Asked, transcript: Transcript, warnings: list[str]) -> dict[str, Any]:
    document = {
        "task": "transcribe",
        "language": asked.language or "unknown",
        "duration": transcript.duration,
        **_document(asked, transcript, warnings),
    }
    if asked.segments:
        document["segments"] = [_segment(i, segment, asked) for i, segment in enumerate(transcript.segments)]
    if asked.words:
        document["words"] = [
            {"word": word.text, "start": word.start, "end": word.end, "confidence": word.confidence}
            for word in transcript.words
        ]
    return document


def _segment(number: int, segment: Segment, asked: Asked) -> dict[str, Any]:
    """With Whisper's figures, of which some mean nothing here: ``tokens`` is empty, ``seek`` 0."""
    logs = [entry["logprob"] for entry in _logprobs(segment.words)]
    spelled = segment.text.encode()
    return {
        "id": number,
        "seek": 0,
        "start": segment.start,
        "end": segment.end,
        "text": segment.text,
        "tokens": [],
        "temperature": asked.temperature,
        "avg_logprob": round(sum(logs) / len(logs), 4) if logs else 0.0,
        "compression_ratio": round(len(spelled) / len(zlib.compress(spelled)), 4),
        "no_speech_prob": 0.0 if segment.words else 1.0,
        **({"remark": segment.remark} if segment.remark else {}),
    }


def _logprobs(words: Sequence[Word]) -> list[dict[str, Any]]:
    """A word each: the natural log of its confidence."""
    return [
        {
            "token": word.text,
            "logprob": round(math.log(max(word.confidence, 1e-6)), 4),
            "bytes": list(word.text.encode()),
        }
        for word in words
    ]


# -------------------------------------------------------------------------------------------------- alignment


class _Gone(AsrError):
    pass


def _align(recogniser: Recogniser, recording: Path, text: str, most: float, gone: Flag) -> AlignedText:
    """As ``Recogniser.align``, until ``gone``. Raises AudioError, TextError, RequestError."""
    from asr.transcribe.alignment import align_text, spell  # numba's import takes a second
    from asr.transcribe.emissions import emissions_of, frame_samples

    network = recogniser.network
    meter = Meter(rate=network.sample_rate, frame=frame_samples(network))

    def blocks() -> Iterator[np.ndarray]:
        for block in meter.through(audio.stream(recording, sample_rate=network.sample_rate)):
            if gone.is_set():
                raise _Gone
            if meter.seconds > most:
                raise too_long(most)
            yield block

    spelling = spell(text, recogniser.tokeniser, recogniser.recipe.text.form)
    emissions = emissions_of(network, blocks(), tokens=len(recogniser.tokeniser.tokens))
    return align_text(emissions, spelling, recogniser.tokeniser, duration=meter.seconds, loudness=meter.loudness())


def _alignment(aligned: AlignedText) -> dict[str, Any]:
    words = [
        {"word": word.text, "start": word.start, "end": word.end, "confidence": word.confidence, "found": word.found}
        for word in aligned.words
    ]
    usage = {"type": "duration", "seconds": aligned.duration}
    return {"duration": aligned.duration, "words": words, "usage": usage}


# -------------------------------------------------------------------------------------------- clients that leave


class _Stream(StreamingResponse):
    """Server-sent events; ``held`` is let go of when they end, whether or not they ever began."""

    def __init__(self, events: AsyncIterator[str], held: contextlib.AsyncExitStack) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:
            await super().__call__(scope, receive, send)


async def _unless_gone(request: Request, answer: Coroutine[Any, Any, T]) -> T:
    """The answer, or ClientDisconnect as soon as there is nobody to hear it."""
    task, gone = asyncio.ensure_future(answer), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for either in (task, gone):
            either.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _awaited(future: asyncio.Future[T]) -> T:
    return await future

"""/v1/realtime: OpenAI's live transcription, its events and session as the ``openai`` packages know them.

Both of its dialects are spoken: today's (``session.update``) and that of the beta (``transcription_session.update``).
Turns end by the recogniser's own endpoints (``server_vad``) or by the client's commits. Words are told as deltas while
they are said, each when it is final, so that a transcript is its deltas joined.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, Field, ValidationError
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket

from asr.audio.g711 import from_a_law, from_mu_law
from asr.errors import AsrError
from asr.records import Heard, Word
from asr.serve.streams import (
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
from asr.transcribe.live import ENDPOINT_SECONDS, LiveRecogniser
from asr.transcribe.recogniser import Recogniser

Event = dict[str, Any]
"""As JSON has it."""

PREFIX_MILLISECONDS = 300
"""By which a turn's reported beginning lies before its first word, as OpenAI's does."""
KEYWORD_WEIGHT = 6.0
"""Nats that a keyword is worth, as a phrase of ``asr transcribe --hotwords`` is by default."""
PARAMETER = 100
"""Characters of a client's that an error repeats at the most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How samples come: ``sample_rate`` in Hz, octets a sample, and octets to samples (S,) int16."""

    sample_rate: int
    octets: int
    decode: Callable[[bytes], np.ndarray]


ENCODINGS = {
    "audio/pcm": Encoding(sample_rate=24_000, octets=2, decode=lambda octets: np.frombuffer(octets, "<i2")),
    "audio/pcmu": Encoding(sample_rate=8_000, octets=1, decode=from_mu_law),
    "audio/pcma": Encoding(sample_rate=8_000, octets=1, decode=from_a_law),
}
BETA_FORMATS = {"pcm16": "audio/pcm", "g711_ulaw": "audio/pcmu", "g711_alaw": "audio/pcma"}


class Format(BaseModel):
    type: Literal["audio/pcm", "audio/pcmu", "audio/pcma"] = "audio/pcm"
    rate: Literal[8000, 24000] | None = None


class Transcription(BaseModel):
    """``prompt`` is not used: this is no language model that goes on from it."""

    model: str | None = Field(default=None, max_length=200)
    language: str | None = Field(default=None, max_length=20)
    prompt: str | None = Field(default=None, max_length=10_000)
    keywords: list[Annotated[str, Field(max_length=100)]] | None = Field(default=None, max_length=500)


class TurnDetection(BaseModel):
    """``threshold`` is not used: the recogniser's own silence ends a turn."""

    type: Literal["server_vad"] = "server_vad"
    threshold: float | None = Field(default=None, ge=0, le=1)
    prefix_padding_ms: int = Field(default=PREFIX_MILLISECONDS, ge=0, le=10_000)
    silence_duration_ms: int = Field(default=round(1000 * ENDPOINT_SECONDS), ge=100, le=30_000)


class Input(BaseModel):
    format: Format = Format()
    transcription: Transcription = Transcription()
    turn_detection: TurnDetection | None = TurnDetection()


class Audio(BaseModel):
    input: Input = Input()


class Session(BaseModel):
    """What a client may set, with what it is from the start. What is not named here (noise reduction) is not done."""

    type: Literal["transcription"] = "transcription"
    audio: Audio = Audio()
    include: list[Literal["item.input_audio_transcription.logprobs"]] | None = None


_RATE = {"audio": {"input": {"format": {"rate"}}}}
"""What goes with a format and not into the next."""


def routes(models: Models, settings: Settings, streams: Streams | None = None) -> list[BaseRoute]:
    """``streams`` are those of the whole server, where others than these count."""
    streams = streams or Streams()

    async def realtime(websocket: WebSocket) -> None:
        """``?intent=transcription`` is all that there is, and so need not be said; ``model`` is a model's name."""
        try:
            check_client(websocket, settings)
            with streams.place(settings.streams):
                await converse(websocket, _Transcribing(models, websocket), settings, streams)
        except Refusal as refusal:
            await refuse(websocket, refusal)

    return [WebSocketRoute("/v1/realtime", realtime)]


class Fault(Exception):
    """A client's event that cannot be followed. The stream goes on."""

    def __init__(self, message: str, code: str = "invalid_value", parameter: str | None = None) -> None:
        super().__init__(message)
        self.code, self.parameter = code, parameter


@dataclass(slots=True)
class _Item:
    """A turn that is being said: where it began, in seconds of the session, and the words that were told of it."""

    id: str
    start: float
    deltas: list[str] = field(default_factory=list)
    words: list[Word] = field(default_factory=list)


class _Transcribing:
    """One session. ``heard`` are the seconds of audio that came, ``begun`` those before the recogniser's ``stream``,
    ``said`` the words told of the utterance that goes on, ``left`` the octets of a sample whose rest is to come."""

    subprotocols: tuple[str, ...] = ("realtime",)

    def __init__(self, models: Models, websocket: WebSocket) -> None:
        query = websocket.query_params
        if (intent := query.get("intent", "transcription")) != "transcription":
            raise Refusal(400, "invalid_value", f"the intent is transcription; found {intent[:PARAMETER]}")
        self.models = models
        self.recogniser = model_of(models, query.get("model"))
        self.model = query.get("model") or next(iter(models.names))
        protocols = websocket.scope["subprotocols"]
        self.beta = "openai-beta.realtime-v1" in protocols or "realtime=v1" in websocket.headers.get("openai-beta", "")
        self.session = Session()
        self.id = _new("sess")
        self.stream: LiveRecogniser | None = None
        self.item: _Item | None = None
        self.previous: str | None = None
        self.heard = self.begun = 0.0
        self.said = 0
        self.left = b""

    @property
    def encoding(self) -> Encoding:
        return ENCODINGS[self.session.audio.input.format.type]

    @property
    def rate(self) -> float:
        return self.encoding.sample_rate * self.encoding.octets * 4 / 3  # in base64

    def begin(self) -> list[str]:
        name = "transcription_session.created" if self.beta else "session.created"
        return _lines([{"type": name, "session": self._described(self.beta)}])

    def hear(self, message: str | bytes) -> Iterator[list[str] | Close]:
        event: Event = {}
        try:
            event = _parsed(message)
            match event["type"]:
                case "input_audio_buffer.append":
                    yield from map(_lines, self._append(event))
                case "input_audio_buffer.commit":
                    yield _lines(self._commit())
                case "input_audio_buffer.clear":
                    self._begin_anew()
                    yield _lines([{"type": "input_audio_buffer.cleared"}])
                case "session.update" | "transcription_session.update" as kind:
                    yield _lines(self._update(event.get("session"), beta=kind != "session.update"))
                case kind:
                    raise Fault(f"a transcription session has no event {kind[:PARAMETER]!r}", "unknown_event", "type")
        except Fault as fault:
            yield _lines([_error(fault, event.get("event_id"))])

    # What comes.

    def _append(self, event: Event) -> Iterator[list[Event]]:
        try:
            octets = self.left + base64.b64decode(event["audio"], validate=True)
        except (KeyError, TypeError, ValueError, binascii.Error):
            raise Fault("audio is the samples' octets in base64", parameter="audio") from None
        whole = len(octets) - len(octets) % self.encoding.octets
        self.left = octets[whole:]
        samples, rate = self.encoding.decode(octets[:whole]), self.encoding.sample_rate
        step = round(STEP_SECONDS * rate)
        for first in range(0, len(samples), step):
            piece = samples[first : first + step]
            self.heard += len(piece) / rate
            yield self._read(lambda stream, piece=piece: stream.feed(piece))  # type: ignore[misc]

    def _commit(self) -> list[Event]:
        if self.stream is None:
            raise Fault(
                "there is no audio to commit since the last commit", "input_audio_buffer_commit_empty", parameter=None
            )
        before = self.previous
        events = self._conclude()
        if self.previous == before and self.stream is not None:
            events += self._end(self.heard)  # in which nothing was said
        self._begin_anew()
        return events

    def _conclude(self) -> list[Event]:
        """Everything that was heard becomes final."""
        events = [] if self.stream is None else self._read(LiveRecogniser.finish)
        return events + (self._end(self.heard) if self.item is not None else [])

    def _update(self, wanted: object, *, beta: bool) -> list[Event]:
        if not isinstance(wanted, dict):
            raise Fault("session is an object", parameter="session")
        try:
            session = Session.model_validate(_merged(self.session.model_dump(exclude=_RATE), _todays(wanted)))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            where = ".".join(["session", *map(str, first["loc"])])
            raise Fault(f"{where}: {first['msg']}", parameter=where) from None
        self._check_rate(session.audio.input.format)
        name = session.audio.input.transcription.model or self.model
        try:
            recogniser = model_of(self.models, name)
        except Refusal as refusal:
            raise Fault(str(refusal), refusal.code, "session.audio.input.transcription.model") from None
        _check_language(recogniser, session.audio.input.transcription.language)
        try:
            _stream(recogniser, session)
        except AsrError as error:
            raise Fault(str(error), parameter="session.audio.input.transcription.keywords") from None
        events: list[Event] = []
        if session.audio != self.session.audio or recogniser is not self.recogniser:
            events = self._conclude()
            self._begin_anew()
        self.session, self.recogniser, self.model = session, recogniser, name
        updated = "transcription_session.updated" if beta else "session.updated"
        return [*events, {"type": updated, "session": self._described(beta)}]

    @staticmethod
    def _check_rate(given: Format) -> None:
        expected = ENCODINGS[given.type].sample_rate
        if given.rate not in (None, expected):
            raise Fault(
                f"{given.type} comes at {expected} Hz; found {given.rate} (any rate: /v1/listen)",
                parameter="session.audio.input.format.rate",
            )

    def _begin_anew(self) -> None:
        """What was heard is done with."""
        self.stream = self.item = None
        self.begun, self.said, self.left = self.heard, 0, b""

    # What is told.

    def _read(self, hear: Callable[[LiveRecogniser], Heard]) -> list[Event]:
        """What the stream tells, which is begun where there is none."""
        try:
            if self.stream is None:
                self.stream = _stream(self.recogniser, self.session)
            return self._told(hear(self.stream))
        except AsrError as error:
            item = self.item or self._opened(self.begun)
            self._begin_anew()
            fault = {"type": "transcription_error", "code": None, "message": str(error), "param": None}
            name = "conversation.item.input_audio_transcription.failed"
            return [{"type": name, "item_id": item.id, "content_index": 0, "error": fault}]

    def _told(self, heard: Heard) -> list[Event]:
        final, events = list(heard.final), list[Event]()
        if self.session.audio.input.turn_detection is not None:
            for segment in heard.segments:
                fresh = len(segment.words) - self.said
                events += self._say(final[:fresh], self.begun + segment.start)
                events += self._stop(self.begun + segment.end)
                del final[:fresh]
                self.said = 0
        self.said += len(final)
        if upcoming := (*final, *heard.partial):
            events += self._say(final, self.begun + upcoming[0].start)
        return events

    def _say(self, words: Sequence[Word], start: float) -> list[Event]:
        """Final words of the turn that is being said, or of a new one."""
        events = []
        if self.item is None:
            self.item = self._opened(start)
            if self.session.audio.input.turn_detection is not None:
                at = _milliseconds(self.item.start)
                started = "input_audio_buffer.speech_started"
                events.append({"type": started, "audio_start_ms": at, "item_id": self.item.id})
        if words:
            delta = (" " if self.item.deltas else "") + " ".join(word.text for word in words)
            self.item.deltas.append(delta)
            self.item.words += words
            name = "conversation.item.input_audio_transcription.delta"
            said = {"type": name, "item_id": self.item.id, "content_index": 0, "delta": delta}
            events.append(said | self._probabilities(words))
        return events

    def _opened(self, start: float) -> _Item:
        turns = self.session.audio.input.turn_detection
        early = turns.prefix_padding_ms / 1000 if turns else 0.0
        return _Item(_new("item"), max(self.begun, start - early) if turns else self.begun)

    def _stop(self, end: float) -> list[Event]:
        """A turn that the recogniser found ended, which its last word did at ``end``, in seconds of the session."""
        turns = self.session.audio.input.turn_detection
        assert turns is not None
        assert self.item is not None
        end = min(end + turns.silence_duration_ms / 1000, self.heard)
        stopped = {"type": "input_audio_buffer.speech_stopped", "audio_end_ms": _milliseconds(end)}
        return [stopped | {"item_id": self.item.id}, *self._end(end)]

    def _end(self, end: float) -> list[Event]:
        """The turn as an item, whose transcript is its deltas."""
        item = self.item or self._opened(self.begun)
        message: Event = {
            "id": item.id,
            "object": "realtime.item",
            "type": "message",
            "status": "completed",
            "role": "user",
        }
        message |= {"content": [{"type": "input_audio", "transcript": None}]}
        added = ["conversation.item.created"] if self.beta else ["conversation.item.added", "conversation.item.done"]
        events: list[Event] = [
            {"type": "input_audio_buffer.committed", "previous_item_id": self.previous, "item_id": item.id},
            *({"type": name, "previous_item_id": self.previous, "item": message} for name in added),
            {
                "type": "conversation.item.input_audio_transcription.completed",
                "item_id": item.id,
                "content_index": 0,
                "transcript": "".join(item.deltas),
                "usage": {"type": "duration", "seconds": round(max(end - item.start, 0.0), 3)},
                **self._probabilities(item.words),
            },
        ]
        self.previous, self.item = item.id, None
        return events

    def _probabilities(self, words: Sequence[Word]) -> Event:
        """Where the client asks for them: of each word, the log of its confidence."""
        if not self.session.include:
            return {}
        pairs = [(word.text, math.log(max(word.confidence, 1e-6))) for word in words]
        return {"logprobs": [{"token": t, "logprob": round(p, 4), "bytes": list(t.encode())} for t, p in pairs]}

    def _described(self, beta: bool) -> Event:
        described: Event = {"id": self.id, "object": "realtime.transcription_session"}
        effective = self.session.model_dump()
        read = effective["audio"]["input"]
        read["format"]["rate"] = self.encoding.sample_rate
        read["transcription"]["model"] = self.model
        read["noise_reduction"] = None
        if not beta:
            return described | effective
        form = next(old for old, new in BETA_FORMATS.items() if new == read["format"]["type"])
        return described | {
            "input_audio_format": form,
            "input_audio_transcription": read["transcription"],
            "turn_detection": read["turn_detection"],
            "input_audio_noise_reduction": None,
            "include": effective["include"],
        }


def _check_language(recogniser: Recogniser, asked: str | None) -> None:
    text = recogniser.recipe.text
    own = text.language or getattr(text.tokeniser, "language", "")
    if asked and own and asked.lower().split("-")[0] != own.lower().split("-")[0]:
        where = "session.audio.input.transcription.language"
        raise Fault(f"this model's language is {own}, not {asked}: leave it out", parameter=where)


def _stream(recogniser: Recogniser, session: Session) -> LiveRecogniser:
    """Raises AsrError for keywords that the model cannot look for."""
    settings = session.audio.input
    turns, keywords = settings.turn_detection, settings.transcription.keywords
    return recogniser.stream(
        sample_rate=ENCODINGS[settings.format.type].sample_rate,
        endpoint=turns.silence_duration_ms / 1000 if turns else ENDPOINT_SECONDS,
        hotwords=dict.fromkeys(keywords, KEYWORD_WEIGHT) if keywords else None,
    )


def _parsed(message: str | bytes) -> Event:
    """Raises Fault."""
    try:
        event = json.loads(message) if isinstance(message, str) else None
    except (ValueError, RecursionError):
        event = None
    if not isinstance(event, dict) or not isinstance(event.get("type"), str):
        raise Fault('an event is a text message of JSON, an object with its "type"', "invalid_event")
    return event


def _error(fault: Fault, event_id: object) -> Event:
    cause = event_id[:PARAMETER] if isinstance(event_id, str) else None
    details = {"type": "invalid_request_error", "code": fault.code, "message": str(fault), "param": fault.parameter}
    return {"type": "error", "error": {**details, "event_id": cause}}


def _todays(session: Event) -> Event:
    """A session's fields as the beta named them, by their names of today; others as they are."""
    names = {
        "input_audio_format": "format",
        "input_audio_transcription": "transcription",
        "turn_detection": "turn_detection",
    }
    read = {new: session[old] for old, new in names.items() if old in session}
    if isinstance(form := read.get("format"), str):
        read["format"] = {"type": BETA_FORMATS.get(form, form), "rate": None}
    rest = {name: value for name, value in session.items() if name not in names}
    return _merged({"audio": {"input": read}}, rest) if read else rest


def _merged(old: Any, new: Any) -> Any:
    """Objects field by field, down to what is none."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    return {**old, **{name: _merged(old.get(name), value) for name, value in new.items()}}


def _lines(events: list[Event]) -> list[str]:
    return [json.dumps({"event_id": _new("event"), **event}, ensure_ascii=False) for event in events]


def _new(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex[:21]}"


def _milliseconds(seconds: float) -> int:
    return round(1000 * seconds)

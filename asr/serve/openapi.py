"""What the server answers, as an OpenAPI document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from asr import __version__

Schema = dict[str, Any]
LANGUAGE = "^([A-Za-z]{2,3}(-[A-Za-z0-9]{1,8})*)?$"
"""A tag, or nothing."""


def document(models: Sequence[str]) -> Schema:
    """Of a server with these ``models``."""
    return {
        "openapi": "3.2.0",  # the first that can say what each event of a stream is
        "info": {"title": "asr serve", "version": __version__},
        "paths": {
            "/v1/audio/transcriptions": {"post": _transcribe(models)},
            "/v1/audio/alignments": {"post": _align(models)},
            "/v1/subtitles": {"post": _subtitle()},
            "/v1/models": {"get": _get("The models.", _object(object=_TEXT, data=_list(_MODEL)), errors=(401,))},
            "/v1/models/{name}": {
                "get": {
                    **_get("One model.", _MODEL, errors=(401, 404)),
                    "parameters": [{"name": "name", "in": "path", "required": True, "schema": _TEXT}],
                }
            },
            "/health": {"get": _status("Whether the engine is alive.")},
            "/ready": {"get": _status("Whether an inference ran, and requests are taken.")},
            "/metrics": {"get": {"summary": "Prometheus metrics.", "responses": _answers({"text/plain": _TEXT}, 401)}},
            "/openapi.json": {"get": _get("This document.", {"type": "object"}, errors=())},
        },
        "components": {
            "schemas": {"Error": _object(error=_ERROR)},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}, {}],
    }


def _object(*optional: str, **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": sorted(properties.keys() - set(optional))}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _or_null(kind: str) -> Schema:
    return {"type": [kind, "null"]}


_TEXT: Schema = {"type": "string"}
_NUMBER: Schema = {"type": "number"}
_INTEGER: Schema = {"type": "integer"}
_TEXTS = _list(_TEXT)
_ERROR = _object(message=_TEXT, type=_TEXT, param=_or_null("string"), code=_or_null("string"))
_MODEL = _object(id=_TEXT, object={"const": "model"}, created=_INTEGER, owned_by=_TEXT)
_USAGE = _object(type={"const": "duration"}, seconds=_NUMBER)
_LOGPROBS = _list(_object(token=_TEXT, logprob=_NUMBER, bytes=_list(_INTEGER)))
_SEGMENT = _object(
    "remark",
    id=_INTEGER,
    seek=_INTEGER,
    start=_NUMBER,
    end=_NUMBER,
    text=_TEXT,
    tokens=_list(_INTEGER),
    temperature=_NUMBER,
    avg_logprob=_NUMBER,
    compression_ratio=_NUMBER,
    no_speech_prob=_NUMBER,
    remark=_TEXT,
)
_TIMED = {"word": _TEXT, "confidence": _NUMBER}
_WORD = _object(**_TIMED, start=_NUMBER, end=_NUMBER)
_PLAIN = {"text": _TEXT, "usage": _USAGE, "logprobs": _LOGPROBS, "warnings": _TEXTS}
_JSON = _object("logprobs", "warnings", **_PLAIN)
_EVENTS = [
    _object("logprobs", type={"const": "transcript.text.delta"}, delta=_TEXT, logprobs=_LOGPROBS),
    _object("logprobs", "warnings", type={"const": "transcript.text.done"}, **_PLAIN),
    _object(type={"const": "error"}, error=_ERROR),
]
_VERBOSE = _object(
    *("logprobs", "warnings", "segments", "words"),
    **_PLAIN,
    task=_TEXT,
    language=_TEXT,
    duration=_NUMBER,
    segments=_list(_SEGMENT),
    words=_list(_WORD),
)


def _transcribe(models: Sequence[str]) -> Schema:
    form = _object(
        *("model", "language", "prompt", "keywords[]", "response_format", "timestamp_granularities[]", "stream"),
        *("temperature", "include[]", "chunking_strategy"),
        file={"type": "string", "format": "binary", "description": "A recording of any format."},
        model={"type": "string", "enum": list(models), "description": "Left out: the first."},
        language={
            "type": "string",
            "pattern": LANGUAGE,
            "description": "A tag such as en; refused where it is not the model's.",
        },
        prompt={"type": "string", "description": "Phrases to favour, with commas between; others are passed over."},
        **{
            "keywords[]": {**_TEXTS, "description": 'Phrases to favour: "Kettering", or with a weight "Kettering:8".'},
            "timestamp_granularities[]": _list({"enum": ["word", "segment"]}),
            "include[]": _list({"enum": ["logprobs"]}),
        },
        response_format={"enum": ["json", "text", "srt", "verbose_json", "vtt"], "default": "json"},
        stream={
            "enum": ["false", "true", "0", "1"],
            "description": "Server-sent events: transcript.text.delta, transcript.text.done.",
        },
        temperature={"type": "number", "minimum": 0, "maximum": 1, "description": "Changes nothing."},
        chunking_strategy={"type": "string", "enum": ["auto", "server_vad"], "description": "Changes nothing."},
    )
    detailed = {"required": ["response_format"], "properties": {"response_format": {"const": "verbose_json"}}}
    form["dependentSchemas"] = {"timestamp_granularities[]": detailed}
    kinds = {"application/json": {"anyOf": [_VERBOSE, _JSON]}, "text/plain": _TEXT, "text/vtt": _TEXT}
    described = _post("What is said in a recording.", form, kinds)
    described["responses"]["200"]["content"]["text/event-stream"] = {"itemSchema": _event()}
    return described


def _event() -> Schema:
    """A server-sent event, which to OpenAPI is an object of its fields: of them ``data`` alone is sent."""
    return _object(data={"type": "string", "contentMediaType": "application/json", "contentSchema": {"anyOf": _EVENTS}})


def _align(models: Sequence[str]) -> Schema:
    form = _object(
        "model",
        file={"type": "string", "format": "binary", "description": "A recording of any format."},
        text={"type": "string", "pattern": r"\S", "description": "What is said in it."},
        model={"type": "string", "enum": list(models)},
    )
    null = _or_null("number")
    word = _object(**_TIMED, start=null, end=null, found={"type": "boolean"})
    aligned = _object(duration=_NUMBER, words=_list(word), usage=_USAGE)
    return _post("When each word of a text is said in a recording.", form, {"application/json": aligned})


def _subtitle() -> Schema:
    seconds = {"type": "number", "minimum": 0, "maximum": 1e7}
    words = {**_list(_object(text=_TEXT, start=seconds, end=seconds)), "description": "Of a stretch of speech."}
    asked = {**_object(format={"enum": ["srt", "vtt"]}, segments=_list(words)), "additionalProperties": False}
    kinds = {"text/plain": _TEXT, "text/vtt": _TEXT}
    return _post("Subtitles of words that were heard already.", asked, kinds, body="application/json")


def _post(summary: str, form: Schema, kinds: dict[str, Schema], *, body: str = "multipart/form-data") -> Schema:
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {body: {"schema": form}}},
        "responses": _answers(kinds, 400, 401, 403, 404, 408, 413, 500, 503),
    }


def _get(summary: str, schema: Schema, errors: tuple[int, ...]) -> Schema:
    return {"summary": summary, "responses": _answers({"application/json": schema}, 403, *errors)}


def _status(summary: str) -> Schema:
    answer = {"description": summary, "content": {"application/json": {"schema": _object(status=_TEXT)}}}
    return {"summary": summary, "security": [], "responses": {"200": answer, "503": answer}}


def _answers(kinds: dict[str, Schema], *errors: int) -> Schema:
    good = {"description": "As asked.", "content": {kind: {"schema": schema} for kind, schema in kinds.items()}}
    error = {"schema": {"$ref": "#/components/schemas/Error"}}
    refusals = {str(e): {"description": "An error.", "content": {"application/json": error}} for e in errors}
    return {"200": good, **refusals}

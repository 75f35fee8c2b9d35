"""Live speech over WebSocket: the words of a stream, OpenAI's events, limits both ways, and the page."""

import base64
import json
import re
import shutil
import subprocess
import threading
import time
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise

import anyio
import numpy as np
import pytest
import toy
from starlette.applications import Starlette
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from asr.audio.g711 import from_a_law, from_mu_law
from asr.errors import AudioError
from asr.serve import listen, page, realtime, streams
from asr.transcribe.formats import LiveEvents
from asr.transcribe.recogniser import Recogniser


@dataclass(frozen=True)
class Settings:
    api_key: str | None = None
    origins: tuple[str, ...] = ()
    idle_timeout: float = 30.0
    streams: int = 4


class Models(dict):
    names = property(dict.keys)

    def get(self, name):
        return self[name]


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory):
    return Recogniser.load(toy.save_babbler(tmp_path_factory.mktemp("live") / "babbler"), device="cpu")


@pytest.fixture
def serve(recogniser):
    def client(model=recogniser, **settings):
        models, chosen, shared = Models(toy=model), Settings(**settings), streams.Streams()
        parts = listen.routes(models, chosen, shared), realtime.routes(models, chosen, shared), page.routes(chosen)
        return TestClient(Starlette(routes=[route for part in parts for route in part]))

    return client


SPEECH = np.concatenate([toy.speak("ab c"), np.zeros(2 * toy.RATE, np.float32), toy.speak("ba")])


def pieces(samples, size=3000):
    edges = [*range(0, len(samples), size), len(samples)]
    return [samples[a:b] for a, b in pairwise(edges)]


def told(socket):
    """All that comes until the connection ends, and how it does."""
    events = []
    try:
        while True:
            events.append(socket.receive_json())
    except WebSocketDisconnect as end:
        return events, end


def told_until(socket, kind):
    events = [socket.receive_json()]
    while events[-1]["type"] != kind:
        events.append(socket.receive_json())
    return events


def heard_alone(recogniser, samples, sample_rate):
    """What ``asr listen --format json`` prints of the same."""
    stream, events = recogniser.stream(sample_rate=sample_rate), LiveEvents()
    lines = [line for piece in pieces(samples) for line in events(stream.feed(piece), stream.heard)]
    return [json.loads(line) for line in [*lines, *events(stream.finish(), stream.heard)]]


# /v1/listen


@pytest.mark.parametrize(
    ("encoding", "convert"),
    [("float32", lambda samples: samples), ("int16", lambda samples: (samples * 32767).astype("<i2"))],
)
@pytest.mark.parametrize("sample_rate", [8000, 11025])
def test_a_stream_tells_what_asr_listen_prints_of_the_same_samples(recogniser, serve, encoding, convert, sample_rate):
    samples = convert(SPEECH)
    with serve().websocket_connect(f"/v1/listen?sample_rate={sample_rate}&encoding={encoding}") as socket:
        for piece in pieces(samples):
            socket.send_bytes(piece.tobytes())
        socket.send_text('{"type": "finish"}')
        events, end = told(socket)
    assert events == heard_alone(recogniser, samples, sample_rate)
    assert any(event["kind"] == "final" and event["words"] for event in events)
    assert end.code == streams.FINISHED


def test_a_sample_may_be_cut_in_two_by_messages(recogniser, serve):
    octets = (SPEECH * 32767).astype("<i2").tobytes()
    with serve().websocket_connect("/v1/listen") as socket:
        for first in range(0, len(octets), 4001):
            socket.send_bytes(octets[first : first + 4001])
        socket.send_text('{"type": "finish"}')
        events, _ = told(socket)
    whole = [
        w
        for e in heard_alone(recogniser, (SPEECH * 32767).astype("<i2"), 8000)
        if e["kind"] == "final"
        for w in e["words"]
    ]
    assert [word for event in events if event["kind"] == "final" for word in event["words"]] == whole


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ("sample_rate=12", 400, "sample rate of 12 Hz"),
        ("sample_rate=1e4", 400, "a whole number of Hz; found 1e4"),
        ("encoding=mp3", 400, "encoding is int16 or float32; found mp3"),
        ("samplerate=8000", 400, "/v1/listen knows sample_rate, encoding and model; found samplerate"),
        ("model=gpt", 404, 'no model "gpt" here; there is toy'),
    ],
)
def test_a_query_that_does_not_fit_is_refused_with_a_sentence(serve, query, status, message):
    with pytest.raises(WebSocketDenialResponse) as refused, serve().websocket_connect(f"/v1/listen?{query}"):
        pass
    assert refused.value.status_code == status
    assert message in refused.value.json()["error"]["message"]


def test_not_a_number_in_the_audio_ends_the_stream_with_a_reason(serve):
    with serve().websocket_connect("/v1/listen?encoding=float32") as socket:
        socket.send_bytes(np.full(4000, np.nan, "<f4").tobytes())
        events, end = told(socket)
    assert (events, end.code) == ([], streams.INVALID)
    assert "not numbers" in end.reason


@pytest.mark.parametrize("text", ["finish", "[]", '{"type": "stop"}', "[" * 100_000])
def test_a_text_message_other_than_finish_ends_the_stream(serve, text):
    with serve().websocket_connect("/v1/listen") as socket:
        socket.send_text(text)
        assert told(socket)[1].code == streams.INVALID


# Who may come, and limits


@pytest.mark.parametrize("path", ["/v1/listen", "/v1/realtime"])
@pytest.mark.parametrize(
    ("origin", "comes"),
    [
        (None, True),
        ("http://testserver", True),
        ("https://allowed.example", True),
        ("https://evil.example", False),
        ("http://testserver.evil.example", False),
        ("null", False),
        ("", False),
    ],
)
def test_only_our_own_page_and_those_allowed_open_a_stream(serve, path, origin, comes):
    headers = {} if origin is None else {"Origin": origin}
    client = serve(origins=("https://allowed.example",))
    if comes:
        with client.websocket_connect(path, headers=headers):
            return
    with pytest.raises(WebSocketDenialResponse) as refused, client.websocket_connect(path, headers=headers):
        pass
    assert refused.value.status_code == 403


@pytest.mark.parametrize("path", ["/v1/listen", "/v1/realtime"])
@pytest.mark.parametrize(
    ("headers", "subprotocols", "comes"),
    [
        ({"Authorization": "Bearer secret"}, [], True),
        ({}, ["realtime", "openai-insecure-api-key.secret"], True),
        ({}, [], False),
        ({"Authorization": "Bearer secre"}, [], False),
        ({"Authorization": "secret"}, [], False),
        ({}, ["openai-insecure-api-key."], False),
    ],
)
def test_a_stream_needs_the_key_in_a_header_or_as_a_subprotocol(serve, path, headers, subprotocols, comes):
    client = serve(api_key="secret")
    if comes:
        with client.websocket_connect(path, headers=headers, subprotocols=subprotocols) as socket:
            assert "secret" not in (socket.accepted_subprotocol or "")
            return
    with (
        pytest.raises(WebSocketDenialResponse) as refused,
        client.websocket_connect(path, headers=headers, subprotocols=subprotocols),
    ):
        pass
    assert (refused.value.status_code, refused.value.json()["error"]["code"]) == (401, "invalid_api_key")


def test_one_stream_more_than_there_may_be_is_told_to_try_again_and_a_closed_one_makes_room(serve):
    client = serve(streams=1)
    with client.websocket_connect("/v1/listen"):
        with pytest.raises(WebSocketDenialResponse) as refused, client.websocket_connect("/v1/realtime"):
            pass
        assert (refused.value.status_code, refused.value.headers["retry-after"]) == (503, "5")
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            with client.websocket_connect("/v1/realtime"):
                return
        except WebSocketDenialResponse:
            time.sleep(0.01)
    pytest.fail("the closed stream kept its place")


def test_a_silent_client_is_let_go(serve):
    with serve(idle_timeout=0.05).websocket_connect("/v1/listen") as socket:
        assert told(socket)[1].code == streams.IDLE


def test_a_message_that_is_too_long_ends_the_stream(serve, monkeypatch):
    monkeypatch.setattr(streams, "MESSAGE_BYTES", 1000)
    with serve().websocket_connect("/v1/listen") as socket:
        socket.send_bytes(bytes(1002))
        assert told(socket)[1].code == streams.TOO_LONG


class Stub:
    """A recogniser whose streams do as they are told."""

    def __init__(self, feed):
        self.sample_rate, self.heard, self.feed = 8000, 0.0, feed

    def stream(self, **_):
        return self


def fail(_):
    raise ZeroDivisionError


def test_a_fault_of_ours_closes_the_one_stream_and_is_logged(serve, caplog):
    with serve(Stub(fail)).websocket_connect("/v1/listen") as socket:
        socket.send_bytes(bytes(1000))
        assert told(socket)[1].code == streams.BROKEN
    assert "ZeroDivisionError" in caplog.text


def converse(reading, receive, send, idle_timeout=30.0):
    """A connection whose two ends are functions."""
    scope = {"type": "websocket", "headers": [], "subprotocols": [], "query_string": b"", "path": "/"}

    async def main():
        socket = streams.WebSocket(scope, receive, send)
        await streams.converse(socket, reading, Settings(idle_timeout=idle_timeout), streams.Streams())

    with anyio.from_thread.start_blocking_portal() as portal:
        portal.call(main)


class Echo:
    """Tells of each message its length, after ``seconds``."""

    subprotocols = ()
    rate = 1000.0

    def __init__(self, seconds=0.0):
        self.seconds, self.heard = seconds, 0

    def begin(self):
        return []

    def hear(self, message):
        time.sleep(self.seconds)
        self.heard += 1
        yield [str(len(message))]


def test_a_client_that_does_not_read_is_let_go_and_what_it_sends_is_not_taken(monkeypatch):
    monkeypatch.setattr(streams, "SEND_SECONDS", 0.05)
    taken, sent = [], []

    async def receive():
        taken.append(0)
        return {"type": "websocket.connect"} if len(taken) == 1 else {"type": "websocket.receive", "bytes": bytes(500)}

    async def send(message):
        sent.append(message)
        if message["type"] == "websocket.send":
            await anyio.sleep_forever()

    converse(Echo(), receive, send)
    assert (sent[-1]["type"], sent[-1]["code"]) == ("websocket.close", streams.NOT_READING)
    assert len(taken) < 30  # of 500 bytes each, at 1,000 bytes a second: more than 5 s are not held


@pytest.mark.parametrize("size", [0, 500])
def test_a_flood_is_taken_no_faster_than_it_is_read(size):
    taken, reading, most = [], Echo(0.0005), 100
    ahead = []

    async def receive():
        taken.append(0)
        ahead.append(len(taken) - reading.heard)
        if len(taken) == 1:
            return {"type": "websocket.connect"}
        if len(taken) > most:
            return {"type": "websocket.disconnect", "code": 1000}
        return {"type": "websocket.receive", "bytes": bytes(size)}

    async def send(_):
        pass

    converse(reading, receive, send)
    assert max(ahead) < 45


def test_messages_that_wait_are_read_in_one_turn(monkeypatch):
    """What waits while a thread is busy with the first message is read together, up to ``STEP_SECONDS`` of it."""
    turns, told = [], []
    take_turn = streams._take_turn
    monkeypatch.setattr(streams, "_take_turn", lambda steps: turns.append(0) or take_turn(steps))
    monkeypatch.setattr(streams, "TURN_SECONDS", 60.0)
    sent = threading.Event()
    reading = Echo()
    reading.hear = lambda message: (sent.wait(10), (yield [str(len(message))]))

    async def receive():
        if len(taken) == 7:
            sent.set()
            while len(told) < 6:
                await anyio.sleep(0.001)
            return {"type": "websocket.disconnect", "code": 1000}
        taken.append(0)
        return CONNECT if len(taken) == 1 else {"type": "websocket.receive", "bytes": bytes(len(taken))}

    async def send(message):
        told.extend(message["text"] for _ in [0] if message["type"] == "websocket.send")

    taken = []
    reading.rate = 10_000.0
    converse(reading, receive, send)
    assert told == ["2", "3", "4", "5", "6", "7"]
    assert len(turns) <= 2


def test_a_stream_that_cannot_be_read_in_real_time_is_told_so(monkeypatch):
    monkeypatch.setattr(streams, "BEHIND_SECONDS", 0.05)
    ends = []

    async def receive():
        return {"type": "websocket.receive", "bytes": bytes(1000)} if opened else opened.append(0) or CONNECT

    async def send(message):
        ends.extend(message["code"] for _ in [0] if message["type"] == "websocket.close")

    opened = []
    reading = Echo(0.005)
    reading.rate = 1_000_000.0  # a message lasts a millisecond, and takes five
    monkeypatch.setattr(streams, "AHEAD_SECONDS", 0.005)
    converse(reading, receive, send)
    assert ends == [streams.OVERLOADED]


CONNECT = {"type": "websocket.connect"}


def test_each_model_is_tried_before_a_client_comes():
    heard = []

    class Counted(Stub):
        def finish(self):
            heard.append("finished")

    stubs = {"one": Counted(lambda samples: heard.append(len(samples))), "two": Counted(lambda _: None)}
    streams.probe(Models(stubs))
    assert heard == [8000, "finished", "finished"]


# /v1/realtime


def append(octets):
    return {"type": "input_audio_buffer.append", "audio": base64.b64encode(octets).decode()}


def send_speech(socket, dtype="<i2"):
    samples = (np.repeat(SPEECH, 3) * 32767).astype(dtype)  # 24 kHz
    for piece in pieces(samples):
        socket.send_json(append(piece.tobytes()))
    return samples


COMPLETED = "conversation.item.input_audio_transcription.completed"
DELTA = "conversation.item.input_audio_transcription.delta"


def finals(recogniser, samples, rate, **settings):
    stream = recogniser.stream(sample_rate=rate, **settings)
    heard = [*(stream.feed(piece) for piece in pieces(samples)), stream.finish()]
    return heard, [word.text for each in heard for word in each.final]


def test_committed_audio_is_transcribed_as_one_turn_whose_transcript_is_its_deltas(recogniser, serve):
    with serve().websocket_connect("/v1/realtime?intent=transcription") as socket:
        created = socket.receive_json()
        off = {"type": "transcription", "audio": {"input": {"turn_detection": None}}}
        socket.send_json({"type": "session.update", "session": off})
        updated = socket.receive_json()
        samples = send_speech(socket)
        socket.send_json({"type": "input_audio_buffer.commit"})
        events = told_until(socket, COMPLETED)
    assert (created["type"], updated["type"]) == ("session.created", "session.updated")
    assert updated["session"]["audio"]["input"]["turn_detection"] is None
    _, words = finals(recogniser, samples, 24000)
    assert events[-1]["transcript"] == " ".join(words) == "".join(e["delta"] for e in events if e["type"] == DELTA)
    assert words
    assert events[-1]["usage"] == {"type": "duration", "seconds": round(len(samples) / 24000, 3)}
    assert [e["type"] for e in events if e["type"] not in (DELTA, COMPLETED)] == [
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
    ]
    assert len({e["item_id"] for e in events if "item_id" in e}) == 1


def test_turns_end_by_our_endpoints_and_each_is_an_item(recogniser, serve):
    with serve().websocket_connect("/v1/realtime") as socket:
        socket.receive_json()
        silence = {"audio": {"input": {"turn_detection": {"type": "server_vad", "silence_duration_ms": 400}}}}
        socket.send_json({"type": "session.update", "session": silence})
        socket.receive_json()
        samples = send_speech(socket)
        socket.send_json({"type": "input_audio_buffer.commit"})
        socket.send_json({"type": "input_audio_buffer.clear"})
        events = told_until(socket, "input_audio_buffer.cleared")
    heard, _ = finals(recogniser, samples, 24000, endpoint=0.4)
    segments = [segment for each in heard for segment in each.segments]
    turns = [e for e in events if e["type"] == COMPLETED]
    assert [turn["transcript"] for turn in turns if turn["transcript"]] == [segment.text for segment in segments]
    for turn in turns[: len(segments)]:
        kinds = [e["type"].split(".")[-1] for e in events if e.get("item_id") == turn["item_id"]]
        assert kinds[0] == "speech_started"
        assert kinds[-3:] == ["speech_stopped", "committed", "completed"]
        assert set(kinds[1:-3]) <= {"delta"}
    order = [e["item_id"] for e in events if e["type"] == "input_audio_buffer.committed"]
    before = [e["previous_item_id"] for e in events if e["type"] == "input_audio_buffer.committed"]
    assert before == [None, *order[:-1]]
    starts = [e["audio_start_ms"] for e in events if e["type"].endswith("speech_started")]
    assert starts == sorted(starts)
    assert starts[0] == max(0, round(1000 * segments[0].start) - 300)


def test_the_betas_events_and_names_are_spoken_to_a_client_of_the_beta(serve):
    protocols = ["realtime", "openai-insecure-api-key.x", "openai-beta.realtime-v1"]
    with serve().websocket_connect("/v1/realtime?intent=transcription", subprotocols=protocols) as socket:
        assert socket.accepted_subprotocol == "realtime"
        assert socket.receive_json()["type"] == "transcription_session.created"
        session = {
            "input_audio_format": "g711_ulaw",
            "turn_detection": None,
            "input_audio_transcription": {"model": "toy"},
        }
        socket.send_json({"type": "transcription_session.update", "session": session})
        updated = socket.receive_json()
        socket.send_json(append(bytes([255]) * 8000))
        socket.send_json({"type": "input_audio_buffer.commit"})
        events = told_until(socket, COMPLETED)
    assert updated["type"] == "transcription_session.updated"
    assert updated["session"]["input_audio_format"] == "g711_ulaw"
    assert updated["session"]["input_audio_transcription"]["model"] == "toy"
    assert "conversation.item.created" in [e["type"] for e in events]
    assert events[-1]["usage"]["seconds"] == 1.0


@pytest.mark.parametrize("kind", ["audio/pcmu", "audio/pcma"])
def test_telephone_audio_is_read_as_its_linear_samples(recogniser, serve, kind):
    octets = np.random.default_rng(1).integers(0, 256, 16000, np.uint8).tobytes()
    with serve().websocket_connect("/v1/realtime") as socket:
        socket.receive_json()
        changes = {"type": "transcription", "audio": {"input": {"format": {"type": kind}, "turn_detection": None}}}
        socket.send_json({"type": "session.update", "session": changes})
        assert socket.receive_json()["session"]["audio"]["input"]["format"] == {"type": kind, "rate": 8000}
        socket.send_json(append(octets))
        socket.send_json({"type": "input_audio_buffer.commit"})
        transcript = told_until(socket, COMPLETED)[-1]["transcript"]
    decode = from_mu_law if kind == "audio/pcmu" else from_a_law
    assert transcript == " ".join(finals(recogniser, decode(octets), 8000)[1])


def test_cleared_audio_is_not_transcribed(serve):
    with serve().websocket_connect("/v1/realtime") as socket:
        socket.receive_json()
        socket.send_json({"type": "session.update", "session": {"audio": {"input": {"turn_detection": None}}}})
        send_speech(socket)
        socket.send_json({"type": "input_audio_buffer.clear"})
        told_until(socket, "input_audio_buffer.cleared")
        socket.send_json({"type": "input_audio_buffer.commit"})
        assert socket.receive_json()["error"]["code"] == "input_audio_buffer_commit_empty"


def test_probabilities_come_where_they_are_asked_for(serve):
    with serve().websocket_connect("/v1/realtime") as socket:
        socket.receive_json()
        wanted = {"include": ["item.input_audio_transcription.logprobs"], "audio": {"input": {"turn_detection": None}}}
        socket.send_json({"type": "session.update", "session": wanted})
        send_speech(socket)
        socket.send_json({"type": "input_audio_buffer.commit"})
        completed = told_until(socket, COMPLETED)[-1]
    assert " ".join(part["token"] for part in completed["logprobs"]) == completed["transcript"]
    assert all(part["logprob"] <= 0 for part in completed["logprobs"])


@pytest.mark.parametrize(
    ("event", "code", "parameter"),
    [
        ("nonsense", "invalid_event", None),
        ("[" * 100_000, "invalid_event", None),
        ([], "invalid_event", None),
        ('{"type": 3, "event_id": "mine"}', "invalid_event", None),
        ({"type": "response.create"}, "unknown_event", "type"),
        ({"type": "input_audio_buffer.append"}, "invalid_value", "audio"),
        ({"type": "input_audio_buffer.append", "audio": "é"}, "invalid_value", "audio"),
        ({"type": "input_audio_buffer.commit"}, "input_audio_buffer_commit_empty", None),
        ({"type": "session.update"}, "invalid_value", "session"),
        ({"type": "session.update", "session": {"type": "realtime"}}, "invalid_value", "session.type"),
        ({"type": "session.update", "session": {"audio": 3}}, "invalid_value", "session.audio"),
        (
            {"type": "session.update", "session": {"audio": {"input": {"turn_detection": {"type": "semantic_vad"}}}}},
            "invalid_value",
            "session.audio.input.turn_detection.type",
        ),
        (
            {
                "type": "session.update",
                "session": {"audio": {"input": {"format": {"type": "audio/pcmu", "rate": 24000}}}},
            },
            "invalid_value",
            "session.audio.input.format.rate",
        ),
        (
            {"type": "session.update", "session": {"audio": {"input": {"transcription": {"model": "whisper-1"}}}}},
            "model_not_found",
            "session.audio.input.transcription.model",
        ),
        (
            {"type": "transcription_session.update", "session": {"input_audio_format": "mp3"}},
            "invalid_value",
            "session.audio.input.format.type",
        ),
    ],
)
def test_an_event_that_cannot_be_followed_is_an_error_event_and_the_stream_goes_on(serve, event, code, parameter):
    with serve().websocket_connect("/v1/realtime") as socket:
        socket.receive_json()
        if isinstance(event, dict):
            event = {**event, "event_id": "mine"}
        socket.send_text(event if isinstance(event, str) else json.dumps(event))
        told = socket.receive_json()
        assert (told["type"], told["error"]["code"], told["error"]["param"]) == ("error", code, parameter)
        assert told["error"]["event_id"] == ("mine" if isinstance(event, dict) else None)
        socket.send_json({"type": "input_audio_buffer.clear"})
        assert socket.receive_json()["type"] == "input_audio_buffer.cleared"


def refuse_samples(_):
    raise AudioError("these samples cannot be read")


def test_audio_that_cannot_be_read_fails_its_item_and_the_stream_goes_on(serve):
    with serve(Stub(refuse_samples)).websocket_connect("/v1/realtime") as socket:
        socket.receive_json()
        socket.send_json(append(bytes(4800)))
        failed = socket.receive_json()
        assert failed["type"] == "conversation.item.input_audio_transcription.failed"
        assert failed["error"]["message"] == "these samples cannot be read"
        socket.send_json({"type": "input_audio_buffer.clear"})
        assert socket.receive_json()["type"] == "input_audio_buffer.cleared"


def test_another_intent_is_refused(serve):
    with pytest.raises(WebSocketDenialResponse) as refused, serve().websocket_connect("/v1/realtime?intent=talk"):
        pass
    assert refused.value.status_code == 400


# G.711


def test_telephone_octets_are_the_recommendations_samples():
    assert from_mu_law(b"\x00\x80\xff\x7f\xfe\x7e\xef").tolist() == [-32124, 32124, 0, 0, 8, -8, 132]
    assert from_a_law(b"\x2a\xaa\xd5\x55\xd4\xc5").tolist() == [-32256, 32256, 8, -8, 24, 264]


@pytest.mark.parametrize(("law", "decode"), [("ulaw2lin", from_mu_law), ("alaw2lin", from_a_law)])
def test_all_octets_are_what_pythons_audioop_made_of_them(law, decode):
    audioop = pytest.importorskip("audioop", reason="removed in Python 3.13")
    octets = bytes(range(256))
    assert decode(octets).tolist() == np.frombuffer(getattr(audioop, law)(octets, 2), "<i2").tolist()


# The page


@pytest.mark.parametrize(("path", "kind"), [(path, kind) for path, (_, kind) in page.FILES.items()])
def test_the_pages_files_come_with_a_policy_that_forbids_all_that_is_not_ours(serve, path, kind):
    client = serve(api_key="secret")  # it is the page that asks for the key
    answer = client.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert set(policy.values()) == {"'none'", "'self'", "blob:"}
    assert answer.headers["x-content-type-options"] == "nosniff"
    again = client.get(path, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_the_page_asks_for_nothing_that_its_policy_or_its_server_denies():
    html = files("asr.serve").joinpath("page.html").read_text()
    asked = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert set(asked) <= page.FILES.keys()
    assert len(asked) == 3
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", html)
    for name in ("page.js", "worklet.js", "page.css"):
        assert "//" not in re.sub(r"(?m)^\s*//.*$| // .*$", "", files("asr.serve").joinpath(name).read_text()), name


def test_every_control_of_the_page_has_a_name():
    html = files("asr.serve").joinpath("page.html").read_text()
    labelled = set(re.findall(r'<label[^>]* for="(\w+)"', html))
    assert set(re.findall(r'<(?:input|select) id="(\w+)"', html)) == labelled == {"model", "key", "files"}
    named = re.findall(r"<button[^>]*>([^<]*)</button>", html)
    assert len(named) == html.count("<button")
    assert all(named)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.parametrize("name", ["page.js", "worklet.js"])
def test_the_pages_scripts_are_javascript(name):
    script = files("asr.serve").joinpath(name).read_bytes()
    subprocess.run(["node", "--check", "--input-type=module"], input=script, check=True, timeout=60)

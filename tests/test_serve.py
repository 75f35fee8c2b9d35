"""The server as its clients meet it: OpenAI's own package, and those who speak HTTP badly, against one that runs."""

import dataclasses
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
import soundfile
import toy
from commands import Command, run
from hypothesis import given, settings, strategies
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from asr.audio import voice
from asr.serve import subtitles, uploads
from asr.serve.app import build_app
from asr.serve.engine import Models, Settings
from asr.serve.openapi import document
from asr.serve.server import Server, configuration
from asr.transcribe.recogniser import Recogniser

SPEECH = np.concatenate([toy.speak("ab c"), np.zeros(2 * toy.RATE, np.float32), toy.speak("ba cab")])


def recorded(samples=SPEECH, form="WAV"):
    """The bytes of a recording."""
    file = io.BytesIO()
    soundfile.write(file, samples, toy.RATE, format=form)
    return file.getvalue()


class Slow:
    """A recogniser's network that waits for ``go`` before each batch, or fails."""

    def __init__(self, network):
        self.network, self.sample_rate, self.frame_shift = network, network.sample_rate, network.frame_shift
        self.go, self.fail = threading.Event(), False
        self.go.set()

    def emit(self, waveforms):
        self.go.wait(10)
        if self.fail:
            raise RuntimeError("out of memory")
        return self.network.emit(waveforms)

    def stream(self, **options):
        return self.network.stream(**options)


class Running:
    """A server in a thread, at a free port."""

    def __init__(self, recogniser, certificate=None, key=None, **chosen):
        self.slow = Slow(recogniser.network)
        self.recogniser = Recogniser(
            self.slow, recogniser.tokeniser, recogniser.recipe, recogniser.meta, recogniser.decoder, recogniser._build
        )
        self.clients = []
        self.settings = Settings(port=0, **chosen)
        self.app = build_app(Models({"toy": self.recogniser, "other": self.recogniser}), self.settings)
        self.bound = socket.create_server(("127.0.0.1", 0))
        self.port = self.bound.getsockname()[1]
        self.url = f"{'http' if certificate is None else 'https'}://127.0.0.1:{self.port}"
        config = configuration(self.app, self.settings, certificate, key)
        self.server = Server(config, self.app.state.engine, self.settings.drain)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.bound]}, daemon=True)

    def __enter__(self):
        self.thread.start()
        until(lambda: self.server.started and self.app.state.engine.ready)
        return self

    def __exit__(self, *_):
        for client in self.clients:
            client.close()
        self.slow.go.set()
        self.server.should_exit = True
        self.thread.join(20)
        assert not self.thread.is_alive()

    def client(self, key="none needed", retries=0):
        client = openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=retries, timeout=60)
        self.clients.append(client)
        return client

    def post(self, files=None, data=None, path="/v1/audio/transcriptions", **options):
        files = {"file": ("speech.wav", recorded())} if files is None else files
        return httpx.post(self.url + path, files=files, data=data, timeout=60, **options)

    def metrics(self):
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


def until(condition, seconds=60.0):
    """Waits until it holds; an AssertionError after so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


class Loudness:
    """In place of the network of voice activity, to which tones are no speech."""

    def hear(self, frames):
        return (np.abs(frames).max(axis=1) > 0.05).astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def _tones_are_speech(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uploads.tempfile, "tempdir", str(tmp_path_factory.mktemp("uploads")))
        patch.setattr(voice, "VoiceNetwork", Loudness)
        yield


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory):
    return Recogniser.load(toy.save_babbler(tmp_path_factory.mktemp("serve") / "babbler"), device="cpu")


@pytest.fixture(scope="module")
def running(recogniser):
    with Running(recogniser) as server:
        yield server


@pytest.fixture(scope="module")
def said(recogniser):
    """What ``asr transcribe --vad`` makes of the recording."""
    transcript = recogniser.transcribe(recorded(), vad=True)
    assert len(transcript.segments) > 1
    assert len(transcript.words) > 1
    return transcript


def spool():
    return sorted(Path(uploads.tempfile.gettempdir()).glob(f"{uploads.PREFIX}*"))


# What OpenAI's package gets


def test_openai_gets_the_text_that_asr_transcribe_prints(running, said):
    answer = running.client().audio.transcriptions.create(file=("a.wav", recorded()), model="toy")
    assert answer.text == said.text
    assert answer.usage.type == "duration"
    assert answer.usage.seconds == said.duration


@pytest.mark.parametrize(
    ("form", "written"), [("text", "text"), ("srt", "to_srt"), ("vtt", "to_vtt")], ids=["text", "srt", "vtt"]
)
def test_openai_gets_text_and_subtitles(running, said, form, written):
    answer = running.client().audio.transcriptions.create(file=("a.wav", recorded()), model="toy", response_format=form)
    expected = getattr(said, written)
    assert answer == (expected() if callable(expected) else expected) + "\n"


def words_of(transcript):
    return [[dataclasses.asdict(word) for word in segment.words] for segment in transcript.segments]


@pytest.mark.parametrize(("form", "written"), [("srt", "to_srt"), ("vtt", "to_vtt")], ids=["srt", "vtt"])
def test_subtitles_of_words_that_were_heard_are_those_of_asr_transcribe(running, said, form, written):
    answer = httpx.post(f"{running.url}/v1/subtitles", json={"format": form, "segments": words_of(said)})
    assert answer.status_code == 200, answer.text
    assert answer.text == getattr(said, written)() + "\n"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"[]", None),
        (b'{"format": "ass", "segments": []}', "format"),
        (b'{"format": "srt"}', "segments"),
        (b'{"format": "srt", "segments": [[{"text": "a", "start": 0}]]}', "segments.0.0.end"),
        (b'{"format": "srt", "segments": [[{"text": "a", "start": 0, "end": false}]]}', "segments.0.0.end"),
        (b'{"format": "srt", "segments": [[{"text": "a", "start": NaN, "end": 1}]]}', "segments.0.0.start"),
        (b'{"format": "srt", "segments": [[{"text": "a", "start": 0, "end": 1e300}]]}', "segments.0.0.end"),
        (b"[" * 100_000, None),
    ],
)
def test_subtitles_of_what_are_no_words_are_refused_by_place(running, body, param):
    answer = httpx.post(f"{running.url}/v1/subtitles", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_a_request_for_subtitles_full_of_faults_is_refused_for_its_first(running):
    body = b'{"format": "srt", "segments": [[' + b"{}," * 600_000 + b"{}]]}"
    began = time.process_time()
    answer = httpx.post(f"{running.url}/v1/subtitles", content=body, timeout=60)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "segments.0.0.text")
    assert time.process_time() - began < 5  # a list of all faults would take 9 s, and 2 GB


def test_text_of_subtitles_stays_within_its_cue(running):
    words = [{"text": text, "start": 1, "end": 2} for text in ("a\n\n2\n00:00:00,000 --> 1", " ", "b")]
    answer = httpx.post(f"{running.url}/v1/subtitles", json={"format": "srt", "segments": [words, []]})
    assert answer.text.count("\n\n") == 0
    assert "b" in answer.text


def test_a_request_for_subtitles_has_an_end(running):
    body = b'{"format": "srt", "segments": [' + b" " * subtitles.LARGEST_BYTES + b"]}"
    assert httpx.post(f"{running.url}/v1/subtitles", content=body).status_code == 413


def test_openai_gets_segments_and_words_with_the_times_of_asr_transcribe(running, said):
    answer = running.client().audio.transcriptions.create(
        file=("a.flac", recorded(form="FLAC")),
        model="toy",
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    assert answer.duration == said.duration
    assert [(s.start, s.end, s.text) for s in answer.segments] == [(s.start, s.end, s.text) for s in said.segments]
    assert [(w.start, w.end, w.word) for w in answer.words] == [(w.start, w.end, w.text) for w in said.words]


def test_openai_hears_each_stretch_of_speech_as_a_delta(running, said):
    events = list(
        running.client().audio.transcriptions.create(
            file=("a.wav", recorded()), model="toy", stream=True, include=["logprobs"]
        )
    )
    *deltas, done = events
    assert [event.type for event in deltas] == ["transcript.text.delta"] * len(said.segments)
    assert "".join(event.delta for event in deltas) == done.text == said.text
    assert [entry.token for event in deltas for entry in event.logprobs] == [word.text for word in said.words]
    assert done.usage.seconds == said.duration


def test_keywords_are_the_hotwords_of_asr_transcribe(running, recogniser, said):
    word = "bcb"
    favoured = recogniser.transcribe(recorded(), vad=True, hotwords={word: 60.0}).text
    assert favoured != said.text
    answer = running.client().audio.transcriptions.create(
        file=("a.wav", recorded()), model="toy", extra_body={"keywords": [f"{word}:60"]}
    )
    assert answer.text == favoured
    prompted = running.client().audio.transcriptions.create(
        file=("a.wav", recorded()), model="toy", prompt=f"ZZ top, {word}:60"
    )
    assert prompted.text == favoured


def test_all_that_openai_documents_is_taken(running, said):
    answer = running.client().audio.transcriptions.create(
        file=("a.wav", recorded()),
        model="toy",
        language="en",
        temperature=0.2,
        chunking_strategy={"type": "server_vad", "silence_duration_ms": 300},
        include=["logprobs"],
    )
    assert answer.text == said.text
    assert len(answer.logprobs) == len(said.words)


def test_openai_lists_the_models(running):
    client = running.client()
    assert [model.id for model in client.models.list()] == ["toy", "other"]
    assert client.models.retrieve("other").id == "other"


def test_words_of_a_given_text_are_aligned(running, recogniser):
    aligned = recogniser.align(recorded(), "ab c ba cab")
    answer = running.post(data={"text": "ab c ba cab"}, path="/v1/audio/alignments").json()
    assert [(w["word"], w["start"], w["found"]) for w in answer["words"]] == [
        (w.text, w.start, w.found) for w in aligned.words
    ]


# What is refused


@pytest.mark.parametrize(
    ("data", "status", "param"),
    [
        ({"response_format": "diarized_json"}, 400, "response_format"),
        ({"timestamp_granularities[]": "word"}, 400, "timestamp_granularities"),
        ({"timestamp_granularities[]": "phone", "response_format": "verbose_json"}, 400, "timestamp_granularities"),
        ({"temperature": "hot"}, 400, "temperature"),
        ({"language": "../etc"}, 400, "language"),
        ({"stream": "perhaps"}, 400, "stream"),
        ({"include[]": "everything"}, 400, "include"),
        ({"chunking_strategy": "none"}, 400, "chunking_strategy"),
        ({"keywords[]": "a:nan"}, 400, "keywords"),
        ({"model": "whisper-1"}, 404, "model"),
        ({"model": ["toy", "other"]}, 400, "model"),
    ],
    ids=lambda value: str(value),
)
def test_a_field_that_does_not_fit_is_named(running, data, status, param):
    answer = running.post(data=data)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (b"", "is empty"),
        (b"no audio" * 99, "not audio that"),
        (recorded(SPEECH[:0]), "no audio samples"),
    ],
    ids=["empty", "text", "no samples"],
)
def test_what_is_no_recording_is_refused_without_its_place_on_disk(running, file, words):
    with pytest.raises(openai.BadRequestError) as caught:
        running.client().audio.transcriptions.create(file=("a.wav", file), model="toy")
    assert caught.value.param == "file"
    assert words in caught.value.message
    assert uploads.PREFIX not in caught.value.message


def test_what_is_missing_of_a_recording_is_said(running):
    answer = running.post(files={"file": ("cut.wav", recorded()[:-8000])})
    assert answer.json()["warnings"][0].startswith("the recording is truncated")
    assert "truncated" in running.post({"file": recorded()[:-8000]}, {"response_format": "srt"}).headers["x-warning"]


def test_a_path_that_is_not_there_is_answered_in_json(running):
    answer = httpx.get(f"{running.url}/v1/%2e%2e/%0d%0aetc")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    answer = httpx.get(f"{running.url}/v1/audio/transcriptions")
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")


def test_foreign_pages_and_names_are_refused(running):
    answer = running.post(headers={"Origin": "https://example.org"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin_not_allowed")
    answer = running.post(headers={"Host": "rebound.example.org"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "host_not_allowed")
    assert running.post(headers={"Origin": running.url}).status_code == 200


def test_every_answer_has_the_security_headers(running):
    for answer in (httpx.get(f"{running.url}/health"), httpx.get(f"{running.url}/none"), running.post()):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "access-control-allow-origin" not in answer.headers


def test_a_key_is_asked_for_where_there_is_one(recogniser):
    with Running(recogniser, api_key="0123456789abcdef") as server:
        for wrong in ("0123456789abcde", "0123456789abcdefg"):
            with pytest.raises(openai.AuthenticationError) as caught:
                server.client(key=wrong).models.list()
            assert caught.value.code == "invalid_api_key"
        assert server.client(key="0123456789abcdef").models.list().data
        assert httpx.get(f"{server.url}/metrics").status_code == 401
        assert httpx.get(f"{server.url}/health", headers={"Host": "example.org"}).status_code == 200


# Forms


def test_a_recording_over_the_limit_is_refused_and_leaves_nothing(recogniser):
    with Running(recogniser, upload_bytes=100_000) as server:
        with pytest.raises(openai.APIStatusError) as caught:
            server.client().audio.transcriptions.create(file=("a.wav", bytes(4_000_000)), model="toy")
        assert (caught.value.status_code, caught.value.code) == (413, "file_too_large")
        kind = {"Content-Type": "multipart/form-data; boundary=x"}
        answer = httpx.post(f"{server.url}/v1/audio/transcriptions", content=chunked(bytes(200_000)), headers=kind)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "file_too_large")
        assert not spool()


def chunked(recording):
    """A form with a recording, of a length that is not told."""
    yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="../../etc/passwd"\r\n\r\n'
    for start in range(0, len(recording), 10_000):
        yield recording[start : start + 10_000]
    yield b"\r\n--x--\r\n"


def test_a_recording_longer_than_the_limit_is_refused(recogniser):
    with Running(recogniser, audio_seconds=2) as server:
        answer = server.post()
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "audio_too_long")


def test_a_file_name_goes_nowhere(running, said):
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = httpx.post(f"{running.url}/v1/audio/transcriptions", content=chunked(recorded()), headers=kind)
    assert answer.json()["text"] == said.text


FORM = b"".join(chunked(recorded(SPEECH[:4000])))


@settings(max_examples=40)
@given(
    cut=strategies.integers(0, len(FORM)),
    at=strategies.integers(0, 120) | strategies.integers(0, len(FORM)),
    put=strategies.sampled_from([b"", b"\r\n", b"--x", b"--x--", b"\0", b"\xff\xfe", b'"', b";", b"\n\n"])
    | strategies.binary(max_size=8),
    kind=strategies.sampled_from(["multipart/form-data; boundary=x"] * 6 + ["multipart/form-data", "é;;="]),
)
def test_a_malformed_form_gets_an_answer_in_json(mutations, cut, at, put, kind):
    form = FORM[:at] + put + FORM[at:cut] if cut > at else FORM[:cut] + put
    answer = mutations.post("/v1/audio/transcriptions", content=form, headers={"Content-Type": kind.encode()})
    assert answer.status_code in (200, 400, 404, 413)
    assert "text" in answer.json() if answer.status_code == 200 else answer.json()["error"]["message"]


@pytest.fixture(scope="module")
def mutations(running):
    with httpx.Client(base_url=running.url, timeout=20) as client:
        yield client
    assert not spool()


@pytest.mark.parametrize(
    ("form", "code"),
    [
        (b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nRIFF', "invalid_form"),
        (b"--x\r\nContent-Disposition: form-data\r\n\r\nRIFF\r\n--x--\r\n", "invalid_form"),
        (b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\ntoy\r\n--x--\r\n', "invalid_value"),
        (b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + bytes(2 << 20), "fields_too_large"),
        (b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n\xff\r\n--x--\r\n', "invalid_value"),
        (b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n' * 300, "fields_too_large"),
    ],
    ids=["cut", "no name", "no file", "large field", "not UTF-8", "many fields"],
)
def test_what_is_wrong_with_a_form_is_said(running, form, code):
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = httpx.post(f"{running.url}/v1/audio/transcriptions", content=form, headers=kind, timeout=20)
    assert answer.json()["error"]["code"] == code


def test_a_client_that_leaves_while_it_sends_leaves_nothing(running):
    before = running.metrics().get('asr_rejected_total{reason="client_gone"}', 0)
    with socket.create_connection(("127.0.0.1", running.port)) as raw:
        raw.sendall(b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\n")
        raw.sendall(b"Content-Type: multipart/form-data; boundary=x\r\n\r\n" + FORM[:3000])
        until(spool)
    until(lambda: not spool())
    until(lambda: running.metrics()['asr_rejected_total{reason="client_gone"}'] == before + 1)
    assert running.metrics()["asr_queue"] == 0


def test_a_client_that_stops_sending_is_let_go(recogniser):
    with Running(recogniser, idle_timeout=0.1) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            raw.sendall(b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\n")
            raw.sendall(b"Content-Type: multipart/form-data; boundary=x\r\n\r\n" + FORM[:3000])
            raw.settimeout(10)
            assert raw.recv(100).startswith(b"HTTP/1.1 408 ")
        assert not spool()


def test_uploads_of_killed_servers_are_removed_and_others_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(uploads.tempfile, "tempdir", str(tmp_path))
    (tmp_path / "asr-upload-dead").write_bytes(b"RIFF")
    with uploads.tempfile.NamedTemporaryFile(prefix=uploads.PREFIX) as file:
        uploads.fcntl.flock(file, uploads.fcntl.LOCK_EX)
        uploads.remove_abandoned()
        assert spool() == [Path(file.name)]


# Many at once


def background(call):
    """Its result, once ``join`` of the thread is through."""
    results = []
    thread = threading.Thread(target=lambda: results.append(call()), daemon=True)
    thread.start()
    return thread, results


def test_a_clip_is_answered_while_a_long_recording_is_read(recogniser, said):
    # Hours are served in the order of what was served least, batch by batch: the clip is in the next one.
    with Running(recogniser) as server:
        server.slow.go.clear()
        long = np.tile(np.concatenate([SPEECH, np.zeros(toy.RATE, np.float32)]), 60)
        hour, answers = background(lambda: server.post({"file": recorded(long)}))
        until(lambda: server.app.state.engine._works and server.app.state.engine._works[0].ahead > 20 * toy.RATE)
        clip, short = background(lambda: server.post())
        until(lambda: len(server.app.state.engine._works) == 2 and server.app.state.engine._works[1].waiting)
        server.slow.go.set()
        clip.join(20)
        assert short[0].json()["text"] == said.text
        hour.join(60)
        assert answers[0].json()["text"] == recogniser.transcribe(recorded(long), vad=True).text


def test_clients_beyond_the_queue_stand_in_line_and_are_answered_in_their_order(recogniser, said):
    with Running(recogniser, queue=2, patience=60.0) as server:
        server.slow.go.clear()
        done = []

        def ask(number):
            answer = server.client().audio.transcriptions.create(file=("a.wav", recorded()), model="toy")
            done.append(number)
            return answer.text

        asked = []
        for number in range(8):
            asked.append(background(lambda number=number: ask(number)))
            until(lambda number=number: server.app.state.engine.standing == max(0, number - 1))
        assert server.metrics()["asr_queue"] == 2
        server.slow.go.set()
        for thread, texts in asked:
            thread.join(60)
            assert texts == [said.text]
        assert min(done.index(0), done.index(1)) < max(done.index(6), done.index(7))
        assert server.metrics()["asr_queue"] == 0


def test_a_client_that_leaves_the_line_takes_no_place(recogniser, said):
    with Running(recogniser, queue=1, patience=60.0) as server:
        server.slow.go.clear()
        first, answers = background(lambda: server.post())
        until(lambda: server.app.state.engine._works)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.url}/v1/audio/transcriptions", files={"file": recorded()}, timeout=0.2)
        server.slow.go.set()
        first.join(10)
        assert answers[0].json()["text"] == server.post().json()["text"] == said.text
        until(lambda: server.metrics()["asr_queue"] == 0)


def test_a_full_queue_says_when_to_come_back_and_openai_comes_back(recogniser, said):
    with Running(recogniser, queue=2, patience=0.05) as server:
        server.slow.go.clear()
        first = [background(lambda: server.post()) for _ in range(2)]
        until(lambda: server.metrics()["asr_queue"] == 2)
        refused = server.post()
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "queue_full")
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        patient, answers = background(
            lambda: server.client(retries=2).audio.transcriptions.create(file=("a.wav", recorded()), model="toy")
        )
        until(lambda: server.metrics()['asr_rejected_total{reason="queue_full"}'] == 2)
        server.slow.go.set()
        for thread, results in first:
            thread.join(10)
            assert results[0].status_code == 200
        patient.join(20)
        assert answers[0].text == said.text


def test_the_work_of_a_client_that_leaves_is_dropped(recogniser):
    with Running(recogniser) as server:
        server.slow.go.clear()
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.url}/v1/audio/transcriptions", files={"file": recorded()}, timeout=0.3)
        until(lambda: not server.app.state.engine._works, 1.0)
        assert server.metrics()["asr_queue"] == 0
        assert not spool()


def test_a_listener_of_deltas_that_leaves_is_dropped(recogniser):
    with Running(recogniser) as server:
        server.slow.go.clear()
        with (
            httpx.Client(base_url=server.url) as client,
            client.stream(
                "POST", "/v1/audio/transcriptions", files={"file": recorded()}, data={"stream": "true"}
            ) as answer,
        ):
            assert answer.headers["content-type"].startswith("text/event-stream")
        until(lambda: not server.app.state.engine._works and not spool(), 1.0)


def test_a_recording_that_the_network_fails_on_fails_alone(recogniser, said):
    with Running(recogniser) as server:
        emit = server.slow.network.emit

        def fussy(waveforms):
            if any(len(samples) > 20 * toy.RATE for samples in waveforms):
                raise RuntimeError("too much")
            return emit(waveforms)

        server.slow.network = type("Fussy", (), {"emit": staticmethod(fussy)})()
        tone = np.tile(toy.speak("abcabcabcabc"), 12)[: 25 * toy.RATE]
        answer = server.post({"file": recorded(tone)})
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
        assert server.post().json()["text"] == said.text


def test_health_and_readiness_tell_that_the_engine_died(recogniser):
    with Running(recogniser) as server:
        assert httpx.get(f"{server.url}/ready").status_code == 200
        server.slow.fail = True
        assert server.post().status_code == 500
        until(lambda: httpx.get(f"{server.url}/health").status_code == 503)
        assert httpx.get(f"{server.url}/ready").status_code == 503
        assert server.post().json()["error"]["code"] == "engine_dead"


def test_a_server_that_is_told_to_end_finishes_what_runs_and_refuses_the_rest(recogniser, said):
    with Running(recogniser) as server:
        server.slow.go.clear()
        running, answers = background(lambda: server.post())
        until(lambda: server.app.state.engine._works)
        server.server.handle_exit(15, None)
        with pytest.raises(httpx.TransportError):
            until(lambda: server.post().status_code != 503)
        server.slow.go.set()
        running.join(10)
        assert answers[0].json()["text"] == said.text
        server.thread.join(10)
        assert not server.thread.is_alive()


def test_what_does_not_end_in_time_is_told_so(recogniser):
    with Running(recogniser, drain=0.1) as server:
        server.slow.go.clear()
        running, answers = background(lambda: server.post())
        until(lambda: server.app.state.engine._works)
        server.server.handle_exit(15, None)
        running.join(10)
        assert (answers[0].status_code, answers[0].json()["error"]["code"]) == (503, "shutting_down")


# What is told of the server


def test_metrics_count_requests_audio_and_refusals(recogniser, said):
    with Running(recogniser) as server:
        server.post()
        server.post(data={"model": "none"})
        httpx.get(f"{server.url}/{'x' * 50}")
        counted = server.metrics()
    route = 'route="/v1/audio/transcriptions"'
    assert counted[f'asr_requests_total{{{route},status="200"}}'] == 1
    assert counted[f"asr_request_seconds_count{{{route}}}"] == 2
    assert counted['asr_requests_total{route="other",status="404"}'] == 1
    assert counted['asr_rejected_total{reason="model_not_found"}'] == 1
    assert 0 < counted["asr_audio_seconds_total"] < 2 * said.duration
    assert counted["asr_queue"] == 0


def test_the_openapi_document_tells_of_every_route(running):
    paths = httpx.get(f"{running.url}/openapi.json").json()["paths"]
    routes = {route.path.replace(":path", "") for route in running.app.routes if getattr(route, "methods", None)}
    assert {path for path in routes if path in paths or path.startswith("/v1/")} == set(paths)


@pytest.mark.parametrize("form", ["json", "verbose_json"])
def test_answers_are_what_the_openapi_document_says(running, form):
    post = document(["toy"])["paths"]["/v1/audio/transcriptions"]["post"]
    described = post["responses"]["200"]["content"]["application/json"]["schema"]["anyOf"][form == "json"]
    data = {"response_format": form, "include[]": "logprobs"}
    data |= {"timestamp_granularities[]": ["word", "segment"]} if form == "verbose_json" else {}
    check(running.post(data=data).json(), described)


def test_each_event_of_a_stream_is_one_that_the_openapi_document_says(running):
    post = document(["toy"])["paths"]["/v1/audio/transcriptions"]["post"]
    event = post["responses"]["200"]["content"]["text/event-stream"]["itemSchema"]
    kinds = event["properties"]["data"]["contentSchema"]["anyOf"]
    described = {kind["properties"]["type"]["const"]: kind for kind in kinds}
    whole = running.post(data={"stream": "true", "include[]": "logprobs"}).text
    broken = running.post({"file": ("a.wav", b"no audio")}, {"stream": "true"}).text
    told = []
    for sent in (whole + broken).removesuffix("\n\n").split("\n\n"):
        field, data = sent.split(": ", 1)
        check({field: data}, event)
        told.append(json.loads(data)["type"])
        check(json.loads(data), described[told[-1]])
    assert told == ["transcript.text.delta", "transcript.text.delta", "transcript.text.done", "error"]


def check(value, schema):
    """That a value is what a schema says, and has nothing that the schema does not name."""
    if schema.get("type") == "object":
        assert set(schema["required"]) <= value.keys() <= set(schema["properties"])
        for name, entry in value.items():
            check(entry, schema["properties"][name])
    elif schema.get("type") == "array":
        for entry in value:
            check(entry, schema["items"])
    elif "const" in schema:
        assert value == schema["const"]
    else:
        known = {"string": str, "integer": int, "number": int | float, "null": type(None)}
        kinds = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
        assert isinstance(value, tuple(known[kind] for kind in kinds))


# The server and its other rooms


def test_the_page_has_its_own_policy_and_no_foreign_host(running):
    page = httpx.get(running.url)
    assert page.headers["content-type"].startswith("text/html")
    assert "script-src 'self'" in page.headers["content-security-policy"]


def test_live_speech_goes_through_the_same_gate(running):
    url = running.url.replace("http", "ws") + "/v1/listen"
    with connect(url) as stream:
        stream.send((32767 * SPEECH).astype("<i2").tobytes())
        stream.send(json.dumps({"type": "finish"}))
        events = [json.loads(event) for event in stream]
    assert any(event.get("kind") == "final" for event in events)
    with pytest.raises(InvalidStatus), connect(url, additional_headers={"Host": "rebound.example.org"}):
        pass
    with pytest.raises(InvalidStatus), connect(url, origin="https://example.org"):
        pass


# The command


def test_the_command_serves_until_sigterm_and_says_where(tmp_path):
    model = toy.save_babbler(tmp_path / "babbler")
    command = Command("serve", "--model", f"mine={model}", "--port", "0", "--drain", "5")
    until(lambda: "listening at" in command.stderr(), 60)
    url = re.search(r"http://\S+:\d+", command.stderr())[0]
    assert [entry["id"] for entry in httpx.get(f"{url}/v1/models").json()["data"]] == ["mine"]
    command.kill(signal.SIGTERM)
    done = command.wait(30)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, b"asr serve: ended")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--host", "0.0.0.0"], "can be reached from other machines"),
        (["--api-key-file", "none.txt"], "cannot be read: No such file"),
        (["--api-key-file", "short.txt"], "holds no key"),
        (["--host", "no such host", "--insecure"], "cannot listen at no such host"),
        (["--model", "a=x", "--model", "a=y"], 'called "a"'),
    ],
    ids=["open", "no key", "short key", "host", "names"],
)
def test_the_command_refuses_in_a_sentence(tmp_path, options, sentence):
    (tmp_path / "short.txt").write_text("12345\n")
    done = run("serve", "--port", "0", *options, cwd=tmp_path)
    assert done.returncode == 1
    assert sentence in done.stderr.decode()
    assert len(done.stderr.splitlines()) == 1


def test_a_websocket_outlives_the_time_in_which_a_first_request_must_come(recogniser, monkeypatch):
    """It began as a request of the HTTP protocol, whose connection it has from then on."""
    from websockets.sync.client import connect

    from asr.serve import server as listening

    monkeypatch.setattr(listening, "FIRST_SECONDS", 0.05)
    with Running(recogniser) as server, connect(f"ws://127.0.0.1:{server.port}/v1/realtime") as socket:
        assert "session.created" in socket.recv(timeout=10)
        time.sleep(0.15)
        socket.send('{"type": "input_audio_buffer.clear"}')
        assert "input_audio_buffer.cleared" in socket.recv(timeout=10)


def has_node_package(name):
    """Node looks for it in NODE_PATH, and in node_modules of this folder and those above."""
    if shutil.which("node") is None:
        return False
    script = f"require.resolve({name!r})"
    return subprocess.run(["node", "-e", script], cwd=CLIENT.parent, capture_output=True).returncode == 0


CLIENT = Path(__file__).with_name("client.cjs")


@pytest.mark.skipif(
    not (has_node_package("openai") and has_node_package("ws") and shutil.which("openssl")),
    reason="needs openssl, node, and its packages: npm install openai ws, where NODE_PATH says",
)
def test_openais_package_for_node_gets_all_of_it_over_tls(recogniser, said, tmp_path):
    """Its live transcription insists on TLS."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "1"]
    options = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", *names, "-keyout", key, "-out", certificate]
    subprocess.run(["openssl", *options], check=True, capture_output=True)
    (tmp_path / "speech.wav").write_bytes(recorded())
    samples = np.repeat(SPEECH, 3)
    (tmp_path / "samples.pcm").write_bytes((32767 * samples).astype("<i2").tobytes())
    with Running(recogniser, certificate=certificate, key=key) as server:
        done = subprocess.run(
            ["node", CLIENT, server.url, tmp_path / "speech.wav", tmp_path / "samples.pcm"],
            env={**os.environ, "NODE_EXTRA_CA_CERTS": str(certificate)},
            capture_output=True,
            timeout=280,  # the first search with keywords may have to be compiled
        )
    assert done.returncode == 0, done.stderr.decode()
    got = json.loads(done.stdout)
    assert got["json"]["text"] == said.text
    assert (got["text"], got["srt"], got["vtt"]) == (said.text + "\n", said.to_srt() + "\n", said.to_vtt() + "\n")
    assert [(w["word"], w["start"], w["end"]) for w in got["verbose_json"]["words"]] == [
        (w.text, w.start, w.end) for w in said.words
    ]
    assert len(got["verbose_json"]["segments"]) == len(said.segments)
    *deltas, end = got["events"]
    assert "".join(event["delta"] for event in deltas) == end["text"] == said.text
    assert got["favoured"] == recogniser.transcribe(recorded(), vad=True, hotwords={"bcb": 60.0}).text
    assert got["models"] == ["toy", "other"]
    assert got["unknown"] == {"status": 404, "code": "model_not_found", "kind": "NotFoundError"}
    assert got["wrong"] == {"status": 400, "code": "invalid_value", "kind": "BadRequestError"}
    stream = recogniser.stream(sample_rate=24000)
    heard = [*stream.feed((32767 * samples).astype("<i2")).final, *stream.finish().final]
    assert "".join(got["realtime"]["deltas"]) == got["realtime"]["transcript"] == " ".join(w.text for w in heard)
    assert heard


CHROMIUM = next(filter(None, map(shutil.which, [os.environ.get("CHROMIUM", "chromium"), "google-chrome"])), None)


@pytest.mark.skipif(
    not (CHROMIUM and has_node_package("puppeteer-core")),
    reason="needs Chromium, at $CHROMIUM or as chromium, node, and npm install puppeteer-core, where NODE_PATH says",
)
def test_in_chromium_the_page_writes_what_is_said_and_plays_and_saves_a_recording(running, recogniser, said, tmp_path):
    """By the keyboard alone, in two widths, light and dark."""
    (tmp_path / "speech.wav").write_bytes(recorded())
    done = subprocess.run(
        ["node", CLIENT.with_name("page.cjs"), running.url, tmp_path / "speech.wav", tmp_path],
        env={**os.environ, "CHROMIUM": str(CHROMIUM)},
        capture_output=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr.decode()
    got = json.loads(done.stdout)
    assert not got["errors"]
    assert all(got["reached"].values())
    assert not any(got["outside"].values()), got["outside"]
    assert ["live", "log", "polite"] in got["roles"]
    # What a microphone gives is its own affair: on a busy machine Chromium's loses some.
    stream = recogniser.stream(sample_rate=got["said"]["rate"])
    heard = [*stream.feed(np.fromfile(tmp_path / "sent.f32", "<f4")).final, *stream.finish().final]
    assert " ".join(got["said"]["text"]) == " ".join(word.text for word in heard) != ""
    assert (got["played"]["word"], got["played"]["at"] >= said.words[-1].start) == (said.words[-1].text, True)
    saved = {form: (tmp_path / f"speech.{form}").read_text() for form in ("txt", "srt", "vtt", "json")}
    assert saved["txt"] == said.to_text() + "\n"
    assert (saved["srt"], saved["vtt"]) == (said.to_srt() + "\n", said.to_vtt() + "\n")
    assert [word for part in json.loads(saved["json"])["segments"] for word in part["words"]] == [
        {
            "text": word.text,
            "start": word.start,
            "end": word.end,
            "confidence": pytest.approx(word.confidence, abs=1e-3),
        }
        for word in said.words
    ]

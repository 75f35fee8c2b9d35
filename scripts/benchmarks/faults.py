"""`asr serve` under faults, over real sockets: what each client is told, and how much memory it costs.

    python scripts/benchmarks/faults.py --model asr/english clip.wav            (all)
    python scripts/benchmarks/faults.py --model asr/english clip.wav upload queue

Each fault prints a line; the exit code is 1 where one is not what it should be.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import httpx
import numpy as np
import openai
import soundfile
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from serve import Server, serving, wav

PATH = "/v1/audio/transcriptions"
KIND = {"Content-Type": "multipart/form-data; boundary=x"}
HEAD = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
FLOOD_SECONDS = 60
FAULTS: dict[str, Callable[..., str]] = {}


def fault(check: Callable[..., str]) -> Callable[..., str]:
    FAULTS[check.__name__] = check
    return check


def growth(server: Server, before: float) -> str:
    return f"memory {server.held - before:+.1f} MB"


def traceback_free(server: Server) -> None:
    assert server.log is not None
    log = server.log.read_text()
    assert "Traceback" not in log, log[-3000:]


@fault
def upload(model: str, clip: np.ndarray, rate: int) -> str:
    """1 GiB, in no WAV file that can be read: all of it is received."""
    with serving(model) as server:
        httpx.post(server.url + PATH, files={"file": wav(clip, rate)}, timeout=None)
        before, most, block = server.held, 0.0, bytes(1 << 20)

        def form():
            nonlocal most
            yield HEAD
            for _ in range(1023):
                yield block
                most = max(most, server.held)
            yield b"\r\n--x--\r\n"

        began, cost = time.monotonic(), server.processor_seconds
        answer = httpx.post(server.url + PATH, content=form(), headers=KIND, timeout=None)
        took, cost = time.monotonic() - began, server.processor_seconds - cost
        assert answer.status_code == 400, answer.text
        assert most - before < 50, most - before
        traceback_free(server)
        return f"1 GiB: memory {most - before:+.1f} MB at the most, {took:.1f} s, {cost:.1f} s of processor time"


@fault
def queue(model: str, clip: np.ndarray, rate: int) -> str:
    """30 of OpenAI's clients as they are, who try twice again, and ten places."""
    with serving(model, "--queue", "10") as server:

        def ask(_: int) -> str:
            client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
            try:
                client.audio.transcriptions.create(file=("a.wav", wav(clip, rate)), model=Path(model).name)
            except openai.APIStatusError as error:
                return str(error)
            return ""

        began = time.monotonic()
        with ThreadPoolExecutor(30) as threads:
            failed = [answer for answer in threads.map(ask, range(30)) if answer]
        refused = re.search(r'rejected_total\{reason="queue_full"\} (\S+)', httpx.get(f"{server.url}/metrics").text)
        assert not failed, failed
        turned = refused[1] if refused else "0"
        return f"30 clients, 10 places: all answered in {time.monotonic() - began:.1f} s, {turned} times told to wait"


@fault
def hour(model: str, clip: np.ndarray, rate: int) -> str:
    """Clips of 3 s while an hour is read."""
    with serving(model) as server, ThreadPoolExecutor(1) as thread:
        long = wav(np.resize(clip, 3600 * rate), rate)
        whole = thread.submit(httpx.post, server.url + PATH, files={"file": long}, timeout=None)
        while "asr_audio_seconds_total 0.0" in (page := httpx.get(f"{server.url}/metrics").text):
            assert not whole.done(), whole.result().text
            time.sleep(0.2)
        del page
        took = []
        short = wav(np.resize(clip, 3 * rate), rate)
        while len(took) < 5 and not whole.done():
            began = time.monotonic()
            httpx.post(server.url + PATH, files={"file": short}, timeout=None).raise_for_status()
            took.append(time.monotonic() - began)
        os.kill(server.process or 0, signal.SIGTERM)
        with contextlib.suppress(httpx.HTTPError):
            whole.result()
        return f"3 s while an hour is read: answered in {', '.join(f'{each:.2f}' for each in took)} s"


@fault
def mutated(model: str, clip: np.ndarray, rate: int, requests: int = 5000) -> str:
    """Forms with octets left out, put in or changed."""
    draw = random.Random(0)
    fields = b"".join(
        b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % pair
        for pair in [(b"response_format", b"verbose_json"), (b"timestamp_granularities[]", b"word"), (b"prompt", b"a")]
    )
    form = fields + HEAD + wav(clip[: rate // 4], rate) + b"\r\n--x--\r\n"
    with serving(model) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        client.post(PATH, content=form, headers=KIND).raise_for_status()
        counted: dict[int, int] = {}
        before = server.held
        for number in range(requests):
            if number == requests // 10:
                before = server.held  # what a first few hundred need is kept for good
            broken = bytearray(form)
            for _ in range(draw.randint(1, 8)):
                at = draw.randrange(len(fields) + 200) if draw.random() < 0.7 else draw.randrange(len(broken))
                put = draw.choice([b"", b"\r\n", b"--x", b"\0", b"\xff", b'"', bytes([draw.randrange(256)])])
                broken[at : at + draw.randint(0, 3)] = put
            answer = client.post(PATH, content=bytes(broken), headers=KIND)
            counted[answer.status_code] = counted.get(answer.status_code, 0) + 1
            assert answer.status_code < 500, answer.text
            document = answer.json() if "json" in answer.headers["content-type"] else {}
            assert document.get("error", {}).get("message") or answer.status_code == 200, answer.text
        assert server.held - before < 20, server.held - before
        traceback_free(server)
        return f"{requests} mutated forms: {counted}, {growth(server, before)}"


@fault
def killed(model: str, clip: np.ndarray, rate: int) -> str:
    """SIGKILL while a recording is sent: what it left is gone when the next one has begun."""
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.suppress(httpx.HTTPError), serving(model, environment={"TMPDIR": folder}) as server:

            def form():
                yield HEAD + wav(clip, rate) + bytes(2 << 20)
                while not list(Path(folder).glob("asr-upload-*")):
                    time.sleep(0.05)
                    yield b"0"
                os.kill(server.process or 0, signal.SIGKILL)
                for _ in range(100):
                    yield bytes(1 << 20)

            httpx.post(server.url + PATH, content=form(), headers=KIND, timeout=None)
        left = len(list(Path(folder).glob("asr-upload-*")))
        with serving(model, environment={"TMPDIR": folder}) as server:
            after = len(list(Path(folder).glob("asr-upload-*")))
            httpx.post(server.url + PATH, files={"file": wav(clip, rate)}, timeout=None).raise_for_status()
    assert (left, after) == (1, 0)
    return "SIGKILL during an upload: it left one file, which the next server removed, and that one answers"


@fault
def disk(model: str, clip: np.ndarray, rate: int) -> str:
    """A full disk: needs root, for a file system of 4 MB."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True)
        if done.returncode:
            return "a full disk: not tried, no right to mount one"
        try:
            with serving(model, environment={"TMPDIR": folder}) as server:
                answer = httpx.post(server.url + PATH, files={"file": bytes(8 << 20)}, timeout=None)
                error = answer.json()["error"]
                assert (answer.status_code, error["code"]) == (503, "storage"), answer.text
                assert not (left := list(Path(folder).iterdir())), left
                httpx.post(server.url + PATH, files={"file": wav(clip, rate)}, timeout=None).raise_for_status()
                traceback_free(server)
        finally:
            subprocess.run(["umount", folder], check=True)
    return f"a full disk: 503, {error['message']!r}; the next clip is answered"


@fault
def flood(model: str, clip: np.ndarray, rate: int) -> str:
    """A live stream at 50 times the speed of speech."""
    with serving(model) as server:
        url = f"{server.url.replace('http', 'ws', 1)}/v1/listen?sample_rate={rate}"
        seconds = [second.tobytes() for second in np.array_split(clip, len(clip) // rate)]

        async def one() -> None:
            async with connect(url) as socket:
                for second in seconds:
                    await socket.send(second)
                await socket.send('{"type": "finish"}')
                async for _ in socket:
                    pass

        asyncio.run(one())  # the first stream loads what all of them read with
        before = server.held

        async def run() -> tuple[float, float, int]:
            most, sent = 0.0, 0
            async with connect(url, max_size=None) as socket:

                async def read() -> None:
                    with contextlib.suppress(ConnectionClosed):
                        async for _ in socket:
                            pass

                reading, began = asyncio.create_task(read()), time.monotonic()
                with contextlib.suppress(ConnectionClosed, TimeoutError):
                    while (now := time.monotonic() - began) < FLOOD_SECONDS:
                        await asyncio.wait_for(socket.send(seconds[sent % len(seconds)]), FLOOD_SECONDS - now)
                        sent += 1
                        await asyncio.sleep(max(0.0, sent / 50 - (time.monotonic() - began)))
                        most = max(most, server.held)
                most = max(most, server.held)
                reading.cancel()
                return most, sent, socket.close_code or 0

        most, sent, code = asyncio.run(run())
        assert most - before < 20, most - before
        traceback_free(server)
        end = f"closed with {code}" if code else "still open"
        return (
            f"a flood: {sent} s of {50 * FLOOD_SECONDS} taken in {FLOOD_SECONDS} s, {end}, "
            f"memory {most - before:+.1f} MB at the most"
        )


@fault
def deaf(model: str, _clip: np.ndarray, _rate: int) -> str:
    """A client that sends and never reads, through a small window, until the server has had enough."""
    with serving(model) as server:
        before, port = server.held, int(server.url.rsplit(":", 1)[1])
        with socket.socket() as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            raw.connect(("127.0.0.1", port))
            raw.sendall(
                b"GET /v1/realtime HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            event = json.dumps({"type": "nonsense" * 12}).encode()
            frame = b"\x81" + bytes([0x80 | len(event)]) + bytes(4) + event
            raw.settimeout(60)
            began = time.monotonic()
            most, sent = 0.0, 0
            with contextlib.suppress(OSError):
                while time.monotonic() - began < 120:
                    sent += raw.send(frame * 500)
                    most = max(most, server.held)
        assert httpx.get(f"{server.url}/health").status_code == 200
        assert most - before < 60, most - before
        traceback_free(server)
        took = time.monotonic() - began
        return f"a client that never reads: let go after {took:.0f} s, {sent:,} bytes taken, {growth(server, before)}"


@fault
def halves(model: str, clip: np.ndarray, rate: int) -> str:
    """Half-closed sockets: a client that has sent all and closes its sending half gets its answer, or is gone."""
    with serving(model) as server:
        port, form = int(server.url.rsplit(":", 1)[1]), HEAD + wav(clip, rate) + b"\r\n--x--\r\n"
        head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {KIND['Content-Type']}\r\n"
        answers = []
        for part in (len(form), len(form) // 2, 0):
            with socket.create_connection(("127.0.0.1", port)) as raw:
                raw.sendall(f"{head}Content-Length: {len(form)}\r\n\r\n".encode() + form[:part])
                raw.shutdown(socket.SHUT_WR)
                raw.settimeout(60)
                answers.append(raw.recv(12).decode() or "closed")
        for _ in range(200):
            socket.create_connection(("127.0.0.1", port)).close()
        while "asr_queue 0.0" not in httpx.get(f"{server.url}/metrics").text:
            time.sleep(0.1)
        traceback_free(server)
        return f"half-closed after all, half and nothing of a form: {', '.join(answers)}; nothing is left in the queue"


@click.command()
@click.argument("clip", type=click.Path(exists=True))
@click.argument("faults", nargs=-1, type=click.Choice(list(FAULTS)))
@click.option("--model", default="asr/english", show_default=True)
def main(clip: str, faults: tuple[str, ...], model: str) -> None:
    """What becomes of a server under FAULTS, by default all of them."""
    samples, rate = soundfile.read(clip, dtype="int16")
    failed = 0
    for name in faults or FAULTS:
        try:
            click.echo(f"{name}: {FAULTS[name](model, samples, rate)}")
        except AssertionError as error:
            failed += 1
            click.echo(f"{name}: FAILED: {error}")
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()

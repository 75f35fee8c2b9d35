"""What `asr serve` carries, over real sockets: live streams at the speed of speech, files by many clients, a soak.

    python scripts/benchmarks/serve.py live --model asr/english clip.wav --streams 8 --streams 40
    python scripts/benchmarks/serve.py files --model asr/english clip.wav --clients 1 --clients 8 --clients 32
    python scripts/benchmarks/serve.py soak --model asr/english clip.wav --requests 10000

Each starts a server of its own, or asks the one at --url, whose processor time and memory are then not seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import httpx
import numpy as np
import soundfile
from websockets.asyncio.client import connect

PIECE_SECONDS = 0.2
"""Of audio in a live client's message."""


@dataclass(frozen=True)
class Server:
    """Where it is, and its process and log, None being another's."""

    url: str
    process: int | None = None
    log: Path | None = None

    @property
    def processor_seconds(self) -> float:
        """Of all its threads."""
        if self.process is None:
            return float("nan")
        fields = Path(f"/proc/{self.process}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def memory(self) -> float:
        """Resident, in MB."""
        return self._resident("VmRSS")

    @property
    def held(self) -> float:
        """Resident, in MB, but for pages of files, which the kernel takes back where it lacks: a language model is
        mapped, and its pages are read as words are met."""
        return self._resident("RssAnon")

    def _resident(self, kind: str) -> float:
        if self.process is None:
            return float("nan")
        return int(re.search(rf"{kind}:\s+(\d+)", Path(f"/proc/{self.process}/status").read_text())[1]) / 1000


@contextlib.contextmanager
def serving(model: str, *options: str, environment: dict[str, str] | None = None) -> Iterator[Server]:
    """A server of its own at a free port, which is ready; its scratch files and its log are in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w") as said:
        command = [sys.executable, "-m", "asr", "serve", "--model", model, "--port", "0", *options]
        variables = {**os.environ, "TMPDIR": folder, **(environment or {})}
        process = subprocess.Popen(command, stderr=said, env=variables)
        log = Path(said.name)
        try:
            while not (found := re.search(r"https?://\S+:\d+", log.read_text())):
                if process.poll() is not None:
                    raise click.ClickException(log.read_text())
                time.sleep(0.1)
            server = Server(found[0], process.pid, log)
            while httpx.get(f"{server.url}/ready", verify=False).status_code != 200:
                time.sleep(0.1)
            yield server
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def given(url: str | None, model: str, *options: str) -> contextlib.AbstractContextManager[Server]:
    return serving(model, *options) if url is None else contextlib.nullcontext(Server(url))


def wav(samples: np.ndarray, rate: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


@click.group()
def main() -> None:
    """What a server carries."""


# Live


@dataclass(frozen=True)
class Heard:
    """Of one stream: each word's ``delays`` in seconds, from when its end was sent to when it was first shown, and the
    final ``words``."""

    delays: list[float]
    words: list[str]


async def speak(url: str, samples: np.ndarray, rate: int, begin: float) -> Heard:
    """One client, who speaks ``samples`` (S,) int16 from the moment ``begin`` of the loop's clock on."""
    loop = asyncio.get_running_loop()
    shown: list[float] = []
    words: list[dict] = []

    async def listen() -> None:
        async for message in socket:
            event, now = json.loads(message), loop.time()
            if event["kind"] == "final":
                words.extend(event["words"])
            known = words + (event["words"] if event["kind"] == "partial" else [])
            shown.extend([now] * (len(known) - len(shown)))

    await asyncio.sleep(max(0.0, begin - loop.time()))
    async with connect(f"{url.replace('http', 'ws', 1)}/v1/listen?sample_rate={rate}", max_size=None) as socket:
        listening = asyncio.create_task(listen())
        begin, step = loop.time(), round(PIECE_SECONDS * rate)
        for first in range(0, len(samples), step):
            piece = samples[first : first + step]
            await asyncio.sleep(max(0.0, begin + (first + len(piece)) / rate - loop.time()))
            await socket.send(piece.tobytes())
        await socket.send('{"type": "finish"}')
        await listening
    return Heard(
        [at - begin - word["end"] for at, word in zip(shown, words, strict=False)], [word["text"] for word in words]
    )


async def speak_all(url: str, samples: np.ndarray, rate: int, streams: int) -> list[Heard]:
    """All at once, their beginnings spread over a second."""
    now = asyncio.get_running_loop().time()
    return await asyncio.gather(*(speak(url, samples, rate, now + i / streams) for i in range(streams)))


@main.command()
@click.argument("clip", type=click.Path(exists=True))
@click.option("--model", default="asr/english", show_default=True)
@click.option("--url", help="Of a server that runs.")
@click.option("--streams", multiple=True, type=int, default=(1, 8, 16, 40), show_default=True)
@click.option("--seconds", default=20.0, show_default=True, help="The clip is repeated, or cut, to as many.")
@click.option("--server", "options", multiple=True, help="An option of asr serve, --server=--engine --server=torch.")
def live(clip: str, model: str, url: str | None, streams: Sequence[int], seconds: float, options: list[str]) -> None:
    """Streams at the speed of speech: how late words are shown, and what they cost."""
    samples, rate = soundfile.read(clip, dtype="int16")
    samples = np.resize(samples, round(seconds * rate))
    with given(url, model, "--streams", str(max(streams)), *options) as server:
        asyncio.run(speak_all(server.url, samples[: 2 * rate], rate, 1))  # what is loaded with the first stream
        expected = None
        for number in streams:
            before, began = server.processor_seconds, time.monotonic()
            heard = asyncio.run(speak_all(server.url, samples, rate, number))
            cost, took = server.processor_seconds - before, time.monotonic() - began
            delays = [delay for each in heard for delay in each.delays]
            expected = expected or heard[0].words
            same = sum(each.words == expected for each in heard)
            middle, late = np.quantile(delays, [0.5, 0.95])
            click.echo(
                f"{number} streams of {seconds:g} s in {took:.1f} s: word delay {middle:.2f} s, p95 {late:.2f} s; "
                f"{cost / number / seconds * 100:.2f} % of a core each, {number * seconds / cost:.0f} a core by "
                f"processor time; {same} of {number} alike; {server.memory:.0f} MB"
            )


# Files


def load(url: str, recording: bytes, clients: int, requests: int) -> list[float]:
    """``requests`` of ``clients`` at once, each one after the other, and how long each took."""

    async def run() -> list[float]:
        took, left = [], iter(range(requests))

        async def client() -> None:
            async with httpx.AsyncClient(base_url=url, timeout=None) as http:
                for _ in left:
                    began = time.monotonic()
                    while True:
                        answer = await http.post("/v1/audio/transcriptions", files={"file": ("a.wav", recording)})
                        if answer.status_code != 503:
                            break
                        await asyncio.sleep(float(answer.headers["retry-after"]))
                    answer.raise_for_status()
                    took.append(time.monotonic() - began)

        await asyncio.gather(*(client() for _ in range(clients)))
        return took

    return asyncio.run(run())


@main.command()
@click.argument("clip", type=click.Path(exists=True))
@click.option("--model", default="asr/english", show_default=True)
@click.option("--url", help="Of a server that runs, of ours or of others.")
@click.option("--clients", multiple=True, type=int, default=(1, 8, 32), show_default=True)
@click.option("--requests", default=64, show_default=True, help="In all, for each number of clients.")
@click.option("--server", "options", multiple=True, help="An option of asr serve.")
def files(clip: str, model: str, url: str | None, clients: Sequence[int], requests: int, options: list[str]) -> None:
    """Recordings by many clients: audio seconds a second, and a second of processor time."""
    samples, rate = soundfile.read(clip, dtype="int16")
    recording, seconds = wav(samples, rate), len(samples) / rate
    with given(url, model, "--queue", str(max(clients)), *options) as server:
        load(server.url, recording, 1, 1)
        for number in clients:
            before, began = server.processor_seconds, time.monotonic()
            took = load(server.url, recording, number, requests)
            cost, whole = server.processor_seconds - before, time.monotonic() - began
            click.echo(
                f"{number} clients, {requests} clips of {seconds:.1f} s: {requests * seconds / whole:.1f} audio s/s, "
                f"{requests * seconds / cost:.1f} a second of processor time; answered in {np.median(took):.2f} s, p95 "
                f"{np.quantile(took, 0.95):.2f} s; {server.memory:.0f} MB"
            )


@main.command()
@click.argument("clip", type=click.Path(exists=True))
@click.option("--model", default="asr/english", show_default=True)
@click.option("--requests", default=10_000, show_default=True)
@click.option("--clients", default=8, show_default=True)
@click.option("--seconds", default=1.0, show_default=True, help="Of the clip in a request.")
def soak(clip: str, model: str, requests: int, clients: int, seconds: float) -> None:
    """Many small requests: memory after each tenth."""
    samples, rate = soundfile.read(clip, dtype="int16", frames=round(seconds * soundfile.info(clip).samplerate))
    with serving(model, "--queue", str(clients)) as server:
        for part in range(11):
            if part:
                load(server.url, wav(samples, rate), clients, requests // 10)
            click.echo(f"after {part * (requests // 10)} requests: {server.memory:.1f} MB")


if __name__ == "__main__":
    main()

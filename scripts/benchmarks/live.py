"""Streams: error rate against latency, and a long one's time and memory."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

import asr
from asr import runtime
from asr.score.edits import word_errors
from asr.transcribe import live as defaults
from asr.transcribe.recogniser import Recogniser
from recordings import Clip, read_clips
from timing import device_option, json_option, manifest_argument, model_argument, report

PIECE_SECONDS = 0.1
"""Of audio that the long stream is fed with at a time."""


@click.command()
@model_argument
@manifest_argument
@click.option(
    "--settings",
    default="0.2:0 0.2:0.2 0.2:0.4 0.4:0.4 0.4:0.8 0.8:0.8 1.6:1.6 3:3",
    show_default=True,
    help="Chunk and context of each row, in seconds.",
)
@click.option("--minutes", type=click.FloatRange(min=2), default=30.0, show_default=True, help="Of the long stream.")
@device_option
@json_option
def main(model: Path, manifest: Path, settings: str, minutes: float, device: str, path: Path | None) -> None:
    """Each clip of MANIFEST as a stream of its own, against the clips read whole; then all of them in one long stream,
    fed 0.1 s at a time with the default chunk and context."""
    recogniser = asr.load(model, device=device)
    rate = recogniser.recipe.features.sample_rate
    clips = read_clips([manifest], rate)
    click.echo(f"{model}, {manifest}: {len(clips)} clips, {sum(len(clip.samples) for clip in clips) / rate:.0f} s")
    click.echo("  chunk:context  latency at most, substituted, deleted, inserted, real-time factor")
    figures: dict[str, Any] = {
        "whole": _score("whole", None, clips, rate, lambda clip: recogniser.transcribe(clip, sample_rate=rate).text)
    }
    for name in settings.split():
        chunk, context = map(float, name.split(":"))
        latency = recogniser.stream(chunk=chunk, context=context).latency
        figures[name] = _score(name, latency, clips, rate, _streamed(recogniser, chunk, context))
    figures["stream"] = _stream_long(recogniser, clips, minutes)
    first, last = figures["stream"]["milliseconds_a_chunk"]
    report(figures, last / first, "time a chunk in the last tenth over that in the first", path)


def _streamed(recogniser: Recogniser, chunk: float, context: float) -> Callable[[np.ndarray], str]:
    def read(clip: np.ndarray) -> str:
        stream = recogniser.stream(chunk=chunk, context=context)
        return " ".join(word.text for heard in (stream.feed(clip), stream.finish()) for word in heard.final)

    return read


def _score(
    name: str, latency: float | None, clips: list[Clip], rate: int, read: Callable[[np.ndarray], str]
) -> dict[str, Any]:
    began = time.perf_counter()
    errors = word_errors([clip.text for clip in clips], [read(clip.samples) for clip in clips])
    factor = (time.perf_counter() - began) / (sum(len(clip.samples) for clip in clips) / rate)
    late = "" if latency is None else f"{latency:.2f} s"
    click.echo(
        f"  {name:14} {late:>7}  WER {errors.rate:6.2%}  {errors.substitutions:3} {errors.deletions:3} "
        f"{errors.insertions:3}  {factor:.3f}"
    )
    return {"latency": latency, "wer": errors.rate, "real_time_factor": factor}


def _stream_long(recogniser: Recogniser, clips: list[Clip], minutes: float) -> dict[str, Any]:
    """The clips, again and again, in one stream: errors, resident memory by the minute, time a chunk at both ends."""
    rate = recogniser.recipe.features.sample_rate
    stream, piece = recogniser.stream(), round(PIECE_SECONDS * rate)
    times, memory, segments, length = [], [], 0, 0
    found: list[str] = []
    expected: list[str] = []
    for clip in itertools.cycle(clips):
        expected.append(clip.text)
        for start in range(0, len(clip.samples), piece):
            began = time.process_time()
            heard = stream.feed(clip.samples[start : start + piece])
            times.append(time.process_time() - began)
            segments += len(heard.segments)
            found += [word.text for word in heard.final]
            if len(times) % 600 == 0:
                memory.append(_resident())
        length += len(clip.samples)
        if length >= minutes * 60 * rate:
            break
    found += [word.text for word in stream.finish().final]
    errors = word_errors([" ".join(expected)], [" ".join(found)])
    pieces_a_chunk, tenth = max(1, round(defaults.CHUNK_SECONDS / PIECE_SECONDS)), len(times) // 10
    first, last = (1e3 * pieces_a_chunk * statistics.mean(part) for part in (times[:tenth], times[-tenth:]))
    click.echo(
        f"  {length / rate / 60:.1f} min in one stream, chunk {defaults.CHUNK_SECONDS} s, context "
        f"{defaults.CONTEXT_SECONDS} s: WER {errors.rate:.2%}, {segments} utterances"
    )
    click.echo(
        f"    resident memory after 1 min {memory[0]:.0f} MB, in the middle {memory[len(memory) // 2]:.0f} MB, at the "
        f"end {memory[-1]:.0f} MB; processor time a chunk {first:.1f} ms in the first tenth, {last:.1f} ms in the last"
    )
    return {
        "minutes": length / rate / 60,
        "wer": errors.rate,
        "memory": memory,
        "milliseconds_a_chunk": [first, last],
        "segments": segments,
    }


def _resident() -> float:
    """Megabytes."""
    return runtime.resident_memory() / 1e6

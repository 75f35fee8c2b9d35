"""Error rates of clips with silence around them, and at other levels."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

import asr
from asr.records import AlignedWord
from asr.score.edits import word_errors
from asr.transcribe.recogniser import Recogniser
from recordings import Clip, read_clips
from timing import device_option, json_option, manifest_argument, model_argument, report

Read = Callable[[np.ndarray], str]
Change = Callable[[np.ndarray], np.ndarray]


@click.command()
@model_argument
@manifest_argument
@device_option
@json_option
def main(model: Path, manifest: Path, device: str, path: Path | None) -> None:
    """The clips of MANIFEST as they are, at other levels, and with silence or a room's noise around them, read whole
    and as streams; and aligned with their own text, as they are and with ten seconds more."""
    recogniser = asr.load(model, device=device)
    clips = read_clips([manifest], recogniser.recipe.features.sample_rate)
    figures: dict[str, Any] = {}
    for name, (read, change) in _changes(recogniser).items():
        errors = word_errors([clip.text for clip in clips], [read(change(clip.samples)) for clip in clips])
        figures[name] = {"wer": errors.rate, "errors": errors.errors, "words": errors.reference_length}
        click.echo(
            f"  {name:38} WER {errors.rate:6.2%}  {errors.substitutions:3} {errors.deletions:3} {errors.insertions:3}"
        )
    worst = max(row["wer"] for row in figures.values())
    ratio = worst / max(figures["clean"]["wer"], 1e-9)
    report({**figures, **_align(recogniser, clips)}, ratio, "the worst error rate over the clean one", path)


def _changes(recogniser: Recogniser) -> dict[str, tuple[Read, Change]]:
    """What is done to a clip, and how it is then read."""
    rate = recogniser.recipe.features.sample_rate
    random = np.random.default_rng(0)

    def around(clip: np.ndarray, before: float, after: float, decibels: float | None = None) -> np.ndarray:
        return surrounded(clip, before, after, decibels, rate=rate, random=random)

    def whole(samples: np.ndarray) -> str:
        return recogniser.transcribe(samples, sample_rate=rate).text

    def streamed(samples: np.ndarray) -> str:
        stream = recogniser.stream()
        pieces = np.split(samples, range(rate // 10, len(samples), rate // 10))
        return " ".join(word.text for heard in (*map(stream.feed, pieces), stream.finish()) for word in heard.final)

    return {
        "clean": (whole, lambda clip: clip),
        "10 s of silence on both sides": (whole, lambda clip: around(clip, 10, 10)),
        "30 s of silence on both sides": (whole, lambda clip: around(clip, 30, 30)),
        "0.5 s before, 3 s after": (whole, lambda clip: around(clip, 0.5, 3)),
        "-20 dB": (whole, lambda clip: clip * np.float32(0.1)),
        "-40 dB": (whole, lambda clip: clip * np.float32(0.01)),
        "+10 dB": (whole, lambda clip: clip * np.float32(10**0.5)),
        "-40 dB, in 16 bits": (whole, lambda clip: np.round(clip * 327.68).astype(np.int16)),
        "+10 dB, clipped in 16 bits": (whole, lambda clip: np.clip(clip * 103621, -32768, 32767).astype(np.int16)),
        "10 s of noise at -50 dB": (whole, lambda clip: around(clip, 10, 10, -50)),
        "10 s of noise at -30 dB": (whole, lambda clip: around(clip, 10, 10, -30)),
        "stream": (streamed, lambda clip: clip),
        "stream after 60 s of silence": (streamed, lambda clip: around(clip, 60, 0)),
        "stream after 60 s of noise at -30 dB": (streamed, lambda clip: around(clip, 60, 0, -30)),
        "stream, 10 s of silence on both sides": (streamed, lambda clip: around(clip, 10, 10)),
    }


def surrounded(
    clip: np.ndarray, before: float, after: float, decibels: float | None, *, rate: int, random: np.random.Generator
) -> np.ndarray:
    """With seconds of digital silence, or of noise so far below the clip's own level."""
    level = 0.0 if decibels is None else clip.std() * 10 ** (decibels / 20)
    parts = [level * random.standard_normal(round(seconds * rate)) for seconds in (before, after)]
    return np.concatenate([parts[0], clip, parts[1]]).astype(np.float32)


def _align(recogniser: Recogniser, clips: list[Clip]) -> dict[str, Any]:
    """The clips' own words, as they are and with ten seconds of silence: how many are lost, how far the others move."""
    rate, random = recogniser.recipe.features.sample_rate, np.random.default_rng(0)
    plain = [recogniser.align(clip.samples, clip.text, sample_rate=rate).words for clip in clips]
    missing = sum(not word.found for words in plain for word in words)
    click.echo(f"  aligned: {missing} of {sum(map(len, plain))} words not found")
    figures: dict[str, Any] = {}
    for before, after in ((0, 10), (10, 0)):
        pairs: list[tuple[AlignedWord, AlignedWord]] = []
        for clip, words in zip(clips, plain, strict=True):
            samples = surrounded(clip.samples, before, after, None, rate=rate, random=random)
            pairs += zip(words, recogniser.align(samples, clip.text, sample_rate=rate).words, strict=True)
        lost, starts, ends = _moves(pairs, before)
        figures[f"align, {before} s before and {after} s after"] = {"lost": lost, "shifts": starts}
        click.echo(
            f"  aligned with {before} s before and {after} s after: {lost} words lost; starts moved by "
            f"{1e3 * statistics.mean(starts):.1f} ms on average, {np.mean(np.array(starts) > 0.05):.1%} by more than "
            f"50 ms, ends by {1e3 * statistics.mean(ends):.1f} ms"
        )
    return figures


def _moves(pairs: list[tuple[AlignedWord, AlignedWord]], later: float) -> tuple[int, list[float], list[float]]:
    """Of words and the same words ``later`` by so many seconds: those lost, and how far starts and ends moved."""
    lost, starts, ends = 0, [], []
    for word, again in pairs:
        if word.start is None or again.start is None or word.end is None or again.end is None:
            lost += word.found and not again.found
            continue
        starts.append(abs(again.start - later - word.start))
        ends.append(abs(again.end - later - word.end))
    return lost, starts, ends

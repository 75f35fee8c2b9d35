"""Long recordings made of manifests' clips, whose words and places are known, for `long` and `speed`.

A clip is followed by another with a pause of silence or noise between them. All of it is the same at every run.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import soundfile

from asr import audio

RATE = 16000
SHORTEST_PAUSE_SECONDS = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """An utterance: its ``samples`` (S,), its text, and the manifest that it stands in."""

    id: str
    samples: np.ndarray
    text: str
    manifest: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Concatenation:
    """A recording of ``seconds``: which clip comes where. ``begins`` are the clips' own and ``middles`` those of
    the pauses before them, in seconds."""

    chosen: list[int]
    begins: list[float]
    middles: list[float]
    seconds: float


def read_clips(manifests: Sequence[Path], sample_rate: int = RATE) -> list[Clip]:
    """The clips of manifests of JSON lines, whole, resampled to ``sample_rate``; without an id, by their paths, as `asr
    score` names them."""
    return [
        Clip(
            id=row.get("id") or row["audio_filepath"],
            samples=audio.read(manifest.parent / row["audio_filepath"], sample_rate=sample_rate).samples,
            text=row["text"],
            manifest=manifest,
        )
        for manifest in manifests
        for row in map(json.loads, manifest.read_text().splitlines())
    ]


def pauses(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say how a long recording is made of clips."""
    for option in (
        click.option("--level", default=-60.0, show_default=True, help="Of the noise, dB; AN4's own is -67."),
        click.option("--noise", type=click.Path(path_type=Path), help="Noises for every other pause; else white."),
        click.option("--pause", default=3.0, show_default=True, help="The longest between two clips, seconds."),
        click.option("--minutes", default=10.0, show_default=True),
    ):
        command = option(command)
    return command


def concatenate(
    clips: Sequence[Clip], path: Path, *, minutes: float, pause: float = 3.0, noise: Path | None, level: float
) -> Concatenation:
    """Writes clips in random order, again and again, until ``minutes`` are full. A pause lasts ``pause`` seconds at the
    most; every other one holds a noise of the folder ``noise``, None being white noise, at ``level`` dB.

    Raises click.UsageError where ``noise`` is no folder or holds no sound.
    """
    draw, generator = random.Random(0), np.random.default_rng(0)
    if noise and not noise.is_dir():
        raise click.UsageError(f"{noise} is no folder of noises")
    files = sorted(audio.recordings_below(noise)) if noise else []
    if noise and not files:
        raise click.UsageError(f"{noise} holds no sound file; without --noise, pauses hold white noise")
    noises = [audio.read(file, sample_rate=RATE).samples for file in files]

    def between(number: int) -> np.ndarray:
        samples = round(draw.uniform(SHORTEST_PAUSE_SECONDS, max(SHORTEST_PAUSE_SECONDS, pause)) * RATE)
        if number % 2:
            return np.zeros(samples, np.float32)
        sound = np.resize(draw.choice(noises), samples) if noises else generator.standard_normal(samples)
        return (sound * 10 ** (level / 20) / max(1e-6, np.sqrt(np.mean(sound**2)))).astype(np.float32)

    order = list(range(len(clips)))
    chosen: list[int] = []
    begins, middles = [], []
    length = 0
    with soundfile.SoundFile(path, "w", RATE, 1) as file:
        while length < minutes * 60 * RATE:
            if len(chosen) % len(order) == 0:
                draw.shuffle(order)
            gap, i = between(len(chosen)), order[len(chosen) % len(order)]
            chosen.append(i)
            middles.append((length + len(gap) / 2) / RATE)
            begins.append((length + len(gap)) / RATE)
            file.write(gap)
            file.write(clips[i].samples)
            length += len(gap) + len(clips[i].samples)
    return Concatenation(chosen=chosen, begins=begins, middles=middles, seconds=length / RATE)

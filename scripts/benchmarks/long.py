"""A long recording made of clips, beside the clips one by one."""

from __future__ import annotations

import bisect
import dataclasses
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np

import asr
from asr.records import ErrorCounts, Transcript
from asr.score.edits import word_errors
from recordings import RATE, Clip, Concatenation, concatenate, pauses, read_clips
from timing import json_option, model_argument, report, run_asr

Words = list[dict[str, Any]]
"""As `asr transcribe --format json` writes them."""


@click.command()
@model_argument
@click.argument("manifests", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="MANIFEST...")
@pauses
@click.option("--options", default="", help="More for asr transcribe: --no-vad.")
@json_option
def main(
    model: Path,
    manifests: tuple[Path, ...],
    minutes: float,
    pause: float,
    noise: Path | None,
    level: float,
    options: str,
    path: Path | None,
) -> None:
    """A recording of the MANIFESTs' clips, again and again, with silence or noise between them, by `asr transcribe` in
    a process of its own: word errors beside those of the clips one by one, drift, time, memory.

    Words are compared clip by clip: those that begin between the middles of the pauses around it. The interval is a
    bootstrap's over clips, all of whose occurrences are drawn together.
    """
    clips = read_clips(manifests)
    recogniser = asr.load(model)
    alone = [recogniser.transcribe(clip.samples, sample_rate=RATE) for clip in clips]
    with tempfile.TemporaryDirectory() as folder:
        recording = Path(folder) / "long.flac"
        made = concatenate(clips, recording, minutes=minutes, pause=pause, noise=noise, level=level)
        arguments = ("--model", model, "--format", "json", "--out", folder, *options.split())
        spent = run_asr("transcribe", recording, *arguments)
        document = json.loads((Path(folder) / "long.json").read_text())

    heard: list[Words] = [[] for _ in made.chosen]
    for word in document["words"]:
        heard[max(0, bisect.bisect(made.middles, word["start"]) - 1)].append(word)
    click.echo(f"{model}, {len(made.chosen)} clips, {made.seconds / 60:.1f} minutes")
    figures: dict[str, Any] = {
        "seconds_of_audio": made.seconds,
        "clips": len(made.chosen),
        "segments": len(document["segments"]),
        **_errors(clips, made, heard, alone),
        **_drift(made, heard, alone),
        **dataclasses.asdict(spent),
    }
    click.echo(
        f"  {figures['segments']} segments: {spent.seconds:.1f} s, {spent.processor_seconds:.1f} s of a processor, "
        f"peak memory {spent.peak_bytes / 1e6:.0f} MB"
    )
    report(figures, made.seconds / spent.seconds, "times as fast as real time", path)


def _errors(clips: list[Clip], made: Concatenation, heard: list[Words], alone: list[Transcript]) -> dict[str, Any]:
    """Of each manifest in one recording and one by one; and the interval of the difference."""
    joined = [
        word_errors([clips[i].text], [" ".join(word["text"] for word in words)])
        for i, words in zip(made.chosen, heard, strict=True)
    ]
    each_clip = [word_errors([clip.text], [transcript.text]) for clip, transcript in zip(clips, alone, strict=True)]
    one_by_one = [each_clip[i] for i in made.chosen]
    figures: dict[str, Any] = {}
    for manifest in dict.fromkeys(clip.manifest for clip in clips):
        for name, counts in (("in one recording", joined), ("one by one", one_by_one)):
            own = (errors for i, errors in zip(made.chosen, counts, strict=True) if clips[i].manifest == manifest)
            total = sum(own, ErrorCounts())
            figures[f"{manifest}, {name}"] = {"words": total.reference_length, "wer": total.rate}
            click.echo(
                f"  {manifest}, {name}: WER {total.rate:.2%}, {total.errors} errors in {total.reference_length} "
                f"words: {total.substitutions} substituted, {total.deletions} deleted, {total.insertions} inserted"
            )
    low, high = _interval(made.chosen, joined, one_by_one)
    click.echo(f"  more errors in one recording: 95 % interval [{low:+.2%}, {high:+.2%}] of the words")
    return {**figures, "difference_95": [low, high]}


def _interval(chosen: list[int], joined: list[ErrorCounts], one_by_one: list[ErrorCounts]) -> tuple[float, float]:
    """Of 95 %, of the errors more a word that ``joined`` has."""
    words_of = np.bincount(chosen, [errors.reference_length for errors in one_by_one])
    more_of = np.bincount(chosen, [a.errors - b.errors for a, b in zip(joined, one_by_one, strict=True)])
    drawn = np.random.default_rng(0).integers(len(words_of), size=(2000, len(words_of)))
    low, high = np.quantile(more_of[drawn].sum(axis=1) / words_of[drawn].sum(axis=1), [0.025, 0.975])
    return float(low), float(high)


def _drift(made: Concatenation, heard: list[Words], alone: list[Transcript]) -> dict[str, Any]:
    """How far clips' first words lie from where they should, in seconds: median and worst, at both ends; NaN where none
    was read as it is alone."""
    drift = [
        words[0]["start"] - begin - alone[i].words[0].start
        for words, begin, i in zip(heard, made.begins, made.chosen, strict=True)
        if words and alone[i].words and words[0]["text"] == alone[i].words[0].text
    ] or [math.nan]
    tenth = max(1, len(drift) // 10)
    figures = {}
    for name, part in (("first", drift[:tenth]), ("last", drift[-tenth:])):
        median, worst = float(np.median(part)), float(np.max(np.abs(part)))
        figures[f"drift_{name}_tenth"] = [median, worst]
        click.echo(
            f"  {name} tenth: clips' first words off by {median * 1000:+.0f} ms median, {worst * 1000:.0f} at most"
        )
    return figures

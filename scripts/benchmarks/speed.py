"""A recording's real-time factor and errors, beside other recognisers'."""

from __future__ import annotations

import functools
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from asr import audio, recipe, runtime
from asr.score.edits import character_errors, word_errors
from asr.text.normalise import normalise
from asr.transcribe.recogniser import Recogniser
from recognisers import QUICK_RECOGNISERS, Listener, missing
from recordings import Clip, Concatenation, concatenate, pauses, read_clips
from timing import Times, alternate, json_option, model_argument, ratios, repeats_option, report, spread

Side = Callable[[Path], str]
"""From a recording's file to its text."""


@click.command()
@model_argument
@click.argument("manifests", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="MANIFEST...")
@pauses
@click.option("--threads", default=2, show_default=True, help="Of each that can use them: pocketsphinx has one.")
@repeats_option(default=3)
@json_option
def main(
    model: Path,
    manifests: tuple[Path, ...],
    minutes: float,
    pause: float,
    noise: Path | None,
    level: float,
    threads: int,
    repeats: int,
    path: Path | None,
) -> None:
    """One recording of the MANIFESTs' clips, from file to text, by our model and by other recognisers (extra `peers`),
    in turn in one process: seconds and processor seconds a second of audio, and errors. Loading is told apart.

    Texts are normalised as Whisper's are and digits then parted, so that "39" and "three nine" are the same; "one" is a
    digit everywhere, of which that normaliser is of two minds.
    """
    ours, theirs = _our_sides(model, threads), _their_sides(threads)
    sides = {name: side for name, (side, _) in {**ours, **theirs}.items()}
    texts: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        recording = Path(folder) / "speed.flac"
        clips = read_clips(manifests)
        made = concatenate(clips, recording, minutes=minutes, pause=pause, noise=noise, level=level)

        def run(name: str) -> None:
            texts[name] = sides[name](recording)

        click.echo(f"{model}, {len(made.chosen)} clips, {made.seconds:.0f} s of audio, {threads} threads")
        times = alternate({name: functools.partial(run, name) for name in sides}, repeats)
    loading = {name: seconds for name, (_, seconds) in {**ours, **theirs}.items()}
    figures = _describe(clips, made, times, texts, loading)
    leads = [_lead(decoding, peer, times) for decoding in ours for peer in theirs]
    report(figures, min(leads, default=None), "times as fast as the fastest peer, ours at its slowest", path)


def _our_sides(model: Path, threads: int) -> dict[str, tuple[Side, float]]:
    """Our model's sides, and the seconds that loading each took."""
    runtime.use_threads(threads, watch=False)  # of torch, which is imported where a model needs it, too

    def load(decoding: list[str]) -> Side:
        recogniser = Recogniser.load(model, decoding=decoding)
        return lambda file: recogniser.transcribe(file).text

    sides = {"ours, greedy": _timed(lambda: load(["decoder={kind: greedy}"]))}
    if not isinstance(Recogniser.load(model).recipe.decoder, recipe.Greedy):
        sides["ours, as tuned"] = _timed(lambda: load([]))
    return sides


def _their_sides(threads: int) -> dict[str, tuple[Side, float]]:
    """Those of the others that are installed."""

    def load(build: Callable[[int], Listener]) -> Side:
        listen = build(threads)
        return lambda file: listen(audio.read(file, sample_rate=16000).samples)

    sides = {}
    for name, peer in QUICK_RECOGNISERS.items():
        if reason := missing(peer.modules):
            click.echo(f"  {name:28} left out: {reason}")
        else:
            sides[name] = _timed(functools.partial(load, peer.build))
    return sides


def _timed(load: Callable[[], Side]) -> tuple[Side, float]:
    began = time.perf_counter()
    side = load()
    return side, time.perf_counter() - began


def _describe(
    clips: list[Clip],
    made: Concatenation,
    times: dict[str, Times],
    texts: dict[str, str],
    loading: dict[str, float],
) -> dict[str, dict[str, Any]]:
    """Each side's figures, a second of audio, and its errors."""
    reference = _spelled(" ".join(clips[i].text for i in made.chosen))
    figures = {}
    for name, side in times.items():
        walls, processors = ([value / made.seconds for value in clock] for clock in (side.wall, side.processor))
        found = _spelled(texts[name])
        words = word_errors([reference], [found])
        letters = character_errors(["".join(reference.split())], ["".join(found.split())])
        figures[name] = {
            "load_seconds": loading[name],
            "seconds": walls,
            "processor_seconds": processors,
            "wer": words.rate,
            "cer": letters.rate,
        }
        click.echo(
            f"  {name:28} loaded in {loading[name]:.1f} s, a second of audio in {spread(walls)} s, "
            f"{spread(processors)} s of a processor; WER {words.rate:.2%}, CER without spaces {letters.rate:.2%}"
        )
    return figures


def _spelled(text: str) -> str:
    digits = re.sub(r"(\d)", r" \1 ", normalise(text, "english"))
    return re.sub(r"\bone\b", "1", digits)


def _lead(ours: str, peer: str, times: dict[str, Times]) -> float:
    """By the wall clock, the median."""
    wall = ratios(times[peer].wall, times[ours].wall)
    processor = ratios(times[peer].processor, times[ours].processor)
    click.echo(f"  {ours} against {peer}: {spread(wall)} times as fast, {spread(processor)} by processor time")
    return statistics.median(wall)

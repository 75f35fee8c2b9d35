"""Word starts of `asr align`, beside those of pocketsphinx's aligner."""

from __future__ import annotations

import dataclasses
import json
import random
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import soundfile

import asr
from asr.transcribe.recogniser import Recogniser
from recognisers import missing
from recordings import RATE, Clip, read_clips
from timing import device_option, json_option, manifest_argument, model_argument, report, run_asr

Starts = list[float | None]
"""Of words, in seconds; None where one was not found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aligned:
    """A clip and its words' starts, found by us and by pocketsphinx, and the seconds that each took."""

    clip: Clip
    ours: Starts
    theirs: list[float]
    our_seconds: float
    their_seconds: float


@click.command()
@model_argument
@manifest_argument
@click.option("--hours", default=1.0, show_default=True, help="Of the long recording: the clips, again and again.")
@device_option
@json_option
def main(model: Path, manifest: Path, hours: float, device: str, path: Path | None) -> None:
    """Word starts on the clips of MANIFEST and on all of them in one long recording, against pocketsphinx's aligner
    (extra `peers`) on the clips; words put in, exchanged and taken out; time and memory of the long recording."""
    recogniser = asr.load(model, device=device)
    every = align_by_both(recogniser, read_clips([manifest]))
    aligned = [each for each in every if len(each.theirs) == len(each.clip.text.split())]
    click.echo(f"{model}, {manifest}: {len(aligned)} of {len(every)} clips that pocketsphinx aligns too")
    found = [start for each in aligned for start in each.ours]
    figures: dict[str, Any] = {
        "clips": _compare("clip by clip", found, [start for each in aligned for start in each.theirs]),
        "wrong_words": _mislead(recogniser, aligned),
        "long": _align_long(model, aligned, hours, device),
    }
    click.echo("  a wrong word a clip: " + ", ".join(f"{k} {v:.1%}" for k, v in figures["wrong_words"].items()))
    ratio = sum(each.their_seconds for each in every) / sum(each.our_seconds for each in every)
    report(figures, ratio, "times as fast as pocketsphinx on clips", path)


def align_by_both(recogniser: Recogniser, clips: list[Clip]) -> list[Aligned]:
    """The clips whose words pocketsphinx knows, aligned in turn."""
    if reason := missing(("pocketsphinx",)):
        raise click.UsageError(f"this measures against pocketsphinx, of the extra `peers`: {reason}")
    from pocketsphinx import Decoder

    peer = Decoder(lm=None, loglevel="FATAL")
    known = [clip for clip in clips if all(peer.lookup_word(word) for word in clip.text.split())]
    _starts(recogniser, known[0].samples, known[0].text)  # compiled, warm
    aligned = []
    for clip in known:
        began = time.perf_counter()
        ours = _starts(recogniser, clip.samples, clip.text)
        between = time.perf_counter()
        theirs = _starts_of_peer(peer, clip)
        ended = time.perf_counter()
        aligned.append(
            Aligned(clip=clip, ours=ours, theirs=theirs, our_seconds=between - began, their_seconds=ended - between)
        )
    return aligned


def _starts(recogniser: Recogniser, samples: np.ndarray, text: str) -> Starts:
    return [word.start for word in recogniser.align(samples, text, sample_rate=RATE).words]


def _starts_of_peer(peer: Any, clip: Clip) -> list[float]:
    peer.set_align_text(clip.text)
    peer.start_utt()
    peer.process_raw((clip.samples * 32767).astype(np.int16).tobytes(), full_utt=True)
    peer.end_utt()
    return [segment.start_frame / 100 for segment in peer.seg() if segment.word[0] not in "<["]


def _compare(name: str, found: Starts, expected: list[float]) -> dict[str, float]:
    errors = np.array([f - e for f, e in zip(found, expected, strict=True) if f is not None])
    figures = {
        "words": len(found),
        "not_found": len(found) - len(errors),
        "bias": float(np.median(errors)),
        "median": float(np.median(abs(errors))),
        "percentile_95": float(np.percentile(abs(errors), 95)),
    }
    click.echo(
        f"  {name}: {len(found)} word starts, median error {figures['median'] * 1000:.0f} ms, 95th percentile "
        f"{figures['percentile_95'] * 1000:.0f} ms, bias {figures['bias'] * 1000:+.0f} ms, "
        f"{figures['not_found']} not found"
    )
    return figures


def _mislead(recogniser: Recogniser, aligned: list[Aligned]) -> dict[str, float]:
    """What becomes of words where the text has a wrong one too many, another in a word's place, or one too few."""
    draw = random.Random(0)
    vocabulary = sorted({word for each in aligned for word in each.clip.text.split()})
    wrong: dict[str, list[bool]] = {"put in": [], "exchanged": []}
    right: list[bool] = []
    moved: list[float] = []
    for each in aligned:
        words = each.clip.text.split()
        for change in ("put in", "exchanged", "taken out"):
            k = draw.randrange(len(words))
            other = draw.choice([word for word in vocabulary if word not in words])
            if len(words) < 3:
                continue
            tail = words[k if change == "put in" else k + 1 :]
            text = " ".join(words[:k] + [other] * (change != "taken out") + tail)
            found = _starts(recogniser, each.clip.samples, text)
            if change != "taken out":
                wrong[change].append(found.pop(k) is None)
            before = each.ours[:k] + each.ours[len(words) - len(tail) :]
            right += [start is None for start in found]
            moved += [abs(a - b) for a, b in zip(found, before, strict=True) if a is not None and b is not None]
    return {
        **{f"{change}, not found": statistics.mean(flags) for change, flags in wrong.items()},
        "right, not found": statistics.mean(right),
        "right, moved by more than 0.1 s": statistics.mean(m > 0.1 for m in moved),
    }


def _align_long(model: Path, aligned: list[Aligned], hours: float, device: str) -> dict[str, Any]:
    """The clips, again and again, as one recording, by `asr align` in a process of its own."""
    chosen: list[Aligned] = []
    expected: list[float] = []
    length = 0
    while length < hours * 3600 * RATE:
        each = aligned[len(chosen) % len(aligned)]
        expected += [length / RATE + start for start in each.theirs]
        chosen.append(each)
        length += len(each.clip.samples)
    with tempfile.TemporaryDirectory() as folder:
        recording, text, output = (Path(folder) / name for name in ("long.flac", "long.txt", "long.json"))
        soundfile.write(recording, np.concatenate([each.clip.samples for each in chosen]), RATE)
        text.write_text("\n".join(each.clip.text for each in chosen))
        spent = run_asr(
            "align", recording, text, "--model", model, "--format", "json", "-o", output, "--device", device
        )
        found = [word["start"] for word in json.loads(output.read_text())["words"]]
    figures = _compare(f"{length / RATE / 3600:.2f} h in one piece", found, expected)
    characters = sum(len(each.clip.text) + 1 for each in chosen)
    click.echo(
        f"    asr align: {characters:,} characters, {spent.seconds:.0f} s, {spent.processor_seconds:.0f} s of a "
        f"processor, peak memory {spent.peak_bytes / 1e9:.2f} GB"
    )
    return {**figures, "characters": characters, **dataclasses.asdict(spent)}

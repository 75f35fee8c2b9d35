"""asr transcribe."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from asr.cli.options import (
    COMPILING,
    FOLDER,
    FORMS,
    channels_option,
    chosen_among,
    decoder_options,
    device_option,
    engine_option,
    model_directory,
    model_option,
    progress_bar,
    quick_threads_option,
    said_if_slow,
    vad_option,
)
from asr.cli.terminal import say, write
from asr.errors import AsrError
from asr.text.printable import printable

if TYPE_CHECKING:
    from asr.checkpoint import Engine
    from asr.records import Transcript
    from asr.transcribe.jobs import Job
    from asr.transcribe.recordings import Channels


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE|DIR|GLOB...")
@model_option
@click.option(
    "--format",
    "forms",
    multiple=True,
    default=["txt"],
    show_default=True,
    callback=chosen_among(FORMS),
    metavar="FORM,...",
    help=", ".join(FORMS) + ".",
)
@click.option("-o", "--out", type=FOLDER, metavar="DIR", help="Write files there; default: standard output.")
@click.option("--overwrite", is_flag=True, help="Transcribe again what is finished in DIR.")
@channels_option
@click.option("--track", default=1, show_default=True, type=click.IntRange(1), help="Of a container's audio tracks.")
@vad_option
@decoder_options
@device_option
@engine_option
@quick_threads_option
def transcribe(
    files: tuple[str, ...],
    model: Path | None,
    forms: tuple[str, ...],
    out: Path | None,
    overwrite: bool,
    channels: Channels,
    track: int,
    vad: bool | None,
    device: str,
    engine: Engine,
    decoding: list[str],
) -> None:
    """Transcribe recordings of any format and length, and those in folders ("-" reads standard input).

    Below DIR the transcripts lie in folders like the recordings'. Those that are finished there are left as they are.
    """
    import time

    from asr import runtime

    runtime.keep_few_kernels()
    from asr.transcribe import folders, formats, jobs
    from asr.transcribe.confidence import Confidence
    from asr.transcribe.recogniser import Recogniser

    recordings: Sequence[Path | None] = [None] if files == ("-",) else folders.find_recordings(files)
    if out is None and len(forms) > 1:
        raise AsrError(f"{len(forms)} formats at once ({', '.join(forms)}) need a folder to be written to: --out DIR")
    if out is None and len(recordings) > 1 and forms[0] not in ("txt", "json", "ctm"):
        raise AsrError(f"{forms[0]} says of one recording what is in it: several need --out DIR")
    work = [jobs.Job(recording, {}) for recording in recordings]
    if out is not None:
        folders.check_writable(out)
        work = jobs.plan(files, recordings, out, forms)
    waiting = [job for job in work if overwrite or not job.is_finished()]
    if not waiting:
        say(f"all {len(work)} recordings were finished before: --overwrite transcribes them again", err=True)
        return
    recogniser = Recogniser.load(model_directory(model), engine=engine, device=device, decoding=decoding)
    with said_if_slow(COMPILING):
        recogniser.warm_up()
    began = time.perf_counter()
    failed, seconds, confidence = 0, 0.0, Confidence(recogniser.decoder.calibration)
    with _listening(waiting, channels, track) as (progress, advance):
        outcomes = recogniser.transcribe_all(
            (sys.stdin.buffer.read() if job.recording is None else job.recording for job in waiting),
            channels=channels,
            track=track,
            vad=vad,
            advance=advance,
        )
        for job, outcome in zip(waiting, outcomes, strict=True):
            progress.stop()  # so that what is printed does not run into it
            if isinstance(outcome, AsrError):
                say(f"asr: {outcome}", err=True)
                failed += 1
            else:
                seconds += outcome.duration
                confidence.add(outcome)
                _explain(job.name, outcome)
                if out is None and forms == ("txt",) and len(waiting) > 1:
                    say(f"{printable(job.name, line=True)}\t{printable(outcome.text, line=True)}")
                elif out is None:
                    (say if forms[0] in ("txt", "json") else write)(formats.WRITERS[forms[0]](outcome, job.name))
                else:
                    job.write(outcome)
            progress.start()
    if confidence.is_foreign:
        say(
            f"asr: the model is unsure of what it hears: the mean confidence of {confidence.words} words is "
            f"{confidence.mean:.2f}. The speech may be foreign to it, another language or recorded otherwise than what "
            "it was trained on; expect many errors",
            err=True,
        )
    if out is not None:
        elapsed = time.perf_counter() - began
        before = f", {len(work) - len(waiting)} finished before" if len(waiting) < len(work) else ""
        summary = f"{len(waiting) - failed} transcribed{before}, {failed} failed"
        if seconds:
            summary += f": {seconds / 60:.1f} minutes of audio in {elapsed:.1f} s, {elapsed / seconds:.4f} x real time"
        say(summary, err=True)
    if failed:
        raise click.exceptions.Exit(1)


def _explain(name: str, transcript: Transcript) -> None:
    """Says on standard error what a transcript leaves out, or that it is empty."""
    remarked = [segment for segment in transcript.segments if segment.remark]
    for segment in remarked:
        say(f"{name}, {segment.start:.1f} to {segment.end:.1f} s: {segment.remark}", err=True)
    if not transcript.words and not remarked:
        say(f"{name} holds no words", err=True)


@contextlib.contextmanager
def _listening(jobs: Sequence[Job], channels: Channels, track: int) -> Iterator[tuple[Any, Callable[[float], None]]]:
    """A progress bar over the jobs' seconds of audio, and what moves it. Headers are read only where it is seen."""
    import time

    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

    from asr import audio

    columns = (
        TextColumn("transcribing, {task.completed:.0f} s of audio at {task.fields[factor]} x real time"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with progress_bar(*columns) as progress:
        total = 0.0
        for job in () if progress.disable else jobs:
            if job.recording is not None:
                with contextlib.suppress(AsrError):  # told when its turn comes
                    outline = audio.outline(job.recording, track=track)
                    total += outline.duration * (outline.channels if channels == "split" else 1)
        task = progress.add_task("", total=total or None, factor="-")
        began = time.perf_counter()
        done = 0.0

        def advance(seconds: float) -> None:
            nonlocal done
            done += seconds
            factor = f"{(time.perf_counter() - began) / done:.3f}" if done else "-"
            progress.update(task, advance=seconds, factor=factor)

        yield progress, advance

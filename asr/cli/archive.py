"""asr archive."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from asr.cli.options import (
    FOLDER,
    channels_option,
    chosen_among,
    decoder_options,
    device_option,
    engine_option,
    model_directory,
    model_option,
    progress_bar,
    vad_option,
)
from asr.cli.terminal import say

if TYPE_CHECKING:
    from asr.checkpoint import Engine
    from asr.transcribe.ledger import Ledger
    from asr.transcribe.pool import Pool
    from asr.transcribe.recordings import Channels

FORMS = ("json", "txt", "ctm")


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="FILE|DIR|TAR|MANIFEST|GLOB...")
@click.option("-o", "--out", required=True, type=FOLDER, metavar="DIR", help="Write files there, and go on from there.")
@model_option
@click.option(
    "--format",
    "forms",
    multiple=True,
    default=["json"],
    show_default=True,
    callback=chosen_among(FORMS, "; asr transcribe writes others, of each recording by itself"),
    metavar="FORM,...",
    help=f"{', '.join(FORMS)}, one file for all. JSON lines are always written.",
)
@click.option(
    "--workers", type=click.IntRange(min=1), metavar="N", help="Processes that transcribe; default: one a core."
)
@click.option(
    "--threads", default=1, show_default=True, type=click.IntRange(min=1), metavar="N", help="In each of them."
)
@click.option("--ray", metavar="ADDRESS", help='Workers on this Ray cluster ("auto": the one this machine is in).')
@click.option(
    "--shard-minutes",
    default=30.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    metavar="X",
    help="Audio that a worker transcribes in one go, and loses where it dies.",
)
@click.option("--overwrite", is_flag=True, help="Start over, whatever DIR holds of an archive.")
@channels_option
@vad_option
@decoder_options
@device_option
@engine_option
def archive(
    sources: tuple[str, ...],
    out: Path,
    model: Path | None,
    forms: tuple[str, ...],
    workers: int | None,
    threads: int,
    ray: str | None,
    shard_minutes: float,
    overwrite: bool,
    channels: Channels,
    vad: bool | None,
    device: str,
    engine: Engine,
    decoding: list[str],
) -> None:
    """Transcribe an archive with many processes: recordings, folders and tars of them, Shar folders, manifests.

    The same command goes on where one was stopped or killed. DIR gets transcripts.jsonl, by id, and failures.jsonl.
    """
    from asr import checkpoint, files, runtime
    from asr.transcribe import folders, ledger
    from asr.transcribe.merge import merge
    from asr.transcribe.worker import Orders

    directory = model_directory(model)
    checkpoint.load_meta(directory)  # a wrong folder is said before hours of planning
    if ray is None:
        runtime.use_threads(threads)  # before the workers start
    folders.check_writable(out)
    with files.claimed(out, ledger.LOCK, "transcribed into", "give another --out"):
        settings = {
            "model": f"{directory.name} ({ledger.fingerprint(directory)})",
            "decoding": decoding,
            "engine": engine,
            "channels": channels,
            "voice activity": vad,
        }
        plan = ledger.open_ledger(out, sources, settings, shard_minutes=shard_minutes, overwrite=overwrite)
        hours = f"{plan.seconds / 3600:.1f} hours in {plan.recordings} recordings, {plan.shards} shards"
        say(f"{'planned' if plan.is_new else 'going on with'} {hours}", err=True)
        orders = Orders(
            model=directory.absolute(),
            shards=ledger.shards_folder(out).absolute(),
            decoding=tuple(decoding),
            engine=engine,
            device=device,
            channels=channels,
            vad=vad,
            threads=threads,
        )

        def pool() -> Pool:
            if ray is None:
                from asr.transcribe.pool import LocalPool

                return LocalPool(orders)
            from asr.transcribe.ray_pool import RayPool

            return RayPool(orders, ray)

        began = time.perf_counter()
        seconds, processor_seconds = _work_off(
            plan, pool, min(plan.shards, workers or max(1, runtime.cores() // threads))
        )
        if seconds:
            elapsed = time.perf_counter() - began
            say(
                f"{seconds / 3600:.2f} hours of audio in {elapsed:.1f} s: {seconds / elapsed:.0f} hours an hour, "
                f"{processor_seconds / seconds:.4f} s of a processor a second",
                err=True,
            )
        merged = merge(plan.files(), out, [form for form in forms if form != "json"])
    damaged = f", {merged.damaged} of them damaged (see their warnings)" if merged.damaged else ""
    failed = f"{merged.failed} failed" + (f" (see {out / 'failures.jsonl'})" if merged.failed else "")
    say(f"{out / 'transcripts.jsonl'}: {merged.transcribed} transcribed{damaged}, {failed}", err=True)
    if merged.failed:
        raise click.exceptions.Exit(1)


def _work_off(plan: Ledger, pool: Callable[[], Pool], workers: int) -> tuple[float, float]:
    """Transcribes what is left of the plan. Seconds of audio, and of processors."""
    from rich.progress import BarColumn, TextColumn

    from asr.transcribe.pool import work_off

    before = sum(shard.seconds for shard in plan.all_shards() if plan.is_finished(shard))
    remaining = (shard for shard in plan.all_shards() if not plan.is_finished(shard))
    if (first := next(remaining, None)) is None:
        say("all shards were finished before: --overwrite transcribes them again", err=True)
        return 0.0, 0.0
    seconds, processor_seconds, failed, began = 0.0, 0.0, 0, time.perf_counter()
    with progress_bar(TextColumn("{task.description}"), BarColumn()) as progress:
        task = progress.add_task("starting", total=plan.seconds or None, completed=before)
        working = pool()
        try:
            for report in work_off(itertools.chain([first], remaining), working, workers):
                if report is not None:
                    seconds += report.seconds
                    processor_seconds += report.processor_seconds
                    failed += report.failed
                elapsed = time.perf_counter() - began
                line = progress_line(before, seconds, plan.seconds, elapsed, failed)
                progress.update(task, completed=before + seconds, description=line)
        finally:
            working.close()
    return seconds, processor_seconds


def progress_line(before: float, done: float, total: float, elapsed: float, failed: int) -> str:
    """Of ``total`` seconds of audio those done ``before`` and since, in ``elapsed`` seconds."""
    said = f"{(before + done) / 3600:.1f} of {total / 3600:.1f} hours of audio"
    if done:
        left = round(max(0.0, total - before - done) * elapsed / done)
        clock = f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}"
        said += f", {done / elapsed:.0f} hours an hour, {clock} left"
    return f"{said}, {failed} failed"

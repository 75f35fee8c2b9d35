"""asr transcribe, asr align, asr evaluate."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from asr.cli.options import (
    FOLDER,
    FORMS,
    chosen_channels,
    chosen_forms,
    chosen_sources,
    data_option,
    decoder_options,
    device_option,
    model_directory,
    progress_bar,
)
from asr.errors import AsrError

if TYPE_CHECKING:
    from asr import recipe
    from asr.cli.options import Sources
    from asr.evaluate import SetScore
    from asr.records import Transcript
    from asr.transcribe.recogniser import Recogniser
    from asr.transcribe.recordings import Channels


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE|DIR|GLOB...")
@click.option("--model", type=FOLDER, metavar="DIR", help="Model directory; default: the newest under models/.")
@click.option(
    "--format",
    "forms",
    multiple=True,
    default=["txt"],
    show_default=True,
    callback=chosen_forms,
    metavar="FORM,...",
    help=", ".join(FORMS) + ".",
)
@click.option("-o", "--out", type=FOLDER, metavar="DIR", help="Write files there; default: standard output.")
@click.option("--overwrite", is_flag=True, help="Transcribe again what is finished in DIR.")
@click.option(
    "--channels",
    default="mix",
    show_default=True,
    callback=chosen_channels,
    metavar="mix|split|N",
    help="split transcribes each channel by itself.",
)
@click.option("--track", default=1, show_default=True, type=click.IntRange(1), help="Of a container's audio tracks.")
@click.option(
    "--vad/--no-vad", default=None, help="Leave out what is not speech; default: in recordings longer than 40 s."
)
@decoder_options
@device_option
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
    decoding: list[str],
) -> None:
    """Transcribe recordings of any format and length, and those in folders ("-" reads standard input).

    Below DIR the transcripts lie in folders like the recordings'. Those that are finished there are left as they are.
    """
    import time

    from asr import runtime

    runtime.keep_few_kernels()
    from asr.transcribe import folders, formats
    from asr.transcribe.recogniser import Recogniser

    recordings: Sequence[Path | None] = [None] if files == ("-",) else folders.find_recordings(files)
    if out is None and len(forms) > 1:
        raise AsrError(f"{len(forms)} formats at once ({', '.join(forms)}) need a folder to be written to: --out DIR")
    if out is None and len(recordings) > 1 and forms[0] not in ("txt", "json", "ctm"):
        raise AsrError(f"{forms[0]} says of one recording what is in it: several need --out DIR")
    jobs = [_Job(recording, {}) for recording in recordings]
    if out is not None:
        folders.check_writable(out)
        jobs = _planned(files, recordings, out, forms)
    waiting = [job for job in jobs if overwrite or not job.is_finished()]
    if not waiting:
        click.echo(f"all {len(jobs)} recordings were finished before: --overwrite transcribes them again", err=True)
        return
    recogniser = Recogniser.load(model_directory(model), device=device, decoding=decoding)
    began = time.perf_counter()
    failed, seconds = 0, 0.0
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
                click.echo(f"asr: {outcome}", err=True)
                failed += 1
            else:
                seconds += outcome.duration
                if not outcome.words:
                    click.echo(f"{job.name} holds no words", err=True)
                if out is None and forms == ("txt",) and len(waiting) > 1:
                    click.echo(f"{job.name}\t{outcome.text}")
                elif out is None:
                    click.echo(formats.FORMS[forms[0]](outcome, job.name))
                else:
                    job.write(outcome)
            progress.start()
    if out is not None:
        elapsed = time.perf_counter() - began
        before = f", {len(jobs) - len(waiting)} finished before" if len(waiting) < len(jobs) else ""
        click.echo(
            f"{len(waiting) - failed} transcribed{before}, {failed} failed: "
            f"{seconds / 60:.1f} minutes of audio in {elapsed:.1f} s, {elapsed / max(seconds, 1e-9):.4f} x real time",
            err=True,
        )
    if failed:
        raise click.exceptions.Exit(1)


@dataclass(frozen=True, slots=True)
class _Job:
    """A recording, None being standard input, and where each form of its transcript goes."""

    recording: Path | None
    outputs: dict[str, Path]

    @property
    def name(self) -> str:
        from asr.audio import describe

        return "-" if self.recording is None else describe(self.recording)

    def is_finished(self) -> bool:
        from asr.transcribe.folders import is_finished

        return bool(self.outputs) and self.recording is not None and is_finished(self.recording, self.outputs.values())

    def write(self, transcript: Transcript) -> None:
        from asr import runtime
        from asr.transcribe.formats import FORMS as WRITERS

        for form, path in self.outputs.items():
            with runtime.replacing(path) as file:
                file.write(WRITERS[form](transcript, self.name) + "\n")


def _planned(files: Sequence[str], recordings: Sequence[Path | None], out: Path, forms: Sequence[str]) -> list[_Job]:
    """Where everything goes. Raises AsrError where a transcript would replace a recording."""
    from asr.transcribe import folders

    found = [recording for recording in recordings if recording is not None]
    stems = folders.output_stems(found, folders.common_folder(files)) if found else {}
    jobs = []
    for recording in recordings:
        stem = out / (stems[recording] if recording else "standard-input")
        outputs = folders.output_paths(stem, forms)
        if recording and recording.absolute() in {path.absolute() for path in outputs.values()}:
            raise AsrError(f"the transcript of {recording} would take its place: give another --out")
        jobs.append(_Job(recording, outputs))
    return jobs


@contextlib.contextmanager
def _listening(jobs: Sequence[_Job], channels: Channels, track: int) -> Iterator[tuple[Any, Callable[[float], None]]]:
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


@click.command()
@click.argument("audio", metavar="AUDIO")
@click.argument("text", required=False, metavar="[TEXT]")
@click.option("--text", "inline", metavar="WORDS", help="The text itself, in place of a file of it.")
@click.option("--model", type=FOLDER, metavar="DIR", help="Model directory; default: the newest under models/.")
@click.option(
    "--format", "form", type=click.Choice(["ctm", "textgrid", "json", "srt"]), default="ctm", show_default=True
)
@click.option("--skip-unknown", is_flag=True, help="Leave out words that the model's alphabet cannot spell.")
@click.option("-o", "--output", type=FOLDER, metavar="FILE", help="Write there; default: standard output.")
@device_option
def align(
    audio: str,
    text: str | None,
    inline: str | None,
    model: Path | None,
    form: str,
    skip_unknown: bool,
    output: Path | None,
    device: str,
) -> None:
    """When each word of the file TEXT is said in AUDIO (either may be "-", standard input).

    Words that the recording does not hold are named on standard error and have no times.
    """
    from asr import runtime
    from asr.audio import describe
    from asr.transcribe import formats
    from asr.transcribe.recogniser import Recogniser

    if (text is None) == (inline is None):
        raise AsrError("the text to align is a file, TEXT, or the words after --text: give one of them")
    if audio == text == "-":
        raise AsrError("the audio and the text cannot both be read from standard input")
    words = inline if text is None else _read_text(text)
    recogniser = Recogniser.load(model_directory(model), device=device)
    recording = sys.stdin.buffer.read() if audio == "-" else Path(audio)
    audio = describe(Path(audio))
    aligned = recogniser.align(recording, words or "", skip_unknown=skip_unknown)
    lost = [word.text for word in aligned.words if not word.found]
    if len(lost) == len(aligned.words):
        raise AsrError(f"{audio} holds none of the {len(lost)} words of the text: is it the right text?")
    if lost:
        some = ", ".join(lost[:20]) + (f" and {len(lost) - 20} more" if len(lost) > 20 else "")
        click.echo(f"not found, {len(lost)} of {len(aligned.words)} words: {some}", err=True)
    document = {
        "ctm": lambda: formats.as_aligned_ctm(aligned, Path(audio).stem),
        "textgrid": lambda: formats.as_aligned_textgrid(aligned),
        "json": lambda: formats.as_aligned_json(aligned, audio),
        "srt": lambda: formats.as_aligned_srt(aligned),
    }[form]()
    if output is None:
        click.echo(document)
    else:
        with runtime.replacing(output) as file:
            file.write(document + "\n")


def _read_text(name: str) -> str:
    """A text file in UTF-8, or standard input."""
    try:
        content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise AsrError(f"{name} is not text in UTF-8: byte {error.start} does not fit") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise AsrError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}") from error


@click.command()
@click.argument("model", type=FOLDER)
@click.argument("sets", nargs=-1, type=FOLDER, metavar="[MANIFEST|RECIPE]...")
@click.option(
    "--split", type=click.Choice(["train", "dev", "test"]), default="test", show_default=True, help="Of the recipe."
)
@click.option("--json", "scores_file", type=FOLDER, metavar="FILE", help="Write the scores as JSON.")
@click.option("--hypotheses", type=FOLDER, metavar="FILE", help="Write id, reference, hypothesis as JSON lines.")
@click.option("--report", type=FOLDER, metavar="FILE.html", help="Write one page to look at, with every utterance.")
@click.option("--calibration", type=FOLDER, metavar="FILE.png", help="Draw how far words' confidences can be believed.")
@click.option("--worst", default=5, show_default=True, help="How many of the worst utterances to show.")
@click.option("--weights", type=click.Choice(["best", "last"]), default="best", show_default=True)
@decoder_options
@data_option
@device_option
def evaluate(
    model: Path,
    sets: tuple[Path, ...],
    split: str,
    scores_file: Path | None,
    hypotheses: Path | None,
    report: Path | None,
    calibration: Path | None,
    worst: int,
    weights: str,
    data: str | None,
    device: str,
    decoding: list[str],
) -> None:
    """Word and character error rates of MODEL on manifests, on another recipe's split, or on its own recipe's."""
    from rich.progress import TextColumn, TimeElapsedColumn

    from asr import checkpoint
    from asr import evaluate as scoring
    from asr.decode.calibration import draw_reliability
    from asr.transcribe.recogniser import Recogniser

    chosen = {"best": checkpoint.WEIGHTS, "last": checkpoint.LAST_WEIGHTS}[weights]
    recogniser = Recogniser.load(model, device=device, weights=chosen, decoding=decoding)
    wanted = chosen_sources(sets, recogniser.recipe, split, data)
    columns = (TextColumn("evaluating, {task.completed:.0f} s of audio"), TimeElapsedColumn())
    scores = []
    with progress_bar(*columns) as progress:
        task = progress.add_task("", total=None)
        for members, root in wanted:
            scores += scoring.evaluate(
                recogniser, members, root=root, advance=lambda seconds: progress.advance(task, seconds)
            )
    for score in scores:
        system, counts = score.system, score.system.counts(score.system.unit)
        click.echo(
            f"{score.name}: {system.summary()}  {f'PER {score.phones.rate:.2%}  ' if score.phones else ''}"
            f"{counts.reference_length} {system.unit}s in {len(system.utterances)} utterances: "
            f"{counts.substitutions} substituted, {counts.deletions} deleted, {counts.insertions} inserted"
        )
        for utterance in system.worst()[:worst]:
            click.echo(f"  {utterance.line.id} ({utterance.counts(system.unit).errors} errors)")
            click.echo(f"    ref: {utterance.line.text}")
            click.echo(f"    hyp: {utterance.hypothesis}")
        for rejection in score.unreadable:
            click.echo(f"  not scored: {rejection.id}: {rejection.reason}", err=True)
    click.echo(f"real-time factor {scoring.real_time_factor(scores):.4f}")
    if scores_file:
        scoring.write_scores(scores_file, scores)
    if hypotheses:
        scoring.write_hypotheses(hypotheses, scores)
    if report:
        _write_report(report, recogniser, model, scores, wanted)
    if calibration:
        measured = scoring.reliability_of(scores)
        draw_reliability(measured, calibration, ", ".join(score.name for score in scores))
        click.echo(f"{calibration}: expected calibration error {measured.error:.3f} over {measured.counts.sum()} words")
    if any(score.unreadable for score in scores):
        raise click.exceptions.Exit(1)


def _write_report(
    path: Path, recogniser: Recogniser, model: Path, scores: Sequence[SetScore], sets: Sequence[tuple[Sources, Path]]
) -> None:
    from asr import evaluate as scoring
    from asr.report import write_report
    from asr.report.clips import SOUND_SECONDS
    from asr.report.reading import clips_of

    facts = [
        f"Decoder: {_described(recogniser.recipe.decoder)}; real-time factor {scoring.real_time_factor(scores):.4f}."
    ]
    facts += [f"{s.name}: {len(s.unreadable)} utterances could not be read." for s in scores if s.unreadable]
    sources = [(source, root) for members, root in sets for source in members]
    clips = [
        clips_of(recogniser, source, root, score.system, SOUND_SECONDS / len(scores))
        for score, (source, root) in zip(scores, sources, strict=True)
    ]
    write_report(
        path,
        f"{model.resolve().name} evaluated",
        [score.system for score in scores],
        facts=facts,
        reliability=scoring.reliability_of(scores),
        clips=clips,
    )
    click.echo(f"{path}: the report")


def _described(decoder: recipe.Decoder) -> str:
    """For a page that people pass on: of a path its last part alone, and no calibration, which changes no word."""
    settings = decoder.model_dump(exclude_none=True, exclude={"calibration"})
    for key in ("language_model", "lexicon"):
        if key in settings:
            settings[key] = Path(settings[key]).name
    if part := settings.pop("lstm", None):
        part["path"] = Path(part["path"]).name
        settings["LSTM"] = f"({_listed(part)})"
    if hotwords := settings.pop("hotwords", None):
        settings["hotwords"] = f"({_listed(hotwords)})"
    return _listed(settings)


def _listed(settings: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items())

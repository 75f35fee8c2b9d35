"""asr transcribe, asr align, asr evaluate."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from asr.cli.options import FOLDER, chosen_sources, data_option, decoder_options, device_option, progress_bar
from asr.errors import AsrError

if TYPE_CHECKING:
    from asr.evaluate import SetScore
    from asr.transcribe.recogniser import Recogniser


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--model", type=FOLDER, metavar="DIR", help="Model directory; default: the newest under models/.")
@click.option("--format", "form", type=click.Choice(["txt", "json"]), default="txt", show_default=True)
@decoder_options
@device_option
def transcribe(files: tuple[str, ...], model: Path | None, form: str, device: str, decoding: list[str]) -> None:
    """Transcribe audio files of any format ("-" reads standard input)."""
    from asr.transcribe.formats import as_json, as_text
    from asr.transcribe.recogniser import Recogniser

    recogniser = Recogniser.load(_model_directory(model), device=device, decoding=decoding)
    failures = 0
    for file in files:
        try:
            recording = sys.stdin.buffer.read() if file == "-" else Path(file)
            transcript = recogniser.transcribe(recording)
        except AsrError as error:
            click.echo(f"asr: {error}", err=True)
            failures += 1
            continue
        if form == "json":
            click.echo(as_json(transcript, file))
        else:
            click.echo(as_text(transcript) if len(files) == 1 else f"{file}\t{as_text(transcript)}")
    if failures:
        raise click.exceptions.Exit(1)


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
    from asr.transcribe import formats
    from asr.transcribe.recogniser import Recogniser

    if (text is None) == (inline is None):
        raise AsrError("the text to align is a file, TEXT, or the words after --text: give one of them")
    if audio == text == "-":
        raise AsrError("the audio and the text cannot both be read from standard input")
    words = inline if text is None else _read_text(text)
    recogniser = Recogniser.load(_model_directory(model), device=device)
    recording = sys.stdin.buffer.read() if audio == "-" else Path(audio)
    aligned = recogniser.align(recording, words or "", skip_unknown=skip_unknown)
    lost = [word.text for word in aligned.words if not word.found]
    if len(lost) == len(aligned.words):
        raise AsrError(f"{audio} holds none of the {len(lost)} words of the text: is it the right text?")
    if lost:
        some = ", ".join(lost[:20]) + (f" and {len(lost) - 20} more" if len(lost) > 20 else "")
        click.echo(f"not found, {len(lost)} of {len(aligned.words)} words: {some}", err=True)
    document = {
        "ctm": lambda: formats.as_ctm(aligned, Path(audio).stem),
        "textgrid": lambda: formats.as_textgrid(aligned),
        "json": lambda: formats.as_aligned_json(aligned, audio),
        "srt": lambda: formats.as_srt(aligned),
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


def _model_directory(given: Path | None) -> Path:
    """The model asked for, or the newest, said aloud."""
    from asr.checkpoint import newest

    if given is None:
        given = newest(Path("models"))
        click.echo(f"using {given}", err=True)
    return given


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
        words, interval = score.words, score.interval()
        ends = f" [{interval.low:.2%}, {interval.high:.2%}]" if interval else ""
        click.echo(
            f"{score.name}: WER {words.rate:.2%}{ends}  CER {score.characters.rate:.2%}  "
            f"{words.reference_length} words in {len(score.utterances)} utterances: {words.substitutions} substituted, "
            f"{words.deletions} deleted, {words.insertions} inserted"
        )
        for utterance in score.worst(worst):
            click.echo(f"  {utterance.id} ({utterance.words.errors} errors)")
            click.echo(f"    ref: {utterance.reference}")
            click.echo(f"    hyp: {utterance.hypothesis}")
        for rejection in score.unreadable:
            click.echo(f"  not scored: {rejection.id}: {rejection.reason}", err=True)
    click.echo(f"real-time factor {scoring.real_time_factor(scores):.4f}")
    if scores_file:
        scoring.write_scores(scores_file, scores)
    if hypotheses:
        scoring.write_hypotheses(hypotheses, scores)
    if report:
        _write_report(report, recogniser, model, scores)
    if calibration:
        measured = scoring.reliability_of(scores)
        draw_reliability(measured, calibration, ", ".join(score.name for score in scores))
        click.echo(f"{calibration}: expected calibration error {measured.error:.3f} over {measured.counts.sum()} words")
    if any(score.unreadable for score in scores):
        raise click.exceptions.Exit(1)


def _write_report(path: Path, recogniser: Recogniser, model: Path, scores: Sequence[SetScore]) -> None:
    from asr import compare
    from asr import evaluate as scoring
    from asr.data.transcripts import Line
    from asr.report import write_report

    systems = [
        compare.aligned(
            score.name,
            [Line(id=u.id, text=u.reference, speaker=u.speaker, duration=u.duration) for u in score.utterances],
            [u.hypothesis for u in score.utterances],
        )
        for score in scores
    ]
    decoder = recogniser.recipe.decoder.model_dump(exclude_none=True)
    decoding = ", ".join(f"{key} {value}" for key, value in decoder.items() if value not in ({}, ()))
    facts = [f"Decoder: {decoding}; real-time factor {scoring.real_time_factor(scores):.4f}."]
    facts += [f"{s.name}: {len(s.unreadable)} utterances could not be read." for s in scores if s.unreadable]
    write_report(path, f"{model} evaluated", systems, facts=facts, reliability=scoring.reliability_of(scores))
    click.echo(f"{path}: the report")

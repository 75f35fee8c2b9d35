"""asr evaluate."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from asr.cli.options import (
    COMPILING,
    FOLDER,
    MODEL,
    chosen_sources,
    data_option,
    decoder_options,
    device_option,
    engine_option,
    progress_bar,
    said_if_slow,
    threads_option,
)
from asr.cli.terminal import say

if TYPE_CHECKING:
    from asr import recipe
    from asr.checkpoint import Engine
    from asr.cli.options import Sources
    from asr.evaluate import SetScore
    from asr.transcribe.recogniser import Recogniser


@click.command()
@click.argument("model", type=MODEL)
@click.argument("sets", nargs=-1, type=FOLDER, metavar="[MANIFEST|RECIPE]...")
@click.option(
    "--split", type=click.Choice(["train", "dev", "test"]), default="test", show_default=True, help="Of the recipe."
)
@click.option("--json", "scores_file", type=FOLDER, metavar="FILE", help="Write the scores as JSON.")
@click.option("--hypotheses", type=FOLDER, metavar="FILE", help="Write id, reference, hypothesis as JSON lines.")
@click.option(
    "--doubtful",
    type=click.FloatRange(min=0, min_open=True),
    metavar="RATE",
    help="Name the utterances whose character error rate is above RATE (1 is 100 %), as a recipe's leave_out.",
)
@click.option("--report", type=FOLDER, metavar="FILE.html", help="Write one page to look at, with every utterance.")
@click.option("--calibration", type=FOLDER, metavar="FILE.png", help="Draw how far words' confidences can be believed.")
@click.option("--worst", default=5, show_default=True, help="How many of the worst utterances to show.")
@click.option("--weights", type=click.Choice(["best", "last"]), default="best", show_default=True)
@decoder_options
@data_option
@device_option
@engine_option
@threads_option
def evaluate(
    model: Path,
    sets: tuple[Path, ...],
    split: str,
    scores_file: Path | None,
    hypotheses: Path | None,
    doubtful: float | None,
    report: Path | None,
    calibration: Path | None,
    worst: int,
    weights: str,
    data: str | None,
    device: str,
    engine: Engine,
    decoding: list[str],
) -> None:
    """Word and character error rates of MODEL on manifests, on another recipe's split, or on its own recipe's."""
    from rich.progress import TextColumn, TimeElapsedColumn

    from asr import checkpoint
    from asr import evaluate as scoring
    from asr.report.reliability import draw_reliability
    from asr.transcribe.recogniser import Recogniser

    chosen = {"best": checkpoint.WEIGHTS, "last": checkpoint.LAST_WEIGHTS}[weights]
    recogniser = Recogniser.load(model, engine=engine, device=device, weights=chosen, decoding=decoding)
    wanted = chosen_sources(sets, recogniser.recipe, split, data)
    with said_if_slow(COMPILING):
        recogniser.warm_up()  # which the real-time factor leaves out
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
        say(
            f"{score.name}: {system.summary()}  {f'PER {score.phones.rate:.2%}  ' if score.phones else ''}"
            f"{counts.reference_length} {system.unit}s in {len(system.utterances)} utterances: "
            f"{counts.substitutions} substituted, {counts.deletions} deleted, {counts.insertions} inserted"
        )
        for utterance in system.worst()[:worst]:
            say(f"  {utterance.line.id} ({utterance.counts(system.unit).errors} errors)")
            say(f"    ref: {utterance.line.text}")
            say(f"    hyp: {utterance.hypothesis}")
        for rejection in score.unreadable:
            say(f"  not scored: {rejection.id}: {rejection.reason}", err=True)
    say(f"real-time factor {scoring.real_time_factor(scores):.4f}")
    if scores_file:
        scoring.write_scores(scores_file, scores)
    if doubtful is not None:
        for score in scores:
            ids = scoring.doubtful(score, above=doubtful)
            say(
                f"{score.name}: {len(ids)} of {len(score.system.utterances)} utterances have a CER above {doubtful:.0%}"
            )
            say(f"  leave_out: {json.dumps(ids, ensure_ascii=False)}")
    if hypotheses:
        scoring.write_hypotheses(hypotheses, scores)
    if report:
        _write_report(report, recogniser, model, scores, wanted)
    if calibration:
        measured = scoring.reliability_of(scores)
        draw_reliability(measured, calibration, ", ".join(score.name for score in scores))
        say(f"{calibration}: expected calibration error {measured.error:.3f} over {measured.counts.sum()} words")
    if any(score.unreadable for score in scores):
        raise click.exceptions.Exit(1)


def _write_report(
    path: Path, recogniser: Recogniser, model: Path, scores: Sequence[SetScore], sets: Sequence[tuple[Sources, Path]]
) -> None:
    from asr import checkpoint
    from asr import evaluate as scoring
    from asr.data.corpora import name_of
    from asr.recipe.summary import describe
    from asr.report import write_report
    from asr.report.clips import SOUND_SECONDS
    from asr.report.pages import public_name
    from asr.report.pictures import clips_of

    meta = checkpoint.read_meta(model)
    facts = [
        f"{describe(recogniser.recipe.encoder)}; {meta.get('parameters', 0) / 1e6:.2f} M parameters; trained on "
        f"{', '.join(public_name(name_of(source)) for source in recogniser.recipe.corpora.train)}.",
        f"Decoder: {described(recogniser.recipe.decoder)}; real-time factor {scoring.real_time_factor(scores):.4f}.",
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
    say(f"{path}: the report")


def described(decoder: recipe.Decoder) -> str:
    """For a page that people pass on: of a path its last part alone, and no calibration, which changes no word."""
    settings = decoder.model_dump(exclude_none=True, exclude={"calibration"})
    for key in ("language_model", "lexicon", "file"):
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

"""The command line: parse, call, print. An AsrError is one line and exit code 1."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from asr import __version__
from asr.errors import AsrError

FOLDER = click.Path(path_type=Path)


class _Commands(click.Group):
    """Turns an AsrError, an interrupt or a closed pipe into a sentence and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AsrError as error:
            click.echo(f"asr: {error}", err=True)
        except BrokenPipeError:
            sys.stderr.close()
        except OSError as error:  # a full disk, a folder that may not be written: wherever it is met
            click.echo(f"asr: {error.filename or 'writing'}: {error.strerror or error}", err=True)
        except KeyboardInterrupt:
            click.echo("asr: stopped", err=True)
        return ctx.exit(1)


def _progress(*columns: Any) -> Any:
    """A progress bar on standard error; nothing is redirected, so that loader processes inherit none of its locks."""
    from rich.console import Console
    from rich.progress import Progress

    return Progress(
        *columns, console=Console(stderr=True), transient=True, redirect_stdout=False, redirect_stderr=False
    )


data_option = click.option(
    "--data", metavar="DIR", help="Folder in which relative corpus paths start; else $ASR_DATA, else the recipe's."
)
device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
set_option = click.option(
    "--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Override a recipe key: encoder.hidden=256."
)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="asr")
def main() -> None:
    """Train, run and measure your own speech recogniser."""


@main.command()
@click.argument("recipe", type=FOLDER)
@click.option("--out", type=FOLDER, metavar="DIR", help="Model directory; default models/RECIPE.")
@click.option("--resume", is_flag=True, help="Go on with the run in DIR, or start it where there is none.")
@data_option
@set_option
@device_option
def train(
    recipe: Path, out: Path | None, resume: bool, data: str | None, overrides: tuple[str, ...], device: str
) -> None:
    """Train the model that RECIPE describes."""
    from asr.recipe.reading import load_recipe
    from asr.runtime import data_root
    from asr.train.loop import train

    settings = load_recipe(recipe, overrides)
    root = data_root(data, settings.data)
    directory = out or Path("models") / recipe.stem
    meta = train(settings.model_copy(update={"data": str(root)}), directory, root=root, device=device, resume=resume)
    results, spent = meta["results"], meta["training"]
    click.echo(
        f"{directory}: dev WER {results['dev']['wer']:.2%}, CER {results['dev']['cer']:.2%} at epoch "
        f"{results['best_epoch']} of {spent['epochs']}, {meta['parameters'] / 1e6:.2f} M parameters, "
        f"{spent['minutes']:.1f} min"
    )


@main.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--model", type=FOLDER, metavar="DIR", help="Model directory; default: the newest under models/.")
@click.option("--format", "form", type=click.Choice(["txt", "json"]), default="txt", show_default=True)
@device_option
def transcribe(files: tuple[str, ...], model: Path | None, form: str, device: str) -> None:
    """Transcribe audio files of any format ("-" reads standard input)."""
    from asr.checkpoint import newest
    from asr.transcribe.formats import as_json, as_text
    from asr.transcribe.recogniser import Recogniser

    if model is None:
        model = newest(Path("models"))
        click.echo(f"using {model}", err=True)
    recogniser = Recogniser.load(model, device=device)
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


@main.command()
@click.argument("model", type=FOLDER)
@click.argument("sets", nargs=-1, type=FOLDER, metavar="[MANIFEST|RECIPE]...")
@click.option(
    "--split", type=click.Choice(["train", "dev", "test"]), default="test", show_default=True, help="Of the recipe."
)
@click.option("--json", "scores_file", type=FOLDER, metavar="FILE", help="Write the scores as JSON.")
@click.option("--hypotheses", type=FOLDER, metavar="FILE", help="Write id, reference, hypothesis as JSON lines.")
@click.option("--worst", default=5, show_default=True, help="How many of the worst utterances to show.")
@click.option("--weights", type=click.Choice(["best", "last"]), default="best", show_default=True)
@data_option
@device_option
def evaluate(
    model: Path,
    sets: tuple[Path, ...],
    split: str,
    scores_file: Path | None,
    hypotheses: Path | None,
    worst: int,
    weights: str,
    data: str | None,
    device: str,
) -> None:
    """Word and character error rates of MODEL on manifests, on another recipe's split, or on its own recipe's."""
    from rich.progress import TextColumn, TimeElapsedColumn

    from asr import checkpoint
    from asr import evaluate as scoring
    from asr.recipe import Recipe
    from asr.recipe.reading import load_recipe
    from asr.runtime import data_root
    from asr.transcribe.recogniser import Recogniser

    chosen = {"best": checkpoint.WEIGHTS, "last": checkpoint.LAST_WEIGHTS}[weights]
    recogniser = Recogniser.load(model, device=device, weights=chosen)

    def sources(settings: Recipe) -> Any:
        return scoring.sources_of(settings, split), data_root(data, settings.data)

    wanted = [
        sources(load_recipe(path)) if path.suffix in {".yaml", ".yml"} else ((scoring.manifest_source(path),), Path())
        for path in sets
    ] or [sources(recogniser.recipe)]
    scoring.check_names([source for members, _ in wanted for source in members])
    columns = (TextColumn("evaluating, {task.completed:.0f} s of audio"), TimeElapsedColumn())
    scores = []
    with _progress(*columns) as progress:
        task = progress.add_task("", total=None)
        for members, root in wanted:
            scores += scoring.evaluate(
                recogniser, members, root=root, advance=lambda seconds: progress.advance(task, seconds)
            )
    for score in scores:
        words, (low, high) = score.words, score.interval()
        click.echo(
            f"{score.name}: WER {words.rate:.2%} [{low:.2%}, {high:.2%}]  CER {score.characters.rate:.2%}  "
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
    if any(score.unreadable for score in scores):
        raise click.exceptions.Exit(1)


@main.command()
@click.argument("recipe", type=FOLDER)
@data_option
@set_option
@device_option
def check(recipe: Path, data: str | None, overrides: tuple[str, ...], device: str) -> None:
    """Read every corpus of RECIPE once and report what training on it would meet and cost."""
    from rich.console import Console
    from rich.progress import TextColumn, TimeElapsedColumn

    from asr.recipe.reading import load_recipe
    from asr.runtime import data_root
    from asr.train import preflight

    settings = load_recipe(recipe, overrides)
    columns = (TextColumn("{task.description}: {task.completed} utterances"), TimeElapsedColumn())
    with _progress(*columns) as progress:
        tasks = {name: progress.add_task(name, total=None, visible=False) for name in preflight.SPLITS}
        report = preflight.check(
            settings,
            root=data_root(data, settings.data),
            device=device,
            advance=lambda split, count: progress.update(tasks[split], advance=count, visible=True),
        )
    console = Console(soft_wrap=True, highlight=False)
    for part in preflight.render(report):
        console.print(part)
    if empty := [split.name for split in report.splits if not split.durations]:
        raise AsrError(f"no usable utterance in {' and '.join(empty)}")

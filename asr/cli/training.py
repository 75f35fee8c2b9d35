"""asr train, asr check, asr text."""

from __future__ import annotations

from pathlib import Path

import click

from asr.cli.options import FOLDER, data_option, device_option, progress_bar, set_option, threads_option
from asr.errors import AsrError


@click.command()
@click.argument("recipe", type=FOLDER)
@click.option("--out", type=FOLDER, metavar="DIR", help="Model directory; default models/RECIPE.")
@click.option("--resume", is_flag=True, help="Go on with the run in DIR, or start it where there is none.")
@data_option
@set_option
@device_option
@threads_option
def train(
    recipe: Path, out: Path | None, resume: bool, data: str | None, overrides: tuple[str, ...], device: str
) -> None:
    """Train the model that RECIPE describes."""
    from asr.recipe.reading import load_recipe
    from asr.runtime import data_root
    from asr.train.acoustic import train_acoustic_model

    settings = load_recipe(recipe, overrides)
    root = data_root(data, settings.data)
    directory = out or Path("models") / recipe.stem
    meta = train_acoustic_model(
        settings.model_copy(update={"data": str(root)}), directory, root=root, device=device, resume=resume
    )
    results, spent = meta["results"], meta["training"]
    rates = ", ".join(
        f"{name.upper()} {results['dev'][name]:.2%}" for name in ("wer", "cer", "per") if name in results["dev"]
    )
    click.echo(
        f"{directory}: dev {rates} at epoch {results['best_epoch']} of {spent['epochs']}, "
        f"{meta['parameters'] / 1e6:.2f} M parameters, {spent['minutes']:.1f} min"
    )


@click.command()
@click.argument("recipe", type=FOLDER)
@data_option
@set_option
@device_option
@threads_option
def check(recipe: Path, data: str | None, overrides: tuple[str, ...], device: str) -> None:
    """Read every corpus of RECIPE once and report what training on it would meet and cost."""
    from rich.console import Console
    from rich.progress import TextColumn, TimeElapsedColumn

    from asr.recipe.reading import load_recipe
    from asr.runtime import data_root
    from asr.train import preflight

    settings = load_recipe(recipe, overrides)
    columns = (TextColumn("{task.description}: {task.completed} utterances"), TimeElapsedColumn())
    with progress_bar(*columns) as progress:
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


@click.command()
@click.argument("recipe", type=FOLDER)
@click.option(
    "--split", type=click.Choice(["train", "dev", "test"]), default="train", show_default=True, help="Of the recipe."
)
@data_option
@set_option
def text(recipe: Path, split: str, data: str | None, overrides: tuple[str, ...]) -> None:
    """Print the transcripts of RECIPE's corpora, normalised, one a line: asr text RECIPE | asr lm train - -o lm.arpa"""
    from asr.data.batches import text_of
    from asr.data.corpora import open_corpora
    from asr.evaluate import sources_of
    from asr.recipe.reading import load_recipe
    from asr.runtime import data_root

    settings = load_recipe(recipe, overrides)
    for cut in open_corpora(sources_of(settings, split), data_root(data, settings.data)).whole():
        click.echo(text_of(cut, settings.text.form))

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
        except (KeyboardInterrupt, click.Abort):
            click.echo("asr: stopped", err=True)
        except BrokenPipeError:
            sys.stderr.close()
        ctx.exit(1)


def data_option(function: Any) -> Any:
    return click.option(
        "--data", metavar="DIR", help="Folder in which relative corpus paths start; else $ASR_DATA, else the recipe's."
    )(function)


def device_option(function: Any) -> Any:
    return click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")(function)


def set_option(function: Any) -> Any:
    return click.option(
        "--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Override a recipe key: encoder.hidden=256."
    )(function)


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
def train(recipe: Path, out: Path | None, resume: bool, data: str | None, overrides: tuple[str, ...], device: str) -> None:
    """Train the model that RECIPE describes."""
    from asr.recipe import load_recipe
    from asr.runtime import data_root
    from asr.train.loop import train

    settings = load_recipe(recipe, overrides)
    root = data_root(data, settings.data)
    directory = out or Path("models") / recipe.stem
    meta = train(settings.model_copy(update={"data": str(root)}), directory, root=root, device=device, resume=resume)
    dev = meta["results"]["dev"]
    click.echo(
        f"{directory}: dev WER {dev['wer']:.2%}, CER {dev['cer']:.2%} at epoch {meta['results']['best_epoch']} of "
        f"{meta['training']['epochs']}, {meta['parameters'] / 1e6:.2f} M parameters, {meta['training']['minutes']:.1f} min"
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
            recording = click.get_binary_stream("stdin").read() if file == "-" else Path(file)
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

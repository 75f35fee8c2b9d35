"""asr text."""

from __future__ import annotations

from pathlib import Path

import click

from asr.cli.options import FOLDER, data_option, set_option
from asr.cli.terminal import write


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
    from asr.data.corpora import open_corpora, sources_of
    from asr.files import data_root
    from asr.recipe.reading import load_recipe

    settings = load_recipe(recipe, overrides)
    for cut in open_corpora(sources_of(settings, split), data_root(data, settings.data)).whole():
        write(text_of(cut, settings.text.form))

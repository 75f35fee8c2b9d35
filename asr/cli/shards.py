"""asr shards."""

from __future__ import annotations

from pathlib import Path

import click

from asr.cli.options import FOLDER, data_option, progress_bar, set_option
from asr.cli.terminal import say, write

HOURS = 3.0
NAMED = 20
"""Utterances named among those left out; the JSON file names all."""


@click.command()
@click.argument("recipe", type=FOLDER)
@click.option("-o", "--out", type=FOLDER, metavar="DIR", required=True, help="Folder for a Shar of each split.")
@click.option(
    "--split", type=click.Choice(["train", "dev", "test"]), default="train", show_default=True, help="Of the recipe."
)
@click.option(
    "--shard-hours",
    type=click.FloatRange(min=0, min_open=True),
    default=HOURS,
    show_default=True,
    help="Of audio in a tar file.",
)
@data_option
@set_option
def shards(
    recipe: Path, out: Path, split: str, shard_hours: float, data: str | None, overrides: tuple[str, ...]
) -> None:
    """Write a corpus of RECIPE to tar files (lhotse Shar), which training reads in order, at a disk's speed.

    Audio is kept without loss. What was begun is gone on with. The lines to put into the recipe are printed.
    """
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

    from asr.data.corpora import open_corpora, sources_of
    from asr.data.listing import Listing
    from asr.data.shards import write_shards
    from asr.files import data_root
    from asr.recipe.reading import load_recipe

    settings = load_recipe(recipe, overrides)
    listing = Listing(open_corpora(sources_of(settings, split), data_root(data, settings.data)))
    hours = listing.seconds.sum() / 3600
    columns = (
        TextColumn("{task.fields[done]:.2f} of {task.fields[hours]:.2f} hours"),
        BarColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with progress_bar(*columns) as progress:
        task = progress.add_task("", total=hours, done=0.0, hours=hours, left="")

        def advance(seconds: float) -> None:
            done = progress.tasks[0].completed + seconds / 3600
            remaining = progress.tasks[0].time_remaining
            left = "" if remaining is None else f"{remaining / 60:.0f} min left"
            progress.update(task, advance=seconds / 3600, done=done, left=left)

        written = write_shards(listing, out / split, shard_hours=shard_hours, advance=advance)
    for rejection in written.rejected[:NAMED]:
        say(f"left out: {rejection.id}: {rejection.reason}", err=True)
    more = f"; {len(written.rejected)} left out, all named in {written.folder}.json" if written.rejected else ""
    say(
        f"{written.folder}: {written.utterances} utterances, {written.seconds / 3600:.2f} hours, in "
        f"{written.shards} shards{more}",
        err=True,
    )
    write("corpora:")
    write(f"  {split}:")
    write(f'    - {{kind: lhotse, name: "{split}", path: "{written.folder.absolute()}"}}')

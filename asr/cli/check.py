"""asr check."""

from __future__ import annotations

from pathlib import Path

import click

from asr.cli.options import FOLDER, data_option, device_option, progress_bar, set_option, start_option, threads_option
from asr.cli.terminal import console
from asr.errors import AsrError


@click.command()
@click.argument("recipe", type=FOLDER)
@start_option
@data_option
@set_option
@device_option
@threads_option
def check(recipe: Path, start: list[str], data: str | None, overrides: tuple[str, ...], device: str) -> None:
    """Read every corpus of RECIPE once and report what training on it would meet and cost."""
    from rich.progress import TextColumn, TimeElapsedColumn

    from asr.files import data_root
    from asr.recipe.reading import load_recipe
    from asr.train import check as checking

    settings = load_recipe(recipe, [*start, *overrides])
    columns = (TextColumn("{task.description}: {task.completed} utterances"), TimeElapsedColumn())
    with progress_bar(*columns) as progress:
        tasks = {name: progress.add_task(name, total=None, visible=False) for name in checking.SPLITS}
        report = checking.check(
            settings,
            root=data_root(data, settings.data),
            device=device,
            advance=lambda split, count: progress.update(tasks[split], advance=count, visible=True),
        )
    shown = console()
    for part in checking.render(report):
        shown.print(part)
    if empty := [split.name for split in report.splits if not split.durations]:
        raise AsrError(f"no usable utterance in {' and '.join(empty)}")

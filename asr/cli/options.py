"""What several commands share: option decorators and the progress bar."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

FOLDER = click.Path(path_type=Path)


def progress_bar(*columns: Any) -> Any:
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

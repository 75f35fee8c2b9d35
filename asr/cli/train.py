"""asr train."""

from __future__ import annotations

from pathlib import Path

import click

from asr.cli.options import FOLDER, data_option, device_option, going_on, set_option, start_option, threads_option
from asr.cli.terminal import say


@click.command()
@click.argument("recipe", type=FOLDER)
@click.option("--out", type=FOLDER, metavar="DIR", help="Model directory; default models/RECIPE.")
@click.option("--resume", is_flag=True, help="Go on with the run in DIR, or start it where there is none.")
@start_option
@data_option
@set_option
@device_option
@threads_option
def train(
    recipe: Path,
    out: Path | None,
    resume: bool,
    start: list[str],
    data: str | None,
    overrides: tuple[str, ...],
    device: str,
) -> None:
    """Train the model that RECIPE describes.

    On N GPUs, or in N processes: torchrun --nproc-per-node N -m asr train RECIPE.
    """
    from asr import runtime
    from asr.files import data_root
    from asr.recipe.reading import load_recipe
    from asr.train.acoustic import train_acoustic_model

    settings = load_recipe(recipe, [*start, *overrides])
    root = data_root(data, settings.data)
    directory = out or Path("models") / recipe.stem
    with going_on(), runtime.joined(device):
        meta = train_acoustic_model(
            settings.model_copy(update={"data": str(root)}), directory, root=root, device=device, resume=resume
        )
        if not runtime.is_first():
            return
    results, spent = meta["results"], meta["training"]
    rates = ", ".join(
        f"{name.upper()} {results['dev'][name]:.2%}" for name in ("wer", "cer", "per") if name in results["dev"]
    )
    say(
        f"{directory}: dev {rates} at epoch {results['best_epoch']} of {spent['epochs']}, "
        f"{meta['parameters'] / 1e6:.2f} M parameters, {spent['minutes']:.1f} min"
    )
    for remark in spent.get("remarks", ()):
        say(f"warning: {remark}", err=True)

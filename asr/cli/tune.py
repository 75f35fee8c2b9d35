"""asr tune."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from asr.cli.options import (
    FOLDER,
    MODEL,
    chosen_sources,
    data_option,
    decoder_options,
    device_option,
    engine_option,
    progress_bar,
    threads_option,
)
from asr.cli.terminal import say

if TYPE_CHECKING:
    from asr import recipe

if TYPE_CHECKING:
    from asr.checkpoint import Engine


@click.command()
@click.argument("model", type=MODEL)
@click.argument("sets", nargs=-1, type=FOLDER, metavar="[MANIFEST|RECIPE]...")
@click.option("--split", type=click.Choice(["train", "dev"]), default="dev", show_default=True, help="Of the recipe.")
@decoder_options
@data_option
@device_option
@engine_option
@threads_option
def tune(
    model: Path, sets: tuple[Path, ...], split: str, data: str | None, device: str, engine: Engine, decoding: list[str]
) -> None:
    """Choose the weights of MODEL's language model, and its beam, on a dev set, and keep them in MODEL.

    From then on transcribe and evaluate decode so, unless an option says otherwise. Never tune on a test set.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

    from asr import tune as tuning
    from asr.checkpoint import check_may_change
    from asr.text.tokenise import PhoneTokeniser
    from asr.transcribe.recogniser import Recogniser

    check_may_change(model)
    recogniser = Recogniser.load(model, engine=engine, device=device, decoding=decoding)
    decoder = tuning.weighing(recogniser.decoder)
    wanted = chosen_sources(sets, recogniser.recipe, split, data)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with progress_bar(*columns) as progress:
        task = progress.add_task("listening", total=None)
        dev = tuning.listen(recogniser, wanted, advance=lambda seconds: progress.advance(task, seconds))
        progress.update(task, description="decoding", completed=0, total=tuning.trials(decoder.settings))
        for trial in tuning.tune(decoder, dev):
            choice = trial  # in the end the last one
            progress.advance(task)
    chosen = tuning.keep(model, recogniser, choice.settings, root=model)
    before, after = dev.greedy, choice.words
    unit = "PER" if isinstance(recogniser.tokeniser, PhoneTokeniser) else "WER"
    say(
        f"{model}: {unit} {before.rate:.2%} greedy, WER {after.rate:.2%} with {_weights(decoder.settings, chosen)}, "
        f"of {after.reference_length} words in {len(dev.references)} utterances"
    )


def _weights(asked: recipe.Beam, chosen: recipe.Beam) -> str:
    """What was ``chosen`` where ``asked`` named the language models, an LSTM among them that may have been no help."""
    parts = []
    if chosen.language_model:
        parts += [f"alpha {chosen.alpha:g}", f"beta {chosen.beta:g}", f"unknown {chosen.unknown:g}"]
    if chosen.lstm:
        parts += [f"LSTM weight {chosen.lstm.weight:g}", f"LSTM beta {chosen.lstm.beta:g}"]
    elif asked.lstm:
        parts.append("the LSTM left out")
    return ", ".join([*parts, f"beam {chosen.width}"])

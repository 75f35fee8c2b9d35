"""The training loop on the real loader, beside the same loop fed with batches held in memory."""

from __future__ import annotations

import itertools
import statistics
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from asr import files, runtime
from asr.model.acoustic import AcousticModel
from asr.recipe import reading
from asr.records import Batch
from asr.train.acoustic import loss_of
from asr.train.prepare import prepare
from asr.train.step import Trainer
from timing import alternate, device_option, json_option, ratios, repeats_option, report, spread


@click.command()
@click.argument("recipe_path", default="recipes/an4.yaml", metavar="[RECIPE]")
@click.option("--data", metavar="DIR", help="Where relative corpus paths start; else $ASR_DATA, else the recipe's.")
@click.option("--batches", default=40, show_default=True)
@click.option(
    "--augment/--no-augment", default=False, help="With the recipe's speed perturbation, noise and reverberation."
)
@repeats_option(default=3)
@device_option
@json_option
def main(
    recipe_path: str, data: str | None, batches: int, augment: bool, repeats: int, device: str, path: Path | None
) -> None:
    """Audio hours per hour of the training loop on the real loader, against the same batches held in memory."""
    on = runtime.pick_device(device)
    overrides = [] if augment else ["augment.speed=[1.0]", "augment.noise=null", "augment.reverb=null"]
    settings = reading.load_recipe(Path(recipe_path), overrides)
    with tempfile.TemporaryDirectory() as folder:
        corpora = prepare(settings, Path(folder), root=files.data_root(data, settings.data), resume=False)
        model = AcousticModel(settings, len(corpora.tokeniser.tokens)).to(on).train()
    trainer = Trainer(model, loss_of, settings.training)

    def loaded() -> Iterator[Batch]:
        return itertools.islice(corpora.train(0), batches)

    cached = list(loaded())
    seconds = sum(int(b.waveform_lengths.sum()) for b in cached) / settings.features.sample_rate

    def run(source: Iterable[Batch]) -> None:
        for batch in source:
            trainer.step([batch], settings.training.learning_rate)

    times = alternate({"loader": lambda: run(loaded()), "memory": lambda: run(cached)}, repeats, device=on)
    click.echo(f"{recipe_path}, {len(cached)} batches, {seconds:.0f} s of audio, {on}")
    for name, side in times.items():
        click.echo(f"  {name:8} {spread([seconds / wall for wall in side.wall])} audio hours an hour")
    ratio = statistics.median(ratios(times["memory"].wall, times["loader"].wall))
    report({**times, "audio_seconds": seconds}, ratio, "share of the throughput with batches in memory", path)

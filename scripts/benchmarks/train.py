"""Audio hours an hour of a recipe's whole training loop, which part of it is the limit, and what its LSTMs cost."""

from __future__ import annotations

import functools
import itertools
import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch

from asr import files, recipe, runtime
from asr.model.acoustic import AcousticModel
from asr.model.criterion import build_criterion
from asr.recipe import reading
from asr.recipe.frames import emission_frames
from asr.records import Batch
from asr.train.acoustic import loss_of
from asr.train.prepare import TrainingCorpora, prepare, untrained
from asr.train.step import Trainer
from asr.transcribe.corpus import workers
from encoder import build_pair, step_of_packed, step_of_stack
from timing import Times, alternate, device_option, json_option, ratios, repeats_option, report, spread

ESTIMATE = 5.1e-6
"""Seconds of a time step of one layer and direction, forward and backward: estimated for 768 cells and 16 rows in
float16 on an H100."""
LSTM_OPERATORS = {
    "aten::_cudnn_rnn",
    "aten::_cudnn_rnn_backward",
    "aten::mkldnn_rnn_layer",
    "aten::mkldnn_rnn_layer_backward",
}
PROFILED_BATCHES = 5


@click.command()
@click.argument("recipe_path", default="recipes/an4.yaml", metavar="[RECIPE]")
@click.option("--data", metavar="DIR", help="Where relative corpus paths start; else $ASR_DATA, else the recipe's.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a recipe key.")
@click.option("--batches", default=40, show_default=True, help="Of the first epoch.")
@repeats_option(default=3)
@device_option
@json_option
def main(
    recipe_path: str,
    data: str | None,
    overrides: tuple[str, ...],
    batches: int,
    repeats: int,
    device: str,
    path: Path | None,
) -> None:
    """The training loop of RECIPE, its loader alone, and its steps on batches held in memory, in turn; the time that a
    step spends in LSTM kernels; and the recurrent stack beside packed nn.LSTM.

    What the loader may keep decoded is decoded before, as in a run's later epochs.
    """
    on = runtime.pick_device(device)
    settings = reading.load_recipe(Path(recipe_path), overrides)
    with tempfile.TemporaryDirectory() as folder:
        corpora = prepare(settings, Path(folder), root=files.data_root(data, settings.data), resume=False)
    trainer = build_trainer(corpora, on)

    def loaded() -> Iterator[Batch]:
        return itertools.islice(corpora.train(0), batches)

    held = [batch for batch in loaded() if batch.labels]
    sides: dict[str, Callable[[], Any]] = {
        "whole loop": lambda: take_steps(trainer, loaded()),
        "loader alone": lambda: sum(1 for _ in loaded()),
        "steps alone": lambda: take_steps(trainer, held),
    }
    _say_what(recipe_path, corpora.recipe, held, trainer)
    times = alternate(sides, repeats, device=on)
    seconds = _seconds(held, corpora.recipe)
    _say_throughput(times, seconds, on)
    figures = {
        **times,
        "audio_seconds": seconds,
        "lstm": measure_kernels(trainer, held[:PROFILED_BATCHES], corpora.recipe),
        "against_packed": beside_packed(trainer, held[len(held) // 2], corpora.recipe, repeats),
    }
    ratio = statistics.median(ratios(times["steps alone"].wall, times["whole loop"].wall))
    report(figures, ratio, "the loop's speed as a share of its speed with batches in memory", path)


def build_trainer(corpora: TrainingCorpora, device: torch.device) -> Trainer[AcousticModel, Batch]:
    """A trainer of the recipe's untrained model, with the criterion of its last epochs."""
    settings = corpora.recipe
    tokens = len(corpora.tokeniser.tokens)
    criterion = build_criterion(settings.training.criterion, corpora.transcripts(), tokens)
    training = settings.training
    loss = functools.partial(
        loss_of, criterion=criterion, intermediate=training.intermediate, consistency=training.consistency
    )
    return Trainer(untrained(settings, corpora.tokeniser).to(device).train(), loss, training)


def take_steps(trainer: Trainer[AcousticModel, Batch], batches: Iterable[Batch]) -> None:
    settings = trainer.settings
    learnt = (batch for batch in batches if batch.labels)
    while group := list(itertools.islice(learnt, settings.accumulate)):
        trainer.step(group, settings.learning_rate)


def _say_what(name: str, settings: recipe.Recipe, held: list[Batch], trainer: Trainer[AcousticModel, Batch]) -> None:
    encoder, device = settings.encoder, trainer.device
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    click.echo(
        f"{name}, {encoder.kind} {encoder.layers}x{encoder.hidden}, emissions of "
        f"{1000 * trainer.model.frame_shift:g} ms, {trainer.precision}, {device} ({where}), "
        f"{workers(settings)} loader processes; {len(held)} batches of "
        f"{statistics.mean(map(len, held)):.1f} utterances, {_seconds(held, settings):.0f} s of audio"
    )


def _seconds(batches: list[Batch], settings: recipe.Recipe) -> float:
    return sum(int(batch.waveform_lengths.sum()) for batch in batches) / settings.features.sample_rate


def _say_throughput(times: dict[str, Times], seconds: float, device: torch.device) -> None:
    unit = "GPU-hour" if device.type == "cuda" else "core-hour"
    for name, side in times.items():
        by_unit, by_wall = ([seconds / value for value in clock] for clock in (side.best(device), side.wall))
        wall = "" if device.type == "cuda" else f", {spread(by_wall)} an hour"
        click.echo(f"  {name:14} {spread(by_unit)} audio hours a {unit}{wall}")
    loader, steps = (statistics.median(times[f"{name} alone"].wall) for name in ("loader", "steps"))
    click.echo(
        f"  {'the loader' if loader > steps else 'the network'} is the limit: {loader / steps:.2f} times as long"
    )


# ------------------------------------------------------------------------------------------------ what LSTMs cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernels:
    """``share`` of a step's time that recurrent kernels take, and seconds of one layer's and direction's time step,
    forward and backward. ``bound`` is how many times as fast as real time the loop were if nothing took time but time
    steps of the ESTIMATE."""

    share: float
    time_step: float
    bound: float


def measure_kernels(
    trainer: Trainer[AcousticModel, Batch], batches: list[Batch], settings: recipe.Recipe
) -> Kernels | None:
    """None where the network does not recur, or without a kernel of cuDNN or oneDNN."""
    cuda = trainer.device.type == "cuda"
    activities = [torch.profiler.ProfilerActivity.CPU] + [torch.profiler.ProfilerActivity.CUDA] * cuda
    with torch.profiler.profile(activities=activities) as profiler:
        take_steps(trainer, batches)
    rows = profiler.key_averages()
    own = {
        row.key: row.self_device_time_total if cuda else row.self_cpu_time_total for row in rows if _counts(row, cuda)
    }
    whole = sum(own.values())
    click.echo(f"  of a step's time on the {'GPU' if cuda else 'CPU'}:")
    for key in sorted(own, key=own.__getitem__, reverse=True)[:8]:
        click.echo(f"    {own[key] / whole:6.1%}  {key[:90]}")
    lstm = sum(
        row.device_time_total if cuda else row.cpu_time_total for row in rows if row.key in LSTM_OPERATORS
    )  # microseconds
    if not lstm or not isinstance(settings.encoder, recipe.Recurrent):
        click.echo("  no recurrent kernel of cuDNN or oneDNN ran")
        return None
    layers = settings.encoder.layers * (1 + settings.encoder.bidirectional)
    steps = layers * sum(_frames(batch.waveforms.shape[1], settings) for batch in batches)
    kernels = Kernels(
        share=lstm / whole, time_step=1e-6 * lstm / steps, bound=_seconds(batches, settings) / (steps * ESTIMATE)
    )
    click.echo(
        f"  recurrent kernels: {kernels.share:.1%} of it, {1e6 * kernels.time_step:.2f} us a time step of a layer and "
        f"direction, forward and backward; at the {1e6 * ESTIMATE:g} us estimated for 768 cells and 16 rows in float16 "
        f"on an H100 they would read {kernels.bound:,.0f} hours an hour"
    )
    return kernels


def _counts(row: Any, cuda: bool) -> bool:
    """Whether a profiler's row is a part of the time: of a GPU, kernels are, and not the operators that start them."""
    device = torch.autograd.DeviceType
    return row.device_type == device.CUDA and not row.is_user_annotation if cuda else row.device_type == device.CPU


def _frames(samples: int, settings: recipe.Recipe) -> int:
    """Emissions of so many samples."""
    return emission_frames(samples, settings.features, settings.encoder.conv)


def beside_packed(
    trainer: Trainer[AcousticModel, Batch], batch: Batch, settings: recipe.Recipe, repeats: int
) -> list[float] | None:
    """How many times as fast as packed nn.LSTM the recurrent stack is, forward and backward, on noise of the batch's
    shape, run by run. None where the recipe has no bidirectional LSTM, or one that projects."""
    encoder, device = settings.encoder, trainer.device
    if not isinstance(encoder, recipe.Lstm) or not encoder.bidirectional or encoder.projection:
        return None
    lengths = torch.tensor([_frames(samples, settings) for samples in batch.waveform_lengths.tolist()])
    inputs = trainer.model.encoder.local_size
    stack, packed, _ = build_pair(encoder.layers, encoder.hidden, inputs, device)
    values = torch.randn(len(batch), int(lengths.max()), inputs, device=device)

    def under_autocast(step: Callable[[], None]) -> None:
        with runtime.autocast(device, trainer.precision):
            step()

    sides = {"ours": step_of_stack(stack, values, lengths), "packed": step_of_packed(packed, values, lengths)}
    times = alternate(
        {name: functools.partial(under_autocast, step) for name, step in sides.items()}, repeats, device=device
    )
    lead = ratios(times["packed"].best(device), times["ours"].best(device))
    click.echo(
        f"  the recurrent stack on {len(batch)} rows of {int(lengths.max())} frames: {spread(lead)} times as fast as "
        "packed nn.LSTM"
    )
    return lead

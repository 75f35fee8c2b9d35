"""Milliseconds of a training step, and of each criterion alone."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch

from asr import runtime
from asr.model.acoustic import AcousticModel
from asr.model.criterion import Criterion, CtcCrf, ctc_loss, estimate_ngram
from asr.recipe import reading
from asr.records import Batch
from timing import alternate, device_option, json_option, ratios, repeats_option, report, spread


@click.command()
@click.argument("recipe_path", default="recipes/mini_librispeech.yaml", metavar="[RECIPE]")
@click.option("--utterances", default=10, show_default=True)
@click.option("--seconds", default=12.0, show_default=True, help="Of noise in each.")
@click.option("--tokens", default=40, show_default=True)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a recipe key.")
@repeats_option(default=5)
@device_option
@json_option
def main(
    recipe_path: str,
    utterances: int,
    seconds: float,
    tokens: int,
    overrides: tuple[str, ...],
    repeats: int,
    device: str,
    path: Path | None,
) -> None:
    """Milliseconds of a training step on RECIPE's network, forward and backward, and of each criterion alone."""
    on = runtime.pick_device(device)
    settings = reading.load_recipe(Path(recipe_path), overrides)
    torch.manual_seed(1)
    model = AcousticModel(settings, tokens).to(on).train()
    batch = noise(utterances, seconds, tokens, settings.features.sample_rate)
    times = alternate(_sides(model, batch, tokens, settings.training.precision), repeats, device=on)
    click.echo(f"{recipe_path}, {utterances} utterances of {seconds:g} s, {on}, {torch.get_num_threads()} threads")
    for name, side in times.items():
        click.echo(f"  {name:22} {spread([1000 * value for value in side.best(on)])} ms")
    shares = ratios(times["ctc-crf, order 2"].best(on), times["step, ctc-crf, order 2"].best(on))
    report(times, statistics.median(shares), "share of a step that CTC-CRF of bigrams takes", path)


def noise(utterances: int, seconds: float, tokens: int, sample_rate: int) -> Batch:
    """A batch of white noise, ten labels a second."""
    samples, labels = round(seconds * sample_rate), round(10 * seconds)
    return Batch(
        ids=("",) * utterances,
        texts=("",) * utterances,
        speakers=("",) * utterances,
        waveforms=torch.randn(utterances, samples),
        waveform_lengths=torch.full((utterances,), samples),
        tokens=torch.randint(1, tokens, (utterances, labels)),
        token_lengths=torch.full((utterances,), labels),
    )


def _sides(model: AcousticModel, batch: Batch, tokens: int, precision: str) -> dict[str, Callable[[], Any]]:
    device = next(model.parameters()).device
    transcripts = batch.tokens.tolist()
    criteria: dict[str, Criterion] = {
        "ctc": ctc_loss,
        "ctc-crf, order 2": CtcCrf(estimate_ngram(transcripts, tokens, 2), ctc=0.1),
        "ctc-crf, order 3": CtcCrf(estimate_ngram(transcripts, tokens, 3), ctc=0.1),
    }
    with runtime.autocast(device, precision):
        emissions = model(batch)
    held = emissions._replace(log_probs=emissions.log_probs.detach().requires_grad_())

    def whole(criterion: Criterion) -> None:
        with runtime.autocast(device, precision):
            loss = criterion(model(batch), batch.tokens, batch.token_lengths)
        (loss / batch.labels).backward()
        model.zero_grad(set_to_none=True)

    def alone(criterion: Criterion) -> None:
        torch.autograd.grad(criterion(held, batch.tokens, batch.token_lengths), held.log_probs)

    sides: dict[str, Callable[[], Any]] = {}
    for name, criterion in criteria.items():
        sides[f"step, {name}"] = functools.partial(whole, criterion)
        sides[name] = functools.partial(alone, criterion)
    return sides

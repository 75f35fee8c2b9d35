"""A training step (forward, backward) of the recurrent stack, beside packed nn.LSTM."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

import click
import torch
from torch import Tensor, nn

from asr import recipe, runtime
from asr.model.encoder import RecurrentStack
from timing import alternate, device_option, json_option, ratios, repeats_option, report, spread


@click.command()
@click.option("--layers", default=3, show_default=True)
@click.option("--hidden", default=256, show_default=True)
@click.option("--batch", default=16, show_default=True)
@click.option("--frames", default=250, show_default=True)
@click.option("--shortest", default=0.9, show_default=True, help="Of the lengths, as a share of the longest.")
@repeats_option(default=5)
@device_option
@json_option
def main(
    layers: int, hidden: int, batch: int, frames: int, shortest: float, repeats: int, device: str, path: Path | None
) -> None:
    """A training step (forward, backward) of the recurrent stack, on the same weights, input and lengths.

    Padding is work that packed sequences save; a bucket of the loader holds lengths within a tenth of each other.
    """
    on = runtime.pick_device(device)
    torch.manual_seed(0)
    ours, packed, pairs = build_pair(layers, hidden, 2 * hidden, on)
    values = torch.randn(batch, frames, 2 * hidden, device=on)
    lengths = torch.linspace(shortest * frames, frames, batch).long()
    sides = {"ours": step_of_stack(ours, values, lengths), "packed": step_of_packed(packed, values, lengths)}
    times = alternate(sides, repeats, device=on)
    difference = max(_relative_difference(a, b) for a, b in pairs)
    click.echo(f"{layers}x{hidden}, batch {batch} x {frames} frames, {on}, {torch.get_num_threads()} threads")
    for name, side in times.items():
        click.echo(f"  {name:8} {spread(side.wall)} s a step, {spread(side.processor)} s of a processor")
    click.echo(f"  largest relative difference between gradients: {difference:.1e}")
    ratio = statistics.median(ratios(times["packed"].wall, times["ours"].wall))
    report({**times, "gradient_difference": difference}, ratio, "times as fast as packed nn.LSTM", path)


Pair = tuple[nn.Parameter, nn.Parameter]


def build_pair(layers: int, hidden: int, inputs: int, device: torch.device) -> tuple[nn.Module, nn.LSTM, list[Pair]]:
    """Our stack and nn.LSTM with the same weights, and the pairs of their parameters."""
    settings = recipe.Lstm(layers=layers, hidden=hidden, layer_norm=False, dropout=0.0)
    ours = RecurrentStack(settings, inputs).to(device)
    theirs = nn.LSTM(inputs, hidden, layers, batch_first=True, bidirectional=True).to(device)
    pairs: list[Pair] = []
    for i, layer in enumerate(ours.layers):
        for suffix, cell in (("", layer.forwards), ("_reverse", layer.backwards)):
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                pair = (getattr(cell, f"{name}_l0"), getattr(theirs, f"{name}_l{i}{suffix}"))
                pair[1].data.copy_(pair[0].data)
                pairs.append(pair)
    return ours, theirs, pairs


def step_of_stack(stack: nn.Module, values: Tensor, lengths: Tensor) -> Callable[[], None]:
    """Forward and backward of our stack on ``values`` (B, T, F); its gradients are left in place."""
    on_device = lengths.to(values.device)
    real = (torch.arange(values.shape[1])[None, :] < lengths[:, None]).to(values.device)[:, :, None]

    def step() -> None:
        stack.zero_grad()
        outputs, _ = stack(values, on_device)
        (outputs * real).square().sum().backward()

    return step


def step_of_packed(lstm: nn.LSTM, values: Tensor, lengths: Tensor) -> Callable[[], None]:
    """The same of nn.LSTM, its sequences packed."""

    def step() -> None:
        lstm.zero_grad()
        packed = nn.utils.rnn.pack_padded_sequence(values, lengths, batch_first=True, enforce_sorted=False)
        outputs, _ = nn.utils.rnn.pad_packed_sequence(lstm(packed)[0], batch_first=True)
        outputs.square().sum().backward()

    return step


def _relative_difference(a: nn.Parameter, b: nn.Parameter) -> float:
    """Of their gradients."""
    assert a.grad is not None
    assert b.grad is not None
    return float((a.grad - b.grad).abs().max() / b.grad.abs().max())

"""The study's plots: curves of training, gradient flow, effective memory. A cell has its colour in all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from asr.report.figures import CELLS as COLOURS_OF_CELLS
from asr.report.figures import new_figure
from asr.study.cells import CELLS
from asr.study.gradients import GradientFlow
from asr.study.memory import Memory
from asr.study.runs import Contestant, Outcome, Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

LEAST_SHOWN = 1e-12


def training_curves(contestants: Sequence[Contestant]) -> Figure:
    """Dev WER after each epoch, a line a seed; a cross where it diverged."""
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure, axes = _figure()
    for run, outcome, style in _outcomes(contestants):
        epochs = range(1, len(outcome.dev_wer) + 1)
        axes.plot(epochs, outcome.dev_wer, **style)
        if run.diverged:
            axes.plot(epochs[-1], outcome.dev_wer[-1], "X", color=style["color"])
    axes.set(xlabel="epoch", ylabel="dev WER", ylim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    return _with_legend(figure, axes)


def gradient_norms(contestants: Sequence[Contestant]) -> Figure:
    """The norm of the whole gradient at the steps that training has told of; a cross at the last of one that diverged
    soon after."""
    figure, axes = _figure()
    for contestant in contestants:
        for number, run in enumerate(contestant.runs):
            if run.gradient_norms:
                steps, norms = zip(*run.gradient_norms, strict=True)
                axes.plot(steps, norms, **{**_style(contestant.cell, number), "alpha": 0.6})
                if run.diverged:
                    axes.plot(steps[-1], norms[-1], "X", markersize=9, color=_colour(contestant.cell))
    axes.set(xlabel="step", ylabel="gradient norm", xscale="log", yscale="log")
    return _with_legend(figure, axes)


def gradient_curves(title: str, flows: Mapping[str, Sequence[GradientFlow | None]]) -> Figure:
    """How much of the gradient is left after a lag: for each cell a line a seed, with its quartiles."""
    figure, axes = _figure()
    for cell, seeds in flows.items():
        for number, flow in enumerate(seeds):
            if flow is not None:
                axes.plot(flow.lags, flow.median.clamp(min=LEAST_SHOWN / 10), **_style(cell, number))
                axes.fill_between(flow.lags, flow.low, flow.high, color=_colour(cell), alpha=0.12, linewidth=0)
    axes.set(title=title, xlabel="lag in seconds", ylabel="gradient left", yscale="log", xlim=(0, None))
    axes.set_ylim(bottom=LEAST_SHOWN)
    return _with_legend(figure, axes)


def memory_curves(contestants: Sequence[Contestant], title: str, of: Callable[[Memory], Tensor]) -> Figure:
    """How much the emission changes when all that is further away than a lag is hidden."""
    figure, axes = _figure()
    for _, outcome, style in _outcomes(contestants):
        axes.plot(outcome.memory.lags, of(outcome.memory), **style)
    axes.set(title=title, xlabel="further away than, seconds", ylabel="change of the emission", xscale="log")
    axes.set(ylim=(0, 1), xticks=[0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    return _with_legend(figure, axes)


def _outcomes(contestants: Sequence[Contestant]) -> Iterator[tuple[Run, Outcome, dict[str, Any]]]:
    """Every run that has an outcome, with its line's style."""
    for contestant in contestants:
        for number, run in enumerate(run for run in contestant.runs if run.outcome):
            assert run.outcome
            yield run, run.outcome, _style(contestant.cell, number)


def _style(cell: str, number: int) -> dict[str, Any]:
    """A cell's first line is named, the others are faint."""
    return {"color": _colour(cell), **({"alpha": 0.9, "label": cell} if number == 0 else {"alpha": 0.45})}


def _colour(cell: str) -> str:
    return COLOURS_OF_CELLS[list(CELLS).index(cell) % len(COLOURS_OF_CELLS)]


def _figure() -> tuple[Figure, Any]:
    figure, axes = new_figure(4.6, 3.2)
    axes.grid(alpha=0.2)
    return figure, axes


def _with_legend(figure: Figure, axes: Any) -> Figure:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9)
    return figure

"""The study's plots: curves of training, gradient flow, effective memory. A cell has its colour in all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from asr.report.figures import empty_figure
from asr.study.cells import CELLS
from asr.study.gradients import GradientFlow
from asr.study.memory import Memory
from asr.study.runs import Contestant, Run, history

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

LEAST_SHOWN = 1e-12


def training_curves(contestants: Sequence[Contestant]) -> Figure:
    """Dev WER after each epoch, a line a seed."""
    from matplotlib.ticker import PercentFormatter

    figure, axes = _figure()
    for run, style in _lines(contestants):
        epochs = range(1, len(run.dev_wer) + 1)
        axes.plot(epochs, run.dev_wer, **style)
        if run.diverged:
            axes.plot(epochs[-1], run.dev_wer[-1], "x", color=style["color"])
    axes.set(xlabel="epoch", ylabel="dev WER", ylim=(0, None))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    return _with_legend(figure, axes)


def gradient_norms(contestants: Sequence[Contestant]) -> Figure:
    """The norm of the whole gradient, before it is clipped, at the steps that training has told of, and a cross where
    it was no number any more."""
    figure, axes = _figure()
    for contestant in contestants:
        gone = [run.plan for run in contestant.runs if run.diverged] + [each.plan for each in contestant.failures]
        for number, plan in enumerate([*(run.plan for run in contestant.runs if not run.diverged), *gone]):
            steps, norms = zip(*history(plan, "step", "gradient_norm") or [(1, 1.0)], strict=True)
            axes.plot(steps, norms, **{**_style(contestant.cell, number), "alpha": 0.6})
            if plan in gone:
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
    for run, style in _lines(contestants):
        axes.plot(run.memory.lags, of(run.memory), **style)
    axes.set(title=title, xlabel="further away than, seconds", ylabel="change of the emission", xscale="log")
    axes.set(ylim=(0, 1), xticks=[0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(_no_ticks())
    return _with_legend(figure, axes)


def _lines(contestants: Sequence[Contestant]) -> Iterator[tuple[Run, dict[str, Any]]]:
    """Every run with its line's style."""
    for contestant in contestants:
        for number, run in enumerate(contestant.runs):
            yield run, _style(contestant.cell, number)


def _style(cell: str, number: int) -> dict[str, Any]:
    """A cell's first line is named, the others are faint."""
    return {"color": _colour(cell), **({"alpha": 0.9, "label": cell} if number == 0 else {"alpha": 0.45})}


def _colour(cell: str) -> str:
    from matplotlib.colors import TABLEAU_COLORS

    colours: list[str] = list(TABLEAU_COLORS.values())
    return colours[list(CELLS).index(cell) % len(colours)]


def _figure() -> tuple[Figure, Any]:
    figure = empty_figure(5.2, 3.4)
    axes = figure.subplots()
    axes.grid(alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _with_legend(figure: Figure, axes: Any) -> Figure:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)
    return figure


def _no_ticks() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()

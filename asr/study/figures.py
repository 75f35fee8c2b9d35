"""The study's plots: curves of training, gradient flow, effective memory. A cell has its colour in all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from asr.report.figures import empty_figure
from asr.study.cells import CELLS
from asr.study.gradients import GradientFlow
from asr.study.memory import Memory
from asr.study.runs import Contestant, Run

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


def gradient_curves(contestants: Sequence[Contestant], title: str, of: Callable[[Run], GradientFlow | None]) -> Figure:
    """How much of a run's gradient flow is left after a lag, a line a seed with its quartiles."""
    figure, axes = _figure()
    for run, style in _lines(contestants):
        if (flow := of(run)) is not None:
            axes.plot(flow.lags, flow.median.clamp(min=LEAST_SHOWN / 10), **style)
            axes.fill_between(flow.lags, flow.low, flow.high, color=style["color"], alpha=0.12, linewidth=0)
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
    """Every run with its line's style; a cell's first is named, the others are faint."""
    for contestant in contestants:
        for number, run in enumerate(contestant.runs):
            named = {"alpha": 0.9, "label": contestant.cell} if number == 0 else {"alpha": 0.45}
            yield run, {"color": _colour(contestant.cell), **named}


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

"""The study's plots: curves of training, gradient flow, effective memory. A cell has its colour in all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from asr.study.cells import CELLS
from asr.study.gradients import GradientFlow
from asr.study.runs import Contestant, Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEAST_SHOWN = 1e-12


def training_curves(contestants: Sequence[Contestant]) -> Figure:
    """Dev WER after each epoch, a line a seed."""
    from matplotlib.ticker import PercentFormatter

    figure, [axes] = _figure(1)
    for run, style in _lines(contestants):
        epochs = range(1, len(run.dev_wer) + 1)
        axes.plot(epochs, run.dev_wer, **style)
        if run.diverged:
            axes.plot(epochs[-1], run.dev_wer[-1], "x", color=_colour(run.plan.cell))
    axes.set(xlabel="epoch", ylabel="dev WER", ylim=(0, None))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.legend(frameon=False, fontsize=8)
    return figure


def gradient_curves(contestants: Sequence[Contestant]) -> Figure | None:
    """How much of the gradient is left after a lag, before and after training, a line a seed with its quartiles; None
    where nothing recurs."""
    sides: list[tuple[str, Callable[[Run], GradientFlow | None]]] = [
        ("before training", lambda run: run.flow_before),
        ("after training", lambda run: run.flow_after),
    ]
    figure, panels = _figure(2)
    drawn = False
    for axes, (title, of) in zip(panels, sides, strict=True):
        for run, style in _lines(contestants):
            flow = of(run)
            if flow is not None:
                drawn = True
                axes.plot(flow.lags, flow.median.clamp(min=LEAST_SHOWN / 10), **style)
                axes.fill_between(flow.lags, flow.low, flow.high, color=_colour(run.plan.cell), alpha=0.12, linewidth=0)
        axes.set(title=title, xlabel="lag in seconds", yscale="log", xlim=(0, None))
        axes.set_ylim(bottom=LEAST_SHOWN)
    if not drawn:
        return None
    panels[0].set_ylabel("gradient left")
    panels[1].legend(frameon=False, fontsize=8)
    return figure


def memory_curves(contestants: Sequence[Contestant]) -> Figure:
    """How much the emission changes when all that is further away than a lag is hidden."""
    figure, panels = _figure(2)
    for run, style in _lines(contestants):
        lags = run.memory.lags
        panels[0].plot(-lags, run.memory.past, **style)
        panels[1].plot(lags, run.memory.future, **style)
    panels[0].set(
        title="what came before is hidden", xlabel="further back than, seconds", ylabel="change of the emission"
    )
    panels[1].set(title="what comes after is hidden", xlabel="further ahead than, seconds")
    for axes in panels:
        axes.set_ylim(0, 1)
    panels[1].legend(frameon=False, fontsize=8)
    return figure


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


def _figure(columns: int) -> tuple[Figure, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * columns, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, columns, squeeze=False, sharey=True)[0]
    for axes in panels:
        axes.grid(alpha=0.2)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels

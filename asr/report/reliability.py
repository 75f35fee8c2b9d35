"""The reliability diagram: how often words are right, by the confidence that they were given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from asr import files
from asr.decode.calibration import BINS, Reliability

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_reliability(measured: Reliability, path: Path, title: str) -> None:
    """The reliability diagram as a PNG."""
    figure = reliability_figure(measured, title)
    with files.replacing(path, "wb") as file:
        figure.savefig(file, format="png", dpi=110)


def reliability_figure(measured: Reliability, title: str = "") -> Figure:
    """The reliability diagram, with the number of words in each bin below it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 6), layout="constrained")
    FigureCanvasAgg(figure)
    diagram, histogram = figure.subplots(2, 1, height_ratios=[3, 1], sharex=True)
    middles = (np.arange(BINS) + 0.5) / BINS
    width = 0.94 / BINS
    diagram.plot([0, 1], [0, 1], color="gray", linestyle="--", linewidth=1, label="as said")
    diagram.bar(middles, measured.accuracy, width, color="tab:blue", alpha=0.5)
    diagram.plot(measured.confidence, measured.accuracy, "o", color="tab:blue", clip_on=False, label="words of a bin")
    diagram.set_title(title, parse_math=False)  # sets are called what people call them, "$" and all
    diagram.set(ylabel="words that are right", xlim=(0, 1), ylim=(0, 1))
    diagram.legend(frameon=False, loc="upper left")
    histogram.bar(middles, measured.counts, width, color="tab:gray")
    histogram.set(xlabel="confidence", ylabel="words")
    for axes in (diagram, histogram):
        axes.spines[["top", "right"]].set_visible(False)
    return figure

"""The report's plots, as SVG that takes its colours from the page, light or dark."""

from __future__ import annotations

import io
import warnings
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from asr.score.significance import Interval
from asr.score.system import ScoredLine, System

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_SPEAKERS = 40
"""Speakers with a line of their own; of more, the page shows how their rates are distributed."""

_ACCENT = "#1f77b4"
HIT, SUBSTITUTION, INSERTION = "#000000", "#9a5b00", "#1a6b45"
"""What a recognised word is drawn in."""
CELLS = (
    "#1f77b5", "#ff7f0f", "#2ca02d", "#d62729", "#9467be", "#8c564c", "#e377c3", "#7f7f80", "#bcbd23", "#17becd",
)  # fmt: skip
"""Colours of many lines in one figure, told apart in light and in dark pages: they stand for ``--cell-0`` and so on."""
COLOURS = {
    **{colour: f"var(--cell-{i})" for i, colour in enumerate(CELLS)},
    HIT: "currentColor",
    _ACCENT: "var(--accent)",
    SUBSTITUTION: "var(--sub)",
    INSERTION: "var(--ins)",
}
"""What stands in a figure for the page's colours, light or dark."""


def by_speaker(system: System) -> Figure | None:
    """Each speaker's error rate with its interval, the worst on top; None where fewer than two are known."""
    groups = _grouped(system, [(u.line.speaker, u) for u in system.utterances])
    if len(groups) < 2:
        return None
    if len(groups) > MOST_SPEAKERS:
        return _distribution([rate for rate, _, _ in groups.values()], system)
    names = sorted(groups, key=lambda name: groups[name][0])
    figure, axes = new_figure(4.6, 1.1 + 0.22 * len(names))
    places = range(len(names))
    rates = [groups[name][0] for name in names]
    axes.hlines(places, *_ends([groups[name] for name in names]), color=_ACCENT, alpha=0.5)
    axes.plot(rates, places, "o", color=_ACCENT, clip_on=False)
    axes.set_yticks(places, [f"{name} ({groups[name][2]})" for name in names], parse_math=False)
    axes.set(xlabel=system.rate_name, xlim=(0, None), ylim=(-0.7, len(names) - 0.3))
    axes.axvline(system.counts(system.unit).rate, color="#000000", linewidth=0.8, linestyle=":")
    axes.xaxis.set_major_formatter(_percent())
    axes.locator_params(axis="x", nbins=5)
    axes.grid(axis="x", alpha=0.2)
    return figure


def by_duration(system: System) -> Figure | None:
    """The error rate in bands of duration with its intervals; None where durations are not known."""
    timed = sorted((u for u in system.utterances if u.line.duration is not None), key=lambda u: u.line.duration or 0)
    if not timed:
        return None
    groups = _grouped(system, [(u.duration_band, u) for u in timed])
    figure, axes = new_figure(4.6, 3.2)
    places = range(len(groups))
    axes.vlines(places, *_ends(list(groups.values())), color=_ACCENT, alpha=0.5)
    axes.plot(places, [rate for rate, _, _ in groups.values()], "o", color=_ACCENT, clip_on=False)
    axes.set_xticks(places, [f"{name}\n({count})" for name, (_, _, count) in groups.items()], parse_math=False)
    axes.set(ylabel=system.rate_name, ylim=(0, None), xlim=(-0.5, len(groups) - 0.5))
    axes.axhline(system.counts(system.unit).rate, color="#000000", linewidth=0.8, linestyle=":")
    axes.yaxis.set_major_formatter(_percent())
    axes.grid(axis="y", alpha=0.2)
    return figure


def as_svg(figure: Figure, name: str) -> str:
    """The figure as an ``<svg>`` element without fixed colours; ``name`` keeps its ids apart from other figures'."""
    import matplotlib

    drawn = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), warnings.catch_warnings():
        # The browser writes the text, in its own fonts: what matplotlib's lack is no loss.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = drawn.getvalue()
    svg = svg[svg.index("<svg") :]
    # Matplotlib writes its own default, black, only where it was asked for; text without a colour is black by itself.
    for colour, name_on_page in COLOURS.items():
        svg = svg.replace(colour, name_on_page)
    return svg


Rate = tuple[float, Interval | None, int]
"""A pooled error rate, its interval, and of how many utterances."""


def _grouped(system: System, labelled: Sequence[tuple[str, ScoredLine]]) -> dict[str, Rate]:
    groups: dict[str, list[ScoredLine]] = defaultdict(list)
    for label, utterance in labelled:
        if label:
            groups[label].append(utterance)
    unit = system.unit
    parts = {label: System(name=label, utterances=tuple(some), unit=unit) for label, some in groups.items()}
    return {
        label: (part.counts(unit).rate, part.interval(unit), len(part.utterances))
        for label, part in parts.items()
        if part.counts(unit).reference_length
    }


def _ends(rates: Sequence[Rate]) -> tuple[list[float], list[float]]:
    return (
        [interval.low if interval else rate for rate, interval, _ in rates],
        [interval.high if interval else rate for rate, interval, _ in rates],
    )


def _distribution(rates: Sequence[float], system: System) -> Figure:
    figure, axes = new_figure(4.6, 3.2)
    axes.hist(rates, bins=min(30, len(rates) // 2), color=_ACCENT, alpha=0.7)
    axes.set(xlabel=system.rate_name, ylabel="speakers", xlim=(0, None))
    axes.axvline(system.counts(system.unit).rate, color="#000000", linewidth=0.8, linestyle=":")
    axes.xaxis.set_major_formatter(_percent())
    return figure


def empty_figure(width: float, height: float) -> Figure:
    """Of so many inches. Drawn in the keys of ``COLOURS``, it takes the page's colours."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def new_figure(width: float, height: float) -> tuple[Figure, Any]:
    """``empty_figure`` and its axes."""
    figure = empty_figure(width, height)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _percent() -> Any:
    from matplotlib.ticker import PercentFormatter

    return PercentFormatter(1.0)

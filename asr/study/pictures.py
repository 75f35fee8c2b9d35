"""Pictures of an encoder's gates, and the section of a page that holds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from asr.records import Word
from asr.report.figures import as_svg, empty_figure
from asr.report.pages import render
from asr.report.timeline import COLOURS, Timeline
from asr.study.gates import SLOWEST_SECONDS, LayerTrace, Trace, in_milliseconds

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def gates_section(trace: Trace, words: Sequence[Word]) -> str:
    """HTML: a table of the layers, their time constants, and each layer's gates and memory over the utterance, in which
    ``words`` were recognised. It belongs in a page that extends ``base.html``."""
    return render(
        "gates.html",
        package="asr.study",
        layers=trace.layers,
        difference=trace.difference,
        in_milliseconds=in_milliseconds,
        time_constants=as_svg(time_constants_figure(trace), "time constants") if has_time_constants(trace) else "",
        pictures=[
            (layer, memory_limit(layer), as_svg(layer_figure(layer, words), f"layer {layer.layer} {layer.direction}"))
            for layer in trace.layers
        ],
    )


def has_time_constants(trace: Trace) -> bool:
    return any(layer.time_constants is not None for layer in trace.layers)


def layer_figure(layer: LayerTrace, words: Sequence[Word]) -> Figure:
    """One direction of a layer: each gate and the memory as a map over time, units by ``layer.order``; below them the
    gates' means over the units."""
    gates, shift = layer.named_gates, layer.frame_shift
    heights = [*[1.0 for _ in gates], 1.2, *([1.1] if gates else [])]
    timeline = Timeline(len(layer.memory) * shift, words, heights)
    for row, gate in enumerate(gates):
        timeline.draw(row, gate.values[:, layer.order].numpy(), gate.name, shift=shift)
    memory = layer.memory[:, layer.order].numpy()
    timeline.draw(len(gates), memory, layer.memory_name, shift=shift, limit=memory_limit(layer))
    if gates:
        axes = timeline.rows[-1]
        seconds = (np.arange(len(memory)) + 0.5) * shift
        for gate in gates:
            axes.plot(seconds, gate.values.mean(dim=1).numpy(), color=_colour(gate.role), label=gate.role)
        axes.set(ylim=(0, 1), ylabel="mean")
        axes.legend(frameon=False, fontsize=8, ncols=3, loc="upper right", borderpad=0)
    return timeline.figure


def memory_limit(layer: LayerTrace) -> float:
    """The size that a memory's full colour stands for: few values, 1 in 100, pass it."""
    sizes = layer.memory.abs().numpy()
    finite = sizes[np.isfinite(sizes)]
    return max(float(np.percentile(finite, 99)), 1e-6) if finite.size else 1.0


def time_constants_figure(trace: Trace) -> Figure:
    """How many units of each layer and direction keep what they know for how long, on a logarithmic axis."""
    numbers = sorted({layer.layer for layer in trace.layers})
    shift = trace.emissions.frame_shift
    slowest = min(SLOWEST_SECONDS, max(float(c.max()) for t in trace.layers if (c := t.time_constants) is not None))
    last = 10.0 ** np.ceil(np.log10(max(slowest, 1.0)))
    bins = np.geomspace(shift / 4, last, 50)
    figure = empty_figure(4.6, 0.5 + 1.05 * len(numbers))
    rows = figure.subplots(len(numbers), 1, sharex=True, squeeze=False)[:, 0]
    for axes, number in zip(rows, numbers, strict=True):
        for layer, colour in zip((t for t in trace.layers if t.layer == number), COLOURS, strict=False):
            constants = layer.time_constants
            if constants is not None:
                seconds = constants.numpy().clip(bins[0], bins[-1])
                axes.hist(seconds, bins=bins, color=colour, alpha=0.55, label=layer.direction)
                axes.axvline(float(np.median(seconds)), color=colour, linewidth=1.2)
        axes.set(xscale="log", ylabel=f"layer {number}")
        axes.spines[["top", "right"]].set_visible(False)
    rows[0].legend(frameon=False, fontsize=9, loc="upper right")
    ticks = {0.01: "10 ms", 0.1: "100 ms", 1.0: "1 s", 10.0: "10 s", 100.0: "100 s"}
    shown = {seconds: name for seconds, name in ticks.items() if bins[0] <= seconds <= last}
    rows[-1].set_xticks(list(shown), list(shown.values()))
    rows[-1].minorticks_off()
    rows[-1].set(xlabel="time constant", xlim=(bins[0], bins[-1]))
    return figure


def _colour(role: str) -> str:
    return {"write": COLOURS[1], "keep": COLOURS[0], "read": COLOURS[2], "recall": COLOURS[1]}[role]

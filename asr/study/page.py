"""study.html and study.json: the table, the pictures, and what they say."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from asr import runtime
from asr.records import Batch, Waveform
from asr.report.figures import as_svg
from asr.report.pages import render
from asr.study import figures, inspection
from asr.study.gradients import GradientFlow
from asr.study.memory import Memory
from asr.study.pictures import gates_section
from asr.study.runs import Contestant, Run
from asr.transcribe.recogniser import Recogniser

LEFT_AFTER = 0.5
"""Seconds of lag at which the table says what is left of the gradient."""

Row = tuple[str, ...]
COLUMNS: Row = (
    "cell",
    "hidden",
    "parameters",
    "WER",
    "95 % interval",
    "each seed",
    "CER",
    "best epoch",
    "s an epoch",
    f"gradient left after {LEFT_AFTER} s",
    "memory",
)

FOR_TERMINALS = 6
"""Of the columns, the first: all of them are too wide."""


def table(contestants: Sequence[Contestant]) -> list[Row]:
    """A row a cell under ``COLUMNS``, in words."""
    return [_row(contestant) for contestant in contestants]


def write_page(
    path: Path, title: str, contestants: Sequence[Contestant], utterance: Batch, *, facts: Sequence[str]
) -> None:
    """Writes the page, ``facts`` about the study first, a sentence each; the best gated network, an LSTM if there is
    one, is shown as it reads ``utterance``, a batch of one."""
    page = render(
        "study.html",
        package="asr.study",
        title=title,
        facts=[*facts, *findings(contestants)],
        columns=COLUMNS,
        rows=table(contestants),
        plots=_plots(contestants) if any(contestant.runs for contestant in contestants) else {},
        left_after=LEFT_AFTER,
        inside=_inside(contestants, utterance),
    )
    with runtime.replacing(path) as file:
        file.write(page)


def _plots(contestants: Sequence[Contestant]) -> dict[str, list[str]]:
    """The page's plots as ``<svg>`` elements, those of a kind beside one another."""
    drawn = {
        "training": [figures.training_curves(contestants)],
        "gradient": [
            figures.gradient_curves(contestants, "before training", lambda run: run.flow_before),
            figures.gradient_curves(contestants, "after training", lambda run: run.flow_after),
        ],
        "memory": [
            figures.memory_curves(contestants, "what came before is hidden", lambda memory: memory.past),
            figures.memory_curves(contestants, "what comes after is hidden", lambda memory: memory.future),
        ],
    }
    if not any(run.flow_after for contestant in contestants for run in contestant.runs):
        del drawn["gradient"]
    return {kind: [as_svg(figure, f"{kind} {i}") for i, figure in enumerate(some)] for kind, some in drawn.items()}


def _inside(contestants: Sequence[Contestant], utterance: Batch) -> dict[str, str] | None:
    """What the template shows of one network's inside."""
    gated = [
        min(
            (run for c in contestants if c.cell in cells for run in c.runs),
            key=lambda run: run.words.rate,
            default=None,
        )
        for cells in (("lstm", "bilstm"), ("gru", "bigru"))
    ]
    best = gated[0] or gated[1]
    if best is None:
        return None
    recogniser = Recogniser.load(best.plan.directory, device="cpu", decoding=["decoder={kind: greedy}"])
    waveform = Waveform(samples=utterance.waveforms[0].numpy(), sample_rate=recogniser.recipe.features.sample_rate)
    seen = inspection.look_inside(recogniser, waveform)
    return {
        "network": f"{best.plan.cell}, seed {best.plan.seed}: {inspection.describe(best.plan.recipe.encoder)}",
        "reference": utterance.texts[0],
        "hypothesis": " ".join(word.text for word in seen.words),
        "speech": inspection.speech_picture(seen, recogniser),
        "gates": gates_section(seen.trace, seen.words),
    }


def findings(contestants: Sequence[Contestant]) -> list[str]:
    """What the numbers say, and no more than that."""
    trained = [contestant for contestant in contestants if contestant.runs]
    if not trained:
        return ["Every training diverged."]
    ranked = sorted(trained, key=lambda contestant: contestant.words.rate)
    order = "; ".join(f"{contestant.cell} {contestant.words.rate:.1%}" for contestant in ranked)
    sentences = [f"From the best word error rate to the worst: {order}."]
    flows = {c.cell: [f for f in (c.runs[0].flow_before, c.runs[0].flow_after) if f is not None] for c in trained}
    left = [f"{cell}: {' to '.join(_share(flow) for flow in both)}" for cell, both in flows.items() if both]
    if left:
        sentences.append(
            f"Of the gradient at a frame, so much reaches the hidden state {LEFT_AFTER} s earlier, before to after "
            f"training. {'; '.join(left)}."
        )
    memory = "; ".join(f"{c.cell}: {_memory(c.runs[0].memory)}" for c in trained)
    return [*sentences, f"What lies further away than this no longer changes an emission by a twentieth. {memory}."]


def write_numbers(path: Path, contestants: Sequence[Contestant]) -> None:
    """``{CELL: {"hidden", "parameters", "wer", "wer_interval", "cer", "diverged", "runs": [{"seed", "wer",
    "best_epoch", "seconds_per_epoch", "dev_wer", "diverged", "gradient_before", "gradient_after", "memory"}]}}``, rates
    as fractions, lags in seconds."""
    cells = {}
    for c in contestants:
        interval = c.interval()
        cells[c.cell] = {
            "hidden": c.hidden,
            "parameters": c.runs[0].meta["parameters"] if c.runs else None,
            "wer": c.words.rate if c.runs else None,
            "wer_interval": [interval.low, interval.high] if interval else None,
            "cer": c.characters.rate if c.runs else None,
            "diverged": c.diverged,
            "runs": [_numbers(run) for run in c.runs],
        }
    with runtime.replacing(path) as file:
        json.dump(cells, file, indent=1)
        file.write("\n")


def _numbers(run: Run) -> dict[str, Any]:
    return {
        "seed": run.plan.seed,
        "wer": run.words.rate,
        "best_epoch": run.meta["results"]["best_epoch"],
        "seconds_per_epoch": run.seconds_per_epoch,
        "dev_wer": run.dev_wer,
        "diverged": run.diverged,
        "gradient_before": _curve(run.flow_before),
        "gradient_after": _curve(run.flow_after),
        "memory": {name: _rounded(getattr(run.memory, name)) for name in ("lags", "past", "future")},
    }


def _curve(flow: GradientFlow | None) -> dict[str, list[float | None]] | None:
    return None if flow is None else {"lags": _rounded(flow.lags), "median": _rounded(flow.median)}


def _rounded(values: Tensor) -> list[float | None]:
    """To four digits; None for what is no number."""
    return [float(f"{value:.4g}") if math.isfinite(value) else None for value in values.tolist()]


def _row(contestant: Contestant) -> Row:
    runs = contestant.runs
    diverged = f"diverged in {contestant.diverged}" if contestant.diverged else ""
    if not runs:
        return (contestant.cell, str(contestant.hidden), *[""] * (len(COLUMNS) - 3), diverged)
    interval = contestant.interval()
    flows = [
        _share(run.flow_before) + " to " + _share(run.flow_after) for run in runs if run.flow_before and run.flow_after
    ]
    return (
        contestant.cell,
        f"{contestant.hidden:,}",
        f"{runs[0].meta['parameters'] / 1e6:.3f} M",
        f"{contestant.words.rate:.2%}",
        f"{interval.low:.2%} to {interval.high:.2%}" if interval else "too few",
        ", ".join(f"{run.words.rate:.2%}" for run in runs) + (f"; {diverged}" if diverged else ""),
        f"{contestant.characters.rate:.2%}",
        _each(runs, lambda run: f"{run.meta['results']['best_epoch']} of {run.meta['training']['epochs']}"),
        _each(runs, lambda run: f"{run.seconds_per_epoch:.1f}"),
        flows[0] if flows else "nothing recurs",
        _memory(runs[0].memory),
    )


def _each(runs: Sequence[Run], shown: Callable[[Run], str]) -> str:
    return ", ".join(shown(run) for run in runs)


def _share(flow: GradientFlow | None) -> str:
    return "none" if flow is None else f"{flow.left_after(LEFT_AFTER):.1g}"


def _memory(memory: Memory) -> str:
    """ "0.45 s back, 0.64 s ahead"."""
    back, ahead = memory.past_seconds, memory.future_seconds
    return f"{_seconds(back, memory.lags, memory.past)} back, {_seconds(ahead, memory.lags, memory.future)} ahead"


def _seconds(seconds: float, lags: Tensor, changes: Tensor) -> str:
    if math.isnan(seconds):
        return "unknown"
    return f"{seconds:.2f} s" if math.isfinite(seconds) else f"over {lags[~changes.isnan()].max():.1f} s"

"""study.html and study.json: the table, the pictures, and what they say."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from asr import files, recipe
from asr.recipe.summary import describe
from asr.records import Batch, Waveform
from asr.report.figures import as_svg
from asr.report.pages import render
from asr.study import figures, inspection
from asr.study.drawings import drawing
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
    "memory, back and ahead",
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
        drawings=[drawing(contestant.cell) for contestant in contestants],
        columns=COLUMNS,
        rows=table(contestants),
        plots=_plots(contestants),
        inside=_inside(contestants, utterance),
    )
    with files.replacing(path) as file:
        file.write(page)


def size(contestants: Sequence[Contestant]) -> str:
    """What was scored, to go on after its name: ", 4,097 words in 137 utterances"; nothing where all diverged."""
    for outcome in (outcome for contestant in contestants for outcome in contestant.outcomes):
        utterances = sum(len(system.utterances) for system in outcome.systems)
        return f", {outcome.words.reference_length:,} words in {utterances:,} utterances"
    return ""


def _plots(contestants: Sequence[Contestant]) -> dict[str, list[str]]:
    """The page's plots as ``<svg>`` elements, those of a kind beside one another."""
    before = {c.cell: [run.flow_before for run in c.runs] for c in contestants}
    after = {c.cell: [outcome.flow for outcome in c.outcomes] for c in contestants}
    drawn = {
        "training": [figures.training_curves(contestants), figures.gradient_norms(contestants)],
        "gradient": [
            figures.gradient_curves("before training", before),
            figures.gradient_curves("after training", after),
        ],
        "memory": [
            figures.memory_curves(contestants, "what came before is hidden", lambda memory: memory.past),
            figures.memory_curves(contestants, "what comes after is hidden", lambda memory: memory.future),
        ],
    }
    return {kind: [as_svg(figure, f"{kind} {i}") for i, figure in enumerate(some)] for kind, some in drawn.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """One network as it reads one utterance: what it is, what was said, what it reads, and HTML of what it does."""

    network: str
    reference: str
    hypothesis: str
    speech: str
    gates: str


def _inside(contestants: Sequence[Contestant], utterance: Batch) -> Inside | None:
    """Of the best LSTM, or else GRU."""
    for cells in (("lstm", "bilstm"), ("gru", "bigru")):
        runs = [(run.outcome.words.rate, run.plan) for c in contestants for run in c.runs if run.outcome]
        gated = [(rate, plan) for rate, plan in runs if plan.cell in cells]
        if gated:
            _, plan = min(gated, key=lambda pair: pair[0])
            break
    else:
        return None
    recogniser = Recogniser.load(plan.directory, device="cpu", decoding=["decoder={kind: greedy}"])
    waveform = Waveform(samples=utterance.waveforms[0].numpy(), sample_rate=recogniser.recipe.features.sample_rate)
    seen = inspection.look_inside(recogniser, waveform)
    return Inside(
        network=f"{plan.cell}, seed {plan.seed}: {describe(plan.recipe.encoder)}",
        reference=utterance.texts[0],
        hypothesis=" ".join(word.text for word in seen.words),
        speech=inspection.speech_picture(seen, recogniser),
        gates=gates_section(seen.trace, seen.words),
    )


def findings(contestants: Sequence[Contestant]) -> list[str]:
    """What the numbers say, and no more than that."""
    trained = [contestant for contestant in contestants if contestant.outcomes]
    gone = [f"{c.cell} ({sum(run.diverged for run in c.runs)} of {len(c.runs)})" for c in contestants if _diverged(c)]
    sentences = [f"Diverged: {', '.join(gone)}."] if gone else []
    if not trained:
        return sentences
    ranked = sorted(trained, key=lambda contestant: contestant.words.rate)
    order = "; ".join(f"{contestant.cell} {contestant.words.rate:.1%}" for contestant in ranked)
    left = "; ".join(f"{c.cell}: {_gradients(c)}" for c in trained if _recurs(c))
    if left:
        left = (
            f"Of the gradient at a frame, so much reaches the hidden state {LEFT_AFTER} s earlier, before to after "
            f"training, a seed each. {left}."
        )
    memory = "; ".join(f"{c.cell}: {_memories(c)}" for c in trained)
    return [
        f"From the best word error rate to the worst: {order}.",
        *sentences,
        *([left] if left else []),
        f"What lies further away than this no longer changes an emission by a twentieth, a seed each. {memory}.",
    ]


def write_numbers(path: Path, contestants: Sequence[Contestant]) -> None:
    """``{CELL: {"hidden", "parameters", "wer", "wer_interval", "cer", "runs": [{"seed", "diverged", "gradient_before",
    "wer", "best_epoch", "seconds_per_epoch", "dev_wer", "gradient_after", "memory"}]}}``, rates as fractions, lags in
    seconds; a run that diverged before its first epoch was over has the first three of its keys."""
    cells = {}
    for c in contestants:
        interval = c.interval()
        cells[c.cell] = {
            "hidden": c.runs[0].plan.recipe.encoder.hidden,
            "parameters": c.outcomes[0].meta["parameters"] if c.outcomes else None,
            "wer": c.words.rate if c.outcomes else None,
            "wer_interval": [interval.low, interval.high] if interval else None,
            "cer": c.characters.rate if c.outcomes else None,
            "runs": [_numbers(run) for run in c.runs],
        }
    with files.replacing(path) as file:
        json.dump(cells, file, indent=1)
        file.write("\n")


def _numbers(run: Run) -> dict[str, Any]:
    known = {"seed": run.plan.seed, "diverged": run.diverged, "gradient_before": _curve(run.flow_before)}
    outcome = run.outcome
    if outcome is None:
        return known
    return {
        **known,
        "wer": outcome.words.rate,
        "best_epoch": outcome.meta["results"]["best_epoch"],
        "seconds_per_epoch": outcome.seconds_per_epoch,
        "dev_wer": outcome.dev_wer,
        "gradient_after": _curve(outcome.flow),
        "memory": {name: _rounded(getattr(outcome.memory, name)) for name in ("lags", "past", "future")},
    }


def _curve(flow: GradientFlow | None) -> dict[str, list[float | None]] | None:
    return None if flow is None else {"lags": _rounded(flow.lags), "median": _rounded(flow.median)}


def _rounded(values: Tensor) -> list[float | None]:
    """To four digits; None for what is no number."""
    return [float(f"{value:.4g}") if math.isfinite(value) else None for value in values.tolist()]


def _row(contestant: Contestant) -> Row:
    outcomes = contestant.outcomes
    hidden = f"{contestant.runs[0].plan.recipe.encoder.hidden:,}"
    diverged = f"{_diverged(contestant)} of {len(contestant.runs)} diverged" if _diverged(contestant) else ""
    if not outcomes:
        return (contestant.cell, hidden, "", "", "", diverged, *[""] * (len(COLUMNS) - 6))
    interval = contestant.interval()
    return (
        contestant.cell,
        hidden,
        f"{outcomes[0].meta['parameters'] / 1e6:.3f} M",
        f"{contestant.words.rate:.2%}",
        f"{interval.low:.2%} to {interval.high:.2%}" if interval else "too few",
        ", ".join([*(f"{outcome.words.rate:.2%}" for outcome in outcomes), *filter(None, [diverged])]),
        f"{contestant.characters.rate:.2%}",
        ", ".join(f"{o.meta['results']['best_epoch']} of {o.meta['training']['epochs']}" for o in outcomes),
        ", ".join(f"{outcome.seconds_per_epoch:.1f}" for outcome in outcomes),
        _gradients(contestant) if _recurs(contestant) else "nothing recurs",
        ", ".join(" and ".join(_reach(outcome.memory)) for outcome in outcomes),
    )


def _diverged(contestant: Contestant) -> int:
    return sum(run.diverged for run in contestant.runs)


def _recurs(contestant: Contestant) -> bool:
    return not isinstance(contestant.runs[0].plan.recipe.encoder, recipe.FeedForward)


def _gradients(contestant: Contestant) -> str:
    """What is left of each seed's, before to after training."""
    return ", ".join(
        f"{_share(run.flow_before)} to {_share(run.outcome.flow)}" for run in contestant.runs if run.outcome
    )


def _share(flow: GradientFlow | None) -> str:
    left = flow and flow.left_after(LEFT_AFTER)
    return "unknown" if left is None else f"{left:.1g}"


def _memories(contestant: Contestant) -> str:
    return ", ".join(_memory(outcome.memory) for outcome in contestant.outcomes)


def _memory(memory: Memory) -> str:
    """ "0.45 s back and 0.64 s ahead"."""
    back, *ahead = _reach(memory)
    return f"{back} back and {ahead[0]} ahead" if ahead else back


def _reach(memory: Memory) -> list[str]:
    """How far back and how far ahead; "unknown" once where neither is known."""
    back, ahead = memory.past_seconds, memory.future_seconds
    if math.isnan(back) and math.isnan(ahead):
        return ["unknown"]
    return [_seconds(back, memory.lags, memory.past), _seconds(ahead, memory.lags, memory.future)]


def _seconds(seconds: float, lags: Tensor, changes: Tensor) -> str:
    if math.isnan(seconds):
        return "unknown"
    return f"{seconds:.2f} s" if math.isfinite(seconds) else f"over {lags[~changes.isnan()].max():.1f} s"

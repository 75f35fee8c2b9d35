"""The trainings of a study, every cell with every seed, each in a model directory of its own, and what they came to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asr import checkpoint, recipe
from asr.data.corpora import AnySource, open_corpora
from asr.errors import CorpusError, DivergenceError, TextError
from asr.evaluate import evaluate, write_hypotheses
from asr.model.collation import LoadedUtterance, collate
from asr.records import Batch, ErrorCounts
from asr.score.significance import Interval, rate_interval
from asr.score.system import System
from asr.study.cells import with_cell
from asr.study.gradients import GradientFlow, gradient_flow
from asr.study.inspection import acoustic_model
from asr.study.memory import Memory, effective_memory
from asr.text.tokenise import Tokeniser
from asr.train.acoustic import first_model, train_acoustic_model
from asr.train.monitor import json_lines
from asr.transcribe.corpus import plain_batches
from asr.transcribe.recogniser import Recogniser

LOOKED_AT = 6
"""Utterances, the longest of a set, over which gradients and memory are measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A training that a study asks for."""

    cell: str
    seed: int
    recipe: recipe.Recipe
    directory: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a training came to: its directory's meta.json, what its best weights make of each set (greedy), the dev WER
    after each epoch, and what was measured inside."""

    meta: dict[str, Any]
    systems: tuple[System, ...]
    dev_wer: tuple[float, ...]
    flow: GradientFlow | None
    memory: Memory

    @property
    def words(self) -> ErrorCounts:
        return sum((system.words for system in self.systems), ErrorCounts())

    @property
    def seconds_per_epoch(self) -> float:
        """Dev set included."""
        spent = self.meta["training"]
        return 60 * float(spent["minutes"]) / int(spent["epochs"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A training that is over: the norms of the whole gradient at the steps that it told of, before clipping, and the
    gradient flow before the first step. One that ``diverged`` has the outcome that it had reached by then, or none."""

    plan: Plan
    diverged: bool
    gradient_norms: tuple[tuple[int, float], ...]
    flow_before: GradientFlow | None
    outcome: Outcome | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """One cell's runs, a seed each."""

    cell: str
    runs: tuple[Run, ...]

    @property
    def outcomes(self) -> list[Outcome]:
        return [run.outcome for run in self.runs if run.outcome]

    @property
    def words(self) -> ErrorCounts:
        """Of all seeds."""
        return sum((outcome.words for outcome in self.outcomes), ErrorCounts())

    @property
    def characters(self) -> ErrorCounts:
        """Of all seeds."""
        return sum((system.characters for outcome in self.outcomes for system in outcome.systems), ErrorCounts())

    def interval(self) -> Interval | None:
        """Of the pooled WER, drawing utterances, each with what every seed made of it: the set's part of the doubt. The
        seeds' part is their spread."""
        if not self.outcomes:
            return None
        errors = [np.concatenate([system.errors for system in outcome.systems]) for outcome in self.outcomes]
        lengths = [np.concatenate([system.lengths for system in outcome.systems]) for outcome in self.outcomes]
        return rate_interval(np.sum(errors, axis=0), np.sum(lengths, axis=0))


def plan_runs(settings: recipe.Recipe, cells: Sequence[str], seeds: int, directory: Path) -> list[Plan]:
    """Every cell with the recipe's own seed, then every cell with the next, so that a study that is stopped can be
    ended with fewer seeds. Raises RecipeError."""
    return [
        Plan(cell=cell, seed=seed, recipe=with_cell(settings, cell, seed), directory=directory / cell / f"seed-{seed}")
        for seed in range(settings.seed, settings.seed + seeds)
        for cell in cells
    ]


def train_run(plan: Plan, *, root: Path, device: str) -> bool:
    """Trains, or goes on from where an earlier call was stopped; false where the training diverged. Raises AsrError."""
    try:
        train_acoustic_model(plan.recipe, plan.directory, root=root, device=device, resume=True)
    except DivergenceError:
        return False
    return True


def judge(
    plans: Sequence[Plan],
    diverged: Sequence[bool],
    sources: Sequence[AnySource],
    utterances: Sequence[Batch],
    *,
    root: Path,
    device: str,
    advance: Callable[[Plan], None] = lambda _plan: None,
) -> list[Contestant]:
    """Scores each run of ``plans``, trained by now, looks inside it as it reads ``utterances``, and puts those of a
    cell together. Leaves a ``hypotheses.jsonl`` beside each model for ``asr score``. ``advance`` hears of each run.
    Raises AsrError."""
    runs: dict[str, list[Run]] = {plan.cell: [] for plan in plans}
    for plan, gone in zip(plans, diverged, strict=True):
        advance(plan)
        before = first_model(*checkpoint.load_description(plan.directory), plan.directory)[0].eval()
        outcome = None
        if (plan.directory / checkpoint.WEIGHTS).is_file():
            recogniser = Recogniser.load(plan.directory, device=device, decoding=["decoder={kind: greedy}"])
            # Global statistics were measured before the first step.
            before.features.load_state_dict(acoustic_model(recogniser).features.state_dict())
            scores = evaluate(recogniser, sources, root=root)
            write_hypotheses(plan.directory / "hypotheses.jsonl", scores)
            outcome = _look_inside(plan, recogniser, [score.system for score in scores], utterances)
        known = outcome or plan.recipe.features.normalise != "global"
        runs[plan.cell].append(
            Run(
                plan=plan,
                diverged=gone,
                gradient_norms=_history(plan, "step", "gradient_norm"),
                flow_before=gradient_flow(before, utterances) if known else None,
                outcome=outcome,
            )
        )
    return [Contestant(cell=cell, runs=tuple(some)) for cell, some in runs.items()]


def _look_inside(plan: Plan, recogniser: Recogniser, systems: Sequence[System], utterances: Sequence[Batch]) -> Outcome:
    return Outcome(
        meta=recogniser.meta,
        systems=tuple(systems),
        dev_wer=tuple(wer for _, wer in _history(plan, "epoch", "dev_wer")),
        flow=gradient_flow(acoustic_model(recogniser), utterances),
        memory=effective_memory(acoustic_model(recogniser), utterances),
    )


def _history(plan: Plan, kind: str, figure: str) -> tuple[tuple[int, float], ...]:
    """A figure of the run's metrics.jsonl at its steps, or of its epochs: (number, value), where it is a number."""
    lines = [line for line in json_lines(plan.directory / "metrics.jsonl") if line["kind"] == kind]
    return tuple((line[kind], line[figure]) for line in lines if line.get(figure) is not None)


def longest_utterances(plan: Plan, sources: Sequence[AnySource], root: Path) -> list[Batch]:
    """The longest utterances of a set that can be spelled as the runs do, a batch each, the longest first.

    Raises CorpusError where there is none.
    """
    settings, tokeniser = checkpoint.load_description(plan.directory)
    longest: list[LoadedUtterance] = []
    for batch in plain_batches(settings, open_corpora(tuple(sources), root).whole()):
        longest = sorted([*longest, *_spelled(batch, tokeniser)], key=lambda u: (-len(u.samples), u.id))[:LOOKED_AT]
    if not longest:
        raise CorpusError("no utterance of the set to be scored can be read and spelled in the alphabet of train")
    return [collate([utterance]) for utterance in longest]


def _spelled(batch: Batch, tokeniser: Tokeniser) -> Iterator[LoadedUtterance]:
    for i, (id, text, length) in enumerate(zip(batch.ids, batch.texts, batch.waveform_lengths.tolist(), strict=True)):
        try:
            tokens = tuple(tokeniser.encode(text))
        except TextError:
            continue
        featured = batch.features
        yield LoadedUtterance(
            samples=batch.waveforms[i, :length].numpy(),
            features=None if featured is None else featured.values[i, : featured.lengths[i]].numpy(),
            id=id,
            text=text,
            tokens=tokens,
        )

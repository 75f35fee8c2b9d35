"""The trainings of a study: every cell with every seed, each in a model directory of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr import recipe
from asr.errors import DivergenceError
from asr.evaluate import SetScore, evaluate, write_hypotheses
from asr.study.cells import with_cell
from asr.train.acoustic import train_acoustic_model
from asr.transcribe.recogniser import Recogniser


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A training that a study asks for."""

    cell: str
    seed: int
    recipe: recipe.Recipe
    directory: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A training that is over: its directory's meta.json, how its best weights do on each set (greedy), and the dev WER
    after each epoch. One that ``diverged`` has what it had reached by then, which may be nothing."""

    plan: Plan
    meta: dict[str, Any]
    scores: tuple[SetScore, ...]
    dev_wer: tuple[float, ...]
    diverged: bool = False

    @property
    def seconds_per_epoch(self) -> float:
        """Dev set included."""
        spent = self.meta["training"]
        return 60 * float(spent["minutes"]) / int(spent["epochs"])


def plan_runs(settings: recipe.Recipe, cells: Sequence[str], seeds: int, directory: Path) -> list[Plan]:
    """Every cell once with the recipe's own seed, then every cell with the next, so that a study that is stopped has
    compared what it can. Raises RecipeError."""
    return [
        Plan(
            cell=cell, seed=seed, recipe=with_cell(settings, cell, seed), directory=directory / cell / f"seed-{seed}"
        )
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


def score_run(plan: Plan, sources: Sequence[recipe.Corpus], *, root: Path, device: str, diverged: bool) -> Run:
    """Scores what ``train_run`` has trained, and leaves its ``hypotheses.jsonl`` for ``asr score``."""
    recogniser = Recogniser.load(plan.directory, device=device, decoding=["decoder={kind: greedy}"])
    scores = evaluate(recogniser, sources, root=root)
    write_hypotheses(plan.directory / "hypotheses.jsonl", scores)
    return Run(
        plan=plan,
        meta=recogniser.meta,
        scores=tuple(scores),
        dev_wer=tuple(_dev_wer(plan.directory / "metrics.jsonl")),
        diverged=diverged,
    )


def _dev_wer(path: Path) -> Iterator[float]:
    for line in path.read_text(encoding="utf-8").splitlines():
        figures = json.loads(line)
        if figures["kind"] == "epoch":
            yield figures["dev_wer"]

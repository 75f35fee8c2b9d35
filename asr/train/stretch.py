"""A run that is resumed with more to do than it had: more epochs or minutes, or a corpus that has changed since.

What is left of a run is a *stretch* of its own. Epochs count on, and the learning rate goes on along the decay of a run
of as many epochs in all: after 20 epochs of 20, a stretch to epoch 40 warms up to half of the peak, where a run of 40
epochs would be, and decays from there; one to epoch 22 warms up to little. Optimiser, averages and the best epoch so
far are those of the run.

A run may also be resumed with another number of processes, whose steps are larger or smaller. The decay then goes on
from where it was, in steps of the new size.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from asr import recipe
from asr.errors import RecipeError
from asr.train.state import Progress

S = TypeVar("S", bound=recipe.TrainerSettings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a run is trained on, ``utterances`` an epoch, and what it is judged by; the digests tell it from others."""

    utterances: int
    train: str
    dev: str


def digest(parts: Iterable[str]) -> str:
    """Of ``parts`` in whatever order."""
    total = sum(int.from_bytes(hashlib.blake2b(part.encode(), digest_size=8).digest()) for part in parts)
    return f"{total % 2**64:016x}"


def go_on(progress: Progress, settings: S, contents: Contents, *, processes: int = 1) -> tuple[S, list[str], bool]:
    """Takes what is asked now into ``progress``, as the state of an earlier call left it or a new run has it.

    Returns the settings with the epochs, or minutes, that the run has in all; what is to be said of changes; and
    whether the corpus is another. Raises RecipeError where fewer epochs are asked for than are trained.
    """
    _count_in_steps_of(processes, progress)
    known, done = bool(progress.train_digest), progress.epoch
    if not known:  # it begins, or an earlier version saved its state
        ran_through = progress.finished and settings.minutes is None and settings.patience is None
        progress.asked_epochs, progress.asked_minutes = (done if ran_through else settings.epochs), settings.minutes
        progress.epochs, progress.minutes = progress.asked_epochs, progress.asked_minutes
    changed = known and progress.train_digest != contents.train
    more = _wants_more(progress, settings)
    if more:
        progress.epochs, progress.minutes = settings.epochs, settings.minutes
    elif changed and progress.finished:
        progress.epochs = done + settings.epochs
        progress.minutes = None if settings.minutes is None else progress.seconds / 60 + settings.minutes
    said = []
    if changed:
        said.append(
            f"the corpus has changed: an epoch had {progress.utterances} utterances and has {contents.utterances} now"
            + ("" if progress.finished else f"; epoch {done + 1} begins again with them")
        )
    if more or changed:
        said += _begin(progress, settings, anew=changed)
    if not progress.finished:
        if known and progress.dev_digest != contents.dev:
            progress.best_epoch, progress.best_dev = 0, {}
            said.append("the dev set has changed: the best epoch is chosen among those to come")
        progress.train_digest, progress.dev_digest = contents.train, contents.dev
        progress.utterances = contents.utterances
    return settings.model_copy(update={"epochs": progress.epochs, "minutes": progress.minutes}), said, changed


def _wants_more(progress: Progress, settings: recipe.TrainerSettings) -> bool:
    if (settings.epochs, settings.minutes) == (progress.asked_epochs, progress.asked_minutes):
        return False
    if settings.minutes is not None:
        enough = 60 * settings.minutes > progress.seconds
        asked = f"training.minutes is {settings.minutes:g}, and {progress.seconds / 60:.1f} are spent"
    else:
        enough = settings.epochs > progress.epoch
        asked = f"training.epochs is {settings.epochs}, and {progress.epoch} of {progress.epochs} are trained"
    if not enough and not progress.finished:
        raise RecipeError(f"{asked}: it counts all of them, so ask for more, or for as many as before")
    return enough


def _begin(progress: Progress, settings: recipe.TrainerSettings, *, anew: bool) -> list[str]:
    """Begins a stretch where the run stands; ``anew``, the batches of the epoch so far are no more."""
    said = []
    if progress.finished:
        until = f"epoch {progress.epochs}" if progress.minutes is None else f"{progress.minutes:.1f} min in all"
        said.append(
            f"training goes on after epoch {progress.epoch} until {until}; the learning rate rises again to where a "
            "run of that length has it by now, and falls until the end"
        )
        progress.warm_from = progress.step
    if anew:
        progress.batch, progress.epoch_steps, progress.epoch_labels = 0, 0, 0
        progress.epoch_loss = progress.epoch_blank = 0.0
    progress.asked_epochs, progress.asked_minutes = settings.epochs, settings.minutes
    progress.stretch_epoch = progress.epoch
    progress.stretch_step = progress.decay_step - _steps(progress.batch, progress, settings)
    progress.finished = False
    return said


def _count_in_steps_of(processes: int, progress: Progress) -> None:
    """Where there are more ``processes`` than before, so many more batches are a step, and there are so many fewer."""
    fewer = progress.processes / processes
    progress.ahead = round(progress.decay_step * fewer) - progress.step
    progress.stretch_step = round(progress.stretch_step * fewer)
    progress.processes = processes


def steps_in_all(progress: Progress, settings: recipe.TrainerSettings, batches: int) -> int:
    """``progress.decay_step`` at the end of the run, when an epoch has ``batches``."""
    left = settings.epochs - progress.stretch_epoch
    return progress.stretch_step + left * _steps(batches, progress, settings)


def _steps(batches: int, progress: Progress, settings: recipe.TrainerSettings) -> int:
    return math.ceil(batches / (settings.accumulate * progress.processes))

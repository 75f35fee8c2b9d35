"""What a training run needs to go on as if it had never stopped, and the signals that stop it."""

from __future__ import annotations

import io
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from pydantic import TypeAdapter

from asr import checkpoint, files, recipe, runtime
from asr.errors import CheckpointError
from asr.train.step import Trainer

STATE = Path("training") / "state.pt"

DevFigures = dict[str, float]
"""What the dev set says of a model, by the names of metrics.jsonl and meta.json: ``wer``, ``perplexity`` and so on.
Lower is better in each; between two epochs the first decides, or where it is equal the next."""


@dataclass(slots=True)
class Progress:
    """Where a run stands: ``epoch`` and ``batch`` are the next to be trained (from 0), ``step`` counts optimiser steps,
    ``seconds`` the time spent. ``best_epoch`` counts from 1. The ``epoch_*`` sums cover this epoch's steps so far.

    Batches are those of all processes together, so that a run may go on with another number of them: there were
    ``processes`` last. ``ahead`` is how many more steps, or fewer, the learning rate's decay has run through than the
    run has. ``asked_*`` are the recipe's epochs and minutes, ``epochs`` and ``minutes`` those of the run in all. Its
    last stretch (``train.stretch``) began at ``stretch_epoch`` and at step ``stretch_step`` of the decay, and its last
    warm-up at step ``warm_from``.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    seconds: float = 0.0
    finished: bool = False
    best_epoch: int = 0
    best_dev: DevFigures = field(default_factory=dict)
    last_dev: DevFigures = field(default_factory=dict)
    silent_epochs: int = 0
    epoch_loss: float = 0.0
    epoch_labels: int = 0
    epoch_blank: float = 0.0
    epoch_steps: int = 0
    processes: int = 1
    ahead: int = 0
    asked_epochs: int = 0
    asked_minutes: float | None = None
    epochs: int = 0
    minutes: float | None = None
    stretch_epoch: int = 0
    stretch_step: int = 0
    warm_from: int = 0
    utterances: int = 0
    train_digest: str = ""
    dev_digest: str = ""

    @property
    def decay_step(self) -> int:
        """Where the decay of the learning rate stands."""
        return self.step + self.ahead

    def add(self, *, nats: float, labels: int, steps: int, blank_rate: float | None, seconds: float) -> None:
        """Sums up ``steps`` more steps: their loss over their labels, the mean of their blank rates, their time."""
        self.epoch_loss += nats
        self.epoch_labels += labels
        self.epoch_steps += steps
        self.epoch_blank += (blank_rate or 0.0) * steps
        self.seconds += seconds

    @property
    def train_loss(self) -> float:
        """Of this epoch so far, a label, in nats."""
        return self.epoch_loss / max(self.epoch_labels, 1)

    @property
    def blank_rate(self) -> float | None:
        """Of this epoch so far; None where the model has no blank."""
        return self.epoch_blank / max(self.epoch_steps, 1) if self.epoch_blank else None

    def begin_sums(self) -> None:
        """Forgets the sums of the epoch that was closed."""
        self.epoch_loss = self.epoch_blank = 0.0
        self.epoch_labels = self.epoch_steps = 0

    def count_silence(self, dev: DevFigures, settings: recipe.TrainerSettings) -> None:
        """Counts the epochs on end in which the model emitted blanks alone after the warm-up. Before, every CTC model
        does."""
        rates = [dev[name] for name in ("wer", "per") if name in dev]
        warm = self.step > settings.warmup_steps
        silent = warm and (self.blank_rate or 0.0) > 0.99 and min(rates, default=0) >= 1
        self.silent_epochs = self.silent_epochs + 1 if silent else 0

    def close_epoch(self, settings: recipe.TrainerSettings) -> None:
        """Moves on to the next epoch, or to the end."""
        self.epoch, self.batch = self.epoch + 1, 0
        ran_through = settings.minutes is None and self.epoch >= settings.epochs
        self.finished = ran_through or is_time_up(self.seconds, settings)

    def judge(self, dev: DevFigures, settings: recipe.TrainerSettings) -> bool:
        """Takes in what the dev set says of the epoch just closed; true where it is the best so far."""
        best = self.best_epoch == 0 or tuple(dev.values()) < tuple(self.best_dev.values())
        if best:
            self.best_epoch, self.best_dev = self.epoch, dev
        self.last_dev = dev
        waited = self.epoch - max(self.best_epoch, self.stretch_epoch)
        weary = settings.patience is not None and waited >= settings.patience
        self.finished = self.finished or weary
        return best


_PROGRESS = TypeAdapter(Progress)


def is_time_up(seconds: float, settings: recipe.TrainerSettings) -> bool:
    """Whether a run that ends by the clock has had its minutes."""
    return settings.minutes is not None and seconds >= 60 * settings.minutes


def save_state(directory: Path, progress: Progress, trainer: Trainer[Any, Any]) -> None:
    """Writes the whole state aside and renames it, so that a kill at any moment leaves the old or the new one.

    Of several processes the first one does, and all wait for it: what they do next may be to end.
    """
    if runtime.is_first():
        with files.replacing(directory / STATE, "wb") as file:
            torch.save({"progress": asdict(progress), **trainer.state_dict()}, file)
    runtime.everyones(None)


def load_state(directory: Path, trainer: Trainer[Any, Any]) -> Progress | None:
    """Restores ``trainer`` and returns the progress; None where no state was saved yet.

    Of several processes the first one reads it, for all. Raises CheckpointError for a damaged state, or a trained model
    without one.
    """
    path = directory / STATE
    saved = runtime.by_first(lambda: _read_state(directory))
    if saved is None:
        return None
    try:
        state = torch.load(io.BytesIO(saved), map_location="cpu", weights_only=True)
        progress = _PROGRESS.validate_python(state["progress"])
        if min(progress.epoch, progress.batch, progress.step) < 0:
            raise ValueError("it counts below zero")
        trainer.load_state_dict(state)
        _check_finite(trainer)
    except Exception as error:  # a damaged pickle raises whatever its bytes lead to; weights_only keeps it from running
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise CheckpointError(
            f"{path} does not load: {reason}; restore it from a copy, or train anew with --out"
        ) from error
    return progress


def _read_state(directory: Path) -> bytes | None:
    path = directory / STATE
    if not path.is_file():
        if checkpoint.epochs_trained(directory) > 1:  # a kill between the first weights and the first state leaves one
            raise CheckpointError(
                f"{directory} holds a trained model but not {STATE}, so its training cannot go on; "
                "train elsewhere with --out"
            )
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} does not load: {error.strerror or error}") from error


def _check_finite(trainer: Trainer[Any, Any]) -> None:
    """Raises ValueError where the state that was loaded is not one from which a step can be taken."""
    for parameter in trainer.model.parameters():
        if not parameter.isfinite().all():
            raise ValueError("its weights are NaN or infinite")
        for name, value in trainer.optimiser.state[parameter].items():
            if name != "step" and value.shape != parameter.shape:
                raise ValueError("its optimiser's state is not of the model's shapes")


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """An event that SIGINT (Ctrl-C) and SIGTERM set; a second signal acts as it always does."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals reach the main thread alone
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, _frame: FrameType | None) -> None:
        stop.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

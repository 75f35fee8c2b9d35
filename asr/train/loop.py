"""The training loop, the same whatever is trained."""

from __future__ import annotations

import copy
import itertools
import platform
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

import asr
from asr import checkpoint, recipe, runtime
from asr.errors import TrainingError, TrainingStopped
from asr.train.monitor import Monitor
from asr.train.optimiser import learning_rate, share_left
from asr.train.state import DevFigures, Progress, is_time_up, load_state, save_state, stop_on_signals
from asr.train.step import B, Loss, M, Trainer
from asr.train.stretch import Contents, go_on, steps_in_all


class Task(Protocol[M, B]):
    """What is trained and on what: an acoustic model (``train.acoustic``) or a language model (``train.language``)."""

    model: M

    @property
    def batches(self) -> int:
        """How many of them are an epoch."""
        ...

    @property
    def contents(self) -> Contents: ...

    def forget(self) -> None:
        """Makes anew what an earlier call took from the corpus, which has changed since."""
        ...

    def epoch(self, number: int, *, skip: int) -> Iterator[B]:
        """The batches of epoch ``number``, the first ``skip`` left out: the same ones whenever it is asked."""
        ...

    def loss(self, model: M, batch: B) -> Loss: ...

    def frozen(self, step: int) -> Iterable[nn.Parameter]:
        """The weights that step ``step``, counted from 0, leaves as they are."""
        ...

    def score_dev(self, model: M, monitor: Monitor) -> DevFigures:
        """How well ``model``, in evaluation mode, does on the dev set."""
        ...

    def describe(self) -> dict[str, Any]:
        """What meta.json says of the corpus."""
        ...

    def subject(self) -> str:
        """The corpus and its size in a few words, for the person who waits."""
        ...


def train(task: Task[M, B], settings: recipe.TrainerSettings, directory: Path, *, seed: int) -> dict[str, Any]:
    """Trains ``task.model`` into ``directory``, going on where an earlier call was stopped, mid-epoch and to the
    weights it would have reached. Returns the contents of meta.json; raises TrainingError."""
    model = task.model
    averaged = copy.deepcopy(model).eval()
    trainer = Trainer(model, task.loss, settings)
    progress = load_state(directory, trainer) or Progress()
    settings, changes, another = go_on(progress, settings, task.contents)
    if another:
        task.forget()
    total_steps = steps_in_all(progress, settings, task.batches)

    watched = Monitor(directory, progress, settings, batches=task.batches, may_skip=trainer.scaler.is_enabled())
    with watched as monitor, stop_on_signals() as stop:
        if not progress.finished:
            monitor.say(_header(task, directory))
        for change in changes:
            monitor.say(change)
        saved = time.monotonic()
        while not progress.finished:
            model.train()
            for group in _groups(task.epoch(progress.epoch, skip=progress.batch), settings.accumulate):
                # Dropout and SpecAugment depend on the place in the run alone, so a resumed run draws the same.
                runtime.seed_step(seed, progress.epoch, progress.batch)
                progress.batch += len(group)
                monitor.reject(*group)
                usable = [batch for batch in group if len(batch)]
                if not usable:
                    continue
                left = share_left(progress.step, total_steps, monitor.seconds, settings)
                rate = learning_rate(progress.step, left, settings, warm_from=progress.warm_from)
                figures = trainer.step(usable, rate, frozen=task.frozen(progress.step))
                progress.step += 1
                monitor.step(figures)
                if stop.is_set() or time.monotonic() - saved > settings.save_minutes * 60:
                    monitor.read()
                    save_state(directory, progress, trainer)
                    saved = time.monotonic()
                if stop.is_set():
                    raise TrainingStopped(f"stopped in epoch {progress.epoch + 1} after {progress.step} steps")
                if is_time_up(monitor.seconds, settings):
                    break
            monitor.read()
            if progress.step == 0:
                raise TrainingError(f"nothing could be trained on; {directory}/training/rejected.jsonl says why")

            trainer.average.after_epoch(model)
            progress.close_epoch(monitor.seconds, settings)
            if not progress.finished and progress.epoch % settings.dev_every:
                monitor.epoch()
                continue
            averaged.load_state_dict(trainer.average.weights(model))
            dev = task.score_dev(averaged, monitor)
            best = progress.judge(dev, settings)
            monitor.epoch(dev, best=best)
            progress.finished |= is_time_up(progress.seconds, settings)  # scoring takes time too
            # Weights after meta.json, so that a directory that has them is whole.
            checkpoint.save_meta(directory, describe_run(task, progress))
            checkpoint.save_weights(directory / checkpoint.LAST_WEIGHTS, averaged.state_dict())
            if best:
                checkpoint.save_weights(directory / checkpoint.WEIGHTS, averaged.state_dict())
            save_state(directory, progress, trainer)
            saved = time.monotonic()
    return describe_run(task, progress)


def _header(task: Task[M, B], directory: Path) -> str:
    parameters = list(task.model.parameters())
    device = parameters[0].device
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    return (
        f"training on {task.subject()}\n"
        f"{sum(p.numel() for p in parameters) / 1e6:.2f} M parameters on {device}{threads}; writing to {directory}"
    )


def _groups(batches: Iterator[B], size: int) -> Iterator[list[B]]:
    """``size`` batches at a time, and at the end those that are left."""
    while group := list(itertools.islice(batches, size)):
        yield group


def describe_run(task: Task[M, B], progress: Progress) -> dict[str, Any]:
    """The contents of meta.json: what was trained, with what, and how well it does on the dev set."""
    parameters = list(task.model.parameters())
    return {
        "versions": {"asr": asr.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "device": str(parameters[0].device),
        "parameters": sum(p.numel() for p in parameters),
        "training": {
            "epochs": progress.epoch,
            "steps": progress.step,
            "minutes": round(progress.seconds / 60, 2),
            **task.describe(),
            "finished": progress.finished,
        },
        "results": {"best_epoch": progress.best_epoch, "dev": progress.best_dev},
    }

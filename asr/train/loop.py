"""The training loop, the same whatever is trained."""

from __future__ import annotations

import contextlib
import copy
import platform
import threading
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

import asr
from asr import checkpoint, recipe, runtime
from asr.errors import CorpusError, TrainingError, TrainingStopped
from asr.train.groups import agreed_groups
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

    def ready(self, number: int, monitor: Monitor, stop: threading.Event) -> bool:
        """Does what comes before epoch ``number``, showing it where it takes long. False where a process was told to
        stop meanwhile: then it begins anew when the run goes on."""
        ...

    def epoch(self, number: int, *, skip: int, every: int) -> Generator[B, None, None]:
        """The batches of epoch ``number``, the first ``skip`` left out and of the rest one in ``every``: the same ones
        whenever it is asked. Closing it ends the processes that load them."""
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
    weights it would have reached. Returns the contents of meta.json; raises TrainingError.

    Of several processes (``runtime.joined``) each takes every so many-th batch, and all take each step together; the
    first one writes.
    """
    model, rank, world = task.model, runtime.rank(), runtime.world()
    runtime.copy_from_first([*model.parameters(), *model.buffers()])
    averaged = _copy_of(model).eval()
    trainer = Trainer(model, task.loss, settings)
    progress = load_state(directory, trainer) or Progress()
    settings, changes, another = go_on(progress, settings, _agreed(task.contents), processes=world)
    if another:
        task.forget()
    total_steps = steps_in_all(progress, settings, task.batches)

    watched = Monitor(directory, progress, settings, batches=task.batches, may_skip=trainer.scaler.is_enabled())
    with watched as monitor, stop_on_signals() as stop:
        if not progress.finished:
            monitor.say(_header(task, directory))
        for change in changes:
            monitor.say(change)
        saved = progress.seconds
        while not progress.finished:
            if not task.ready(progress.epoch, monitor, stop):
                save_state(directory, progress, trainer)
                raise TrainingStopped(f"stopped before epoch {progress.epoch + 1} after {progress.step} steps")
            model.train()
            with contextlib.closing(task.epoch(progress.epoch, skip=progress.batch + rank, every=world)) as batches:
                for group in agreed_groups(batches, settings.accumulate, monitor, stop):
                    if group.stop or (progress.step and group.seconds - saved > settings.save_minutes * 60):
                        monitor.read()
                        save_state(directory, progress, trainer)
                        saved = progress.seconds
                    if group.stop:
                        raise TrainingStopped(f"stopped in epoch {progress.epoch + 1} after {progress.step} steps")
                    if progress.batch and is_time_up(group.seconds, settings):
                        break
                    # Dropout and SpecAugment depend on the place in the run alone, so a resumed run draws the same.
                    seeds = [(seed, progress.epoch, progress.batch + place) for place in group.places]
                    progress.batch += group.size
                    monitor.reject(group.rejected)
                    if not group.labels:
                        continue
                    left = share_left(progress.decay_step, total_steps, group.seconds, settings)
                    rate = learning_rate(progress.step, left, settings, warm_from=progress.warm_from)
                    frozen = task.frozen(progress.step)
                    figures = trainer.step(group.own, rate, labels=group.labels, seeds=seeds, frozen=frozen)
                    progress.step += 1
                    monitor.step(figures)
            monitor.read()
            if progress.step == 0:
                raise TrainingError(f"nothing could be trained on; {directory}/training/rejected.jsonl says why")

            trainer.average.after_epoch(model)
            progress.close_epoch(settings)
            if not progress.finished and progress.epoch % settings.dev_every:
                monitor.epoch()
                continue
            averaged.load_state_dict(trainer.average.weights(model))
            dev = task.score_dev(averaged, monitor)
            best = progress.judge(dev, settings)
            monitor.epoch(dev, best=best)
            progress.finished |= is_time_up(progress.seconds, settings)  # scoring takes time too
            if runtime.is_first():
                _save_model(directory, describe_run(task, progress), averaged, best=best)
            save_state(directory, progress, trainer)
            saved = progress.seconds
    return describe_run(task, progress)


def _copy_of(model: M) -> M:
    """A copy whose recurrent weights lie in one piece of memory, as cuDNN wants them: copying takes them apart."""
    copied = copy.deepcopy(model)
    for module in copied.modules():
        if isinstance(module, nn.RNNBase):
            module.flatten_parameters()
    return copied


def _agreed(contents: Contents) -> Contents:
    """``contents``, if they are those of all processes. Raises CorpusError: of different corpora the shares would be
    no whole."""
    for number, others in enumerate(runtime.everyones(contents)):
        if others != contents:
            raise CorpusError(
                f"process {runtime.rank()} reads {contents.utterances} utterances an epoch and process {number} reads "
                f"{others.utterances}, or others: give each machine the same corpora, whole, under the same paths"
            )
    return contents


def _save_model(directory: Path, meta: dict[str, Any], averaged: nn.Module, *, best: bool) -> None:
    checkpoint.save_meta(directory, meta)  # before the weights, so that a directory that has them is whole
    checkpoint.save_weights(directory / checkpoint.LAST_WEIGHTS, averaged.state_dict())
    if best:
        checkpoint.save_weights(directory / checkpoint.WEIGHTS, averaged.state_dict())


def _header(task: Task[M, B], directory: Path) -> str:
    parameters = list(task.model.parameters())
    device = parameters[0].device
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    processes = f", {runtime.world()} processes" if runtime.world() > 1 else ""
    size = sum(p.numel() for p in parameters) / 1e6
    return (
        f"training on {task.subject()}\n{size:.2f} M parameters on {device}{threads}{processes}; writing to {directory}"
    )


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

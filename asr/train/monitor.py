"""Watching a run: a progress line, metrics.jsonl, TensorBoard, training.png, and warnings that name a cause."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from rich import progress as bars
from rich.console import Console
from torch import Tensor

from asr import files, recipe, runtime
from asr.errors import AsrError, CheckpointError, DivergenceError, TrainingError
from asr.records import Rejection
from asr.text.printable import printable
from asr.train.state import DevFigures, Progress
from asr.train.step import StepFigures

EVERY = 10
"""Steps of a line of metrics.jsonl."""
PICTURE_SECONDS = 30
PICTURE_SHARE = 0.01
"""Of a run's time, which drawing it may take at the most: a GPU waits meanwhile."""
SILENT_EPOCHS = 5
PLAIN_SECONDS = 60
"""Between two lines of a run whose output goes to a file or a pipe."""
BAR_WIDTH, TIME_WIDTH = 10, 9
MOST_SKIPPED = 32
"""Steps on end: a loss scaler begins at 2^16 and halves it in each."""


SHOWN = {
    "loss": "loss {:.3f}",
    "train_loss": "loss {:.3f}",
    "dev_loss": "dev loss {:.3f}",
    "dev_wer": "WER {:.2%}",
    "dev_cer": "CER {:.2%}",
    "dev_perplexity": "perplexity {:.1f}",
    "dev_bits_per_character": "{:.3f} bits a character",
    "blank_rate": "blank {:.0%}",
    "gradient_norm": "grad {:.2f}",
    "audio_hours_per_hour": "{:.0f} hours of audio an hour",
    "labels_per_second": "{:,.0f} labels a second",
    "minutes": "{:.1f} min",
}
"""How a figure of metrics.jsonl is shown; those that are not here are for the file alone."""


def shown(figures: dict[str, Any], room: int | None = None) -> str:
    """The figures in words; of those that do not fit in ``room`` columns, the first ones that do."""
    entries = [form.format(figures[name]) for name, form in SHOWN.items() if figures.get(name) is not None]
    while room is not None and entries and len("  ".join(entries)) > room:
        entries.pop()
    return "  ".join(entries)


@dataclass(frozen=True, slots=True)
class _Reading:
    """A step's numbers on their way from the device: each batch's nats, each one's blank rate if there is such a thing,
    the gradient's norm. On a GPU ``copied`` says when they have arrived. ``at`` is when the step was over, for the CPU
    at least."""

    figures: StepFigures
    numbers: Tensor
    copied: torch.cuda.Event | None
    at: float

    @classmethod
    def begin(cls, figures: StepFigures) -> _Reading:
        blanks = [loss.blank_rate for loss in figures.losses if loss.blank_rate is not None]
        numbers = torch.stack([*(loss.nats for loss in figures.losses), *blanks, figures.gradient_norm])
        copied = torch.cuda.Event() if numbers.is_cuda else None  # type: ignore[no-untyped-call]
        numbers = numbers.to("cpu", non_blocking=True)
        if copied is not None:
            copied.record()
        return cls(figures, numbers, copied, time.monotonic())

    def end(self) -> _Numbers:
        """Waits for them."""
        if self.copied is not None:
            self.copied.synchronize()
        *rest, norm = self.numbers.tolist()
        losses = self.figures.losses
        heard = [loss.audio_seconds for loss in losses]
        return _Numbers(nats=rest[: len(losses)], blanks=rest[len(losses) :], heard=heard, norm=norm)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Numbers:
    """A step's batches, each with its ``nats``, its blank rate if there is such a thing and the seconds of audio
    ``heard``; and the gradient's ``norm``."""

    nats: list[float]
    blanks: list[float]
    heard: list[float]
    norm: float

    @classmethod
    def together(cls, shares: Sequence[_Numbers]) -> _Numbers:
        """The whole step's, of which ``shares`` are the processes'."""
        return cls(
            nats=runtime.interleaved([share.nats for share in shares]),
            blanks=runtime.interleaved([share.blanks for share in shares]),
            heard=runtime.interleaved([share.heard for share in shares]),
            norm=shares[0].norm,
        )


class Monitor:
    """Reports steps and epochs. Use as a context: it owns the progress line and the open files.

    Several processes each have one, which take steps and epochs in together; the first one's alone shows and writes
    something. Its clock is the run's.
    """

    def __init__(
        self,
        directory: Path,
        progress: Progress,
        settings: recipe.TrainerSettings,
        *,
        batches: int,
        may_skip: bool = False,
    ) -> None:
        """``batches`` are an epoch's. ``may_skip``: a loss scaler skips steps whose gradient overflows."""
        self.directory = directory
        self.progress = progress
        self.settings = settings
        self.console = Console(stderr=True)
        self._pending: list[_Reading] = []
        self._since = time.monotonic()
        self._may_skip = may_skip
        self._skipped = 0
        self._rejected: dict[str, str] = {}
        self._picture_due = 0.0
        self._plain_due = time.monotonic() + PLAIN_SECONDS
        self._bar = bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(bar_width=BAR_WIDTH),
            bars.TextColumn("{task.fields[done]}"),
            bars.TextColumn("{task.fields[figures]}"),
            bars.TimeRemainingColumn(),
            console=self.console,
            transient=True,
            redirect_stdout=False,  # a worker forked while the bar is drawn must not inherit its lock
            redirect_stderr=False,
            disable=not runtime.is_first(),
        )
        self._batches = batches
        self._total = settings.epochs * batches if settings.minutes is None else 60 * settings.minutes
        self._task = self._bar.add_task(f"epoch {progress.epoch + 1}", total=self._total, done="", figures="")

    def __enter__(self) -> Monitor:
        self.history: list[dict[str, Any]] = []
        if not runtime.is_first():
            return self
        from torch.utils.tensorboard import SummaryWriter

        self.history = _history_until(self.directory / "metrics.jsonl", self.progress)
        self._rejected.update(_rejected_before(self.directory / "training" / "rejected.jsonl"))
        with files.replacing(self.directory / "metrics.jsonl") as file:
            file.writelines(json.dumps(line) + "\n" for line in self.history)
        self._metrics = (self.directory / "metrics.jsonl").open("a", encoding="utf-8")
        self._board = SummaryWriter(str(self.directory / "training" / "tensorboard"), purge_step=self.progress.step + 1)
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if not runtime.is_first():
            return
        # What stopped the run matters more than what its closing meets, a full disk above all.
        with contextlib.suppress(OSError, AsrError) if error else contextlib.nullcontext():
            self._metrics.close()
            self._board.close()
            if self.history:
                self._draw()

    @property
    def seconds(self) -> float:
        """Time spent on the run so far, dev scoring and earlier parts included, by this process's own clock."""
        return self.progress.seconds + time.monotonic() - self._since

    def say(self, text: str) -> None:
        if runtime.is_first():
            self.console.print(printable(text), highlight=False, markup=False, soft_wrap=True)

    def reject(self, rejections: Iterable[Rejection]) -> None:
        """Names what was left out by any process, each once a run."""
        for rejection in rejections:
            if rejection.id in self._rejected:
                continue
            self._rejected[rejection.id] = rejection.reason
            if not runtime.is_first():
                continue
            with (self.directory / "training" / "rejected.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({"id": rejection.id, "reason": rejection.reason}, ensure_ascii=False) + "\n")
            if len(self._rejected) <= 10:
                self.say(f"left out {rejection.id}: {rejection.reason}")
            elif len(self._rejected) == 11:
                self.say("more are left out; training/rejected.jsonl names each")

    def step(self, figures: StepFigures) -> None:
        """Takes a step in, to be read with others when the next one is under way: then the device need not wait."""
        if len(self._pending) >= EVERY:
            self._read(steps_after=1)
        self._pending.append(_Reading.begin(figures))

    def read(self) -> None:
        """Waits for the device, takes in what is pending, and brings the run's clock up to date. Raises DivergenceError
        for a loss that is no number."""
        if self._pending:
            self._read(steps_after=0)
        self._tick()

    def _tick(self) -> None:
        now = time.monotonic()
        self._since, elapsed = now, now - self._since
        self.progress.seconds += runtime.by_first(lambda: elapsed)

    def _read(self, *, steps_after: int) -> None:
        """Takes in what is pending; ``progress`` counts so many steps that are not among them."""
        own = [reading.end() for reading in self._pending]
        shares = runtime.everyones((own, self._pending[-1].at - self._since))
        read = [_Numbers.together(parts) for parts in zip(*(steps for steps, _ in shares), strict=True)]
        elapsed = shares[0][1]
        figures = [reading.figures for reading in self._pending]
        nats = sum(sum(step.nats) for step in read)
        blanks = [rate for step in read for rate in step.blanks]
        norms = [step.norm for step in read]
        labels = sum(f.labels for f in figures)
        line: dict[str, Any] = {
            "kind": "step",
            "step": self.progress.step - steps_after,
            "epoch": self.progress.epoch + 1,
            "loss": nats / max(labels, 1),
            "gradient_norm": next((n for n in reversed(norms) if math.isfinite(n)), None),
            "learning_rate": figures[-1].learning_rate,
        }
        if blanks:
            line["blank_rate"] = sum(blanks) / len(blanks)
            heard = sum(seconds for step in read for seconds in step.heard)
            line["audio_hours_per_hour"] = heard / max(elapsed, 1e-9)
        else:
            line["labels_per_second"] = labels / max(elapsed, 1e-9)
        if not math.isfinite(line["loss"]) or self._too_many_skipped(norms):
            raise DivergenceError(
                f"the loss or its gradient is no number at step {line['step']}: most likely the learning rate "
                f"({line['learning_rate']:.2g}) is too high for this corpus; lower training.learning_rate or "
                "training.clip, or lengthen training.warmup_steps, and train anew with another --out"
            )
        blank_rate = line.get("blank_rate")
        self.progress.add(nats=nats, labels=labels, steps=len(read), blank_rate=blank_rate, seconds=elapsed)
        self._since = self._pending[-1].at
        self._pending.clear()
        self._write(line)
        self._show(line)

    def _show(self, line: dict[str, Any]) -> None:
        """Moves the progress line, which keeps the step and the time left however narrow the terminal is; where there
        is no terminal, says it now and then."""
        decisive = {f"dev_{name}": value for name, value in list(self.progress.last_dev.items())[:1]}
        timed = self.settings.minutes is not None
        completed = self.progress.seconds if timed else self.progress.epoch * self._batches + self.progress.batch
        done = f"{completed / 60:.1f}/{self.settings.minutes:g} min" if timed else f"{completed}/{self._total}"
        epoch = self._numbered(self.progress.epoch + 1)
        figures = {**line, **decisive}
        room = self.console.width - len(f"epoch {epoch} {done} ") - BAR_WIDTH - TIME_WIDTH - 2
        described = f"epoch {epoch}"
        self._bar.update(
            self._task, description=described, completed=completed, done=done, figures=shown(figures, room)
        )
        self._say_plainly(self._task, f"{described}  {done}  {shown(figures)}")

    @contextlib.contextmanager
    def watched(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Work before an epoch, shown in place of its line, with the time left: ``what`` is done, and to how many
        utterances. What is yielded hears of those that are done."""
        task = self._bar.add_task(what, total=total, done="", figures="")
        self._bar.update(self._task, visible=False)
        done = 0

        def advance(utterances: int) -> None:
            nonlocal done
            done += utterances
            self._bar.update(task, completed=done, done=f"{done}/{total}")
            self._say_plainly(task, f"{what}  {done}/{total}")

        try:
            yield advance
        finally:
            self._bar.remove_task(task)
            self._bar.update(self._task, visible=True)

    def _say_plainly(self, task: bars.TaskID, text: str) -> None:
        """Says a line of progress, with the time left, now and then where there is no terminal to draw it on."""
        if self.console.is_interactive or time.monotonic() <= self._plain_due:
            return
        self._plain_due = time.monotonic() + PLAIN_SECONDS
        left = next(one for one in self._bar.tasks if one.id == task).time_remaining
        rest = "" if left is None else f"  {left / 60:.0f} min left"
        self.say(f"{text}{rest}")

    def _too_many_skipped(self, norms: Sequence[float]) -> bool:
        """Whether a gradient is NaN or infinite where it must not be: at all without a loss scaler, and with one in so
        many steps on end that its scale, halved in each, cannot be the reason."""
        for norm in norms:
            self._skipped = 0 if math.isfinite(norm) else self._skipped + 1
            if self._skipped > (MOST_SKIPPED if self._may_skip else 0):
                return True
        return False

    def _numbered(self, epoch: int) -> str:
        return str(epoch) if self.settings.minutes is not None else f"{epoch:>3}/{self.settings.epochs}"

    def epoch(self, dev: DevFigures | None = None, *, best: bool = False) -> None:
        """Writes the line of the epoch that ``progress.close_epoch`` has just closed; ``dev`` where it was scored."""
        progress = self.progress
        self._tick()
        line = {
            "kind": "epoch",
            "step": progress.step,
            "epoch": progress.epoch,
            "train_loss": progress.train_loss,
            **{f"dev_{name}": value for name, value in (dev or {}).items()},
            "rejected": len(self._rejected),
            "minutes": progress.seconds / 60,
        }
        if progress.blank_rate is not None:
            line["blank_rate"] = progress.blank_rate
        self._write(line)
        self.say(f"epoch {self._numbered(progress.epoch)}  {shown(line)}{'  best' if best else ''}")
        if dev:
            progress.count_silence(dev, self.settings)
            if progress.silent_epochs == SILENT_EPOCHS:
                self._warn_of_silence()
        progress.begin_sums()
        now = time.monotonic()
        if runtime.is_first() and now > self._picture_due:
            self._draw()
            drawn = time.monotonic()
            self._picture_due = drawn + max(PICTURE_SECONDS, (drawn - now) / PICTURE_SHARE)

    def _warn_of_silence(self) -> None:
        self.say(
            f"warning: for {SILENT_EPOCHS} epochs after the warm-up the model has emitted blanks alone. Likely "
            "causes: texts that do not belong to their audio (listen to a few), a learning rate that is too high "
            "or too low, too few steps an epoch (lower training.max_batch_seconds), or too strong augmentation."
        )

    def _write(self, line: dict[str, Any]) -> None:
        if not runtime.is_first():
            return
        self.history.append(line)
        try:
            self._metrics.write(json.dumps(line) + "\n")
            self._metrics.flush()
        except OSError as error:
            raise TrainingError(f"{self.directory / 'metrics.jsonl'} cannot be written: {error.strerror}") from error
        for name, value in line.items():
            if isinstance(value, float):
                self._board.add_scalar(f"{line['kind']}/{name}", value, line["step"])

    def _draw(self) -> None:
        from asr.train.picture import draw_training

        draw_training(self.history, self.directory / "training.png")


def _history_until(path: Path, progress: Progress) -> list[dict[str, Any]]:
    """The lines of an earlier part of this run that will not be written again."""
    lines = json_lines(path)
    steps = [line for line in lines if line["kind"] == "step" and line["step"] <= progress.step]
    epochs = [line for line in lines if line["kind"] == "epoch" and line["epoch"] <= progress.epoch]
    return sorted(steps + epochs, key=lambda line: (line["step"], line["kind"] == "epoch"))


def json_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, none where it is missing; a torn last line is dropped. Raises CheckpointError for
    one that no training wrote."""
    lines = []
    texts = _text_of(path).split("\n")
    for number, text in enumerate(texts, start=1):
        try:
            if text:
                lines.append(_metrics(json.loads(text)))
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError, AttributeError) as error:
            if number == len(texts):  # what a kill tore has no line feed
                continue
            raise CheckpointError(
                f"{path}, line {number}: not a line that training wrote; delete it, or the file, and the run goes on"
            ) from error
    return lines


def _metrics(line: dict[str, Any]) -> dict[str, Any]:
    """``line``, if it has what is asked of it: its kind, step and epoch, and figures that can be drawn."""
    if line["kind"] not in ("step", "epoch") or not isinstance(line["step"], int) or not isinstance(line["epoch"], int):
        raise ValueError("kind, step or epoch")
    for value in line.values():
        if value is not None and value != line["kind"]:
            math.isfinite(value)
    return line


def _rejected_before(path: Path) -> dict[str, str]:
    """Why which utterances were left out so far. It is appended to, so that a kill may have torn any line."""
    reasons = {}
    for text in _text_of(path).split("\n"):
        with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
            line = json.loads(text)
            reasons[str(line["id"])] = str(line["reason"])
    return reasons


def _text_of(path: Path) -> str:
    """What a file of the run folder holds, nothing where it is missing. Raises CheckpointError."""
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise CheckpointError(f"{path} cannot be read: {reason}; delete it, and the run goes on") from error

"""One optimiser step: forward, loss, backward, update."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from asr import recipe, runtime
from asr.records import Rejection
from asr.train.optimiser import build_average, build_optimiser


class Labelled(Protocol):
    """A batch of what is trained on: ``labels`` is the number of tokens in it to be learnt."""

    @property
    def labels(self) -> int: ...

    @property
    def rejected(self) -> tuple[Rejection, ...]: ...

    def __len__(self) -> int: ...


M = TypeVar("M", bound=nn.Module)
B = TypeVar("B", bound=Labelled)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """A batch's loss, ``nats`` summed over its labels. An acoustic model's also has the ``blank_rate``, a fraction,
    and the ``audio_seconds`` that were heard."""

    nats: Tensor
    blank_rate: Tensor | None = None
    audio_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFigures:
    """One step's numbers: the ``losses`` of this process's batches, still on the device; the ``labels`` of all
    processes' together; and ``gradient_norm`` before clipping, the same for all."""

    losses: tuple[Loss, ...]
    labels: int
    gradient_norm: Tensor
    learning_rate: float


class Trainer(Generic[M, B]):
    """The model with what moves its weights: optimiser, loss scaler (float16 alone) and average."""

    def __init__(self, model: M, loss: Callable[[M, B], Loss], settings: recipe.TrainerSettings) -> None:
        self.model = model
        self.loss = loss
        self.settings = settings
        self.device = next(model.parameters()).device
        self.precision = runtime.resolve_precision(self.device, settings.precision)
        self.optimiser = build_optimiser(model, settings)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "float16")
        self.scaler.scale(torch.zeros((), device=self.device))  # sets its scale, for a first step without batches
        self.average = build_average(settings.averaging, model)

    def step(
        self,
        batches: Sequence[B],
        learning_rate: float,
        *,
        labels: int | None = None,
        seeds: Sequence[tuple[int, ...]] | None = None,
        frozen: Iterable[nn.Parameter] = (),
    ) -> StepFigures:
        """Accumulates the gradient of the loss per label over ``batches``, those of all processes, then updates the
        weights once, but for the ``frozen`` ones: not at all where a gradient in float16 overflows, after which the
        scaler lowers its scale.

        ``labels`` are those of all processes' batches, by default of these. ``seeds`` has what torch is seeded with
        before each batch.
        """
        labels = sum(batch.labels for batch in batches) if labels is None else labels
        losses = []
        for number, batch in enumerate(batches):
            if seeds is not None:
                runtime.seed_step(*seeds[number])
            with runtime.autocast(self.device, self.precision):
                loss = self.loss(self.model, batch)
            self.scaler.scale(loss.nats / labels).backward()  # type: ignore[no-untyped-call]
            losses.append(dataclasses.replace(loss, nats=loss.nats.detach()))

        self._add_gradients()
        for parameter in frozen:
            parameter.grad = None  # which the optimiser passes over, weight decay and all
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate
        self.scaler.unscale_(self.optimiser)
        gradient_norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.optimiser.zero_grad(set_to_none=True)
        self.average.after_step(self.model)
        return StepFigures(
            losses=tuple(losses), labels=labels, gradient_norm=gradient_norm, learning_rate=learning_rate
        )

    def _add_gradients(self) -> None:
        """Adds up those of all processes. One flat sum after the last batch, and not DistributedDataParallel: that one
        would hide a few milliseconds of it behind the backward pass, but divides by the number of processes, and wants
        a batch from each of them in each step."""
        if runtime.world() == 1:
            return
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        for parameter in trained:
            if parameter.grad is None:  # of a process that had no batch
                parameter.grad = torch.zeros_like(parameter)
        runtime.add_up([parameter.grad for parameter in trained if parameter.grad is not None])

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        if state["scaler"]:  # none where the run was begun in another precision, on another device
            self.scaler.load_state_dict(state["scaler"])
        self.average.load_state_dict(state["average"])

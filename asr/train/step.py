"""One optimiser step: forward, CTC, backward, update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from asr import recipe, runtime
from asr.decode.greedy import blank_rate
from asr.model.acoustic import AcousticModel, ctc_loss
from asr.records import Batch
from asr.train.optimiser import build_average, build_optimiser


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFigures:
    """One step's numbers, tensors still on the device: ``loss`` in nats summed over ``labels`` labels, ``blank_rate``
    a fraction, ``gradient_norm`` before clipping."""

    loss: Tensor
    labels: int
    blank_rate: Tensor
    gradient_norm: Tensor
    learning_rate: float
    audio_seconds: float


class Trainer:
    """The model with what moves its weights: optimiser, loss scaler (float16 alone) and average."""

    def __init__(self, model: AcousticModel, settings: recipe.Training) -> None:
        self.model = model
        self.settings = settings
        self.optimiser = build_optimiser(model, settings)
        self.scaler = torch.amp.GradScaler(model.device.type, enabled=settings.precision == "float16")
        self.average = build_average(settings.averaging, model)

    def step(self, batches: Sequence[Batch], learning_rate: float) -> StepFigures:
        """Accumulates the gradient of the loss per label over ``batches``, then updates the weights once."""
        labels = sum(int(batch.token_lengths.sum()) for batch in batches)
        losses, blanks = [], []
        for batch in batches:
            with runtime.autocast(self.model.device, self.settings.precision):
                emissions = self.model(batch)
            loss = ctc_loss(emissions, batch.tokens, batch.token_lengths)
            self.scaler.scale(loss / labels).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
            blanks.append(blank_rate(emissions))

        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate
        self.scaler.unscale_(self.optimiser)
        gradient_norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.optimiser.zero_grad(set_to_none=True)
        self.average.after_step(self.model)

        samples = sum(int(batch.waveform_lengths.sum()) for batch in batches)
        return StepFigures(
            loss=torch.stack(losses).sum(),
            labels=labels,
            blank_rate=torch.stack(blanks).mean(),
            gradient_norm=gradient_norm,
            learning_rate=learning_rate,
            audio_seconds=samples / self.model.features.settings.sample_rate,
        )

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
        self.scaler.load_state_dict(state["scaler"])
        self.average.load_state_dict(state["average"])

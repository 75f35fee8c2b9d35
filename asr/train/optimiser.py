"""The learning rate as a function of the step, and averages of the weights for evaluation."""

from __future__ import annotations

import inspect
import math
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from asr import recipe

FLOOR = 0.005
"""The last steps' share of the peak learning rate."""


class PlainAdamW(torch.optim.AdamW):
    """AdamW without what its methods do for ``torch.compile``, which is not used here: the first call of one imports
    ``torch._dynamo``, which takes 2 s of a processor and 150 MB (torch 2.14)."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))
    add_param_group = inspect.unwrap(torch.optim.AdamW.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.AdamW.zero_grad)
    state_dict = inspect.unwrap(torch.optim.AdamW.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.AdamW.load_state_dict)


def build_optimiser(model: nn.Module, settings: recipe.TrainerSettings) -> torch.optim.AdamW:
    """AdamW; biases and norms (one-dimensional parameters) are not decayed. On a GPU it is fused, which lets the loss
    scaler skip a step without the CPU's waiting to hear of it."""
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    vectors = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    fused = all(p.is_cuda for p in (*matrices, *vectors))
    return PlainAdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98), fused=fused)


def learning_rate(step: int, left: float, settings: recipe.TrainerSettings, *, warm_from: int = 0) -> float:
    """The rate of step ``step``, counted from 0, when the share ``left`` of the decay is still to come, in [0, 1]: a
    linear warm-up from step ``warm_from`` on, then the decay to FLOOR of the peak."""
    step -= warm_from
    warm = (step + 1) / settings.warmup_steps if step < settings.warmup_steps else 1.0
    return settings.learning_rate * min(warm, _decayed(left, settings))


def _decayed(left: float, settings: recipe.TrainerSettings) -> float:
    match settings.decay:
        case "cosine":
            return max(0.5 * (1 + math.cos(math.pi * (1 - left))), FLOOR)
        case "linear":
            return max(left, FLOOR)
    return 1.0


def share_left(step: int, total: int, seconds: float, settings: recipe.TrainerSettings) -> float:
    """How much of the decay is still to come, in [0, 1], before step ``step`` of ``total``, after ``seconds`` of
    training: by the clock where the recipe gives the run ``minutes``, else by the steps after the warm-up."""
    if settings.minutes is not None:
        left = 1 - seconds / (60 * settings.minutes)
    else:
        left = 1 - (step - settings.warmup_steps) / max(total - settings.warmup_steps, 1)
    return min(max(left, 0.0), 1.0)


class Average(Protocol):
    """An average of the weights along training, which generalises better than the last step's."""

    def after_step(self, model: nn.Module) -> None: ...

    def after_epoch(self, model: nn.Module) -> None: ...

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """The averaged state_dict, to be loaded into a copy of ``model``."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def build_average(settings: recipe.Ema | recipe.LastK | recipe.NoAveraging, model: nn.Module) -> Average:
    if isinstance(settings, recipe.Ema):
        return _Ema(settings.decay, model)
    return _LastK(settings.epochs if isinstance(settings, recipe.LastK) else 1)


class _Ema:
    """Exponential moving average of the parameters; a young one forgets faster, so the random start does not linger."""

    def __init__(self, decay: float, model: nn.Module) -> None:
        self.decay = decay
        self.steps = 0
        self.shadow = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    @torch.no_grad()
    def after_step(self, model: nn.Module) -> None:
        self.steps += 1
        weight = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(list(self.shadow.values()), list(model.parameters()), weight)

    def after_epoch(self, model: nn.Module) -> None:
        pass

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        return {**model.state_dict(), **self.shadow}

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "shadow": self.shadow}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]
        for name, tensor in state["shadow"].items():
            self.shadow[name].copy_(tensor)


class _LastK:
    """The mean of the weights at the end of the last ``epochs`` epochs; with one, no averaging."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.kept: list[dict[str, Tensor]] = []

    def after_step(self, model: nn.Module) -> None:
        pass

    def after_epoch(self, model: nn.Module) -> None:
        # On the CPU: they are needed once an epoch, and a resumed run has them there anyway.
        snapshot = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
        self.kept = [*self.kept, snapshot][-self.epochs :]

    def weights(self, model: nn.Module) -> dict[str, Tensor]:  # noqa: ARG002
        return {name: torch.stack([w[name] for w in self.kept]).mean(0) for name in self.kept[0]}

    def state_dict(self) -> dict[str, Any]:
        return {"kept": self.kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.kept = state["kept"]

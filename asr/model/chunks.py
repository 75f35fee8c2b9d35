"""An acoustic model as its streams use it: ``asr.audio.streaming`` says how they go through it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from asr.audio.streaming import Step
from asr.model.acoustic import AcousticModel
from asr.model.encoder import RecurrentStack
from asr.model.features import Statistics, loader_features
from asr.model.recurrent import State
from asr.records import Features

States = tuple[State, ...]
"""A stream's, one a recurrent layer; what does not recur has none."""


class TorchChunks:
    """``asr.audio.streaming.ChunkReader``, of a model in evaluation mode, on whatever device it is."""

    def __init__(self, model: AcousticModel) -> None:
        encoder = model.encoder
        self.model, self.features = model, model.features.settings
        self.step, self.reach, self.looks_ahead = encoder.subsampling, encoder.reach, encoder.looks_ahead
        self.encoding_size, self.vocabulary = encoder.local_size, model.head.out_features
        self._featurise = loader_features(self.features)

    @torch.inference_mode()
    def energies(self, samples: np.ndarray) -> np.ndarray:
        if self._featurise is not None:
            return self._featurise(samples)
        waveforms = self._placed(samples)[None]
        return self.model.features.extract(waveforms, _lengths(waveforms)).values[0].cpu().numpy()

    @torch.inference_mode()
    def measure(self, energies: np.ndarray, level: float) -> Statistics:
        values = self._placed(energies)[None]
        levels = torch.tensor([level], device=values.device)
        return self.model.features.measure(Features(values=values, lengths=_lengths(values)), levels)

    @torch.inference_mode()
    def encode(self, energies: np.ndarray, statistics: Statistics | None) -> np.ndarray:
        values = self._placed(energies)[None]
        features = self.model.features.normalise(Features(values=values, lengths=_lengths(values)), statistics)
        return self.model.encoder.local(features.values, features.lengths)[0][0].cpu().numpy()

    def initial_states(self) -> States:
        stack = self.model.encoder.stack
        return stack.initial_states(1) if isinstance(stack, RecurrentStack) else ()

    @torch.inference_mode()
    def read(self, steps: Sequence[Step[States]]) -> list[tuple[np.ndarray, States]]:
        encodings, stack = self._placed(np.stack([step.encodings for step in steps])), self.model.encoder.stack
        states: list[States] = [() for _ in steps]
        if isinstance(stack, RecurrentStack):
            layers = zip(*(step.states for step in steps), strict=True)
            before = tuple(tuple(torch.cat(parts, dim=1) for parts in zip(*layer, strict=True)) for layer in layers)
            encodings, after = stack.forward_chunk(encodings, steps[0].keep, before)
            states = [tuple(tuple(part[:, row : row + 1] for part in s) for s in after) for row in range(len(steps))]
        return list(zip(self.model.classify(encodings).cpu().numpy(), states, strict=True))

    def _placed(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self.model.device)


def _lengths(values: Tensor) -> Tensor:
    """Of one row, all of which is real."""
    return torch.tensor([values.shape[1]], device=values.device)

"""An exported network as its streams use it: ``asr.audio.streaming`` says how they go through it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from asr.audio.streaming import Step
from asr.onnx.features import FrontEnd, Statistics

if TYPE_CHECKING:
    from asr.onnx.network import Graph, OnnxNetwork

States = np.ndarray | None
"""A stream's (N, H); those of what does not recur are None."""


class OnnxChunks:
    """``asr.audio.streaming.ChunkReader``, of the two graphs of a stream, ``front`` and ``stack``. ``batched``: the
    stack reads many streams' steps at once."""

    def __init__(self, network: OnnxNetwork, front: Graph, stack: Graph) -> None:
        """Raises KeyError and ValueError where the graphs lack what their makers write to them."""
        self._front_end: FrontEnd = network.front_end
        self._front, self._stack = front, stack
        self.features, self.step, self.vocabulary = network.recipe.features, network.step, network.vocabulary
        self.reach, self.looks_ahead = int(front.metadata["reach"]), "keep" in stack.inputs
        self.encoding_size = stack.inputs["encodings"][-1]
        # In 8 bits, what is read is scaled by a whole batch's largest value, and a stream would hear its neighbours.
        # The graphs of earlier versions read one stream.
        self.batched = network.precision == "float32" and not isinstance(stack.inputs["encodings"][0], int)

    def energies(self, samples: np.ndarray) -> np.ndarray:
        return self._front_end.energies(samples)

    def measure(self, energies: np.ndarray, level: float) -> Statistics:
        return self._front_end.measure(energies, level)

    def encode(self, energies: np.ndarray, statistics: Statistics | None) -> np.ndarray:
        [encodings] = self._front(features=self._front_end.normalise(energies, statistics)[None])
        return np.asarray(encodings[0])

    def initial_states(self) -> States:
        shape = self._stack.inputs.get("states")
        return None if shape is None else np.zeros((shape[0], shape[2]), np.float32)

    def read(self, steps: Sequence[Step[States]]) -> list[tuple[np.ndarray, States]]:
        if len(steps) > 1 and not self.batched:
            return [self.read([step])[0] for step in steps]
        inputs = {"encodings": np.stack([step.encodings for step in steps])}
        if self.looks_ahead:
            inputs["keep"] = np.array(steps[0].keep)
        states = [step.states for step in steps if step.states is not None]
        if states:
            inputs["states"] = np.stack(states, axis=1)
        log_probs, *after = self._stack(**inputs)
        afters = after[0].swapaxes(0, 1) if after else [None] * len(steps)
        return list(zip(log_probs, afters, strict=True))

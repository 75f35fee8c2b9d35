"""What a trained encoder's recurrent layers do over one utterance, and how long their units keep what they know."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from asr.model.acoustic import AcousticModel
from asr.model.cells import Gates, GruGates, LstmGates, run_layer
from asr.model.encoder import RecurrentStack
from asr.records import Emissions, Features

SLOWEST_SECONDS = 100.0
"""A longer time constant is told and drawn as no more than that."""

Direction = Literal["forwards", "backwards"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """One kind of gate over an utterance, ``values`` (T', H) in [0, 1], and what it decides on: "write", "keep", "read"
    in an LSTM; "keep" and "recall" in a GRU."""

    name: str
    role: Literal["write", "keep", "read", "recall"]
    values: Tensor

    @property
    def mean(self) -> float:
        return float(self.values.mean())


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTrace:
    """One recurrent layer in one direction over one utterance: ``gates`` are (T', H) each, on the CPU, in the order of
    time; layers are counted from 1; ``frame_shift``, the layer's, in seconds."""

    layer: int
    direction: Direction
    gates: Gates
    frame_shift: float

    @property
    def named_gates(self) -> tuple[Gate, ...]:
        """None for a simple RNN."""
        match self.gates:
            case LstmGates() as gates:
                return (
                    Gate(name="input gate", role="write", values=gates.input_gate),
                    Gate(name="forget gate", role="keep", values=gates.forget_gate),
                    Gate(name="output gate", role="read", values=gates.output_gate),
                )
            case GruGates() as gates:
                return (
                    Gate(name="update gate", role="keep", values=gates.update_gate),
                    Gate(name="reset gate", role="recall", values=gates.reset_gate),
                )
        return ()

    @property
    def memory(self) -> Tensor:
        """(T', H), what is carried from frame to frame: an LSTM's cell, else the hidden state."""
        return self.gates.cell if isinstance(self.gates, LstmGates) else self.gates.hidden

    @property
    def memory_name(self) -> str:
        return "cell" if isinstance(self.gates, LstmGates) else "hidden state"

    @property
    def time_constants(self) -> Tensor | None:
        """``time_constants`` of the gate that keeps; None for a simple RNN, which has none."""
        kept = [gate.values for gate in self.named_gates if gate.role == "keep"]
        return time_constants(kept[0], self.frame_shift) if kept else None

    @property
    def median_time_constant(self) -> float | None:
        """Over the units, in seconds."""
        constants = self.time_constants
        return None if constants is None else float(constants.median())

    @property
    def order(self) -> Tensor:
        """The units (H,) from those that change quickly to those that keep: by mean forget or update gate; without
        either, by how much the hidden state changes from frame to frame."""
        constants = self.time_constants
        if constants is not None:
            return constants.argsort()
        return (-self.gates.hidden.diff(dim=0).abs().sum(dim=0)).argsort()


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """An utterance's way through the encoder: ``layers`` from the input on, forwards before backwards, none where
    nothing recurs; ``emissions``, a batch of one, are what comes out of the equations; ``difference`` is how far their
    log-probabilities lie from the trained kernels', at most."""

    layers: tuple[LayerTrace, ...]
    emissions: Emissions
    difference: float


@torch.inference_mode()
def trace(model: AcousticModel, features: Features) -> Trace:
    """Reads one utterance's normalised ``features``, (1, T, F), by the cells' equations. The model must be in
    evaluation mode. Takes a fifth of a millisecond or so a layer, direction and frame."""
    expected = model.emit(features)
    encodings, lengths = model.encoder.local(features.values, features.lengths)
    outputs = encodings[0, : int(lengths[0])]
    layers: list[LayerTrace] = []
    if isinstance(model.encoder.stack, RecurrentStack):
        for number, layer in enumerate(model.encoder.stack.recurrent_layers(), start=1):
            run = run_layer(layer, outputs)
            outputs = run.outputs
            directions: dict[Direction, Gates | None] = {"forwards": run.forwards, "backwards": run.backwards}
            layers += [
                LayerTrace(layer=number, direction=direction, gates=_on_cpu(gates), frame_shift=model.frame_shift)
                for direction, gates in directions.items()
                if gates is not None
            ]
    log_probs = model.classify(outputs[None]).cpu()
    return Trace(
        layers=tuple(layers),
        emissions=Emissions(log_probs=log_probs.numpy(), lengths=lengths.cpu().numpy(), frame_shift=model.frame_shift),
        difference=float((log_probs - expected.log_probs.cpu()).abs().max()),
    )


def time_constants(kept: Tensor, frame_shift: float) -> Tensor:
    """How long each unit keeps what it knows, in seconds: (T', H) of a forget gate, or of a GRU's update gate, to (H,).

        tau = -frame_shift / ln(mean over t of f(t))

    A cell that writes nothing and keeps the share f of itself at each frame has lost all but 1/e after tau. So 0.5 is
    1.4 frames and 0.99 is 99.5. This is the leak alone: through the recurrent weights a layer can remember for longer,
    and a gate that is open for long and shut at once has the time constant of neither. Infinite where nothing is lost.
    """
    return frame_shift / kept.double().mean(dim=0).log().abs()  # of a mean of 1 the logarithm is 0, the sign none


def in_milliseconds(seconds: float) -> str:
    """ "27 ms", "1,250 ms", "over 100 s"."""
    return f"{1000 * seconds:,.0f} ms" if seconds <= SLOWEST_SECONDS else f"over {SLOWEST_SECONDS:g} s"


def _on_cpu(gates: Gates) -> Gates:
    kind = type(gates)
    return kind(**{field.name: getattr(gates, field.name).cpu() for field in fields(kind)})

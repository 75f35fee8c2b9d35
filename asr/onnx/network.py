"""The acoustic model as a recogniser's network, computed by ONNX Runtime: the second of the two, and without torch.

What an exported directory holds of it (``asr.export`` writes this):

    model.onnx           whole utterances: features (B, T, F) and lengths (B,) to log probabilities (B, T', V)
    stream.front.onnx    what has a finite reach, of one stream: features (1, T, F) to encodings (1, T', size)
    stream.stack.onnx    what recurs: encodings (1, T', size), how many to keep, and states, to log probabilities and
                         the states after them

With ``.int8`` in their names the recurrent weights are 8-bit integers. Features and what is read of silence are numpy's
(``asr.onnx.features``). A graph holds no code, and it is read in a way that opens no other file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np

from asr import recipe, runtime
from asr.audio.streaming import Stream, feed_together
from asr.errors import CheckpointError, RecipeError
from asr.onnx.chunks import OnnxChunks, States
from asr.onnx.features import FrontEnd, Statistics
from asr.recipe.frames import feature_size
from asr.recipe.reading import load_recipe
from asr.records import Emissions, blanks

FORMAT = "1"
"""Of the graphs, as their metadata say it: this version reads no other."""
Precision = Literal["float32", "int8"]
Kind = Literal["model", "stream.front", "stream.stack"]


def file_name(kind: Kind, precision: Precision) -> str:
    """The front end of a stream does not recur, so it is float32 in either case."""
    return f"{kind}.int8.onnx" if precision == "int8" and kind != "stream.front" else f"{kind}.onnx"


def exported_precision(directory: Path) -> Precision | None:
    """What ``directory`` holds a network of, int8 before float32, or None where it holds none."""
    kinds: tuple[Precision, ...] = ("int8", "float32")
    return next((kind for kind in kinds if (directory / file_name("model", kind)).is_file()), None)


def fingerprint(weights: Path) -> str:
    """What tells the weights of one training from another's: a graph's metadata name those that it was made of."""
    with weights.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Graph:
    """An ONNX file in memory, ready to run on the CPU."""

    def __init__(self, path: Path) -> None:
        """Raises CheckpointError."""
        runtime.keep_to_this_machine()
        import onnxruntime

        if not path.is_file():  # nor a pipe, which would be waited for
            raise CheckpointError(f"{path} does not load: it is not there, or is not a regular file")
        options = onnxruntime.SessionOptions()
        # An LSTM's step is so little that two threads take longer for it than one (measured at 256 units, in int8).
        options.intra_op_num_threads = 1
        options.log_severity_level = 3  # what it cannot do comes as an exception too
        options.enable_cpu_mem_arena = False  # which keeps the memory of the longest batch for good
        try:
            self._session = onnxruntime.InferenceSession(path.read_bytes(), options, ["CPUExecutionProvider"])
            self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        except Exception as error:  # onnxruntime's errors share no base
            reason = " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
            raise CheckpointError(f"{path} does not load: {reason}") from error
        if self.metadata.get("asr_format") != FORMAT:
            found = self.metadata.get("asr_format", "none")
            raise CheckpointError(
                f"{path} is of format {found}, and this version reads {FORMAT}: write it anew with asr export"
            )
        self.inputs = {node.name: node.shape for node in self._session.get_inputs()}
        self.outputs = {node.name: node.shape for node in self._session.get_outputs()}

    def __call__(self, **inputs: np.ndarray) -> list[np.ndarray]:
        return list(self._session.run(None, inputs))


class OnnxNetwork:
    """``asr.records.Network`` and ``Streaming``, of an exported model directory. Threads may share it.

    ``vocabulary`` is how many tokens it emits. Each utterance is read by itself, one in each of ``threads``: a batch is
    no quicker on a CPU, where padding costs as much as speech, and in int8 its largest value would set the scale of
    all, so that neighbours would be heard.
    """

    def __init__(self, directory: Path, *, threads: int = 0, precision: Precision | None = None) -> None:
        """``precision`` None: int8 where there is that, else float32. ``threads`` 0: as many as there are cores.

        Raises CheckpointError where the directory holds no such network, or one that does not fit its recipe.
        """
        found = precision or exported_precision(directory)
        if found is None:
            raise CheckpointError(f"{directory} holds no ONNX model: write one with asr export MODEL -o {directory}")
        try:
            self.recipe = load_recipe(directory / "recipe.yaml", schema=recipe.Recipe)
        except RecipeError as error:
            raise CheckpointError(f"{directory} is not a whole model directory: {error}") from error
        self.directory, self.precision, self.threads = directory, found, threads or runtime.cores()
        path = directory / file_name("model", found)
        self._graph = Graph(path)
        weights = directory / "model.safetensors"
        if weights.is_file() and fingerprint(weights) != self._graph.metadata.get("weights"):
            raise CheckpointError(f"{path} was made of other weights than {weights} holds: run asr export again")
        self._chunks: OnnxChunks | None = None
        self.front_end = FrontEnd(self.recipe.features)
        encoder = self.recipe.encoder
        self.step: int = encoder.conv.subsampling if encoder.conv else 1
        self.sample_rate = self.recipe.features.sample_rate
        self.frame_shift = self.front_end.hop / self.sample_rate * self.step
        self.vocabulary = self._checked(path)

    def emit(self, waveforms: Sequence[np.ndarray]) -> Emissions:
        """As ``Network`` says."""
        workers = min(self.threads, len(waveforms))
        if workers > 1:
            with ThreadPoolExecutor(max_workers=workers) as pool:
                read = list(pool.map(self._read, waveforms))
        else:
            read = list(map(self._read, waveforms))
        lengths = np.array([len(frames) for frames in read], np.int64)
        log_probs = np.zeros((len(read), int(lengths.max(initial=0)), self.vocabulary), np.float32)
        for row, frames in zip(log_probs, read, strict=True):
            row[: len(frames)] = frames
        return Emissions(log_probs=log_probs, lengths=lengths, frame_shift=self.frame_shift)

    def _read(self, samples: np.ndarray) -> np.ndarray:
        """An utterance's log probabilities (T', V)."""
        features, kept = self._heard(samples)
        frames = blanks(len(kept), self.vocabulary)
        frames[kept] = self._graph(features=features[None], lengths=np.array([len(features)]))[0][0]
        return frames

    def stream(self, *, chunk: float, context: float) -> Stream[Statistics, States]:
        """As ``Streaming`` says. Raises CheckpointError where the directory has no graphs for it."""
        return Stream(self._streaming(), chunk=chunk, context=context)

    @property
    def batches_streams(self) -> bool:
        """As ``Streaming`` says: in float32 alone, which is asked first, since it opens no graph. Raises
        CheckpointError as ``stream`` does."""
        return self.precision == "float32" and self._streaming().batched

    def feed_together(
        self, streams: Sequence[Stream[Statistics, States]], samples: Sequence[np.ndarray], *, last: Sequence[bool]
    ) -> list[np.ndarray | Exception]:
        """As ``Streaming`` says."""
        return feed_together(self._streaming(), streams, samples, last)

    def _heard(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The features (N, F) that are read of an utterance, and which of its emission frames (T',) these are."""
        energies = self.front_end.energies(samples)
        features = self.front_end.normalise(energies)
        if self.recipe.features.normalise != "utterance":
            return features, np.ones((len(features) - 1) // self.step + 1, bool)
        kept = self.front_end.audible(energies, self.step)
        return features[np.repeat(kept, self.step)[: len(features)]], kept

    def _checked(self, path: Path) -> int:
        """The vocabulary of a graph that takes what the recipe's front end makes. Raises CheckpointError."""
        expected = feature_size(self.recipe.features)
        features = self._graph.inputs.get("features", [])
        log_probs = self._graph.outputs.get("log_probs", [])
        if features[-1:] != [expected] or len(log_probs) != 3 or not isinstance(log_probs[-1], int):
            raise CheckpointError(
                f"{path} does not fit the recipe beside it: expected {expected} features a frame, found inputs "
                f"{self._graph.inputs}; write it anew with asr export"
            )
        if self._graph.metadata.get("step") != str(self.step):
            raise CheckpointError(
                f"{path} does not fit the recipe beside it: it subsamples by {self._graph.metadata.get('step')}, and "
                f"the recipe by {self.step}; write it anew with asr export"
            )
        return int(log_probs[-1])

    def _streaming(self) -> OnnxChunks:
        if self._chunks is None:
            front = Graph(self.directory / file_name("stream.front", self.precision))
            stack = Graph(self.directory / file_name("stream.stack", self.precision))
            try:
                self._chunks = OnnxChunks(self, front, stack)
            except (KeyError, ValueError) as error:
                raise CheckpointError(f"the graphs for live speech in {self.directory} lack {error}") from error
        return self._chunks

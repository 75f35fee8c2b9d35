"""A model directory that ONNX Runtime recognises with, where torch is not installed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from asr import checkpoint, files, recipe
from asr.decode.greedy import GreedyDecoder
from asr.errors import ExportError
from asr.export.graphs import StreamFront, StreamStack, WholeUtterances, describe, in_8_bits, to_onnx
from asr.model.acoustic import AcousticModel
from asr.model.network import TorchNetwork
from asr.onnx.network import FORMAT, Kind, OnnxNetwork, Precision, file_name, fingerprint
from asr.records import Emissions, Network
from asr.text.tokenise import Tokeniser

FURTHEST = 1e-2
"""In nats, between the log probabilities of the float32 graph and of torch: more is no rounding. 1e-5 is usual."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What an exported network emits beside torch's, of the utterances called ``of``: the ``largest`` difference of two
    log probabilities in nats, how many of the ``frames`` have ``other`` best tokens, and both greedy ``texts``, torch's
    first."""

    of: str
    largest: float
    frames: int
    other: int
    texts: tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """The ``sizes`` of the graphs written, in bytes by name, and how the network compares with torch's."""

    sizes: Mapping[str, int]
    comparisons: Sequence[Comparison]


def export_onnx(directory: Path, out: Path, *, int8: bool = False, clip: np.ndarray | None = None) -> Exported:
    """Writes the model in ``directory`` to ``out``, which may be the same, with all that recognition needs.

    The network is compared with torch's on noise and on ``clip``, samples (S,) at the model's rate, before anything is
    written. Raises CheckpointError, ExportError, MissingExtraError.
    """
    loaded = checkpoint.load_checkpoint(directory, device="cpu")
    precision: Precision = "int8" if int8 else "float32"
    check_quantises(directory, loaded.recipe, int8=int8)
    _check_free(directory, out)
    checkpoint.check_paths(directory, loaded.recipe.decoder)
    for path in _named(loaded.recipe.decoder).values():
        if not (directory / path).exists():
            raise ExportError(f"{directory / path}, which the decoder reads, is not there")
    with tempfile.TemporaryDirectory() as folder:
        graphs = write_graphs(
            loaded.model, Path(folder), precision, weights=fingerprint(directory / checkpoint.WEIGHTS)
        )
        checkpoint.save_description(Path(folder), loaded.recipe, loaded.tokeniser)
        pair = TorchNetwork(loaded.model), OnnxNetwork(Path(folder), threads=1, precision=precision)
        comparisons = compare_all(*pair, loaded.tokeniser, noise(pair[0].sample_rate), clip)
        if precision == "float32":
            check_furthest(directory, max(comparison.largest for comparison in comparisons))
        if not _same(directory, out):
            _describe(loaded, directory, out)
        for other in ("model.int8.onnx", "model.onnx", "stream.stack.int8.onnx", "stream.stack.onnx"):
            if other not in graphs:
                (out / other).unlink(missing_ok=True)  # of another export, perhaps of other weights
        for name in graphs:
            with files.replacing(out / name, "wb") as file:
                file.write((Path(folder) / name).read_bytes())
    return Exported(sizes={name: (out / name).stat().st_size for name in graphs}, comparisons=comparisons)


def check_quantises(directory: Path, settings: recipe.Recipe, *, int8: bool) -> None:
    """Raises ExportError where 8 bits are asked for and would gain nothing."""
    if int8 and settings.encoder.kind != "lstm":
        raise ExportError(
            f"{directory} is a model of kind {settings.encoder.kind}, and 8 bits make LSTMs alone smaller and faster: "
            "export it without --int8"
        )


def check_furthest(directory: Path, furthest: float) -> None:
    """Raises ExportError where a float32 graph computes something else than torch: the largest difference says so."""
    if not furthest < FURTHEST:
        raise ExportError(
            f"{directory} computes something else under ONNX Runtime: log probabilities differ by {furthest:.3g}, "
            "nothing was written; please report this with the recipe"
        )


def write_graphs(model: AcousticModel, folder: Path, precision: Precision, *, weights: str = "") -> list[str]:
    """Writes the graphs of ``asr.onnx.network`` and returns their names; ``weights`` is the weights' fingerprint."""
    step, encoder = model.encoder.subsampling, model.encoder
    written = []
    modules: dict[Kind, WholeUtterances | StreamFront | StreamStack] = {
        "model": WholeUtterances(model),
        "stream.front": StreamFront(model),
        "stream.stack": StreamStack(model),
    }
    for kind, module in modules.items():
        graph = to_onnx(module, module.example(), module.interface)
        if precision == "int8" and kind != "stream.front":
            graph = in_8_bits(graph)
        describe(graph, {"asr_format": FORMAT, "step": str(step), "reach": str(encoder.reach), "weights": weights})
        written.append(file_name(kind, precision))
        (folder / written[-1]).write_bytes(graph.SerializeToString())
    return written


def compare_all(
    reference: Network,
    other: Network,
    tokeniser: Tokeniser,
    noisy: Sequence[np.ndarray],
    clip: np.ndarray | None,
    *,
    kind: str = "",
) -> list[Comparison]:
    """On ``noise``, and on the clip where there is one; ``kind`` comes before their names."""
    heard = {f"{kind}noise": noisy} | ({} if clip is None else {f"the {kind}clip": [clip]})
    return [compare(reference, other, tokeniser, waveforms, of) for of, waveforms in heard.items()]


def noise(sample_rate: int) -> list[np.ndarray]:
    """Utterances of 0.03 to 4 s, in bursts as words are, one of them with a silence long enough not to be read."""
    draw = np.random.default_rng(0)
    waveforms = []
    for seconds in (0.03, 0.5, 2.0, 4.0):
        time = np.arange(round(seconds * sample_rate)) / sample_rate
        bursts = 0.2 * np.abs(np.sin(2 * np.pi * time)) * (time % 3 < 1.2) + 1e-4
        waveforms.append((bursts * draw.standard_normal(len(time))).astype(np.float32))
    return waveforms


def compare(
    reference: Network, network: Network, tokeniser: Tokeniser, waveforms: Sequence[np.ndarray], of: str
) -> Comparison:
    """How two networks, the reference first, read the same utterances."""
    ours, theirs = reference.emit(waveforms), network.emit(waveforms)
    frames = min(ours.log_probs.shape[1], theirs.log_probs.shape[1])
    real = np.arange(frames) < np.minimum(ours.lengths, theirs.lengths)[:, None]
    before, after = ours.log_probs[:, :frames][real], theirs.log_probs[:, :frames][real]

    def text(emissions: Emissions) -> str:
        return " ".join(nbest[0].text for nbest in GreedyDecoder(tokeniser)(emissions))

    return Comparison(
        of=of,
        largest=float(np.abs(before - after).max()),
        frames=len(before),
        other=int((before.argmax(1) != after.argmax(1)).sum()),
        texts=(text(ours), text(theirs)),
    )


def _check_free(directory: Path, out: Path) -> None:
    """Raises ExportError where another model's weights are in ``out``, CheckpointError where a file is in its place."""
    if checkpoint.is_described(out) and (out / checkpoint.WEIGHTS).exists() and not _same(directory, out):
        raise ExportError(f"{out} holds another trained model: name a folder of its own with -o")


def _same(directory: Path, out: Path) -> bool:
    return out.exists() and directory.resolve() == out.resolve()


def _describe(loaded: checkpoint.Checkpoint, directory: Path, out: Path) -> None:
    """Writes all of the directory ``out`` but the graphs, and copies what the decoder reads into it."""
    out.mkdir(parents=True, exist_ok=True)
    settings = loaded.recipe.model_copy(update={"decoder": _carried(loaded.recipe.decoder, directory, out)})
    checkpoint.save_description(out, settings, loaded.tokeniser)
    checkpoint.save_meta(out, {key: value for key, value in loaded.meta.items() if key != "format"})


def _named(decoder: recipe.Decoder) -> dict[str, str]:
    """The paths of what decoder settings name, by their keys."""
    if isinstance(decoder, recipe.Phrases):
        return {"file": decoder.file}
    if isinstance(decoder, recipe.Greedy):
        return {}
    paths = {"language_model": decoder.language_model, "lexicon": decoder.lexicon}
    paths["lstm"] = decoder.lstm.path if decoder.lstm else None
    return {key: path for key, path in paths.items() if path is not None}


def _carried(decoder: recipe.Decoder, directory: Path, out: Path) -> recipe.Decoder:
    """The decoder's settings with what they name copied into ``out``. Raises ExportError."""
    names: dict[str, object] = {key: _copied(directory / path, out) for key, path in _named(decoder).items()}
    if isinstance(decoder, recipe.Beam) and decoder.lstm is not None:
        names["lstm"] = decoder.lstm.model_copy(update={"path": names["lstm"]})
    return decoder.model_copy(update=names)


def _copied(path: Path, out: Path) -> str:
    """Copies a file, or a language model's directory less what only its trainer needs, and returns its new name."""
    try:
        if path.is_dir():
            shutil.copytree(path, out / path.name, ignore=shutil.ignore_patterns("training*"), dirs_exist_ok=True)
        else:
            with path.open("rb") as source, files.replacing(out / path.name, "wb") as target:
                shutil.copyfileobj(source, target)
    except OSError as error:
        raise ExportError(f"{path}, which the decoder reads, cannot be copied: {error.strerror or error}") from error
    return path.name

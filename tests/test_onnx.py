"""The network under ONNX Runtime emits what torch's does, and its front end in numpy makes the same features."""

import json
import os
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
import toy

from asr import checkpoint, recipe
from asr.errors import CheckpointError
from asr.export.directory import export_onnx
from asr.model import silence
from asr.model.features import FeatureExtractor
from asr.model.network import TorchNetwork
from asr.onnx.features import FrontEnd, log_of_sum
from asr.onnx.network import Graph, OnnxNetwork, exported_precision

SETTINGS = {
    "log mel": recipe.LogMel(sample_rate=8000, mels=24),
    "16 kHz": recipe.LogMel(),
    "an odd window": recipe.LogMel(sample_rate=22050, window=0.02, shift=0.0113, mels=40),
    "MFCC": recipe.Mfcc(kind="mfcc", sample_rate=8000, mels=24),
    "MFCC alone": recipe.Mfcc(kind="mfcc", sample_rate=8000, mels=24, deltas=False),
    "unnormalised": recipe.LogMel(sample_rate=8000, mels=24, normalise="none"),
}


def noise(length: int, level: float = 0.1) -> np.ndarray:
    return (level * np.random.default_rng(length).standard_normal(length)).astype(np.float32)


def words(seconds: float, rate: int = toy.RATE) -> np.ndarray:
    """Noise that comes and goes as speech does, twice a second, and begins in a pause."""
    time = np.arange(round(seconds * rate)) / rate
    return noise(len(time)) * (0.003 - np.minimum(np.cos(4 * np.pi * time), 0)).astype(np.float32)


def still(seconds: float) -> np.ndarray:
    return noise(round(seconds * toy.RATE), 1e-6)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A directory that holds a bidirectional model for both."""
    folder = toy.save_babbler(tmp_path_factory.mktemp("both") / "model")
    export_onnx(folder, folder)
    return folder


@pytest.fixture(scope="module")
def networks(model):
    return TorchNetwork(checkpoint.load_checkpoint(model, device="cpu").model), OnnxNetwork(model, threads=1)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("length", [1, 159, 160, 801, 20000])
@pytest.mark.parametrize("level", [0.1, 1e-4])
def test_features_are_torchs(settings, length, level):
    ours, theirs, samples = FrontEnd(settings), FeatureExtractor(settings), noise(length, level)
    energies = theirs.extract(torch.from_numpy(samples)[None], torch.tensor([length]))
    np.testing.assert_allclose(ours.energies(samples), energies.values[0], atol=1e-4, rtol=0)
    expected = theirs.normalise(energies).values[0].numpy()
    scale = max(1.0, np.abs(expected).max())  # some coefficients of a single frame divide by next to nothing
    np.testing.assert_allclose(ours.normalise(ours.energies(samples)), expected, atol=1e-4 * scale, rtol=0)


def test_the_log_of_a_sum_is_numpys():
    energies = np.random.default_rng(0).uniform(-30, 15, (500, 24)).astype(np.float32)
    for floor in (np.float32(-16), energies[0], energies):
        result = log_of_sum(energies, floor)
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, np.logaddexp(energies, floor), rtol=3e-7, atol=1e-6)


@pytest.mark.parametrize("pause", [0.5, 1.5, 4.0])
def test_the_same_silence_is_not_read(pause):
    settings = SETTINGS["log mel"]
    ours, theirs = FrontEnd(settings), FeatureExtractor(settings)
    samples = np.concatenate([still(pause), words(1.3), still(pause), words(0.7), still(pause)])
    energies = theirs.extract(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))
    expected = silence.audible(theirs, energies, 4).kept[0].numpy()
    assert (ours.audible(ours.energies(samples), 4) == expected).all()
    assert 0 < expected.mean() < 1


def test_emissions_are_torchs_for_a_sample_half_a_minute_and_silence(networks):
    waveforms = [noise(1), words(30), np.concatenate([words(1), still(3), words(1)]), still(2), words(0.7)]
    theirs, ours = (network.emit(waveforms) for network in networks)
    assert ours.lengths.tolist() == theirs.lengths.tolist()
    assert ours.frame_shift == theirs.frame_shift
    assert ours.log_probs.dtype == np.float32
    for mine, its, length in zip(ours.log_probs, theirs.log_probs, ours.lengths, strict=True):
        # Nats down to -40: the head's weights are some 50 times those of a trained one, and so is what is rounded.
        np.testing.assert_allclose(mine[:length], its[:length], atol=1e-3, rtol=0)


def test_emissions_do_not_depend_on_neighbours_to_the_last_bit(networks):
    _, network = networks
    together = network.emit([words(1), words(3)]).log_probs[0]
    alone = network.emit([words(1)]).log_probs[0]
    assert (together[: len(alone)] == alone).all()


def test_nobody_and_nothing_are_read_too(networks):
    _, network = networks
    assert network.emit([]).log_probs.shape == (0, 0, 5)
    assert network.emit([np.zeros(0, np.float32)]).lengths.tolist() == [1]


@pytest.mark.parametrize("padding", [0.0, -23.0, np.nan, np.inf])
def test_padding_changes_nothing_in_the_graph(model, padding):
    graph = Graph(model / "model.onnx")
    draw = np.random.default_rng(0)
    features = draw.standard_normal((1, 50, 24)).astype(np.float32)
    [alone, _] = graph(features=features, lengths=np.array([50]))
    padded = np.full((2, 83, 24), padding, np.float32)
    padded[0, :50], padded[1] = features, draw.standard_normal((83, 24))
    [together, lengths] = graph(features=padded, lengths=np.array([50, 83]))
    assert lengths.tolist() == [13, 21]
    np.testing.assert_allclose(together[0, :13], alone[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("cuts", [[], [1, 5000, 5001], list(range(800, 80000, 800))], ids=["whole", "few", "many"])
def test_a_stream_of_a_bidirectional_network_is_torchs(networks, cuts):
    samples = np.concatenate([still(1.5), words(5), still(2), words(1.5)])
    theirs, ours = (streamed(network, samples, cuts, context=0.3) for network in networks)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=1e-5)


def streamed(network: TorchNetwork | OnnxNetwork, samples: np.ndarray, cuts: list[int], context: float) -> np.ndarray:
    stream = network.stream(chunk=0.2, context=context)
    pieces = [stream.feed(piece) for piece in np.split(samples, [cut for cut in cuts if cut < len(samples)])]
    return np.concatenate([*pieces, stream.feed(samples[:0], last=True)])


def test_a_stream_hears_as_far_ahead_as_torchs(networks):
    theirs, ours = (network.stream(chunk=0.2, context=0.3) for network in networks)
    assert ours.latency == theirs.latency


def test_onnx_runtime_leaves_nothing_behind_and_sends_nothing(model, tmp_path):
    """Unless told not to, it keeps an identifier and what it is to send under the home directory."""
    code = (
        "import numpy\nfrom pathlib import Path\nfrom asr.onnx.network import OnnxNetwork\n"
        f"OnnxNetwork(Path({str(model)!r})).emit([numpy.zeros(8000, 'float32')])"
    )
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")}
    own = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=kept | own)
    assert not [*tmp_path.iterdir()]


def test_recognition_imports_no_torch(model):
    code = (
        "import sys, numpy\nfrom pathlib import Path\nfrom asr.onnx.network import OnnxNetwork\n"
        f"network = OnnxNetwork(Path({str(model)!r}))\n"
        "network.emit([numpy.zeros(8000, 'float32')])\n"
        "network.stream(chunk=0.4, context=0.4).feed(numpy.zeros(8000, 'float32'), last=True)\n"
        "print([name for name in ('torch', 'torchaudio', 'librosa', 'lhotse') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture
def alone(model, tmp_path):
    """A directory without torch's weights."""
    return shutil.copytree(model, tmp_path / "exported", ignore=shutil.ignore_patterns("*.safetensors"))


@pytest.mark.parametrize("damage", ["missing", "empty", "noise"])
@pytest.mark.parametrize("name", ["model.onnx", "recipe.yaml"])
def test_a_damaged_file_is_a_sentence_that_names_the_directory(alone, name, damage):
    (alone / name).unlink()
    if damage != "missing":
        (alone / name).write_bytes(b"" if damage == "empty" else b"\x80\x04\x95garbage")
    with pytest.raises(CheckpointError, match=str(alone)):
        OnnxNetwork(alone)


def test_damaged_graphs_for_live_speech_are_a_sentence(alone):
    (alone / "stream.stack.onnx").write_bytes(b"garbage")
    with pytest.raises(CheckpointError, match=r"stream\.stack\.onnx does not load"):
        OnnxNetwork(alone).stream(chunk=0.4, context=0.4)


@pytest.mark.parametrize(("was", "becomes"), [("mels: 24", "mels: 23"), ("subsampling: 4", "subsampling: 2")])
def test_a_recipe_that_the_graph_does_not_fit_is_refused(alone, was, becomes):
    text = (alone / "recipe.yaml").read_text()
    assert was in text
    (alone / "recipe.yaml").write_text(text.replace(was, becomes))
    with pytest.raises(CheckpointError, match="does not fit the recipe"):
        OnnxNetwork(alone)


def test_a_graph_of_another_maker_is_refused(alone):
    import onnx

    graph = onnx.load(alone / "model.onnx")
    del graph.metadata_props[:]
    onnx.save(graph, alone / "model.onnx")
    with pytest.raises(CheckpointError, match="format none"):
        OnnxNetwork(alone)


def test_a_graph_cannot_make_other_files_be_read(alone, tmp_path):
    import onnx

    (tmp_path / "secret").write_bytes(bytes(4 * 24 * 5))
    graph = onnx.load(alone / "model.onnx")
    tensor = next(tensor for tensor in graph.graph.initializer if tensor.name == "head.bias")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    (alone / "model.onnx").write_bytes(graph.SerializeToString())
    with pytest.raises(CheckpointError, match="does not load"):
        OnnxNetwork(alone)


def test_a_graph_of_other_weights_than_those_beside_it_is_refused(alone):
    (alone / "model.safetensors").write_bytes(b"trained further")
    with pytest.raises(CheckpointError, match="other weights"):
        OnnxNetwork(alone)


def test_a_directory_without_graphs_says_how_they_are_made(alone):
    assert exported_precision(alone) == "float32"
    (alone / "model.onnx").unlink()
    assert exported_precision(alone) is None
    with pytest.raises(CheckpointError, match="asr export"):
        OnnxNetwork(alone)


def test_the_meta_file_of_an_export_is_the_models(model):
    assert json.loads((model / "meta.json").read_text())["format"] == checkpoint.FORMAT


def test_as_many_utterances_are_read_at_once_as_a_command_was_given_threads(model, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")  # as --threads 3 does
    network = checkpoint.load_network(model, engine="onnx").network
    reading, three, at_once, lock = network._read, threading.Barrier(3, timeout=10), [0], threading.Lock()

    def read(samples):
        with lock:
            at_once.append(at_once[-1] + 1)
        three.wait()  # for two others to have begun
        found = reading(samples)
        three.wait()
        with lock:
            at_once.append(at_once[-1] - 1)
        return found

    monkeypatch.setattr(network, "_read", read)
    utterances = [np.full(4000 + 100 * i, 0.1, np.float32) for i in range(6)]
    together_read = network.emit(utterances)
    monkeypatch.undo()
    assert max(at_once) == 3
    for row, length, samples in zip(together_read.log_probs, together_read.lengths, utterances, strict=True):
        np.testing.assert_array_equal(row[:length], network.emit([samples]).log_probs[0])


def test_an_utterance_that_cannot_be_read_is_an_error_and_the_next_are_read(model, monkeypatch):
    network = OnnxNetwork(model, threads=2)
    reading = network._read
    monkeypatch.setattr(network, "_read", lambda samples: 1 // 0 if len(samples) == 5000 else reading(samples))
    with pytest.raises(ZeroDivisionError):
        network.emit([np.zeros(n, np.float32) for n in (4000, 5000, 6000)])
    assert network.emit([np.zeros(n, np.float32) for n in (4000, 6000)]).lengths.tolist() == [
        len(network.emit([np.zeros(n, np.float32)]).log_probs[0]) for n in (4000, 6000)
    ]

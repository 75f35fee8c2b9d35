"""asr export: what other runtimes get is the model, and what they cannot carry is refused by name."""

import json
import sys

import numpy as np
import pytest
import torch
import toy
from click.testing import CliRunner

from asr import checkpoint, recipe, runtime
from asr.cli import main
from asr.errors import CheckpointError, ExportError
from asr.export.directory import compare, export_onnx, noise, write_graphs
from asr.export.sherpa import SherpaFrontEnd, export_sherpa, pre_emphasis_gain
from asr.model.acoustic import AcousticModel
from asr.model.network import TorchNetwork
from asr.onnx.features import FrontEnd
from asr.onnx.network import OnnxNetwork, fingerprint
from asr.recipe.reading import validate_recipe
from asr.text.tokenise import CharacterTokeniser

TOKENISER = CharacterTokeniser(" abc")
SMALL = {"layers": 1, "hidden": 6, "conv": {"channels": [2, 2]}}
NETWORKS = {
    "lstm": {"encoder": {**SMALL, "kind": "lstm", "bidirectional": False, "projection": 5, "layers": 2}},
    "gru": {"encoder": {**SMALL, "kind": "gru", "conv": None}},
    "rnn tanh": {"encoder": {**SMALL, "kind": "rnn", "layer_norm": False}},
    "rnn relu": {"encoder": {**SMALL, "kind": "rnn", "nonlinearity": "relu", "bidirectional": False}},
    "feed-forward": {"encoder": {**SMALL, "kind": "feedforward", "context": 3, "conv": None}},
    "mfcc": {"features": {"kind": "mfcc", "sample_rate": toy.RATE, "mels": 24}, "encoder": {**SMALL, "kind": "lstm"}},
    "global": {
        "features": {"kind": "log_mel", "sample_rate": toy.RATE, "mels": 24, "normalise": "global"},
        "encoder": {**SMALL, "kind": "lstm", "bidirectional": False},
    },
}


def save(folder, **sections):
    """An untrained model that says nonsense, in a directory of its own."""
    settings = validate_recipe(toy.recipe(**sections), "toy")
    torch.manual_seed(1)
    model = AcousticModel(settings, len(TOKENISER.tokens)).eval()
    torch.nn.init.normal_(model.features.mean, -5, 2)
    torch.nn.init.uniform_(model.features.deviation, 1, 3)
    checkpoint.save_description(folder, settings, TOKENISER)
    checkpoint.save_weights(folder / checkpoint.WEIGHTS, model.state_dict())
    checkpoint.save_meta(folder, {"results": {"dev": {"wer": 0.5}}})
    return model


@pytest.mark.parametrize("sections", NETWORKS.values(), ids=NETWORKS)
def test_every_network_is_torchs_within_1e_4_whole_and_live(tmp_path, sections):
    model = save(tmp_path, **sections)
    write_graphs(model, tmp_path, "float32")
    (tmp_path / checkpoint.WEIGHTS).unlink()
    theirs, ours = TorchNetwork(model), OnnxNetwork(tmp_path, threads=1)
    assert compare(theirs, ours, TOKENISER, noise(toy.RATE), "noise").largest < 1e-4
    samples = noise(toy.RATE)[-1]
    live = [network.stream(chunk=0.2, context=0.2).feed(samples, last=True) for network in (theirs, ours)]
    np.testing.assert_allclose(live[1], live[0], atol=1e-4, rtol=0)
    if not model.encoder.looks_ahead and model.features.settings.normalise == "global":
        np.testing.assert_allclose(live[1], ours.emit([samples]).log_probs[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["gru", "rnn", "feedforward"])
def test_8_bits_are_refused_by_the_name_of_what_gains_nothing(tmp_path, kind):
    save(tmp_path / "model", encoder={**SMALL, "kind": kind})
    with pytest.raises(ExportError, match=f"kind {kind}.*without --int8"):
        export_onnx(tmp_path / "model", tmp_path / "out", int8=True)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def lstm(tmp_path_factory):
    """A model whose recurrent weights are most of it, exported in 8 bits."""
    folder = tmp_path_factory.mktemp("lstm")
    save(folder / "model", encoder={**SMALL, "kind": "lstm", "hidden": 96, "layers": 2})
    return folder / "model", folder / "int8", export_onnx(folder / "model", folder / "int8", int8=True)


def test_8_bits_are_a_quarter_of_the_size_and_near(lstm):
    model, _, exported = lstm
    whole = (model / checkpoint.WEIGHTS).stat().st_size
    assert exported.sizes["model.int8.onnx"] < 0.4 * whole
    assert exported.sizes["stream.stack.int8.onnx"] < 0.4 * whole
    [comparison] = exported.comparisons
    assert 1e-4 < comparison.largest < 0.1


def test_8_bits_are_near_live_too(lstm):
    model, out, _ = lstm
    theirs = TorchNetwork(checkpoint.load_checkpoint(model, device="cpu").model)
    samples = noise(toy.RATE)[-1]
    live = [network.stream(chunk=0.2, context=0.2).feed(samples, last=True) for network in (theirs, OnnxNetwork(out))]
    np.testing.assert_allclose(live[1], live[0], atol=0.1, rtol=0)


def test_in_8_bits_an_utterance_does_not_depend_on_a_loud_neighbour(lstm):
    network = OnnxNetwork(lstm[1], threads=1)
    quiet, loud = 0.01 * noise(toy.RATE)[1], noise(toy.RATE)[3]
    alone = network.emit([quiet]).log_probs[0]
    assert (network.emit([loud, quiet]).log_probs[1, : len(alone)] == alone).all()


def test_an_export_takes_the_place_of_one_in_another_precision(tmp_path):
    for name in ("model.int8.onnx", "stream.stack.int8.onnx"):
        (tmp_path / name).write_bytes(b"of other weights")
    export_onnx(toy.save_babbler(tmp_path / "model"), tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.onnx")) == [
        "model.onnx",
        "stream.front.onnx",
        "stream.stack.onnx",
    ]


def test_what_the_decoder_reads_comes_along(tmp_path):
    folder = toy.save_babbler(tmp_path / "model", kind="beam", language_model="lm/toy.arpa", lexicon="words.txt")
    (folder / "lm").mkdir()
    (folder / "lm" / "toy.arpa").write_text("a language model")
    (folder / "words.txt").write_text("abc\n")
    export_onnx(folder, tmp_path / "out")
    settings, tokeniser = checkpoint.load_description(tmp_path / "out")
    assert (settings.decoder.language_model, settings.decoder.lexicon) == ("toy.arpa", "words.txt")
    assert (tmp_path / "out" / "toy.arpa").read_text() == "a language model"
    assert (tmp_path / "out" / "words.txt").read_text() == "abc\n"
    assert tokeniser.tokens == TOKENISER.tokens


def test_nothing_outside_a_strangers_model_is_copied(tmp_path):
    folder = toy.save_babbler(tmp_path / "model", kind="beam", lexicon="../secret.txt")
    (tmp_path / "secret.txt").write_text("abc\n")
    with pytest.raises(CheckpointError, match="leads out of it"):
        export_onnx(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_exported_model_is_loaded_where_there_are_no_weights(lstm):
    model, out, _ = lstm
    assert isinstance(checkpoint.load_network(out).network, OnnxNetwork)
    assert isinstance(checkpoint.load_network(model).network, TorchNetwork)
    assert checkpoint.load_network(out).meta["results"] == {"dev": {"wer": 0.5}}


def test_a_file_that_the_decoder_lacks_is_named(tmp_path):
    folder = toy.save_babbler(tmp_path / "model", kind="beam", lexicon="words.txt")
    with pytest.raises(ExportError, match=r"words\.txt, which the decoder reads, is not there"):
        export_onnx(folder, tmp_path / "out")


def test_another_trained_model_is_not_overwritten(tmp_path):
    one, other = toy.save_babbler(tmp_path / "one"), toy.save_babbler(tmp_path / "other")
    with pytest.raises(ExportError, match="holds another trained model"):
        export_onnx(one, other)


def test_the_command_says_sizes_and_how_far_it_is_from_torch(tmp_path):
    import soundfile

    folder = toy.save_babbler(tmp_path / "model")
    soundfile.write(tmp_path / "clip.wav", toy.speak("abc ab"), toy.RATE)
    done = CliRunner().invoke(
        main, ["export", str(folder), "-o", str(tmp_path / "out"), "--clip", str(tmp_path / "clip.wav")]
    )
    assert done.exit_code == 0, done.output
    written, of_noise, of_clip = done.output.splitlines()
    assert written.startswith(f"{tmp_path / 'out'}: model.onnx 0.")
    assert of_noise.startswith("noise: log probabilities within ")
    assert "another best token in 0 of" in of_noise
    assert of_clip.startswith("the clip: log probabilities within ")
    assert "the same text" in of_clip
    assert json.loads((tmp_path / "out" / "meta.json").read_text())["format"] == checkpoint.FORMAT


@pytest.mark.parametrize("normalise", ["utterance", "global"])
def test_sherpa_onnx_gets_a_nemo_ctc_model(tmp_path, normalise):
    import onnx

    features = {"kind": "log_mel", "sample_rate": toy.RATE, "mels": 24, "normalise": normalise}
    save(tmp_path / "model", features=features, encoder={**SMALL, "kind": "lstm"})
    exported = export_sherpa(tmp_path / "model", tmp_path / "out")
    assert (tmp_path / "out" / "tokens.txt").read_text() == "<blk> 0\n▁ 1\na 2\nb 3\nc 4\n"
    graph = onnx.load(tmp_path / "out" / "model.onnx")
    metadata = {entry.key: entry.value for entry in graph.metadata_props}
    assert (metadata["vocab_size"], metadata["subsampling_factor"], metadata["normalize_type"]) == ("5", "4", "NA")
    assert [node.name for node in graph.graph.input] == ["audio_signal", "length"]
    [comparison] = exported.comparisons
    assert comparison.other < 0.2 * comparison.frames  # its frames are not quite ours


@pytest.mark.parametrize("subsampling", [2, 4])
def test_sherpa_onnx_gets_what_reads_samples_and_says_the_same_at_any_level(tmp_path, subsampling):
    import onnxruntime

    features = {"kind": "log_mel", "sample_rate": 16000, "mels": 24}
    encoder = {**SMALL, "kind": "lstm", "conv": {"channels": [3, 3], "subsampling": subsampling}}
    save(tmp_path / "model", features=features, encoder=encoder)
    words = np.concatenate(noise(16000))
    exported = export_sherpa(tmp_path / "model", tmp_path / "out", clip=0.01 * (words - words.mean()))
    graph = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    assert [node.name for node in graph.get_inputs()] == ["samples"]
    _, clip = exported.comparisons  # the noise has offsets, which sherpa-onnx takes off
    assert clip.largest < 0.01
    assert clip.other == 0
    [log_probs] = graph.run(None, {"samples": words[None, :8000]})
    assert log_probs.shape[1] == pytest.approx(0.5 / 0.02, abs=2)  # as sherpa-onnx reckons times


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"features": {"kind": "mfcc", "sample_rate": toy.RATE, "mels": 24}}, "MFCCs"),
        ({"features": {"kind": "log_mel", "sample_rate": toy.RATE, "window": 0.02}}, "windows of 0.02 s"),
        ({"features": {"kind": "log_mel", "sample_rate": toy.RATE, "shift": 0.0125}}, "every 0.0125 s"),
        ({"decoder": {"kind": "beam", "language_model": "lm.arpa"}}, "beam search with a language model"),
    ],
)
def test_what_sherpa_onnx_cannot_carry_is_refused_by_name(tmp_path, sections, named):
    save(tmp_path / "model", **{"encoder": {**SMALL, "kind": "lstm"}, **sections})
    with pytest.raises(ExportError, match=f"sherpa-onnx cannot carry .*{named}"):
        export_sherpa(tmp_path / "model", tmp_path / "out")


def test_the_graph_for_sherpa_onnx_undoes_its_pre_emphasis():
    settings = recipe.LogMel(sample_rate=toy.RATE, mels=24)
    samples = noise(toy.RATE)[2]
    theirs, ours = SherpaFrontEnd(settings)(samples), FrontEnd(settings).energies(samples[toy.RATE // 200 :])
    apart = (theirs - pre_emphasis_gain(settings))[2:100] - ours[2:100]
    assert np.abs(apart.mean(0)).max() < 0.2  # nats; of pre-emphasis itself, 6.5 in the lowest bin


@pytest.mark.parametrize(
    ("asked", "gpu", "weights", "got"),
    [
        ("auto", False, checkpoint.WEIGHTS, OnnxNetwork),
        ("auto", True, checkpoint.WEIGHTS, TorchNetwork),
        ("auto", False, checkpoint.LAST_WEIGHTS, TorchNetwork),
        ("torch", False, checkpoint.WEIGHTS, TorchNetwork),
        ("onnx", True, checkpoint.WEIGHTS, OnnxNetwork),
    ],
)
def test_a_directory_with_both_networks_is_read_by_the_quicker(tmp_path, monkeypatch, asked, gpu, weights, got):
    model = save(tmp_path, encoder={**SMALL, "kind": "lstm"})
    checkpoint.save_weights(tmp_path / checkpoint.LAST_WEIGHTS, model.state_dict())
    write_graphs(model, tmp_path, "float32", weights=fingerprint(tmp_path / checkpoint.WEIGHTS))
    monkeypatch.setattr(runtime, "may_use_gpu", lambda _device: gpu)
    assert isinstance(checkpoint.load_network(tmp_path, engine=asked, weights=weights).network, got)


def test_what_an_exported_model_is_can_be_asked_without_torch(tmp_path, monkeypatch):
    export_onnx(toy.save_babbler(tmp_path / "model"), tmp_path / "out", int8=True)
    for name in ("torch", "lhotse", "asr.model", "asr.study", "asr.study.inspection"):
        monkeypatch.setitem(sys.modules, name, None)
    done = CliRunner().invoke(main, ["info", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    size = (tmp_path / "out" / "model.int8.onnx").stat().st_size
    assert f"parameters unknown, ONNX in 8 bits {size / 1e6:.1f} MB" in done.output

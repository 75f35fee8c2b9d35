"""asr export: what other runtimes get is the model, and what they cannot carry is refused by name."""

import itertools
import json
import sys

import numpy as np
import pytest
import torch
import toy
from click.testing import CliRunner

from asr import checkpoint, recipe, runtime
from asr.cli import main
from asr.decode.greedy import GreedyDecoder
from asr.errors import CheckpointError, ExportError
from asr.export.directory import compare, export_onnx, noise, write_graphs
from asr.export.live_graph import CHUNK, LiveSamples, live_graph
from asr.export.sherpa import SherpaFrontEnd, export_sherpa, pre_emphasis_gain
from asr.export.sherpa_live import LiveNetwork, in_16_bits, seconds_of_a_second
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


STREAMS = {
    "8 kHz": {"features": {"kind": "log_mel", "sample_rate": 8000, "mels": 24}},
    "8 kHz, global": {"features": {"kind": "log_mel", "sample_rate": 8000, "mels": 24, "normalise": "global"}},
    "16 kHz, gru": {"features": {"kind": "log_mel", "sample_rate": 16000, "mels": 24}, "encoder": {"kind": "gru"}},
    "40 ms": {"encoder": {"conv": {"channels": [2, 2], "subsampling": 4}}},
    "10 ms, rnn, raw": {
        "features": {"kind": "log_mel", "sample_rate": 16000, "mels": 24, "normalise": "none"},
        "encoder": {"kind": "rnn", "conv": None},
    },
}


def save_stream(folder, sections):
    """An untrained one-directional model that says much."""
    encoder = {
        "layers": 2,
        "hidden": 24,
        "conv": {"channels": [2, 2], "subsampling": 2},
        "kind": "lstm",
        "bidirectional": False,
    }
    features = {"kind": "log_mel", "sample_rate": toy.RATE, "mels": 24}
    model = save(folder, **{"features": features, **sections, "encoder": {**encoder, **sections.get("encoder", {})}})
    said = []
    model.head.register_forward_hook(lambda _head, inputs, _outputs: said.append(inputs[0]))
    TorchNetwork(model).emit([spoken(model.features.settings.sample_rate)])
    deviation, mean = torch.std_mean(said[0].flatten(0, 1), dim=0)
    with torch.no_grad():  # of no token more than of another
        model.head.weight.normal_().mul_(3 / deviation)
        model.head.bias.copy_(-model.head.weight @ mean)
    checkpoint.save_weights(folder / checkpoint.WEIGHTS, model.state_dict())
    return model


def spoken(rate):
    """Words, some of them faint, among noise, long silence and more words, as a recorder writes them."""
    words = np.concatenate(
        [toy.speak("abc ab"), 0.3 * toy.speak("cab"), 0.002 * toy.speak("   " * 5), toy.speak("ca b")]
    )
    return in_16_bits(words.repeat(rate // toy.RATE)) / 32768


@pytest.mark.parametrize("sections", STREAMS.values(), ids=STREAMS)
def test_the_live_graph_for_sherpa_onnx_is_our_own_stream(tmp_path, sections):
    model = save_stream(tmp_path, sections)
    rate = model.features.settings.sample_rate
    network = LiveNetwork(model, live_graph(LiveSamples(model)).SerializeToString())
    of_words = compare(LiveNetwork(model, exact=True), network, TOKENISER, [spoken(rate)], "words")
    assert of_words.largest < 2e-3  # of log probabilities as far apart as this head makes them
    assert of_words.other == 0
    assert of_words.texts[0] == of_words.texts[1]
    assert len(of_words.texts[0]) > 3
    assert of_words.frames == pytest.approx(len(spoken(rate)) / rate / model.frame_shift, abs=2)


def test_the_live_graph_for_sherpa_onnx_hears_no_neighbours(tmp_path):
    import onnxruntime

    model = save_stream(tmp_path, STREAMS["8 kHz"])
    live = LiveSamples(model, space=TOKENISER.tokens.index(" "))
    graph = onnxruntime.InferenceSession(live_graph(live).SerializeToString(), providers=["CPUExecutionProvider"])
    chunks = (32767 * spoken(8000)).astype(np.int32)
    chunks = chunks[: len(chunks) // CHUNK * CHUNK].reshape(-1, 1, CHUNK, 1)
    late = np.concatenate([np.zeros_like(chunks[:7]), chunks])[: len(chunks)]

    def read(signals):
        state, said = np.zeros((signals.shape[1], live.size), np.float16), []
        for signal in signals:
            log_probs, state = graph.run(None, {"signal": signal, "state": state})
            said.append(log_probs)
        best = np.concatenate(said, axis=1).argmax(-1)
        most.append(max(log_probs.shape[1] for log_probs in said))
        silences.extend(map(longest_silence, best))
        said = [[int(token) for token, _ in itertools.groupby(row) if token] for row in best]
        return ["".join(TOKENISER.tokens[token] for token in row).split() for row in said]

    def longest_silence(row):
        return max(len(list(run)) for token, run in itertools.groupby(row) if token == 0)

    most, silences = [], []
    alone = read(chunks) + read(late)
    assert read(np.concatenate([chunks, late], axis=1)) == alone
    assert len(alone[1]) > 1
    assert most[0] > 60  # frames of a warm-up, read at once
    assert most[-1] < 30  # since those beside it would repeat a blank as often, and sherpa-onnx takes it for silence
    assert silences[2] < silences[0] + 10
    assert silences[3] < silences[1] + 10


@pytest.mark.parametrize(("kind", "int8"), [("8 kHz", False), ("16 kHz, gru", False), ("40 ms", True)])
def test_sherpa_onnx_says_live_what_our_own_stream_says(tmp_path, kind, int8):
    sherpa_onnx = pytest.importorskip("sherpa_onnx", reason="needs sherpa-onnx: pip install sherpa-onnx")
    model = save_stream(tmp_path / "model", STREAMS[kind])
    export_sherpa(tmp_path / "model", tmp_path / "out", int8=int8)
    graph = tmp_path / "out" / f"streaming{'.int8' if int8 else ''}.onnx"
    samples = spoken(model.features.settings.sample_rate)
    recogniser = sherpa_onnx.OnlineRecognizer.from_t_one_ctc(
        tokens=str(tmp_path / "out" / "tokens.txt"), model=str(graph), num_threads=1
    )
    stream = recogniser.create_stream()
    for piece in np.array_split(np.append(samples, np.zeros(6400, np.float32)), 50):
        stream.accept_waveform(8000, piece)  # whatever the model's rate: so none are resampled
        while recogniser.is_ready(stream):
            recogniser.decode_stream(stream)
    own = LiveNetwork(model, graph.read_bytes() if int8 else None, exact=True).emit([samples])
    [[hypothesis]] = GreedyDecoder(TOKENISER)(own)
    said = [token.replace("▁", " ") for token in recogniser.get_result_all(stream).tokens]
    ours = [TOKENISER.tokens[token] for token in hypothesis.tokens]
    assert len(ours) > 5
    assert said[: len(ours)] == ours  # and what the silence after it makes an untrained model say


def onsets(log_probs):
    """Of each token but the blank, where its run begins: what sherpa-onnx says the time of."""
    best = log_probs.argmax(1)
    return [frame for frame in range(len(best)) if best[frame] and (not frame or best[frame] != best[frame - 1])]


def test_times_that_sherpa_onnx_says_live_are_those_of_the_recording(tmp_path):
    model, samples = save_stream(tmp_path, STREAMS["40 ms"]), spoken(8000)
    ours = onsets(LiveNetwork(model, exact=True).emit([samples]).log_probs[0])
    theirs = onsets(LiveNetwork(model, live_graph(LiveSamples(model)).SerializeToString()).slots(samples))
    assert len(ours) > 10
    np.testing.assert_allclose(0.03 * np.array(theirs[: len(ours)]), 0.04 * np.array(ours), atol=0.031)


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"encoder": {**SMALL, "kind": "lstm"}}, "bidirectional"),
        ({"encoder": {**SMALL, "kind": "feedforward", "context": 2, "conv": None}}, "of kind feedforward"),
        (
            {
                "features": {"kind": "log_mel", "sample_rate": 22050},
                "encoder": {**SMALL, "kind": "lstm", "bidirectional": False},
            },
            "features.shift is 220 samples",
        ),
    ],
)
def test_what_sherpa_onnx_cannot_read_live_is_named_and_written_offline(tmp_path, sections, named):
    save(tmp_path / "model", **sections)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "streaming.onnx").write_bytes(b"of other weights")
    done = CliRunner().invoke(
        main, ["export", str(tmp_path / "model"), "-o", str(tmp_path / "out"), "--format", "sherpa-onnx"]
    )
    assert done.exit_code == 0, done.output
    assert "live, sherpa-onnx cannot read it: " in done.output
    assert named in done.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["model.onnx", "tokens.txt"]


def test_the_command_says_how_sherpa_onnx_reads_a_model_live(tmp_path):
    save_stream(tmp_path / "model", STREAMS["16 kHz, gru"])
    done = CliRunner().invoke(
        main, ["export", str(tmp_path / "model"), "-o", str(tmp_path / "out"), "--format", "sherpa-onnx"]
    )
    assert done.exit_code == 0, done.output
    sizes, _, live, _, of_stream = done.output.splitlines()
    assert ", streaming.onnx " in sizes
    assert live == (
        "live, sherpa-onnx reads it as T-one CTC (from_t_one_ctc), from samples at 16000 Hz, given to it as of 8000 Hz;"
        " a second of its times and its rules for endpoints lasts 0.5 s"
    )
    assert of_stream.startswith("live noise: log probabilities within ")


@pytest.mark.parametrize(
    ("rate", "subsampling", "seconds"), [(8000, 4, 1), (8000, 2, 1.5), (16000, 2, 2), (16000, 4, 2)]
)
def test_seconds_that_sherpa_onnx_takes_a_second_to_last(rate, subsampling, seconds):
    features = {"kind": "log_mel", "sample_rate": rate}
    encoder = {
        **SMALL,
        "kind": "lstm",
        "bidirectional": False,
        "conv": {"channels": [2, 2], "subsampling": subsampling},
    }
    assert seconds_of_a_second(validate_recipe(toy.recipe(features=features, encoder=encoder), "toy")) == seconds


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

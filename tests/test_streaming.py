"""A stream's emissions are those of the whole recording, however it is cut."""

import itertools

import numpy as np
import pytest
import torch
import toy
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.audio import Resampling, prepare, utterances
from asr.audio.streaming import Stream
from asr.audio.utterances import WARM_UP_SECONDS
from asr.model.acoustic import AcousticModel
from asr.model.network import TorchNetwork
from asr.recipe.reading import validate_recipe
from asr.records import Waveform

CELLS = [
    {"kind": "rnn", "nonlinearity": "tanh", "bidirectional": False},
    {"kind": "rnn", "nonlinearity": "relu", "bidirectional": False},
    {"kind": "gru", "bidirectional": False},
    {"kind": "lstm", "bidirectional": False},
    {"kind": "lstm", "bidirectional": False, "projection": 5},
    {"kind": "feedforward", "context": 3},
]
BIDIRECTIONAL = [{"kind": "rnn"}, {"kind": "gru"}, {"kind": "lstm", "projection": 5}]
CONVOLUTIONS = [
    None,
    {"channels": [3], "subsampling": 1},
    {"channels": [3, 2, 2], "subsampling": 2},
    {"channels": [3, 2, 2], "subsampling": 4},
]
FEATURES = [
    {"kind": "log_mel", "mels": 8, "normalise": "none"},
    {"kind": "log_mel", "mels": 8, "normalise": "global"},
    {"kind": "log_mel", "mels": 8, "normalise": "none", "backend": "librosa"},
    {"kind": "mfcc", "coefficients": 4, "mels": 8, "normalise": "none"},
]


def untrained(encoder: dict, features: dict, seed: int = 0) -> AcousticModel:
    sections = toy.recipe(encoder={"layers": 2, "hidden": 6, **encoder}, features={"sample_rate": toy.RATE, **features})
    torch.manual_seed(seed)
    model = AcousticModel(validate_recipe(sections, "toy"), 5).eval()
    torch.nn.init.normal_(model.features.mean, -5, 2)
    torch.nn.init.uniform_(model.features.deviation, 1, 3)
    return model


def whole(model: AcousticModel, samples: np.ndarray) -> np.ndarray:
    return TorchNetwork(model).emit([samples]).log_probs[0]


def streamed(stream: Stream, samples: np.ndarray, cuts: list[int]) -> np.ndarray:
    edges = [0, *sorted(cuts), len(samples)]
    pieces = [stream.feed(samples[a:b]) for a, b in itertools.pairwise(edges)]
    return np.concatenate([*pieces, stream.feed(np.zeros(0, np.float32), last=True)])


def noise(length: int) -> np.ndarray:
    return (np.random.default_rng(length).standard_normal(length) * 0.1).astype(np.float32)


def words(seconds: float, level: float = 1.0) -> np.ndarray:
    """Noise that comes and goes as speech does, twice a second, and begins in a pause."""
    time = np.arange(round(seconds * toy.RATE)) / toy.RATE
    return noise(len(time)) * level * (0.003 - np.minimum(np.cos(4 * np.pi * time), 0)).astype(np.float32)


@settings(max_examples=120)
@given(
    encoder=st.sampled_from(CELLS),
    conv=st.sampled_from(CONVOLUTIONS),
    features=st.sampled_from(FEATURES[:2]),
    length=st.integers(1, 6000),
    chunk=st.floats(0.001, 0.5),
    cuts=st.lists(st.integers(0, 6000), max_size=8),
)
def test_a_one_directional_network_gives_the_whole_files_emissions_for_any_cuts(
    encoder, conv, features, length, chunk, cuts
):
    model, samples = untrained({**encoder, "conv": conv}, features), noise(length)
    emissions = streamed(
        TorchNetwork(model).stream(chunk=chunk, context=0.0), samples, [cut for cut in cuts if cut <= length]
    )
    np.testing.assert_allclose(emissions, whole(model, samples), atol=1e-5, rtol=0)


@pytest.mark.parametrize("encoder", CELLS, ids=lambda e: f"{e['kind']}{e.get('nonlinearity', '')}{'projection' in e}")
@pytest.mark.parametrize("conv", CONVOLUTIONS, ids=["no conv", "x1", "x2", "x4"])
@pytest.mark.parametrize("features", FEATURES, ids=["none", "global", "librosa", "mfcc"])
def test_every_one_directional_network_gives_the_whole_files_emissions(encoder, conv, features):
    model, samples = untrained({**encoder, "conv": conv}, features), noise(5003)
    emissions = streamed(TorchNetwork(model).stream(chunk=0.1, context=1.0), samples, [17, 900, 3000])
    np.testing.assert_allclose(emissions, whole(model, samples), atol=1e-5, rtol=0)


@pytest.mark.parametrize("encoder", BIDIRECTIONAL)
@pytest.mark.parametrize("normalise", ["utterance", "global", "none"])
def test_a_chunk_as_long_as_the_recording_gives_the_whole_files_emissions(encoder, normalise):
    model, samples = untrained(encoder, {"mels": 8, "normalise": normalise}), noise(5003)
    emissions = streamed(TorchNetwork(model).stream(chunk=2.0, context=0.1), samples, [800])
    np.testing.assert_allclose(emissions, whole(model, samples), atol=1e-5, rtol=0)


@pytest.mark.parametrize("encoder", BIDIRECTIONAL)
def test_a_bidirectional_stack_that_sees_the_end_ahead_gives_the_whole_files_encodings(encoder):
    stack = untrained(encoder, {"mels": 8, "normalise": "none"}).encoder.stack
    values = torch.randn(1, 40, stack.layers[0].forwards.input_size)
    expected, _ = stack(values, torch.tensor([40]))
    first, states = stack.forward_chunk(values, 13, stack.initial_states(1))
    second, _ = stack.forward_chunk(values[:, 13:], 27, states)
    torch.testing.assert_close(first, expected[:, :13], atol=1e-5, rtol=0)
    torch.testing.assert_close(second, expected[:, 13:], atol=1e-5, rtol=0)


def test_more_context_brings_a_bidirectional_network_closer_to_the_whole_file():
    model, samples = untrained({"kind": "lstm"}, {"mels": 8, "normalise": "none"}), noise(16000)
    expected = whole(model, samples)
    errors = [
        np.abs(streamed(TorchNetwork(model).stream(chunk=0.1, context=context), samples, []) - expected).max()
        for context in (0.0, 0.1, 0.4, 1.0)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 10


@given(cuts=st.lists(st.integers(0, 9000), max_size=20), normalise=st.sampled_from(["utterance", "none"]))
@settings(max_examples=20)
def test_the_cuts_of_the_feed_change_nothing_at_all(cuts, normalise):
    model, samples = untrained({"kind": "lstm"}, {"mels": 8, "normalise": normalise}), noise(9000)
    streams = [TorchNetwork(model).stream(chunk=0.2, context=0.1) for _ in range(2)]
    np.testing.assert_array_equal(streamed(streams[0], samples, cuts), streamed(streams[1], samples, []))


SOUNDS = {
    "speech": words,
    "noise": lambda seconds: noise(round(seconds * toy.RATE)),
    "silence": lambda seconds: np.zeros(round(seconds * toy.RATE), np.float32),
}


def storage_of(part: torch.Tensor | np.ndarray) -> int:
    """The bytes of the memory that an array, or a part of one, keeps."""
    if isinstance(part, torch.Tensor):
        return part.untyped_storage().nbytes()
    return (part if part.base is None else part.base).nbytes


@pytest.mark.parametrize("sound", SOUNDS.values(), ids=SOUNDS)
@pytest.mark.parametrize("encoder", [{"kind": "lstm"}, {"kind": "gru", "bidirectional": False}])
def test_a_stream_holds_no_more_after_a_minute_than_after_half_of_one(encoder, sound, monkeypatch):
    monkeypatch.setattr(utterances, "MEMORY_SECONDS", 8.0)
    model = untrained({**encoder, "layers": 1}, {"mels": 8})
    stream = TorchNetwork(model).stream(chunk=0.3, context=0.2)

    def held() -> int:
        parts = [stream.waiting, stream.energies.pending, stream.encodings.pending, stream.ahead]
        memory = stream.utterances.speech
        parts += [stream.utterances.unread, memory.recent, memory.energies, memory.loudness, memory.places]
        return sum(storage_of(part) for part in parts if part is not None)

    second, sizes = sound(1.0), []
    for _ in range(60):
        stream.feed(second)
        sizes.append(held())
    assert max(sizes[30:]) <= max(sizes[:30])


@pytest.mark.parametrize(("normalise", "waits"), [("utterance", True), ("global", False), ("none", False)])
def test_only_an_utterances_own_statistics_need_a_warm_up(normalise, waits):
    model = untrained({"kind": "lstm"}, {"mels": 8, "normalise": normalise})
    stream = TorchNetwork(model).stream(chunk=0.1, context=0.1)
    half = round(WARM_UP_SECONDS / 2 * toy.RATE)
    samples = words(4 * WARM_UP_SECONDS)
    early = stream.feed(samples[:half])
    assert (len(early) == 0) == waits
    assert len(stream.feed(samples[half:])) > 0


@pytest.mark.parametrize("sound", SOUNDS.values(), ids=SOUNDS)
@pytest.mark.parametrize("subsampling", [1, 2, 4])
@pytest.mark.parametrize("seconds", [0.3, 7.77, 20.0])
def test_a_stream_has_as_many_emissions_as_the_whole_file(sound, subsampling, seconds):
    model = untrained({"kind": "lstm", "conv": {"channels": [3, 2], "subsampling": subsampling}}, {"mels": 8})
    samples = np.concatenate([sound(seconds), words(3), sound(seconds), words(2)])
    assert len(streamed(TorchNetwork(model).stream(chunk=0.23, context=0.1), samples, [])) == len(whole(model, samples))


@pytest.mark.parametrize("sound", [SOUNDS["noise"], SOUNDS["silence"]], ids=["noise", "silence"])
def test_what_is_no_speech_is_blank_before_the_first_words_and_after_the_last(sound):
    model = untrained({"kind": "lstm"}, {"mels": 8})
    stream = TorchNetwork(model).stream(chunk=0.2, context=0.1)
    before, words_read, after = (stream.feed(part).argmax(axis=1) for part in (sound(20), words(4, level=5), sound(20)))
    assert len(before) * model.frame_shift == pytest.approx(20, abs=0.5)
    assert (before == 0).all()
    assert words_read.any()
    pause = round(7 / model.frame_shift)  # steady noise needs some seconds to be known as such
    assert (after[pause:] == 0).all()


@pytest.mark.parametrize("features", [{"mels": 8}, {"kind": "mfcc", "mels": 8, "coefficients": 4}])
def test_speech_after_silence_has_the_emissions_of_the_speech_alone(features):
    model = untrained({"kind": "lstm"}, features)
    alone = streamed(TorchNetwork(model).stream(chunk=0.2, context=0.4), words(4), [])
    silence = np.zeros(20 * toy.RATE, np.float32)
    after = streamed(TorchNetwork(model).stream(chunk=0.2, context=0.4), np.concatenate([silence, words(4)]), [])
    frames = round(0.6 / model.frame_shift)
    np.testing.assert_allclose(after[-len(alone) + frames :], alone[frames:], atol=0.05, rtol=0)


@given(
    rates=st.sampled_from([(8000, 16000), (44100, 16000), (48000, 16000), (11025, 8000), (16000, 16000)]),
    cuts=st.lists(st.integers(0, 20000), max_size=8),
)
@settings(max_examples=30)
def test_samples_are_resampled_as_one_signal_whatever_the_cuts(rates, cuts):
    source, target = rates
    samples, resampling = noise(20000), Resampling(source, target)
    edges = [0, *sorted(cuts), len(samples)]
    pieces = [resampling.feed(samples[a:b]) for a, b in itertools.pairwise(edges)]
    joined = np.concatenate([*pieces, resampling.feed(samples[:0], last=True)])
    expected = prepare(Waveform(samples=samples, sample_rate=source), target).samples
    np.testing.assert_allclose(joined, expected, atol=1e-6)

"""A stream's emissions are those of the whole recording, however it is cut."""

import itertools

import numpy as np
import pytest
import torch
import toy
from hypothesis import given, settings
from hypothesis import strategies as st

from asr import recipe
from asr.audio import Resampling, prepare
from asr.data.collation import Utterance, collate
from asr.model.acoustic import AcousticModel
from asr.model.features import FeatureExtractor, loader_features
from asr.model.streaming import MEMORY_SECONDS, WARM_UP_SECONDS, EmissionStream, SpeechMemory
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


def whole(model: AcousticModel, samples: np.ndarray) -> torch.Tensor:
    featurise = loader_features(model.features.settings)
    with torch.inference_mode():
        return model(
            collate([Utterance(samples=samples, features=featurise(samples) if featurise else None)])
        ).log_probs[0]


def streamed(stream: EmissionStream, samples: np.ndarray, cuts: list[int]) -> torch.Tensor:
    edges = [0, *sorted(cuts), len(samples)]
    pieces = [stream.feed(torch.from_numpy(samples[a:b])) for a, b in itertools.pairwise(edges)]
    return torch.cat([*pieces, stream.feed(torch.zeros(0), last=True)])


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
        EmissionStream(model, chunk=chunk, context=0.0), samples, [cut for cut in cuts if cut <= length]
    )
    torch.testing.assert_close(emissions, whole(model, samples), atol=1e-5, rtol=0)


@pytest.mark.parametrize("encoder", CELLS, ids=lambda e: f"{e['kind']}{e.get('nonlinearity', '')}{'projection' in e}")
@pytest.mark.parametrize("conv", CONVOLUTIONS, ids=["no conv", "x1", "x2", "x4"])
@pytest.mark.parametrize("features", FEATURES, ids=["none", "global", "librosa", "mfcc"])
def test_every_one_directional_network_gives_the_whole_files_emissions(encoder, conv, features):
    model, samples = untrained({**encoder, "conv": conv}, features), noise(5003)
    emissions = streamed(EmissionStream(model, chunk=0.1, context=1.0), samples, [17, 900, 3000])
    torch.testing.assert_close(emissions, whole(model, samples), atol=1e-5, rtol=0)


@pytest.mark.parametrize("encoder", BIDIRECTIONAL)
@pytest.mark.parametrize("normalise", ["utterance", "global", "none"])
def test_a_chunk_as_long_as_the_recording_gives_the_whole_files_emissions(encoder, normalise):
    model, samples = untrained(encoder, {"mels": 8, "normalise": normalise}), noise(5003)
    emissions = streamed(EmissionStream(model, chunk=2.0, context=0.1), samples, [800])
    torch.testing.assert_close(emissions, whole(model, samples), atol=1e-5, rtol=0)


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
        float((streamed(EmissionStream(model, chunk=0.1, context=context), samples, []) - expected).abs().max())
        for context in (0.0, 0.1, 0.4, 1.0)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 10


@given(cuts=st.lists(st.integers(0, 9000), max_size=20), normalise=st.sampled_from(["utterance", "none"]))
@settings(max_examples=20)
def test_the_cuts_of_the_feed_change_nothing_at_all(cuts, normalise):
    model, samples = untrained({"kind": "lstm"}, {"mels": 8, "normalise": normalise}), noise(9000)
    streams = [EmissionStream(model, chunk=0.2, context=0.1) for _ in range(2)]
    assert torch.equal(streamed(streams[0], samples, cuts), streamed(streams[1], samples, []))


@pytest.mark.parametrize("chunk", [0.05, 0.3])
@pytest.mark.parametrize("encoder", [{"kind": "lstm"}, {"kind": "gru", "bidirectional": False}])
@pytest.mark.parametrize(
    "sound",
    [words, lambda seconds: noise(round(seconds * toy.RATE)), lambda seconds: 0 * words(seconds)],
    ids=["speech", "noise", "silence"],
)
def test_a_stream_holds_no_more_after_three_minutes_than_after_one(encoder, chunk, sound):
    model = untrained({**encoder, "layers": 1}, {"mels": 8})
    stream = EmissionStream(model, chunk=chunk, context=0.2)

    def held() -> int:
        memory = stream.speech
        parts = [stream.waiting, stream.energies.pending, stream.encodings.pending, stream.ahead, stream.cold]
        parts += [memory.recent, memory.energies, memory.places]
        return sum(part.untyped_storage().nbytes() for part in parts if part is not None)

    second, sizes = torch.from_numpy(sound(1.0)), []
    for _ in range(180):
        stream.feed(second)
        sizes.append(held())
    assert max(sizes[120:]) <= max(sizes[:60])


@pytest.mark.parametrize(("normalise", "waits"), [("utterance", True), ("global", False), ("none", False)])
def test_only_an_utterances_own_statistics_need_a_warm_up(normalise, waits):
    model = untrained({"kind": "lstm"}, {"mels": 8, "normalise": normalise})
    stream = EmissionStream(model, chunk=0.1, context=0.1)
    half = round(WARM_UP_SECONDS / 2 * toy.RATE)
    samples = torch.from_numpy(words(4 * WARM_UP_SECONDS))
    early = stream.feed(samples[:half])
    assert (len(early) == 0) == waits
    assert len(stream.feed(samples[half:])) > 0


def speech_memory(samples: np.ndarray) -> SpeechMemory:
    """What is remembered of samples that come in pieces of 0.1 s."""
    extractor = FeatureExtractor(recipe.LogMel(sample_rate=toy.RATE, mels=8))
    memory = SpeechMemory(extractor)
    for frames in extractor.extract(torch.from_numpy(samples)[None], torch.tensor([len(samples)])).values[0].split(10):
        memory.hear(frames)
    return memory


@pytest.mark.parametrize(
    "before",
    [
        np.zeros(0, np.float32),
        np.zeros(60 * toy.RATE, np.float32),
        0.01 * noise(60 * toy.RATE),
        words(2, level=0.02),
    ],
    ids=["nothing", "silence", "a room", "whispering"],
)
@pytest.mark.parametrize("after", [0.0, 60.0])
def test_a_stream_is_normalised_as_its_speech_alone_is_whatever_came_before_and_after(before, after):
    speech = words(4)
    extractor = FeatureExtractor(recipe.LogMel(sample_rate=toy.RATE, mels=8))
    expected = extractor.measure(extractor.extract(torch.from_numpy(speech)[None], torch.tensor([len(speech)])))
    room = 1e-5 * noise(round(after * toy.RATE))
    statistics = speech_memory(np.concatenate([before, speech, room])).statistics()
    torch.testing.assert_close(statistics.mean, expected.mean, atol=0.15, rtol=0)
    torch.testing.assert_close(statistics.deviation, expected.deviation, atol=0.15, rtol=0)
    torch.testing.assert_close(statistics.floor, expected.floor, atol=0.15, rtol=0)


def test_a_stream_learns_to_hear_a_fainter_voice():
    statistics = speech_memory(
        np.concatenate([words(1, level=3), words(MEMORY_SECONDS * 2.5, level=0.03)])
    ).statistics()
    fainter = speech_memory(words(20, level=0.03)).statistics()
    torch.testing.assert_close(statistics.mean, fainter.mean, atol=0.3, rtol=0)


@pytest.mark.parametrize("sound", [np.zeros(20 * toy.RATE, np.float32), noise(20 * toy.RATE)], ids=["silence", "noise"])
def test_what_is_no_speech_is_blank_until_somebody_speaks(sound):
    model = untrained({"kind": "lstm"}, {"mels": 8})
    stream = EmissionStream(model, chunk=0.2, context=0.1)
    emissions = stream.feed(torch.from_numpy(sound))
    assert len(emissions) * model.frame_shift == pytest.approx(20, abs=1)
    assert emissions.argmax(dim=1).eq(0).all()
    assert not stream.feed(torch.from_numpy(words(2, level=5))).argmax(dim=1).eq(0).all()
    ended = stream.feed(torch.zeros(0), last=True)
    assert len(ended) > 0


@pytest.mark.parametrize("features", [{"mels": 8}, {"kind": "mfcc", "mels": 8, "coefficients": 4}])
def test_speech_after_silence_has_the_emissions_of_the_speech_alone(features):
    model = untrained({"kind": "lstm"}, features)
    alone = streamed(EmissionStream(model, chunk=0.2, context=0.4), words(4), [])
    silence = np.zeros(20 * toy.RATE, np.float32)
    after = streamed(EmissionStream(model, chunk=0.2, context=0.4), np.concatenate([silence, words(4)]), [])
    frames = round(0.5 / model.frame_shift)
    torch.testing.assert_close(after[-len(alone) + frames :], alone[frames:], atol=0.02, rtol=0)


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

"""A long recording read in pieces has the frames and times of the recording read at once."""

import functools

import numpy as np
import pytest
import torch
import toy

from asr.audio import voice
from asr.audio.voice import Activity
from asr.model.acoustic import AcousticModel
from asr.model.network import TorchNetwork
from asr.recipe.frames import emission_frames
from asr.recipe.reading import validate_recipe
from asr.transcribe.emissions import emissions_of


def blocks_of(samples: np.ndarray, size: int) -> list[np.ndarray]:
    return [samples[start : start + size] for start in range(0, len(samples), size)]


@pytest.fixture(scope="module", params=["torchaudio", "librosa"])
def reader(request):
    """An untrained model that hears one frame and its neighbours, and its recipe."""
    sections = toy.recipe(
        encoder={"kind": "feedforward", "context": 2, "layers": 1, "hidden": 16, "conv": {"channels": [4, 4]}},
        features={**toy.recipe()["features"], "normalise": "none", "backend": request.param},
    )
    settings = validate_recipe(sections, "toy")
    torch.manual_seed(0)
    return TorchNetwork(AcousticModel(settings, 4)), settings


@pytest.fixture
def short_pieces(monkeypatch):
    """Windows of two seconds."""
    monkeypatch.setattr("asr.transcribe.pieces.WINDOW_SECONDS", 2.0)
    monkeypatch.setattr("asr.transcribe.pieces.CONTEXT_SECONDS", 0.4)
    monkeypatch.setattr(voice, "SpanCutter", functools.partial(voice.SpanCutter, longest=1.6))


def test_a_recording_that_fits_in_one_window_is_read_at_once(reader):
    samples = toy.speak("abc cab")
    network, _ = reader
    emissions = emissions_of(network, [samples], tokens=4)
    np.testing.assert_array_equal(emissions.log_probs, network.emit([samples]).log_probs)
    assert emissions.lengths.tolist() == [emissions.log_probs.shape[1]]


@pytest.mark.usefixtures("short_pieces")
@pytest.mark.parametrize("surplus", [0, 1, 1599, 4000])
def test_pieces_join_into_what_the_whole_gives(reader, surplus):
    network, settings = reader
    samples = np.random.default_rng(0).uniform(-0.3, 0.3, 8000 * 9 + surplus).astype(np.float32)
    joined = emissions_of(network, blocks_of(samples, 3001), tokens=4, vad=False).log_probs[0]
    assert len(joined) == emission_frames(len(samples), settings.features, settings.encoder.conv)
    np.testing.assert_allclose(joined, network.emit([samples]).log_probs[0], atol=2e-4, rtol=0)


@pytest.mark.usefixtures("short_pieces")
@pytest.mark.parametrize("silence", [(0, 40), (40, 75), (75, 150), (0, 150)], ids=["first", "middle", "last", "all"])
def test_what_is_no_speech_is_blank_and_the_rest_keeps_its_place(reader, monkeypatch, silence):
    """Voice activity has 150 frames of 32 ms here; 0.8 s of silence next to speech are read."""
    network, _ = reader
    samples = np.random.default_rng(0).uniform(-0.3, 0.3, 150 * 256).astype(np.float32)
    probabilities = np.ones(150, np.float32)
    probabilities[slice(*silence)] = 0

    def activity(blocks, **_):
        list(blocks)
        yield Activity(probabilities=probabilities, levels=np.zeros(150, np.float32))

    monkeypatch.setattr(voice, "activity", activity)
    monkeypatch.setattr("asr.transcribe.emissions.SILENCE_SECONDS", 1.0)
    monkeypatch.setattr("asr.transcribe.emissions.MARGIN_SECONDS", 0.16)
    joined = emissions_of(network, blocks_of(samples, 3001), tokens=4).log_probs[0]
    whole = network.emit([samples]).log_probs[0]
    assert len(joined) == len(whole)
    blank = joined[:, 0] == 0
    first, last = (place * 0.032 / network.frame_shift for place in silence)
    assert blank.sum() == pytest.approx(last - first - 4 * ((silence[0] > 0) + (silence[1] < 150)), abs=4)
    edges = np.ones(len(whole), bool)
    for place in (np.diff(blank).nonzero()[0] + 1).tolist():
        edges[max(0, place - 6) : place + 6] = False  # what a frame at a cut hears of its neighbours
    np.testing.assert_allclose(joined[~blank & edges], whole[~blank & edges], atol=2e-4, rtol=0)

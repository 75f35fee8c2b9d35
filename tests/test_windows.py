"""A recording read in windows has the frames and times of the recording read in one piece."""

import numpy as np
import pytest
import torch
import toy

from asr.data.collation import Utterance, collate
from asr.model.acoustic import AcousticModel
from asr.model.encoder import emission_frames
from asr.recipe.reading import validate_recipe
from asr.transcribe import windows as reading
from asr.transcribe.windows import emissions_of, windows


def blocks_of(samples: np.ndarray, size: int) -> list[np.ndarray]:
    return [samples[start : start + size] for start in range(0, len(samples), size)]


@pytest.mark.parametrize("length", [1, 39, 40, 41, 55, 56, 57, 200, 203])
@pytest.mark.parametrize("block", [3, 40, 1000])
def test_windows_keep_each_frame_once_and_in_its_place(length, block):
    samples = np.arange(length, dtype=np.float32)
    kept = []
    for window in windows(blocks_of(samples, block), frame=4, frames=10, context=3):
        assert len(window.samples) <= 40
        start = int(window.samples[0])
        assert start % 4 == 0
        frames = len(window.samples) // 4 + 1
        kept += [start // 4 + i for i in range(frames)][window.first : window.last]
    assert kept == list(range(length // 4 + 1))


@pytest.fixture(scope="module", params=["torchaudio", "librosa"])
def reader(request):
    """An untrained model that hears one frame and its neighbours, and its recipe."""
    sections = toy.recipe(
        encoder={"kind": "feedforward", "context": 2, "layers": 1, "hidden": 16, "conv": {"channels": [4, 4]}},
        features={**toy.recipe()["features"], "normalise": "none", "backend": request.param},
    )
    settings = validate_recipe(sections, "toy")
    torch.manual_seed(0)
    return AcousticModel(settings, 4).eval(), settings


def in_one_piece(model, settings, samples: np.ndarray) -> torch.Tensor:
    features = reading.loader_features(settings.features)
    with torch.inference_mode():
        batch = collate([Utterance(samples=samples, features=features(samples) if features else None)])
        return model(batch).log_probs[0]


def test_a_recording_that_fits_in_one_window_is_read_in_one_piece(reader):
    samples = toy.speak("abc cab")
    emissions = emissions_of(*reader, [samples])
    assert torch.equal(emissions.log_probs[0], in_one_piece(*reader, samples))
    assert emissions.lengths.tolist() == [emissions.log_probs.shape[1]]


@pytest.mark.parametrize("surplus", [0, 1, 1599, 4000])
def test_windows_join_into_what_one_piece_gives(reader, monkeypatch, surplus):
    monkeypatch.setattr(reading, "WINDOW_SECONDS", 2.0)
    monkeypatch.setattr(reading, "CONTEXT_SECONDS", 0.4)
    model, settings = reader
    samples = np.random.default_rng(0).uniform(-0.3, 0.3, 8000 * 9 + surplus).astype(np.float32)
    joined = emissions_of(model, settings, blocks_of(samples, 3001)).log_probs[0]
    assert len(joined) == emission_frames(len(samples), settings.features, settings.encoder.conv)
    torch.testing.assert_close(joined, in_one_piece(model, settings, samples), atol=2e-4, rtol=0)

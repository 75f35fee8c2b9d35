"""Long silence is not read, and leaves no trace in the emissions of what is."""

import numpy as np
import pytest
import torch
import toy

from asr.data.collation import Utterance, collate
from asr.model.acoustic import AcousticModel
from asr.recipe.reading import validate_recipe
from asr.records import Batch

SPEECH = toy.speak("abc cab")  # 2.5 s
FRAME = 320  # samples: 40 ms at 8 kHz


def model(**sections: object) -> AcousticModel:
    torch.manual_seed(0)
    return AcousticModel(validate_recipe(toy.recipe(**sections), "toy"), 5).eval()


def seconds_of_silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * toy.RATE), np.float32)


def batch(*recordings: np.ndarray) -> Batch:
    return collate([Utterance(samples=samples) for samples in recordings])


def emissions(network: AcousticModel, *recordings: np.ndarray) -> list[np.ndarray]:
    with torch.inference_mode():
        found = network(batch(*recordings))
    return [row[:length].numpy() for row, length in zip(found.log_probs, found.lengths.tolist(), strict=True)]


@pytest.mark.parametrize("before", [2.0, 10.0, 30.0])
@pytest.mark.parametrize("after", [2.0, 30.0])
def test_however_long_the_silence_around_it_speech_has_the_same_emissions(before, after):
    network = model()
    short, long = emissions(
        network,
        np.concatenate([seconds_of_silence(2), SPEECH, seconds_of_silence(2)]),
        np.concatenate([seconds_of_silence(before), SPEECH, seconds_of_silence(after)]),
    )
    speech = slice(round(1.8 / 0.04), round((2 + 2.7) / 0.04))
    shift = round((before - 2) / 0.04)
    np.testing.assert_allclose(long[speech.start + shift : speech.stop + shift], short[speech], atol=1e-4)
    assert len(long) == len(short) + shift + round((after - 2) / 0.04)


def test_silence_is_blank():
    [found] = emissions(model(), np.concatenate([seconds_of_silence(5), SPEECH, seconds_of_silence(5)]))
    for silence in (found[: round(4.7 / 0.04)], found[-round(4.7 / 0.04) :]):
        assert (silence.argmax(axis=1) == 0).all()
        np.testing.assert_allclose(np.exp(silence).sum(axis=1), 1, atol=1e-6)


def test_a_pause_within_speech_is_read_as_it_is():
    network = model()
    samples = np.concatenate([SPEECH, seconds_of_silence(0.8), SPEECH])
    with torch.inference_mode():
        whole = network.emit(network.featurise(batch(samples)))
    np.testing.assert_array_equal(emissions(network, samples)[0], whole.log_probs[0].numpy())


def test_what_is_read_of_an_utterance_does_not_depend_on_what_it_is_batched_with():
    network = model()
    recordings = [
        np.concatenate([seconds_of_silence(3), SPEECH]),
        SPEECH,
        np.concatenate([SPEECH, seconds_of_silence(7.77), SPEECH, seconds_of_silence(3)]),
        seconds_of_silence(2),
        seconds_of_silence(0.001),
    ]
    for recording, together in zip(recordings, emissions(network, *recordings), strict=True):
        np.testing.assert_allclose(together, emissions(network, recording)[0], atol=1e-4)


def test_a_recording_of_silence_alone_is_blank():
    [found] = emissions(model(), seconds_of_silence(5))
    assert (found[1:].argmax(axis=1) == 0).all()


@pytest.mark.parametrize("normalise", ["global", "none"])
def test_features_on_a_fixed_scale_are_all_read(normalise):
    network = model(features={**toy.recipe()["features"], "normalise": normalise})
    samples = np.concatenate([seconds_of_silence(3), SPEECH])
    with torch.inference_mode():
        whole = network.emit(network.featurise(batch(samples)))
    np.testing.assert_array_equal(emissions(network, samples)[0], whole.log_probs[0].numpy())

"""Long silence is not read, and leaves no trace in the emissions of what is."""

import numpy as np
import pytest
import torch
import toy

from asr.audio import silero, voice
from asr.decode.greedy import GreedyDecoder
from asr.model.acoustic import AcousticModel
from asr.model.collation import LoadedUtterance, collate
from asr.model.network import TorchNetwork
from asr.recipe.reading import validate_recipe
from asr.records import Batch
from asr.text.tokenise import CharacterTokeniser
from asr.transcribe.recogniser import Recogniser

SPEECH = toy.speak("abc cab")  # 2.5 s
FRAME = 320  # samples: 40 ms at 8 kHz


def model(**sections: object) -> AcousticModel:
    torch.manual_seed(0)
    return AcousticModel(validate_recipe(toy.recipe(**sections), "toy"), 5).eval()


def seconds_of_silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * toy.RATE), np.float32)


def batch(*recordings: np.ndarray) -> Batch:
    return collate([LoadedUtterance(samples=samples) for samples in recordings])


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


# ----------------------------------------------------------------------------- what a user sees of it


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    """Untrained, but with a head that makes it say something of every sound."""
    settings = validate_recipe(toy.recipe(), "toy")
    tokeniser = CharacterTokeniser(" abc")
    torch.manual_seed(5)
    network = AcousticModel(settings, len(tokeniser.tokens))
    torch.nn.init.normal_(network.head.weight, std=4)
    return Recogniser(TorchNetwork(network), tokeniser, settings, {}, GreedyDecoder(tokeniser))


def around(before: float, after: float, level: float = 1.0) -> np.ndarray:
    return np.concatenate([seconds_of_silence(before), level * SPEECH, seconds_of_silence(after)]).astype(np.float32)


MARGINS = (0.24, 0.24)  # of silence are heard before and after speech, however much there is
CHANGES = {
    "push to talk": (0.52, 3.0, 1.0),
    "ten seconds on both sides": (10.0, 10.0, 1.0),
    "in a recording longer than a window": (0.24, 50.0, 1.0),
    "-40 dB": (*MARGINS, 0.01),
    "+10 dB": (*MARGINS, 10**0.5),
    "-40 dB and ten seconds": (10.0, 10.0, 0.01),
}


def timed(words, before: float) -> list[tuple[str, float, float]]:
    return [(word.text, round(word.start - before, 2), round(word.end - before, 2)) for word in words]


@pytest.mark.parametrize("change", [c for n, c in CHANGES.items() if "window" not in n], ids=lambda c: str(c))
def test_the_words_of_speech_are_the_same_at_any_level_and_with_any_silence_around_it(recogniser, change):
    expected = recogniser.transcribe(around(*MARGINS), sample_rate=toy.RATE)
    found = recogniser.transcribe(around(*change), sample_rate=toy.RATE)
    assert len(expected.words) >= 1
    assert timed(found.words, change[0]) == timed(expected.words, MARGINS[0])


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_alignment_finds_every_word_in_its_place(recogniser, change, monkeypatch):
    monkeypatch.setattr(voice, "activity", voice_at(change[0], change[0] + len(SPEECH) / toy.RATE))
    text = recogniser.transcribe(around(*MARGINS), sample_rate=toy.RATE).text
    expected = recogniser.align(around(*MARGINS), text, sample_rate=toy.RATE)
    found = recogniser.align(around(*change), text, sample_rate=toy.RATE)
    assert all(word.found for word in expected.words)
    assert timed(found.words, change[0]) == timed(expected.words, MARGINS[0])


@pytest.mark.parametrize("change", [(5.0, 0.0, 1.0), (61.0, 0.0, 1.0), (61.0, 0.0, 0.01)], ids=lambda c: str(c))
def test_live_speech_after_silence_is_heard_as_speech_at_once_is(recogniser, change):
    """Silences of the same part of a chunk, so that chunks begin at the same places in the speech."""

    def live(samples: np.ndarray) -> list[tuple[str, float, float]]:
        stream = recogniser.stream()
        pieces = np.split(samples, range(800, len(samples), 800))
        heard = [*map(stream.feed, pieces), stream.finish()]
        return timed([word for each in heard for word in each.final], len(samples) / toy.RATE)

    assert live(around(*change)) == live(around(1.0, 0.0))


def voice_at(start: float, stop: float):
    """Stands in for voice activity, which finds no speech in a toy language: there is some from ``start`` to ``stop``,
    in seconds."""

    def activity(blocks, **_):
        frames = -(-sum(map(len, blocks)) // silero.FRAME)
        place = np.arange(frames) * voice.FRAME_SECONDS
        probabilities = ((place >= start) & (place < stop)).astype(np.float32)
        yield voice.Activity(probabilities=probabilities, levels=np.zeros(frames, np.float32))

    return activity

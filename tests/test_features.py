"""Features: two backends, one set of numbers; padding that leaves no trace."""

import math

import librosa
import numpy as np
import pytest
import soxr
import torch

from asr import recipe
from asr.audio.levels import TYPICAL_DEVIATION, drawn_to_typical
from asr.model.features import FeatureExtractor, ReferenceFeatures, frame_loudness
from asr.recipe.frames import feature_frames, feature_size
from asr.records import Features

KINDS = {
    "log_mel": recipe.LogMel(),
    "log_mel_8k": recipe.LogMel(sample_rate=8000, mels=40),
    "mfcc": recipe.Mfcc(kind="mfcc"),
    "mfcc_static": recipe.Mfcc(kind="mfcc", coefficients=20, deltas=False),
}


def noise(samples: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def words(rate: int) -> torch.Tensor:
    """Two seconds of noise as loud as words, in a room 45 dB below them."""
    time = torch.arange(2 * rate) / rate
    return noise(2 * rate) * (10 ** (-45 / 20) - (2 * torch.pi * 2 * time).cos().clamp(max=0))


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_torchaudio_and_librosa_agree_within_1e_4(settings):
    samples = noise(settings.sample_rate + 123)
    ours = FeatureExtractor(settings).extract(samples[None], torch.tensor([len(samples)]))
    reference = ReferenceFeatures(settings)(samples.numpy())
    assert ours.values.shape[1:] == reference.shape == (feature_frames(len(samples), settings), settings.mels)
    np.testing.assert_allclose(ours.values[0].numpy(), reference, atol=1e-4 * np.abs(reference).max())


@pytest.mark.parametrize("deltas", [True, False])
def test_mfccs_are_librosas(deltas):
    settings = recipe.Mfcc(kind="mfcc", coefficients=20, deltas=deltas)
    extractor = FeatureExtractor(settings)
    energies = extractor.extract(noise(16000)[None], torch.tensor([16000]))
    expected = librosa.feature.mfcc(S=energies.values[0].numpy().T, n_mfcc=20, dct_type=2, norm="ortho")
    if deltas:
        first = librosa.feature.delta(expected, width=5, mode="nearest")
        expected = np.concatenate([expected, first, librosa.feature.delta(first, width=5, mode="nearest")])
    shaped = extractor.shape(energies, torch.tensor(-100.0))[0].numpy()
    assert shaped.shape[1] == feature_size(settings)
    np.testing.assert_allclose(shaped, expected.T, atol=1e-3)


@pytest.mark.parametrize("normalise", ["utterance", "global", "none"])
@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_padding_does_not_change_an_utterances_features(settings, normalise):
    extractor = FeatureExtractor(settings.model_copy(update={"normalise": normalise}))
    short, long = noise(5003), noise(9000, seed=1)
    alone = extractor(short[None], torch.tensor([len(short)]))
    padded = torch.nn.utils.rnn.pad_sequence([short, long], batch_first=True)
    together = extractor(padded, torch.tensor([len(short), len(long)]))
    frames = int(alone.lengths[0])
    assert together.lengths.tolist() == [frames, feature_frames(len(long), settings)]
    torch.testing.assert_close(together.values[0, :frames], alone.values[0], atol=1e-4, rtol=1e-4)
    assert together.values[0, frames:].eq(0).all()


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_utterance_normalisation_gives_zero_mean_and_a_deviation_near_one_over_active_frames(settings):
    """Exactly one for cepstra; mel bins are divided as if a second of speech at large had been heard besides."""
    extractor = FeatureExtractor(settings)
    samples = words(settings.sample_rate)
    energies = extractor.extract(torch.nn.functional.pad(samples, (0, 8000))[None], torch.tensor([len(samples)]))
    loudness = frame_loudness(energies.values[0, : int(energies.lengths[0])])
    level = loudness.sort(descending=True).values[9]  # a tenth of a second is louder
    is_active = loudness >= level - math.log(1000)
    active = extractor.normalise(energies).values[0, : len(loudness)][is_active]
    torch.testing.assert_close(active.mean(0), torch.zeros(feature_size(settings)), atol=1e-2, rtol=0)
    expected = torch.ones(feature_size(settings))
    if isinstance(settings, recipe.LogMel):
        floor = extractor.measure(energies).floor
        own = extractor.shape(energies, floor)[0, : len(loudness)][is_active].std(0, correction=0)
        frames = int(is_active.sum())
        assert frames >= 100  # a second
        expected = own / ((frames * own.square() + 100 * TYPICAL_DEVIATION**2) / (frames + 100)).sqrt()
    torch.testing.assert_close(active.std(0, correction=0), expected, atol=2e-2, rtol=0)


@pytest.mark.parametrize(("seconds", "deviation"), [(0, 2.6), (1, math.sqrt((1 + 2.6**2) / 2)), (1000, 1.0)])
def test_the_fewer_the_active_frames_the_nearer_the_deviation_is_to_that_of_speech_at_large(seconds, deviation):
    variance = drawn_to_typical(np.array([1.0]), 100 * seconds, 0.01)
    np.testing.assert_allclose(np.sqrt(variance), deviation, rtol=3e-3)


def test_a_band_that_a_recording_lacks_says_nothing_of_a_click():
    """Of 8 kHz brought to 16: beyond 4 kHz there is nothing but what the filter lets through of a sudden sound."""
    narrow = words(8000)
    narrow[8000:8008] = 0.5
    wide = torch.from_numpy(soxr.resample(narrow.numpy(), 8000, 16000))
    values = FeatureExtractor(recipe.LogMel())(wide[None], torch.tensor([len(wide)])).values[0]
    lacking = values[:, 65:]  # from 4.7 kHz on
    assert lacking.abs().max() < 5


SILENCES = {
    "digital silence on both sides": lambda speech, rate: torch.nn.functional.pad(speech, (3 * rate, 5 * rate)),
    "-60 dB": lambda speech, _rate: 1e-3 * speech,
    "+10 dB": lambda speech, _rate: 10**0.5 * speech,
    "-40 dB with silence": lambda speech, rate: torch.nn.functional.pad(1e-2 * speech, (3 * rate, 5 * rate)),
    "a faint room's noise": lambda speech, rate: (
        torch.nn.functional.pad(speech, (3 * rate, 5 * rate)) + 1e-6 * noise(len(speech) + 8 * rate, seed=9)
    ),
}


@pytest.mark.parametrize("change", SILENCES.values(), ids=SILENCES)
@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_speech_looks_the_same_at_any_level_and_with_any_silence_around_it(settings, change):
    extractor = FeatureExtractor(settings)
    speech, rate = words(settings.sample_rate), settings.sample_rate
    changed = change(speech, rate)
    alone = extractor(speech[None], torch.tensor([len(speech)])).values[0]
    features = extractor(changed[None], torch.tensor([len(changed)])).values[0]
    before = 300 if len(changed) > len(speech) else 0
    # The deltas at either end reach beyond the speech.
    torch.testing.assert_close(features[before + 4 : before + len(alone) - 4], alone[4:-4], atol=2e-2, rtol=0)


def test_silence_looks_no_stranger_than_a_quiet_room():
    extractor = FeatureExtractor(recipe.LogMel())
    speech = words(16000)
    recording = torch.nn.functional.pad(speech, (48000, 48000))
    silence = extractor(recording[None], torch.tensor([len(recording)])).values[0, :290]
    assert silence.min() > -5
    assert silence.max() < -1


def test_a_click_does_not_set_the_level():
    extractor = FeatureExtractor(recipe.LogMel())
    speech = words(16000)
    clicked = torch.cat([speech, torch.zeros(16000)])
    clicked[-8000:-7900] = 1.0
    alone = extractor(speech[None], torch.tensor([len(speech)])).values[0, :-4]
    features = extractor(clicked[None], torch.tensor([len(clicked)])).values[0, : len(alone)]
    assert (features - alone).abs().mean() < 0.1


def test_global_statistics_are_stored_with_the_weights_and_the_filterbank_is_not():
    stored = FeatureExtractor(recipe.LogMel(normalise="global")).state_dict()
    assert set(stored) == {"mean", "deviation"}
    assert FeatureExtractor(recipe.LogMel()).state_dict() == {}


def test_digital_silence_gives_finite_features():
    features = FeatureExtractor(recipe.LogMel())(torch.zeros(1, 8000), torch.tensor([8000]))
    assert torch.isfinite(features.values).all()


def test_normalise_accepts_features_made_in_the_loader():
    settings = recipe.LogMel(backend="librosa")
    samples = noise(8000)
    values = torch.from_numpy(ReferenceFeatures(settings)(samples.numpy()))[None]
    extractor = FeatureExtractor(settings)
    normalised = extractor.normalise(Features(values=values, lengths=torch.tensor([values.shape[1]])))
    torch.testing.assert_close(
        normalised.values, extractor(samples[None], torch.tensor([8000])).values, atol=1e-3, rtol=1e-3
    )

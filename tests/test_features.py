"""Features: two backends, one set of numbers; padding that leaves no trace."""

import numpy as np
import pytest
import torch

from asr import recipe
from asr.model.features import FeatureExtractor, ReferenceFeatures, feature_frames, feature_size
from asr.records import Features

KINDS = {
    "log_mel": recipe.LogMel(),
    "log_mel_8k": recipe.LogMel(sample_rate=8000, mels=40),
    "mfcc": recipe.Mfcc(kind="mfcc"),
    "mfcc_static": recipe.Mfcc(kind="mfcc", coefficients=20, deltas=False),
}


def noise(samples: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_torchaudio_and_librosa_agree_within_1e_4(settings):
    samples = noise(settings.sample_rate + 123)
    ours = FeatureExtractor(settings).extract(samples[None], torch.tensor([len(samples)]))
    reference = ReferenceFeatures(settings)(samples.numpy())
    assert ours.values.shape[1:] == reference.shape == (feature_frames(len(samples), settings), feature_size(settings))
    np.testing.assert_allclose(ours.values[0].numpy(), reference, atol=1e-4 * np.abs(reference).max())


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


def test_utterance_normalisation_gives_zero_mean_and_unit_variance_over_real_frames():
    extractor = FeatureExtractor(recipe.LogMel())
    features = extractor(torch.nn.functional.pad(noise(16000), (0, 8000))[None], torch.tensor([16000]))
    real = features.values[0, : int(features.lengths[0])]
    torch.testing.assert_close(real.mean(0), torch.zeros(80), atol=1e-4, rtol=0)
    torch.testing.assert_close(real.std(0, correction=0), torch.ones(80), atol=1e-2, rtol=0)


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

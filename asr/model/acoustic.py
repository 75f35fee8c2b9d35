"""The acoustic model: waveforms to CTC emissions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from asr import recipe
from asr.model.emitted import Emitted
from asr.model.encoder import build_encoder
from asr.model.features import FeatureExtractor
from asr.model.silence import audible
from asr.model.spec_augment import augment
from asr.recipe.frames import feature_size
from asr.records import Batch, Features


class AcousticModel(nn.Module):
    """Features, SpecAugment while training, encoder, and a linear CTC head over ``vocabulary`` tokens."""

    def __init__(self, settings: recipe.Recipe, vocabulary: int, encoder: type[nn.Module] | None = None) -> None:
        """``encoder`` is the class of an encoder of kind ``own``. Raises RecipeError as ``build_encoder`` does."""
        super().__init__()
        self.features = FeatureExtractor(settings.features)
        self.spec_augment = settings.augment.spec_augment
        self.encoder = build_encoder(settings.encoder, feature_size(settings.features), encoder)
        self.head = nn.Linear(self.encoder.size, vocabulary)
        self.frame_shift = self.features.hop / settings.features.sample_rate * self.encoder.subsampling

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    def forward(self, batch: Batch) -> Emitted:
        """The batch may lie on another device: it is moved. In evaluation mode, long silence is not read."""
        energies = self.energies(batch)
        features = self.features.normalise(energies)
        if self.training or self.features.settings.normalise != "utterance":
            return self.emit(features)
        heard = audible(self.features, energies, self.encoder.subsampling)
        return heard.spread(self.emit(heard.of(features)), (features.lengths - 1) // self.encoder.subsampling + 1)

    def featurise(self, batch: Batch) -> Features:
        """The normalised features of all of a batch, on the model's device."""
        return self.features.normalise(self.energies(batch))

    def energies(self, batch: Batch) -> Features:
        """Log-mel energies, on the model's device."""
        if batch.features is not None:
            return batch.features.to(self.device)
        waveforms = batch.waveforms.to(self.device, non_blocking=True)
        return self.features.extract(waveforms, batch.waveform_lengths.to(self.device, non_blocking=True))

    def emit(self, features: Features) -> Emitted:
        return self._emitted(*self.encoder(self._augmented(features), features.lengths))

    def emit_tapped(self, features: Features, layer: int) -> tuple[Emitted, Emitted]:
        """As ``emit``, and what the head makes of recurrent layer ``layer``'s encodings, counted from 1."""
        last, middle, lengths = self.encoder.forward_tapped(self._augmented(features), features.lengths, layer)
        return self._emitted(last, lengths), self._emitted(middle, lengths)

    def _augmented(self, features: Features) -> Tensor:
        if not self.training or self.spec_augment is None:
            return features.values
        return augment(features.values, features.lengths, self.spec_augment, self.features.settings.sample_rate)

    def _emitted(self, encodings: Tensor, lengths: Tensor) -> Emitted:
        return Emitted(log_probs=self.classify(encodings), lengths=lengths)

    def classify(self, encodings: Tensor) -> Tensor:
        """Encodings (B, T', size) to log-probabilities (B, T', V) in float32."""
        return functional.log_softmax(self.head(encodings).float(), dim=-1)

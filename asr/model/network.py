"""The acoustic model as a recogniser's network, computed by torch."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch

from asr.audio.streaming import Stream, feed_together
from asr.errors import AsrError
from asr.model.acoustic import AcousticModel
from asr.model.chunks import States, TorchChunks
from asr.model.collation import LoadedUtterance, collate
from asr.model.encoder import Encoder
from asr.model.features import Statistics, loader_features
from asr.records import Emissions


class TorchNetwork:
    """``asr.records.Network`` and ``Streaming``. ``model`` is put into evaluation mode; threads may share it."""

    def __init__(self, model: AcousticModel) -> None:
        self.model = model.eval()
        self.sample_rate = model.features.settings.sample_rate
        self.frame_shift = model.frame_shift
        self._featurise = loader_features(model.features.settings)

    @torch.inference_mode()
    def emit(self, waveforms: Sequence[np.ndarray]) -> Emissions:
        """As ``Network`` says, all in one batch on the model's device."""
        features = [self._featurise(samples) if self._featurise else None for samples in waveforms]
        utterances = [LoadedUtterance(samples=s, features=f) for s, f in zip(waveforms, features, strict=True)]
        log_probs, lengths = self.model(collate(utterances))
        return Emissions(log_probs=log_probs.cpu().numpy(), lengths=lengths.cpu().numpy(), frame_shift=self.frame_shift)

    def stream(self, *, chunk: float, context: float) -> Stream[Statistics, States]:
        """As ``Streaming`` says. Raises AsrError for an encoder of the user's own, whose states nothing here knows."""
        if not isinstance(self.model.encoder, Encoder):
            raise AsrError("an encoder of one's own reads whole recordings alone, so it cannot read live speech")
        return Stream(self._chunks, chunk=chunk, context=context)

    @property
    def batches_streams(self) -> bool:
        """As ``Streaming`` says."""
        return True

    def feed_together(
        self, streams: Sequence[Stream[Statistics, States]], samples: Sequence[np.ndarray], *, last: Sequence[bool]
    ) -> list[np.ndarray | Exception]:
        """As ``Streaming`` says."""
        return feed_together(self._chunks, streams, samples, last)

    @functools.cached_property
    def _chunks(self) -> TorchChunks:
        return TorchChunks(self.model)

"""Long silence is not read: a recurrent network that heard seconds of it says other things of the speech after.

A frame is silent where it is so far below the utterance's level that next to nothing of it is above the features'
floor. Of a run of silent frames that is longer than a pause within speech only the margins next to what is audible are
read. The emissions of the rest are blanks, so that frames and times are those of the whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from asr.audio.levels import DECIBEL, INAUDIBLE, MARGIN_SECONDS, PAUSE_SECONDS, SILENT_DECIBELS
from asr.model.emitted import Emitted
from asr.model.features import FeatureExtractor, frame_loudness, frame_mask
from asr.records import Features, blanks


@dataclass(frozen=True, slots=True, kw_only=True)
class Audible:
    """Which parts of utterances are read: ``kept`` (B, T') bool, an emission frame each, of ``step`` feature frames."""

    kept: Tensor
    step: int

    def of(self, features: Features) -> Features:
        """The features (B, T, F) that are kept, moved together."""
        frames = features.values.shape[1]
        kept = self.kept.repeat_interleave(self.step, dim=1)[:, :frames] & frame_mask(features.lengths, frames)
        lengths = kept.sum(1)
        order = kept.logical_not().to(torch.int8).argsort(dim=1, stable=True)[:, : int(lengths.max())]
        values = features.values.gather(1, order[:, :, None].expand(-1, -1, features.values.shape[2]))
        return Features(values=values * frame_mask(lengths, order.shape[1])[:, :, None], lengths=lengths)

    def spread(self, emissions: Emitted, lengths: Tensor) -> Emitted:
        """Emissions of what was kept, in their places among blanks; ``lengths`` (B,) are the whole's."""
        place = (self.kept.to(torch.int64).cumsum(1) - 1).clamp(min=0)
        log_probs = emissions.log_probs.gather(1, place[:, :, None].expand(-1, -1, emissions.log_probs.shape[2]))
        silence = torch.from_numpy(blanks(1, log_probs.shape[2])).to(log_probs)
        return Emitted(log_probs=torch.where(self.kept[:, :, None], log_probs, silence), lengths=lengths)


def audible(extractor: FeatureExtractor, energies: Features, step: int) -> Audible:
    """What is to be read of utterances, from their log-mel energies (B, T, mels)."""
    shift, frames = extractor.settings.shift, energies.values.shape[1]
    sound = frame_mask(energies.lengths, frames) & ~silent(energies.values, extractor.level(energies)[:, None])
    since, until = _distance(sound), _distance(sound.flip(1)).flip(1)
    margin, pause = round(MARGIN_SECONDS / shift), round(PAUSE_SECONDS / shift)
    kept = (since <= margin) | (until <= margin) | (since + until <= pause + 1)
    kept[:, 0] |= ~sound.any(1)  # the encoder reads something of every utterance
    steps = functional.pad(kept, (0, -frames % step)).view(len(kept), -1, step).any(2)
    return Audible(kept=steps & frame_mask((energies.lengths - 1) // step + 1, steps.shape[1]), step=step)


def silent(energies: Tensor, level: Tensor) -> Tensor:
    """Whether frames (..., T), of log-mel energies (..., T, mels), are silent beside a ``level`` that broadcasts to
    them. Where that is no sound's, all are."""
    return (frame_loudness(energies) < level - SILENT_DECIBELS * DECIBEL) | (level < INAUDIBLE)


def _distance(sound: Tensor) -> Tensor:
    """(B, T): how many frames ago the last sound was, 0 on it; more than any pause where there was none before."""
    place = torch.arange(sound.shape[1], device=sound.device).expand(sound.shape)
    return place - place.masked_fill(~sound, -(1 << 20)).cummax(1).values

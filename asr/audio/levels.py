"""How loud is loud: the levels and durations by which speech is told from silence and features are normalised.

They are part of what a model has learnt from, so every front end, torch's and numpy's, takes them from here.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar, cast

import numpy as np

A = TypeVar("A", bound=Any)
"""numpy's or torch's arrays."""

DECIBEL = math.log(10) / 10
"""In natural log of energy."""
LOG_FLOOR = 1e-16
"""Added to mel energies before the logarithm: far below speech at -60 dB, and above what float32 rounds to."""
FIXED_FLOOR = math.log(1e-6)
"""Of log-mel energies that are not normalised by utterance; about the energy of 16-bit quantisation noise."""
LEVEL_SECONDS = 0.1
"""As much of an utterance is louder than its level: more than a click, and no more than the shortest word."""
ACTIVE_DECIBELS = 30.0
"""Below the level a frame is still active. In clean recordings that is speech alone: their rooms are 40 to 50 dB below
the level."""
UNHEARD_DECIBELS = 75.0
"""Below the level an energy says nothing: it is a band that the recording lacks, or a hole that a codec left."""
FLOOR_DECIBELS = 25.0
"""Below a mel bin's mean over active frames lies its floor. In AN4 and LibriSpeech rooms lie 25 to 35 dB below."""
TYPICAL_DEVIATION = 2.6
"""Of a mel bin's log energies over active frames: the mean over the bins is 2.67 in LibriSpeech and AN4."""
TYPICAL_SECONDS = 1.0
"""An utterance's own variance counts for half where so much of it is active. The few frames of a short word hardly
vary: divided by their own deviation they would look like nothing that was trained on. Nor does a band vary that the
recording lacks: by its own deviation a click in it would be hundreds of them."""
CEPSTRAL_FLOOR = 1e-3
"""Added to the standard deviations of cepstral coefficients, which digital silence leaves at nothing."""

SILENT_DECIBELS = 40.0
"""Below the level a frame is silent."""
INAUDIBLE = -120 * DECIBEL
"""A level below this is digital silence's: 16-bit quantisation noise alone is at -94 dB."""
PAUSE_SECONDS = 1.0
"""Silence that is no longer is read."""
MARGIN_SECONDS = 0.2
"""Of longer silence, what is read before and after what is audible: a word may begin or end softly."""

MEMORY_SECONDS = 15.0
"""Of active frames, which a stream's statistics are those of."""
WARM_UP_SECONDS = 1.2
"""Of active frames that are heard before anything is read."""
LONGEST_WARM_UP_SECONDS = 2.0
"""From the first active frame on: a single word is not to wait for the next."""
RECENT_SECONDS = 5.0
"""In which a stream's level is looked for."""
STEADY_DECIBELS = 4.0
"""Within ``RECENT_SECONDS`` the mean of a frame's energies in dB varies by less in steady noise: by 2.2 in white, pink
and brown noise, by 3 to 4 in rain. Speech varies by 6 or more in white noise 5 dB below it."""
SPEECH_DECIBELS = 15.0
"""What varies by so much is speech; less may be a room that is not quite steady."""
DOUBT_SECONDS = 3.0
"""After which what is not steady is taken for speech, which varies by less in a noise 10 dB below it."""
FADING_DECIBELS = 1.0
"""A second: how fast the level follows speech that is fainter than what was heard before."""


def drawn_to_typical(variance: A, frames: Any, shift: float) -> A:
    """The ``variance`` (..., F) of mel bins over so many active ``frames`` (..., 1), ``shift`` seconds apart, as if
    ``TYPICAL_SECONDS`` of typical speech had been heard besides."""
    typical = TYPICAL_SECONDS / shift
    return cast(A, (frames * variance + typical * TYPICAL_DEVIATION**2) / (frames + typical))


def frame_loudness(energies: np.ndarray) -> np.ndarray:
    """The natural log of each frame's mean mel energy (T,), from log-mel energies (T, mels)."""
    return np.asarray(np.log(np.exp(energies).mean(-1)))


def silent(energies: np.ndarray, level: float) -> np.ndarray:
    """Whether frames (T,), of log-mel energies (T, mels), are silent beside a ``level``. Where that is no sound's, all
    are."""
    if level < INAUDIBLE:
        return np.ones(len(energies), bool)
    return np.asarray(frame_loudness(energies) < np.float32(level - SILENT_DECIBELS * DECIBEL))

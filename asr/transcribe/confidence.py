"""Whether a model's own confidences say that the speech is foreign to it: another language, room or microphone."""

from __future__ import annotations

from asr import recipe
from asr.decode.calibration import log_odds, sigmoid
from asr.records import Transcript

FOREIGN_WORDS = 30
"""Fewer words tell too little."""
FOREIGN_CONFIDENCE = 0.3
"""Mean confidence of the words below which speech counts as foreign. An AN4 model of phones has 0.57 on AN4
itself, 0.23 on LibriSpeech and 0.12 on spoken digits; an English one still in training 0.38 on LibriSpeech."""
FOREIGN_LOG_ODDS = 0.5
"""By how much less than on the dev set, in log odds, where confidences were fitted to one. The built-in English has a
mean of 0.89 on its dev sets: AN4 has 0.94, LibriSpeech 0.87; single digits over a telephone and an English voice of
eSpeak NG 0.79. The model before it, whose mean was 0.86, had 0.76 and 0.72 on German and French voices."""


class Confidence:
    """The mean confidence of the words of many transcripts, from a decoder of this ``calibration``."""

    def __init__(self, calibration: recipe.Calibration | None = None) -> None:
        self.words = 0
        self._sum = 0.0
        self._least = FOREIGN_CONFIDENCE
        if calibration is not None and calibration.mean is not None:
            self._least = sigmoid(log_odds(calibration.mean) - FOREIGN_LOG_ODDS)

    def add(self, transcript: Transcript) -> None:
        self.words += len(transcript.words)
        self._sum += sum(word.confidence for word in transcript.words)

    @property
    def mean(self) -> float:
        """From 0 to 1; 1 where there are no words."""
        return self._sum / self.words if self.words else 1.0

    @property
    def is_foreign(self) -> bool:
        return self.words >= FOREIGN_WORDS and self.mean < self._least

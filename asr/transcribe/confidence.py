"""Whether a model's own confidences say that the speech is foreign to it: another language, room or microphone."""

from __future__ import annotations

from asr.records import Transcript

FOREIGN_WORDS = 30
"""Fewer words tell too little."""
FOREIGN_CONFIDENCE = 0.3
"""Mean confidence of the words below which speech counts as foreign. An AN4 model of phones has 0.57 on AN4
itself, 0.23 on LibriSpeech and 0.12 on spoken digits; an English one still in training 0.38 on LibriSpeech."""


class Confidence:
    """The mean confidence of the words of many transcripts."""

    def __init__(self) -> None:
        self.words = 0
        self._sum = 0.0

    def add(self, transcript: Transcript) -> None:
        self.words += len(transcript.words)
        self._sum += sum(word.confidence for word in transcript.words)

    @property
    def mean(self) -> float:
        """From 0 to 1; 1 where there are no words."""
        return self._sum / self.words if self.words else 1.0

    @property
    def is_foreign(self) -> bool:
        return self.words >= FOREIGN_WORDS and self.mean < FOREIGN_CONFIDENCE

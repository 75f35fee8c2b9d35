"""A model that is unsure of many words says that the speech is foreign to it."""

from __future__ import annotations

import pytest

from asr import recipe
from asr.records import Segment, Transcript, Word
from asr.transcribe.confidence import FOREIGN_CONFIDENCE, FOREIGN_WORDS, Confidence


def transcript(words: int, confidence: float) -> Transcript:
    said = tuple(Word(text="a", start=0.0, end=0.1, confidence=confidence) for _ in range(words))
    return Transcript(segments=(Segment(text="", start=0.0, end=1.0, words=said),), duration=1.0)


@pytest.mark.parametrize(
    ("words", "confidence", "foreign"),
    [
        (FOREIGN_WORDS, FOREIGN_CONFIDENCE - 0.01, True),
        (FOREIGN_WORDS - 1, FOREIGN_CONFIDENCE - 0.01, False),
        (FOREIGN_WORDS, FOREIGN_CONFIDENCE + 0.01, False),
        (0, 0.0, False),
    ],
)
def test_speech_is_foreign_where_many_words_have_a_low_mean_confidence(words, confidence, foreign):
    heard = Confidence()
    heard.add(transcript(words, confidence))
    assert heard.is_foreign is foreign


@pytest.mark.parametrize(("confidence", "foreign"), [(0.69, True), (0.73, False)])
def test_calibrated_confidences_are_foreign_where_they_lie_below_the_dev_sets(confidence, foreign):
    heard = Confidence(recipe.Calibration(mean=0.8))  # log odds 1.39; 0.71 has half a unit less
    heard.add(transcript(FOREIGN_WORDS, confidence))
    assert heard.is_foreign is foreign


def test_the_mean_is_over_words_and_not_over_recordings():
    heard = Confidence()
    heard.add(transcript(30, 0.2))
    heard.add(transcript(10, 1.0))
    assert heard.mean == pytest.approx(0.4)

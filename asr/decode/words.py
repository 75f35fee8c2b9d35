"""Hypotheses to words: where each is said, and how sure of it the network is."""

from __future__ import annotations

import math
from collections.abc import Sequence

from asr import recipe
from asr.audio.loudness import Loudness
from asr.decode.calibration import confidence
from asr.records import Hypothesis, Word
from asr.text.tokenise import Tokeniser

Spelling = list[tuple[str, int, float]]
"""A word's tokens: text, frame, probability."""
TAIL = 0.1
"""Seconds that a word goes on for after the frame of its last token, if the next one leaves it the time and its sound
is not heard to end: a network of CTC writes a token once it is sure of it, and is silent for the rest of its sound."""


def words_of(
    hypothesis: Hypothesis,
    tokeniser: Tokeniser,
    frame_shift: float,
    offset: float = 0.0,
    calibration: recipe.Calibration | None = None,
    loudness: Loudness | None = None,
) -> tuple[Word, ...]:
    """The hypothesis's words. A word begins with its first token's frame and goes on after its last's until its sound
    ends, where the utterance's ``loudness`` tells that, or for ``TAIL`` seconds; up to the next word and to the
    utterance's end. Its confidence is the product of its tokens' probabilities: that all are right, as far as the
    network can tell; or what ``calibration`` makes of that. Frame shift and offset are seconds."""
    spelled = spellings(hypothesis, tokeniser)
    texts = ["".join(text for text, _, _ in word) for word in spelled]
    if hypothesis.spans is not None:
        texts = hypothesis.text.split()
    ends = [
        end_of(word[0][1] * frame_shift, last_sound(word, frame_shift), limit * frame_shift, loudness)
        for word, limit in zip(spelled, _limits(spelled, hypothesis.length), strict=True)
    ]
    return tuple(
        Word(
            text=text,
            start=round(offset + word[0][1] * frame_shift, 3),
            end=round(offset + end, 3),
            confidence=round(confidence([probability for _, _, probability in word], calibration), 4),
        )
        for text, word, end in zip(texts, spelled, ends, strict=True)
    )


def last_sound(word: Spelling, frame_shift: float) -> float:
    """When the frame of a word's last token is over, in seconds of the utterance."""
    return (word[-1][1] + 1) * frame_shift


def end_of(begin: float, heard: float, limit: float, loudness: Loudness | None = None) -> float:
    """When a word ends that begins at ``begin`` and whose last token is over at ``heard``; no later than ``limit``, the
    next word or the end of all. In seconds."""
    end = loudness.end_of_sound(begin, heard, limit) if loudness else None
    return min(heard + TAIL, limit) if end is None else min(end, limit)


def _limits(spelled: Sequence[Spelling], length: int | None) -> list[float]:
    """The frame up to which each word may go on: the next one's first or, for the last, that with which what was heard
    ends (S samples are S // (frame) + 1 frames)."""
    if not spelled:
        return []
    last = math.inf if length is None else max(spelled[-1][-1][1] + 1, length - 1)
    return [*(word[0][1] for word in spelled[1:]), last]


def spellings(hypothesis: Hypothesis, tokeniser: Tokeniser) -> list[Spelling]:
    """The tokens of each word of a hypothesis."""
    if hypothesis.spans is not None:
        facts = list(
            zip(
                [tokeniser.tokens[token] for token in hypothesis.tokens],
                hypothesis.frames,
                hypothesis.probabilities,
                strict=True,
            )
        )
        return [facts[start:end] for start, end in hypothesis.spans]
    words: list[Spelling] = []
    spelling: Spelling = []

    def close() -> None:
        if spelling:
            words.append(spelling.copy())
        spelling.clear()

    for token, frame, probability in zip(hypothesis.tokens, hypothesis.frames, hypothesis.probabilities, strict=True):
        before, boundary, after = tokeniser.tokens[token].rpartition(tokeniser.space)
        if boundary:
            if before:
                spelling.append((before, frame, probability))
            close()
        if after:
            spelling.append((after, frame, probability))
    close()
    return words

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
    """The hypothesis's words. A word begins with its sound, where the utterance's ``loudness`` tells that, or with its
    first token's frame, and goes on after its last's until its sound ends, or for ``TAIL`` seconds; up to the next word
    and to the utterance's end. Its confidence is the product of its tokens' probabilities: that all are right, as far
    as the network can tell; or what ``calibration`` makes of that. Frame shift and offset are seconds."""
    spelled = spellings(hypothesis, tokeniser)
    texts = ["".join(text for text, _, _ in word) for word in spelled]
    if hypothesis.spans is not None:
        texts = hypothesis.text.split()
    starts = [
        start_of(word[0][1] * frame_shift, last_sound(word, frame_shift), after, loudness)
        for word, after in zip(spelled, [0.0, *(last_sound(word, frame_shift) for word in spelled)], strict=False)
    ]
    limits = [*starts[1:], _limit(spelled, hypothesis.length) * frame_shift]
    ends = [
        end_of(start, last_sound(word, frame_shift), limit, loudness)
        for start, word, limit in zip(starts, spelled, limits, strict=False)
    ]
    return tuple(
        Word(
            text=text,
            start=round(offset + start, 3),
            end=round(offset + end, 3),
            confidence=round(confidence([probability for _, _, probability in word], calibration), 4),
        )
        for text, word, start, end in zip(texts, spelled, starts, ends, strict=True)
    )


def last_sound(word: Spelling, frame_shift: float) -> float:
    """When the frame of a word's last token is over, in seconds of the utterance."""
    return (word[-1][1] + 1) * frame_shift


def start_of(
    heard: float, over: float, after: float, loudness: Loudness | None = None, *, otherwise: float | None = None
) -> float:
    """When a word begins whose first token is at ``heard`` and whose last is over at ``over``; not before ``after``,
    when the last token before it is over. Where its sound is not heard to begin, ``otherwise``, by default with that
    token. In seconds."""
    begin = loudness.begin_of_sound(heard, over, after) if loudness else None
    if begin is None:
        return heard if otherwise is None else otherwise
    return max(begin, after)


def end_of(begin: float, heard: float, limit: float, loudness: Loudness | None = None) -> float:
    """When a word ends that begins at ``begin`` and whose last token is over at ``heard``; no later than ``limit``, the
    next word or the end of all. In seconds."""
    end = loudness.end_of_sound(begin, heard, limit) if loudness else None
    return min(heard + TAIL, limit) if end is None else min(end, limit)


def _limit(spelled: Sequence[Spelling], length: int | None) -> float:
    """The frame up to which the last word may go on: that with which what was heard ends (S samples are S // (frame) +
    1 frames)."""
    return math.inf if length is None or not spelled else max(spelled[-1][-1][1] + 1, length - 1)


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

"""Hypotheses to words: where each is said, and how sure of it the network is."""

from __future__ import annotations

import math
from collections.abc import Sequence

from asr import recipe
from asr.decode.calibration import confidence
from asr.records import Hypothesis, Word
from asr.text.tokenise import Tokeniser

Spelling = list[tuple[str, int, float]]
"""A word's tokens: text, frame, probability."""
TAIL = 0.1
"""Seconds that a word goes on for after the frame of its last token, if the next one leaves it the time: a network of
CTC writes a token once it is sure of it, and is silent for the rest of its sound."""


def words_of(
    hypothesis: Hypothesis,
    tokeniser: Tokeniser,
    frame_shift: float,
    offset: float = 0.0,
    calibration: recipe.Calibration | None = None,
) -> tuple[Word, ...]:
    """The hypothesis's words. A word spans its first token's frame to its last's and ``TAIL`` seconds more, up to the
    next word and to the utterance's end; its confidence is the product of its tokens' probabilities: that all are
    right, as far as the network can tell; or what ``calibration`` makes of that. Frame shift and offset are seconds."""
    spelled = spellings(hypothesis, tokeniser)
    texts = ["".join(text for text, _, _ in word) for word in spelled]
    if hypothesis.spans is not None:
        texts = hypothesis.text.split()
    return tuple(
        Word(
            text=text,
            start=round(offset + word[0][1] * frame_shift, 3),
            end=round(offset + min(own_end(word, frame_shift), limit * frame_shift), 3),
            confidence=round(confidence([probability for _, _, probability in word], calibration), 4),
        )
        for text, word, limit in zip(texts, spelled, _limits(spelled, hypothesis.length), strict=True)
    )


def own_end(word: Spelling, frame_shift: float) -> float:
    """When a word ends, in seconds of the utterance, if neither another word nor the utterance's end comes first."""
    return (word[-1][1] + 1) * frame_shift + TAIL


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

"""Hypotheses to words: where each is said, and how sure of it the network is."""

from __future__ import annotations

from asr import recipe
from asr.decode.calibration import confidence
from asr.records import Hypothesis, Word
from asr.text.tokenise import Tokeniser


def words_of(
    hypothesis: Hypothesis,
    tokeniser: Tokeniser,
    frame_shift: float,
    offset: float = 0.0,
    calibration: recipe.Calibration | None = None,
) -> tuple[Word, ...]:
    """The hypothesis's words. A word spans its first to its last token's frame; its confidence is the product of its
    tokens' probabilities: that all are right, as far as the network can tell; or what ``calibration`` makes of that.
    Frame shift and offset are seconds."""
    spelled = spellings(hypothesis, tokeniser)
    texts = ["".join(text for text, _, _ in word) for word in spelled]
    if hypothesis.spans is not None:
        texts = hypothesis.text.split()
    return tuple(
        Word(
            text=text,
            start=round(offset + word[0][1] * frame_shift, 3),
            end=round(offset + (word[-1][1] + 1) * frame_shift, 3),
            confidence=round(confidence([probability for _, _, probability in word], calibration), 4),
        )
        for text, word in zip(texts, spelled, strict=True)
    )


def spellings(hypothesis: Hypothesis, tokeniser: Tokeniser) -> list[list[tuple[str, int, float]]]:
    """Each word's tokens: text, frame, probability."""
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
    words: list[list[tuple[str, int, float]]] = []
    spelling: list[tuple[str, int, float]] = []

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

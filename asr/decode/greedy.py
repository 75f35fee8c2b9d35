"""Best-path decoding (Graves et al. 2006, section 3.2): each frame's likeliest token, repeats merged, no blanks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from asr.records import BLANK, Emissions, Hypothesis, Word
from asr.text.tokenise import Tokeniser


def decode_greedy(emissions: Emissions, tokeniser: Tokeniser) -> list[Hypothesis]:
    """One hypothesis an utterance, batch order. A token's frame is where its run peaks, its probability that peak's."""
    best, ids = emissions.log_probs.max(dim=-1)
    hypotheses = []
    for scores, path, length in zip(best.tolist(), ids.tolist(), emissions.lengths.tolist(), strict=True):
        tokens: list[int] = []
        frames: list[int] = []
        previous = BLANK
        for frame in range(length):
            token = path[frame]
            if token != BLANK:
                if token != previous:
                    tokens.append(token)
                    frames.append(frame)
                elif scores[frame] > scores[frames[-1]]:
                    frames[-1] = frame
            previous = token
        hypotheses.append(
            Hypothesis(
                tokens=tuple(tokens),
                frames=tuple(frames),
                probabilities=tuple(math.exp(scores[frame]) for frame in frames),
                text=tokeniser.decode(tokens),
                acoustic_score=sum(scores[:length]),
            )
        )
    return hypotheses


def words_of(hypothesis: Hypothesis, tokeniser: Tokeniser, frame_shift: float, offset: float = 0.0) -> tuple[Word, ...]:
    """The hypothesis's words. A word spans its first to its last token's frame; its confidence is the product of its
    tokens' probabilities: that all are right, as far as the network can tell. Frame shift and offset are seconds."""
    words: list[Word] = []
    spelling: list[tuple[str, int, float]] = []

    def close() -> None:
        if spelling:
            confidence = math.prod(probability for _, _, probability in spelling)
            words.append(
                Word(
                    text="".join(text for text, _, _ in spelling),
                    start=round(offset + spelling[0][1] * frame_shift, 3),
                    end=round(offset + (spelling[-1][1] + 1) * frame_shift, 3),
                    confidence=round(min(1.0, confidence), 4),
                )
            )
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
    return tuple(words)


def blank_rate(emissions: Emissions) -> Tensor:
    """Share of real frames whose likeliest token is the blank, as a scalar tensor on the emissions' device."""
    log_probs, lengths = emissions.log_probs.detach(), emissions.lengths
    real = torch.arange(log_probs.shape[1], device=log_probs.device)[None, :] < lengths[:, None]
    return (log_probs.argmax(-1).eq(BLANK) & real).sum() / lengths.sum()

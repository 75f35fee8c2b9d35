"""Best-path decoding (Graves et al. 2006, section 3.2): each frame's likeliest token, repeats merged, no blanks."""

from __future__ import annotations

import math

import numpy as np

from asr.decode.checks import checked, checked_frames
from asr.records import BLANK, Emissions, Hypothesis
from asr.text.tokenise import PhoneTokeniser, Tokeniser


def decode_greedy(emissions: Emissions, tokeniser: Tokeniser) -> list[Hypothesis]:
    """One hypothesis an utterance, batch order. A token's frame is where its run peaks, its probability that peak's.

    Raises EmissionsError where emissions are not of the tokeniser's tokens, or no log probabilities.
    """
    hypotheses = []
    for log_probs, length in zip(*checked(emissions, tokeniser), strict=True):
        search = GreedySearch(tokeniser)
        search.follow(log_probs[:length])
        hypotheses.append(search.best())
    return hypotheses


class GreedyDecoder:
    """Emissions to n-best lists of one."""

    calibration = None

    def __init__(self, tokeniser: Tokeniser) -> None:
        self.tokeniser = tokeniser

    def __call__(self, emissions: Emissions) -> list[tuple[Hypothesis, ...]]:
        return [(hypothesis,) for hypothesis in decode_greedy(emissions, self.tokeniser)]

    def begin(self) -> GreedySearch:
        return GreedySearch(self.tokeniser)


class GreedySearch:
    """One utterance's best path, followed as its frames come."""

    revises = False

    def __init__(self, tokeniser: Tokeniser) -> None:
        self._tokeniser = tokeniser
        self._tokens: list[int] = []
        self._frames: list[int] = []
        self._peaks: list[float] = []
        self._previous, self._read, self._score = BLANK, 0, 0.0

    def feed(self, log_probs: np.ndarray) -> None:
        """Reads (T', V) emissions more. Raises EmissionsError as the decoder does."""
        self.follow(checked_frames(log_probs, self._tokeniser))

    def follow(self, log_probs: np.ndarray) -> None:
        """As ``feed``, of emissions that are known to be in order."""
        path = log_probs.argmax(axis=1).tolist()
        scores = log_probs.max(axis=1).tolist()
        for frame, (token, score) in enumerate(zip(path, scores, strict=True), start=self._read):
            if token != BLANK:
                if token != self._previous:
                    self._tokens.append(token)
                    self._frames.append(frame)
                    self._peaks.append(score)
                elif score > self._peaks[-1]:
                    self._frames[-1], self._peaks[-1] = frame, score
            self._previous = token
        self._read += len(path)
        self._score += sum(scores)

    def best(self) -> Hypothesis:
        """The reading of the frames so far."""
        return Hypothesis(
            tokens=tuple(self._tokens),
            frames=tuple(self._frames),
            probabilities=tuple(map(math.exp, self._peaks)),
            text=self._tokeniser.decode(self._tokens),
            acoustic_score=self._score,
            spans=self._spans(),
            length=self._read,
        )

    def _spans(self) -> tuple[tuple[int, int], ...] | None:
        """Each phone is what a word is elsewhere: which words sound so is not known."""
        if not isinstance(self._tokeniser, PhoneTokeniser):
            return None
        spelled = [self._tokeniser.tokens[token] for token in self._tokens]
        return tuple((i, i + 1) for i, phone in enumerate(spelled) if phone != self._tokeniser.space)

    def conclude(self) -> Hypothesis:
        """The reading of the whole utterance: there is no better one."""
        return self.best()

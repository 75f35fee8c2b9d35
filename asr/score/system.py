"""Scores: one system's transcripts of a set, aligned with what was said, utterance by utterance.

``asr score`` makes them of anybody's transcripts and ``asr evaluate`` of our recogniser's; the report shows either.
"""

from __future__ import annotations

import functools
import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from asr.records import ErrorCounts
from asr.score import significance
from asr.score.edits import Alignment, align_words, character_errors, count, error_slots
from asr.score.forms import Line
from asr.score.graphs import WordGraph, align
from asr.score.significance import Interval

DURATION_BANDS = (0.0, 2.0, 5.0, 10.0, 20.0, float("inf"))
"""Seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredLine:
    """One utterance: its line of the reference, normalised, and a system's words aligned with it; both counts; the
    ``slots`` that its errors stand in (``edits.error_slots``), which every system's alignment with one reference has
    alike; the ``confidences`` of the hypothesis's words, where the system tells them."""

    line: Line
    hypothesis: str
    alignment: Alignment
    slots: np.ndarray
    words: ErrorCounts
    characters: ErrorCounts
    confidences: tuple[float, ...] = ()

    @property
    def duration_band(self) -> str:
        """ "2 to 5 s"; empty where the duration is not known."""
        seconds = self.line.duration
        if seconds is None:
            return ""
        low, high = next(band for band in itertools.pairwise(DURATION_BANDS) if band[0] <= seconds < band[1])
        return f"{low:g} to {high:g} s" if high < float("inf") else f"over {low:g} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The utterances of one speaker, say: how many they are and their pooled word errors."""

    utterances: int
    words: ErrorCounts


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A system's score, utterance by utterance in the reference's order."""

    name: str
    utterances: tuple[ScoredLine, ...]

    @property
    def words(self) -> ErrorCounts:
        return sum((u.words for u in self.utterances), ErrorCounts())

    @property
    def characters(self) -> ErrorCounts:
        return sum((u.characters for u in self.utterances), ErrorCounts())

    @property
    def errors(self) -> np.ndarray:
        """Word errors (N,)."""
        return np.array([u.words.errors for u in self.utterances])

    @property
    def lengths(self) -> np.ndarray:
        """Reference words (N,)."""
        return np.array([u.words.reference_length for u in self.utterances])

    @property
    def speakers(self) -> list[str] | None:
        """Each utterance's, where all are known."""
        speakers = [u.line.speaker for u in self.utterances]
        return speakers if all(speakers) else None

    def interval(self) -> Interval | None:
        """The WER's 95 % interval by utterance; None for too few."""
        return significance.rate_interval(self.errors, self.lengths)

    def interval_by_speaker(self) -> Interval | None:
        """The WER's 95 % interval by speaker; None where they are not known or too few."""
        speakers = self.speakers
        return significance.rate_interval(self.errors, self.lengths, speakers) if speakers else None

    def worst(self) -> list[ScoredLine]:
        """The utterances that have word errors, the most first."""
        wrong = (u for u in self.utterances if u.words.errors)
        return sorted(wrong, key=lambda u: (-u.words.errors, -u.words.rate, u.line.id))

    def groups(self) -> dict[str, dict[str, Group]]:
        """Word errors by "corpus", "speaker", "duration" and "noise", each where the reference tells."""
        kinds: dict[str, Callable[[ScoredLine], str]] = {
            "corpus": lambda u: u.line.corpus,
            "speaker": lambda u: u.line.speaker,
            "duration": lambda u: u.duration_band,
            "noise": lambda u: u.line.noise,
        }
        by_duration = sorted(self.utterances, key=lambda u: u.line.duration or 0.0)
        groups: dict[str, dict[str, Group]] = {}
        for kind, label in kinds.items():
            members: dict[str, list[ScoredLine]] = defaultdict(list)
            for utterance in by_duration if kind == "duration" else self.utterances:
                members[label(utterance)].append(utterance)
            if set(members) != {""}:
                groups[kind] = {
                    name or "not known": Group(utterances=len(some), words=sum((u.words for u in some), ErrorCounts()))
                    for name, some in members.items()
                }
        return groups


def aligned(
    name: str, lines: Sequence[Line], hypotheses: Sequence[str], confidences: Sequence[tuple[float, ...]] | None = None
) -> System:
    """The score of a system's ``hypotheses`` for the ``lines``, all normalised already."""
    alignments = align_words([line.text for line in lines], hypotheses)
    return System(
        name=name,
        utterances=tuple(
            ScoredLine(
                line=line,
                hypothesis=hypothesis,
                alignment=alignment,
                slots=error_slots(alignment),
                words=count(alignment),
                characters=character_errors([line.text], [hypothesis]),
                confidences=trusted,
            )
            for line, hypothesis, alignment, trusted in zip(
                lines, hypotheses, alignments, confidences or [()] * len(lines), strict=True
            )
        ),
    )


def aligned_graphs(
    name: str,
    lines: Sequence[Line],
    references: Sequence[WordGraph],
    hypotheses: Sequence[WordGraph],
    *,
    fragments: bool = False,
) -> System:
    """The score of hypotheses in NIST's notation for the ``lines``, as sclite counts it. Each line's text becomes the
    reading of its reference that the hypothesis was counted against."""
    return System(
        name=name, utterances=tuple(map(functools.partial(_scored, fragments), lines, references, hypotheses))
    )


def _scored(fragments: bool, line: Line, reference: WordGraph, hypothesis: WordGraph) -> ScoredLine:
    found = align(reference, hypothesis, fragments=fragments)
    said = " ".join(filter(None, (e.hypothesis if e.forgiven else e.reference for e in found.edits)))
    heard = " ".join(filter(None, (e.hypothesis for e in found.edits)))
    return ScoredLine(
        line=replace(line, text=said),
        hypothesis=heard,
        alignment=found.edits,
        slots=found.slots,
        words=count(found.edits),
        characters=character_errors([said], [heard]),
    )

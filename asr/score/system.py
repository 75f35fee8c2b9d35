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
from asr.score.edits import Alignment, Unit, align_words, character_errors, count, error_slots, unit_of
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

    def counts(self, unit: Unit) -> ErrorCounts:
        return self.words if unit == "word" else self.characters

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
    """The utterances of one speaker, say: how many they are and their pooled errors."""

    utterances: int
    words: ErrorCounts
    characters: ErrorCounts

    def counts(self, unit: Unit) -> ErrorCounts:
        return self.words if unit == "word" else self.characters


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A system's score, utterance by utterance in the reference's order. ``unit`` is what its headline counts:
    characters where the language is written without spaces between words; spaces are then none of them."""

    name: str
    utterances: tuple[ScoredLine, ...]
    unit: Unit = "word"

    @property
    def words(self) -> ErrorCounts:
        return sum((u.words for u in self.utterances), ErrorCounts())

    @property
    def characters(self) -> ErrorCounts:
        return sum((u.characters for u in self.utterances), ErrorCounts())

    def counts(self, unit: Unit) -> ErrorCounts:
        return self.words if unit == "word" else self.characters

    @property
    def rate_name(self) -> str:
        """Of the headline."""
        return "WER" if self.unit == "word" else "CER"

    def errors_in(self, unit: Unit) -> tuple[np.ndarray, np.ndarray]:
        """Errors (N,) and the reference's units (N,) of each utterance."""
        counts = [u.counts(unit) for u in self.utterances]
        return np.array([c.errors for c in counts]), np.array([c.reference_length for c in counts])

    @property
    def errors(self) -> np.ndarray:
        """Word errors (N,)."""
        return self.errors_in("word")[0]

    @property
    def lengths(self) -> np.ndarray:
        """Reference words (N,)."""
        return self.errors_in("word")[1]

    @property
    def speakers(self) -> list[str] | None:
        """Each utterance's, where all are known."""
        speakers = [u.line.speaker for u in self.utterances]
        return speakers if all(speakers) else None

    def interval(self, unit: Unit = "word") -> Interval | None:
        """The 95 % interval of the WER, or of the CER, by utterance; None for too few."""
        return significance.rate_interval(*self.errors_in(unit))

    def interval_by_speaker(self, unit: Unit = "word") -> Interval | None:
        """As ``interval``, by speaker; None where they are not known or too few."""
        return significance.rate_interval(*self.errors_in(unit), self.speakers) if self.speakers else None

    def summary(self, *, by_speaker: bool = False) -> str:
        """The headline rate with its interval, then the other: "WER 5.00% [4.10%, 6.20%]  CER 1.20%"."""
        ends = [self.interval(self.unit), self.interval_by_speaker(self.unit) if by_speaker else None]
        first, speakers = (f"[{end.low:.2%}, {end.high:.2%}]" if end else "" for end in ends)
        headline = f"{self.counts(self.unit).rate:.2%} {first or '[too few for an interval]'}"
        headline += f", by speaker {speakers}" if speakers else ""
        if self.unit == "word":
            return f"WER {headline}  CER {self.characters.rate:.2%}"
        return f"CER {headline}  WER {self.words.rate:.2%}"

    def worst(self) -> list[ScoredLine]:
        """The utterances that have errors of the headline's unit, the most first."""
        counted = [(u.counts(self.unit), u) for u in self.utterances]
        wrong = [(counts, u) for counts, u in counted if counts.errors]
        return [u for _, u in sorted(wrong, key=lambda pair: (-pair[0].errors, -pair[0].rate, pair[1].line.id))]

    def groups(self) -> dict[str, dict[str, Group]]:
        """Errors by "corpus", "speaker", "duration" and "noise", each where the reference tells."""
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
                    name or "not known": Group(
                        utterances=len(some),
                        words=sum((u.words for u in some), ErrorCounts()),
                        characters=sum((u.characters for u in some), ErrorCounts()),
                    )
                    for name, some in members.items()
                }
        return groups


def aligned(
    name: str, lines: Sequence[Line], hypotheses: Sequence[str], confidences: Sequence[tuple[float, ...]] | None = None
) -> System:
    """The score of a system's ``hypotheses`` for the ``lines``, all normalised already."""
    alignments = align_words([line.text for line in lines], hypotheses)
    unit = unit_of(line.text for line in lines)
    return System(
        name=name,
        unit=unit,
        utterances=tuple(
            ScoredLine(
                line=line,
                hypothesis=hypothesis,
                alignment=alignment,
                slots=error_slots(alignment),
                words=count(alignment),
                characters=_character_errors(line.text, hypothesis, unit),
                confidences=trusted,
            )
            for line, hypothesis, alignment, trusted in zip(
                lines, hypotheses, alignments, confidences or [()] * len(lines), strict=True
            )
        ),
    )


def _character_errors(said: str, heard: str, unit: Unit) -> ErrorCounts:
    if unit == "character":
        said, heard = "".join(said.split()), "".join(heard.split())
    return character_errors([said], [heard])


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
    unit = unit_of(" ".join(arc.word for arc in graph.arcs) for graph in references)
    scored = map(functools.partial(_scored, fragments, unit), lines, references, hypotheses)
    return System(name=name, utterances=tuple(scored), unit=unit)


def _scored(fragments: bool, unit: Unit, line: Line, reference: WordGraph, hypothesis: WordGraph) -> ScoredLine:
    found = align(reference, hypothesis, fragments=fragments)
    said = " ".join(filter(None, (e.hypothesis if e.forgiven else e.reference for e in found.edits)))
    heard = " ".join(filter(None, (e.hypothesis for e in found.edits)))
    return ScoredLine(
        line=replace(line, text=said),
        hypothesis=heard,
        alignment=found.edits,
        slots=found.slots,
        words=count(found.edits),
        characters=_character_errors(said, heard, unit),
    )

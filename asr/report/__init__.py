"""The report: one HTML file that says how a system errs, and opens anywhere, offline.

It loads nothing and runs nothing: no scripts, no fonts, no links out, which its content security policy forbids too.
Sounds and pictures are in it.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr import files
from asr.decode.calibration import Reliability
from asr.report import figures
from asr.report.pages import public_name, render
from asr.report.reliability import reliability_figure
from asr.score.compare import Comparison
from asr.score.edits import Edit, Unit, align_characters
from asr.score.system import ScoredLine, System

if TYPE_CHECKING:
    from asr.report.clips import Clip

MOST_CONFUSED = 15
OPEN = 20
"""Utterances shown at once; the others are folded away."""
DISPUTED = 20
"""Utterances shown side by side that one system has right and another wrong."""
FOLDED = 100
"""Utterances in a fold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """One unit recognised for another, ``count`` times; an empty one where nothing was said, or recognised."""

    reference: str
    hypothesis: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """An utterance: its words in runs, each whether right and its edits, and what is to be heard and seen of it."""

    utterance: ScoredLine
    runs: tuple[tuple[bool, tuple[Edit, ...]], ...]
    clip: Clip | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """Utterances in a row, by falling number of errors in ``unit``; ``first`` is the place of the first among all, from
    1."""

    shown: tuple[Shown, ...]
    unit: Unit
    first: int
    open: bool

    @property
    def title(self) -> str:
        """ "Utterances 21 to 120: 1 to 3 errors each"."""
        counts = [each.utterance.counts(self.unit).errors for each in self.shown]
        low, high = min(counts), max(counts)
        if self.open:
            return ("For comparison, without error" if self.first > 1 else "Without error") if high == 0 else ""
        many = "without error" if high == 0 else "1 error each" if high == 1 else f"{_span(low, high)} errors each"
        return f"Utterances {_span(self.first, self.first + len(self.shown) - 1)}: {many}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispute:
    """The ``count`` utterances that the system ``right`` has without error and ``wrong`` has not, and ``shown``, those
    of them with the most errors, as ``wrong`` reads them."""

    right: str
    wrong: str
    count: int
    shown: tuple[ScoredLine, ...]


def write_report(
    path: Path,
    title: str,
    systems: Sequence[System],
    *,
    comparisons: Sequence[Comparison] = (),
    facts: Sequence[str] = (),
    reliability: Reliability | None = None,
    clips: Sequence[Mapping[str, Clip]] = (),
) -> None:
    """Writes the page: a section a system (or a set), after ``facts`` about them all, a sentence each; for each system
    the ``clips`` by utterance id, where there are any."""
    page = render(
        "page.html",
        title=title,
        facts=facts,
        comparisons=[str(comparison) for comparison in comparisons],
        disputes=list(_disputes(systems)) if comparisons else None,
        sections=[
            _section(system, number, some)
            for number, (system, some) in enumerate(zip(systems, clips or [{}] * len(systems), strict=True))
        ],
        calibration=figures.as_svg(reliability_figure(reliability), "calibration") if reliability else "",
        calibration_error=reliability.error if reliability else 0.0,
        calibration_words=int(reliability.counts.sum()) if reliability else 0,
    )
    with files.replacing(path) as file:
        file.write(page)


def _disputes(systems: Sequence[System]) -> Iterator[Dispute]:
    """Of two systems and more over the same utterances, the first against each other one, both ways round."""
    for other in systems[1:]:
        for one, two in ((systems[0], other), (other, systems[0])):
            right = {u.line.id for u in one.utterances if not u.counts(one.unit).errors}
            disputed = [u for u in two.worst() if u.line.id in right]
            yield Dispute(right=one.name, wrong=two.name, count=len(disputed), shown=tuple(disputed[:DISPUTED]))


def confused_words(system: System, kind: str) -> list[Confusion]:
    """The most frequent errors of a kind: "substitution", "deletion" or "insertion"."""
    edits = (edit for u in system.utterances for edit in u.alignment if edit.kind == kind)
    return _most(Counter(edits))


def confused_characters(system: System) -> list[Confusion]:
    """The most frequent errors of characters of any kind, in the utterances that have errors."""
    wrong = system.worst()
    alignments = align_characters([u.line.text for u in wrong], [u.hypothesis for u in wrong])
    return _most(Counter(edit for edits in alignments for edit in edits if edit.kind != "hit"))


def _most(edits: Counter[Edit]) -> list[Confusion]:
    ordered = sorted(edits.items(), key=lambda item: (-item[1], item[0].reference, item[0].hypothesis))
    return [
        Confusion(reference=edit.reference, hypothesis=edit.hypothesis, count=count)
        for edit, count in ordered[:MOST_CONFUSED]
    ]


def _section(system: System, number: int, clips: Mapping[str, Clip]) -> dict[str, Any]:
    """What the template shows of one system."""
    plots = {
        "by speaker": figures.by_speaker(system),
        "by duration": figures.by_duration(system),
    }
    return {
        "number": number,
        "system": system,
        "name": public_name(system.name),
        "interval": system.interval(system.unit),
        "interval_by_speaker": system.interval_by_speaker(system.unit),
        "plots": {
            name: figures.as_svg(figure, f"{name} {number}") for name, figure in plots.items() if figure is not None
        },
        "confused": {
            **(_confused_words(system) if system.unit == "word" else {}),
            "Characters": confused_characters(system),
        },
        "folds": list(_folds(system, clips)),
        "clips": len(clips),
        "pictures": sum(1 for clip in clips.values() if clip.picture),
        "right": len(system.utterances) - len(system.worst()),
    }


def _confused_words(system: System) -> dict[str, list[Confusion]]:
    return {
        "Words confused": confused_words(system, "substitution"),
        "Words left out": confused_words(system, "deletion"),
        "Words put in": confused_words(system, "insertion"),
    }


def _folds(system: System, clips: Mapping[str, Clip]) -> Iterator[Fold]:
    worst, right = system.worst(), [u for u in system.utterances if not u.counts(system.unit).errors]
    pictured = {id for id, clip in clips.items() if clip.picture}
    drawn = [u for u in right if u.line.id in pictured]
    others = [u for u in right if u.line.id not in pictured]
    folded = [some[a : a + FOLDED] for some in (worst[OPEN:], others) for a in range(0, len(some), FOLDED)]
    first = 1
    for place, part in enumerate([worst[:OPEN], drawn, *folded]):
        if part:
            shown = tuple(Shown(utterance=u, runs=_runs(u, system.unit), clip=clips.get(u.line.id)) for u in part)
            yield Fold(shown=shown, unit=system.unit, first=first, open=place < 2)
        first += len(part)


def _runs(utterance: ScoredLine, unit: Unit) -> tuple[tuple[bool, tuple[Edit, ...]], ...]:
    """Stretches of right words (or characters), which the page writes as plain text, and single errors."""
    alignment = utterance.alignment
    if unit == "character":
        [alignment] = align_characters(["".join(utterance.line.text.split())], ["".join(utterance.hypothesis.split())])
    runs: list[tuple[bool, tuple[Edit, ...]]] = []
    for right, edits in itertools.groupby(alignment, key=lambda edit: edit.kind == "hit"):
        run = tuple(edits)
        runs += [(True, run)] if right else [(False, (edit,)) for edit in run]
    return tuple(runs)


def _span(low: int, high: int) -> str:
    return f"{low} to {high}" if low < high else f"{low}"

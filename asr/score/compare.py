"""Any systems' transcripts against one reference: error rates, how far they can be trusted, and which system is better.

Needs no model and no torch: ``asr evaluate`` scores our recogniser, this scores what anybody's wrote.
"""

from __future__ import annotations

import itertools
import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from asr import files
from asr.errors import CorpusError
from asr.records import ErrorCounts
from asr.score import significance
from asr.score.edits import Unit, align_characters, error_slots
from asr.score.forms import FORM_NAMES, NIST_FORMS, Transcripts, listed
from asr.score.glm import GlobalMap, Purpose, read_glm
from asr.score.graphs import WordGraph, plain_graph, word_graph
from asr.score.significance import Interval
from asr.score.system import System, aligned, aligned_graphs
from asr.text.normalise import normalise

Normalisation = Literal["none", "lower", "basic", "english", "spelled"]

NORMALISATIONS: dict[Normalisation, str] = {
    "none": "only Unicode composed (NFC) and white space collapsed",
    "lower": "Unicode composed (NFKC), lower case, white space collapsed: what sclite makes alike",
    "basic": "NFKC, lower case, and whatever is no letter, mark, digit or sign within a word made a space",
    "english": "Whisper's English: numbers in digits, American spelling, contractions written out, fillers dropped",
    "spelled": "as english, then numbers digit by digit and capitals in a row letter by letter",
}

SIGNIFICANT = 0.05

_MOST_CELLS = 25_000_000
"""Pairs of words to align at once: a channel of about half an hour, 0.8 GB."""

_NORMALISED = {"none": "none", "lower": "lower", "basic": "words", "english": "english", "spelled": "spelled"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """B's error rate against A's, in words or in characters, over the same utterances. ``difference`` is by utterance,
    ``by_speaker`` where enough are known.

    p values are None where the set is too small for the test. With more than two systems they are adjusted (Holm) for
    the number of pairs; the intervals are not.
    """

    a: str
    b: str
    utterances: int
    estimate: float
    difference: significance.Difference | None
    by_speaker: significance.Difference | None
    bootstrap_p: float | None
    matched_pairs_p: float | None
    segments: int
    unit: Unit = "word"

    @property
    def better(self) -> str | None:
        """The name of the better system, where the paired bootstrap and MAPSSWE both find it at the 5 % level."""
        tests = (self.bootstrap_p, self.matched_pairs_p)
        if any(p is None or p >= SIGNIFICANT for p in tests):
            return None
        return self.b if self.estimate < 0 else self.a

    def __str__(self) -> str:
        numbers = f"{100 * self.estimate:+.2f} % absolute{' of the CER' if self.unit == 'character' else ''}"
        if self.difference is None:
            return (
                f"{self.b} against {self.a}: {numbers}; {self.utterances} utterances are too few to say which is better"
            )
        low, high = self.difference.interval.low, self.difference.interval.high
        numbers += f", 95 % CI [{100 * low:+.2f}, {100 * high:+.2f}]"
        if self.by_speaker:
            low, high = self.by_speaker.interval.low, self.by_speaker.interval.high
            numbers += f" (by speaker [{100 * low:+.2f}, {100 * high:+.2f}])"
        numbers += f", {_p(self.bootstrap_p)} (paired bootstrap), "
        if self.matched_pairs_p is None:
            numbers += f"no MAPSSWE of {self.segments} segments"
        else:
            numbers += f"{_p(self.matched_pairs_p)} (MAPSSWE, {self.segments} segments)"
        # Utterances of one speaker are alike: what holds for these speakers need not hold for others.
        whom = " on these speakers" if self.by_speaker and self.by_speaker.p >= SIGNIFICANT else ""
        if self.better == self.b:
            return f"{self.b} is better than {self.a}{whom}: {numbers}"
        if self.better == self.a:
            return f"{self.b} is worse than {self.a}{whom}: {numbers}"
        return f"{self.b} against {self.a}: {numbers}; the set is too small to say which is better{self._needed()}"

    def _needed(self) -> str:
        assert self.difference
        needed = significance.utterances_needed(self.difference, self.utterances)
        if self.utterances < needed < 1000 * self.utterances:
            return f": a difference of this size would take some {float(f'{needed:.2g}'):,.0f} utterances"
        return ""


def _p(p: float | None) -> str:
    return "no p" if p is None else "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


# -------------------------------------------------------------------------------------------------------- scoring


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What is made alike before texts are compared, and what NIST's notation forgives.

    ``language`` is tr or az, whose small letters are their own. Of NIST's forms alone: ``fragments`` are right where
    the other word begins as they do (sclite's -F), and the rules of the global map file ``glm`` come before all else.
    """

    normalisation: Normalisation = "basic"
    language: str = ""
    fragments: bool = False
    glm: Path | None = None

    @property
    def form(self) -> str:
        """As ``normalise`` takes it."""
        return f"{_NORMALISED[self.normalisation]} {self.language}".rstrip()

    def texts(self, transcripts: Transcripts) -> dict[str, str]:
        """A file's texts by id, in lower case where they are to be spelled out and all are in capitals, which then say
        nothing of what is spelled out."""
        texts = {line.id: line.text for line in transcripts.lines}
        if self.normalisation == "spelled" and not any(c.islower() for text in texts.values() for c in text):
            return {id: text.lower() for id, text in texts.items()}
        return texts

    def normalised(self, transcripts: Transcripts) -> dict[str, str]:
        return {id: normalise(text, self.form) for id, text in self.texts(transcripts).items()}

    def graphs(self, transcripts: Transcripts, purpose: Purpose) -> dict[str, WordGraph]:
        """A file's texts by id, read as NIST's notation where its form has that. Raises CorpusError where braces do not
        match."""
        if self.glm:
            transcripts = _mapped(transcripts, read_glm(self.glm, transcripts.form, purpose))
        if transcripts.form not in NIST_FORMS:
            return {id: plain_graph(text) for id, text in self.normalised(transcripts).items()}
        graphs = {}
        for id, text in self.texts(transcripts).items():
            try:
                graphs[id] = word_graph(text, self.form, fragments=self.fragments)
            except ValueError as error:
                raise CorpusError(f"{transcripts}, {id}: {error}; found {text}") from error
        return graphs


def score(references: Transcripts, hypotheses: Sequence[Transcripts], rules: Rules | None = None) -> list[System]:
    """Each file of hypotheses as a system, called by its stem (by its path, where two have one stem).

    A reference that is empty once normalised counts every hypothesis word as an insertion, an empty hypothesis every
    reference word as a deletion; characters are Unicode code points after normalisation. References in NIST's forms
    are aligned as sclite aligns them (``graphs.align``). Raises CorpusError where ids do not match, where the
    references hold no word, or where texts are not written alike.
    """
    rules = rules or Rules()
    names = _names([hypothesis.path for hypothesis in hypotheses])
    for hypothesis in hypotheses:
        _check_ids(references, hypothesis)
    systems = (_nist_systems if references.form in NIST_FORMS else _systems)(names, references, hypotheses, rules)
    if len(systems) > 1 and rules.normalisation in ("none", "lower"):
        _check_writing({s.name: {u.line.id: u.hypothesis for u in s.utterances} for s in systems})
    return systems


def _systems(
    names: Sequence[str], references: Transcripts, hypotheses: Sequence[Transcripts], rules: Rules
) -> list[System]:
    if rules.glm:
        raise CorpusError(
            f"{rules.glm} is for references in NIST's forms, TRN, STM and CTM; {references} is of another"
        )
    said = rules.normalised(references)
    if not any(said.values()):
        raise _nothing_said(references, rules)
    for hypothesis in hypotheses:
        _check_origin(references, said, hypothesis, rules)
    lines = [replace(line, text=said[line.id]) for line in references.lines]
    recognised = map(rules.normalised, hypotheses)
    return [
        aligned(name, lines, [texts[line.id] for line in lines]) for name, texts in zip(names, recognised, strict=True)
    ]


def _nist_systems(
    names: Sequence[str], references: Transcripts, hypotheses: Sequence[Transcripts], rules: Rules
) -> list[System]:
    said = rules.graphs(references, "ref")
    if not any(graph.places for graph in said.values()):
        raise _nothing_said(references, rules)
    systems = []
    for name, hypothesis in zip(names, hypotheses, strict=True):
        heard = rules.graphs(hypothesis, "hyp")
        _check_sizes(references, said, heard)
        ids = [line.id for line in references.lines]
        graphs = [said[id] for id in ids], [heard[id] for id in ids]
        systems.append(aligned_graphs(name, references.lines, *graphs, fragments=rules.fragments))
    return systems


def _mapped(transcripts: Transcripts, rewrite: GlobalMap) -> Transcripts:
    by_word = transcripts.form == "ctm"  # a word of a CTM is a record by itself
    return replace(
        transcripts,
        lines=tuple(
            replace(line, text=" ".join(map(rewrite, line.text.split())) if by_word else rewrite(line.text))
            for line in transcripts.lines
        ),
    )


def _check_sizes(references: Transcripts, said: dict[str, WordGraph], heard: dict[str, WordGraph]) -> None:
    for id, graph in said.items():
        if len(graph.arcs) * len(heard[id].arcs) > _MOST_CELLS:
            raise CorpusError(
                f"{references}, {id}: {len(graph.arcs)} words against {len(heard[id].arcs)} are too many to align at "
                "once; cut the recording into segments, as an STM has them"
            )


def _nothing_said(references: Transcripts, rules: Rules) -> CorpusError:
    return CorpusError(
        f"{references} holds no words ({rules.normalisation} normalisation): there is nothing to score against"
    )


def remarks(systems: Sequence[System]) -> list[str]:
    """What may pass for errors and is only spelling: systems that write figures where the references have none."""
    if any(c.isdigit() for u in systems[0].utterances for c in u.line.text):
        return []
    figures = {s.name: sum(any(c.isdigit() for c in u.hypothesis) for u in s.utterances) for s in systems}
    return [
        f"{name} writes figures in {count} of {len(systems[0].utterances)} utterances, the reference in none: "
        "--normalise english or spelled makes numbers alike"
        for name, count in figures.items()
        if count
    ]


def compare(systems: Sequence[System]) -> list[Comparison]:
    """Every pair of systems, the later against the earlier."""
    if len(systems) < 2:
        return []
    unit = systems[0].unit
    # Of alternatives in the reference, each system has chosen its own: their characters stand in no common slots.
    one_reference = all(
        len({u.line.text for u in same}) == 1 for same in zip(*(s.utterances for s in systems), strict=True)
    )
    slots = {system.name: _slots(system, unit if one_reference else "word") for system in systems}
    compared = []
    for a, b in itertools.combinations(systems, 2):
        segments = significance.segment_errors(slots[a.name], slots[b.name])
        (errors_a, lengths), (errors_b, _) = a.errors_in(unit), b.errors_in(unit)
        difference = significance.paired_bootstrap(errors_a, errors_b, lengths)
        speakers = a.speakers
        compared.append(
            Comparison(
                a=a.name,
                b=b.name,
                unit=unit,
                utterances=len(a.utterances),
                estimate=b.counts(unit).rate - a.counts(unit).rate,
                difference=difference,
                by_speaker=significance.paired_bootstrap(errors_a, errors_b, lengths, speakers) if speakers else None,
                bootstrap_p=difference.p if difference else None,
                matched_pairs_p=significance.matched_pairs(segments),
                segments=segments.shape[1],
            )
        )
    return _adjusted(compared)


def _slots(system: System, unit: Unit) -> list[np.ndarray]:
    if unit == "word":
        return [u.slots for u in system.utterances]
    said = ["".join(u.line.text.split()) for u in system.utterances]
    heard = ["".join(u.hypothesis.split()) for u in system.utterances]
    return list(map(error_slots, align_characters(said, heard)))


def _adjusted(compared: list[Comparison]) -> list[Comparison]:
    bootstrap = significance.holm([1.0 if c.bootstrap_p is None else c.bootstrap_p for c in compared])
    matched = significance.holm([1.0 if c.matched_pairs_p is None else c.matched_pairs_p for c in compared])
    return [
        replace(
            c,
            bootstrap_p=None if c.bootstrap_p is None else p,
            matched_pairs_p=None if c.matched_pairs_p is None else q,
        )
        for c, p, q in zip(compared, bootstrap, matched, strict=True)
    ]


# --------------------------------------------------------------------------------------------- what cannot be scored


def _names(paths: Sequence[Path]) -> list[str]:
    twice = [str(path) for path in dict.fromkeys(paths) if paths.count(path) > 1]
    if twice:
        raise CorpusError(f"given twice: {listed(twice)}; each file of hypotheses is one system")
    stems = [path.stem for path in paths]
    return [stem if stems.count(stem) == 1 else str(path) for stem, path in zip(stems, paths, strict=True)]


def _check_ids(references: Transcripts, hypotheses: Transcripts) -> None:
    said = {line.id for line in references.lines}
    recognised = {line.id for line in hypotheses.lines}
    missing = [line.id for line in references.lines if line.id not in recognised]
    unknown = [line.id for line in hypotheses.lines if line.id not in said]
    faults = []
    if unknown:
        faults.append(f"{len(unknown)} of its {len(recognised)} ids have no reference: {listed(unknown)}")
    if missing:
        faults.append(
            f"{len(missing)} of the {len(said)} references have no hypothesis: {listed(missing)}"
            " (where nothing was recognised, an empty text says so)"
        )
    if faults:
        raise CorpusError(f"{hypotheses} against {references}: {'; '.join(faults)}")


def _check_origin(references: Transcripts, said: dict[str, str], hypotheses: Transcripts, rules: Rules) -> None:
    """Hypotheses that carry the reference they were written with, and carry another than ours."""
    carried = [replace(line, text=line.against) for line in hypotheses.lines if line.against is not None]
    against = rules.normalised(replace(hypotheses, lines=tuple(carried)))
    other = [line for line in hypotheses.lines if line.id in against and against[line.id] != said[line.id]]
    if other:
        line = other[0]
        raise CorpusError(
            f"{hypotheses} carries references of its own, of which {len(other)} differ from those of {references}: "
            f'{line.id} has "{line.against}" for "{said[line.id]}": normalised otherwise, or another set? '
            "(--normalise basic or english makes spellings alike)"
        )


def _check_writing(systems: dict[str, dict[str, str]]) -> None:
    """Texts of which one system's use what another's never does: its errors would be those of spelling."""
    marks = {
        "capital letters": lambda c: c.isupper(),
        "small letters": lambda c: c.islower(),
        "punctuation": lambda c: unicodedata.category(c)[0] == "P" and c != "'",
    }
    for mark, has in marks.items():
        shares = {}
        for name, texts in systems.items():
            spoken = [text for text in texts.values() if text]
            shares[name] = sum(any(map(has, text)) for text in spoken) / max(len(spoken), 1) if spoken else None
        known = {name: share for name, share in shares.items() if share is not None}
        writes = [name for name, share in known.items() if share > 0.5]
        never = [name for name, share in known.items() if share == 0]
        if writes and never:
            raise CorpusError(
                f"the systems are normalised differently: {listed(writes)} writes {mark}, {listed(never)} none; "
                "with --normalise none that would count as errors: take basic or english, or score each alone"
            )


# --------------------------------------------------------------------------------------------------------- writing


def write_json(
    path: Path,
    references: Transcripts,
    systems: Sequence[System],
    comparisons: Sequence[Comparison],
    normalisation: Normalisation,
) -> None:
    """All that is known, rates and differences as fractions: ``{"normalisation", "reference", "systems": {NAME: {"wer",
    "cer", "mer", "wil", the counts, the four intervals, "headline", "by": {KIND: {GROUP: ...}}}},
    "comparisons": [{"a", "b", "difference", "interval", "interval_by_speaker", "p_bootstrap", "p_mapsswe", "segments",
    "better", "sentence"}]}``."""

    def rates(words: ErrorCounts) -> dict[str, Any]:
        return {
            "wer": words.rate if words.reference_length else None,
            "words": words.reference_length,
            "hits": words.hits,
            "substitutions": words.substitutions,
            "deletions": words.deletions,
            "insertions": words.insertions,
        }

    def cer(characters: ErrorCounts) -> float | None:
        return characters.rate if characters.reference_length else None

    def ends(interval: Interval | None) -> list[float] | None:
        return [interval.low, interval.high] if interval else None

    document = {
        "normalisation": {"name": normalisation, "meaning": NORMALISATIONS[normalisation]},
        "reference": {
            "path": str(references.path),
            "form": FORM_NAMES[references.form],
            "utterances": len(references.lines),
        },
        "systems": {
            system.name: {
                **rates(system.words),
                "utterances": len(system.utterances),
                "cer": cer(system.characters),
                "mer": system.words.match_error_rate,
                "wil": system.words.information_lost,
                "wer_interval": ends(system.interval()),
                "wer_interval_by_speaker": ends(system.interval_by_speaker()),
                "cer_interval": ends(system.interval("character")),
                "cer_interval_by_speaker": ends(system.interval_by_speaker("character")),
                "headline": "wer" if system.unit == "word" else "cer",
                "by": {
                    kind: {
                        name: {**rates(group.words), "cer": cer(group.characters), "utterances": group.utterances}
                        for name, group in some.items()
                    }
                    for kind, some in system.groups().items()
                },
            }
            for system in systems
        },
        "comparisons": [
            {
                "a": c.a,
                "b": c.b,
                "difference": c.estimate,
                "interval": ends(c.difference.interval if c.difference else None),
                "interval_by_speaker": ends(c.by_speaker.interval if c.by_speaker else None),
                "p_bootstrap": c.bootstrap_p,
                "p_mapsswe": c.matched_pairs_p,
                "segments": c.segments,
                "better": c.better,
                "sentence": str(c),
            }
            for c in comparisons
        ],
    }
    with files.replacing(path) as file:
        json.dump(document, file, indent=1, ensure_ascii=False)
        file.write("\n")

"""asr score."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from asr.cli.options import FOLDER
from asr.cli.terminal import say

if TYPE_CHECKING:
    from asr.score.compare import Normalisation
    from asr.score.forms import Form
    from asr.score.system import System

MOST_GROUPS = 12
"""Speakers, say, to print; the JSON holds all."""


@click.command()
@click.argument("reference", type=FOLDER, metavar="REF")
@click.argument("hypotheses", type=FOLDER, nargs=-1, required=True, metavar="HYP...")
@click.option(
    "--normalise",
    "normalisation",
    type=click.Choice(["none", "lower", "basic", "english", "spelled"]),
    default="basic",
    show_default=True,
    help="What is made alike in both before they are compared.",
)
@click.option("--language", default="", metavar="TAG", help="tr and az have small letters of their own.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "csv", "tsv", "kaldi", "trn", "stm", "ctm", "plain"]),
    help="Of the files whose suffix does not tell.",
)
@click.option(
    "--fragments",
    is_flag=True,
    help="Of TRN, STM and CTM: a fragment, th-, is right where the other word begins so (sclite -F).",
)
@click.option(
    "--glm", type=FOLDER, metavar="FILE", help="Of TRN, STM and CTM: NIST's rules that make spellings alike first."
)
@click.option("--json", "scores_file", type=FOLDER, metavar="FILE", help="Write all scores as JSON.")
@click.option("--report", type=FOLDER, metavar="FILE.html", help="Write one page to look at, with every utterance.")
def score(
    reference: Path,
    hypotheses: tuple[Path, ...],
    normalisation: Normalisation,
    language: str,
    form: Form | None,
    fragments: bool,
    glm: Path | None,
    scores_file: Path | None,
    report: Path | None,
) -> None:
    """Error rates of any systems' transcripts, HYP, against REF, and whether one is better than another.

    Files are JSON lines, CSV or TSV with a header, Kaldi text, TRN, STM, CTM, or plain text line by line.
    """
    from asr.score import compare
    from asr.score.forms import FORM_NAMES, NIST_FORMS
    from asr.score.transcripts import read_hypotheses, read_references

    references = read_references(reference, form)
    read = [read_hypotheses(path, references, form) for path in hypotheses]
    rules = compare.Rules(normalisation=normalisation, language=language, fragments=fragments, glm=glm)
    systems = compare.score(references, read, rules)
    comparisons = compare.compare(systems)
    unit = systems[0].unit
    said = systems[0].counts(unit).reference_length
    skipped = f", {len(references.skipped)} not to be scored" if references.skipped else ""
    facts = [
        f"reference {references}: {said} {unit}s in {len(references.lines)} utterances{skipped}",
        f"normalisation {normalisation}: {compare.NORMALISATIONS[normalisation]}",
    ]
    if references.form in NIST_FORMS:
        facts.append("aligned as sclite -D aligns: alternatives, words that may be left out, substitutions at 4 to 3")
    facts += compare.remarks(systems)
    say("\n".join(facts))
    for system, file in zip(systems, read, strict=True):
        counts = system.counts(system.unit)
        say(
            f"{system.name}: {system.summary(by_speaker=True)}  MER {counts.match_error_rate:.2%}  "
            f"WIL {counts.information_lost:.2%}  {counts.substitutions} substituted, {counts.deletions} deleted, "
            f"{counts.insertions} inserted  ({FORM_NAMES[file.form]})"
        )
    for kind in systems[0].groups():
        _print_groups(kind, systems)
    for comparison in comparisons:
        say(str(comparison))
    if scores_file:
        compare.write_json(scores_file, references, systems, comparisons, normalisation)
    if report:
        from asr.report import write_report
        from asr.report.clips import SOUND_SECONDS, recorded

        clips, faults = zip(*(recorded(system, SOUND_SECONDS / len(systems)) for system in systems), strict=True)
        silent = list(dict.fromkeys(itertools.chain(*faults)))
        if silent:
            say(f"{len(silent)} utterances cannot be played, the first: {silent[0]}", err=True)
        shared = [f"reference {reference.name}{facts[0].removeprefix(f'reference {references}')}", *facts[1:]]
        write_report(report, f"{reference.stem} scored", systems, comparisons=comparisons, facts=shared, clips=clips)


def _print_groups(kind: str, systems: Sequence[System]) -> None:
    """A line a group, a column a system; speakers begin with the worst of the first system."""
    unit = systems[0].unit
    tables = [{name: group.counts(unit) for name, group in system.groups()[kind].items()} for system in systems]
    names = list(tables[0])
    if kind != "duration":
        names.sort(key=lambda name: (-tables[0][name].rate, name))
    width = max(len(name) for name in [*names[:MOST_GROUPS], kind])
    columns = [max(len(system.name), 8) for system in systems]
    heads = "  ".join(system.name.rjust(column) for system, column in zip(systems, columns, strict=True))
    sizes = {name: group.utterances for name, group in systems[0].groups()[kind].items()}
    say(f"  {kind.ljust(width)}  utterances  {f'{unit}s':>{len('characters')}}  {heads}")
    for name in names[:MOST_GROUPS]:
        rates = "  ".join(f"{table[name].rate:.2%}".rjust(c) for table, c in zip(tables, columns, strict=True))
        say(f"  {name.ljust(width)}  {sizes[name]:10}  {tables[0][name].reference_length:10}  {rates}")
    if len(names) > MOST_GROUPS:
        say(f"  and {len(names) - MOST_GROUPS} more (--json has all)")

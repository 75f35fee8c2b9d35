"""asr score."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from asr.cli.options import FOLDER

if TYPE_CHECKING:
    from asr.score.compare import Normalisation
    from asr.score.forms import Form
    from asr.score.significance import Interval
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
    from asr.score.forms import FORMS, NIST_FORMS
    from asr.score.transcripts import read_hypotheses, read_references

    references = read_references(reference, form)
    read = [read_hypotheses(path, references, form) for path in hypotheses]
    systems = compare.score(references, read, normalisation, fragments=fragments, glm=glm)
    comparisons = compare.compare(systems)
    said = systems[0].words.reference_length
    skipped = f", {len(references.skipped)} not to be scored" if references.skipped else ""
    facts = [
        f"reference {references}: {said} words in {len(references.lines)} utterances{skipped}",
        f"normalisation {normalisation}: {compare.NORMALISATIONS[normalisation]}",
    ]
    if references.form in NIST_FORMS:
        facts.append("aligned as sclite -D aligns: alternatives, words that may be left out, substitutions at 4 to 3")
    facts += compare.remarks(systems)
    click.echo("\n".join(facts))
    for system, file in zip(systems, read, strict=True):
        words, by_speaker = system.words, system.interval_by_speaker()
        interval = _interval(system.interval()) + (f", by speaker {_interval(by_speaker)}" if by_speaker else "")
        click.echo(
            f"{system.name}: WER {words.rate:.2%} {interval}  CER {system.characters.rate:.2%}  "
            f"MER {words.match_error_rate:.2%}  WIL {words.information_lost:.2%}  {words.substitutions} substituted, "
            f"{words.deletions} deleted, {words.insertions} inserted  ({FORMS[file.form]})"
        )
    for kind in systems[0].groups():
        _print_groups(kind, systems)
    for comparison in comparisons:
        click.echo(str(comparison))
    if scores_file:
        compare.write_json(scores_file, references, systems, comparisons, normalisation)
    if report:
        from asr.report import write_report
        from asr.report.clips import SOUND_SECONDS, recorded

        clips, faults = zip(*(recorded(system, SOUND_SECONDS / len(systems)) for system in systems), strict=True)
        silent = list(dict.fromkeys(itertools.chain(*faults)))
        if silent:
            click.echo(f"{len(silent)} utterances cannot be played, the first: {silent[0]}", err=True)
        write_report(report, f"{reference} scored", systems, comparisons=comparisons, facts=facts, clips=clips)


def _interval(interval: Interval | None) -> str:
    return f"[{interval.low:.2%}, {interval.high:.2%}]" if interval else "[too few for an interval]"


def _print_groups(kind: str, systems: Sequence[System]) -> None:
    """A line a group, a column a system; speakers begin with the worst of the first system."""
    tables = [system.groups()[kind] for system in systems]
    names = list(tables[0])
    if kind != "duration":
        names.sort(key=lambda name: (-tables[0][name].words.rate, name))
    width = max(len(name) for name in [*names[:MOST_GROUPS], kind])
    columns = [max(len(system.name), 8) for system in systems]
    heads = "  ".join(system.name.rjust(column) for system, column in zip(systems, columns, strict=True))
    click.echo(f"  {kind.ljust(width)}  utterances    words  {heads}")
    for name in names[:MOST_GROUPS]:
        group = tables[0][name]
        rates = "  ".join(f"{table[name].words.rate:.2%}".rjust(c) for table, c in zip(tables, columns, strict=True))
        click.echo(f"  {name.ljust(width)}  {group.utterances:10}  {group.words.reference_length:7}  {rates}")
    if len(names) > MOST_GROUPS:
        click.echo(f"  and {len(names) - MOST_GROUPS} more (--json has all)")

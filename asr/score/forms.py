"""The forms that transcripts come in, and what each is read into."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Form = Literal["jsonl", "csv", "tsv", "kaldi", "trn", "stm", "ctm", "plain"]

FORM_NAMES: dict[Form, str] = {
    "jsonl": "JSON lines",
    "csv": "CSV",
    "tsv": "TSV",
    "kaldi": "Kaldi text",
    "trn": "TRN",
    "stm": "STM",
    "ctm": "CTM",
    "plain": "plain text, line by line",
}
SUFFIXES: dict[str, Form] = {
    ".jsonl": "jsonl", ".json": "jsonl", ".csv": "csv", ".tsv": "tsv", ".trn": "trn", ".stm": "stm", ".ctm": "ctm",
}  # fmt: skip
NIST_FORMS: tuple[Form, ...] = ("trn", "stm", "ctm")
"""Their texts are in NIST's notation (``score.graphs``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One utterance's text, and what else its file knows of it: the empty string, or None, where it does not.

    ``corpus`` and ``noise`` are labels to group by; ``duration`` and ``start`` are seconds, the start that of the
    utterance in its recording: in the file ``audio`` of a manifest, in the ``recording`` (file and channel) of an STM.
    ``against`` is the reference that a hypothesis was scored on when it was written, where its file tells.
    """

    id: str
    text: str
    speaker: str = ""
    corpus: str = ""
    noise: str = ""
    duration: float | None = None
    audio: Path | None = None
    recording: str = ""
    start: float | None = None
    against: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcripts:
    """A file's lines in its order, ids unique; ``skipped`` are the STM segments that say they are not to be scored."""

    path: Path
    form: Form
    lines: tuple[Line, ...]
    skipped: tuple[Line, ...] = ()

    def __str__(self) -> str:
        return f"{self.path} ({FORM_NAMES[self.form]})"


def listed(names: Iterable[str], count: int = 5) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")

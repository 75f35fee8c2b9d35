"""NIST's global map files (GLM): rules that make spellings alike before anything is counted.

A rule rewrites a string, ``COLOUR => COLOR`` or, between others, ``[COLOUR] => [COLOR] / [ ] __ [ ]``; its output may
hold alternatives, ``{HE IS / HE HAS}``, and words that may be left out, ``(%HESITATION)``. As in NIST's csrfilt, words
with hyphens are then parted at these, fragments excepted (SCTK, GLMRules.txt).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from asr.errors import CorpusError
from asr.score.forms import Form
from asr.text.tables import lines

Purpose = Literal["ref", "hyp"]

_SECTION = re.compile(r"\s*;;\s+INPUT_DEPENDENT_APPLICATION\s*=\s*\"([^\"]*)\"", re.IGNORECASE)
_DROPPING = re.compile(r"\*.*\bcopy_no_hit\b.*[\"'](F|FALSE|NO)[\"']", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Rule:
    """``found`` becomes ``written`` where ``before`` and ``after`` stand around it."""

    found: str
    written: str
    before: str
    after: str

    @property
    def pattern(self) -> str:
        before = f"(?<={re.escape(self.before + self.found)})" if self.before else ""
        after = f"(?={re.escape(self.after)})" if self.after else ""
        return f"{re.escape(self.found)}{before}{after}"


class GlobalMap:
    """The rules of a file that apply to one form of file and to references or hypotheses; case does not matter."""

    def __init__(self, rules: list[_Rule], *, copies: bool = True) -> None:
        self._copies = copies  # what no rule finds is kept
        by_first: dict[str, list[_Rule]] = defaultdict(list)
        for rule in rules:
            by_first[rule.found[0].upper()].append(rule)
        # Of the rules that find something at a place, the first in the file holds: so tries a pattern its branches.
        self._rules = {
            first: (re.compile("|".join(f"({r.pattern})" for r in some), re.IGNORECASE), [r.written for r in some])
            for first, some in by_first.items()
        }

    def __call__(self, text: str) -> str:
        """A text in NIST's notation, rewritten."""
        spaced = " ".join(f" {text} ".replace("(", "( ").replace(")", " )").split(" "))
        rewritten = "".join(self._pieces(re.sub(r"[ \t]+", " ", spaced)))
        parted = re.sub(r"([^( ])-(?=[^) ])", r"\1 ", rewritten)
        while (each := re.sub(r"(\( +[^()\s]+ +)([^()\s]+)", r"\1) ( \2", parted)) != parted:
            parted = each
        return " ".join(re.sub(r" +\)", ")", re.sub(r"\( +", "(", parted)).split())

    def _pieces(self, text: str) -> Iterator[str]:
        place = 0
        while place < len(text):
            pattern, written = self._rules.get(text[place].upper(), (None, []))
            found = pattern.match(text, place) if pattern else None
            if found:
                yield written[(found.lastindex or 1) - 1]
                place = found.end()
            else:
                if self._copies:
                    yield text[place]
                place += 1


def read_glm(path: Path, form: Form, purpose: Purpose) -> GlobalMap:
    """The rules of a file for references or hypotheses that come in ``form``. Raises CorpusError with the line number
    where one has no arrow."""
    rules: list[_Rule] = []
    applies = copies = True
    comment = ";;"
    for number, line in lines(path):
        if number == 1:  # its first word is what comments begin with
            comment = line.split(maxsplit=1)[0]
        elif section := _SECTION.match(line):
            applies = any(re.search(section[1], name, re.IGNORECASE) for name in (form, purpose))
        elif line[0] == "*":
            copies = copies and not _DROPPING.match(line)
        elif applies and (code := line.partition(comment)[0].strip()):
            rules.append(_rule(code, path, number))
    return GlobalMap(rules, copies=copies)


def _rule(code: str, path: Path, number: int) -> _Rule:
    found, _, rest = code.partition("=>")
    written, slash, context = rest.rpartition("/")
    if not slash or "_" not in context or context.count("]") > context.count("["):  # a slash between alternatives
        written, context = rest, "_"
    before, _, after = context.partition("_")
    rule = _Rule(*map(_unbounded, (found, written, before, after.lstrip("_"))))
    if "=>" not in code or not rule.found:
        raise CorpusError(f"{path}, line {number}: expected FOUND => WRITTEN; found {code}")
    return rule


def _unbounded(part: str) -> str:
    part = part.strip()
    return part[1:-1] if len(part) > 1 and part[0] + part[-1] in ("[]", '""') else part

"""Grammars of phrases: what may be said, as a file that people write, and the automaton over words that it stands for.

A phrase a line, in the notation of the Java Speech Grammar Format (JSGF, W3C note of 5 June 2000) as far as it goes:

    # what the lamp understands
    <colour> = red | green | light blue;
    turn the lamp (on | off)
    [please] make it <colour> [please]
    dial <digit>+
    <digit> = one | two | three;

``( )`` groups, ``|`` parts alternatives, ``[ ]`` may be left out, ``+`` repeats what stands before it, ``*`` repeats it
or leaves it out. A rule ends with a semicolon, may go over several lines, and may be used before it stands there;
``public`` makes it a phrase too. Comments begin with ``#`` or ``//``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NoReturn

from asr.errors import LanguageModelError
from asr.text.normalise import normalise

START, END = 0, 1
"""The junctions where phrases begin and end."""
MOST_WORDS = 200_000
"""Of an automaton, every use of a rule counted: rules of rules of rules multiply."""
DEEPEST = 50
"""Of brackets, repeats and rules within each other."""

_COMMENT = re.compile(r"(?:(?<!\S)#|//).*")
_LEXEME = re.compile(r"<[^<>\s]*>|[()\[\]|=;*+]|[^\s()\[\]|=;*+<>{}/\"]+|\S")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoken:
    """A word on the way from junction ``start`` to junction ``end``; ``line`` of the grammar has it."""

    start: int
    end: int
    word: str
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Grammar:
    """The automaton: junctions 0 to ``junctions`` - 1, which words connect. Every way from START to END spells one
    of the phrases. ``skips`` lead from one junction to another without a word: no cycle is of them alone, and those
    into a junction stand before those out of it. ``name`` is the file."""

    name: str
    junctions: int
    words: tuple[Spoken, ...]
    skips: tuple[tuple[int, int], ...]


def read_grammar(path: Path, form: str = "none") -> Grammar:
    """The grammar in ``path``, its words normalised to ``form``. Raises LanguageModelError naming the line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise LanguageModelError(f"the phrases {path} cannot be read: {reason}") from error
    return parse_grammar(text, str(path), form)


def parse_grammar(text: str, name: str, form: str = "none") -> Grammar:
    """The grammar that ``text`` spells; ``name`` is what errors call it. Raises LanguageModelError."""
    rules, phrases = _Parser(text, name).statements()
    return _Builder(name, form, rules).build(phrases)


# --------------------------------------------------------------------------------------------------- expressions


@dataclass(frozen=True, slots=True)
class _Word:
    line: int
    text: str


@dataclass(frozen=True, slots=True)
class _Use:
    """Of the rule ``name``."""

    line: int
    name: str


@dataclass(frozen=True, slots=True)
class _Sequence:
    line: int
    parts: tuple[_Part, ...]


@dataclass(frozen=True, slots=True)
class _Choice:
    line: int
    options: tuple[_Part, ...]


@dataclass(frozen=True, slots=True)
class _Repeat:
    """``part``, once or more often (``+``), once or never (``[ ]``), or both (``*``)."""

    line: int
    part: _Part
    optional: bool
    again: bool


_Part = _Word | _Use | _Sequence | _Choice | _Repeat
_Statements = tuple[dict[str, _Part], list[_Part]]


@dataclass(frozen=True, slots=True)
class _Lexeme:
    line: int
    text: str


class _Parser:
    """Recursive descent over the lexemes of one statement at a time."""

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        self._java = text.startswith("#JSGF")
        self._lines = (
            [_Lexeme(number, lexeme) for lexeme in _LEXEME.findall(_COMMENT.sub("", line))]
            for number, line in enumerate(text.splitlines(), start=1)
        )
        self._rest: list[_Lexeme] = []

    def statements(self) -> _Statements:
        """Rules by their names, and phrases."""
        rules: dict[str, _Part] = {}
        phrases: list[_Part] = []
        for line in self._lines:
            while line:
                public = line[0].text == "public" and _defines(line[1:])
                if public or _defines(line):
                    head, *body = line[1:] if public else line
                    line = self._cut_rule(body[1:], head)
                    if head.text in rules:
                        place = rules[head.text].line
                        self.fail(head.line, f"the rule {head.text} is defined already, in line {place}")
                    rules[head.text] = self._all(head.line)
                    if public:
                        phrases.append(_Use(head.line, head.text))
                    continue
                first, self._rest, line = line[0], line, []
                if self._rest[-1].text == ";":
                    self._rest.pop()
                if not (self._java and first.text == "grammar"):  # a JSGF file's own name
                    phrases.append(self._all(first.line))
        if not phrases:
            raise LanguageModelError(
                f"{self.name} holds no phrase: expected one a line"
                + (", besides the rules, which are used in phrases as <name>" if rules else "")
            )
        return rules, phrases

    def _cut_rule(self, line: list[_Lexeme], head: _Lexeme) -> list[_Lexeme]:
        """Takes the lexemes up to the rule's semicolon; those after it, in its line, are returned."""
        self._rest = []
        while True:
            for place, lexeme in enumerate(line):
                if lexeme.text == ";":
                    self._rest += line[:place]
                    return line[place + 1 :]
                if lexeme.text == "=":  # the next rule
                    self._fail_unended(head)
            self._rest += line
            line = next(filter(None, self._lines), [])
            if not line:
                self._fail_unended(head)

    def _fail_unended(self, head: _Lexeme) -> NoReturn:
        self.fail(head.line, f"the rule {head.text} has no semicolon at its end")

    def _all(self, line: int) -> _Part:
        part = self._choice(line, 0)
        if self._rest:
            self.fail(self._rest[0].line, f'"{self._rest[0].text}" is out of place')
        return part

    def _choice(self, line: int, depth: int) -> _Part:
        options = [self._sequence(line, depth)]
        while self._next() == "|":
            line = self._rest.pop(0).line
            options.append(self._sequence(line, depth))
        return options[0] if len(options) == 1 else _Choice(options[0].line, tuple(options))

    def _sequence(self, line: int, depth: int) -> _Part:
        parts: list[_Part] = []
        while self._next() not in ("", "|", ")", "]"):
            parts.append(self._repeated(depth))
        if not parts:
            line = self._rest[0].line if self._rest else line
            self.fail(line, "an alternative is empty: expected words (what may be left out stands in [ ])")
        return parts[0] if len(parts) == 1 else _Sequence(parts[0].line, tuple(parts))

    def _repeated(self, depth: int) -> _Part:
        part = self._part(depth)
        while self._next() in ("*", "+"):
            part = _Repeat(part.line, part, optional=self._rest.pop(0).text == "*", again=True)
        return part

    def _part(self, depth: int) -> _Part:
        lexeme = self._rest.pop(0)
        line, text = lexeme.line, lexeme.text
        if text in ("(", "["):
            if depth == DEEPEST:
                self.fail(line, f"more than {DEEPEST} brackets within each other")
            part = self._choice(line, depth + 1)
            if self._next() != (")" if text == "(" else "]"):
                self.fail(line, f'"{text}" is not closed')
            self._rest.pop(0)
            return part if text == "(" else _Repeat(line, part, optional=True, again=False)
        if text[0] == "<" and text[-1] == ">" and len(text) > 2:
            return _Use(line, text)
        if text[0] in '<>{}/"=;*+':
            self.fail(line, f'"{text}" is out of place: a phrase is words, ( ), [ ], |, *, + and the names of <rules>')
        return _Word(line, text)

    def _next(self) -> str:
        return self._rest[0].text if self._rest else ""

    def fail(self, line: int, fault: str) -> NoReturn:
        raise LanguageModelError(f"{self.name}, line {line}: {fault}")


def _defines(line: Sequence[_Lexeme]) -> bool:
    """Whether a line is the beginning of a rule's definition."""
    return len(line) > 1 and line[0].text[0] == "<" and line[1].text == "="


# ----------------------------------------------------------------------------------------------------- automaton


@dataclass
class _Builder:
    """Thompson's construction (1968), every use of a rule built anew."""

    name: str
    form: str
    rules: dict[str, _Part]
    junctions: int = 2
    words: list[Spoken] = field(default_factory=list)
    skips: set[tuple[int, int]] = field(default_factory=set)
    within: list[str] = field(default_factory=list)
    depth: int = 0
    empty: dict[str, bool] = field(default_factory=dict)

    def build(self, phrases: Sequence[_Part]) -> Grammar:
        for phrase in phrases:
            self._add(phrase, START, END)
            if self._may_be_empty(phrase):
                self._fail(phrase.line, "the phrase may be empty, since all of it may be left out")
        return self._merged()

    def _add(self, part: _Part, start: int, end: int) -> None:
        if self.depth > DEEPEST:
            self._fail(part.line, f"more than {DEEPEST} brackets and rules within each other")
        self.depth += 1
        self._add_kind(part, start, end)
        self.depth -= 1

    def _add_kind(self, part: _Part, start: int, end: int) -> None:
        match part:
            case _Word():
                self._add_word(part, start, end)
            case _Sequence():
                for inner in part.parts[:-1]:
                    middle = self._junction()
                    self._add(inner, start, middle)
                    start = middle
                self._add(part.parts[-1], start, end)
            case _Choice():
                for option in part.options:
                    self._add(option, start, end)
            case _Repeat():
                self._add_repeat(part, start, end)
            case _Use():
                self._add_rule(part, start, end)

    def _add_word(self, part: _Word, start: int, end: int) -> None:
        words = normalise(part.text, self.form).split()
        if not words:
            self._fail(part.line, f'"{part.text}" is no word: nothing is left of it in the form "{self.form}"')
        if len(self.words) + len(words) > MOST_WORDS:
            self._fail(part.line, f"more than {MOST_WORDS} words, every use of a rule counted")
        for i, word in enumerate(words, start=1):
            target = end if i == len(words) else self._junction()
            self.words.append(Spoken(start=start, end=target, word=word, line=part.line))
            start = target

    def _add_repeat(self, part: _Repeat, start: int, end: int) -> None:
        if not part.again:
            self.skips.add((start, end))
            self._add(part.part, start, end)
            return
        # Junctions of its own: a loop at a shared one would repeat its neighbours too.
        first, last = self._junction(), self._junction()
        self.skips |= {(start, first), (last, first), (last, end)} | ({(first, last)} if part.optional else set())
        self._add(part.part, first, last)

    def _add_rule(self, use: _Use, start: int, end: int) -> None:
        if use.name not in self.rules:
            self._fail(use.line, f"the rule {use.name} is defined nowhere: expected {use.name} = ... ;")
        if use.name in self.within:
            self._fail(use.line, f"the rule {use.name} contains itself; what repeats is written (...)+")
        self.within.append(use.name)
        self._add(self.rules[use.name], start, end)
        self.within.pop()

    def _junction(self) -> int:
        self.junctions += 1
        if self.junctions > 4 * MOST_WORDS:  # of rules that hold no word, too
            raise LanguageModelError(f"{self.name}: more than {MOST_WORDS} words, every use of a rule counted")
        return self.junctions - 1

    def _may_be_empty(self, part: _Part) -> bool:
        match part:
            case _Sequence():
                return all(map(self._may_be_empty, part.parts))
            case _Choice():
                return any(map(self._may_be_empty, part.options))
            case _Repeat():
                return part.optional or self._may_be_empty(part.part)
            case _Use():
                if part.name not in self.empty:
                    self.empty[part.name] = self._may_be_empty(self.rules[part.name])
                return self.empty[part.name]
        return False

    def _merged(self) -> Grammar:
        """The automaton with junctions that skips connect both ways made one, and skips in topological order."""
        group = _strong_components(self.junctions, sorted(self.skips))
        count = len(set(group))
        order = {group[START]: START, group[END]: END}
        for label in group:
            order.setdefault(label, len(order))
        number = [order[label] for label in group]
        before: dict[int, set[int]] = {}
        for i, j in self.skips:
            if number[i] != number[j]:
                before.setdefault(number[j], set()).add(number[i])
        return Grammar(
            name=self.name,
            junctions=count,
            words=tuple(replace(spoken, start=number[spoken.start], end=number[spoken.end]) for spoken in self.words),
            skips=tuple((i, j) for j in TopologicalSorter(before).static_order() for i in sorted(before.get(j, ()))),
        )

    def _fail(self, line: int, fault: str) -> NoReturn:
        raise LanguageModelError(f"{self.name}, line {line}: {fault}")


def _strong_components(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """Of each of ``count`` nodes a number that it shares with those that it reaches and that reach it (Kosaraju)."""
    onward: list[list[int]] = [[] for _ in range(count)]
    back: list[list[int]] = [[] for _ in range(count)]
    for a, b in edges:
        onward[a].append(b)
        back[b].append(a)
    left: list[int] = []  # nodes, each after all that it reaches
    seen = [False] * count
    for root in range(count):
        path = [] if seen[root] else [(root, iter(onward[root]))]
        seen[root] = True
        while path:
            node, following = path[-1]
            child = next((child for child in following if not seen[child]), None)
            if child is None:
                left.append(node)
                path.pop()
            else:
                seen[child] = True
                path.append((child, iter(onward[child])))
    group = [-1] * count
    for root in reversed(left):
        waiting = [root] if group[root] < 0 else []
        while waiting:
            node = waiting.pop()
            if group[node] < 0:
                group[node] = root
                waiting += back[node]
    return group

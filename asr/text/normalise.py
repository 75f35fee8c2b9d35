"""Text normalisation, one choice per recipe, applied alike to what is trained on and what is scored."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable

from asr.errors import MissingExtraError

_APOSTROPHES = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "＇": "'"})
_CAPITALS = re.compile(r"(?<![^\W\d])[A-Z]{2,}(?![^\W\d])")
_DIGIT = re.compile(r"(?P<digit>\d)(?:(?:st|nd|rd|th)\b|[.](?=\d))?")
"""A digit and what of a number is neither said by itself nor by digits alone: an ordinal's ending, a point."""


def normalise(text: str, form: str) -> str:
    """``text`` in the given form, white space collapsed to single spaces.

    ``none``: NFC only. ``lower``: NFKC and lower case. ``words``: as ``lower``, and whatever is not a letter, a mark, a
    digit or a word's own apostrophe becomes a space, so that "Well-known, isn't it?" is "well known isn't it".
    ``english``: Whisper's, for scoring alone: numbers in digits, British spelling made American, contractions written
    out, fillers and what stands in brackets dropped (Radford et al. 2022, appendix C); needs the extra ``english``.
    ``spelled``: as ``english``, then what is spelled out letter by letter, whoever wrote it: capitals in a row and
    numbers are taken apart, so that "CQQF-39th" and "c q q f thirty nine" are both "c q q f 3 9"; no "$", no "%".
    """
    if form == "spelled":
        # Taken apart before, too: Whisper's form drops a number's leading zeros. It leaves a 1 by itself a word.
        text = _DIGIT.sub(r" \g<digit> ", _CAPITALS.sub(lambda run: " ".join(run[0]), text))
        text = _DIGIT.sub(r" \g<digit> ", normalise(text, "english"))
        return " ".join("1" if word == "one" else word for word in text.split() if word not in "$£€¢%")
    if form == "english":
        return " ".join(_whisper_english()(unicodedata.normalize("NFC", text)).split())
    if form == "none":
        return " ".join(unicodedata.normalize("NFC", text).split())
    text = unicodedata.normalize("NFKC", text).lower().translate(_APOSTROPHES)
    if form == "words":
        text = "".join(c if c == "'" or unicodedata.category(c)[0] in "LMN" else " " for c in text)
        text = " ".join(word.strip("'") if set(word) == {"'"} else word for word in text.split())
    return " ".join(text.split())


@functools.cache
def _whisper_english() -> Callable[[str], str]:
    try:
        from whisper_normalizer.english import EnglishTextNormalizer
    except ImportError as error:
        raise MissingExtraError("whisper-normalizer", "english", "Whisper's English normalisation") from error
    normaliser: Callable[[str], str] = EnglishTextNormalizer()
    return normaliser

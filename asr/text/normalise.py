"""Text normalisation, one choice per recipe, applied alike to what is trained on and what is scored."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Callable

from asr.errors import MissingExtraError

_APOSTROPHES = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "＇": "'"})


def normalise(text: str, form: str) -> str:
    """``text`` in the given form, white space collapsed to single spaces.

    ``none``: NFC only. ``lower``: NFKC and lower case. ``words``: as ``lower``, and whatever is not a letter, a mark, a
    digit or a word's own apostrophe becomes a space, so that "Well-known, isn't it?" is "well known isn't it".
    ``english``: Whisper's, for scoring alone: numbers in digits, British spelling made American, contractions written
    out, fillers and what stands in brackets dropped (Radford et al. 2022, appendix C); needs the extra ``english``.
    """
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

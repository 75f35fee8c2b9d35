"""Text normalisation, one choice per recipe, applied alike to what is trained on and what is scored."""

from __future__ import annotations

import unicodedata

_APOSTROPHES = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "＇": "'"})


def normalise(text: str, form: str) -> str:
    """``text`` in the given form, white space collapsed to single spaces.

    ``none``: NFC only. ``lower``: NFKC and lower case. ``words``: as ``lower``, and whatever is not a letter, a mark, a
    digit or a word's own apostrophe becomes a space, so that "Well-known, isn't it?" is "well known isn't it".
    """
    if form == "none":
        return " ".join(unicodedata.normalize("NFC", text).split())
    text = unicodedata.normalize("NFKC", text).lower().translate(_APOSTROPHES)
    if form == "words":
        text = "".join(c if c == "'" or unicodedata.category(c)[0] in "LMN" else " " for c in text)
        text = " ".join(word.strip("'") if set(word) == {"'"} else word for word in text.split())
    return " ".join(text.split())

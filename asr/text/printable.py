"""Text of strangers on its way to a terminal."""

from __future__ import annotations

import re

_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal obeys instead of showing it (C0 and C1 controls, escape sequences among them), or shows other text
reordered by (bidirectional embeddings, overrides and isolates: Trojan Source, CVE-2021-42574), line separators, and the
halves of characters that stand for the bytes of a name that is not UTF-8, which nothing can print."""
_LINES = re.compile("[\t\n]")


def printable(text: str, *, line: bool = False) -> str:
    """``text`` with what a terminal would obey written as ``\\u001b``, which in JSON means the same. Line feeds and
    tabs stay, unless it shall be one ``line``, as a name in a list must."""
    shown = _OBEYED.sub(_escape, text)
    return _LINES.sub(_escape, shown) if line else shown


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"

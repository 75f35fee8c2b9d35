"""A small drawing of each cell and a sentence about it, for readers who have not met them."""

from __future__ import annotations

from dataclasses import dataclass

_SENTENCES = {
    "feedforward": "no memory; each frame is read with a fixed window of its neighbours",
    "rnn": "a state that each frame overwrites with a mix of itself and what is heard",
    "gru": "a state that a gate keeps or renews, and another gate that says how much of it is looked at",
    "lstm": "a memory cell beside the state, with gates that write it, keep it and read it",
}
_GATES = {"feedforward": (), "rnn": (), "gru": ("renew", "look"), "lstm": ("write", "keep", "read")}
_NONLINEARITIES = {"rnn-tanh": "tanh", "rnn-relu": "ReLU", "irnn": "ReLU from the identity"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """``svg`` in the page's colours; ``sentence`` goes on after the cell's ``name``."""

    name: str
    svg: str
    sentence: str


def drawing(cell: str) -> Drawing:
    """Of one of the names of ``cells.CELLS``."""
    both = cell.startswith("bi")
    own = cell.removeprefix("bi")
    kind = "rnn" if "rnn" in own else own
    sentence = _SENTENCES[kind]
    if kind == "rnn":
        sentence += f" ({_NONLINEARITIES[own]})"
    if both:
        sentence += "; one such network reads forwards and one backwards"
    return Drawing(name=cell, svg=_svg(kind, both=both), sentence=sentence)


def _svg(kind: str, *, both: bool) -> str:
    """Three frames in a row: what is heard comes from below, what is told goes up, what is remembered goes sideways."""
    parts = []
    for x in (20, 80, 140):
        parts.append(f'<rect x="{x}" y="40" width="36" height="28" rx="4"/>')
        parts.append(f'<path d="M{x + 18} 92V70m-4 6 4-6 4 6M{x + 18} 38V16m-4 6 4-6 4 6"/>')
    for x in (56, 116):
        if kind == "feedforward":
            parts.append(f'<path d="M{x - 16} 92 {x + 40} 70M{x + 40} 92 {x - 16} 70" stroke-dasharray="2 3"/>')
            continue
        parts.append(f'<path d="M{x} {48 if both else 54}H{x + 23}m-6-4 6 4-6 4"/>')
        if kind == "lstm":
            parts.append(f'<path d="M{x} 44H{x + 23}" stroke-width="3"/>')
        if both:
            parts.append(f'<path d="M{x + 24} 62H{x + 1}m6-4-6 4 6 4"/>')
    for i, gate in enumerate(_GATES[kind]):
        parts.append(f'<circle cx="{88 + 10 * i}" cy="61" r="3"/>')
        parts.append(f'<text x="{14 + 58 * i}" y="108">● {gate}</text>')
    return f'<svg viewBox="0 0 196 112" role="img" aria-label="{kind} over three frames">{"".join(parts)}</svg>'

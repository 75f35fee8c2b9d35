"""A recipe's network in words."""

from __future__ import annotations

from asr import recipe


def describe(encoder: recipe.Encoder) -> str:
    """ "LSTM, 3 layers of 256 units, both ways"."""
    if isinstance(encoder, recipe.Own):
        return f"a class of its own, {encoder.name}"
    kinds = {"feedforward": "feed-forward", "rnn": "simple RNN", "gru": "GRU", "lstm": "LSTM"}
    kind = kinds[encoder.kind] + (f" ({encoder.nonlinearity})" if isinstance(encoder, recipe.Rnn) else "")
    layers = f"{encoder.layers} layer{'s' if encoder.layers > 1 else ''} of {encoder.hidden} units"
    if isinstance(encoder, recipe.FeedForward):
        return f"{kind}, {layers}"
    return f"{kind}, {layers}, {'both ways' if encoder.bidirectional else 'forwards'}"

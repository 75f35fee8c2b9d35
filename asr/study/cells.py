"""The encoders that a study sets side by side, each fitted to the same number of parameters."""

from __future__ import annotations

from typing import Any

import torch

from asr import recipe
from asr.errors import RecipeError
from asr.model.encoder import build_encoder
from asr.recipe.frames import feature_size

CELLS: dict[str, dict[str, Any]] = {
    "feedforward": {"kind": "feedforward"},
    "rnn-tanh": {"kind": "rnn", "nonlinearity": "tanh", "bidirectional": False},
    "rnn-relu": {"kind": "rnn", "nonlinearity": "relu", "bidirectional": False},
    "irnn": {"kind": "rnn", "nonlinearity": "relu", "init": "identity", "bidirectional": False},
    "gru": {"kind": "gru", "bidirectional": False},
    "lstm": {"kind": "lstm", "bidirectional": False},
    "birnn-tanh": {"kind": "rnn", "nonlinearity": "tanh", "bidirectional": True},
    "birnn-relu": {"kind": "rnn", "nonlinearity": "relu", "bidirectional": True},
    "bigru": {"kind": "gru", "bidirectional": True},
    "bilstm": {"kind": "lstm", "bidirectional": True},
}
"""What each name changes of a recipe's encoder. ``irnn`` is a ReLU RNN that begins from the identity."""

_KINDS: dict[str, type[recipe.FeedForward | recipe.Recurrent]] = {
    "feedforward": recipe.FeedForward,
    "rnn": recipe.Rnn,
    "gru": recipe.Gru,
    "lstm": recipe.Lstm,
}


def parse_cells(names: str) -> tuple[str, ...]:
    """``gru,lstm`` as names, each once. Raises RecipeError for one that is not of ``CELLS``."""
    chosen = tuple(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    unknown = [f'"{name}"' for name in chosen if name not in CELLS]
    if unknown or not chosen:
        found = f"{', '.join(unknown)} is no cell" if unknown else "no cell is named"
        raise RecipeError(f"--cells: {found}; there are {', '.join(CELLS)}")
    return chosen


def with_cell(settings: recipe.Recipe, cell: str, seed: int) -> recipe.Recipe:
    """``settings`` with ``cell`` in the place of its encoder's, the hidden size chosen so that the encoder has as
    nearly as can be as many parameters as the recipe's own. What else the recipe says of the encoder stays where the
    cell has it too (front end, layers, dropout, layer norm, projection), and so do data and training.

    Raises RecipeError where no size that a recipe may name is large enough.
    """
    bins = feature_size(settings.features)
    target = encoder_parameters(settings.encoder, bins)
    small, large = 1, 2
    while encoder_parameters(_resized(settings.encoder, cell, large), bins) < target:
        small, large = large, 2 * large
    while large - small > 1:
        middle = (small + large) // 2
        below = encoder_parameters(_resized(settings.encoder, cell, middle), bins) < target
        small, large = (middle, large) if below else (small, middle)
    encoder = min(
        (_resized(settings.encoder, cell, hidden) for hidden in (small, large)),
        key=lambda tried: abs(encoder_parameters(tried, bins) - target),
    )
    return settings.model_copy(update={"encoder": encoder, "seed": seed})


def encoder_parameters(settings: recipe.Encoder, bins: int) -> int:
    """How many weights an encoder over ``bins`` features has; none is allocated."""
    with torch.device("meta"):
        return sum(weights.numel() for weights in build_encoder(settings, bins).parameters())


def _resized(settings: recipe.Encoder, cell: str, hidden: int) -> recipe.Encoder:
    kind = _KINDS[CELLS[cell]["kind"]]
    shared = {name: value for name, value in settings if name in kind.model_fields}
    try:
        return kind(**{**shared, **CELLS[cell], "hidden": hidden})
    except ValueError as error:
        raise RecipeError(f"{cell} would need more than {hidden // 2} units to equal the recipe's encoder") from error

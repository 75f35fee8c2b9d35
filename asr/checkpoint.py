"""The model directory: what a trained recogniser is on disk.

    model.safetensors   the best averaged weights        recipe.yaml      the resolved recipe
    last.safetensors    the last epoch's averaged ones   tokenizer.json   the alphabet or sentencepiece model
    meta.json           versions and results             training/        what only the trainer needs

Nothing here is pickled, so a stranger's directory can be loaded without running its code.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from asr import recipe, runtime
from asr.errors import CheckpointError, RecipeError, TextError
from asr.model.acoustic import AcousticModel
from asr.recipe import reading
from asr.text.tokenise import Tokeniser, tokeniser_from_json

FORMAT = 1
WEIGHTS, LAST_WEIGHTS = "model.safetensors", "last.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A model directory in memory: the model is in evaluation mode on its device."""

    model: AcousticModel
    tokeniser: Tokeniser
    recipe: recipe.Recipe
    meta: dict[str, Any]


def save_description(directory: Path, settings: recipe.Recipe, tokeniser: Tokeniser) -> None:
    """Writes tokenizer.json and, last, recipe.yaml: all of the directory but weights and results."""
    with runtime.replacing(directory / "tokenizer.json") as file:
        file.write(tokeniser.to_json())
    with runtime.replacing(directory / "recipe.yaml") as file:
        file.write(reading.dump_recipe(settings))


def save_weights(path: Path, weights: dict[str, torch.Tensor]) -> None:
    with runtime.replacing(path, "wb") as file:
        file.write(save({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}))


def save_meta(directory: Path, meta: dict[str, Any]) -> None:
    with runtime.replacing(directory / "meta.json") as file:
        json.dump({"format": FORMAT, **meta}, file, indent=1, ensure_ascii=False)
        file.write("\n")


def load_description(directory: Path) -> tuple[recipe.Recipe, Tokeniser]:
    """The recipe and tokeniser of a model directory. Raises CheckpointError."""
    if not directory.is_dir():
        why = "it is a file" if directory.exists() else "there is no such folder"
        raise CheckpointError(f"{directory} is not a model directory: {why}")
    try:
        settings = reading.load_recipe(directory / "recipe.yaml")
        return settings, tokeniser_from_json((directory / "tokenizer.json").read_text(encoding="utf-8"))
    except (RecipeError, TextError, OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{directory} is not a whole model directory: {error}") from error


def load_checkpoint(directory: Path, *, device: str = "auto", weights: str = WEIGHTS) -> Checkpoint:
    """The model in ``directory``. Raises CheckpointError where it is missing, incomplete or not one of ours."""
    settings, tokeniser = load_description(directory)
    path = directory / weights
    if not path.is_file():
        raise CheckpointError(f"{path} is not there: has the training finished its first epoch?")
    model = AcousticModel(settings, len(tokeniser.tokens))
    try:
        model.load_state_dict(load_file(path))
        meta: dict[str, Any] = json.loads((directory / "meta.json").read_text(encoding="utf-8"))
    except (SafetensorError, RuntimeError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{directory} does not load: {reason}") from error
    if meta.get("format") != FORMAT:
        raise CheckpointError(f"{directory} is of format {meta.get('format')}, and this version reads {FORMAT}")
    return Checkpoint(
        model=model.to(runtime.pick_device(device)).eval(), tokeniser=tokeniser, recipe=settings, meta=meta
    )


def newest(folder: Path) -> Path:
    """The model directory under ``folder`` whose weights were written last. Raises CheckpointError where none is."""
    found = sorted(folder.glob(f"*/{WEIGHTS}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise CheckpointError(
            f"there is no model under {folder}/: train one (asr train RECIPE) or name one (--model DIR)"
        )
    return found[-1].parent


def is_described(directory: Path) -> bool:
    """Whether a run has made ``directory`` its own: recipe.yaml, which is written last, is there.

    Raises CheckpointError for a file in its place.
    """
    if directory.exists() and not directory.is_dir():
        raise CheckpointError(f"{directory} cannot be a model directory: it is a file")
    return (directory / "recipe.yaml").exists()


def epochs_trained(directory: Path) -> int:
    """Epochs behind the weights in ``directory``, as its meta.json says; 0 where there are none."""
    try:
        return int(json.loads((directory / "meta.json").read_text(encoding="utf-8"))["training"]["epochs"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0

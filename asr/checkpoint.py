"""The model directory: what a trained recogniser, or an LSTM language model, is on disk.

    model.safetensors   the best averaged weights        recipe.yaml      the resolved recipe
    last.safetensors    the last epoch's averaged ones   tokenizer.json   the alphabet or sentencepiece model
    meta.json           versions and results             pronunciations.txt   the lexicon, where units are phones
                                                         training/        what only the trainer needs

Nothing here is pickled, so a stranger's directory can be loaded without running its code.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from asr import files, recipe, runtime
from asr.errors import CheckpointError, RecipeError, TextError
from asr.model.acoustic import AcousticModel
from asr.model.language import LanguageModel
from asr.model.network import TorchNetwork
from asr.recipe import reading
from asr.records import Network
from asr.text.pronounce import read_lexicon, write_lexicon
from asr.text.tokenise import PhoneTokeniser, Tokeniser, tokeniser_from_json

FORMAT = 1
R = TypeVar("R", bound=recipe.Section)
WEIGHTS, LAST_WEIGHTS = "model.safetensors", "last.safetensors"
PRONUNCIATIONS = "pronunciations.txt"
Engine = Literal["auto", "torch", "onnx"]
"""What computes the network: ``auto`` is what is there and quickest on this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A model directory in memory: the model is in evaluation mode on its device."""

    model: AcousticModel
    tokeniser: Tokeniser
    recipe: recipe.Recipe
    meta: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedNetwork:
    """A model directory ready to recognise, whatever computes its network."""

    network: Network
    tokeniser: Tokeniser
    recipe: recipe.Recipe
    meta: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModelCheckpoint:
    """As ``Checkpoint``, of an LSTM language model. ``directory`` names it in what is said of it."""

    directory: Path
    model: LanguageModel
    tokeniser: Tokeniser
    recipe: recipe.LanguageModelRecipe
    meta: dict[str, Any]

    def check_spells_as(self, tokeniser: Tokeniser) -> None:
        """Raises CheckpointError where the language model's tokens are not those of ``tokeniser``, a recogniser's."""
        if self.tokeniser.tokens != tokeniser.tokens:
            raise CheckpointError(
                f"the language model {self.directory} spells in {len(self.tokeniser.tokens)} tokens that are not the "
                f"recogniser's {len(tokeniser.tokens)}: train it with --tokeniser and this recogniser's directory"
            )


def save_description(directory: Path, settings: recipe.Section, tokeniser: Tokeniser) -> None:
    """Writes tokenizer.json and, last, recipe.yaml: all of the directory but weights and results."""
    if isinstance(tokeniser, PhoneTokeniser):
        save_lexicon(directory, tokeniser)
    with files.replacing(directory / "tokenizer.json") as file:
        file.write(tokeniser.to_json())
    with files.replacing(directory / "recipe.yaml") as file:
        file.write(reading.dump_recipe(settings))


def save_lexicon(directory: Path, tokeniser: PhoneTokeniser) -> None:
    write_lexicon(tokeniser.lexicon.within(tokeniser.tokens), directory / PRONUNCIATIONS)


def save_weights(path: Path, weights: dict[str, torch.Tensor]) -> None:
    with files.replacing(path, "wb") as file:
        file.write(save({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}))


def save_meta(directory: Path, meta: dict[str, Any]) -> None:
    with files.replacing(directory / "meta.json") as file:
        json.dump({"format": FORMAT, **meta}, file, indent=1, ensure_ascii=False)
        file.write("\n")


@overload
def load_description(directory: Path) -> tuple[recipe.Recipe, Tokeniser]: ...
@overload
def load_description(directory: Path, schema: type[R]) -> tuple[R, Tokeniser]: ...
def load_description(directory: Path, schema: type[recipe.Section] = recipe.Recipe) -> tuple[recipe.Section, Tokeniser]:
    """The recipe and tokeniser of a model directory. Raises CheckpointError."""
    if not directory.is_dir():
        why = "it is a file" if directory.exists() else "there is no such folder"
        raise CheckpointError(f"{directory} is not a model directory: {why}")
    try:
        settings = reading.load_recipe(directory / "recipe.yaml", schema=schema)
        described = (directory / "tokenizer.json").read_text(encoding="utf-8")
        return settings, tokeniser_from_json(described, lambda: read_lexicon(directory / PRONUNCIATIONS))
    except (RecipeError, TextError, OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{directory} is not a whole model directory: {error}") from error


def load_checkpoint(directory: Path, *, device: str = "auto", weights: str = WEIGHTS) -> Checkpoint:
    """The model in ``directory``. Raises CheckpointError where it is missing, incomplete or not one of ours."""
    settings, tokeniser = load_description(directory)
    model = AcousticModel(settings, len(tokeniser.tokens))
    meta = _load_weights(model, directory, weights)
    return Checkpoint(
        model=model.to(runtime.pick_device(device)).eval(), tokeniser=tokeniser, recipe=settings, meta=meta
    )


def load_network(
    directory: Path, *, engine: Engine = "auto", device: str = "auto", weights: str = WEIGHTS
) -> LoadedNetwork:
    """The network of ``directory`` by ``engine``. Raises CheckpointError as ``load_checkpoint`` does."""
    if engine == "onnx":
        raise CheckpointError(f"{directory} holds no network for ONNX Runtime")
    loaded = load_checkpoint(directory, device=device, weights=weights)
    return LoadedNetwork(
        network=TorchNetwork(loaded.model), tokeniser=loaded.tokeniser, recipe=loaded.recipe, meta=loaded.meta
    )


def load_language_model(directory: Path, *, device: str = "auto", weights: str = WEIGHTS) -> LanguageModelCheckpoint:
    """The LSTM language model in ``directory``. Raises CheckpointError as ``load_checkpoint`` does."""
    settings, tokeniser = load_description(directory, recipe.LanguageModelRecipe)
    model = LanguageModel(settings.network, len(tokeniser.tokens))
    meta = _load_weights(model, directory, weights)
    return LanguageModelCheckpoint(
        directory=directory,
        model=model.to(runtime.pick_device(device)).eval(),
        tokeniser=tokeniser,
        recipe=settings,
        meta=meta,
    )


def _load_weights(model: nn.Module, directory: Path, weights: str) -> dict[str, Any]:
    """Fills ``model`` and returns the contents of meta.json. Raises CheckpointError."""
    path = directory / weights
    if not path.is_file():
        raise CheckpointError(f"{path} is not there: has the training finished its first epoch?")
    try:
        model.load_state_dict(load_file(path))
        meta: dict[str, Any] = json.loads((directory / "meta.json").read_text(encoding="utf-8"))
    except (SafetensorError, RuntimeError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{directory} does not load: {reason}") from error
    if meta.get("format") != FORMAT:
        raise CheckpointError(f"{directory} is of format {meta.get('format')}, and this version reads {FORMAT}")
    return meta


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

"""``asr.train``: a recipe's training with what only Python code can give it, a corpus in memory or a network class."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from asr import recipe, runtime
from asr.data.given import Given, as_given
from asr.errors import CorpusError, RecipeError, TrainingStopped
from asr.files import data_root
from asr.recipe import reading
from asr.records import Trained
from asr.train.acoustic import train_acoustic_model


def train(
    settings: str | PathLike[str] | Mapping[str, Any] | recipe.Recipe,
    out: str | PathLike[str],
    *,
    cuts: Iterable[Any] | Mapping[str, Iterable[Any]] | None,
    encoder: type[nn.Module] | None,
    overrides: Sequence[str],
    data: str | PathLike[str] | None,
    device: str,
    resume: bool,
) -> Trained:
    """As ``asr.train``, which tells of the parameters."""
    raw, where = _raw(settings)
    given = _given(cuts)
    if given:
        raw["corpora"] = _corpora(raw.get("corpora"), given)
    if encoder is not None:
        raw["encoder"] = _encoder(raw.get("encoder"), encoder)
    whole = reading.validate_recipe(raw, where, overrides)
    root = data_root(None if data is None else str(data), whole.data)
    whole, directory = whole.model_copy(update={"data": str(root)}), Path(out)
    try:
        with runtime.joined(device):
            meta = train_acoustic_model(
                whole, directory, root=root, device=device, resume=resume, given=given, encoder=encoder
            )
    except TrainingStopped as stopped:
        raise TrainingStopped(stopped.where, "go on with the same call and resume=True") from None
    spent, results = meta["training"], meta["results"]
    return Trained(
        directory=directory,
        epochs=spent["epochs"],
        best_epoch=results["best_epoch"],
        dev=dict(results["dev"]),
        minutes=spent["minutes"],
        remarks=tuple(spent.get("remarks", ())),
    )


def _raw(settings: str | PathLike[str] | Mapping[str, Any] | recipe.Recipe) -> tuple[dict[str, Any], str]:
    """A recipe's plain values, to be changed, and what heads the list of their faults. What it leaves open stays so."""
    if isinstance(settings, recipe.Recipe):
        return settings.model_dump(mode="json", exclude_unset=True), "the recipe"
    if isinstance(settings, Mapping):
        return copy.deepcopy({**settings}), "the recipe"
    path = Path(settings)
    raw = reading.read_yaml(path)
    if not isinstance(raw, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of keys to values; found {type(raw).__name__}")
    return raw, str(path)


def _given(cuts: Iterable[Any] | Mapping[str, Iterable[Any]] | None) -> dict[str, Given]:
    """By split. Raises CorpusError."""
    if cuts is None:
        return {}
    splits = cuts if isinstance(cuts, Mapping) else {"train": cuts}
    if "train" not in splits or splits.keys() - {"train", "dev"}:
        raise CorpusError(
            f'cuts by split are {{"train": …}} or {{"train": …, "dev": …}}; found {", ".join(map(str, splits))}'
        )
    return {split: as_given(some, split) for split, some in splits.items()}


def _corpora(own: Any, given: Mapping[str, Given]) -> dict[str, Any]:
    """The recipe's corpora with those ``given`` in their place. A tenth is held out where nothing else is for dev."""
    corpora = {"dev": {"share": 0.1}, **(own if isinstance(own, dict) else {})}
    return corpora | {split: [{"kind": "given", "split": split}] for split in given}


def _encoder(own: Any, encoder: type[nn.Module]) -> dict[str, Any]:
    """The recipe's section, of kind ``own``. Raises RecipeError for what is no class of modules."""
    if not (isinstance(encoder, type) and issubclass(encoder, nn.Module)):
        raise RecipeError(f"encoder is a class, a torch.nn.Module, and not what it makes; found {encoder!r}")
    name = f"{encoder.__module__}:{encoder.__qualname__}"
    return {**(own if isinstance(own, dict) else {}), "kind": "own", "name": name}

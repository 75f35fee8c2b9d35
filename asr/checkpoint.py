"""The model directory: what a trained recogniser, or an LSTM language model, is on disk.

    model.safetensors   the best averaged weights        recipe.yaml      the resolved recipe
    last.safetensors    the last epoch's averaged ones   tokenizer.json   the alphabet or sentencepiece model
    meta.json           versions and results             pronunciations.txt   the lexicon, where units are phones
                                                         training/        what only the trainer needs

Nothing here is pickled, so a stranger's directory can be loaded without running its code.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import shutil
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from asr import files, recipe, runtime
from asr.errors import CheckpointError, RecipeError, TextError
from asr.onnx.network import OnnxNetwork, exported_precision
from asr.recipe import reading
from asr.recipe.frames import feature_size
from asr.text.pronounce import PronunciationLexicon, Source, parse_lexicon, write_lexicon
from asr.text.tokenise import PhoneTokeniser, Tokeniser, tokeniser_from_json

if TYPE_CHECKING:  # recognition needs no torch: it is imported where weights are read or written
    import torch
    from torch import nn

    from asr.model.acoustic import AcousticModel
    from asr.model.language import LanguageModel
    from asr.records import Network

FORMAT = 1
R = TypeVar("R", bound=recipe.Section)
M = TypeVar("M", bound="nn.Module")
WEIGHTS, LAST_WEIGHTS = "model.safetensors", "last.safetensors"
PRONUNCIATIONS = "pronunciations.txt"
Engine = Literal["auto", "torch", "onnx"]
"""What computes the network: ``auto`` is what is there and quickest on this machine."""
_MOST_BYTES = {"tokenizer.json": 16 << 20, "meta.json": 16 << 20, PRONUNCIATIONS: 64 << 20}
"""Of what is read whole into memory."""
_FLOATS = {"F64", "F32", "F16", "BF16"}
BUILT_IN = "english"
"""The name of the model that lies in the package, in a folder of that name."""


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
    save_recipe(directory, settings)


def save_recipe(directory: Path, settings: recipe.Section) -> None:
    with files.replacing(directory / "recipe.yaml") as file:
        file.write(reading.dump_recipe(settings))


def save_lexicon(directory: Path, tokeniser: PhoneTokeniser) -> None:
    write_lexicon(tokeniser.lexicon.within(tokeniser.tokens), directory / PRONUNCIATIONS)


def save_weights(path: Path, weights: dict[str, torch.Tensor], notes: dict[str, str] | None = None) -> None:
    """Writes ``weights`` as safetensors, with ``notes`` in its header."""
    from safetensors.torch import save

    with files.replacing(path, "wb") as file:
        file.write(save({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, notes))


def save_meta(directory: Path, meta: dict[str, Any]) -> None:
    with files.replacing(directory / "meta.json") as file:
        json.dump({"format": FORMAT, **_finite(meta)}, file, indent=1, ensure_ascii=False, allow_nan=False)
        file.write("\n")


def _finite(value: Any) -> Any:
    """``value`` as JSON can say it: a NaN or infinite figure is null."""
    match value:
        case dict():
            return {key: _finite(entry) for key, entry in value.items()}
        case list() | tuple():
            return [_finite(entry) for entry in value]
        case float() if not math.isfinite(value):
            return None
    return value


def own_path(directory: Path, name: str, *, folder: bool = False) -> Path:
    """Where ``name`` of a model directory is: a regular file, or a folder, that lies inside it.

    What is not there is left to whoever opens it. Raises CheckpointError for a path or link that leads out, and for a
    pipe or a device, which would be waited for or read without end.
    """
    path, fault = directory / name, f"{directory} does not load: {name}"
    try:
        if not path.resolve().is_relative_to(directory.resolve()):
            raise CheckpointError(f"{fault} leads out of it, where a model directory reads nothing")
        status = path.stat()
    except FileNotFoundError:
        return path
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL, a link to itself
        raise CheckpointError(f"{fault} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not (stat.S_ISDIR(status.st_mode) if folder else stat.S_ISREG(status.st_mode)):
        raise CheckpointError(f"{fault} is not a {'folder' if folder else 'regular file'}")
    most = _MOST_BYTES.get(name)
    if most is not None and status.st_size > most:
        raise CheckpointError(f"{fault} has {status.st_size} bytes, and at most {most} are read")
    return path


def check_paths(directory: Path, decoder: recipe.Decoder, overrides: Sequence[str] = ()) -> None:
    """Raises CheckpointError where the directory's own ``decoder`` would read what lies outside it. A path that one of
    the ``overrides`` (``decoder.lexicon=words.txt``) replaces is the user's word, and may be anywhere."""
    paths: dict[str, str | None] = {}
    if isinstance(decoder, recipe.Phrases):
        paths["file"] = decoder.file
    elif isinstance(decoder, recipe.Beam):
        paths = {"language_model": decoder.language_model, "lexicon": decoder.lexicon}
        if decoder.lstm is not None:
            paths["lstm.path"] = decoder.lstm.path
    given = {override.partition("=")[0] for override in overrides}
    options = {"language_model": "--lm", "lexicon": "--lexicon", "lstm.path": "--lstm", "file": "--phrases"}
    for key, path in paths.items():
        parts = f"decoder.{key}".split(".")
        if not path or given & {".".join(parts[:length]) for length in range(1, len(parts) + 1)}:
            continue
        try:
            own_path(directory, path, folder=key == "lstm.path")
        except CheckpointError as error:
            raise CheckpointError(
                f"{error} (decoder.{key} of its recipe.yaml); if you trust that path, name it yourself: {options[key]}"
            ) from error


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
        settings = reading.load_recipe(own_path(directory, "recipe.yaml"), schema=schema)
        described = own_path(directory, "tokenizer.json").read_text(encoding="utf-8")
        return settings, tokeniser_from_json(described, lambda phones: _open_lexicon(directory, tuple(phones)))
    except (RecipeError, TextError, OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{directory} is not a whole model directory: {error}") from error


def _open_lexicon(directory: Path, phones: tuple[str, ...]) -> PronunciationLexicon:
    """The directory's lexicon. It is read when it is first needed, and raises CheckpointError then where it is
    malformed or has other phones: of a large one, most uses need what the search keeps of it alone."""
    path = own_path(directory, PRONUNCIATIONS)
    content = path.read_bytes()
    source = Source(path.resolve(), hashlib.sha256(content).hexdigest())
    return PronunciationLexicon(functools.partial(_read_lexicon, directory, content, phones), source=source)


def _read_lexicon(directory: Path, content: bytes, phones: tuple[str, ...]) -> PronunciationLexicon:
    try:
        lexicon = parse_lexicon(content, directory / PRONUNCIATIONS)
        lexicon.check_phones(phones)
    except TextError as error:
        raise CheckpointError(f"{directory} is not a whole model directory: {error}") from error
    return lexicon


def load_checkpoint(
    directory: Path, *, device: str = "auto", weights: str = WEIGHTS, encoder: type[nn.Module] | None = None
) -> Checkpoint:
    """The model in ``directory``; ``encoder`` is the class that its recipe names, where that is of kind ``own``.

    Raises CheckpointError where the directory is missing, incomplete or not one of ours, or where that class is not the
    one given.
    """
    from asr.model.acoustic import AcousticModel

    settings, tokeniser = load_description(directory)
    vocabulary = len(tokeniser.tokens)
    try:
        state = _load_weights(lambda: _outline(settings, vocabulary, encoder), directory, weights)
        model = _filled(AcousticModel(settings, vocabulary, encoder), state, directory)
    except RecipeError as error:
        raise CheckpointError(f"{directory} does not load: {error}") from error
    return Checkpoint(
        model=model.to(runtime.pick_device(device)).eval(),
        tokeniser=tokeniser,
        recipe=settings,
        meta=load_meta(directory),
    )


def load_network(
    directory: Path,
    *,
    engine: Engine = "auto",
    device: str = "auto",
    weights: str = WEIGHTS,
    encoder: type[nn.Module] | None = None,
) -> LoadedNetwork:
    """The network of ``directory`` by ``engine``. Raises CheckpointError as ``load_checkpoint`` does.

    ``auto`` is ONNX Runtime where ``directory`` holds a graph and no GPU is to be used: on a CPU it takes half of
    torch's time, or a quarter in int8. ``weights`` other than the best are torch's to read.
    """
    exported = exported_precision(directory) is not None
    if engine == "auto":
        suits = weights == WEIGHTS and not runtime.may_use_gpu(device)
        engine = "onnx" if exported and (suits or not (directory / weights).exists()) else "torch"
    if engine == "onnx":
        return _load_exported(directory)
    from asr.model.network import TorchNetwork

    loaded = load_checkpoint(directory, device=device, weights=weights, encoder=encoder)
    return LoadedNetwork(
        network=TorchNetwork(loaded.model), tokeniser=loaded.tokeniser, recipe=loaded.recipe, meta=loaded.meta
    )


def _load_exported(directory: Path) -> LoadedNetwork:
    settings, tokeniser = load_description(directory)
    network = OnnxNetwork(directory, threads=runtime.threads())
    if network.vocabulary != len(tokeniser.tokens):
        raise CheckpointError(
            f"{directory} does not load: its graph emits {network.vocabulary} tokens, and its tokeniser has "
            f"{len(tokeniser.tokens)}"
        )
    return LoadedNetwork(network=network, tokeniser=tokeniser, recipe=settings, meta=load_meta(directory))


def _outline(settings: recipe.Recipe, vocabulary: int, own: type[nn.Module] | None = None) -> nn.Module:
    """The acoustic model's tensors by name and shape, without their memory but for an encoder of the user's own, whose
    class may not be made to do without."""
    import torch

    from asr.model.encoder import build_encoder
    from asr.model.features import FeatureExtractor

    encoder = settings.encoder
    if isinstance(encoder, recipe.Rnn):
        encoder = encoder.model_copy(update={"init": "uniform"})  # torch.eye of no memory imports for seconds
    features = FeatureExtractor(settings.features)
    with torch.device("meta") if own is None else contextlib.nullcontext():
        body = build_encoder(encoder, feature_size(settings.features), own)
        head = torch.nn.Linear(body.size, vocabulary)
        return torch.nn.ModuleDict({"features": features, "encoder": body, "head": head})


def load_language_model(directory: Path, *, device: str = "auto", weights: str = WEIGHTS) -> LanguageModelCheckpoint:
    """The LSTM language model in ``directory``. Raises CheckpointError as ``load_checkpoint`` does."""
    import torch

    from asr.model.language import LanguageModel

    settings, tokeniser = load_description(directory, recipe.LanguageModelRecipe)
    vocabulary = len(tokeniser.tokens)

    def outline() -> nn.Module:
        with torch.device("meta"):
            return LanguageModel(settings.network, vocabulary)

    state = _load_weights(outline, directory, weights)
    model = _filled(LanguageModel(settings.network, vocabulary), state, directory)
    return LanguageModelCheckpoint(
        directory=directory,
        model=model.to(runtime.pick_device(device)).eval(),
        tokeniser=tokeniser,
        recipe=settings,
        meta=load_meta(directory),
    )


def _load_weights(outline: Callable[[], nn.Module], directory: Path, weights: str) -> dict[str, torch.Tensor]:
    """The tensors of a weights file. Its header is held against the model's ``outline`` before memory is taken for
    either. Raises CheckpointError, for weights that are NaN or infinite too."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = own_path(directory, weights)
    if not path.is_file():
        raise CheckpointError(f"{path} is not there: has the training finished its first epoch?")
    try:
        _check_header(path, outline().state_dict())
        state = load_file(path)
    except (SafetensorError, RuntimeError, OSError, ValueError, TypeError, OverflowError) as error:
        raise CheckpointError(f"{directory} does not load: {' '.join(str(error).split())[:200]}") from error
    for name, tensor in state.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise CheckpointError(f"{directory} does not load: NaN or infinite weights in {name} of {weights}")
    return state


def _check_header(path: Path, expected: Mapping[str, torch.Tensor]) -> None:
    """Raises ValueError where the file's tensors are not those ``expected``, by name, shape and kind of number."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        for strange in sorted(names ^ expected.keys())[:1]:
            there = "holds no" if strange in expected else "holds a tensor that the recipe does not ask for,"
            raise ValueError(f"{path.name} {there} {strange}")
        for name, tensor in expected.items():
            entry = file.get_slice(name)
            if tuple(entry.get_shape()) != tuple(tensor.shape):
                raise ValueError(
                    f"{name} is {tuple(entry.get_shape())} in {path.name}, and the recipe and tokeniser ask for "
                    f"{tuple(tensor.shape)}"
                )
            if (entry.get_dtype() in _FLOATS) is not tensor.is_floating_point():
                raise ValueError(f"{name} is of type {entry.get_dtype()} in {path.name}, not {tensor.dtype}")


def _filled(model: M, state: dict[str, torch.Tensor], directory: Path) -> M:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{directory} does not load: {' '.join(str(error).split())[:200]}") from error
    return model


def load_meta(directory: Path) -> dict[str, Any]:
    """The contents of meta.json. Raises CheckpointError."""
    try:
        meta = files.strict_json(own_path(directory, "meta.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{directory} does not load: meta.json: {reason}") from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        found = repr(meta.get("format") if isinstance(meta, dict) else type(meta).__name__)
        raise CheckpointError(f"{directory} is of format {found[:40]}, and this version reads {FORMAT}")
    return meta


def copy_model(source: Path, target: Path) -> None:
    """Copies what loading reads of a model directory. Raises AsrError."""
    for name in (WEIGHTS, "meta.json", "tokenizer.json", PRONUNCIATIONS, "recipe.yaml"):
        original = own_path(source, name)
        if original.exists():
            with original.open("rb") as file, files.replacing(target / name, "wb") as copy:
                shutil.copyfileobj(file, copy)


def newest(folder: Path, otherwise: Path | None = None) -> Path:
    """Of the recognisers under ``folder`` whose training has finished or that were exported, the one that was written
    last; ``otherwise`` where there is none at all.

    Raises CheckpointError where there is none, and names those that are still being trained.
    """
    found = sorted(
        (path for pattern in (WEIGHTS, "model*.onnx") for path in folder.glob(f"*/{pattern}")),
        key=lambda path: path.stat().st_mtime,
        reverse=True,
    )
    unfinished = []
    for weights in found:
        meta = read_meta(weights.parent)
        if "perplexity" in meta.get("results", {}).get("dev", {}):
            continue  # an LSTM language model
        if meta.get("training", {}).get("finished", True):
            return weights.parent
        unfinished.append(str(weights.parent))
    if unfinished:
        raise CheckpointError(
            f"no model under {folder}/ has finished its training, begun: {', '.join(sorted(unfinished))}; go on with "
            "asr train RECIPE --resume, or use one as it is (--model DIR)"
        )
    if otherwise is not None:
        return otherwise
    raise CheckpointError(f"there is no model under {folder}/: train one (asr train RECIPE) or name one (--model DIR)")


def read_meta(directory: Path) -> dict[str, Any]:
    """The contents of meta.json, empty where ``load_meta`` refuses it."""
    try:
        return load_meta(directory)
    except CheckpointError:
        return {}


def built_in() -> Path | None:
    """The directory of the model in the package; None where this install has none."""
    directory = Path(__file__).parent / BUILT_IN
    return directory if directory.is_dir() else None


def means_built_in(name: str) -> bool:
    """Whether ``name`` is the built-in model's, wherever a model is named: "english" is, unless there is a model
    directory of that name in the current folder. With a path separator ("./english") it is a directory's path."""
    return name == BUILT_IN and not (Path(name) / "recipe.yaml").is_file()


def resolve(name: str) -> Path:
    """The directory of the model that is called ``name``: the built-in one (``means_built_in``), or a directory's path.

    Raises CheckpointError where the built-in model is asked for and is not part of this install.
    """
    if not means_built_in(name):
        return Path(name).expanduser()
    directory = built_in()
    if directory is None:
        raise CheckpointError(
            f'the built-in model "{BUILT_IN}" is not part of this install: name a model directory instead, or install '
            "asr with it"
        )
    return directory


def check_may_change(directory: Path) -> None:
    """Raises CheckpointError for the built-in model, which is all users' and stays as it was measured."""
    built = built_in()
    if built is not None and directory.resolve() == built.resolve():
        raise CheckpointError(
            f'the built-in model "{BUILT_IN}" stays as it is: change a copy, which asr adapt {BUILT_IN} makes'
        )


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
        return int(load_meta(directory)["training"]["epochs"])
    except (CheckpointError, ValueError, KeyError, TypeError):
        return 0

"""Training from a model: what a recipe takes from it, what it hands on, and what begins anew.

The start model is read once, when a run begins. What it hands on is kept in ``training/start.safetensors`` with a
record of where it came from, so that a resumed run never needs it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from asr import checkpoint, recipe
from asr.checkpoint import Checkpoint
from asr.errors import CheckpointError, RecipeError
from asr.model.acoustic import AcousticModel
from asr.model.encoder import Encoder, RecurrentStack
from asr.recipe import reading
from asr.records import BLANK
from asr.text.pronounce import Entry, Pronunciation, read_lexicon
from asr.text.tokenise import CharacterTokeniser, PhoneTokeniser, SentencePieceTokeniser, Tokeniser, build_tokeniser

HANDED_ON = Path("training") / "start.safetensors"
LEARNING_RATE, WARMUP_STEPS = 3e-4, 100
"""In place of a recipe's defaults, which are for random weights: a trained network has less far to go."""
FREE = {"backend", "dropout", "dropout_mask", "recurrent_dropout", "init"}
"""Keys of ``features`` and ``encoder`` that may differ from the start model's: they change no shape and no input."""
SHOWN = 12
"""Tokens named in a sentence."""

S = TypeVar("S", bound=recipe.Section)


@dataclass(frozen=True, slots=True, kw_only=True)
class StartModel:
    """The model to begin from; ``name`` is the recipe's, ``digest`` the SHA-256 of its weights' file."""

    name: str
    directory: Path
    loaded: Checkpoint
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """The tokens whose rows of the head are ``kept`` from the start model, those that begin anew, and those of the
    start model that the new one lacks; and how many of the new lexicon's words are the start model's."""

    kept: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]
    words: int = 0

    def sentence(self, name: str) -> str:
        parts = [f"{len(self.kept)} tokens kept", f"{len(self.new)} new{_some(self.new)}"]
        parts.append(f"{len(self.dropped)} dropped{_some(self.dropped)}")
        words = f", and {self.words} words of its lexicon" if self.words else ""
        return f"from {name}: features and encoder, {', '.join(parts)}{words}"


def open_start(settings: recipe.Start, encoder: type[nn.Module] | None = None) -> StartModel:
    """``encoder`` as ``load_checkpoint`` takes it. Raises CheckpointError where there is no such model, or where it is
    damaged."""
    directory = checkpoint.resolve(settings.model).absolute()
    loaded = checkpoint.load_checkpoint(directory, device="cpu", encoder=encoder)
    with (directory / checkpoint.WEIGHTS).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return StartModel(name=_lasting(settings.model), directory=directory, loaded=loaded, digest=digest)


def _lasting(name: str) -> str:
    """``name`` as it means the same from every folder; whether there is such a model is not asked."""
    return name if checkpoint.means_built_in(name) else str(checkpoint.resolve(name).absolute())


# ------------------------------------------------------------------------------------------------- the recipe


def settle(settings: recipe.Recipe, start: StartModel) -> recipe.Recipe:
    """``settings`` with what they leave open filled in: features, encoder and text from the start model, and a smaller
    learning rate after a shorter warm-up.

    Raises RecipeError naming the first key in which features or encoder differ from what the start model was trained
    with.
    """
    theirs = start.loaded.recipe
    for section in ("features", "encoder"):
        if section in settings.model_fields_set:
            _check_same(section, getattr(settings, section), getattr(theirs, section), start.name)
    text = theirs.text
    if isinstance(text.tokeniser, recipe.Characters):  # whatever it was: the new corpus may have more of them
        text = text.model_copy(update={"tokeniser": recipe.Characters()})
    training = settings.training
    usual = {"learning_rate": LEARNING_RATE, "warmup_steps": WARMUP_STEPS}
    if isinstance(settings.text.tokeniser, recipe.Phones) or "tokeniser" not in settings.text.model_fields_set:
        usual["choose_pronunciations"] = 0  # it hears them from the first
    unsaid = {key: value for key, value in usual.items() if key not in training.model_fields_set}
    return _filled(settings, theirs.model_copy(update={"text": text}), training.model_copy(update=unsaid), start.name)


def settle_again(settings: recipe.Recipe, stored: recipe.Recipe) -> recipe.Recipe:
    """As ``settle``, for a run that is resumed: what it took from the start model is in its own, ``stored`` recipe."""
    if stored.start is None:
        return settings
    training = settings.training
    unsaid = {"learning_rate", "warmup_steps", "choose_pronunciations"} - training.model_fields_set
    taken = training.model_copy(update={key: getattr(stored.training, key) for key in unsaid})
    start = settings.start or stored.start
    return _filled(settings.model_copy(update={"start": start}), stored, taken, start.model)


def _filled(settings: recipe.Recipe, theirs: recipe.Recipe, training: recipe.Training, name: str) -> recipe.Recipe:
    """``settings`` with the sections of ``theirs`` under their own. Raises RecipeError where they do not fit."""
    sections = {
        key: _laid_over(getattr(settings, key), getattr(theirs, key)) if key in settings.model_fields_set else theirs
        for key in ("text", "features", "encoder")
    }
    sections = {key: getattr(value, key) if value is theirs else value for key, value in sections.items()}
    start = settings.start.model_copy(update={"model": _lasting(settings.start.model)}) if settings.start else None
    whole = settings.model_copy(update={**sections, "training": training, "start": start})
    return reading.validate_recipe(whole.model_dump(mode="json"), f"the recipe, with what it takes from {name}")


def _laid_over(given: S, base: S) -> S:
    """``given``, with the keys that it leaves out as ``base`` has them, where that is a section of the same kind."""
    if type(given) is not type(base):
        return given
    return base.model_copy(update={key: getattr(given, key) for key in given.model_fields_set})


def _check_same(section: str, given: recipe.Section, theirs: recipe.Section, name: str) -> None:
    advice = f"leave {section} out of the recipe, which then takes that of the start model, or train without a start"
    if type(given) is not type(theirs):
        found, expected = (getattr(some, "kind", "") for some in (given, theirs))
        raise RecipeError(f"{section}.kind is {found}, and {name} was trained with {expected}: {advice}")
    for key in type(given).model_fields:
        found, expected = getattr(given, key), getattr(theirs, key)
        if key in given.model_fields_set and key not in FREE and found != expected:
            raise RecipeError(
                f"{section}.{key} is {_plain(found)}, and {name} was trained with {_plain(expected)}: {advice}"
            )


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, recipe.Section) else value


# ---------------------------------------------------------------------------------------------------- tokens


def build_tokeniser_from(start: StartModel, wanted: recipe.Text, texts: Iterable[str], root: Path) -> Tokeniser:
    """The tokeniser that a recipe asks for, as near to the start model's as it can be.

    Letters are the start model's and those that the texts have besides, unless the recipe names an alphabet. Sub-words
    are the start model's own where the recipe asks for as many. Phones are its own and those that new pronunciations
    need, and its lexicon pronounces the texts' words too; a recipe's lexicon file comes before it.
    """
    own, settings = start.loaded.tokeniser, wanted.tokeniser
    match own, settings:
        case CharacterTokeniser(), recipe.Characters(alphabet=None):
            known = own.tokens[BLANK + 1 :]
            more = {character for text in texts for character in text} - {*known}
            return CharacterTokeniser([*known, *sorted(more)])
        case SentencePieceTokeniser(), recipe.SentencePiece() if settings == start.loaded.recipe.text.tokeniser:
            return own
        case PhoneTokeniser(), recipe.Phones():
            words = list(dict.fromkeys(word for text in texts for word in text.split()))
            entries = _own_entries(own, settings, words, root)
            if entries is not None:
                return _extended(own, settings, entries, words)
            texts = words
    return build_tokeniser(settings, texts, root)


def _own_entries(own: PhoneTokeniser, settings: recipe.Phones, words: list[str], root: Path) -> list[Entry] | None:
    """The pronunciations of the recipe's lexicon that go before those of ``own``, in its phones where it has them: none
    where both name one lexicon, and None where the recipe's is of other phones."""
    same = (settings.lexicon, settings.language) == (own.settings.lexicon, own.settings.language)
    if same:
        return []
    if settings.lexicon in ("cmudict", "espeak"):
        return None
    lexicon = read_lexicon(root / settings.lexicon).in_case_of(words)
    if not {own.own_phone(phone) for phone in lexicon.phones} & {*own.tokens}:
        return None
    return [
        (word, tuple(Pronunciation(tuple(map(own.own_phone, way.phones)), way.probability) for way in ways))
        for word, ways in lexicon.items()
    ]


def _extended(own: PhoneTokeniser, settings: recipe.Phones, entries: list[Entry], words: list[str]) -> PhoneTokeniser:
    lexicon = own.lexicon.preferring(entries).extended(words)
    phones = [token for token in own.tokens[BLANK + 1 :] if token != own.space]
    more = sorted({*lexicon.phones} - {*phones})
    # Its settings say what pronounces words that are in neither lexicon.
    return PhoneTokeniser([*phones, *more], lexicon, own.settings.model_copy(update={"separator": settings.separator}))


def carry(start: StartModel, tokeniser: Tokeniser, settings: recipe.Start) -> Carried:
    """What the start model's tokens are to the new ones. Raises RecipeError where the two share no more than spaces and
    marks, unless the recipe says that the head begins anew."""
    own = start.loaded.tokeniser
    theirs, ours = own.tokens[BLANK + 1 :], tokeniser.tokens[BLANK + 1 :]
    shared = {*theirs} & {*ours} if type(own) is type(tokeniser) and settings.head == "shared" else set()
    if settings.head == "shared" and not any(character.isalnum() for token in shared for character in token):
        raise RecipeError(
            f"{start.name} spells in {_kind(own)}{_some(theirs)} and the recipe in {_kind(tokeniser)}{_some(ours)}, "
            "which share nothing: start from a model of the same units, or carry over the encoder alone "
            "(start.head: new)"
        )
    words = 0
    if isinstance(own, PhoneTokeniser) and isinstance(tokeniser, PhoneTokeniser):
        words = len({*own.lexicon} & {*tokeniser.lexicon})
    return Carried(
        kept=tuple(token for token in ours if token in shared),
        new=tuple(token for token in ours if token not in shared),
        dropped=tuple(token for token in theirs if token not in shared),
        words=words,
    )


def _kind(tokeniser: Tokeniser) -> str:
    names = {CharacterTokeniser: "letters", SentencePieceTokeniser: "sub-words", PhoneTokeniser: "phones"}
    return names.get(type(tokeniser), "tokens")


def _some(tokens: tuple[str, ...]) -> str:
    """The first of ``tokens`` in brackets, and how many more there are; nothing where there are none."""
    shown = " ".join("␣" if token == " " else token for token in tokens[:SHOWN])
    more = f" and {len(tokens) - SHOWN} more" if len(tokens) > SHOWN else ""
    return f" ({shown}{more})" if tokens else ""


# --------------------------------------------------------------------------------------------------- weights


@torch.no_grad()
def hand_on(start: StartModel, model: AcousticModel, tokeniser: Tokeniser, settings: recipe.Start) -> Carried:
    """Gives ``model``, as its seed made it, the start model's weights: features' statistics, encoder, and of the head
    the blank's row and those of the tokens kept."""
    carried = carry(start, tokeniser, settings)
    theirs = start.loaded.model
    model.features.load_state_dict(theirs.features.state_dict())
    model.encoder.load_state_dict(theirs.encoder.state_dict())
    ours, own = tokeniser.tokens.index, start.loaded.tokeniser.tokens.index
    rows = [(BLANK, BLANK), *((ours(token, BLANK + 1), own(token, BLANK + 1)) for token in carried.kept)]
    into, out_of = torch.tensor(rows).T
    model.head.weight[into] = theirs.head.weight[out_of]
    model.head.bias[into] = theirs.head.bias[out_of]
    return carried


def keep(directory: Path, start: StartModel, model: AcousticModel, carried: Carried) -> None:
    """Writes what ``model`` begins with to ``directory``, and the record that meta.json shows: whose the weights were,
    by the model's name and their hash, and not where on somebody's disk."""
    record = {
        "model": start.directory.name,
        "weights_sha256": start.digest,
        "carried_over": {**asdict(carried), "kept": len(carried.kept)},
    }
    notes = {"start": json.dumps(record, ensure_ascii=False)}
    checkpoint.save_weights(directory / HANDED_ON, model.state_dict(), notes)


def take_up(directory: Path, model: AcousticModel) -> dict[str, Any]:
    """Fills ``model`` with what ``keep`` wrote to ``directory`` and returns the record. Raises CheckpointError."""
    path = directory / HANDED_ON
    try:
        with safe_open(str(path), "pt") as file:
            record: dict[str, Any] = json.loads(file.metadata()["start"])
            model.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} does not load: {' '.join(str(error).split())[:200]}") from error
    return record


def frozen(model: AcousticModel, settings: recipe.Start | None, step: int) -> Iterator[nn.Parameter]:
    """The weights that step ``step``, counted from 0, leaves as they are: those nearest to the sound, which differ
    least from one corpus to the next, until the layers above them fit."""
    if settings is None or step >= settings.freeze_steps or not isinstance(model.encoder, Encoder):
        return
    if model.encoder.front_end is not None:
        yield from model.encoder.front_end.parameters()
    if isinstance(model.encoder.stack, RecurrentStack):
        for layer in model.encoder.stack.recurrent_layers()[: settings.freeze_layers]:
            yield from layer.parameters()

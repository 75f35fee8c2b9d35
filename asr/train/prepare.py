"""What is settled before the first step: the model directory, the alphabet, the batches of an epoch."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from asr import checkpoint, files, recipe, runtime
from asr.data.augment import Augmenter
from asr.data.batches import load_ordered
from asr.data.corpora import Mixture, Rule, Takes, check_not_empty, left_out, open_corpora
from asr.data.decoded import Recordings, keep_decoded
from asr.data.given import Given, GivenRecordings
from asr.data.join import texts_to_spell
from asr.data.listing import Listing
from asr.data.order import Epoch
from asr.data.remarks import lone_words
from asr.errors import RecipeError, TextError
from asr.model.acoustic import AcousticModel
from asr.model.features import loader_features
from asr.records import Batch
from asr.text.normalise import normalise
from asr.text.tokenise import PhoneTokeniser, Tokeniser, build_tokeniser
from asr.train import start as beginning
from asr.train.stretch import Contents
from asr.transcribe.corpus import plain_batches, utterances, workers

log = logging.getLogger(__name__)

GOES_ON = {"epochs", "minutes", "patience", "dev_every"}
"""Keys of ``training`` that say how long a run is and how it is judged: with others it goes on (``train.stretch``)."""
CORPORA = {"corpora", "sentences.train", "sentences.dev"}
"""A run goes on with another corpus, and says so."""
FREE_TO_CHANGE = {
    *("data", "decoder", "training.workers", "training.save_minutes", "training.keep_audio"),
    *CORPORA,
    *(f"training.{key}" for key in GOES_ON),
}
"""Recipe keys, or sections, that may differ when a run is resumed: those that say what is trained must not."""
STATISTICS_BATCHES = 100
LAUNCH = Path("training") / "launch"
"""Names the torchrun that trains here, which goes on with the run when it starts its processes anew."""
UNIGRAMS = "unigrams.ngrams"
"""The language model of a model directory of phones: the training text's words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingCorpora:
    """The recipe's train and dev corpora with its tokeniser; ``listing`` is the train corpora's, ``batches`` and
    ``seconds`` are one epoch's. The recordings of both are read from ``recordings``, or else from their files;
    ``remarks`` are what may be wrong."""

    recipe: recipe.Recipe
    tokeniser: Tokeniser
    augmenter: Augmenter
    listing: Listing
    mixture: Mixture
    dev_mixture: Mixture
    recordings: Recordings | None
    batches: int
    seconds: float
    remarks: tuple[str, ...]
    contents: Contents

    def train(
        self, epoch: int, skip: int = 0, every: int = 1, spelled: Mapping[str, Sequence[int]] | None = None
    ) -> Generator[Batch, None, None]:
        """Augmented batches of one epoch, the first ``skip`` left out and of the rest one in ``every``. ``spelled`` are
        the tokens of some utterances, by id, in place of the tokeniser's."""
        settings = self.recipe
        return load_ordered(
            epoch_of(settings, self.listing, epoch).share(skip, every),
            dataclasses.replace(
                utterances(settings),
                featurise=loader_features(settings.features),
                tokeniser=self.tokeniser,
                augmenter=self.augmenter,
                epoch=epoch,
                seconds=settings.training.utterance_seconds,
                recordings=self.recordings,
                spelled=spelled,
            ),
            workers=workers(settings),
        )

    def unaugmented(self) -> Iterator[Batch]:
        """The training set as it is, this process's share of it."""
        return self._share(self.mixture)

    def texts(self) -> Iterator[tuple[str, str]]:
        """Each utterance's id and training text, normalised."""
        return ((id, normalise(text, self.recipe.text.form)) for id, text in self.listing.all_told())

    def transcripts(self, spelled: Mapping[str, Sequence[int]] | None = None) -> Iterator[Sequence[int]]:
        """The training texts in tokens, each once, and those of an epoch that are joined, as far as they can be
        spelled; ``spelled`` as in ``train``."""
        for id, text in self.texts():
            if spelled and id in spelled:
                yield spelled[id]
                continue
            with contextlib.suppress(TextError):
                yield self.tokeniser.encode(text)
        for texts in epoch_of(self.recipe, self.listing, 0).joined_texts() if self.recipe.augment.join else ():
            with contextlib.suppress(TextError):
                yield self.tokeniser.encode(" ".join(normalise(text, self.recipe.text.form) for text in texts))

    def dev(self) -> Iterator[Batch]:
        """The dev set as it is, this process's share of it: nothing augmented, nothing refused but what cannot be
        read."""
        return self._share(self.dev_mixture)

    def _share(self, mixture: Mixture) -> Iterator[Batch]:
        return plain_batches(
            self.recipe,
            mixture.whole(),
            recordings=self.recordings,
            featurise=loader_features(self.recipe.features),
            skip=runtime.rank(),
            every=runtime.world(),
        )


def prepare(
    settings: recipe.Recipe,
    directory: Path,
    *,
    root: Path,
    resume: bool,
    given: Mapping[str, Given] | None = None,
    encoder: type[nn.Module] | None = None,
) -> TrainingCorpora:
    """Opens the corpora and takes ``directory`` for this run. Raises AsrError where either cannot be had.

    ``given`` are the corpora that Python code gives, by split.

    The recipe that comes back has what it takes from its start model filled in. Of several processes the first one
    alone reads the start model, and reads and writes ``directory``."""
    stored = runtime.by_first(
        lambda: checkpoint.load_description(directory) if is_begun(directory, resume=resume) else None
    )
    if stored is None:
        settings, origin = _with_start(settings, encoder)
    else:
        before, tokeniser = stored
        settings, origin = runtime.by_first(lambda: beginning.settle_again(settings, before)), None
    with runtime.one_of_machine_first():
        held_out: dict[Rule, Takes] = {}
        mixture, dev_mixture = (
            open_corpora(settings.corpora.split(name), root, given=given, decided=held_out) for name in ("train", "dev")
        )
        augmenter = Augmenter(settings.augment, root, seed=settings.seed)
        check_not_empty(mixture, settings, "train", root, given)
        check_not_empty(dev_mixture, settings, "dev", root, given)
    listing, dev_listing = Listing(mixture), Listing(dev_mixture)
    if stored is None:
        tokeniser = runtime.by_first(lambda: _begin(settings, directory, listing, root, origin, encoder))
    else:
        runtime.by_first(lambda: go_on_in(directory, before, settings))
    remarks = runtime.by_first(
        lambda: (
            *left_out(settings.corpora.split("train"), root, given),
            *training_remarks(settings, listing),
        )
    )
    for remark in remarks if runtime.is_first() else ():
        log.warning(remark)
    epoch = epoch_of(settings, listing, 0)
    recordings = GivenRecordings(given.values()) if given else None
    everything = itertools.chain(listing.outlined(), dev_listing.outlined())
    return TrainingCorpora(
        recipe=settings,
        tokeniser=tokeniser,
        augmenter=augmenter,
        listing=listing,
        mixture=mixture,
        dev_mixture=dev_mixture,
        recordings=keep_decoded(everything, settings.training.keep_audio, recordings) or recordings,
        batches=epoch.batches,
        seconds=epoch.seconds,
        remarks=remarks,
        contents=Contents(utterances=epoch.utterances, train=listing.digest, dev=dev_listing.digest),
    )


def _with_start(
    settings: recipe.Recipe, encoder: type[nn.Module] | None
) -> tuple[recipe.Recipe, beginning.StartModel | None]:
    """``settings`` with what a new run takes from its start model, and that model, which the first process alone has:
    the others are given what it makes of it."""
    if settings.start is None:
        return settings, None
    origin = beginning.open_start(settings.start, encoder) if runtime.is_first() else None
    return runtime.by_first(lambda: beginning.settle(settings, origin) if origin else settings), origin


def normalised(settings: recipe.Recipe, listing: Listing) -> Iterator[str]:
    """The texts of ``listing`` as the recipe's model writes them."""
    return (normalise(text, settings.text.form) for text in listing.texts())


def training_remarks(settings: recipe.Recipe, listing: Listing) -> tuple[str, ...]:
    """What may be wrong with training on the texts of ``listing`` as the recipe says."""
    if settings.augment.join:
        return ()
    remark = lone_words(normalised(settings, listing), len(listing))
    return (remark,) if remark else ()


def epoch_of(settings: recipe.Recipe, listing: Listing, number: int) -> Epoch:
    """The batches of an epoch."""
    return Epoch(listing, settings.training, seed=settings.seed, number=number, joins=settings.augment.join)


def _begin(
    settings: recipe.Recipe,
    directory: Path,
    listing: Listing,
    root: Path,
    origin: beginning.StartModel | None,
    encoder: type[nn.Module] | None,
) -> Tokeniser:
    """Takes the directory for the run: its tokeniser, what it begins with and, last, its recipe are on disk then."""
    texts = texts_to_spell(normalised(settings, listing), settings.augment.join)
    if origin is not None and settings.start is not None:
        tokeniser = beginning.build_tokeniser_from(origin, settings.text, texts, root)
        model = untrained(settings, tokeniser, encoder)
        carried = beginning.hand_on(origin, model, tokeniser, settings.start)
        beginning.keep(directory, origin, model, carried)
        log.warning(carried.sentence(origin.name))
    else:
        tokeniser = build_tokeniser(settings.text.tokeniser, texts, root)
    described = settings
    if isinstance(tokeniser, PhoneTokeniser) and isinstance(settings.decoder, recipe.Greedy):
        described = settings.model_copy(update={"decoder": words_compete(directory, listing, settings)})
    checkpoint.save_description(directory, described, tokeniser)
    return tokeniser


def untrained(settings: recipe.Recipe, tokeniser: Tokeniser, encoder: type[nn.Module] | None = None) -> AcousticModel:
    """The model as the recipe's seed makes it, before the first step."""
    torch.manual_seed(settings.seed)
    return AcousticModel(settings, len(tokeniser.tokens), encoder)


def words_compete(directory: Path, listing: Listing, settings: recipe.Recipe) -> recipe.Beam:
    """The decoder of a model of phones before ``asr tune`` chooses one: how often the training text has each word
    tells words apart that sound alike."""
    from asr.decode.ngram import NgramModel
    from asr.train.kneser_ney import estimate, read_text

    sentences = (text.split() for text in normalised(settings, listing))
    NgramModel.from_arpa(estimate(read_text(sentences), order=1).model).save(directory / UNIGRAMS)
    return recipe.Beam(language_model=UNIGRAMS, alpha=1.0, beta=0.0)


@torch.no_grad()
def measure_statistics(model: AcousticModel, corpora: TrainingCorpora) -> None:
    """Sets the model's global mean and deviation from the first batches of the training corpus."""
    count, total, squares = 0, torch.zeros(1), torch.zeros(1)
    for _, batch in zip(range(STATISTICS_BATCHES), corpora.train(epoch=0), strict=False):
        if len(batch) == 0:
            continue
        energies = batch.features or model.features.extract(
            batch.waveforms.to(model.device), batch.waveform_lengths.to(model.device)
        )
        shaped = model.features.shape(energies.to(model.device))
        for values, length in zip(shaped.cpu().double(), energies.lengths.tolist(), strict=True):
            count += length
            total = total + values[:length].sum(0)
            squares = squares + values[:length].square().sum(0)
    mean = total / max(count, 1)
    model.features.mean.copy_(mean)
    model.features.deviation.copy_((squares / max(count, 1) - mean.square()).clamp(min=1e-6).sqrt())


def is_begun(directory: Path, *, resume: bool) -> bool:
    """Whether a run in ``directory`` is to be gone on with: with ``resume``, or where this process is one that torchrun
    has started anew. Raises RecipeError where there is a run that is not."""
    begun = checkpoint.is_described(directory)
    launch, mark = runtime.launch(), directory / LAUNCH
    again = bool(launch) and mark.is_file() and mark.read_text(encoding="utf-8") == launch
    if begun and not (resume or again):
        raise RecipeError(f"{directory} holds a run already: go on with --resume, or train elsewhere with --out")
    if launch and not again:
        with files.replacing(mark) as file:
            file.write(launch)
    return begun


def go_on_in(directory: Path, stored: recipe.Section, given: recipe.Section) -> None:
    """Takes ``directory`` for more of the run that ``stored`` began. Raises RecipeError where ``given`` is another."""
    check_same(stored, given, directory)
    keep_changes(stored, given, directory)


def check_same(stored: recipe.Section, given: recipe.Section, directory: Path) -> None:
    """Raises RecipeError naming each key in which a resumed recipe differs from the one it was started with."""
    differing = [
        f"{key}: was {before!r}, is {after!r}"
        for key, before, after in _differences("", stored.model_dump(), given.model_dump())
        if not any(f"{key}.".startswith(f"{free}.") for free in FREE_TO_CHANGE)
    ]
    if differing:
        lines = "\n".join(f"  - {line}" for line in differing)
        raise RecipeError(
            f"{directory} was started with another recipe, so it cannot be resumed with this one:\n{lines}"
        )


def keep_changes(stored: recipe.Section, given: recipe.Section, directory: Path) -> None:
    """Writes what may change about a run to its recipe; what ``asr tune`` has written there stays."""
    changes: dict[str, Any] = {
        key: getattr(given, key) for key in ("corpora", "sentences") if key in type(given).model_fields
    }
    length = {key: getattr(given.training, key) for key in GOES_ON}  # type: ignore[attr-defined]
    changes["training"] = stored.training.model_copy(update=length)  # type: ignore[attr-defined]
    kept = stored.model_copy(update=changes)
    if kept != stored:
        checkpoint.save_recipe(directory, kept)


def _differences(path: str, before: Any, after: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in before | after:
            yield from _differences(f"{path}.{key}".lstrip("."), before.get(key), after.get(key))
    elif before != after:
        yield path, before, after

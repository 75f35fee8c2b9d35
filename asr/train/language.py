"""Training an LSTM language model: cross-entropy on written sentences, judged by the perplexity of held-out ones."""

from __future__ import annotations

import math
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from asr import checkpoint, recipe, runtime
from asr.data.sentences import SentenceBatches
from asr.errors import CorpusError, TextError
from asr.model.language import LanguageModel
from asr.records import SentenceBatch
from asr.text.sentences import read_sentences
from asr.text.tokenise import Tokeniser
from asr.train.claim import claimed
from asr.train.loop import train
from asr.train.monitor import Monitor
from asr.train.prepare import go_on_in, is_begun
from asr.train.state import DevFigures
from asr.train.step import Loss
from asr.train.stretch import Contents, digest


def train_language_model(
    settings: recipe.LanguageModelRecipe,
    tokeniser: Tokeniser,
    directory: Path,
    *,
    device: str = "auto",
    resume: bool = False,
) -> dict[str, Any]:
    """Trains the recipe's model into ``directory`` and returns the contents of its meta.json.

    ``tokeniser`` is that of the acoustic model it shall serve. With ``resume`` a stopped or killed run goes on,
    mid-epoch, to the weights it would have reached. Inside ``runtime.joined`` all processes call it. Raises AsrError
    for whatever stands in the way.
    """
    with claimed(directory):
        return _train(settings, tokeniser, directory, runtime.pick_device(device), resume=resume)


def _train(
    settings: recipe.LanguageModelRecipe, tokeniser: Tokeniser, directory: Path, on: torch.device, *, resume: bool
) -> dict[str, Any]:
    begun = runtime.by_first(lambda: is_begun(directory, resume=resume))
    sentences = settings.sentences
    text = list(read_sentences(sentences.train, sentences.form))
    if sentences.dev:
        dev = list(read_sentences(sentences.dev, sentences.form))
    else:
        # The last, not every hundredth: neighbours in a book are alike.
        cut = round(len(text) * (1 - sentences.held_out))
        text, dev = text[:cut], text[cut:]
    if not text or not dev:
        raise CorpusError(f"there are {len(text)} sentences to train on and {len(dev)} to measure with: give more text")
    runtime.by_first(lambda: _take(directory, settings, tokeniser, begun=begun))
    torch.manual_seed(settings.seed)
    model = LanguageModel(settings.network, len(tokeniser.tokens)).to(on)
    return train(LanguageTask(model, settings, tokeniser, text, dev), settings.training, directory, seed=settings.seed)


def _take(directory: Path, settings: recipe.LanguageModelRecipe, tokeniser: Tokeniser, *, begun: bool) -> None:
    """Takes ``directory`` for this run. Raises AsrError where another one has ``begun`` there."""
    if not begun:
        checkpoint.save_description(directory, settings, tokeniser)
        return
    stored, same = checkpoint.load_description(directory, recipe.LanguageModelRecipe)
    go_on_in(directory, stored, settings)
    if same.tokens != tokeniser.tokens:
        raise CorpusError(f"{directory} was started with another tokeniser, so it cannot be resumed with this one")


class LanguageTask:
    """The training loop's view of a language model's recipe."""

    def __init__(
        self,
        model: LanguageModel,
        settings: recipe.LanguageModelRecipe,
        tokeniser: Tokeniser,
        text: Sequence[str],
        dev: Sequence[str],
    ) -> None:
        self.model = model
        self.tokeniser = tokeniser
        self.text = text
        self.dev = dev
        self._batches = SentenceBatches(
            text,
            tokeniser,
            max_characters=settings.training.max_batch_characters,
            longest=settings.sentences.longest,
            seed=settings.seed,
        )
        self.batches = len(self._batches)
        self.contents = Contents(utterances=len(text), train=digest(text), dev=digest(dev))

    def ready(self, number: int, monitor: Monitor, stop: threading.Event) -> bool:  # noqa: ARG002
        return True

    def epoch(self, number: int, *, skip: int, every: int) -> Generator[SentenceBatch, None, None]:
        return self._batches.epoch(number, skip=skip, every=every)

    def loss(self, model: LanguageModel, batch: SentenceBatch) -> Loss:
        return Loss(nats=-model.log_probability(batch.tokens, batch.token_lengths).sum())

    def subject(self) -> str:
        return f"{len(self.text)} sentences, {self.batches} batches an epoch; dev set: {len(self.dev)} sentences"

    def forget(self) -> None:
        pass

    def frozen(self, step: int) -> Iterator[nn.Parameter]:  # noqa: ARG002
        return iter(())

    def score_dev(self, model: LanguageModel, monitor: Monitor) -> DevFigures:  # noqa: ARG002
        fit = runtime.by_first(lambda: measure_fit(model, self.tokeniser, self.dev))
        return {
            "perplexity": fit.perplexity,
            "bits_per_character": fit.bits_per_character,
            "loss": fit.nats / max(fit.tokens, 1),
        }

    def describe(self) -> dict[str, Any]:
        return {"sentences_per_epoch": len(self.text)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How well a model foresees a text: ``nats`` is the whole text's negative log probability. Each sentence's end is
    one more word, one more character and one more token. ``unspelled`` sentences hold what no token spells, and are
    not counted."""

    nats: float
    sentences: int
    words: int
    characters: int
    tokens: int
    unspelled: int

    @property
    def perplexity(self) -> float:
        """Per word, so that models of words, of sub-words and of characters compare."""
        return math.exp(min(self.nats / max(self.words + self.sentences, 1), 700.0))

    @property
    def bits_per_character(self) -> float:
        return self.nats / math.log(2) / max(self.characters + self.sentences, 1)


def measure_fit(model: LanguageModel, tokeniser: Tokeniser, text: Iterable[str]) -> Fit:
    """How well ``model``, in evaluation mode, foresees ``text``. Raises TextError where no sentence can be spelled."""
    spelled: list[list[int]] = []
    words = characters = unspelled = 0
    for sentence in text:
        try:
            spelled.append(tokeniser.encode(sentence))
        except TextError:
            unspelled += 1
            continue
        words += len(sentence.split())
        characters += len(sentence)
    if not spelled:
        raise TextError("the language model's tokens spell no sentence of the text")
    return Fit(
        nats=-sum(model.score(spelled)),
        sentences=len(spelled),
        words=words,
        characters=characters,
        tokens=sum(map(len, spelled)) + len(spelled),
        unspelled=unspelled,
    )

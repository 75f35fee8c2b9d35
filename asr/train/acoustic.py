"""Training an acoustic model on a recipe's corpora, judged by the greedy error rates and the loss of its dev set."""

from __future__ import annotations

import itertools
import threading
from array import array
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asr import checkpoint, recipe, runtime
from asr.data.corpora import name_of
from asr.data.given import Given
from asr.decode.greedy import decode_greedy
from asr.errors import TextError, TrainingError
from asr.model.acoustic import AcousticModel
from asr.model.criterion import Criterion, build_criterion, ctc_loss, divergence
from asr.model.emitted import Emitted
from asr.model.encoder import build_encoder
from asr.model.features import frame_mask
from asr.recipe.frames import feature_size
from asr.records import BLANK, Batch, Emissions, ErrorCounts, Features, Rejection
from asr.score.edits import character_errors, word_errors
from asr.text.tokenise import PhoneTokeniser, Tokeniser, frames_needed
from asr.train import start as beginning
from asr.train.claim import claimed
from asr.train.loop import train
from asr.train.monitor import Monitor
from asr.train.prepare import UNIGRAMS, TrainingCorpora, measure_statistics, prepare, untrained, words_compete
from asr.train.pronunciations import (
    CHOICES,
    Choices,
    choose,
    load_choices,
    save_choices,
    spell,
    summary,
    weighed,
)
from asr.train.state import DevFigures
from asr.train.step import Loss
from asr.transcribe.phones import phone_errors


def train_acoustic_model(
    settings: recipe.Recipe,
    directory: Path,
    *,
    root: Path,
    device: str = "auto",
    resume: bool = False,
    given: Mapping[str, Given] | None = None,
    encoder: type[nn.Module] | None = None,
) -> dict[str, Any]:
    """Trains the recipe's model into ``directory`` and returns the contents of its meta.json.

    ``given`` are the corpora of kind ``given``, by split, and ``encoder`` the class of an encoder of kind ``own``.

    With ``resume`` a stopped or killed run goes on, mid-epoch, to the weights it would have reached; a finished one is
    returned as it is, unless more epochs are asked for or its corpus has changed (``train.stretch``). Inside
    ``runtime.joined`` all processes call it. Raises AsrError for whatever stands in the way.
    """
    on = runtime.pick_device(device)
    if encoder is not None or isinstance(settings.encoder, recipe.Own):  # refused before anything is written
        build_encoder(settings.encoder, feature_size(settings.features), encoder)
    with claimed(directory):
        corpora = prepare(settings, directory, root=root, resume=resume, given=given, encoder=encoder)
        settings = corpora.recipe
        model, origin = first_model(settings, corpora.tokeniser, directory, encoder)
        model.to(on)
        if settings.features.normalise == "global" and origin is None and runtime.is_first():
            measure_statistics(model, corpora)
        return train(AcousticTask(model, corpora, directory, origin), settings.training, directory, seed=settings.seed)


def first_model(
    settings: recipe.Recipe, tokeniser: Tokeniser, directory: Path, encoder: type[nn.Module] | None = None
) -> tuple[AcousticModel, dict[str, Any] | None]:
    """The model before the first step, and where it came from if a start model handed it on to ``directory``: of
    several processes the first one reads it, and the training loop gives its weights to all."""
    model = untrained(settings, tokeniser, encoder)
    return model, runtime.by_first(lambda: beginning.take_up(directory, model)) if settings.start else None


class AcousticTask:
    """The training loop's view of a recipe."""

    def __init__(
        self,
        model: AcousticModel,
        corpora: TrainingCorpora,
        directory: Path,
        origin: dict[str, Any] | None = None,
    ) -> None:
        """``origin`` is the record of the start model, for meta.json."""
        self.model = model
        self._origin = origin
        self.corpora = corpora
        self.batches = corpora.batches
        self.contents = corpora.contents
        self._directory = directory
        self._settings = corpora.recipe.training.criterion
        self._spelled: dict[str, array[int]] | None = None  # before pronunciations are chosen
        self._final = self._build_criterion()
        self.criterion: Criterion = self._final

    def ready(self, number: int, monitor: Monitor, stop: threading.Event) -> bool:
        """Pronunciations are chosen before the epoch that the recipe says."""
        choosing = self.corpora.recipe.training.choose_pronunciations
        if self._spelled is None and choosing is not None and number >= choosing:
            self._spelled = self._choose_pronunciations(monitor, stop)
            self._final = self._build_criterion()
        return self._spelled is not None or choosing is None or number < choosing

    def epoch(self, number: int, *, skip: int, every: int) -> Generator[Batch, None, None]:
        begins = self._settings.from_epoch if isinstance(self._settings, recipe.CtcCrf) else 0
        self.criterion = self._final if number >= begins else ctc_loss
        return self.corpora.train(number, skip, every, self._spelled)

    def forget(self) -> None:
        """Pronunciations are chosen anew, the lexicon learns new words, and where nothing was tuned, how often the text
        has each word is counted again."""
        tokeniser = self.corpora.tokeniser
        if isinstance(tokeniser, PhoneTokeniser):
            words = (word for _, text in self.corpora.texts() for word in text.split())
            tokeniser.lexicon = tokeniser.lexicon.extended(words)
        if runtime.is_first():
            self._rewrite(tokeniser, self._directory)

    def _rewrite(self, tokeniser: Tokeniser, directory: Path) -> None:
        (directory / CHOICES).unlink(missing_ok=True)
        if isinstance(tokeniser, PhoneTokeniser):
            checkpoint.save_lexicon(directory, tokeniser)
            decoder = checkpoint.load_description(directory)[0].decoder
            if isinstance(decoder, recipe.Beam) and decoder.language_model == UNIGRAMS:
                words_compete(directory, self.corpora.listing, self.corpora.recipe)

    def _build_criterion(self) -> Criterion:
        transcripts = self.corpora.transcripts(self._spelled)
        return build_criterion(self._settings, transcripts, len(self.corpora.tokeniser.tokens))

    def _choose_pronunciations(self, monitor: Monitor, stop: threading.Event) -> dict[str, array[int]] | None:
        """The tokens of the utterances that have words of several pronunciations, as chosen now or before a stop; None
        where a process was told to ``stop`` meanwhile."""
        tokeniser = self.corpora.tokeniser
        if not isinstance(tokeniser, PhoneTokeniser):
            return {}
        choices = runtime.by_first(lambda: load_choices(self._directory))
        if choices is None:
            total = -(-len(self.corpora.listing) // runtime.world())
            with monitor.watched("choosing pronunciations", total) as advance:
                batches = itertools.takewhile(lambda _: not stop.is_set(), self.corpora.unaugmented())
                shares = runtime.everyones((choose(self.model, tokeniser, batches, advance), stop.is_set()))
            if any(stopped for _, stopped in shares):
                return None
            choices = {id: choice for share, _ in shares for id, choice in share.items()}
            monitor.say(summary(choices))
            tokeniser.lexicon = weighed(tokeniser.lexicon, self._chosen(choices))
            if runtime.is_first():
                checkpoint.save_lexicon(self._directory, tokeniser)
                save_choices(self._directory, choices)
        return {id: array("H", spell(text, choice, tokeniser)) for id, text, choice in self._chosen(choices)}

    def _chosen(self, choices: Choices) -> Iterator[tuple[str, str, tuple[int, ...]]]:
        """The utterances of ``choices``, each with its text and how its words are said."""
        return ((id, text, choices[id]) for id, text in self.corpora.texts() if id in choices)

    def loss(self, model: AcousticModel, batch: Batch) -> Loss:
        training = self.corpora.recipe.training
        return loss_of(model, batch, self.criterion, training.intermediate, training.consistency)

    def frozen(self, step: int) -> Iterator[nn.Parameter]:
        return beginning.frozen(self.model, self.corpora.recipe.start, step)

    def score_dev(self, model: AcousticModel, monitor: Monitor) -> DevFigures:
        """The loss and the greedy error rates: ``wer`` and ``cer`` or, of phones, ``per``. What decides comes first.

        Each process reads its share, and all add up the whole in its order. Utterances without an alignment have no
        loss, but are scored. Raises TrainingError where none can be read.
        """
        tokeniser = self.corpora.tokeniser
        own = [_score_batch(model, self._final, batch, tokeniser) for batch in self.corpora.dev()]
        batches = runtime.interleaved(runtime.everyones(own))
        monitor.reject(rejection for batch in batches for rejection in batch.rejected)
        if sum(batch.utterances for batch in batches) == 0:
            raise TrainingError("no utterance of the dev corpora can be read; asr check RECIPE says what is wrong")
        per_label = {"loss": sum(batch.nats for batch in batches) / max(sum(batch.labels for batch in batches), 1)}
        words, characters, phones = (
            sum((getattr(batch, unit) for batch in batches), start=ErrorCounts())
            for unit in ("words", "characters", "phones")
        )
        if isinstance(tokeniser, PhoneTokeniser):
            rates = {"per": phones.rate}
            # Greedy decoding does not hear the labels' n-gram, on which the posteriors of CTC-CRF rely.
            return {**per_label, **rates} if isinstance(self._settings, recipe.CtcCrf) else {**rates, **per_label}
        if isinstance(self._settings, recipe.CtcCrf):
            return {**per_label, "wer": words.rate, "cer": characters.rate}
        # The loss before the CER: among epochs of equal WER a model still silent counts as getting somewhere.
        return {"wer": words.rate, **per_label, "cer": characters.rate}

    def subject(self) -> str:
        corpora = self.corpora.recipe.corpora
        train, dev = (", ".join(map(name_of, corpora.split(split))) for split in ("train", "dev"))
        if isinstance(corpora.dev, recipe.HeldOut):
            train, dev = ", ".join(map(name_of, corpora.train)), f"{corpora.dev.share:.0%} of it, held out"
        return f"{train}: {self.corpora.seconds / 3600:.2f} hours, {self.batches} batches an epoch; dev set: {dev}"

    def describe(self) -> dict[str, Any]:
        remarks = {"remarks": list(self.corpora.remarks)} if self.corpora.remarks else {}
        origin = {"start": self._origin} if self._origin else {}
        return {"audio_hours_per_epoch": round(self.corpora.seconds / 3600, 3), **origin, **remarks}


def loss_of(
    model: AcousticModel,
    batch: Batch,
    criterion: Criterion = ctc_loss,
    intermediate: recipe.Intermediate | None = None,
    consistency: recipe.Consistency | None = None,
) -> Loss:
    """The criterion's loss; with ``intermediate``, CTC's on a middle layer too (Lee & Watanabe 2021); with
    ``consistency``, the mean loss of two hearings, and the divergence of their emissions (Yao et al. 2024)."""
    features, tokens, token_lengths = model.featurise(batch), batch.tokens, batch.token_lengths
    if consistency is not None:
        features = Features(values=features.values.repeat(2, 1, 1), lengths=features.lengths.repeat(2))
        tokens, token_lengths = tokens.repeat(2, 1), token_lengths.repeat(2)
    if intermediate is None:
        emissions = model.emit(features)
        nats = criterion(emissions, tokens, token_lengths)
    else:
        emissions, middle = model.emit_tapped(features, intermediate.layer)
        nats = criterion(emissions, tokens, token_lengths)
        nats = nats + intermediate.weight * ctc_loss(middle, tokens, token_lengths)
    if consistency is not None:
        nats = nats / 2 + consistency.weight * divergence(emissions)
    return Loss(
        nats=nats,
        blank_rate=blank_rate(emissions),
        audio_seconds=int(batch.waveform_lengths.sum()) / model.features.settings.sample_rate,
    )


@torch.inference_mode()
def _emit(model: AcousticModel, batch: Batch) -> Emitted:
    """On the CPU."""
    log_probs, lengths = model(batch)
    return Emitted(log_probs.cpu(), lengths.cpu())


def _emissions(emitted: Emitted, frame_shift: float) -> Emissions:
    return Emissions(log_probs=emitted.log_probs.numpy(), lengths=emitted.lengths.numpy(), frame_shift=frame_shift)


def blank_rate(emitted: Emitted) -> Tensor:
    """Share of real frames whose likeliest token is the blank, as a scalar tensor on the emissions' device."""
    log_probs = emitted.log_probs.detach()
    real = frame_mask(emitted.lengths, log_probs.shape[1])
    return (log_probs.argmax(-1).eq(BLANK) & real).sum() / emitted.lengths.sum()


@dataclass(frozen=True, slots=True, kw_only=True)
class _DevBatch:
    """What a batch of the dev set comes to: the ``nats`` of ``labels`` that have an alignment, and the errors in all
    ``utterances``, in phones or else in words and characters."""

    utterances: int
    rejected: tuple[Rejection, ...]
    nats: float
    labels: int
    words: ErrorCounts = field(default_factory=ErrorCounts)
    characters: ErrorCounts = field(default_factory=ErrorCounts)
    phones: ErrorCounts = field(default_factory=ErrorCounts)


def _score_batch(model: AcousticModel, criterion: Criterion, batch: Batch, tokeniser: Tokeniser) -> _DevBatch:
    if not len(batch):
        return _DevBatch(utterances=0, rejected=batch.rejected, nats=0.0, labels=0)
    emitted = _emit(model, batch)
    readings = decode_greedy(_emissions(emitted, model.frame_shift), tokeniser)
    errors = {}
    if isinstance(tokeniser, PhoneTokeniser):
        errors["phones"] = phone_errors(batch.texts, readings, tokeniser)
    else:
        errors["words"] = word_errors(batch.texts, [best.text for best in readings])
        errors["characters"] = character_errors(batch.texts, [best.text for best in readings])
    nats, labels = _dev_loss(criterion, emitted, batch.texts, tokeniser)
    return _DevBatch(utterances=len(batch), rejected=batch.rejected, nats=nats, labels=labels, **errors)


def _dev_loss(criterion: Criterion, emitted: Emitted, texts: Sequence[str], tokeniser: Tokeniser) -> tuple[float, int]:
    """The loss in nats and the number of labels of a batch's utterances that can be spelled and fit their frames."""
    rows, spelled = [], []
    for row, (text, frames) in enumerate(zip(texts, emitted.lengths.tolist(), strict=True)):
        try:
            tokens = tokeniser.encode(text)
        except TextError:
            continue
        if tokens and frames_needed(tokens) <= frames:
            rows.append(row)
            spelled.append(tokens)
    if not rows:
        return 0.0, 0
    lengths = torch.tensor([len(tokens) for tokens in spelled])
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(tokens) for tokens in spelled], batch_first=True)
    some = Emitted(emitted.log_probs[rows], emitted.lengths[rows])
    return float(criterion(some, padded, lengths)), int(lengths.sum())

"""Tuning: the language model's weights, and the beam, that make the fewest errors on a dev set."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from asr import checkpoint, files, recipe
from asr.data.corpora import AnySource, open_corpora
from asr.decode.beam import BeamDecoder
from asr.decode.calibration import fit_calibration
from asr.decode.decoder import Decoder, read_lexicon
from asr.decode.greedy import GreedyDecoder
from asr.decode.ngram import NgramModel
from asr.decode.rescore import reorder, sentence_scores
from asr.decode.words import spellings
from asr.errors import LanguageModelError
from asr.records import Emissions, ErrorCounts, Hypothesis
from asr.score.edits import align_words, character_errors, word_errors, word_hits
from asr.text.tokenise import PhoneTokeniser
from asr.transcribe.corpus import plain_batches
from asr.transcribe.phones import phone_errors
from asr.transcribe.recogniser import Recogniser, recognise

ALPHAS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.3)
BETAS = (-1.0, 0.0, 1.0, 2.0, 3.0)
HIGHER_ALPHAS, HIGHER_BETAS = (1.6, 2.0, 2.5, 3.0), (4.5, 6.0, 8.0)
"""Tried one after another, as long as the best so far is the highest that was tried."""
UNKNOWNS = (-20.0, -10.0, -5.0, -2.0, 0.0)
LSTM_WEIGHTS = (0.1, 0.2, 0.3, 0.5, 0.8)
LSTM_BETAS = (0.0, 1.0, 2.0, 3.0)
THRESHOLDS = ((-7.0, 10.0), (-7.0, 14.0))
"""Of tokens and of scores, beyond the defaults: a sequence criterion leaves more open in a frame than CTC does."""
WIDTHS = (16, 32, 64, 128, 256)
LANGUAGE_MODELS, LEXICONS = ("language_model.ngrams", "language_model-2.ngrams"), ("lexicon.txt", "lexicon-2.txt")
LSTMS = ("tuned-lstm", "tuned-lstm-2")
"""A tuning's files take the names that the last one's have not: recipe.yaml means the old ones until it is replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One choice of settings and what it makes of the dev set."""

    settings: recipe.Beam
    words: ErrorCounts
    characters: ErrorCounts

    @property
    def cost(self) -> tuple[int, int]:
        """Word errors; where these are as many, character errors."""
        return self.words.errors, self.characters.errors


@dataclass(frozen=True, slots=True, kw_only=True)
class DevSet:
    """Emissions, which no decoder setting changes, and their references: computed once, decoded many times."""

    emissions: tuple[Emissions, ...]
    references: tuple[str, ...]
    greedy: ErrorCounts
    """Of greedy decoding: word errors, or a model of phones' phone errors."""


def listen(
    recogniser: Recogniser,
    sets: Iterable[tuple[tuple[AnySource, ...], Path]],
    advance: Callable[[float], None] = lambda _seconds: None,
) -> DevSet:
    """Computes the emissions of ``sets``, sources and their root. ``advance`` hears of each batch's seconds of audio.

    Raises CorpusError for a source that is missing or empty.
    """
    emissions: list[Emissions] = []
    references: list[str] = []
    readings: list[Hypothesis] = []
    for sources, root in sets:
        batches = plain_batches(recogniser.recipe, open_corpora(sources, root).whole())
        for batch, emitted, hypotheses in recognise(recogniser.network, GreedyDecoder(recogniser.tokeniser), batches):
            if len(batch):
                emissions.append(emitted)
                references += batch.texts
                readings += [best for best, *_ in hypotheses]
                advance(float(emitted.lengths.sum()) * emitted.frame_shift)
    if isinstance(recogniser.tokeniser, PhoneTokeniser):
        greedy = phone_errors(references, readings, recogniser.tokeniser)
    else:
        greedy = word_errors(references, [reading.text for reading in readings])
    return DevSet(emissions=tuple(emissions), references=tuple(references), greedy=greedy)


def weighing(decoder: Decoder) -> BeamDecoder:
    """``decoder``, if it hears a language model. Raises LanguageModelError where it hears none."""
    if isinstance(decoder, BeamDecoder) and (decoder.settings.language_model or decoder.settings.lstm):
        return decoder
    raise LanguageModelError("there is no language model to tune: name one with --lm or --lstm")


def trials(settings: recipe.Beam) -> int:
    """How many ``tune`` yields for a decoder of these ``settings``; more where the best lies on the grid's edge."""
    parts = _lstm_parts(settings.lstm) if settings.lstm else ()
    return 2 + sum(1 for stage in _stages(settings) for _ in stage(settings)) + sum(1 for _ in parts)


def tune(decoder: BeamDecoder, dev: DevSet) -> Iterator[Trial]:
    """Tries settings around the decoder's own and yields each trial; the last one is the choice, with confidences that
    fit it.

    First ``alpha`` and ``beta`` on a grid, which grows where the best lies on its edge, then what an unknown word
    costs, then finer steps around the best, then a search that drops less, then the narrowest beam that makes no more
    errors, and last the LSTM's weight. Raises LanguageModelError as ``weighing`` does.
    """
    settings, part = weighing(decoder).settings.model_copy(update={"lstm": None}), decoder.settings.lstm
    best = _attempt(decoder, dev, settings)
    yield best
    for stage in _stages(settings):
        for tried in stage(best.settings):
            trial = _attempt(decoder, dev, tried)
            yield trial
            if trial.cost < best.cost or (trial.settings.width < best.settings.width and trial.cost == best.cost):
                best = trial
    if part is not None:
        for trial in (_rescored if part.mode == "rescore" else _fused)(decoder, dev, best.settings, part):
            yield trial
            best = min(best, trial, key=lambda trial: trial.cost)
    yield replace(best, settings=_calibrated(decoder, dev, best.settings))


def _attempt(decoder: BeamDecoder, dev: DevSet, settings: recipe.Beam) -> Trial:
    tried = decoder.reset(settings)
    return _judge(dev, settings, [best.text for emissions in dev.emissions for best, *_ in tried(emissions)])


def _judge(dev: DevSet, settings: recipe.Beam, texts: Sequence[str]) -> Trial:
    words, characters = word_errors(dev.references, texts), character_errors(dev.references, texts)
    return Trial(settings=settings, words=words, characters=characters)


def _calibrated(decoder: BeamDecoder, dev: DevSet, settings: recipe.Beam) -> recipe.Beam:
    chosen = decoder.reset(settings)
    readings = [best for emissions in dev.emissions for best, *_ in chosen(emissions)]
    words = [[p for _, _, p in word] for reading in readings for word in spellings(reading, decoder.tokeniser)]
    alignments = align_words(dev.references, [reading.text for reading in readings])
    hits = [hit for alignment in alignments for hit in word_hits(alignment)]
    return settings.model_copy(update={"calibration": fit_calibration(words, hits)})


def _fused(decoder: BeamDecoder, dev: DevSet, settings: recipe.Beam, part: recipe.LstmFusion) -> Iterator[Trial]:
    for tried in _lstm_parts(part):
        yield _attempt(decoder, dev, settings.model_copy(update={"lstm": tried}))


def _rescored(decoder: BeamDecoder, dev: DevSet, settings: recipe.Beam, part: recipe.LstmFusion) -> Iterator[Trial]:
    """One search and one scoring serve every weight."""
    lstm = decoder.knowledge.lstm
    assert lstm is not None  # since settings name a part for it
    search = decoder.reset(settings, nbest=part.nbest)
    lists = [readings for emissions in dev.emissions for readings in search(emissions)]
    heard = [sentence_scores(readings, lstm) for readings in lists]
    for tried in _lstm_parts(part):
        texts = [
            reorder(readings, scores, weight=tried.weight, length_bonus=tried.beta)[0].text
            for readings, scores in zip(lists, heard, strict=True)
        ]
        yield _judge(dev, settings.model_copy(update={"lstm": tried}), texts)


def _stages(settings: recipe.Beam) -> tuple[Callable[[recipe.Beam], Iterator[recipe.Beam]], ...]:
    """The n-gram's, each of which goes on from the best so far."""
    if not settings.language_model:
        return ()
    alphas = [_raised("alpha", *step) for step in itertools.pairwise((ALPHAS[-1], *HIGHER_ALPHAS))]
    betas = [_raised("beta", *step) for step in itertools.pairwise((BETAS[-1], *HIGHER_BETAS))]
    return (_grid, *alphas, *betas, _unknowns, _finer, _thresholds, _widths)


def _grid(around: recipe.Beam) -> Iterator[recipe.Beam]:
    for alpha, beta in itertools.product(ALPHAS, BETAS):
        yield around.model_copy(update={"alpha": alpha, "beta": beta})


def _raised(weight: str, edge: float, higher: float) -> Callable[[recipe.Beam], Iterator[recipe.Beam]]:
    """A stage that, where the best so far has ``weight`` at the ``edge``, tries a higher one: ``alpha`` with every
    ``beta``, since a model that counts for more makes words dearer."""

    def stage(around: recipe.Beam) -> Iterator[recipe.Beam]:
        if getattr(around, weight) == edge:
            for beta in BETAS if weight == "alpha" else (higher,):
                changed = {"alpha": higher, "beta": beta} if weight == "alpha" else {"beta": higher}
                yield around.model_copy(update=changed)

    return stage


def _unknowns(around: recipe.Beam) -> Iterator[recipe.Beam]:
    for unknown in UNKNOWNS:
        yield around.model_copy(update={"unknown": unknown})


def _finer(around: recipe.Beam) -> Iterator[recipe.Beam]:
    for alpha, beta in itertools.product((-0.1, 0.0, 0.1), (-0.5, 0.0, 0.5)):
        if alpha or beta:
            changed = {"alpha": round(around.alpha + alpha, 3), "beta": round(around.beta + beta, 3)}
            yield around.model_copy(update=changed)


def _lstm_parts(part: recipe.LstmFusion) -> Iterator[recipe.LstmFusion]:
    for weight, beta in itertools.product(LSTM_WEIGHTS, LSTM_BETAS):
        yield part.model_copy(update={"weight": weight, "beta": beta})


def _thresholds(around: recipe.Beam) -> Iterator[recipe.Beam]:
    for token, score in THRESHOLDS:
        yield around.model_copy(update={"token_threshold": token, "score_threshold": score})


def _widths(around: recipe.Beam) -> Iterator[recipe.Beam]:
    for width in reversed(WIDTHS):
        yield around.model_copy(update={"width": width})


def keep(directory: Path, recogniser: Recogniser, settings: recipe.Beam, *, root: Path) -> recipe.Beam:
    """Makes ``settings`` the model directory's own decoder, its language models and lexicon kept with the weights.

    Killed at any moment, it leaves the decoder that was or the new one.
    """
    before = checkpoint.load_description(directory)[0].decoder
    kept: dict[str, object] = {}
    old = []
    if settings.language_model:
        new, other = _names(LANGUAGE_MODELS, before)
        NgramModel.keep(root / settings.language_model, checkpoint.own_path(directory, new))
        kept["language_model"] = new
        old.append(other)
    if settings.lexicon:
        words = read_lexicon(root / settings.lexicon, recogniser.recipe.text.form)
        new, other = _names(LEXICONS, before)
        with files.replacing(checkpoint.own_path(directory, new)) as file:
            file.writelines(f"{word}\n" for word in words)
        kept["lexicon"] = new
        old.append(other)
    if settings.lstm:
        new, other = _names(LSTMS, before)
        checkpoint.copy_model(root / settings.lstm.path, checkpoint.own_path(directory, new, folder=True))
        kept["lstm"] = settings.lstm.model_copy(update={"path": new})
        old.append(other)
    settings = settings.model_copy(update=kept)
    described = recogniser.recipe.model_copy(update={"decoder": settings})
    checkpoint.save_description(directory, described, recogniser.tokeniser)
    for name in old:
        if name in LSTMS:
            shutil.rmtree(directory / name, ignore_errors=True)
        else:
            (directory / name).unlink(missing_ok=True)
    return settings


def _names(names: tuple[str, str], before: recipe.Decoder) -> tuple[str, str]:
    """Of two ``names``, the one that the decoder ``before`` did not go by, and the other."""
    first, second = names
    lstm = before.lstm.path if isinstance(before, recipe.Beam) and before.lstm else None
    taken = isinstance(before, recipe.Beam) and first in (before.language_model, before.lexicon, lstm)
    return (second, first) if taken else (first, second)

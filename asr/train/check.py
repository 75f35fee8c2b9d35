"""``asr check``: every corpus of a recipe read once, and what training on it would meet and cost."""

from __future__ import annotations

import dataclasses
import math
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from asr import recipe, runtime
from asr.data.batches import load_ordered
from asr.data.corpora import Rule, Takes, check_not_empty, left_out, open_corpora
from asr.data.join import texts_to_spell
from asr.data.listing import Listing
from asr.data.order import Epoch
from asr.data.remarks import remarks
from asr.model.acoustic import AcousticModel
from asr.model.criterion import ctc_loss
from asr.model.features import loader_features
from asr.records import Batch, Rejection
from asr.text.arpabet import English
from asr.text.tokenise import PhoneTokeniser, build_tokeniser
from asr.train import start as beginning
from asr.train.prepare import epoch_of, normalised, training_remarks
from asr.transcribe.corpus import utterances, workers

SPLITS = ("train", "dev", "test")
HISTOGRAM_BINS = 8
FORECAST_STEPS = 3
EXAMPLES, NAMED = 10, 100
"""Words named among many: of those guessed, and of those without a pronunciation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitReport:
    """One split: ``durations`` (s) and speakers of its good utterances, and each bad one."""

    name: str
    durations: tuple[float, ...]
    speakers: frozenset[str]
    rejected: tuple[Rejection, ...]

    @property
    def hours(self) -> float:
        return sum(self.durations) / 3600

    def faults(self) -> dict[str, list[Rejection]]:
        """The bad utterances by kind of fault."""
        kinds: dict[str, list[Rejection]] = {}
        for rejection in self.rejected:
            kinds.setdefault(rejection.fault, []).append(rejection)
        return kinds

    def histogram(self) -> list[tuple[float, float, int]]:
        """(from s, to s, utterances) over equal bins of duration."""
        if not self.durations:
            return []
        low, high = min(self.durations), max(self.durations)
        width = max((high - low) / HISTOGRAM_BINS, 0.01)
        counts = Counter(min(int((d - low) / width), HISTOGRAM_BINS - 1) for d in self.durations)
        return [(low + i * width, low + (i + 1) * width, counts[i]) for i in range(HISTOGRAM_BINS)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Measured on the largest batch: training time of one epoch in seconds, and the process's peak memory in bytes
    (the GPU's, on a GPU)."""

    device: str
    parameters: int
    epoch_seconds: float
    peak_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """How long training is: ``an_epoch`` and, of a run that ends by its epochs, ``in_all``."""

    an_epoch: int
    in_all: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LexiconReport:
    """How the ``words`` of all splits are pronounced: ``guessed`` are those that CMUdict lacks, by rule or by eSpeak
    NG; ``lacking`` are those that have no pronunciation."""

    words: int
    guessed: tuple[str, ...]
    lacking: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """All that ``asr check`` found. ``shared`` maps pairs of splits to the speakers they have in common; ``lexicon`` is
    there where units are phones; ``carried`` says what the start model hands on, where the recipe names one;
    ``remarks`` are what may be wrong with corpora that read well, and what of the recipe does not go with them."""

    alphabet: tuple[str, ...]
    carried: str | None
    lexicon: LexiconReport | None
    splits: tuple[SplitReport, ...]
    shared: dict[tuple[str, str], frozenset[str]]
    remarks: tuple[str, ...]
    steps: Steps
    forecast: Forecast | None


def check(
    settings: recipe.Recipe,
    *,
    root: Path,
    device: str = "auto",
    advance: Callable[[str, int], None] = lambda _split, _count: None,
) -> Preflight:
    """Reads every corpus once. ``advance`` hears of each batch's split and size. Raises AsrError where a corpus cannot
    be opened at all; single bad utterances are findings."""
    origin = beginning.open_start(settings.start) if settings.start else None
    if origin is not None:
        settings = beginning.settle(settings, origin)
    held_out: dict[Rule, Takes] = {}
    mixtures = {
        name: open_corpora(sources, root, decided=held_out)
        for name in SPLITS
        if (sources := settings.corpora.split(name))
    }
    check_not_empty(mixtures["train"], settings, "train", root)
    check_not_empty(mixtures["dev"], settings, "dev", root)
    listings = {name: Listing(mixture) for name, mixture in mixtures.items()}
    spoken = texts_to_spell(normalised(settings, listings["train"]), settings.augment.join)
    carried = None
    if origin is not None and settings.start is not None:
        tokeniser = beginning.build_tokeniser_from(origin, settings.text, spoken, root)
        carried = beginning.carry(origin, tokeniser, settings.start).sentence(origin.name)
    else:
        tokeniser = build_tokeniser(settings.text.tokeniser, spoken, root)
    reports, largest = [], None
    for name, listing in listings.items():
        limits = settings.training.utterance_seconds if name == "train" else (0.0, float("inf"))
        batches = load_ordered(
            Epoch(listing, settings.training, seed=settings.seed, number=0, weighted=False).share(),
            dataclasses.replace(
                utterances(settings),
                featurise=loader_features(settings.features),
                tokeniser=tokeniser,
                seconds=limits,
            ),
            workers=workers(settings),
        )
        durations: list[float] = []
        speakers: set[str] = set()
        rejected: list[Rejection] = []
        for batch in batches:
            durations += [n / settings.features.sample_rate for n in batch.waveform_lengths.tolist()]
            speakers |= {speaker for speaker in batch.speakers if speaker}
            rejected += batch.rejected
            advance(name, len(batch) + len(batch.rejected))
            if name == "train" and (largest is None or batch.waveforms.numel() > largest.waveforms.numel()):
                largest = batch
        reports.append(
            SplitReport(name=name, durations=tuple(durations), speakers=frozenset(speakers), rejected=tuple(rejected))
        )
    shared = {
        (a.name, b.name): a.speakers & b.speakers
        for i, a in enumerate(reports)
        for b in reports[i + 1 :]
        if a.speakers & b.speakers
    }
    forecast = None
    if largest is not None and len(largest):
        forecast = _forecast(settings, len(tokeniser.tokens), largest, sum(reports[0].durations), device)
    steps = _count_steps(listings["train"], settings)
    return Preflight(
        alphabet=tokeniser.tokens[1:],
        carried=carried,
        lexicon=_check_lexicon(settings, tokeniser, listings.values())
        if isinstance(tokeniser, PhoneTokeniser)
        else None,
        splits=tuple(reports),
        shared=shared,
        remarks=(
            *(said for name in mixtures for said in left_out(settings.corpora.split(name), root)),
            *remarks(mixtures),
            *training_remarks(settings, listings["train"]),
            *_mismatches(settings, reports[0], steps),
        ),
        steps=steps,
        forecast=forecast,
    )


def _count_steps(train: Listing, settings: recipe.Recipe) -> Steps:
    training = settings.training
    an_epoch = math.ceil(epoch_of(settings, train, 0).batches / training.accumulate)
    return Steps(an_epoch=an_epoch, in_all=None if training.minutes else an_epoch * training.epochs)


def _mismatches(settings: recipe.Recipe, train: SplitReport, steps: Steps) -> Iterator[str]:
    """What of the recipe does not go with the corpus: a schedule longer than the run, too few emissions for a text."""
    training, conv = settings.training, settings.encoder.conv
    more_steps = "train for more epochs, or lower training.max_batch_seconds for more steps in each"
    if steps.in_all is not None and training.warmup_steps >= steps.in_all:
        yield (
            f"the learning rate warms up for {training.warmup_steps} steps and the run has {steps.in_all}: it ends "
            f"before full speed; lower training.warmup_steps to about {max(steps.in_all // 10, 1)}, or {more_steps}"
        )
    if steps.in_all is not None and isinstance(training.averaging, recipe.Ema):
        # A young average forgets faster (train.optimiser), so it is the run's length that it must not pass.
        memory = round(1 / max(1 - training.averaging.decay, 1e-9))
        if memory > steps.in_all:
            decay = 1 - 10 / max(steps.in_all, 20)
            yield (
                f"the average of the weights looks back over some {memory} steps and the run has {steps.in_all}: the "
                f"model that is kept lags behind; set training.averaging.decay to about {decay:.2g}, or {more_steps}"
            )
    cramped = len(train.faults().get("too short for its labels", ()))
    if cramped and conv is not None and conv.subsampling > 2:
        rate = 1 / (settings.features.shift * conv.subsampling)
        yield (
            f"{cramped} utterances of train have more labels than fit in {rate:g} emissions a second: "
            f"encoder.conv.subsampling: 2 doubles those, for about twice the work; if their texts are what is said"
        )


def _check_lexicon(settings: recipe.Recipe, tokeniser: PhoneTokeniser, listings: Iterable[Listing]) -> LexiconReport:
    words = sorted({word for listing in listings for text in normalised(settings, listing) for word in text.split()})
    pronounced = tokeniser.lexicon.within(tokeniser.tokens).pronounced(words)
    known = English().knows if tokeniser.settings.lexicon == "cmudict" else pronounced.__contains__
    return LexiconReport(
        words=len(words),
        guessed=tuple(word for word in pronounced if not known(word)),
        lacking=tuple(word for word in words if word not in pronounced),
    )


def _forecast(settings: recipe.Recipe, vocabulary: int, batch: Batch, seconds: float, device: str) -> Forecast:
    """Trains a few steps on ``batch`` and scales their time to ``seconds`` of audio."""
    on = runtime.pick_device(device)
    model = AcousticModel(settings, vocabulary).to(on).train()

    def step() -> None:
        with runtime.autocast(on, settings.training.precision):
            emissions = model(batch)
        ctc_loss(emissions, batch.tokens, batch.token_lengths).backward()  # type: ignore[no-untyped-call]
        model.zero_grad(set_to_none=True)
        if on.type == "cuda":
            torch.cuda.synchronize(on)

    step()
    started = time.perf_counter()
    for _ in range(FORECAST_STEPS):
        step()
    spent = (time.perf_counter() - started) / FORECAST_STEPS
    audio = int(batch.waveform_lengths.sum()) / settings.features.sample_rate
    parameters = sum(p.numel() for p in model.parameters())
    if on.type == "cuda":
        peak = torch.cuda.max_memory_allocated(on)
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    optimiser_bytes = 3 * 4 * parameters  # Adam's two moments and the average, which these steps did not allocate
    return Forecast(
        device=str(on),
        parameters=parameters,
        epoch_seconds=spent * seconds / audio,
        peak_bytes=peak + optimiser_bytes,
    )


def render(report: Preflight) -> list[Any]:
    """The report as rich renderables, top to bottom."""
    from rich.table import Table
    from rich.text import Text

    table = Table("split", "utterances", "hours", "speakers", "shortest", "median", "longest", "left out", box=None)
    for split in report.splits:
        ordered = sorted(split.durations) or [0.0]
        seconds = (f"{d:.1f} s" for d in (ordered[0], ordered[len(ordered) // 2], ordered[-1]))
        row = (split.name, str(len(split.durations)), f"{split.hours:.2f}", str(len(split.speakers)), *seconds)
        table.add_row(*row, str(len(split.rejected)))
    parts: list[Any] = [table]

    def line(text: str = "") -> None:
        parts.append(Text(text))

    for split in report.splits:
        line(f"\n{split.name}, durations")
        most = max((count for _, _, count in split.histogram()), default=1)
        for low, high, count in split.histogram():
            line(f"  {low:6.1f} to {high:5.1f} s  {'█' * round(40 * count / most):40}  {count}")
        for fault, rejections in split.faults().items():
            line(f"{split.name}: {len(rejections)} {fault}")
            for rejection in rejections:
                line(f"  {rejection.id}: {rejection.reason}")
    tokens = " ".join("␣" if token == " " else token for token in report.alphabet[:80])
    line(f"\n{'phones' if report.lexicon else 'alphabet'}, {len(report.alphabet)} tokens: {tokens}")
    if report.carried:
        line(report.carried)
    for finding in _describe_lexicon(report.lexicon) if report.lexicon else ():
        line(finding)
    for (a, b), speakers in report.shared.items():
        names = ", ".join(sorted(speakers)[:10])
        line(f"warning: {len(speakers)} speakers are in both {a} and {b} ({names}): error rates on {b} will flatter")
    for remark in report.remarks:
        line(f"warning: {remark}")
    in_all = f", {report.steps.in_all} in all" if report.steps.in_all is not None else ""
    line(f"training: {report.steps.an_epoch} steps an epoch{in_all}")
    if report.forecast:
        forecast = report.forecast
        line(
            f"forecast on {forecast.device}: {forecast.parameters / 1e6:.2f} M parameters, "
            f"{forecast.epoch_seconds / 60:.1f} min an epoch before augmentation, "
            f"peak memory {forecast.peak_bytes / 2**30:.1f} GiB"
        )
    return parts


def _describe_lexicon(lexicon: LexiconReport) -> Iterator[str]:
    yield f"lexicon: pronounces {lexicon.words - len(lexicon.lacking)} of {lexicon.words} words"
    if lexicon.guessed:
        yield f"{len(lexicon.guessed)} words are not in cmudict, but pronounced by rule or eSpeak NG: " + _some(
            lexicon.guessed, EXAMPLES
        )
    if lexicon.lacking:
        yield (
            f"{len(lexicon.lacking)} words have no pronunciation, and their utterances are left out: "
            f"{_some(lexicon.lacking, NAMED)}; write them out in the transcripts, or add them to a lexicon file"
        )


def _some(words: Sequence[str], most: int) -> str:
    """The first ``most`` words of a list, and how many more there are."""
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more

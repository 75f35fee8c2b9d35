"""asr lm train, perplexity, prune, mix, compress."""

from __future__ import annotations

import contextlib
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from asr.cli.options import FOLDER, device_option, going_on, progress_bar, set_option, threads_option
from asr.cli.terminal import say
from asr.errors import LanguageModelError

if TYPE_CHECKING:
    import numpy as np

    from asr.decode.ngram import NgramModel

files_argument = click.argument("files", nargs=-1, required=True, metavar="TEXT...")
normalise_option = click.option(
    "--normalise",
    "form",
    type=click.Choice(["words", "lower", "none"]),
    help="As a recipe's text.normalise; default: words, or as the model of --tokeniser has it.",
)
tokeniser_option = click.option(
    "--tokeniser", type=FOLDER, metavar="MODEL_DIR", help="Spell the text in this model's tokens, not in words."
)


LEAST_MEMORY, LEAST_FOR_SORTING = 250_000_000, 100_000_000
"""Bytes: the least to train n-grams in, and what of it is for sorting, however much the words of the text take."""
READING_SHARE, ESTIMATING_SHARE = 0.45, 0.4
"""Of the time that training n-grams takes; the rest is writing."""
COMPILED = (".lm", ".ngrams", ".safetensors")
"""Endings of files that hold a model other than in ARPA's form."""
BYTES_AN_NGRAM, CLOSE_ENOUGH = 3, 0.97
"""A first guess at what an n-gram takes in a file; how full a file of a given size is to be."""

OF_ONE_KIND = {
    "ngram": {"order", "prune", "vocabulary", "min_count", "memory", "temporary"},
    "lstm": {"epochs", "layers", "hidden", "overrides", "resume", "device"},
}
"""Options of ``lm train`` that the other kind would not heed."""


def _thresholds(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    try:
        return tuple(int(part) for part in value.split(",")) if value is not None else None
    except ValueError:
        raise click.BadParameter(f"{value!r} is no list of counts like 0,0,1", context, parameter) from None


def _size(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """Bytes: 4G, 500MB."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kMGT]?)B?", value)
    if match is None:
        raise click.BadParameter(f"{value!r} is no size like 500M or 4G", context, parameter)
    return int(float(match[1]) * 1000 ** " kMGT".index(match[2] or " "))


@click.group()
def lm() -> None:
    """Estimate and measure language models."""


@lm.command()
@files_argument
@click.option(
    "-o",
    "--out",
    type=FOLDER,
    required=True,
    metavar="PATH",
    help="x.arpa, x.arpa.gz, x.lm (small) or x.safetensors (loads at once); for an LSTM, a folder.",
)
@click.option("--kind", type=click.Choice(["ngram", "lstm"]), default="ngram", show_default=True)
@click.option("--order", default=4, show_default=True, help="Words in the longest n-grams.")
@click.option(
    "--prune",
    callback=_thresholds,
    metavar="N,N,...",
    help="Leave out n-grams of each order seen N times or fewer, the last for the longer ones too; default: 0,0,1.",
)
@click.option("--vocabulary", type=click.IntRange(1), metavar="N", help="Keep the N most frequent words.")
@click.option("--min-count", type=click.IntRange(1), default=1, show_default=True, help="Keep words seen so often.")
@click.option(
    "--memory",
    callback=_size,
    metavar="SIZE",
    help="Sort on disk what takes more (4G, 500M); default: half of what is free. The numbers are the same.",
)
@click.option("--temporary", type=FOLDER, metavar="DIR", help="Where to sort; default: beside the output.")
@click.option("--epochs", type=click.IntRange(1), help="LSTM: times through the text; default: 3.")
@click.option("--layers", type=click.IntRange(1), help="LSTM: default 1.")
@click.option("--hidden", type=click.IntRange(1), help="LSTM: units a layer; default: 512.")
@click.option("--resume", is_flag=True, help="LSTM: go on with the run in PATH, or start it where there is none.")
@set_option
@device_option
@threads_option
@normalise_option
@tokeniser_option
@click.pass_context
def train(
    context: click.Context,
    files: tuple[str, ...],
    out: Path,
    kind: str,
    order: int,
    prune: tuple[int, ...] | None,
    vocabulary: int | None,
    min_count: int,
    memory: int | None,
    temporary: Path | None,
    epochs: int | None,
    layers: int | None,
    hidden: int | None,
    resume: bool,
    overrides: tuple[str, ...],
    device: str,
    form: str | None,
    tokeniser: Path | None,
) -> None:
    """Estimate a language model from TEXT, one sentence a line, plain or gzipped ("-" reads standard input).

    Words that are not kept become <unk>, of which the model then knows how often it comes. An LSTM spells in the tokens
    of the recogniser that it is to serve, --tokeniser, and knows every word.
    """
    for other, options in OF_ONE_KIND.items():
        given = [name for name in options if context.get_parameter_source(name) is not ParameterSource.DEFAULT]
        if other != kind and given:
            name = "set" if given[0] == "overrides" else given[0].replace("_", "-")
            raise click.UsageError(f"--{name} is for --kind {other}")
    if kind == "lstm":
        if tokeniser is None:
            raise click.UsageError("--kind lstm needs --tokeniser MODEL_DIR, the recogniser whose tokens it spells in")
        network = {"layers": layers, "hidden": hidden}
        _train_lstm(files, out, form, tokeniser, network, epochs, overrides, resume=resume, device=device)
        return
    from asr.decode.arpa import write_arpa
    from asr.decode.ngram import NgramModel
    from asr.runtime import free_memory, resident_memory
    from asr.train import kneser_ney
    from asr.train.columns import Workspace

    if memory is not None and memory < LEAST_MEMORY:
        raise click.BadParameter(f"the least that works is {LEAST_MEMORY // 1_000_000}M", param_hint="--memory")
    folder = temporary if temporary is not None else out.absolute().parent
    with contextlib.suppress(OSError):  # whoever writes there will say why it cannot
        folder.mkdir(parents=True, exist_ok=True)
    with _Progress() as progress:
        reading = _Reading(files, lambda fraction: progress.show("reading", READING_SHARE * fraction))
        sentences = _Symbols(files, form, tokeniser, reading.advance)
        text = kneser_ney.read_text(
            sentences, vocabulary=vocabulary, min_count=min_count, workspace=Workspace(folder=folder)
        )
        # Of text in millions of different words, what reading took is not given back to the system.
        rest = (memory or free_memory() // 2) - resident_memory()
        estimate = kneser_ney.estimate(
            text,
            order=order,
            prune=prune if prune is not None else (0, 0, 1)[:order],
            workspace=Workspace(folder=folder, memory=max(rest, LEAST_FOR_SORTING)),
            advance=lambda step, fraction: progress.show(step, READING_SHARE + ESTIMATING_SHARE * fraction),
        )
        written = READING_SHARE + ESTIMATING_SHARE
        progress.show("writing", written)
        if out.suffix in COMPILED:
            _write(out, NgramModel.from_sorted(estimate))
        else:
            write_arpa(out, estimate, lambda fraction: progress.show("writing", written + (1 - written) * fraction))
    sentences.report()
    if estimate.fallbacks:
        orders = " and ".join(map(str, estimate.fallbacks))
        say(
            f"asr: the text is too small or too regular to estimate the discounts of order {orders}; "
            f"{', '.join(map(str, kneser_ney.FALLBACK_DISCOUNTS))} were taken",
            err=True,
        )
    sizes = " + ".join(str(len(listing.ids)) for listing in estimate.sections)
    words = len(text.tokens) - 2 * text.sentences
    say(f"{out}: {sizes} n-grams from {words} words in {text.sentences} sentences")


def _train_lstm(
    files: Sequence[str],
    out: Path,
    form: str | None,
    recogniser: Path,
    network: dict[str, int | None],
    epochs: int | None,
    overrides: tuple[str, ...],
    *,
    resume: bool,
    device: str,
) -> None:
    from asr import runtime
    from asr.checkpoint import load_description
    from asr.recipe import LanguageModelRecipe
    from asr.recipe.reading import validate_recipe
    from asr.train.language import train_language_model

    spoken, tokeniser = load_description(recogniser)
    raw = {
        "kind": "language_model",
        "sentences": {
            "train": [name if name == "-" else str(Path(name).absolute()) for name in files],
            "normalise": form or spoken.text.normalise,
            "language": spoken.text.language,
        },
        "network": {key: value for key, value in network.items() if value is not None},
        "training": {} if epochs is None else {"epochs": epochs},
    }
    settings = validate_recipe(raw, "asr lm train", overrides, schema=LanguageModelRecipe)
    with going_on(), runtime.joined(device):
        meta = train_language_model(settings, tokeniser, out, device=device, resume=resume)
        if not runtime.is_first():
            return
    dev, spent = meta["results"]["dev"], meta["training"]
    say(
        f"{out}: perplexity {dev['perplexity']:.2f} a word, {dev['bits_per_character']:.3f} bits a character on "
        f"held-out sentences at epoch {meta['results']['best_epoch']} of {spent['epochs']}, "
        f"{meta['parameters'] / 1e6:.2f} M parameters, {spent['minutes']:.1f} min"
    )


@lm.command()
@click.argument("model", type=FOLDER, metavar="LM")
@files_argument
@normalise_option
@tokeniser_option
def perplexity(model: Path, files: tuple[str, ...], form: str | None, tokeniser: Path | None) -> None:
    """Perplexity of the language model LM on TEXT, one sentence a line, and how many of its words LM does not know."""
    if model.is_dir():
        if tokeniser is not None:
            raise click.UsageError(f"--tokeniser is for n-grams; {model} has its own")
        _measure_lstm(model, files, form)
        return
    from asr.decode.ngram import NgramModel

    with _progress(files) as progress:
        [task] = progress.task_ids
        progress.update(task, description=f"loading {model.name}")
        loaded = NgramModel.load(model)
        progress.update(task, description="reading")
        sentences = _Symbols(files, form, tokeniser, lambda count: progress.advance(task, count))
        measured = loaded.perplexity(sentences)
    sentences.report()
    say(
        f"perplexity {measured.including_oov:.2f}, without unknown words {measured.excluding_oov:.2f}; "
        f"{measured.oovs} of {measured.words} words unknown ({measured.oov_rate:.2%}); "
        f"{measured.sentences} sentences"
    )


def _measure_lstm(directory: Path, files: Sequence[str], form: str | None) -> None:
    from asr.checkpoint import load_language_model
    from asr.text.sentences import read_sentences
    from asr.train.language import measure_fit

    loaded = load_language_model(directory)
    with _progress(files) as progress:
        [task] = progress.task_ids
        sentences = read_sentences(
            files, form or loaded.recipe.sentences.form, lambda count: progress.advance(task, count)
        )
        fit = measure_fit(loaded.model, loaded.tokeniser, sentences)
    if fit.unspelled:
        say(
            f"asr: {fit.unspelled} sentences hold characters outside the alphabet of {directory} and were left out",
            err=True,
        )
    say(
        f"perplexity {fit.perplexity:.2f}, {fit.bits_per_character:.3f} bits a character; "
        f"{fit.words} words in {fit.sentences} sentences"
    )


out_option = click.option(
    "-o",
    "--out",
    type=FOLDER,
    required=True,
    metavar="PATH",
    help="x.lm (small: quantised and compressed), x.arpa, x.arpa.gz or x.safetensors (exact, loads at once).",
)


@lm.command()
@click.argument("model", type=FOLDER, metavar="LM")
@out_option
@click.option(
    "--threshold",
    type=click.FloatRange(min=0),
    metavar="X",
    help="Leave out what costs less perplexity, as a fraction: 1e-8.",
)
@click.option(
    "--ngrams", type=click.IntRange(1), metavar="N", help="Keep the N n-grams, words included, that cost most."
)
@click.option("--size", callback=_size, metavar="SIZE", help="Keep as many as PATH may hold: 25MB.")
@click.option(
    "--histories",
    type=click.Choice(["chain", "running"]),
    default="chain",
    show_default=True,
    help="How frequent a context is: by Stolcke's product of probabilities, or as in text that the model makes up.",
)
def prune(
    model: Path, out: Path, threshold: float | None, ngrams: int | None, size: int | None, histories: str
) -> None:
    """Make the n-gram model LM smaller by leaving out the n-grams that cost the least perplexity (Stolcke 1998)."""
    if sum(value is not None for value in (threshold, ngrams, size)) != 1:
        raise click.UsageError("one of --threshold, --ngrams and --size is needed, and no more than one")
    from asr.decode.ngram import NgramModel
    from asr.train import prune as pruning

    loaded = NgramModel.load(model)
    lost = pruning.losses(loaded, histories)
    if size is None:
        pruned = pruning.prune(loaded, threshold=threshold, ngrams=ngrams, lost=lost)
        _write(out, pruned)
    else:
        pruned = _prune_to_size(loaded, lost, out, size)
    say(f"{out}: {_sizes(pruned)} of {_sizes(loaded)} n-grams, {out.stat().st_size / 1e6:.1f} MB")


def _prune_to_size(model: NgramModel, lost: np.ndarray, out: Path, size: int) -> NgramModel:
    """Writes the largest pruned model of some tries that is no larger than ``size`` bytes."""
    from asr.train.prune import prune

    total, unigrams = len(lost) - 1, len(model.words)
    least, most, ngrams = unigrams, total, min(total, max(unigrams, size // BYTES_AN_NGRAM))
    with tempfile.TemporaryDirectory(dir=out.absolute().parent, prefix=f".{out.name}.") as folder:
        trial = Path(folder) / out.name
        while True:
            pruned = prune(model, ngrams=ngrams, lost=lost)
            _write(trial, pruned)
            written = trial.stat().st_size
            if written > size:
                if ngrams == unigrams:
                    raise LanguageModelError(
                        f"{size} bytes do not hold the model's {unigrams} words: they take {written}"
                    )
                most = ngrams - 1
            elif written > CLOSE_ENOUGH * size or ngrams >= most:
                trial.replace(out)
                return pruned
            else:
                least = ngrams
            ngrams = min(max(int(ngrams * size * (1 + CLOSE_ENOUGH) / 2 / written), least), most)


@lm.command()
@click.argument("models", nargs=-1, required=True, type=FOLDER, metavar="LM LM...")
@click.option("--dev", required=True, multiple=True, metavar="TEXT", help="The weights are chosen on it.")
@out_option
@normalise_option
def mix(models: tuple[Path, ...], dev: tuple[str, ...], out: Path, form: str | None) -> None:
    """Interpolate n-gram models into one, with the weights under which the text of --dev is most probable."""
    if len(models) < 2:
        raise click.UsageError("two models or more are mixed")
    from asr.decode.ngram import NgramModel
    from asr.train import mix as mixing

    loaded = [NgramModel.load(path) for path in models]
    found = mixing.find_weights(loaded, _Symbols(dev, form, None, lambda _: None))
    for path, weight, alone in zip(models, found.values, found.alone, strict=True):
        say(f"{path}: weight {weight:.4f}, perplexity {alone:.2f} alone")
    mixed = mixing.mix(loaded, found.values)
    _write(out, mixed)
    say(f"{out}: perplexity {found.mixed:.2f}, {_sizes(mixed)} n-grams")


@lm.command()
@click.argument("model", type=FOLDER, metavar="LM")
@out_option
@click.option("--bits", type=click.IntRange(2, 8), default=8, show_default=True, help="Of each number in x.lm.")
def compress(model: Path, out: Path, bits: int) -> None:
    """Write the n-gram model LM in another form: x.lm is the smallest."""
    from asr.decode.ngram import NgramModel

    loaded = NgramModel.load(model)
    _write(out, loaded, bits)
    say(f"{out}: {_sizes(loaded)} n-grams, {out.stat().st_size / 1e6:.1f} MB")


def _write(out: Path, model: NgramModel, bits: int = 8) -> None:
    """In the form that the name asks for."""
    from asr.decode.arpa import write_arpa

    if out.suffix == ".lm":
        model.save_packed(out, bits)
    elif out.suffix in COMPILED:
        model.save(out)
    else:
        write_arpa(out, model.to_arpa())


def _sizes(model: NgramModel) -> str:
    """How many n-grams of each order."""
    bounds = (model.level(n) for n in range(1, model.order + 1))
    return " + ".join(str(stop - start) for start, stop in bounds)


class _Progress:
    """How far a long computation is, and how long it may still take."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[left]}"),
        )
        self._bar = progress_bar(*columns)
        self._task = self._bar.add_task("reading", total=1.0, left="")
        self._began = time.monotonic()

    def __enter__(self) -> _Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, step: str, fraction: float) -> None:
        """``step`` is being done, and ``fraction`` of the whole is."""
        seconds = (time.monotonic() - self._began) * (1 - fraction) / fraction if fraction > 0 else None
        left = "" if seconds is None else f"{seconds / 60:.0f} min left" if seconds > 90 else f"{seconds:.0f} s left"
        self._bar.update(self._task, description=step, completed=fraction, left=left)


class _Reading:
    """What fraction of ``files`` has been read, of those whose size is known."""

    def __init__(self, files: Sequence[str], show: Callable[[float], object]) -> None:
        self._total = sum(Path(name).stat().st_size for name in files if Path(name).is_file())
        self._show, self._read = show, 0

    def advance(self, count: int) -> None:
        self._read += count
        self._show(min(self._read / self._total, 1.0) if self._total else 0.0)


class _Symbols:
    """The sentences of text files as the symbols of a language model: words, or the tokens of a model directory."""

    def __init__(
        self, files: Sequence[str], form: str | None, directory: Path | None, advance: Callable[[int], object]
    ) -> None:
        self._files, self._form, self._directory, self._advance = files, form, directory, advance
        self._unspelled = 0

    def __iter__(self) -> Iterator[list[str]]:
        from asr.errors import TextError
        from asr.text.sentences import read_sentences
        from asr.text.tokenise import lm_symbols

        if self._directory is None:
            for sentence in read_sentences(self._files, self._form or "words", self._advance):
                yield sentence.split()
            return
        from asr.checkpoint import load_description

        recipe, tokeniser = load_description(self._directory)
        symbols = lm_symbols(tokeniser)
        for sentence in read_sentences(self._files, self._form or recipe.text.form, self._advance):
            try:
                tokens = tokeniser.encode(sentence)
            except TextError:
                self._unspelled += 1
                continue
            yield [symbols[token] for token in tokens]

    def report(self) -> None:
        """Says how many sentences were left out, if any were."""
        if self._unspelled:
            say(
                f"asr: {self._unspelled} sentences hold characters outside the alphabet of {self._directory} and were "
                "left out",
                err=True,
            )


def _progress(files: Sequence[str]) -> Any:
    """A progress bar with one task: the bytes of ``files``, as far as they are known."""
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

    sizes = [Path(name).stat().st_size if Path(name).is_file() else None for name in files]
    progress = progress_bar(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    progress.add_task("reading", total=None if None in sizes else sum(size or 0 for size in sizes))
    return progress

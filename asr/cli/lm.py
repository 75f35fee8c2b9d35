"""asr lm train, asr lm perplexity."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from asr.cli.options import FOLDER, device_option, going_on, progress_bar, set_option, threads_option
from asr.cli.terminal import say

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


OF_ONE_KIND = {
    "ngram": {"order", "prune", "vocabulary", "min_count"},
    "lstm": {"epochs", "layers", "hidden", "overrides", "resume", "device"},
}
"""Options of ``lm train`` that the other kind would not heed."""


def _thresholds(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    try:
        return tuple(int(part) for part in value.split(",")) if value is not None else None
    except ValueError:
        raise click.BadParameter(f"{value!r} is no list of counts like 0,0,1", context, parameter) from None


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
    help="x.arpa, x.arpa.gz or x.safetensors; for an LSTM, a folder.",
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
    from asr.train import kneser_ney

    with _progress(files) as progress:
        [task] = progress.task_ids
        sentences = _Symbols(files, form, tokeniser, lambda count: progress.advance(task, count))
        text = kneser_ney.read_text(sentences, vocabulary=vocabulary, min_count=min_count)
        progress.update(task, description="estimating", total=None)
        estimate = kneser_ney.estimate(text, order=order, prune=prune if prune is not None else (0, 0, 1)[:order])
        progress.update(task, description="writing")
        if out.suffix == ".safetensors":
            NgramModel.from_arpa(estimate.model).save(out)
        else:
            write_arpa(out, estimate.model)
    sentences.report()
    if estimate.fallbacks:
        orders = " and ".join(map(str, estimate.fallbacks))
        say(
            f"asr: the text is too small or too regular to estimate the discounts of order {orders}; "
            f"{', '.join(map(str, kneser_ney.FALLBACK_DISCOUNTS))} were taken",
            err=True,
        )
    sizes = " + ".join(str(len(section.ids)) for section in estimate.model.sections)
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
    with going_on():
        meta = train_language_model(settings, tokeniser, out, device=device, resume=resume)
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

"""What several commands share: option decorators, the model in use, and the progress bar."""

from __future__ import annotations

import contextlib
import functools
import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from asr.cli.terminal import say
from asr.errors import AsrError, TrainingStopped

if TYPE_CHECKING:
    from asr.data.corpora import AnySource
    from asr.recipe import Recipe

    Sources = tuple[AnySource, ...]

ARGUMENTS = "asr.arguments"
"""Of a context's ``meta``: the words of the command line after ``asr``."""
FOLDER = click.Path(path_type=Path)


class _Model(click.Path):
    """The directory of the model that is named, by the one rule for names (``checkpoint.resolve``)."""

    name = "model"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:  # noqa: ARG002
        from asr.checkpoint import resolve

        return value if isinstance(value, Path) else resolve(value)


MODEL = _Model()


PLAIN_SECONDS = 30.0
"""Between two plain lines of progress where standard error is no terminal."""


def progress_bar(*columns: Any) -> Any:
    """A progress bar on standard error or, where that is no terminal, a plain line now and then. Nothing is redirected,
    so that loader processes inherit none of its locks."""
    import time

    from rich.console import Console
    from rich.progress import Progress
    from rich.text import Text

    class Piped(Progress):
        due = time.monotonic() + PLAIN_SECONDS

        def update(self, task_id: Any, **changes: Any) -> None:
            super().update(task_id, **changes)
            self._say(task_id)

        def advance(self, task_id: Any, advance: float = 1) -> None:
            super().advance(task_id, advance)
            self._say(task_id)

        def _say(self, task_id: Any) -> None:
            if time.monotonic() < self.due:
                return
            self.due = time.monotonic() + PLAIN_SECONDS
            task = next(task for task in self.tasks if task.id == task_id)
            drawn = (column(task) for column in self.columns if not isinstance(column, str))
            say("  ".join(text.plain for text in drawn if isinstance(text, Text)), err=True)

    console = Console(stderr=True)
    options: dict[str, Any] = {"console": console, "transient": True}
    options |= {"redirect_stdout": False, "redirect_stderr": False}
    return Progress(*columns, **options) if console.is_interactive else Piped(*columns, **options, disable=True)


COMPILING = "compiling the search, once on this machine: up to a minute (asr warm-up does it beforehand)"


@contextlib.contextmanager
def said_if_slow(text: str, seconds: float = 3.0) -> Iterator[None]:
    """Says ``text`` on standard error where what is done within takes longer than ``seconds``."""
    import threading

    timer = threading.Timer(seconds, say, [text], {"err": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


data_option = click.option(
    "--data", metavar="DIR", help="Folder in which relative corpus paths start; else $ASR_DATA, else the recipe's."
)
FORMS = ("txt", "json", "srt", "vtt", "tsv", "ctm", "textgrid")


def chosen_among(allowed: Sequence[str], otherwise: str = "") -> Callable[..., tuple[str, ...]]:
    """A callback for formats given one by one or as a list with commas, each once; ``otherwise`` ends the sentence that
    refuses another."""

    def chosen(_context: click.Context, _parameter: click.Parameter, given: Sequence[str]) -> tuple[str, ...]:
        forms = tuple(dict.fromkeys(form.strip() for entry in given for form in entry.split(",")))
        for form in forms:
            if form not in allowed:
                raise click.BadParameter(f'"{form}" is not one of {", ".join(allowed)}{otherwise}')
        return forms

    return chosen


def chosen_channels(_context: click.Context, _parameter: click.Parameter, given: str) -> Any:
    """``mix``, ``split`` or a channel's number, counted from 1."""
    if given in ("mix", "split"):
        return given
    if not given.isdecimal() or int(given) == 0:
        raise click.BadParameter(f'"{given}" is not mix, split or the number of a channel, 1 being the first')
    return int(given)


model_option = click.option(
    "--model", type=MODEL, metavar="DIR", help="Model directory; default: the newest under models/."
)
channels_option = click.option(
    "--channels",
    default="mix",
    show_default=True,
    callback=chosen_channels,
    metavar="mix|split|N",
    help="split transcribes each channel by itself.",
)
vad_option = click.option(
    "--vad/--no-vad", default=None, help="Leave out what is not speech; default: in recordings longer than 40 s."
)


def _threads_option(*, watch: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--threads``; ``watch`` as ``runtime.use_threads`` takes it."""

    def use(_context: click.Context, _parameter: click.Parameter, number: int | None) -> None:
        from asr import runtime

        runtime.use_threads(number, watch=watch)

    return click.option(
        "--threads",
        type=click.IntRange(min=1),
        metavar="N",
        expose_value=False,
        callback=use,
        help="Threads that compute on the CPU; default one a core. 1 where others need the cores too.",
    )


def _as_override(_context: click.Context, _parameter: click.Parameter, model: str | None) -> list[str]:
    """As ``--set`` has it."""
    return [] if model is None else [f"start.model={json.dumps(model, ensure_ascii=False)}"]


threads_option = _threads_option(watch=True)
quick_threads_option = _threads_option(watch=False)
device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
engine_option = click.option(
    "--engine",
    type=click.Choice(["auto", "torch", "onnx"]),
    default="auto",
    show_default=True,
    help="What computes the network; auto: ONNX Runtime where the model holds a graph and there is no GPU.",
)
set_option = click.option(
    "--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Override a recipe key: encoder.hidden=256."
)


@contextlib.contextmanager
def going_on() -> Iterator[None]:
    """A training that a signal stops says the command that goes on from there; of several processes the first one."""
    from asr import runtime

    try:
        yield
    except TrainingStopped as stopped:
        if not runtime.is_first():
            raise click.exceptions.Exit(1) from None
        asr = ["asr"] if runtime.world() == 1 else ["torchrun", "...", "-m", "asr"]
        arguments = [argument for argument in click.get_current_context().meta[ARGUMENTS] if argument != "--resume"]
        raise TrainingStopped(stopped.where, f"go on with: {shlex.join([*asr, *arguments, '--resume'])}") from None


start_option = click.option(
    "--from",
    "start",
    metavar="MODEL",
    callback=_as_override,
    help="Begin with this model's weights: english, the built-in one, or a model directory; else the recipe's start.",
)


def decoder_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that ``decoder_overrides`` reads, passed on to the command as ``decoding``."""
    options = (
        click.option("--greedy", is_flag=True, help="The best path alone, whatever the model directory says."),
        click.option("--beam", metavar="N", help="Search with N prefixes at once."),
        click.option("--lm", metavar="FILE", help="Language model: ARPA, plain or gzipped, or x.lm."),
        click.option("--alpha", metavar="X", help="Weight of the language model's log probability."),
        click.option("--beta", metavar="X", help="Added for each word, in nats."),
        click.option("--unknown", metavar="X", help="Added for a word that the language model lacks, in nats."),
        click.option("--lstm", metavar="DIR", help="LSTM language model, to rescore the readings with."),
        click.option("--lstm-weight", metavar="X", help="Weight of its log probability."),
        click.option("--lstm-mode", metavar="MODE", help="rescore, or fuse: in the search itself, slower."),
        click.option("--lexicon", metavar="FILE", help="Only words of this file, one a line."),
        click.option(
            "--phrases", metavar="FILE", help="One of this file's phrases, or nothing: recipes/guides/phrases.md."
        ),
        click.option("--reject", metavar="P", help="Of --phrases: nothing, where the confidence is below P (0 to 1)."),
        click.option("--hotwords", metavar="LIST", help='Favoured words and phrases: "Kettering:8,saturn" (in nats).'),
    )

    @functools.wraps(command)
    def with_decoding(**arguments: Any) -> None:
        decoding = {name: arguments.pop(name) for name in ("greedy", "phrases", "reject", "hotwords", *_KEYS)}
        command(**arguments, decoding=decoder_overrides(**decoding))

    for option in reversed(options):
        with_decoding = option(with_decoding)
    return with_decoding


_KEYS = {
    "beam": "width",
    "lm": "language_model",
    "alpha": "alpha",
    "beta": "beta",
    "unknown": "unknown",
    "lstm": "lstm.path",
    "lstm_weight": "lstm.weight",
    "lstm_mode": "lstm.mode",
    "lexicon": "lexicon",
}
"""Options that are keys of a recipe's decoder."""
_PATHS = {"lm", "lstm", "lexicon"}
_KNOWLEDGE = _KEYS.keys() - {"beam"}
HOTWORD_WEIGHT = 6.0


def decoder_overrides(
    greedy: bool, phrases: str | None, reject: str | None, hotwords: str | None, **settings: str | None
) -> list[str]:
    """Recipe overrides (``decoder.alpha=0.5``) that say what the options say. Raises AsrError."""
    others = hotwords or any(settings.values())
    if greedy and (others or phrases or reject):
        raise AsrError("--greedy searches nothing, so it goes with no other decoding option")
    if phrases and others:
        raise AsrError(
            "--phrases searches its own phrases alone, so of the decoding options only --reject goes with it"
        )
    if greedy:
        return ["decoder={kind: greedy}"]
    if phrases:
        given = [] if reject is None else [f"decoder.reject={reject}"]
        return ["decoder={kind: phrases}", f"decoder.file={json.dumps(str(Path(phrases).absolute()))}", *given]
    if reject is not None:
        return [f"decoder.reject={reject}"]
    chosen = {option: value for option, value in settings.items() if value is not None}
    overrides = [
        f"decoder.{_KEYS[option]}={json.dumps(str(Path(value).absolute())) if option in _PATHS else value}"
        for option, value in chosen.items()
    ]
    if hotwords:
        overrides.append(f"decoder.hotwords={json.dumps(_hotwords(hotwords), ensure_ascii=False)}")
    if chosen.keys() & _KNOWLEDGE:
        overrides.append("decoder.calibration=null")  # it is that of what the model directory decodes with
    return ["decoder.kind=beam", *overrides] if overrides else []


def _hotwords(text: str) -> dict[str, float]:
    """``Kettering:8,saturn`` as phrases and weights."""
    weights = {}
    for entry in filter(None, map(str.strip, text.split(","))):
        phrase, colon, weight = entry.rpartition(":")
        try:
            weights[phrase.strip() if colon else entry] = float(weight) if colon else HOTWORD_WEIGHT
        except ValueError:
            raise AsrError(f'--hotwords: "{weight}" is not a weight; expected "phrase" or "phrase:weight"') from None
    return weights


def model_directory(given: Path | None) -> Path:
    """The model asked for, or the newest, or else the one in the package, said aloud."""
    from asr import checkpoint

    if given is not None:
        return given
    found = checkpoint.newest(Path("models"), otherwise=checkpoint.built_in())
    if found == checkpoint.built_in():
        say(f"using English (built in){_measured(checkpoint.read_meta(found))}", err=True)
    else:
        say(f"using {found}", err=True)
    return found


def _measured(meta: dict[str, Any]) -> str:
    """ ": WER 14.2 % on mini-librispeech-dev", of the first test set that meta.json tells of."""
    for name, figures in meta.get("results", {}).get("test", {}).items():
        return f": WER {100 * figures['wer']:.1f} % on {name}"
    return ""


def chosen_sources(sets: Sequence[Path], own: Recipe, split: str, data: str | None) -> list[tuple[Sources, Path]]:
    """Corpora and where their paths start: of manifests, of other recipes' split, or else of the model's own recipe's.

    Raises RecipeError, CorpusError.
    """
    from asr.data import corpora
    from asr.files import data_root
    from asr.recipe.reading import load_recipe

    chosen: list[tuple[Sources, Path]] = []
    for path in sets:
        if path.suffix in {".yaml", ".yml"}:
            settings = load_recipe(path)
            chosen.append((corpora.sources_of(settings, split), data_root(data, settings.data)))
        else:
            chosen.append(((corpora.manifest_source(path),), Path()))
    chosen = chosen or [(corpora.sources_of(own, split), data_root(data, own.data))]
    corpora.check_names([source for sources, _ in chosen for source in sources])
    return chosen

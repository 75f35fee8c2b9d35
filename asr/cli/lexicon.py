"""asr lexicon make, asr lexicon add, asr lexicon languages."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click

from asr.cli.options import FOLDER, MODEL, progress_bar
from asr.cli.terminal import say, write

NAMED = 10
"""Words named in a sentence about many."""
CHUNK = 1000


class _MakesByDefault(click.Group):
    """``asr lexicon words.txt`` is ``asr lexicon make words.txt``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = ["make", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_MakesByDefault, short_help="Write and extend pronunciation lexicons.")
def lexicon() -> None:
    """Write and extend pronunciation lexicons.

    \b
    asr lexicon words.txt -o lexicon.txt               the same as asr lexicon make ...
    asr lexicon text.txt lm.arpa --language de -o lexicon.txt
    asr lexicon add MODEL "Kettering  K EH T ER IH NG"
    """


@lexicon.command()
@click.argument("files", nargs=-1, required=True, metavar="WORDS|TEXT|LM...")
@click.option("-o", "--out", type=FOLDER, required=True, metavar="FILE", help="The lexicon to write.")
@click.option("--language", default="en-us", show_default=True, help="One of those that asr lexicon languages lists.")
@click.option(
    "--from",
    "origin",
    metavar="SOURCE",
    help="cmudict, espeak, or a lexicon file to choose from; default: cmudict for en-us, else espeak.",
)
@click.option(
    "--normalise",
    "form",
    type=click.Choice(["words", "lower", "none"]),
    default="words",
    show_default=True,
    help="As a recipe's text.normalise. The words of an ARPA file are taken as they are.",
)
def make(files: tuple[str, ...], out: Path, language: str, origin: str | None, form: str) -> None:
    """Pronounce the words of word lists (one a line, a count may follow), texts and ARPA language models, and write
    them as a lexicon: a word and its phones on each line.

    Words are sorted. Edit the file as you like, and name it in a recipe: text.tokeniser: {kind: phones, lexicon: FILE}.
    """
    from asr import recipe
    from asr.decode.packed import is_compiled
    from asr.errors import TextError
    from asr.files import replacing
    from asr.text.pronounce import open_lexicon, write_entries
    from asr.text.vocabulary import read_vocabulary

    source = origin or ("cmudict" if language == "en-us" else "espeak")
    source_lexicon = open_lexicon(recipe.Phones(kind="phones", lexicon=source, language=language), Path())
    with _progress("reading words", _bytes_of(files)) as advance:
        models = [name for name in files if is_compiled(Path(name))]
        words = read_vocabulary([name for name in files if name not in models], form, advance)
        words = sorted({*words, *_words_of(models)})
    source_lexicon = source_lexicon.in_case_of(words)
    written = 0
    lacking: list[str] = []
    phones: set[str] = set()
    with replacing(out) as file, _progress("pronouncing", len(words)) as advance:
        for start in range(0, len(words), CHUNK):
            chunk = words[start : start + CHUNK]
            pronounced = source_lexicon.pronounced(chunk)
            write_entries(pronounced.items(), file)
            written += len(pronounced)
            lacking += [word for word in chunk if word not in pronounced]
            phones |= {phone for ways in pronounced.values() for way in ways for phone in way.phones}
            advance(len(chunk))
        if not written:
            where = f"{source} ({language})" if source_lexicon.generate else source
            raise TextError(
                f"{where} has no pronunciation of any of the {len(words)} words{_named(words)}: "
                "are they in another language or alphabet?"
            )
    if lacking:
        say(f"asr: {len(lacking)} words have no pronunciation and were left out{_named(lacking)}", err=True)
    say(f"{out}: {written} words in {len(phones)} phones")


@lexicon.command()
@click.argument("model", type=MODEL)
@click.argument("entries", nargs=-1, metavar="WORD|ENTRY...")
@click.option("--from", "file", type=FOLDER, metavar="FILE", help="A lexicon file, all of whose words are added too.")
def add(model: Path, entries: tuple[str, ...], file: Path | None) -> None:
    """Add words to the lexicon of MODEL, a model directory: "Kettering  K EH T ER IH NG", or the word alone, which is
    then pronounced as MODEL's other words were. Nothing is trained.

    What is added comes before the pronunciations that the word had.
    """
    from asr.checkpoint import PRONUNCIATIONS, check_may_change, load_description
    from asr.errors import CheckpointError
    from asr.text.pronounce import read_lexicon, write_entries, write_lexicon
    from asr.text.tokenise import PhoneTokeniser

    check_may_change(model)
    settings, tokeniser = load_description(model)
    if not isinstance(tokeniser, PhoneTokeniser):
        raise CheckpointError(f"{model} spells words in letters and has no lexicon to add to: it knows every spelling")
    if not entries and file is None:
        raise click.UsageError("say which words to add, or --from which file")
    added = [tokeniser.read_entry(entry, settings.text.form) for entry in entries]
    read = read_lexicon(file).in_case_of(tokeniser.lexicon) if file is not None else {}
    extended = tokeniser.lexicon.preferring([*read.items(), *added])
    extended.check_phones(tokeniser.tokens)
    write_lexicon(extended, model / PRONUNCIATIONS)
    lines = io.StringIO()
    write_entries(added, lines)
    if added:
        write(lines.getvalue().rstrip("\n"))
    if read:
        say(f"{model}: {len(read)} words of {file} added, {len(extended)} in all")


@lexicon.command()
def languages() -> None:
    """List the codes of eSpeak NG's languages, one a line."""
    from asr.text.espeak import engine

    for code in engine().languages:
        say(code)


@contextlib.contextmanager
def _progress(label: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar with one task; call what it gives with each step's size."""
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with progress_bar(*columns) as progress:
        task = progress.add_task(label, total=total)
        yield lambda size: progress.advance(task, size)


def _bytes_of(files: Sequence[str]) -> int | None:
    """All the bytes of ``files``; None where one of them has no size."""
    paths = [Path(name) for name in files]
    return sum(path.stat().st_size for path in paths) if all(path.is_file() for path in paths) else None


def _words_of(models: Sequence[str]) -> set[str]:
    """The words of language models in a form of ours."""
    if not models:
        return set()
    from asr.decode.arpa import END, START, UNKNOWN
    from asr.decode.ngram import NgramModel

    return set().union(*(NgramModel.load(Path(name)).words for name in models)) - {UNKNOWN, START, END}


def _named(words: Sequence[str]) -> str:
    """The first of ``words`` in a sentence, and how many more there are."""
    more = f" and {len(words) - NAMED} more" if len(words) > NAMED else ""
    return f" ({', '.join(words[:NAMED])}{more})" if words else ""

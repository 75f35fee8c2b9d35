"""The command line: parse, call, print. An AsrError is one line and exit code 1."""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import click

from asr import __version__
from asr.cli.adapt import adapt
from asr.cli.align import align
from asr.cli.archive import archive
from asr.cli.check import check
from asr.cli.evaluate import evaluate
from asr.cli.export import export
from asr.cli.info import info
from asr.cli.inspect import inspect
from asr.cli.lexicon import lexicon
from asr.cli.listen import listen
from asr.cli.lm import lm
from asr.cli.options import ARGUMENTS
from asr.cli.score import score
from asr.cli.serve import serve
from asr.cli.shards import shards
from asr.cli.study import study
from asr.cli.terminal import say
from asr.cli.text import text
from asr.cli.train import train
from asr.cli.transcribe import transcribe
from asr.cli.tune import tune
from asr.cli.warm_up import warm_up
from asr.errors import AsrError, MissingExtraError

_EXTRAS = dict.fromkeys(
    ("jinja2", "lhotse", "librosa", "matplotlib", "scipy", "tensorboard", "torch", "torchaudio"), "train"
)
"""What the small install lacks, and the extra that brings it."""


class _Commands(click.Group):
    """Turns an AsrError, an interrupt or a closed pipe into a sentence and an exit code."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[ARGUMENTS] = tuple(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        with _libraries_silent(), _warnings_said():
            return self._invoke(ctx)

    def _invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AsrError as error:
            say(f"asr: {error}", err=True)
        except click.UsageError as error:
            say(f"asr: {error.format_message()}", err=True)
        except BrokenPipeError:
            sys.stderr.close()
        except OSError as error:  # a full disk, a folder that may not be written: wherever it is met
            say(f"asr: {error.filename or 'writing'}: {error.strerror or error}", err=True)
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package == "numba":
                say("asr: a beam search and alignment need numba: pip install numba; --greedy does without", err=True)
            elif package in _EXTRAS:
                purpose = f"asr {ctx.invoked_subcommand}"
                say(f"asr: {MissingExtraError(package, _EXTRAS[package], purpose)}", err=True)
            else:
                raise
        except KeyboardInterrupt:
            say("asr: stopped", err=True)
        except RuntimeError as error:  # torch raises it wherever the program happens to be
            if "DataLoader worker" not in str(error):
                raise
            say(f"asr: a loader process died, for want of memory perhaps: {error}", err=True)
        return ctx.exit(1)


@contextlib.contextmanager
def _warnings_said() -> Iterator[None]:
    """What the package logs, damaged audio above all, is said on standard error as errors are, each sentence once."""
    said: set[str] = set()

    class Echo(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if len(said) > 1000:  # a server's log is endless
                said.clear()
            if (message := record.getMessage()) not in said:
                said.add(message)
                say(f"asr: {message}", err=True)

    log, echo = logging.getLogger("asr"), Echo(logging.WARNING)
    log.addHandler(echo)
    try:
        yield
    finally:
        log.removeHandler(echo)


@contextlib.contextmanager
def _libraries_silent() -> Iterator[None]:
    """What libraries think goes nowhere: their warnings, and what they log on the root logger, as lhotse does. Whoever
    asks Python for warnings (-W) sees them."""
    if sys.warnoptions:
        yield
        return
    nowhere, shown = logging.NullHandler(), warnings.showwarning
    logging.getLogger().addHandler(nowhere)
    warnings.showwarning = lambda *_arguments, **_keywords: None
    try:
        yield
    finally:
        warnings.showwarning = shown
        logging.getLogger().removeHandler(nowhere)


@functools.cache
def _hurry() -> None:
    """Has Python look for cycles of dead objects seldom, and not at exit: a quarter of a short command's time would go
    to looking through modules that are being imported, and through all there is at the end."""
    gc.set_threshold(50_000)  # new objects from one look to the next; some hundreds by default
    atexit.register(gc.freeze)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="asr")
def main() -> None:
    """Train, run and measure your own speech recogniser."""
    _hurry()


for command in (
    train,
    adapt,
    evaluate,
    score,
    transcribe,
    archive,
    listen,
    serve,
    align,
    check,
    lexicon,
    lm,
    tune,
    text,
    shards,
    study,
    inspect,
    info,
    export,
    warm_up,
):
    main.add_command(command)

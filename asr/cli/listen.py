"""asr listen."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from asr.cli.options import (
    COMPILING,
    decoder_options,
    device_option,
    engine_option,
    model_directory,
    model_option,
    quick_threads_option,
    said_if_slow,
)
from asr.cli.terminal import say
from asr.errors import AsrError
from asr.text.printable import printable

if TYPE_CHECKING:
    import numpy as np

    from asr.checkpoint import Engine
    from asr.records import Heard, Word


@click.command()
@model_option
@click.option("--microphone", "name", metavar="NAME", help="A part of its name, or its number; default: the system's.")
@click.option("--from-file", "file", metavar="FILE", help="Play this recording in place of a microphone.")
@click.option("--speed", default=1.0, show_default=True, help="Of the playing: 1 is real time, 0 as fast as it goes.")
@click.option("--chunk", type=float, metavar="S", help="Read this many seconds at a time.")
@click.option("--context", type=float, metavar="S", help="Seconds that a bidirectional model hears beyond a chunk.")
@click.option("--endpoint", type=float, metavar="S", help="Seconds without a word that end an utterance.")
@click.option("--format", "form", type=click.Choice(["txt", "json"]), default="txt", show_default=True)
@decoder_options
@device_option
@engine_option
@quick_threads_option
def listen(
    model: Path | None,
    name: str | None,
    file: str | None,
    speed: float,
    chunk: float | None,
    context: float | None,
    endpoint: float | None,
    form: str,
    device: str,
    engine: Engine,
    decoding: list[str],
) -> None:
    """Transcribe speech while it is said, until Ctrl-C or the end of FILE.

    A line an utterance; on a terminal, what is being said is shown as it reads so far. As JSON, a line is an event: its
    kind (partial: in place of the partial before; final: these words stay), the seconds heard by then, whether an
    utterance ends, the text and its words with times, and with --phrases a remark where none of them was said.
    """
    from asr.transcribe.live import CHUNK_SECONDS, CONTEXT_SECONDS, ENDPOINT_SECONDS
    from asr.transcribe.microphone import microphone, play
    from asr.transcribe.recogniser import Recogniser

    if speed < 0 or (file is not None and name is not None):
        raise AsrError("listen to a --microphone or --from-file, and at a --speed of 0 or more")
    recogniser = Recogniser.load(model_directory(model), engine=engine, device=device, decoding=decoding)
    with said_if_slow(COMPILING):
        recogniser.warm_up()
    rate = recogniser.recipe.features.sample_rate
    source: AbstractContextManager[tuple[int, Iterator[np.ndarray]]]
    source = microphone(rate, name) if file is None else nullcontext((rate, play(Path(file), rate, speed)))
    show = _Events() if form == "json" else _Lines()
    began = shown = None  # when the sound began, and when the first word was seen
    first: Word | None = None
    with source as (rate, pieces):
        stream = recogniser.stream(
            sample_rate=rate,
            chunk=CHUNK_SECONDS if chunk is None else chunk,
            context=CONTEXT_SECONDS if context is None else context,
            endpoint=ENDPOINT_SECONDS if endpoint is None else endpoint,
        )
        if file is None:
            say("listening; Ctrl-C ends it", err=True)
        try:
            for piece in pieces:
                began = began or time.monotonic() - len(piece) / rate
                heard = stream.feed(piece)
                show(heard, stream.heard)
                if first is None and (words := heard.final + heard.partial):
                    first, shown = words[0], time.monotonic()
        except KeyboardInterrupt:
            pass
    show(stream.finish(), stream.heard)
    if first and shown and began and speed:
        late = shown - began - first.start / speed
        say(f"first word shown {late:.2f} s after it began", err=True)


class _Lines:
    """Utterances, a line each; on a terminal the one being said is redrawn in place."""

    def __init__(self) -> None:
        self.said: list[Word] = []
        """Final words of the utterance that is being said."""
        self.redraws = sys.stdout.isatty()

    def __call__(self, heard: Heard, _: float) -> None:
        self.said += heard.final
        erase = "\r\x1b[K" if self.redraws else ""
        for segment in heard.segments:
            del self.said[: len(segment.words)]
            click.echo(erase, nl=False)
            if segment.remark:
                say(f"{segment.start:.1f} to {segment.end:.1f} s: {segment.remark}", err=True)
            else:
                say(segment.text)
        if self.redraws:
            line = printable(" ".join(word.text for word in (*self.said, *heard.partial)))
            room = shutil.get_terminal_size().columns - 1
            click.echo(erase, nl=False)
            say(line if len(line) <= room else "…" + line[1 - room :], end=False)


class _Events:
    """JSON, an event a line."""

    def __init__(self) -> None:
        from asr.transcribe.formats import LiveEvents

        self.events = LiveEvents()

    def __call__(self, heard: Heard, time: float) -> None:
        for event in self.events(heard, time):
            say(event)

"""Plain text for language models: one sentence a line, in files that may be compressed."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

from asr.errors import TextError
from asr.text.compressed import DamageError, decompressed
from asr.text.normalise import normalise


def read_sentences(files: Sequence[str], form: str, advance: Callable[[int], object] = lambda _: None) -> Iterator[str]:
    """The sentences of ``files`` in order, normalised to ``form``; "-" is standard input. Empty lines are none.

    ``advance`` is told the bytes of each file as they are read, as many as its size. Raises TextError where a file
    cannot be read, is not UTF-8, or is damaged.
    """
    for name in files:
        number = 0
        try:
            with contextlib.ExitStack() as stack:
                file = sys.stdin.buffer if name == "-" else stack.enter_context(Path(name).open("rb"))
                buffered = io.BufferedReader(cast(io.RawIOBase, file))
                stack.callback(buffered.detach)  # or standard input would be closed with it
                place = 0
                lines = stack.enter_context(decompressed(buffered))
                for number, line in enumerate(lines, start=1):
                    if sentence := normalise(line.decode(), form):
                        yield sentence
                    if number % 10_000 == 0 and name != "-":
                        advance(file.tell() - place)
                        place = file.tell()
                if name != "-":
                    advance(file.tell() - place)
        except UnicodeDecodeError as error:
            raise TextError(f"{name}, line {number}: this is not UTF-8 text") from error
        except DamageError as error:
            raise TextError(f"{name}: {error} are cut short or damaged after line {number}") from error
        except OSError as error:
            raise TextError(f"{name} cannot be read: {error.strerror or error}") from error

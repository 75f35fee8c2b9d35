"""asr align."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from asr.cli.options import (
    FOLDER,
    device_option,
    engine_option,
    model_directory,
    model_option,
    quick_threads_option,
    said_if_slow,
)
from asr.cli.terminal import say, write
from asr.errors import AsrError

if TYPE_CHECKING:
    from asr.checkpoint import Engine


@click.command()
@click.argument("audio", metavar="AUDIO")
@click.argument("text", required=False, metavar="[TEXT]")
@click.option("--text", "inline", metavar="WORDS", help="The text itself, in place of a file of it.")
@model_option
@click.option(
    "--format", "form", type=click.Choice(["ctm", "textgrid", "json", "srt"]), default="ctm", show_default=True
)
@click.option("--skip-unknown", is_flag=True, help="Leave out words that the model's alphabet cannot spell.")
@click.option("-o", "--output", type=FOLDER, metavar="FILE", help="Write there; default: standard output.")
@device_option
@engine_option
@quick_threads_option
def align(
    audio: str,
    text: str | None,
    inline: str | None,
    model: Path | None,
    form: str,
    skip_unknown: bool,
    output: Path | None,
    device: str,
    engine: Engine,
) -> None:
    """When each word of the file TEXT is said in AUDIO (either may be "-", standard input).

    Words that the recording does not hold are named on standard error and have no times.
    """
    from asr import files
    from asr.audio import describe
    from asr.transcribe import formats
    from asr.transcribe.recogniser import Recogniser

    if (text is None) == (inline is None):
        raise AsrError("the text to align is a file, TEXT, or the words after --text: give one of them")
    if audio == text == "-":
        raise AsrError("the audio and the text cannot both be read from standard input")
    words = inline if text is None else _read_text(text)
    recogniser = Recogniser.load(model_directory(model), engine=engine, device=device)
    recording = sys.stdin.buffer.read() if audio == "-" else Path(audio)
    audio = describe(Path(audio))
    with said_if_slow("aligning; the first time on a machine, the aligner itself is compiled, which takes a while"):
        aligned = recogniser.align(recording, words or "", skip_unknown=skip_unknown)
    lost = [word.text for word in aligned.words if not word.found]
    if len(lost) == len(aligned.words):
        raise AsrError(f"{audio} holds none of the {len(lost)} words of the text: is it the right text?")
    if lost:
        some = ", ".join(lost[:20]) + (f" and {len(lost) - 20} more" if len(lost) > 20 else "")
        say(f"not found, {len(lost)} of {len(aligned.words)} words: {some}", err=True)
    document = {
        "ctm": lambda: formats.as_aligned_ctm(aligned, Path(audio).stem),
        "textgrid": lambda: formats.as_aligned_textgrid(aligned),
        "json": lambda: formats.as_aligned_json(aligned, audio),
        "srt": lambda: formats.as_aligned_srt(aligned),
    }[form]()
    if output is None:
        (say if form == "json" else write)(document)
    else:
        with files.replacing(output) as file:
            file.write(document + "\n")


def _read_text(name: str) -> str:
    """A text file in UTF-8, or standard input."""
    try:
        content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise AsrError(f"{name} is not text in UTF-8: byte {error.start} does not fit") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise AsrError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}") from error

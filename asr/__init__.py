"""Train, run and measure your own speech recogniser: stacked (Bi)LSTM, CTC, honest error rates.

>>> import asr
>>> recogniser = asr.load("models/an4")
>>> recogniser.transcribe("clip.wav").text
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from asr.errors import AsrError
from asr.records import AlignedText, AlignedWord, ErrorCounts, Heard, Segment, Transcript, Waveform, Word

if TYPE_CHECKING:
    from os import PathLike

    from asr.transcribe.recogniser import Recogniser

__version__ = "0.1.0"
__all__ = [
    "AlignedText",
    "AlignedWord",
    "AsrError",
    "ErrorCounts",
    "Heard",
    "Segment",
    "Transcript",
    "Waveform",
    "Word",
    "load",
]


def load(directory: str | PathLike[str], *, device: str = "auto") -> Recogniser:
    """The recogniser in a model directory, ready to transcribe.

    Raises CheckpointError where the directory is missing, incomplete or not one of ours.
    """
    from pathlib import Path

    from asr.transcribe.recogniser import Recogniser

    return Recogniser.load(Path(directory), device=device)

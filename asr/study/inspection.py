"""``asr inspect``: what a trained network hears in one clip, reads in it, and does inside."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from asr import audio, files
from asr.audio import Recording
from asr.decode.words import words_of
from asr.errors import AsrError, AudioError
from asr.model.acoustic import AcousticModel
from asr.model.collation import LoadedUtterance, collate
from asr.model.encoder import RecurrentStack
from asr.model.features import loader_features
from asr.model.network import TorchNetwork
from asr.recipe.summary import describe
from asr.records import Waveform, Word
from asr.report.figures import as_svg
from asr.report.pages import render
from asr.report.timeline import speech_figure
from asr.study.gates import Trace, trace
from asr.study.pictures import gates_section
from asr.transcribe.recogniser import Recogniser

LONGEST_SECONDS = 30.0
"""Of a clip that are looked at: pictures of more are too wide to look at. A page of 30 s has some 4 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """A clip as the network heard it: ``waveform`` at the model's rate, the ``words`` that its own decoder reads, and
    the ``trace`` through its layers. ``cut`` says that there is more of the clip."""

    waveform: Waveform
    words: tuple[Word, ...]
    trace: Trace
    cut: bool


def acoustic_model(recogniser: Recogniser) -> AcousticModel:
    """The torch module that the recogniser reads with. Raises AsrError where it reads with another engine."""
    if not isinstance(recogniser.network, TorchNetwork):
        raise AsrError("only a network computed by torch can be looked into: load it with the engine torch")
    return recogniser.network.model


def inspect(recogniser: Recogniser, clip: Recording) -> Inspection:
    """Reads the clip's first ``LONGEST_SECONDS`` in one piece, as an utterance of a corpus.

    Raises AudioError for what cannot be read or is silent; AsrError for a model in which nothing recurs.
    """
    model, settings = acoustic_model(recogniser), recogniser.recipe
    if not isinstance(model.encoder.stack, RecurrentStack):
        raise AsrError("the model is feed-forward: nothing in it recurs, so there are no gates to inspect")
    rate = settings.features.sample_rate
    heard = audio.read(clip, sample_rate=rate, duration=LONGEST_SECONDS + 1).samples
    samples = heard[: round(LONGEST_SECONDS * rate)]
    if not samples.any():
        raise AudioError(f"{audio.describe(clip)} is silent: every sample of it is zero")
    return look_inside(recogniser, Waveform(samples=samples, sample_rate=rate), cut=len(heard) > len(samples))


def look_inside(recogniser: Recogniser, waveform: Waveform, *, cut: bool = False) -> Inspection:
    """As ``inspect``, of an utterance at the model's rate that is known to be one."""
    featurise = loader_features(recogniser.recipe.features)
    samples = waveform.samples
    utterance = LoadedUtterance(samples=samples, features=featurise(samples) if featurise else None)
    model = acoustic_model(recogniser)
    traced = trace(model, model.featurise(collate([utterance])))
    [(best, *_)] = recogniser.decoder(traced.emissions)
    words = words_of(best, recogniser.tokeniser, recogniser.network.frame_shift)
    return Inspection(waveform=waveform, words=words, trace=traced, cut=cut)


def write_inspection(path: Path, inspection: Inspection, recogniser: Recogniser, *, clip: str, model: str) -> None:
    """Writes the page, one file that opens anywhere; ``clip`` and ``model`` are what they are called on it."""
    page = render(
        "inspection.html",
        package="asr.study",
        title=f"{clip}, read by {model}",
        text=" ".join(word.text for word in inspection.words),
        seconds=inspection.waveform.duration,
        cut=inspection.cut,
        network=f"{describe(recogniser.recipe.encoder)}; {_parameters(recogniser) / 1e6:.2f} M parameters",
        frame_shift=recogniser.network.frame_shift,
        speech=speech_picture(inspection, recogniser),
        gates=gates_section(inspection.trace, inspection.words),
    )
    with files.replacing(path) as file:
        file.write(page)


def _parameters(recogniser: Recogniser) -> int:
    return sum(parameter.numel() for parameter in acoustic_model(recogniser).parameters())


def speech_picture(inspection: Inspection, recogniser: Recogniser) -> str:
    """An ``<svg>`` of the spectrogram and the posteriors under the words."""
    emissions = inspection.trace.emissions
    figure = speech_figure(
        inspection.waveform,
        posteriors=np.exp(emissions.log_probs[0]),
        tokens=recogniser.tokeniser.tokens,
        frame_shift=emissions.frame_shift,
        words=inspection.words,
    )
    return as_svg(figure, "speech")

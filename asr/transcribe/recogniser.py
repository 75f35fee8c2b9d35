"""The recogniser: one engine from audio to hypotheses, for files, arrays, corpora and the trainer's dev set alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asr import audio, checkpoint, recipe
from asr.decode.decoder import Decoder, build_decoder, greedy
from asr.decode.greedy import words_of
from asr.errors import AudioError
from asr.model.acoustic import AcousticModel
from asr.recipe.reading import override_recipe
from asr.records import Batch, Emissions, Features, Hypothesis, Segment, Transcript, Waveform
from asr.text.tokenise import Tokeniser

MAX_SECONDS = 2 * 3600
"""A whole recording goes through the model at once, at about 3 GiB an hour."""


@torch.inference_mode()
def recognise(
    model: AcousticModel, decoder: Decoder, batches: Iterable[Batch]
) -> Iterator[tuple[Batch, Emissions, list[tuple[Hypothesis, ...]]]]:
    """Emissions and n-best lists, batch by batch. The model must be in evaluation mode."""
    for batch in batches:
        if len(batch):
            emissions = model(batch)
            on_cpu = Emissions(
                log_probs=emissions.log_probs.cpu(), lengths=emissions.lengths.cpu(), frame_shift=emissions.frame_shift
            )
            yield batch, on_cpu, decoder(on_cpu)
        else:
            yield batch, Emissions(log_probs=torch.zeros(0, 0, 1), lengths=torch.zeros(0), frame_shift=0.0), []


class Recogniser:
    """A trained model, ready to transcribe. ``asr.load`` makes one."""

    def __init__(
        self,
        model: AcousticModel,
        tokeniser: Tokeniser,
        settings: recipe.Recipe,
        meta: dict[str, Any],
        decoder: Decoder | None = None,
    ) -> None:
        self.model = model.eval()
        self.tokeniser = tokeniser
        self.recipe = settings
        self.meta = meta
        self.decoder = decoder or greedy(tokeniser)

    @classmethod
    def load(
        cls,
        directory: Path,
        *,
        device: str = "auto",
        weights: str = checkpoint.WEIGHTS,
        decoding: Sequence[str] = (),
        nbest: int = 1,
    ) -> Recogniser:
        """``decoding`` overrides the directory's own decoder (``decoder.kind=beam``), as ``--set`` does a recipe.

        Raises CheckpointError, RecipeError, LanguageModelError, TextError.
        """
        loaded = checkpoint.load_checkpoint(directory, device=device, weights=weights)
        settings = override_recipe(loaded.recipe, decoding, "decoding") if decoding else loaded.recipe
        decoder = build_decoder(
            settings.decoder, loaded.tokeniser, root=directory, form=settings.text.normalise, nbest=nbest
        )
        return cls(loaded.model, loaded.tokeniser, settings, loaded.meta, decoder)

    def transcribe(
        self, recording: str | PathLike[str] | bytes | np.ndarray, *, sample_rate: int | None = None
    ) -> Transcript:
        """What is said in a file, in the bytes of one, or in an array of samples at ``sample_rate`` Hz.

        An array is (S,) or (channels, S), floats in [-1, 1] or 16-bit integers. Raises AudioError.
        """
        rate = self.recipe.features.sample_rate
        if isinstance(recording, np.ndarray):
            if not isinstance(sample_rate, int) or sample_rate <= 0:
                raise AudioError(
                    f"an array needs its sample rate, transcribe(samples, sample_rate=16000); found {sample_rate!r}"
                )
            waveform = audio.prepare(Waveform(samples=_as_mono(recording), sample_rate=sample_rate), rate)
        elif isinstance(recording, bytes):
            waveform = audio.read(recording, sample_rate=rate)
        else:
            waveform = audio.read(Path(recording), sample_rate=rate)
        return self._transcribe(waveform)

    def _transcribe(self, waveform: Waveform) -> Transcript:
        if waveform.duration > MAX_SECONDS:
            raise AudioError(
                f"the recording lasts {waveform.duration / 3600:.1f} h and is read in one piece, at most "
                f"{MAX_SECONDS / 3600:.0f} h of it: cut it up first"
            )
        features = None
        if self.recipe.features.backend == "librosa":
            from asr.model.features import ReferenceFeatures

            values = torch.from_numpy(ReferenceFeatures(self.recipe.features)(waveform.samples))
            features = Features(values=values[None], lengths=torch.tensor([len(values)]))
        batch = Batch(
            ids=("",),
            texts=("",),
            speakers=("",),
            waveforms=torch.from_numpy(waveform.samples)[None],
            waveform_lengths=torch.tensor([len(waveform.samples)]),
            tokens=torch.zeros(1, 0, dtype=torch.int64),
            token_lengths=torch.zeros(1, dtype=torch.int64),
            features=features,
        )
        [(_, emissions, [(hypothesis, *_)])] = recognise(self.model, self.decoder, [batch])
        words = words_of(hypothesis, self.tokeniser, emissions.frame_shift)
        segment = Segment(text=hypothesis.text, start=0.0, end=round(waveform.duration, 3), words=words)
        return Transcript(segments=(segment,), duration=round(waveform.duration, 3))


def _as_mono(samples: np.ndarray) -> np.ndarray:
    if samples.ndim not in (1, 2) or samples.size == 0:
        raise AudioError(f"an array of audio is (S,) or (channels, S) and not empty; found shape {samples.shape}")
    if samples.dtype == np.int16:
        samples = samples.astype(np.float32) / 32768
    elif not np.issubdtype(samples.dtype, np.floating):
        raise AudioError(f"an array of audio is floating point in [-1, 1] or int16; found {samples.dtype}")
    return np.ascontiguousarray(samples if samples.ndim == 1 else samples.mean(axis=0), dtype=np.float32)

"""Training an acoustic model: CTC on a recipe's corpora, judged by the greedy error rates of its dev set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from asr import recipe, runtime
from asr.decode.greedy import GreedyDecoder, blank_rate
from asr.errors import TextError, TrainingError
from asr.model.acoustic import AcousticModel, ctc_loss
from asr.records import Batch, Emissions, ErrorCounts
from asr.text.score import character_errors, word_errors
from asr.text.tokenise import Tokeniser
from asr.train.loop import train
from asr.train.monitor import Monitor
from asr.train.prepare import TrainingCorpora, measure_statistics, prepare
from asr.train.state import DevFigures
from asr.train.step import Loss
from asr.transcribe.recogniser import recognise


def train_acoustic_model(
    settings: recipe.Recipe, directory: Path, *, root: Path, device: str = "auto", resume: bool = False
) -> dict[str, Any]:
    """Trains the recipe's model into ``directory`` and returns the contents of its meta.json.

    With ``resume`` a stopped or killed run goes on, mid-epoch, to the weights it would have reached; a finished one is
    returned as it is. Raises AsrError for whatever stands in the way.
    """
    on = runtime.pick_device(device)
    corpora = prepare(settings, directory, root=root, resume=resume)
    model = untrained(settings, corpora.tokeniser).to(on)
    if settings.features.normalise == "global":
        measure_statistics(model, corpora)
    return train(AcousticTask(model, corpora), settings.training, directory, seed=settings.seed)


def untrained(settings: recipe.Recipe, tokeniser: Tokeniser) -> AcousticModel:
    """The model as the recipe's seed makes it, before the first step."""
    torch.manual_seed(settings.seed)
    return AcousticModel(settings, len(tokeniser.tokens))


class AcousticTask:
    """The training loop's view of a recipe."""

    def __init__(self, model: AcousticModel, corpora: TrainingCorpora) -> None:
        self.model = model
        self.corpora = corpora
        self.batches = corpora.batches

    def epoch(self, number: int, *, skip: int) -> Iterator[Batch]:
        return self.corpora.train(number, skip)

    @staticmethod
    def loss(model: AcousticModel, batch: Batch) -> Loss:
        emissions = model(batch)
        return Loss(
            nats=ctc_loss(emissions, batch.tokens, batch.token_lengths),
            blank_rate=blank_rate(emissions),
            audio_seconds=int(batch.waveform_lengths.sum()) / model.features.settings.sample_rate,
        )

    def score_dev(self, model: AcousticModel, monitor: Monitor) -> DevFigures:
        """Greedy error rates and CTC loss. Utterances without an alignment have no loss, but are scored.

        Raises TrainingError where none can be read.
        """
        words, characters = ErrorCounts(), ErrorCounts()
        loss, labels, scored = 0.0, 0, 0
        for batch, emissions, hypotheses in recognise(model, GreedyDecoder(self.corpora.tokeniser), self.corpora.dev()):
            monitor.reject(batch)
            texts = [best.text for best, *_ in hypotheses]
            words += word_errors(batch.texts, texts)
            characters += character_errors(batch.texts, texts)
            scored += len(batch)
            for i, text in enumerate(batch.texts):
                spent, count = _utterance_loss(emissions, i, text, self.corpora.tokeniser)
                loss, labels = loss + spent, labels + count
        if scored == 0:
            raise TrainingError("no utterance of the dev corpora can be read; asr check RECIPE says what is wrong")
        # The loss before the CER: among epochs of equal WER a model still silent counts as getting somewhere.
        return {"wer": words.rate, "loss": loss / max(labels, 1), "cer": characters.rate}

    def describe(self) -> dict[str, Any]:
        return {"audio_hours_per_epoch": round(self.corpora.seconds / 3600, 3)}


def _utterance_loss(emissions: Emissions, index: int, text: str, tokeniser: Tokeniser) -> tuple[float, int]:
    """CTC loss in nats and the number of labels; zeros where the text cannot be spelled or does not fit the frames."""
    try:
        tokens = torch.tensor([tokeniser.encode(text)])
    except TextError:
        return 0.0, 0
    alone = Emissions(
        log_probs=emissions.log_probs[index : index + 1],
        lengths=emissions.lengths[index : index + 1],
        frame_shift=emissions.frame_shift,
    )
    loss = float(ctc_loss(alone, tokens, torch.tensor([tokens.shape[1]])))
    return (loss, tokens.shape[1]) if loss < float("inf") else (0.0, 0)

"""The training loop."""

from __future__ import annotations

import copy
import itertools
import math
import platform
import time
from pathlib import Path
from typing import Any

import torch

import asr
from asr import checkpoint, recipe, runtime
from asr.decode.decoder import greedy
from asr.errors import TextError, TrainingError
from asr.model.acoustic import AcousticModel, ctc_loss
from asr.records import Emissions, ErrorCounts
from asr.text.score import character_errors, word_errors
from asr.text.tokenise import Tokeniser
from asr.train.monitor import DevFigures, Monitor
from asr.train.optimiser import learning_rate
from asr.train.prepare import TrainingCorpora, measure_statistics, prepare
from asr.train.state import Progress, load_state, save_state, stop_on_signals
from asr.train.step import Trainer
from asr.transcribe.recogniser import recognise


def train(
    settings: recipe.Recipe, directory: Path, *, root: Path, device: str = "auto", resume: bool = False
) -> dict[str, Any]:
    """Trains the recipe's model into ``directory`` and returns the contents of its meta.json.

    With ``resume`` a stopped or killed run goes on, mid-epoch, to the weights it would have reached; a finished one is
    returned as it is. Raises AsrError for whatever stands in the way.
    """
    on = runtime.pick_device(device)
    corpora = prepare(settings, directory, root=root, resume=resume)
    training = settings.training
    torch.manual_seed(settings.seed)
    model = AcousticModel(settings, len(corpora.tokeniser.tokens)).to(on)
    if settings.features.normalise == "global":
        measure_statistics(model, corpora)
    averaged = copy.deepcopy(model).to(on).eval()
    trainer = Trainer(model, training)
    progress = load_state(directory, trainer) or Progress()
    total_steps = training.epochs * math.ceil(corpora.batches / training.accumulate)

    with Monitor(directory, progress, training, batches=corpora.batches) as monitor, stop_on_signals() as stop:
        saved = time.monotonic()
        while not progress.finished:
            model.train()
            loader = corpora.train(progress.epoch, skip=progress.batch)
            while group := list(itertools.islice(loader, training.accumulate)):
                # Dropout and SpecAugment depend on the place in the run alone, so a resumed run draws the same.
                runtime.seed_step(settings.seed, progress.epoch, progress.batch)
                progress.batch += len(group)
                monitor.reject(*group)
                usable = [batch for batch in group if len(batch)]
                if not usable:
                    continue
                figures = trainer.step(usable, learning_rate(progress.step, total_steps, training))
                progress.step += 1
                monitor.step(figures)
                if stop.is_set() or time.monotonic() - saved > training.save_minutes * 60:
                    monitor.read()
                    save_state(directory, progress, trainer)
                    saved = time.monotonic()
                if stop.is_set():
                    raise TrainingError(
                        f"stopped in epoch {progress.epoch + 1} after {progress.step} steps; nothing is lost: "
                        "the same command with --resume goes on from here"
                    )
            monitor.read()
            if progress.step == 0:
                raise TrainingError("no utterance could be trained on; asr check RECIPE says what is wrong with each")

            trainer.average.after_epoch(model)
            averaged.load_state_dict(trainer.average.weights(model))
            dev = score_dev(averaged, corpora, monitor)
            best = progress.close_epoch(dev.words.rate, dev.characters.rate, dev.loss, training)
            monitor.epoch(dev, best)
            # Weights after meta.json, so that a directory that has them is whole.
            checkpoint.save_meta(directory, describe_run(model, corpora, progress))
            checkpoint.save_weights(directory / checkpoint.LAST_WEIGHTS, averaged.state_dict())
            if best:
                checkpoint.save_weights(directory / checkpoint.WEIGHTS, averaged.state_dict())
            save_state(directory, progress, trainer)
            saved = time.monotonic()
    return describe_run(model, corpora, progress)


def score_dev(model: AcousticModel, corpora: TrainingCorpora, monitor: Monitor) -> DevFigures:
    """Greedy error rates and CTC loss on the dev set. Utterances without an alignment have no loss, but are scored.

    Raises TrainingError where none can be read.
    """
    words, characters = ErrorCounts(), ErrorCounts()
    loss, labels, scored = 0.0, 0, 0
    for batch, emissions, hypotheses in recognise(model, greedy(corpora.tokeniser), corpora.dev()):
        monitor.reject(batch)
        texts = [best.text for best, *_ in hypotheses]
        words += word_errors(batch.texts, texts)
        characters += character_errors(batch.texts, texts)
        scored += len(batch)
        for i, text in enumerate(batch.texts):
            spent, count = _utterance_loss(emissions, i, text, corpora.tokeniser)
            loss, labels = loss + spent, labels + count
    if scored == 0:
        raise TrainingError("no utterance of the dev corpora can be read; asr check RECIPE says what is wrong")
    return DevFigures(words=words, characters=characters, loss=loss / max(labels, 1))


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


def describe_run(model: AcousticModel, corpora: TrainingCorpora, progress: Progress) -> dict[str, Any]:
    """The contents of meta.json: what was trained, with what, and how well it does on the dev set."""
    return {
        "versions": {"asr": asr.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "device": str(model.device),
        "parameters": sum(p.numel() for p in model.parameters()),
        "training": {
            "epochs": progress.epoch,
            "steps": progress.step,
            "minutes": round(progress.seconds / 60, 2),
            "audio_hours_per_epoch": round(corpora.seconds / 3600, 3),
            "finished": progress.finished,
        },
        "results": {
            "best_epoch": progress.best_epoch,
            "dev": {"wer": progress.best_wer, "cer": progress.best_cer, "loss": progress.best_loss},
        },
    }

"""The training loop."""

from __future__ import annotations

import copy
import platform
import time
from pathlib import Path
from typing import Any

import torch

import asr
from asr import checkpoint, recipe, runtime
from asr.decode.greedy import blank_rate
from asr.errors import TextError, TrainingError
from asr.model.acoustic import AcousticModel, ctc_loss
from asr.records import Emissions, ErrorCounts
from asr.text.score import character_errors, word_errors
from asr.text.tokenise import Tokeniser
from asr.train.monitor import DevFigures, Monitor, StepFigures
from asr.train.optimiser import build_average, build_optimiser, learning_rate
from asr.train.prepare import TrainingCorpora, measure_statistics, prepare
from asr.train.state import Progress, Stateful, load_state, save_state, stop_on_signals
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
    averaged = copy.deepcopy(model).eval()
    optimiser = build_optimiser(model, training)
    scaler = torch.amp.GradScaler(on.type, enabled=training.precision == "float16")
    average = build_average(training.averaging, model)
    parts: dict[str, Stateful] = {"model": model, "optimiser": optimiser, "scaler": scaler, "average": average}
    progress = load_state(directory, parts)
    if progress is None:
        progress = Progress()
        if settings.features.normalise == "global":
            measure_statistics(model, corpora)
    total_steps = training.epochs * corpora.batches // training.accumulate

    with Monitor(directory, progress, training, batches=corpora.batches) as monitor, stop_on_signals() as stop:
        saved = time.monotonic()
        while not progress.finished:
            model.train()
            optimiser.zero_grad(set_to_none=True)
            for batch in corpora.train(progress.epoch, skip=progress.batch):
                # Dropout and SpecAugment depend on the place in the run alone, so a resumed run draws the same.
                runtime.seed_step(settings.seed, progress.epoch, progress.batch)
                progress.batch += 1
                monitor.reject(batch.rejected)
                if len(batch) == 0:
                    continue

                with runtime.autocast(on, training.precision):
                    emissions = model(batch)
                loss = ctc_loss(emissions, batch.tokens, batch.token_lengths)
                labels = int(batch.token_lengths.sum())
                scaler.scale(loss / (labels * training.accumulate)).backward()  # type: ignore[no-untyped-call]
                if progress.batch % training.accumulate:
                    continue

                rate = learning_rate(progress.step, total_steps, training)
                for group in optimiser.param_groups:
                    group["lr"] = rate
                scaler.unscale_(optimiser)
                gradient_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), training.clip)
                scaler.step(optimiser)
                scaler.update()
                optimiser.zero_grad(set_to_none=True)
                average.after_step(model)
                progress.step += 1

                monitor.step(
                    StepFigures(
                        loss=loss.detach(),
                        labels=labels,
                        blank_rate=blank_rate(emissions),
                        gradient_norm=gradient_norm,
                        learning_rate=rate,
                        audio_seconds=int(batch.waveform_lengths.sum()) / settings.features.sample_rate,
                    )
                )
                if stop.is_set() or time.monotonic() - saved > training.save_minutes * 60:
                    monitor.read()
                    save_state(directory, progress, parts)
                    saved = time.monotonic()
                if stop.is_set():
                    raise TrainingError(
                        f"stopped in epoch {progress.epoch + 1} after {progress.step} steps; nothing is lost: "
                        "the same command with --resume goes on from here"
                    )

            monitor.read()
            if progress.step == 0:
                raise TrainingError("no utterance could be trained on; asr check RECIPE says what is wrong with each")
            average.after_epoch(model)
            averaged.load_state_dict(average.weights(model))
            dev = score_dev(averaged, corpora)
            best = dev.words.rate < progress.best_wer
            if best:
                progress.best_wer, progress.best_epoch = dev.words.rate, progress.epoch
            monitor.epoch(dev, best)
            progress.epoch, progress.batch = progress.epoch + 1, 0
            patience = training.patience or training.epochs
            progress.finished = progress.epoch == training.epochs or progress.epoch - progress.best_epoch > patience
            checkpoint.save_weights(directory / checkpoint.LAST_WEIGHTS, averaged.state_dict())
            if best:
                checkpoint.save_weights(directory / checkpoint.WEIGHTS, averaged.state_dict())
            checkpoint.save_meta(directory, describe_run(model, corpora, progress, monitor.history))
            save_state(directory, progress, parts)
            saved = time.monotonic()
        return describe_run(model, corpora, progress, monitor.history)


def score_dev(model: AcousticModel, corpora: TrainingCorpora) -> DevFigures:
    """Greedy error rates and CTC loss on the dev set. Utterances without an alignment have no loss, but are scored."""
    words, characters = ErrorCounts(), ErrorCounts()
    loss, labels = 0.0, 0
    for batch, emissions, hypotheses in recognise(model, corpora.tokeniser, corpora.dev()):
        texts = [hypothesis.text for hypothesis in hypotheses]
        words += word_errors(batch.texts, texts)
        characters += character_errors(batch.texts, texts)
        for i, text in enumerate(batch.texts):
            spent, count = _utterance_loss(emissions, i, text, corpora.tokeniser)
            loss, labels = loss + spent, labels + count
    return DevFigures(words=words, characters=characters, loss=loss / max(labels, 1))


def _utterance_loss(emissions: Emissions, index: int, text: str, tokeniser: Tokeniser) -> tuple[float, int]:
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


def describe_run(
    model: AcousticModel, corpora: TrainingCorpora, progress: Progress, history: list[dict[str, Any]]
) -> dict[str, Any]:
    """The contents of meta.json: what was trained, with what, and how well it does on the dev set."""
    epochs = {line["epoch"]: line for line in history if line["kind"] == "epoch"}
    best = epochs[progress.best_epoch + 1]
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
            "best_epoch": best["epoch"],
            "dev": {key: best[f"dev_{key}"] for key in ("wer", "cer", "loss")},
        },
    }

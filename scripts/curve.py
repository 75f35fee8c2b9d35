#!/usr/bin/env python
"""The learning curve of a recipe: WER against the number of training utterances, from scratch and from a start model.

scripts/curve.py recipes/an4.yaml --from english --utterances 10,60,300,948 --seeds 2 --out models/curve

Each training has a model directory of its own under --out, and goes on where an earlier call was stopped. The smaller
sets are parts of the larger ones; each seed draws its own. Both sides train for --steps steps, so that few utterances
are heard as long as many.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from asr import checkpoint, files, recipe
from asr.data.corpora import open_corpora, sources_of
from asr.evaluate import evaluate
from asr.recipe import reading
from asr.score.significance import Interval, rate_interval
from asr.score.system import System
from asr.train.acoustic import train_acoustic_model
from asr.train.start import LEARNING_RATE, WARMUP_STEPS
from asr.transcribe.recogniser import Recogniser


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One training's place on the curve and what it came to on the test set."""

    side: str
    utterances: int
    seed: int
    directory: Path
    systems: tuple[System, ...]


def subset(settings: recipe.Recipe, count: int, seed: int, root: Path, path: Path) -> recipe.ManifestCorpus:
    """Writes a manifest of ``count`` of the recipe's training utterances, and more of the same for a larger count."""
    cuts = sorted(open_corpora(settings.corpora.train, root).whole(), key=lambda cut: str(cut.id))
    if len(cuts) < count:
        raise click.ClickException(f"the recipe has {len(cuts)} training utterances, and {count} are asked for")
    random.Random(seed).shuffle(cuts)
    with files.replacing(path) as file:
        for cut in cuts[:count]:
            row = {
                "id": cut.id,
                "audio_filepath": str(Path(cut.recording.sources[0].source).absolute()),
                "offset": cut.start,
                "duration": cut.duration,
                "text": " ".join(s.text for s in cut.supervisions),
                "speaker": next((s.speaker for s in cut.supervisions if s.speaker), ""),
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return recipe.ManifestCorpus(kind="manifest", path=str(path.absolute()))


def epochs_for(steps: int, seconds: float, settings: recipe.Recipe) -> int:
    """About as many as make ``steps`` steps of ``seconds`` of audio an epoch."""
    per_epoch = max(1, round(seconds / settings.training.max_batch_seconds))
    return max(1, round(steps / per_epoch))


def settings_of(
    path: Path, corpus: recipe.ManifestCorpus, seed: int, epochs: int, overrides: list[str]
) -> recipe.Recipe:
    """The recipe on ``corpus``; the dev set is scored ten times in a run."""
    train = json.dumps([corpus.model_dump(mode="json", include={"kind", "path"})])
    own = [f"corpora.train={train}", f"seed={seed}", f"training.epochs={epochs}"]
    return reading.load_recipe(path, [*own, f"training.dev_every={max(1, epochs // 10)}", *overrides])


def interval_of(points: list[Point]) -> tuple[float, Interval | None]:
    """The pooled WER of several seeds and its interval, drawing utterances, each with what every seed made of it."""
    errors = np.sum([np.concatenate([s.errors for s in point.systems]) for point in points], axis=0)
    lengths = np.sum([np.concatenate([s.lengths for s in point.systems]) for point in points], axis=0)
    return float(errors.sum() / lengths.sum()), rate_interval(errors, lengths)


@click.command()
@click.argument("path", type=click.Path(path_type=Path), metavar="RECIPE")
@click.option("--from", "start", required=True, metavar="MODEL", help="english or a model directory.")
@click.option("--utterances", default="10,60,300,948", show_default=True)
@click.option("--seeds", default=2, show_default=True)
@click.option("--steps", default=2000, show_default=True, help="Of each training.")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR")
@click.option("--data", metavar="DIR", help="Where relative corpus paths start; else $ASR_DATA, else the recipe's.")
@click.option("--device", default="auto", show_default=True)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a recipe key, on both sides.")
@click.option("--set-scratch", multiple=True, metavar="KEY=VALUE", help="On the side from scratch alone.")
@click.option("--set-start", multiple=True, metavar="KEY=VALUE", help="On the other alone.")
@click.option("--decoding", multiple=True, metavar="KEY=VALUE", help="Override the decoder, on both sides.")
@click.option("--own-units", is_flag=True, help="The recipe's units on both sides, not the start model's where it is.")
def main(
    path: Path,
    start: str,
    utterances: str,
    seeds: int,
    steps: int,
    out: Path,
    data: str | None,
    device: str,
    overrides: tuple[str, ...],
    set_scratch: tuple[str, ...],
    set_start: tuple[str, ...],
    decoding: tuple[str, ...],
    own_units: bool,
) -> None:
    """Train on parts of RECIPE's corpus from scratch and from a start model, and print the WER of each on its test.

    From the start model, features, encoder and units are that model's, and the learning rate is that of a start.
    """
    whole = reading.load_recipe(path, overrides)
    root = files.data_root(data, whole.data)
    theirs = checkpoint.load_description(checkpoint.resolve(start))[0]
    inherited = {key: getattr(theirs, key).model_dump(mode="json") for key in ("features", "encoder", "text")}
    if own_units:
        del inherited["text"]
    sides = {
        "scratch": [*overrides, *set_scratch],
        "start": [
            *(f"{key}={json.dumps(value)}" for key, value in inherited.items()),
            f"start.model={json.dumps(start)}",
            f"training.learning_rate={LEARNING_RATE}",
            f"training.warmup_steps={WARMUP_STEPS}",
            *overrides,
            *set_start,
        ],
    }
    points: list[Point] = []
    for count in map(int, utterances.split(",")):
        for seed in range(1, seeds + 1):
            corpus = subset(whole, count, seed, root, out / f"{count}-{seed}.jsonl")
            seconds = sum(cut.duration for cut in open_corpora((corpus,), root).whole())
            for side, changes in sides.items():
                settings = settings_of(path, corpus, seed, epochs_for(steps, seconds, whole), changes)
                directory = out / f"{side}-{count}-{seed}"
                train_acoustic_model(
                    settings.model_copy(update={"data": str(root)}), directory, root=root, device=device, resume=True
                )
                recogniser = Recogniser.load(directory, device=device, decoding=decoding)
                scores = evaluate(recogniser, sources_of(settings, "test"), root=root)
                systems = tuple(score.system for score in scores)
                points.append(Point(side=side, utterances=count, seed=seed, directory=directory, systems=systems))
        show(points, count)
    with files.replacing(out / "curve.json") as file:
        json.dump([summary(points, count) for count in map(int, utterances.split(","))], file, indent=1)


def summary(points: list[Point], count: int) -> dict[str, object]:
    found: dict[str, object] = {"utterances": count}
    for side in ("scratch", "start"):
        some = [point for point in points if (point.side, point.utterances) == (side, count)]
        rate, interval = interval_of(some)
        each = [interval_of([point])[0] for point in some]
        found[side] = {"wer": rate, "interval": [interval.low, interval.high] if interval else None, "seeds": each}
    return found


def show(points: list[Point], count: int) -> None:
    line = [f"{count:>6} utterances"]
    for side in ("scratch", "start"):
        rate, interval = interval_of([point for point in points if (point.side, point.utterances) == (side, count)])
        span = f" [{interval.low:.2%}, {interval.high:.2%}]" if interval else ""
        line.append(f"{side} {rate:.2%}{span}")
    click.echo("  ".join(line))


if __name__ == "__main__":
    main()

"""asr info."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from asr.cli.options import MODEL
from asr.cli.terminal import say

CARD = "MODEL_CARD.md"


@click.command()
@click.argument("model", type=MODEL)
def info(model: Path) -> None:
    """What MODEL is: its units, size, training, results and decoder."""
    for name, value in _facts(model):
        say(f"{name:<9}  {value}")


def _facts(directory: Path) -> Iterator[tuple[str, str]]:
    from asr import checkpoint
    from asr.cli.evaluate import described
    from asr.data.corpora import name_of
    from asr.recipe.summary import describe
    from asr.text.tokenise import PhoneTokeniser

    settings, tokeniser = checkpoint.load_description(directory)
    meta = checkpoint.read_meta(directory)
    units = tokeniser.tokens[1:]
    kind = "phones" if isinstance(tokeniser, PhoneTokeniser) else settings.text.tokeniser.kind
    shown = " ".join("␣" if unit == " " else unit for unit in units[:60])
    yield "units", f"{len(units)} {kind}: {shown}{' ...' if len(units) > 60 else ''}"
    features = settings.features
    yield "network", f"{describe(settings.encoder)}, of {features.kind} at {features.sample_rate} Hz"
    yield "size", _size(directory, meta.get("parameters"))
    train = ", ".join(map(name_of, settings.corpora.train))
    dev = ", ".join(map(name_of, settings.corpora.split("dev")))
    yield "corpora", f"train: {train}; dev: {dev}"
    yield "trained", _training(meta.get("training", {}))
    if start := settings.model_dump(mode="json").get("start"):
        yield "start", ", ".join(f"{key} {value}" for key, value in start.items())
    results = meta.get("results", {})
    rates = [f"{name.upper()} {rate:.2%}" for name, rate in results.get("dev", {}).items() if name in _RATES]
    yield "results", f"dev {', '.join(rates)} at epoch {results['best_epoch']}" if rates else "none yet"
    yield "decoder", described(settings.decoder)
    yield "recipe", str(directory / "recipe.yaml")
    if (directory / CARD).is_file():
        yield "card", str(directory / CARD)


_RATES = ("wer", "cer", "per")


def _size(directory: Path, parameters: int | None) -> str:
    from asr.checkpoint import WEIGHTS
    from asr.onnx.network import file_name

    counted = f"{parameters / 1e6:.2f} M parameters" if parameters else "parameters unknown"
    files = {"": WEIGHTS, "ONNX ": file_name("model", "float32"), "ONNX in 8 bits ": file_name("model", "int8")}
    sizes = [
        f"{form}{(directory / name).stat().st_size / 1e6:.1f} MB"
        for form, name in files.items()
        if (directory / name).is_file()
    ]
    return ", ".join([counted, *(sizes or ["no weights yet"])])


def _training(training: dict[str, float]) -> str:
    if not training:
        return "no epoch has finished"
    hours = training.get("audio_hours_per_epoch")
    heard = f" of {hours:g} hours each" if hours is not None else ""
    finished = "" if training.get("finished", True) else "; not finished: asr train RECIPE --resume goes on"
    return (
        f"{training.get('epochs', 0)} epochs{heard}, {training.get('steps', 0)} steps, "
        f"{training.get('minutes', 0):g} minutes{finished}"
    )

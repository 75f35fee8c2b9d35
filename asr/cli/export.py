"""asr export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from asr.cli.options import FOLDER, MODEL
from asr.cli.terminal import say

if TYPE_CHECKING:
    from asr import recipe
    from asr.export.directory import Comparison


@click.command()
@click.argument("model", type=MODEL)
@click.option("-o", "--out", type=FOLDER, metavar="DIR", required=True, help="Folder to write; MODEL itself for both.")
@click.option("--format", "form", type=click.Choice(["onnx", "sherpa-onnx"]), default="onnx", show_default=True)
@click.option("--int8", is_flag=True, help="Recurrent weights in 8 bits: a quarter of the size; LSTMs only.")
@click.option("--clip", type=FOLDER, metavar="FILE", help="A recording to compare on too, besides noise.")
def export(model: Path, out: Path, form: str, int8: bool, clip: Path | None) -> None:
    """Write MODEL for recognition without torch, or for sherpa-onnx (phones, browsers, C++ and more).

    For sherpa-onnx a one-directional model is written for live speech too (streaming.onnx). What was written is
    compared with torch, on noise and on the clip, and the difference is said.
    """
    from asr.audio import read
    from asr.checkpoint import load_description
    from asr.export.directory import export_onnx

    rate = load_description(model)[0].features.sample_rate
    samples = None if clip is None else read(clip, sample_rate=rate).samples
    if form == "sherpa-onnx":
        from asr.export.sherpa import export_sherpa

        exported = export_sherpa(model, out, int8=int8, clip=samples)
    else:
        exported = export_onnx(model, out, int8=int8, clip=samples)
    sizes = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in exported.sizes.items())
    say(f"{out}: {sizes}")
    if form == "sherpa-onnx":
        settings = load_description(model)[0]
        say(_read_as(settings))
        say(_read_live_as(settings))
    for comparison in exported.comparisons:
        say(_said(comparison))


def _read_as(settings: recipe.Recipe) -> str:
    from asr.export.sherpa import reads_samples

    if reads_samples(settings):
        return "sherpa-onnx reads it as Omnilingual ASR CTC (from_omnilingual_asr_ctc), from samples at 16000 Hz"
    features = settings.features
    return f"sherpa-onnx reads it as NeMo CTC, sample_rate {features.sample_rate}, feature_dim {features.mels}"


def _read_live_as(settings: recipe.Recipe) -> str:
    from asr.export.sherpa_live import RATE, seconds_of_a_second, why_not_live

    if reason := why_not_live(settings):
        return f"live, sherpa-onnx cannot read it: {reason}"
    rate, counted = settings.features.sample_rate, seconds_of_a_second(settings)
    given = "from samples at 8000 Hz" if rate == RATE else f"from samples at {rate} Hz, given to it as of {RATE} Hz"
    times = "" if counted == 1 else f"; a second of its times and its rules for endpoints lasts {1 / counted:.3g} s"
    return f"live, sherpa-onnx reads it as T-one CTC (from_t_one_ctc), {given}{times}"


def _said(comparison: Comparison) -> str:
    before, after = comparison.texts
    text = f'the same text, "{before}"' if before == after else f'the text "{after}" in place of "{before}"'
    return (
        f"{comparison.of}: log probabilities within {comparison.largest:.1e} of torch's, another best token in "
        f"{comparison.other} of {comparison.frames} frames" + ("" if comparison.of.endswith("noise") else f", {text}")
    )

"""asr inspect."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from asr.cli.options import FOLDER, MODEL
from asr.cli.terminal import say
from asr.errors import AsrError

if TYPE_CHECKING:
    from asr.study.gates import Trace


@click.command()
@click.argument("model", type=MODEL)
@click.argument("clip", type=FOLDER)
@click.option(
    "-o", "--output", type=FOLDER, metavar="FILE.html", help="Write there; default: CLIP-inspect.html in this folder."
)
def inspect(model: Path, clip: Path, output: Path | None) -> None:
    """What MODEL does inside as it reads CLIP: its gates, its memory and its posteriors over time, as one page.

    Of a clip longer than 30 s the first 30 s are looked at.
    """
    from asr.study import inspection
    from asr.transcribe.recogniser import Recogniser

    output = output or Path(f"{clip.stem}-inspect.html")
    if output.resolve() == clip.resolve():
        raise AsrError(f"the page would take the place of {clip}: give another --output")
    # The trained weights, also where an export lies beside them; frame by frame, a GPU is slower.
    recogniser = Recogniser.load(model, engine="torch", device="cpu")
    seen = inspection.inspect(recogniser, clip)
    if seen.cut:
        say(f"{clip} is longer: its first {seen.waveform.duration:g} s are looked at", err=True)
    say(" ".join(word.text for word in seen.words) or "no word was recognised")
    gated = seen.trace.layers[0].named_gates
    say(_table(seen.trace) if gated else "a simple RNN has no gates: the page shows its hidden state alone")
    inspection.write_inspection(output, seen, recogniser, clip=clip.name, model=model.resolve().name)
    say(f"{output}: the page")


def _table(trace: Trace) -> str:
    """A line a layer and direction: the mean of each gate, and the median time constant."""
    from asr.study.gates import in_milliseconds

    rows = [["layer", "direction"]]
    rows[0] += [f"{gate.name}, mean" for gate in trace.layers[0].named_gates] + ["time constant, median"]
    for layer in trace.layers:
        row = [str(layer.layer), layer.direction, *(f"{gate.mean:.3f}" for gate in layer.named_gates)]
        constant = layer.median_time_constant
        rows.append([*row, "" if constant is None else in_milliseconds(constant)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)

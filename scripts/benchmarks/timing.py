"""How benchmarks measure: sides in turn in one run, two clocks, medians with their spread, ratios run by run."""

from __future__ import annotations

import dataclasses
import functools
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from asr import checkpoint, files

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """A side's seconds, run by run: by the ``wall`` clock, and of the ``processor``, all threads of this process and of
    those that it started and that ended."""

    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    def best(self, device: torch.device | None = None) -> list[float]:
        """The clock that a busy machine disturbs least: the processor's, but the wall's where a GPU does the work."""
        return self.wall if device is not None and device.type == "cuda" else self.processor


def alternate(
    sides: Mapping[str, Callable[[], Any]], repeats: int, *, device: torch.device | None = None, turn: float = 0.0
) -> dict[str, Times]:
    """The times of each side. All run once unmeasured, then in turn, so that a busy machine is busy for all.

    A turn is a run, or as many as fill ``turn`` seconds: after another side's a short one would measure the caches. The
    clocks are read when ``device`` has done what it was given.
    """
    runs = {name: _runs_a_turn(run, turn) for name, run in sides.items()}
    times = {name: Times() for name in sides}
    for _ in range(repeats):
        for name, run in sides.items():
            wall, processor = _read_clocks(device)
            for _ in range(runs[name]):
                run()
            wall_after, processor_after = _read_clocks(device)
            times[name].wall.append((wall_after - wall) / runs[name])
            times[name].processor.append((processor_after - processor) / runs[name])
    return times


def _runs_a_turn(run: Callable[[], Any], turn: float) -> int:
    run()
    if not turn:
        return 1
    _, began = _read_clocks(None)
    run()
    return max(1, round(turn / max(_read_clocks(None)[1] - began, 1e-6)))


def _read_clocks(device: torch.device | None) -> tuple[float, float]:
    """Seconds of the wall and of the processor, after what ``device`` was given to do."""
    if device is not None and device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter(), time.process_time() + ended.ru_utime + ended.ru_stime


def ratios(slower: list[float], faster: list[float]) -> list[float]:
    """How many times as fast the second is, run by run."""
    return [a / b for a, b in zip(slower, faster, strict=True)]


def spread(values: list[float]) -> str:
    """The median, and the least and the greatest."""
    return f"{statistics.median(values):.3g} [{min(values):.3g}, {max(values):.3g}]"


def report(figures: Mapping[str, Any], ratio: float | None, label: str, path: Path | None) -> None:
    """Prints ``ratio``, None where there was nothing to compare with, and writes it and ``figures`` to ``path``."""
    if path:
        with files.replacing(path) as file:
            json.dump({**figures, "ratio": ratio}, file, indent=1, default=dataclasses.asdict)
    click.echo(f"{label}: {'no peer is installed' if ratio is None else f'{ratio:.2f}'}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a process took."""

    seconds: float
    processor_seconds: float
    peak_bytes: int


def run_asr(*arguments: str | Path) -> Spent:
    """Runs `asr` with these arguments in a process of its own, the only child of this one."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "from asr.cli import main; main()", *arguments], check=True)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Spent(
        seconds=time.perf_counter() - began,
        processor_seconds=usage.ru_utime + usage.ru_stime,
        peak_bytes=usage.ru_maxrss * 1024,
    )


# Options that several subjects have.
model_argument = click.argument("model", callback=lambda _context, _option, name: checkpoint.resolve(name))
manifest_argument = click.argument("manifest", type=click.Path(path_type=Path))
device_option = click.option("--device", default="auto", show_default=True)
json_option = click.option("--json", "path", type=click.Path(path_type=Path), help="Also writes all figures here.")
repeats_option = functools.partial(click.option, "--repeats", show_default=True, help="Runs of each side, in turn.")

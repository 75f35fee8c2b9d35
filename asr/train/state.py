"""What a training run needs to go on as if it had never stopped, and the signals that stop it."""

from __future__ import annotations

import pickle
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch

from asr import runtime
from asr.errors import CheckpointError

STATE = Path("training") / "state.pt"


@dataclass(slots=True)
class Progress:
    """Where a run stands: ``epoch`` and ``batch`` are the next to be trained, ``step`` counts optimiser steps, the
    ``epoch_*`` sums cover the batches of this epoch so far."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    seconds: float = 0.0
    best_wer: float = float("inf")
    best_epoch: int = -1
    silent_epochs: int = 0
    epoch_loss: float = 0.0
    epoch_labels: int = 0
    epoch_blank: float = 0.0
    epoch_steps: int = 0
    finished: bool = False


class Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Any, /) -> Any: ...


def save_state(directory: Path, progress: Progress, parts: dict[str, Stateful]) -> None:
    """Writes the whole state aside and renames it, so that a kill at any moment leaves the old or the new one."""
    state = {"progress": asdict(progress), **{name: part.state_dict() for name, part in parts.items()}}
    with runtime.replacing(directory / STATE, "wb") as file:
        torch.save(state, file)


def load_state(directory: Path, parts: dict[str, Stateful]) -> Progress | None:
    """Restores ``parts`` and returns the progress; None where no state was saved. Raises CheckpointError."""
    path = directory / STATE
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        return Progress(**state["progress"])
    except (RuntimeError, KeyError, TypeError, ValueError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} does not load: {str(error).splitlines()[0]}") from error


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """An event that SIGINT (Ctrl-C) and SIGTERM set; a second signal acts as it always does."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals reach the main thread alone
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, _frame: FrameType | None) -> None:
        stop.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

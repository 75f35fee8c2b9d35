"""Device, precision, seeds, files: the one place that knows what the process runs on."""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from asr.errors import AsrError

if TYPE_CHECKING:
    import torch


def pick_device(name: str = "auto") -> torch.device:
    """The device called ``name``; ``auto`` is the first GPU, or the CPU where there is none."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise AsrError(f'the device "{name}" was asked for, but torch {torch.__version__} sees no CUDA GPU here')
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise AsrError(f'"{name}" is not a device: expected auto, cpu, cuda or cuda:N') from error


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """The autocast context for ``float32``, ``bfloat16`` or ``float16``; ``auto``: bfloat16 on a GPU, else float32."""
    import torch

    if precision == "auto":
        precision = "bfloat16" if device.type == "cuda" else "float32"
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))


def seed_step(*numbers: int) -> None:
    """Seeds torch from ``numbers``.

    Called with (seed, step) before each training step, so that dropout and SpecAugment depend on the step alone: a
    resumed run draws what the uninterrupted one drew, without saving generator states.
    """
    import torch

    torch.manual_seed(random.Random(str(numbers)).getrandbits(63))


def default_workers() -> int:
    """Loader processes: one per two cores, at most eight."""
    return min(8, max(1, (os.cpu_count() or 1) // 2))


def cache_directory() -> Path:
    """Where synthesised corpora and downloads are kept: ``$ASR_CACHE``, or ``asr`` under the user's cache directory."""
    if explicit := os.environ.get("ASR_CACHE"):
        return Path(explicit)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "asr"


def data_root(explicit: str | None, recipe: str) -> Path:
    """Where relative corpus paths start: ``--data``, else ``$ASR_DATA``, else the recipe's ``data:``."""
    return Path(explicit or os.environ.get("ASR_DATA") or recipe).expanduser().absolute()


@contextlib.contextmanager
def replacing(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """A file that appears under ``path`` whole or not at all: written aside, flushed to disk, then renamed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        encoding = None if "b" in mode else "utf-8"
        handle = tempfile.NamedTemporaryFile(  # noqa: SIM115 (renamed below, so closed by hand)
            mode, dir=path.parent, prefix=f".{path.name}.", delete=False, encoding=encoding
        )
    except OSError as error:
        raise AsrError(f"{path} cannot be written: {error.strerror or error}") from error
    try:
        with handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.chmod(handle.name, 0o644)
        os.replace(handle.name, path)
    except OSError as error:
        raise AsrError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        Path(handle.name).unlink(missing_ok=True)

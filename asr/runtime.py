"""Device, precision, seeds, threads: the one place that knows what the process runs on."""

from __future__ import annotations

import contextlib
import os
import random
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise AsrError(f'"{name}" is not a device: expected auto, cpu, cuda or cuda:N')
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise AsrError(f'there is no device "{name}": torch sees {torch.cuda.device_count()} GPUs')
    return device


def may_use_gpu(device: str) -> bool:
    """Whether ``device``, a name as ``pick_device`` takes it, may be a GPU. Told without torch, whose import takes
    seconds: by the driver's device file."""
    return device.startswith("cuda") or (device == "auto" and Path("/dev/nvidiactl").exists())


def resolve_precision(device: torch.device, precision: str) -> str:
    """``float32``, ``bfloat16`` or ``float16``: what ``auto`` means on ``device``.

    On a GPU float16, with a loss scaler: autocast casts cuDNN's recurrent layers to it even where bfloat16 is asked for
    (ATen's AutocastRNN.cpp), so small gradients need the scaler either way. On a CPU bfloat16 where there is AMX or
    AVX512_BF16, else float32: a step of mini LibriSpeech's recipe takes 1.00 s of a core in place of 1.61 on Zen 5,
    which has the latter alone (three steps of ten utterances of 12 s, three times in turn, quiet machine).
    """
    import torch

    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "float16"
    fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bfloat16" if fast else "float32"


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """The autocast context for ``float32``, ``bfloat16``, ``float16`` or ``auto``."""
    import torch

    precision = resolve_precision(device, precision)
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))


def seed_step(*numbers: int) -> None:
    """Seeds torch from ``numbers``.

    Called with (seed, epoch, batch) before each training step, so that dropout and SpecAugment depend on the step
    alone: a resumed run draws what the uninterrupted one drew, without saving generator states.
    """
    import torch

    torch.manual_seed(random.Random(str(numbers)).getrandbits(63))


def keep_few_kernels() -> None:
    """Before torch first computes: oneDNN keeps the kernels of the last 1,024 shapes, and recordings are of any length,
    so that memory would grow for hours. An hour of AN4's clips peaked at 1,113 MB, and with 8 at 914 MB, as fast.

    For commands only: it holds for the whole process, where a network of more than 8 layers would prepare each anew.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8")


def use_threads(number: int | None = None) -> None:
    """Before torch is imported: ``number`` threads compute, or one a core, and spin for a short while where they wait.

    GNU OpenMP's threads spin for 300,000 turns, and so take the cores from those that they wait for where the machine
    has other work to do. Steps a minute of AN4's recipe on two cores, means of two to five interleaved runs, first with
    precedence over seven busy neighbours, then beside them: as it comes 67 and 2.5; 10,000 turns 65 and 7; 1,000 turns
    58 and 13; none 59 and 16; one thread 52 and 23. So none on a machine that is busy by now, else 10,000.

    For commands only: it holds for the whole process. What the environment says of waiting is kept.
    """
    if not os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
        os.environ["GOMP_SPINCOUNT"] = "0" if _is_busy() else "10000"
    if number is not None:
        os.environ["OMP_NUM_THREADS"] = str(number)


def _is_busy(seconds: float = 0.25) -> bool:
    """Whether others keep more than half of the cores busy, watched for so long. On Linux alone."""
    before = _processor_time()
    time.sleep(seconds)
    idle, whole = (after - earlier for after, earlier in zip(_processor_time(), before, strict=True))
    return idle < whole / 2


def _processor_time() -> tuple[int, int]:
    """What the cores were idle for since the machine was started, and all their time, in its ticks."""
    try:
        ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    except OSError:
        return 0, 0
    return ticks[3] + ticks[4], sum(ticks[:8])


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> int:
    """Bytes that this process may still take up, about: what the machine has available, and no more than its container
    may have in all."""
    try:
        meminfo = Path("/proc/meminfo").read_text()
        free = 1024 * int(re.findall(r"MemAvailable:\s+(\d+) kB", meminfo)[0])
    except (OSError, IndexError):  # not Linux
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit in ("memory.max", "memory/memory.limit_in_bytes"):  # of control groups, version 2 and 1
        with contextlib.suppress(OSError, ValueError):  # "max": no limit
            free = min(free, int(Path("/sys/fs/cgroup", limit).read_text()))
    return free


def default_workers() -> int:
    """Loader processes: one per two cores, at most eight."""
    return min(8, max(1, cores() // 2))

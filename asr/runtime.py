"""Device, precision, seeds, threads, processes: the one place that knows what the process runs on, and beside which."""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import itertools
import os
import random
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from asr.errors import AsrError, TrainingError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
PATIENCE = datetime.timedelta(hours=2)
"""How long a process waits for the others: as long as one may take to synthesise or download a corpus."""


def keep_to_this_machine() -> None:
    """Before onnxruntime is imported, which on Linux (1.31.1) otherwise writes an identifier of the machine to the home
    directory and sends its maker what runs here: microsoft/onnxruntime, pull request 27379. Whoever has set the
    variable is heeded."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


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

    Called with (seed, epoch, batch) before each batch is trained on, so that dropout and SpecAugment depend on its
    place in the run alone: a resumed run draws what the uninterrupted one drew, without saving generator states, and
    several processes what a single one draws.
    """
    import torch

    torch.manual_seed(random.Random(str(numbers)).getrandbits(63))


def keep_few_kernels() -> None:
    """Before torch first computes: oneDNN keeps the kernels of the last 1,024 shapes, and recordings are of any length,
    so that memory would grow for hours. An hour of AN4's clips peaked at 1,113 MB, and with 8 at 914 MB, as fast.

    For commands only: it holds for the whole process, where a network of more than 8 layers would prepare each anew.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8")


def share_memory() -> None:
    """glibc gives each thread an arena of its own, which keeps what the thread freed, so that a server's memory grows
    with its threads. This makes all share one. ``MALLOC_ARENA_MAX``, where it is set, is left as it is.

    For commands only: it holds for the whole process.
    """
    if "MALLOC_ARENA_MAX" not in os.environ:
        arena_max = -8  # M_ARENA_MAX of malloc.h
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).mallopt(arena_max, 1)


def use_threads(number: int | None = None, *, watch: bool = True) -> None:
    """Before torch is imported: ``number`` threads compute, or one a core, and spin for a short while where they wait.

    GNU OpenMP's threads spin for 300,000 turns, and so take the cores from those that they wait for where the machine
    has other work to do. Steps a minute of AN4's recipe on two cores, means of two to five interleaved runs, first with
    precedence over seven busy neighbours, then beside them: as it comes 67 and 2.5; 10,000 turns 65 and 7; 1,000 turns
    58 and 13; none 59 and 16; one thread 52 and 23. So none on a machine that is busy by now, else 10,000.
    ``watch`` False: for commands that are done in a second, which do not watch the machine for a quarter of it first.

    numpy's products keep to one thread: a second gains nothing for spectra times mel filters, and spins. Beside others
    on two cores, features took 0.0042 x real time of a processor with two and 0.0024 with one (three runs of each in
    turn).

    For commands only: it holds for the whole process. What the environment says is kept.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if not os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
        os.environ["GOMP_SPINCOUNT"] = "0" if watch and _is_busy() else "10000"
    if number is not None:
        os.environ["OMP_NUM_THREADS"] = str(number)


def threads() -> int:
    """How many threads are to compute, as the environment says it to torch; 0: as many as there are cores."""
    most, _, _ = os.environ.get("OMP_NUM_THREADS", "").partition(",")
    return int(most) if most.strip().isdecimal() else 0


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
    may have in all; of that an equal share, where torchrun started several processes on this machine."""
    try:
        meminfo = Path("/proc/meminfo").read_text()
        free = 1024 * int(re.findall(r"MemAvailable:\s+(\d+) kB", meminfo)[0])
    except (OSError, IndexError):  # not Linux
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit in ("memory.max", "memory/memory.limit_in_bytes"):  # of control groups, version 2 and 1
        with contextlib.suppress(OSError, ValueError):  # "max": no limit
            free = min(free, int(Path("/sys/fs/cgroup", limit).read_text()))
    return free // (_of_torchrun("LOCAL_WORLD_SIZE", 1) if world() > 1 else 1)


def resident_memory() -> int:
    """Bytes of memory that this process has now, or, where there is no /proc, that it ever had."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else 1024 * most
    return pages * os.sysconf("SC_PAGE_SIZE")


def default_workers() -> int:
    """Loader processes: one per two cores that are this process's share of the machine, at most eight."""
    share = cores() // (_of_torchrun("LOCAL_WORLD_SIZE", 1) if world() > 1 else 1)
    return min(8, max(1, share // 2))


# --------------------------------------------------------------------------- training in several processes together


@contextlib.contextmanager
def joined(device: str = "auto") -> Iterator[None]:
    """Inside, this process and the others that torchrun started, here and on other machines, train together: "cuda" is
    then the GPU of its own. A process that was started alone stays alone.

    What the processes say to each other goes over gloo, and what lies on GPUs over NCCL. Raises AsrError where there
    are not GPUs enough.
    """
    if _of_torchrun("WORLD_SIZE", 1) == 1 or "MASTER_ADDR" not in os.environ:
        yield
        return
    import torch
    from torch import distributed
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    if device != "cpu" and torch.cuda.is_available():
        own, there = _of_torchrun("LOCAL_RANK", 0), torch.cuda.device_count()
        if device.startswith("cuda:"):
            raise AsrError(f'each of several processes takes a GPU of its own: ask for "cuda" and not for "{device}"')
        if own >= there:
            raise AsrError(
                f"{own + 1} or more processes were started on this machine, where torch sees {there} GPUs: "
                f"start {there} (torchrun --nproc-per-node {there}), or train with --device cpu"
            )
        torch.cuda.set_device(own)
    both = torch.cuda.is_available() and distributed.is_nccl_available()
    with _heard_by_all():
        store, own_rank, size = next(rendezvous("env://", timeout=PATIENCE))
        # torchrun --standalone keeps its store when it starts processes anew, with the addresses of those that died.
        attempt = PrefixStore(f"attempt {_of_torchrun('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if both else "gloo", store=attempt, rank=own_rank, world_size=size, timeout=PATIENCE
        )
    yield
    # Not where the block raised: others would be waited for that wait themselves.
    distributed.destroy_process_group()


def rank() -> int:
    """The number of this process among those that train together, from 0."""
    return _group().get_rank() if world() > 1 else 0


def world() -> int:
    """How many processes train together."""
    group = _group()
    return group.get_world_size() if group is not None else 1


def is_first() -> bool:
    """Whether this process is the one that writes files and talks to people."""
    return rank() == 0


def everyones(value: T) -> list[T]:
    """``value`` of every process, by rank. All must call it, and wait here for each other."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    with _heard_by_all():
        _group().all_gather_object(values, value)
    return values


def interleaved(shares: Sequence[Sequence[T]]) -> list[T]:
    """The whole, in order, of which each process took every ``world``-th item, beginning with its rank."""
    missing = object()
    rounds = itertools.zip_longest(*shares, fillvalue=missing)
    return [item for some in rounds for item in some if item is not missing]  # type: ignore[misc]


def by_first(work: Callable[[], T]) -> T:
    """What ``work`` returns, which the first process alone does, for all. All must call it."""
    if world() == 1:
        return work()
    result = [work() if is_first() else None]
    with _heard_by_all():
        _group().broadcast_object_list(result, src=0)
    return result[0]  # type: ignore[return-value]


@contextlib.contextmanager
def one_of_machine_first() -> Iterator[None]:
    """The block runs in one process of each machine, then in its others: they find what that one made for the machine,
    a corpus downloaded or synthesised. All must enter it."""
    leads = _of_torchrun("LOCAL_RANK", 0) == 0
    if not leads:
        everyones(None)
    yield
    if leads:
        everyones(None)


def copy_from_first(tensors: Sequence[torch.Tensor]) -> None:
    """Fills ``tensors`` with the first process's. All must call it."""
    if world() > 1:
        with _heard_by_all():
            for tensor in tensors:
                _group().broadcast(tensor.detach(), src=0)


def add_up(tensors: Sequence[torch.Tensor]) -> None:
    """Fills each of ``tensors``, of one device and type, with its sum over all processes. All must call it.

    The sum is the same to the bit in all of them, and for two processes that of adding one's to the other's.
    """
    import torch

    if world() == 1:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    with _heard_by_all():
        _group().all_reduce(flat)
    start = 0
    for tensor in tensors:
        tensor.copy_(flat[start : start + tensor.numel()].view(tensor.shape))
        start += tensor.numel()


def launch() -> str:
    """The torchrun that started this process, by a name that it keeps when it starts the process anew; empty where
    there is none, or where it has no name."""
    named = os.environ.get("TORCHELASTIC_RUN_ID", "")
    if named != "none":
        return named
    with contextlib.suppress(OSError, IndexError):  # Linux alone tells when a process was started
        parent = os.getppid()
        started = Path(f"/proc/{parent}/stat").read_text().rsplit(")", 1)[1].split()[19]
        return f"{os.uname().nodename} {parent} {started}"
    return ""


def _of_torchrun(name: str, default: int) -> int:
    """A number that torchrun leaves in the environment."""
    return int(os.environ.get(name) or default)


def _group() -> Any:
    """torch.distributed where processes are joined, else None; torch is not imported for the question."""
    import sys

    distributed = sys.modules.get("torch.distributed")
    return distributed if distributed and distributed.is_available() and distributed.is_initialized() else None


@contextlib.contextmanager
def _heard_by_all() -> Iterator[None]:
    """Raises TrainingError where another process is gone, or does not answer."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        who = f"process {os.environ.get('RANK', '?')} of {os.environ.get('WORLD_SIZE', '?')}"
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TrainingError(
            f"{who} has lost the others: look for the first message of one that stopped ({reason})"
        ) from error

"""What a process runs on: threads, precision, memory."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from asr import runtime

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("device", "has", "asked", "resolved"),
    [
        (CPU, "", "auto", "float32"),
        (CPU, "amx_tile", "auto", "bfloat16"),
        (CPU, "avx512_bf16", "auto", "bfloat16"),
        (GPU, "", "auto", "float16"),
        (CPU, "amx_tile", "float32", "float32"),
        (GPU, "", "bfloat16", "bfloat16"),
    ],
)
def test_auto_is_the_precision_that_the_hardware_multiplies_fastest(monkeypatch, device, has, asked, resolved):
    for feature in ("amx_tile", "avx512_bf16"):
        monkeypatch.setattr(torch.cpu, f"_is_{feature}_supported", lambda feature=feature: feature == has)
    assert runtime.resolve_precision(device, asked) == resolved


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_autocast_multiplies_matrices_in_the_precision_asked_for(precision):
    with runtime.autocast(CPU, precision):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == getattr(torch, precision)


@pytest.mark.parametrize(
    ("idle", "said", "turns"),
    [
        (0.9, {}, "10000"),
        (0.1, {}, "0"),
        (0.1, {"OMP_WAIT_POLICY": "ACTIVE"}, None),
        (0.1, {"GOMP_SPINCOUNT": "7"}, "7"),
    ],
)
def test_waiting_threads_spin_shortly_and_on_a_busy_machine_not_at_all(monkeypatch, idle, said, turns):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "to be restored")
        monkeypatch.delenv(name)
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    times = iter([(1000, 5000), (1000 + 100 * idle, 5000 + 100)])
    monkeypatch.setattr(runtime, "_processor_time", lambda: next(times))
    runtime.use_threads(5)
    assert os.environ.get("GOMP_SPINCOUNT") == turns
    assert os.environ["OMP_NUM_THREADS"] == "5"


def test_short_commands_do_not_watch_the_machine_first(monkeypatch):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "to be restored")
        monkeypatch.delenv(name)
    monkeypatch.setattr(runtime, "_is_busy", lambda: pytest.fail("watched"))
    runtime.use_threads(watch=False)
    assert os.environ["GOMP_SPINCOUNT"] == "10000"
    assert os.environ["OPENBLAS_NUM_THREADS"] == "1"


@pytest.mark.parametrize(("said", "threads"), [("3", 3), ("4,2", 4), ("", 0), (None, 0), ("many", 0)])
def test_threads_are_as_many_as_the_environment_says_first(monkeypatch, said, threads):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert runtime.threads() == threads


COMMAND = """
import os, sys
from asr.cli import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
import torch
print(os.environ.get("GOMP_SPINCOUNT") in ("0", "10000"), torch.get_num_threads())
"""


def test_the_processors_time_passes():
    before = runtime._processor_time()
    runtime._is_busy(0.1)
    idle, whole = (after - earlier for after, earlier in zip(runtime._processor_time(), before, strict=True))
    assert 0 <= idle <= whole
    assert whole > 0 or sys.platform != "linux"


def test_training_sets_its_threads_before_torch_is_loaded():
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, "-c", COMMAND, "train", "nowhere.yaml", "--threads", "1"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.splitlines()[-1] == "True 1"


class GnuLibrary:
    """A C library that notes how it is asked to allocate."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def mallopt(self, parameter: int, value: int) -> int:
        self.asked.append((parameter, value))
        return 1


@pytest.mark.parametrize(("said", "asked"), [(None, [(-8, 1)]), ("4", [])], ids=["unsaid", "said"])
def test_threads_share_one_arena_of_memory_unless_the_environment_says_how_many(monkeypatch, said, asked):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "to be restored")
    monkeypatch.delenv("MALLOC_ARENA_MAX")
    if said:
        monkeypatch.setenv("MALLOC_ARENA_MAX", said)
    library = GnuLibrary()
    monkeypatch.setattr(runtime.ctypes, "CDLL", lambda _name: library)
    runtime.share_memory()
    assert library.asked == asked


def test_a_c_library_without_arenas_is_left_alone(monkeypatch):
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    monkeypatch.setattr(runtime.ctypes, "CDLL", lambda _name: object())
    runtime.share_memory()

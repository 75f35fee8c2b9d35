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
    ("device", "amx", "asked", "resolved"),
    [
        (CPU, False, "auto", "float32"),
        (CPU, True, "auto", "bfloat16"),
        (GPU, False, "auto", "float16"),
        (CPU, True, "float32", "float32"),
        (GPU, False, "bfloat16", "bfloat16"),
    ],
)
def test_auto_is_the_precision_that_the_hardware_multiplies_fastest(monkeypatch, device, amx, asked, resolved):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert runtime.resolve_precision(device, asked) == resolved


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_autocast_multiplies_matrices_in_the_precision_asked_for(precision):
    with runtime.autocast(CPU, precision):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == getattr(torch, precision)


ENVIRONMENT = """
import os, sys
from asr.cli import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
import torch
print(os.environ.get("OMP_WAIT_POLICY"), torch.get_num_threads())
"""


@pytest.mark.parametrize(
    ("options", "said", "expected"),
    [
        (["--threads", "1"], {}, "PASSIVE 1"),
        ([], {"OMP_WAIT_POLICY": "ACTIVE", "OMP_NUM_THREADS": "1"}, "ACTIVE 1"),
    ],
)
def test_training_has_threads_that_wait_asleep_unless_the_environment_says_otherwise(options, said, expected):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")} | said
    command = [sys.executable, "-c", ENVIRONMENT, "train", "nowhere.yaml", *options]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.splitlines()[-1] == expected

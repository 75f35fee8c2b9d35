"""What the rooms' tests share: one thread, reproducible properties, small inputs, the real speech where it is there."""

from __future__ import annotations

import os

# The tests' models are tiny: one thread is faster than two, and does not fight with whatever else the machine does.
os.environ["OMP_NUM_THREADS"] = "1"

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("reproducible", derandomize=True, deadline=None, max_examples=100, database=None)
settings.load_profile("reproducible")

Tone = Callable[..., np.ndarray]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU, and torch sees none here"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real speech beside the repository."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the real speech of {folder}, which is not there")
    return folder


@pytest.fixture(scope="session")
def tone() -> Tone:
    """``tone(seconds, hz, rate)``: a sine of amplitude 0.3, (S,) float32."""

    def make(seconds: float = 1.0, hz: float = 440.0, rate: int = 16000) -> np.ndarray:
        return (0.3 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)

    return make


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings draw no training.png, which takes most of a tiny one's time."""
    from asr.train.monitor import Monitor

    monkeypatch.setattr(Monitor, "_draw", lambda _monitor: None)

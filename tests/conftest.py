"""Small inputs that the rooms' tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("reproducible", derandomize=True, deadline=None, max_examples=100, database=None)
settings.load_profile("reproducible")

Tone = Callable[..., np.ndarray]


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

"""What the acoustic model emits, on its own device, where a criterion learns from it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Emitted(NamedTuple):
    """``log_probs`` (B, T', V), natural log, float32; ``lengths`` (B,) in frames."""

    log_probs: Tensor
    lengths: Tensor

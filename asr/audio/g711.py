"""G.711, the telephone's eight bits a sample: mu-law and A-law to linear samples (ITU-T Recommendation G.711, 1988)."""

from __future__ import annotations

import numpy as np


def from_mu_law(octets: bytes) -> np.ndarray:
    """(S,) int16, a sample an octet."""
    return _MU_LAW[np.frombuffer(octets, np.uint8)]


def from_a_law(octets: bytes) -> np.ndarray:
    """(S,) int16, a sample an octet."""
    return _A_LAW[np.frombuffer(octets, np.uint8)]


def _mu_law() -> np.ndarray:
    """The 256 samples: sign, three bits of exponent, four of mantissa, all sent inverted; a bias of 33 steps of 4."""
    code = ~np.arange(256) & 0xFF
    magnitude = ((((code & 0x0F) << 3) + 132) << ((code & 0x70) >> 4)) - 132
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.int16)


def _a_law() -> np.ndarray:
    """The 256 samples: as above, with every other bit inverted, the sign's sense the other way, and no bias."""
    code = np.arange(256) ^ 0x55
    exponent = (code & 0x70) >> 4
    mantissa = ((code & 0x0F) << 4) + 8
    magnitude = np.where(exponent == 0, mantissa, (mantissa + 256) << np.maximum(exponent - 1, 0))
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)


_MU_LAW, _A_LAW = _mu_law(), _a_law()

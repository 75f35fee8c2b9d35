"""Whatever befalls a file, it is read as sound or refused in a sentence, and no library has a say of its own."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from containers import CONTAINERS, MISHAPS, clip, mutated

from asr import audio
from asr.errors import AudioError

MUTATIONS = 2 * len(MISHAPS)
"""Of each container. Their seeds are fixed, so that a failure comes again."""


@pytest.fixture(scope="module")
def sound() -> np.ndarray:
    draw = np.random.default_rng(0)
    return (0.3 * np.sin(2 * np.pi * 300 * np.arange(6400) / 16000) + draw.normal(0, 0.02, 6400)).astype(np.float32)


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_is_read_to_its_end(sound, container):
    content = clip(container, sound)
    waveform = audio.read(content, sample_rate=16000)
    assert len(sound) - 320 <= len(waveform.samples) <= len(sound) + 2400  # codecs delay, and fill up frames
    assert audio.probe(content).duration == pytest.approx(waveform.duration, abs=0.002)
    [block] = audio.stream(content, sample_rate=16000)
    np.testing.assert_array_equal(block, waveform.samples)


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_damaged_file_is_sound_or_a_sentence(sound, container, capfd):
    content = clip(container, sound)
    for seed in range(MUTATIONS):
        outcome_of(mutated(content, zlib.crc32(container.encode()) + seed))
    assert capfd.readouterr() == ("", "")


def outcome_of(content: bytes) -> str:
    """What became of it: "read", or the sentence. Anything else raises."""
    outcome = "read"
    for reading in (_probed, _read, _streamed):
        try:
            reading(content)
        except AudioError as error:
            outcome = str(error)
            assert outcome.startswith(audio.describe(content))
            assert "\n" not in outcome
    return outcome


def _probed(content: bytes) -> None:
    info = audio.probe(content)
    assert 0 < info.samples <= audio.MAX_SECONDS * info.sample_rate
    assert info.channels >= 1


def _read(content: bytes) -> None:
    _check(audio.read(content, sample_rate=16000).samples)


def _streamed(content: bytes) -> None:
    for block in audio.stream(content, sample_rate=16000):
        _check(block)


def _check(samples: np.ndarray) -> None:
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert np.isfinite(samples).all()

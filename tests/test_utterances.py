"""A stream is normalised by its speech alone, and cut into utterances where long silence parts them."""

from collections.abc import Iterator

import numpy as np
import pytest

from asr import recipe
from asr.audio.utterances import SpeechMemory, UtteranceCutter
from asr.onnx.features import FrontEnd
from asr.recipe.frames import delta_reach

RATE = 8000
FRONT_END = FrontEnd(recipe.LogMel(sample_rate=RATE, mels=8))
FRAMES = {"shift": FRONT_END.settings.shift, "mels": 8, "reach": delta_reach(FRONT_END.settings)}


def energies(samples: np.ndarray) -> np.ndarray:
    return FRONT_END.energies(samples)


def pieces(frames: np.ndarray, length: int) -> Iterator[np.ndarray]:
    return (frames[start : start + length] for start in range(0, len(frames), length))


def noise(length: int) -> np.ndarray:
    return (np.random.default_rng(length).standard_normal(length) * 0.1).astype(np.float32)


def words(seconds: float, level: float = 1.0) -> np.ndarray:
    """Noise that comes and goes as speech does, twice a second, and begins in a pause."""
    time = np.arange(round(seconds * RATE)) / RATE
    return noise(len(time)) * level * (0.003 - np.minimum(np.cos(4 * np.pi * time), 0)).astype(np.float32)


def remembered(samples: np.ndarray) -> SpeechMemory:
    """What is remembered of samples that come in pieces of 0.2 s."""
    memory = SpeechMemory(FRONT_END.measure, **FRAMES)
    for frames in pieces(energies(samples), 20):
        memory.hear(frames)
    return memory


@pytest.mark.parametrize(
    "before",
    [
        np.zeros(0, np.float32),
        np.zeros(60 * RATE, np.float32),
        0.01 * noise(60 * RATE),
        words(2, level=0.02),
    ],
    ids=["nothing", "silence", "a room", "whispering"],
)
@pytest.mark.parametrize("after", [0.0, 60.0])
def test_a_stream_is_normalised_as_its_speech_alone_is_whatever_came_before_and_after(before, after):
    speech = words(4)
    expected = FRONT_END.measure(energies(speech))
    room = 1e-5 * noise(round(after * RATE))
    statistics = remembered(np.concatenate([before, speech, room])).statistics()
    np.testing.assert_allclose(statistics.mean, expected.mean, atol=0.15, rtol=0)
    np.testing.assert_allclose(statistics.deviation, expected.deviation, atol=0.15, rtol=0)
    np.testing.assert_allclose(statistics.floor, expected.floor, atol=0.15, rtol=0)


def test_a_stream_learns_to_hear_a_fainter_voice():
    statistics = remembered(np.concatenate([words(1, level=3), words(70, level=0.03)])).statistics()
    fainter = remembered(words(20, level=0.03)).statistics()
    np.testing.assert_allclose(statistics.mean, fainter.mean, atol=0.4, rtol=0)


def stretches(samples: np.ndarray, *, step: int = 4, chunk: int = 37) -> list[tuple[str, int]]:
    """What becomes of samples, as ("read" or "silence", frames), what belongs together added up."""
    cutter, found = UtteranceCutter(FRONT_END.measure, **FRAMES, step=step), []
    parts = list(pieces(energies(samples), chunk))
    for i, piece in enumerate(parts):
        for stretch in cutter.feed(piece, last=i == len(parts) - 1):
            kind = "silence" if stretch.silence else "read"
            if found and found[-1][0] == kind and not found[-1][2]:
                kind, frames, _ = found.pop()
            else:
                frames = 0
            found.append((kind, frames + len(stretch.energies), stretch.last))
    return [(kind, frames) for kind, frames, _ in found if frames]


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE), np.float32)


def test_silence_is_not_read_but_for_a_pause_after_and_a_margin_before_speech():
    found = stretches(np.concatenate([silence(10), words(3), silence(10), words(2), silence(10)]))
    assert [kind for kind, _ in found] == ["silence", "read", "silence", "read", "silence"]
    seconds = [frames / 100 for _, frames in found]
    assert sum(seconds) == pytest.approx(35, abs=0.02)
    assert seconds == pytest.approx([9.8, 4.0, 9.0, 3.0, 9.2], abs=0.5)


def test_a_pause_parts_no_utterance():
    assert [kind for kind, _ in stretches(np.concatenate([words(3), silence(0.7), words(2)]))] == ["read"]


@pytest.mark.parametrize("step", [1, 2, 4])
def test_what_is_read_begins_and_ends_on_an_emission_frame(step):
    found = stretches(np.concatenate([silence(3.33), words(3), silence(4.56), words(2), silence(3)]), step=step)
    assert all(frames % step == 0 for _, frames in found[:-1])


@pytest.mark.parametrize("seconds", [0.05, 0.3])
def test_a_stream_too_short_to_tell_is_read(seconds):
    assert [kind for kind, _ in stretches(noise(round(seconds * RATE)))] == ["read"]


@pytest.mark.parametrize("room", [0.0, 0.05, 0.3], ids=["quiet", "-26 dB", "-10 dB"])
def test_no_word_is_lost_in_a_noisy_room(room):
    samples = words(6) + room * noise(6 * RATE)
    kinds = stretches(np.concatenate([room * noise(7 * RATE), samples.astype(np.float32)]))
    assert [kind for kind, _ in kinds] == ["silence", "read"]
    assert kinds[1][1] >= 585

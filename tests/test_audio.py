"""Whatever holds sound is read as mono float32 at the rate asked for; whatever does not is one sentence."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from asr import audio
from asr.audio import reading
from asr.audio.recording import _Part
from asr.errors import AudioError

SOUNDFILE = {  # suffix: (format, subtype)
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
PYAV = {"m4a": ("aac", 1024), "webm": ("libopus", 960)}  # suffix: (codec, samples a frame)
EVERY_FORMAT = [*SOUNDFILE, *PYAV]


def write(path: Path, samples: np.ndarray, rate: int) -> Path:
    """``samples`` (S,) or (S, channels) in the format of the path's suffix."""
    suffix = path.suffix[1:]
    if suffix in SOUNDFILE:
        format, subtype = SOUNDFILE[suffix]
        soundfile.write(path, samples, rate, format=format, subtype=subtype)
        return path
    codec, size = PYAV[suffix]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        for start in range(0, len(samples) - size + 1, size):
            frame = av.AudioFrame.from_ndarray(samples[None, start : start + size], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = rate, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def pitch(waveform: audio.Waveform) -> float:
    """The strongest frequency, in Hz."""
    spectrum = np.abs(np.fft.rfft(waveform.samples * np.hanning(len(waveform.samples))))
    return float(spectrum.argmax() * waveform.sample_rate / len(waveform.samples))


def sentence_of(recording: audio.Recording, name: str) -> str:
    """What ``read`` says of a bad recording, checked to be one sentence that names it."""
    with pytest.raises(AudioError) as caught:
        audio.read(recording)
    message = str(caught.value)
    assert name in message
    assert "\n" not in message
    for debris in ("Traceback", "object at 0x", "Error("):
        assert debris not in message
    return message


# --------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("suffix", EVERY_FORMAT)
def test_every_format_is_read_as_the_sound_that_was_written(tmp_path, tone, suffix):
    rate = 48000 if suffix == "webm" else 16000
    path = write(tmp_path / f"tone.{suffix}", tone(1.0, 440, rate), rate)
    waveform = audio.read(path)
    assert waveform.sample_rate == rate
    assert waveform.samples.dtype == np.float32
    assert waveform.samples.ndim == 1
    assert waveform.duration == pytest.approx(1.0, abs=0.1)  # AAC pads to whole frames and adds its delay
    assert pitch(waveform) == pytest.approx(440, abs=1.5)
    assert np.abs(waveform.samples[2000:12000]).max() == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize("suffix", EVERY_FORMAT)
def test_the_probe_agrees_with_what_is_read(tmp_path, tone, suffix):
    path = write(tmp_path / f"tone.{suffix}", tone(1.0, 440, 48000), 48000)
    header, waveform = audio.probe(path), audio.read(path)
    assert (header.samples, header.sample_rate) == (len(waveform.samples), waveform.sample_rate)
    assert header.duration == waveform.duration
    assert header.channels == 1


@pytest.mark.parametrize("suffix", EVERY_FORMAT)
def test_bytes_are_read_as_the_file_they_came_from(tmp_path, tone, suffix):
    path = write(tmp_path / f"tone.{suffix}", tone(0.5, 440, 48000), 48000)
    content = path.read_bytes()
    np.testing.assert_array_equal(audio.read(content).samples, audio.read(path).samples)
    assert audio.probe(content) == audio.probe(path)


@pytest.mark.parametrize("suffix", EVERY_FORMAT)
def test_a_member_of_a_tar_is_read_as_the_file_it_came_from(tmp_path, tone, suffix):
    path = write(tmp_path / f"x.{suffix}", tone(1.0, 440, 16000), 16000)
    content = path.read_bytes()
    (tmp_path / "x.tar").write_bytes(b"before" + content + b"OggSfLaC behind")
    member = audio.Member(file=tmp_path / "x.tar", name="x", start=6, size=len(content))
    assert np.array_equal(audio.read(member).samples, audio.read(path).samples)
    assert (audio.probe(member), audio.outline(member)) == (audio.probe(path), audio.outline(path))


def test_a_member_that_its_tar_does_not_hold_whole_is_named(tmp_path, tone):
    content = write(tmp_path / "x.wav", tone(1.0, 440, 16000), 16000).read_bytes()
    (tmp_path / "x.tar").write_bytes(content[:9000])
    member = audio.Member(file=tmp_path / "x.tar", name="x.wav", start=0, size=len(content))
    assert "is truncated" in sentence_of(member, f"{tmp_path}/x.tar/x.wav")


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "opus"])
def test_an_outline_reads_the_header_and_not_the_sound(tmp_path, suffix, monkeypatch):
    noise = np.random.default_rng(0).uniform(-0.9, 0.9, 60 * 16000)
    path, read = write(tmp_path / f"x.{suffix}", noise, 16000), []
    fill = _Part.readinto
    monkeypatch.setattr(_Part, "readinto", lambda part, into: read.append(fill(part, into)) or read[-1])
    size = path.stat().st_size
    assert audio.outline(audio.Member(file=path, name="x", start=0, size=size)).duration == pytest.approx(60, abs=0.1)
    assert sum(read) < 100_000 < size


def test_the_suffix_does_not_decide_the_format(tmp_path, tone):
    flac = write(tmp_path / "tone.flac", tone(), 16000)
    named = flac.rename(tmp_path / "tone.wav")
    np.testing.assert_allclose(audio.read(named).samples, tone(), atol=1e-4)


def test_channels_are_averaged(tmp_path, tone):
    path = write(tmp_path / "stereo.wav", np.stack([tone(), np.zeros(16000, np.float32)], axis=1), 16000)
    np.testing.assert_allclose(audio.read(path).samples, tone() / 2, atol=1e-4)
    channels, rate = audio.read_channels(path)
    assert channels.shape == (2, 16000)
    assert rate == 16000
    assert audio.probe(path).channels == 2


@pytest.mark.parametrize("suffix", EVERY_FORMAT)
def test_offset_and_duration_select_a_part(tmp_path, tone, suffix):
    path = write(tmp_path / f"tone.{suffix}", tone(1.0, 440, 48000), 48000)
    whole = audio.read(path).samples
    part = audio.read(path, offset=0.25, duration=0.5).samples
    assert len(part) == 24000
    # Lossy decoders start afresh at the offset, so only after a while do they agree with the whole.
    np.testing.assert_allclose(part[6000:], whole[12000 + 6000 : 12000 + 24000], atol=5e-3)
    assert len(audio.read(path, offset=0.9).samples) == len(whole) - 43200
    assert len(audio.read(path, offset=0.9, duration=5.0).samples) == len(whole) - 43200


# ------------------------------------------------------------------------------------------------ resampling


def test_an_8_khz_stereo_mp3_becomes_16_khz_mono(tmp_path, tone):
    path = write(tmp_path / "phone.mp3", np.stack([tone(1.0, 600, 8000)] * 2, axis=1), 8000)
    assert audio.probe(path) == audio.AudioInfo(samples=8000, sample_rate=8000, channels=2)
    waveform = audio.read(path, sample_rate=16000)
    assert waveform.sample_rate == 16000
    assert waveform.samples.shape == (16000,)
    assert pitch(waveform) == pytest.approx(600, abs=1.5)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 44101, 48000, 96000])
@pytest.mark.parametrize("hz", [100, 1000, 3000])
def test_a_sine_keeps_its_frequency_and_loudness_after_resampling(tone, rate, hz):
    waveform = audio.prepare(audio.Waveform(samples=tone(1.0, hz, rate), sample_rate=rate), 16000)
    assert len(waveform.samples) == pytest.approx(16000, abs=16)
    assert pitch(waveform) == pytest.approx(hz, abs=max(1.1, hz / 1000))
    assert np.abs(waveform.samples[1000:-1000]).max() == pytest.approx(0.3, rel=0.03)


def test_what_lies_above_the_new_rate_is_gone_rather_than_folded_down(tone):
    waveform = audio.prepare(audio.Waveform(samples=tone(1.0, 12000, 48000), sample_rate=48000), 16000)
    assert np.abs(waveform.samples[1000:-1000]).max() < 0.003


def test_a_waveform_at_the_rate_asked_for_is_left_alone(tone):
    waveform = audio.Waveform(samples=tone(), sample_rate=16000)
    assert audio.prepare(waveform, 16000) is waveform


# ------------------------------------------------------------------------------------------------- streaming


@pytest.mark.parametrize("suffix", EVERY_FORMAT)
def test_a_stream_of_one_block_is_what_is_read(tmp_path, tone, suffix):
    path = write(tmp_path / f"tone.{suffix}", tone(1.0, 440, 48000), 48000)
    for recording in (path, path.read_bytes()):
        [block] = audio.stream(recording, sample_rate=16000)
        np.testing.assert_array_equal(block, audio.read(recording, sample_rate=16000).samples)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44101])
@pytest.mark.parametrize("suffix", ["flac", "m4a"])
def test_blocks_join_without_a_seam(tmp_path, monkeypatch, rate, suffix):
    if suffix == "m4a" and rate == 44101:
        pytest.skip("AAC has no such rate")
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, rate * 3 + 17).astype(np.float32)
    path = write(tmp_path / f"noise.{suffix}", noise, rate)
    whole = audio.read(path, sample_rate=16000).samples
    monkeypatch.setattr(reading, "BLOCK_SECONDS", 1)
    blocks = list(audio.stream(path, sample_rate=16000))
    assert len(blocks) > 2
    np.testing.assert_allclose(np.concatenate(blocks), whole, atol=1e-6)


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3"])
def test_a_stream_that_breaks_off_is_read_as_far_as_it_goes_and_says_so(tmp_path, tone, monkeypatch, caplog, suffix):
    monkeypatch.setattr(reading, "BLOCK_SECONDS", 1)
    path = write(tmp_path / f"cut.{suffix}", tone(4.0), 16000)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    heard = np.concatenate(list(audio.stream(path, sample_rate=16000)))
    assert 1.5 < len(heard) / 16000 < 2.5
    assert re.search(r"cut\.\w+ is truncated: its header promises 4\.0 s, and [12]\.\d s are there", caplog.text)


@pytest.mark.parametrize("content", [b"", b"this is a text\n" * 100])
def test_a_stream_of_what_is_no_audio_says_what_read_says(tmp_path, content):
    path = tmp_path / "no.wav"
    path.write_bytes(content)
    with pytest.raises(AudioError) as caught:
        list(audio.stream(path, sample_rate=16000))
    assert str(caught.value) == sentence_of(path, "no.wav")


# ----------------------------------------------------------------------------------------- what is no audio


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.wav", b"", "is empty (0 bytes)"),
        ("text.wav", b"this is a text, whatever its name says\n" * 20, "is not audio that can be read"),
        ("zeros.mp3", bytes(5000), "is not audio that can be read: it begins with zero bytes alone"),
        ("text.mp3", b"words, not sound\n" * 20, "is not audio that can be read: Format not recognised"),
        ("header.wav", b"RIFF\x24\x00\x00\x00WAVE", "is not audio that can be read"),
        ("short.flac", b"not really", "is not audio that can be read"),
        ("page.webm", b"<!DOCTYPE html><html></html>", "is not audio that can be read"),
    ],
)
def test_a_file_that_is_no_audio_is_named_with_the_reason(tmp_path, name, content, reason):
    path = tmp_path / name
    path.write_bytes(content)
    assert reason in sentence_of(path, str(path))
    with pytest.raises(AudioError, match=name):
        audio.probe(path)


@pytest.mark.parametrize("content", [b"", b"junk" * 100])
def test_bytes_that_are_no_audio_are_named_by_their_size(content):
    sentence_of(content, f"{len(content)} bytes of audio")


@pytest.mark.parametrize("kept", [0.02, 0.25, 0.5, 0.75, 0.99])
@pytest.mark.parametrize("seconds", [1, 10])
def test_a_truncated_flac_is_named(tmp_path, seconds, kept):
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, 16000 * seconds)
    path = write(tmp_path / "cut.flac", noise, 16000)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    sentence_of(path, str(path))


def test_a_truncated_mp3_says_so(tmp_path, tone):
    path = write(tmp_path / "cut.mp3", tone(2.0), 16000)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert "is truncated: its header promises 2.0 s, and" in sentence_of(path, str(path))


def test_a_truncated_m4a_is_named(tmp_path, tone):
    path = write(tmp_path / "cut.m4a", tone(), 16000)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    sentence_of(path, str(path))


@pytest.mark.parametrize("suffix", ["mp3", "aac", "wav", "m4a"])
def test_gigabytes_of_nothing_are_refused_at_once(tmp_path, suffix):
    """As a crash leaves them; FFmpeg would read two of them into memory to find a frame."""
    path = tmp_path / f"sparse.{suffix}"
    with path.open("wb") as file:
        file.truncate(2 << 30)
    began = time.process_time()
    with pytest.raises(AudioError, match=r"sparse\.\w+ is not audio that can be read"):
        audio.read(path)
    assert time.process_time() - began < 1


def test_a_missing_file_and_a_folder_are_named_with_the_reason(tmp_path):
    missing = tmp_path / "nowhere.wav"
    assert sentence_of(missing, str(missing)).endswith("cannot be read: No such file or directory")
    assert sentence_of(tmp_path, str(tmp_path)).endswith("is a folder, not a recording")
    assert "null byte" in sentence_of(Path("a\0.wav"), "a\\x00.wav")


def test_a_file_without_samples_is_named(tmp_path):
    path = write(tmp_path / "silent.wav", np.zeros(0, np.float32), 16000)
    assert sentence_of(path, str(path)).endswith("holds no audio samples")
    with pytest.raises(AudioError, match=r"silent\.wav holds no audio samples"):
        audio.probe(path)


def test_an_offset_past_the_end_holds_no_samples(tmp_path, tone):
    path = write(tmp_path / "short.wav", tone(), 16000)
    with pytest.raises(AudioError, match=r"short\.wav holds no audio samples"):
        audio.read(path, offset=2.0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_numbers_are_refused(tmp_path, tone, value):
    samples = tone()
    samples[100] = value
    path = tmp_path / "nan.wav"
    soundfile.write(path, samples, 16000, subtype="FLOAT")
    assert sentence_of(path, str(path)).endswith("holds samples that are not numbers (NaN or infinity)")


@pytest.mark.parametrize("value", [1e11, -1e20, 3e38])
def test_samples_whose_resampling_or_spectrum_would_overflow_are_refused(tmp_path, tone, value):
    samples = tone()
    samples[100] = value
    path = tmp_path / "damaged.wav"
    soundfile.write(path, samples, 16000, subtype="FLOAT")
    for rate in (8000, 16000):
        with pytest.raises(AudioError, match=r"is damaged: it holds samples up to .e.*, where 1 is full scale"):
            list(audio.stream(path, sample_rate=rate))


def test_integers_of_32_bits_written_as_floats_are_heard(tmp_path, tone):
    soundfile.write(tmp_path / "a.wav", tone() * 2.0**31, 16000, subtype="FLOAT")
    assert np.isfinite(audio.read(tmp_path / "a.wav", sample_rate=8000).samples).all()


def test_a_video_without_sound_says_so(tmp_path):
    path = tmp_path / "mute.webm"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx", rate=10)
        stream.width = stream.height = 16
        frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert sentence_of(path, str(path)).endswith("holds no audio stream")


@pytest.mark.parametrize("as_bytes", [False, True])
@pytest.mark.parametrize(
    "playlist",
    [
        "ffconcat version 1.0\nfile secret.m4a\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nsecret.m4a\n#EXT-X-ENDLIST\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
    ],
    ids=["ffconcat", "hls", "sdp"],
)
def test_a_playlist_dressed_as_audio_reads_no_other_file(tmp_path, tone, monkeypatch, playlist, as_bytes):
    write(tmp_path / "secret.m4a", tone(), 16000)
    path = tmp_path / "clip.wav"
    path.write_text(playlist)
    monkeypatch.chdir(tmp_path)
    if as_bytes:
        sentence_of(path.read_bytes(), f"{len(playlist)} bytes of audio")
    else:
        sentence_of(path, str(path))


def test_without_pyav_an_mp3_says_what_to_install_and_a_flac_is_read(tmp_path, monkeypatch, tone):
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.delitem(sys.modules, "asr.audio.ffmpeg", raising=False)
    monkeypatch.delattr(audio, "ffmpeg", raising=False)
    for name in ("a.mp3", "a.flac"):
        soundfile.write(tmp_path / name, tone(0.5, 440, 16000), 16000)
    assert audio.read(tmp_path / "a.flac").duration == 0.5
    with pytest.raises(AudioError, match=r"a\.mp3 .* pip install av"):
        audio.read(tmp_path / "a.mp3")

"""Audio is decoded, not believed: to its true end, on the container's clock, whatever the header says."""

from __future__ import annotations

import contextlib
import io
import os
import time
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from containers import clip, encode

from asr import audio
from asr.audio import ffmpeg, sndfile
from asr.errors import AudioError

RATE = 16000


@pytest.fixture(scope="module")
def sound() -> np.ndarray:
    """A second, louder towards its end, so that every part of it is told from the others."""
    draw = np.random.default_rng(1)
    ramp = np.linspace(0.2, 1.0, RATE)
    return (ramp * (0.3 * np.sin(2 * np.pi * 300 * np.arange(RATE) / RATE) + draw.normal(0, 0.02, RATE))).astype("f")


def heard(content: audio.Recording) -> np.ndarray:
    return np.concatenate(list(audio.stream(content, sample_rate=RATE)))


def onset(samples: np.ndarray) -> float:
    """Where the silence before the sound ends, in seconds."""
    return float(np.argmax(np.abs(samples) > 0.03)) / RATE


# ----------------------------------------------------------------------------------------------------- true end


def without_its_length(mp3: bytes) -> bytes:
    """An MP3 as a pipe leaves it, without the frame that says how many there are."""
    [first, second] = [at for at in range(len(mp3) - 1) if mp3[at : at + 2] == mp3[:2]][:2]
    assert b"Info" in mp3[first:second] or b"Xing" in mp3[first:second]
    return mp3[second:]


@pytest.mark.parametrize("mode", ["CONSTANT", "AVERAGE", "VARIABLE"])
def test_an_mpeg_stream_without_a_length_is_read_to_its_end(sound, mode):
    """Quiet at first, so that an estimate from the first frames is far off."""
    file = io.BytesIO()
    quiet_then_loud = np.concatenate([sound * 0.01] * 3 + [sound] * 3)
    soundfile.write(file, quiet_then_loud, RATE, format="MP3", subtype="MPEG_LAYER_III", bitrate_mode=mode)
    content = without_its_length(file.getvalue())
    assert 6.0 <= audio.read(content).duration < 6.2
    assert 6.0 <= audio.probe(content).duration < 6.2


@pytest.mark.parametrize("container", ["mp3", "ogg", "opus", "ogg-flac", "aac", "mp2", "ac3", "ts", "ps", "webm"])
def test_joined_streams_are_read_to_the_end_of_the_last(sound, container):
    first, second = clip(container, sound), clip(container, sound[: RATE // 2])
    joined = audio.read(first + second)
    assert joined.duration == pytest.approx(1.5, abs=0.2)  # each brings its codec's delay and padding
    assert audio.probe(first + second).duration == pytest.approx(joined.duration, abs=0.03)


def test_what_is_lost_where_flac_files_are_joined_is_said(sound, caplog):
    content = clip("flac", sound)
    assert len(heard(content * 2)) > 1.5 * RATE
    assert "are lost and left as silence" in caplog.text


def test_a_long_recording_without_a_length_is_counted_by_its_packets(sound, monkeypatch):
    content = clip("ts", sound) + clip("ts", sound)
    decoded = audio.probe(content).duration
    monkeypatch.setattr(ffmpeg, "COUNTED_BYTES", 0)
    assert audio.probe(content).duration == pytest.approx(decoded, abs=0.1)


# ------------------------------------------------------------------------------------------- the container's clock


def recorded(form: str, codec: str, sound: np.ndarray, starts: list[float], *, video: str | None = None) -> bytes:
    """``sound`` at each of ``starts``, in seconds, beside a picture that is there from the beginning."""
    file = io.BytesIO()
    with av.open(file, "w", format=form) as out:
        if video:
            picture = out.add_stream(video, rate=5)
            picture.width = picture.height = 32
            picture.pix_fmt = "yuv420p"
        stream = out.add_stream(codec, rate=48000 if codec == "libopus" else RATE, layout="mono")
        packets = []
        if video:
            for number in range(5 * (int(starts[-1]) + 2)):
                frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
                frame.pts = number
                packets += picture.encode(frame)
            packets += picture.encode(None)
        size = stream.codec_context.frame_size or 1024
        rate = stream.rate
        samples = np.interp(np.arange(rate) / rate, np.arange(RATE) / RATE, sound).astype("f")
        size = 960 if codec == "libopus" else 1024
        for start in starts:
            for first in range(0, rate - size + 1, size):
                piece = samples[None, first : first + size]
                if codec == "libopus":
                    piece = (piece * 32767).astype(np.int16)
                form_of = "s16" if codec == "libopus" else "fltp"
                frame = av.AudioFrame.from_ndarray(piece, format=form_of, layout="mono")
                frame.sample_rate, frame.pts = rate, round(start * rate) + first
                packets += stream.encode(frame)
        packets += stream.encode(None)
        for packet in sorted(packets, key=lambda packet: float(packet.dts * packet.time_base)):
            out.mux(packet)
    return file.getvalue()


@pytest.mark.parametrize(("form", "codec"), [("matroska", "aac"), ("mp4", "aac"), ("mpegts", "aac"), ("flv", "aac")])
def test_a_track_that_starts_late_starts_with_silence(sound, form, codec):
    video = "flv" if form == "flv" else "mpeg4"
    content = recorded(form, codec, sound, [4.9], video=video)
    samples = audio.read(content, sample_rate=RATE).samples
    assert onset(samples) == pytest.approx(4.9, abs=0.1)
    assert len(samples) / RATE == pytest.approx(5.9, abs=0.15)
    np.testing.assert_array_equal(heard(content), samples)


def test_a_track_on_its_own_starts_at_once(sound):
    assert onset(heard(recorded("matroska", "aac", sound, [4.9]))) < 0.1


@pytest.mark.parametrize("codec", ["libopus", "aac"])
def test_a_pause_of_the_recorder_is_silence(sound, codec):
    samples = heard(recorded("matroska", codec, sound, [0.0, 5.0]))
    assert len(samples) / RATE == pytest.approx(6.0, abs=0.1)
    assert np.abs(samples[int(1.2 * RATE) : int(4.8 * RATE)]).max() < 0.01
    assert onset(samples[2 * RATE :]) == pytest.approx(3.0, abs=0.1)


def test_time_stamps_that_ask_for_years_are_not_believed(sound):
    samples = heard(recorded("matroska", "aac", sound, [0.0, 1e6]))
    assert len(samples) / RATE == pytest.approx(2.0, abs=0.1)


# -------------------------------------------------------------------------------------------------------- damage


HEADS = {"m4a": 0, "mkv": 8, "flac": 100}
"""Bytes of a packet that say what and how long it is."""


def damaged(content: bytes, container: str) -> bytes:
    """``content`` with three packets in its middle overwritten, but for their heads."""
    with av.open(io.BytesIO(content)) as source:
        packets = [(packet.pos, packet.size) for packet in source.demux(source.streams.audio[0]) if packet.size]
    changed = bytearray(content)
    for at, size in packets[len(packets) // 2 :][:3]:
        first = at + HEADS[container]
        changed[first : at + size] = np.random.default_rng(0).bytes(at + size - first)
    return bytes(changed)


@pytest.mark.parametrize("container", ["m4a", "mkv", "flac"])
def test_a_damaged_packet_costs_itself_and_that_is_said(sound, container, caplog):
    content = damaged(clip(container, np.concatenate([sound] * 4)), container)
    samples = heard(content)
    assert len(samples) / RATE == pytest.approx(4.0, abs=0.15)
    assert "bytes of audio is damaged:" in caplog.text
    assert "s of it are lost and left as silence" in caplog.text
    whole = audio.read(clip(container, np.concatenate([sound] * 4)), sample_rate=RATE).samples
    np.testing.assert_allclose(samples[:RATE], whole[:RATE], atol=1e-3)
    np.testing.assert_allclose(samples[-RATE:], whole[-RATE:][: len(samples[-RATE:])], atol=1e-3)


def test_a_clip_that_lacks_more_than_a_phone_is_refused(sound):
    content = damaged(clip("m4a", np.concatenate([sound] * 4)), "m4a")
    with pytest.raises(AudioError, match=r"is damaged: 0\.\d+ s of it are lost"):
        audio.read(content)
    assert audio.read(content, duration=1.0).duration == 1.0  # what comes before the damage is whole


@pytest.mark.parametrize(
    "container",
    ["wav", "wavex", "w64", "rf64", "aiff", "au", "nist", "wav-ulaw", "m4a", "flac", "mp3", "wma", "avi", "flv"],
)
def test_a_file_shorter_than_its_header_is_named(sound, container, tmp_path, caplog):
    content = clip(container, np.concatenate([sound] * 4))
    if container == "m4a":  # its index comes last
        content = with_index_first(content, tmp_path / "first.m4a")
    content = content[: len(content) // 2]
    assert audio.probe(content).duration == pytest.approx(4.0, abs=0.1)
    with pytest.raises(AudioError, match=r"is truncated: its header promises 4\.\d s, and [12]\.\d s are there"):
        audio.read(content)
    assert audio.read(content, duration=1.0).duration == pytest.approx(1.0, abs=0.001)
    assert len(heard(content)) / RATE == pytest.approx(2.0, abs=0.5)
    assert "is truncated: its header promises 4." in caplog.text


def test_of_two_tracks_the_shorter_is_whole_unless_the_file_is_cut(sound, caplog):
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as out:
        streams = [out.add_stream("aac", rate=RATE, layout="mono") for _ in range(2)]
        for stream, seconds in zip(streams, (3, 4), strict=True):
            encode(out, stream, np.concatenate([sound] * seconds), RATE)
    content = file.getvalue()
    assert audio.read(content).duration == pytest.approx(3.0, abs=0.1)
    assert not caplog.text
    with pytest.raises(AudioError, match=r"is truncated: its header promises 4\.\d s"):
        audio.read(content[: len(content) // 3])


def with_index_first(content: bytes, path: Path) -> bytes:
    options = {"movflags": "faststart"}
    with av.open(io.BytesIO(content)) as source, av.open(str(path), "w", format="ipod", options=options) as out:
        stream = out.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    return path.read_bytes()


# -------------------------------------------------------------------------------------- streams never closed


def with_size(content: bytes, size: int) -> bytes:
    """A WAV whose writer never came back to fill in its sizes."""
    at = content.index(b"data") + 4
    field = size.to_bytes(4, "little")
    return content[:4] + field + content[8:at] + field + content[at + 4 :]


def without_length(flac: bytes) -> bytes:
    """A FLAC whose first block says of the number of samples that it is not known."""
    return flac[:21] + bytes([flac[21] & 0xF0]) + bytes(4) + flac[26:]


@pytest.mark.parametrize(
    "unclosed",
    [
        *(lambda wav, _, size=size: with_size(wav, size) for size in (0, 0xFFFFFFFF, 0x7FFFFFFF, 0xFFFFFFFF - 36)),
        lambda _, flac: without_length(flac),
    ],
    ids=["wav-0", "wav-ffffffff", "wav-7fffffff", "wav-ffffffdb", "flac"],
)
def test_a_stream_that_was_never_closed_is_read_in_every_way(sound, unclosed):
    content = unclosed(clip("wav", sound), clip("flac", sound))
    whole = audio.read(clip("wav", sound)).samples
    np.testing.assert_allclose(audio.read(content).samples, whole, atol=1e-4)
    np.testing.assert_allclose(heard(content), whole, atol=1e-4)
    np.testing.assert_allclose(audio.read(content, offset=0.5, duration=0.25).samples, whole[8000:12000], atol=1e-4)
    assert audio.probe(content) == audio.AudioInfo(samples=RATE, sample_rate=RATE, channels=1)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0xFFFFFFFF - 24])
@pytest.mark.parametrize("order", ["BIG", "LITTLE"])
def test_an_au_stream_that_was_never_closed_is_read_in_every_way(sound, size, order):
    file = io.BytesIO()
    soundfile.write(file, sound, RATE, format="AU", subtype="PCM_16", endian=order)
    closed = file.getvalue()
    assert_read_in_every_way(closed[:8] + size.to_bytes(4, order.lower()) + closed[12:], closed)


@pytest.mark.parametrize("samples", [0, RATE, 2**64 - 1])
@pytest.mark.parametrize("size", [0, 2**64 - 1, 2**63 - 1])
def test_an_rf64_whose_sizes_were_never_filled_in_is_read_in_every_way(sound, size, samples):
    closed = clip("rf64", sound)
    sizes = size.to_bytes(8, "little") * 2 + samples.to_bytes(8, "little")
    assert_read_in_every_way(closed[:20] + sizes + closed[44:], closed)


def assert_read_in_every_way(content: bytes, closed: bytes) -> None:
    whole = audio.read(closed).samples
    np.testing.assert_array_equal(audio.read(content).samples, whole)
    np.testing.assert_array_equal(heard(content), whole)
    np.testing.assert_array_equal(audio.read(content, offset=0.5, duration=0.25).samples, whole[8000:12000])
    for measure in (audio.probe, audio.outline):
        assert measure(content) == audio.AudioInfo(samples=RATE, sample_rate=RATE, channels=1)


def id3(size: int, *, footer: bool = False) -> bytes:
    """An ID3v2 tag of ``size`` bytes and its head."""
    length = bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))
    head = b"\x04\0" + (b"\x10" if footer else b"\0") + length
    return b"ID3" + head + b"TIT2" + bytes(size - 4) + (b"3DI" + head if footer else b"")


@pytest.mark.parametrize("container", ["wav", "rf64", "aiff", "au", "flac", "ogg", "opus", "mp3", "aac", "m4a", "wv"])
def test_what_a_tag_stands_before_is_read_as_without_it(sound, container, tmp_path):
    content = clip(container, sound)
    path = tmp_path / "tagged"
    path.write_bytes(id3(300, footer=True) + id3(100) + content)
    member = audio.Member(file=path, name="x", start=320, size=path.stat().st_size - 320)
    for tagged in (path, path.read_bytes(), member):
        np.testing.assert_array_equal(audio.read(tagged).samples, audio.read(content).samples)
        np.testing.assert_array_equal(heard(tagged), heard(content))
        assert audio.probe(tagged) == audio.probe(content)


def test_a_tagged_file_shorter_than_its_header_is_named(sound):
    content = clip("wav", sound)
    with pytest.raises(AudioError, match=r"is truncated: its header promises 1\.0 s, and 0\.5 s are there"):
        audio.read(id3(300) + content[: len(content) // 2])


def test_a_tag_with_nothing_behind_it_holds_no_audio():
    for content in (id3(100), id3(100)[:50]):
        with pytest.raises(AudioError, match="is not audio that can be read"):
            audio.read(content)


# ------------------------------------------------------------------------------------------------- Ogg that is cut


@pytest.fixture(scope="module", params=["ogg", "opus", "ogg-flac"])
def pages(request, sound) -> tuple[bytes, int]:
    """Two seconds in one of the codecs of Ogg, and where its last page begins."""
    content = clip(request.param, np.concatenate([sound] * 2))
    return content, content.rindex(b"OggS")


@pytest.mark.parametrize("left", [2, 12, 20, 100])
def test_an_ogg_file_that_breaks_off_within_a_page_is_named(pages, left, caplog):
    content, last = pages
    whole = audio.probe(content).duration
    assert_cut_off(content[: last + left], whole, 0.05 if left > 14 else 1.0, caplog)


def test_joined_ogg_files_of_which_the_last_breaks_off_are_named(pages, caplog):
    content, last = pages
    assert_cut_off(content + content[: last + 100], audio.probe(content * 2).duration, 1.1, caplog)


def assert_cut_off(content: bytes, whole: float, tolerance: float, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(AudioError, match=r"is truncated: its header promises \d\.\d s, and \d\.\d s are there"):
        audio.read(content)
    assert audio.probe(content).duration == pytest.approx(whole, abs=tolerance)
    assert "is truncated" in warning_of(content, caplog)
    assert whole - 2.1 < len(heard(content)) / RATE < whole - 0.1


def test_an_ogg_file_that_ends_with_a_whole_page_or_another_tag_is_not_named(pages, caplog):
    content, last = pages
    for whole in (content, content[:last], content + b"TAG" + bytes(125)):
        assert not warning_of(whole, caplog)
        audio.read(whole)


def warning_of(content: bytes, caplog: pytest.LogCaptureFixture) -> str:
    caplog.clear()
    heard(content)
    return str(caplog.text)


# ------------------------------------------------------------------------------------------------------- in part


@pytest.fixture(scope="module")
def minutes(sound) -> np.ndarray:
    return np.concatenate([sound * scale for scale in np.linspace(0.5, 1.0, 38)]).astype("f")


@pytest.mark.parametrize("container", ["m4a", "mkv", "mp3", "aac", "ogg", "opus", "flac", "wav"])
def test_a_part_of_a_long_recording_is_that_part_of_the_whole(minutes, container):
    content = clip(container, minutes)
    whole = heard(content)
    part = audio.read(content, sample_rate=RATE, offset=35.5, duration=1.0).samples
    assert len(part) == RATE
    np.testing.assert_allclose(part[1000:-1000], whole[int(35.5 * RATE) :][1000 : RATE - 1000], atol=2e-3)
    with pytest.raises(AudioError, match="holds no audio samples"):
        audio.read(content, offset=70.0, duration=1.0)


@pytest.mark.parametrize("container", ["m4a", "mkv", "mp3", "aac"])
def test_what_lies_before_a_part_is_not_decoded(minutes, container, monkeypatch):
    content, decoded = clip(container, minutes), 0
    convert = ffmpeg._as_floats

    def counted(frame):
        nonlocal decoded
        decoded += frame.samples
        return convert(frame)

    monkeypatch.setattr(ffmpeg, "_as_floats", counted)
    audio.read(content, offset=36.0, duration=1.0)
    assert decoded < 8 * RATE  # Matroska is entered every five seconds


def test_a_file_is_searched_once_for_a_second_stream(sound, tmp_path, monkeypatch):
    searches = []
    search = sndfile._begins_again
    monkeypatch.setattr(sndfile, "_begins_again", lambda *given: searches.append(given) or search(*given))
    path = tmp_path / "long.ogg"
    path.write_bytes(clip("ogg", sound))
    for offset in (0.0, 0.2, 0.4):
        audio.read(path, offset=offset, duration=0.1)
    assert len(searches) == 1
    path.write_bytes(path.read_bytes() * 2)
    assert audio.read(path).duration == pytest.approx(2.0, abs=0.1)


# ------------------------------------------------------------------------------------------------------ one door


@pytest.mark.parametrize("rate", [1, 999, 768_001, 32_000_001, 2**31 - 1])
def test_a_rate_that_no_recording_has_is_refused(sound, rate):
    wav = clip("wav", sound)
    content = wav[:24] + rate.to_bytes(4, "little") + wav[28:]
    for reading in (audio.read, audio.probe, audio.outline, heard):
        with pytest.raises(AudioError, match=f"has a sample rate of {rate} Hz; expected 1000 to 768000 Hz"):
            reading(content)


@pytest.mark.parametrize("rate", [15_999, 16_001, 16_007, 44_099, 1_000, 768_000])
def test_a_rate_that_seldom_meets_ours_is_resampled_exactly(tone, rate):
    seconds = 2.0
    waveform = audio.prepare(audio.Waveform(samples=tone(seconds, 440, rate), sample_rate=rate), RATE)
    assert len(waveform.samples) == pytest.approx(seconds * RATE, abs=RATE / rate + 1)
    spectrum = np.abs(np.fft.rfft(waveform.samples * np.hanning(len(waveform.samples))))
    assert spectrum.argmax() / seconds == pytest.approx(440, abs=0.6)


@pytest.mark.parametrize("change", ["layout", "rate"])
def test_what_changes_on_the_way_changes_nothing_for_the_rest(sound, change):
    file = io.BytesIO()
    with av.open(file, "w", format="mpegts") as out:
        layout, rate = ("stereo", RATE) if change == "layout" else ("mono", 48000)
        encode(out, out.add_stream("aac", rate=rate, layout=layout), sound, RATE)
    for content in (clip("ts", sound) + file.getvalue(), file.getvalue() + clip("ts", sound)):
        waveform = audio.read(content, sample_rate=RATE)
        assert waveform.duration == pytest.approx(2.1, abs=0.2)
        levels = [np.abs(part).mean() for part in (waveform.samples[:RATE], waveform.samples[-RATE:])]
        assert levels[0] == pytest.approx(levels[1], rel=0.5)


@pytest.mark.parametrize("name", [b"caf\xe9.wav", b"2024-05-01T10:30:00.m4a", b"concat:a|b.wav", b"-.wav", b"a\nb.wav"])
def test_any_name_is_a_file(sound, tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path(os.fsdecode(name))
    path.write_bytes(clip("m4a" if name.endswith(b"m4a") else "wav", sound))
    assert audio.read(path).duration == pytest.approx(1.0, abs=0.1)
    path.write_bytes(b"no audio")
    with pytest.raises(AudioError) as caught:
        audio.read(path)
    assert str(caught.value).isprintable()
    str(caught.value).encode()


def test_gigabytes_of_nothing_after_a_header_are_refused_at_once(sound, tmp_path):
    path = tmp_path / "sparse.wav"
    path.write_bytes(clip("wav", sound)[:36])
    os.truncate(path, 2 << 30)
    began = time.process_time()
    with pytest.raises(AudioError, match="none of its first 1000 chunks holds the sound"):
        audio.read(path)
    assert time.process_time() - began < 2


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    began = time.monotonic()
    for path in (tmp_path / "pipe.wav", Path("/dev/zero")):
        with pytest.raises(AudioError, match="is not a file but a pipe or a device"):
            audio.read(path)
    with pytest.raises(AudioError, match="File name too long"):
        audio.read(tmp_path / ("a" * 300 + ".wav"))
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("error", [RuntimeError("odd"), AttributeError("'NoneType'"), KeyError(3), MemoryError()])
@pytest.mark.parametrize("where", ["soundfile.SoundFile.read", "av.open"])
def test_whatever_a_decoder_raises_is_an_audio_error(sound, monkeypatch, error, where):
    def fails(*_given, **_named):
        raise error

    monkeypatch.setattr(where, fails)
    content = clip("wav", sound) if where.startswith("soundfile") else without_length(clip("flac", sound))
    for reading in (audio.read, heard):
        with pytest.raises(AudioError, match="bytes of audio cannot be read:"):
            reading(content)


def test_no_library_says_anything_of_its_own(sound, capfd):
    mp3 = clip("mp3", sound)
    aiff = bytearray(clip("aiff", sound))
    aiff[16:20] = b"\xff\xff\xff\xf0"  # a chunk that ends before it begins
    alac = bytearray(clip("caf-alac", sound))
    sizes = alac.index(b"pakt") + 36
    alac[sizes : sizes + 8] = b"\xff" * 8
    for content in (
        bytes(alac),
        mp3 * 2,
        mp3[: len(mp3) // 2],
        b"ID3\x04\0\0\0\0\0\x0a" + bytes(10) + mp3,
        bytes(aiff),
    ):
        for reading in (audio.probe, audio.read, heard):
            with contextlib.suppress(AudioError):
                reading(content)
    assert capfd.readouterr() == ("", "")


# ------------------------------------------------------------------------------------------------------ channels


@pytest.mark.parametrize(("codec", "layout", "channels"), [("aac", "7.1", 8), ("wavpack", "hexadecagonal", 16)])
def test_more_channels_than_pyav_can_tell_apart_are_read(sound, codec, layout, channels):
    """Of eight planes and more it reads one too many, from anywhere in memory."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as out:
        stream = out.add_stream(codec, rate=RATE, layout=layout)
        planes = np.repeat(sound[None], channels, axis=0)
        frame = av.AudioFrame.from_ndarray(planes.T.reshape(1, -1), format="flt", layout=layout)
        frame.sample_rate, frame.pts = RATE, 0
        wanted = stream.codec_context.format, layout, RATE
        for ready in av.AudioResampler(*wanted, frame_size=1024).resample(frame):
            out.mux(stream.encode(ready))
        out.mux(stream.encode(None))
    found, rate = audio.read_channels(file.getvalue())
    assert (len(found), rate) == (channels, RATE)
    assert np.abs(found[0, 1024:15000]).mean() == pytest.approx(np.abs(sound[1024:15000]).mean(), rel=0.1)


def test_channels_that_cancel_each_other_out_are_named_and_the_better_is_read(sound, caplog):
    file = io.BytesIO()
    soundfile.write(file, np.stack([sound * 0.9, -sound], axis=1), RATE, format="WAV", subtype="FLOAT")
    np.testing.assert_array_equal(audio.read(file.getvalue()).samples, -sound)
    np.testing.assert_array_equal(heard(file.getvalue()), -sound)
    assert "cancel each other out: channel 2 is read" in caplog.text


@pytest.mark.parametrize("silence", [0, 70])
def test_channels_that_differ_are_mixed(sound, silence, caplog):
    pause = np.zeros(silence * RATE, "f")
    sides = [np.concatenate([pause, sound]), np.concatenate([pause, np.roll(sound, 1000)])]
    file = io.BytesIO()
    soundfile.write(file, np.stack(sides, axis=1), RATE, format="WAV", subtype="FLOAT")
    np.testing.assert_allclose(heard(file.getvalue()), (sides[0] + sides[1]) / 2, atol=1e-6)
    assert not caplog.text


@pytest.mark.parametrize("shape", [(2, 100), (100, 2), (1, 100), (100, 1)])
def test_an_array_is_given_either_way_round(shape):
    array = np.arange(200, dtype="f").reshape(2, 100)[: min(shape)]
    given = array if shape[0] < shape[1] else array.T
    np.testing.assert_array_equal(audio.as_floats(given), array)


# ------------------------------------------------------------------------------------------- reports from outside

FAULTS = {  # file: seconds, or what is said of it
    "mp3-silently-cut/an406-fcaw-b.mp3": 4.1,
    "mp3-silently-cut/joined.mp3": 5.94,
    "mp3-silently-cut/joined.ogg": 5.78,
    "mp3-silently-cut/joined.opus": 5.76,
    "mp3-no-xing-refused/soxcbr.mp3": 35.34,
    "mp3-no-xing-refused/ffmpeg-piped.mp3": 2.34,
    "subtitles-early/late.mkv": 7.14,
    "layout-change-traceback/change.ts": 5.82,
    "fuzz-ac3-channels-change/x.ac3": 0.8,
    "fuzz-ts-no-streams/x.ts": 0.79,
    "fuzz-wav-16001Hz-like/x.wav": 0.8,
    "streamed-flac-training/streamed.flac": 2.23,
    "fuzz-flac-streamed-no-length/x.flac": 0.8,
    "wav-size-zero/size0.wav": 2.23,
    "corrupt-frame/corrupt.m4a": 3.58,
    "corrupt-frame/cutdata.m4a": 1.47,
    "truncated-wav-unsaid/trunc.wav": 2.23,
    "inverted-stereo/inverted.wav": 2.23,
    "fuzz-wav-unknown-codec/x.wav": "is not audio that can be read",
    "fuzz-wav-32MHz/x.wav": "has a sample rate of 32000001 Hz",
    "fuzz-wav-1Hz/x.wav": "has a sample rate of 1 Hz",
    "fuzz-stdin-seek-traceback/x.bin": "holds no audio samples",
}
SAID = {
    "corrupt-frame/corrupt.m4a": "is damaged: 0.38 s of it are lost and left as silence",
    "corrupt-frame/cutdata.m4a": "is truncated: its header promises 3.5 s, and 1.5 s are there",
    "truncated-wav-unsaid/trunc.wav": "is truncated: its header promises 6.7 s, and 2.2 s are there",
    "inverted-stereo/inverted.wav": "cancel each other out",
    "mp3-silently-cut/joined.mp3": "is damaged: 0.04 s of it are lost",
}


@pytest.mark.parametrize("file", FAULTS)
def test_a_recording_that_others_reported_is_read_or_refused(file, caplog):
    path = Path(__file__).parents[2] / "shared" / "faults" / file
    if not path.is_file():
        pytest.skip(f"needs {path}, which is not there")
    for recording in (path, path.read_bytes()):
        if isinstance(FAULTS[file], str):
            with pytest.raises(AudioError, match=FAULTS[file]):
                heard(recording)
        else:
            assert len(heard(recording)) / RATE == pytest.approx(FAULTS[file], abs=0.01)
    assert SAID.get(file, "") in caplog.text
    assert bool(caplog.text) == (file in SAID)

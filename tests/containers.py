"""Small clips in every container that can be written here, and what may befall a file on its way."""

from __future__ import annotations

import io
from collections.abc import Callable

import av
import numpy as np
import soundfile

RATE = 16000
_SOUNDFILE = {  # name: (format, subtype)
    "wav": ("WAV", "PCM_16"),
    "wav-float": ("WAV", "FLOAT"),
    "wav-ulaw": ("WAV", "ULAW"),
    "wav-adpcm": ("WAV", "IMA_ADPCM"),
    "wav-gsm": ("WAV", "GSM610"),
    "wavex": ("WAVEX", "PCM_24"),
    "rf64": ("RF64", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "caf-alac": ("CAF", "ALAC_16"),
    "nist": ("NIST", "PCM_16"),
    "voc": ("VOC", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
_PYAV = {  # name: (container, codec)
    "m4a": ("ipod", "aac"),
    "mov-pcm": ("mov", "pcm_s16le"),
    "mkv": ("matroska", "aac"),
    "webm": ("webm", "libopus"),
    "ts": ("mpegts", "aac"),
    "ps": ("mpeg", "mp2"),
    "aac": ("adts", "aac"),
    "ac3": ("ac3", "ac3"),
    "eac3": ("eac3", "eac3"),
    "avi": ("avi", "pcm_s16le"),
    "flv": ("flv", "aac"),
    "wma": ("asf", "wmav2"),
    "wv": ("wv", "wavpack"),
    "tta": ("tta", "tta"),
    "mp2": ("mp2", "mp2"),
    "ogg-flac": ("ogg", "flac"),
    "fmp4": ("mp4", "aac"),
}
CONTAINERS = [*_SOUNDFILE, *_PYAV]


def clip(container: str, samples: np.ndarray, rate: int = RATE) -> bytes:
    """``samples`` (S,) float32 as a file."""
    file = io.BytesIO()
    if container in _SOUNDFILE:
        form, subtype = _SOUNDFILE[container]
        soundfile.write(file, samples, rate, format=form, subtype=subtype)
        return file.getvalue()
    form, codec = _PYAV[container]
    options = {"movflags": "frag_every_frame+empty_moov"} if container == "fmp4" else {}
    with av.open(file, "w", format=form, options=options) as out:
        stream = out.add_stream(codec, rate=_rate(codec, rate), layout="mono")
        stream.bit_rate = 64000  # WMA has no bit rate of its own choice
        encode(out, stream, samples, rate)
    return file.getvalue()


def _rate(codec: str, rate: int) -> int:
    return 48000 if codec in ("libopus", "ac3", "eac3") else rate


def encode(out: av.container.OutputContainer, stream: av.AudioStream, samples: np.ndarray, rate: int) -> None:
    """The whole of one track."""
    frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
    frame.sample_rate, frame.pts = rate, 0
    wanted = stream.codec_context.format, "mono", stream.rate
    resampler = av.AudioResampler(*wanted, frame_size=stream.codec_context.frame_size or 1024)
    for ready in [*resampler.resample(frame), *resampler.resample(None)]:
        out.mux(stream.encode(ready))
    out.mux(stream.encode(None))


def _flipped(content: bytearray, draw: np.random.Generator) -> None:
    for at in draw.integers(0, len(content), draw.integers(1, 17)):
        content[at] ^= 1 << int(draw.integers(8))


def _field_of_the_header(content: bytearray, draw: np.random.Generator) -> None:
    at = int(draw.integers(0, min(len(content), 256)))
    extremes = [b"\0" * 4, b"\xff" * 4, b"\xff\xff\xff\x7f", b"\x7f\xff\xff\xff", b"\0\0\0\x01", draw.bytes(4)]
    content[at : at + 4] = extremes[draw.integers(len(extremes))]


def _overwritten(content: bytearray, draw: np.random.Generator) -> None:
    first, length = int(draw.integers(0, len(content))), int(draw.integers(1, 400))
    content[first : first + length] = draw.bytes(length) if draw.random() < 0.5 else bytes(length)


def _cut_short(content: bytearray, draw: np.random.Generator) -> None:
    del content[int(draw.integers(1, len(content))) :]


def _a_stretch_missing(content: bytearray, draw: np.random.Generator) -> None:
    first = int(draw.integers(0, len(content)))
    del content[first : first + int(draw.integers(1, len(content) // 2))]


def _a_stretch_twice(content: bytearray, draw: np.random.Generator) -> None:
    first = int(draw.integers(0, len(content)))
    content[first:first] = content[first : first + int(draw.integers(1, len(content) // 2))]


def _foreign_bytes(content: bytearray, draw: np.random.Generator) -> None:
    at = int(draw.integers(0, len(content)))
    content[at:at] = draw.bytes(int(draw.integers(1, 400)))


def _joined_to_itself(content: bytearray, draw: np.random.Generator) -> None:
    content += content[: int(draw.integers(1, len(content) + 1))]


MISHAPS: list[Callable[[bytearray, np.random.Generator], None]] = [
    _flipped,
    _field_of_the_header,
    _overwritten,
    _cut_short,
    _a_stretch_missing,
    _a_stretch_twice,
    _foreign_bytes,
    _joined_to_itself,
]


def mutated(content: bytes, seed: int) -> bytes:
    """``content`` after one mishap in turn, and every third time another."""
    draw = np.random.default_rng(seed)
    changed = bytearray(content)
    MISHAPS[seed % len(MISHAPS)](changed, draw)
    if seed % 3 == 0 and len(changed) > 2:
        MISHAPS[draw.integers(len(MISHAPS))](changed, draw)
    return bytes(changed)

"""FFmpeg, through PyAV: MPEG, containers, joined streams, and what libsndfile gives up on.

A track is decoded to its true end, packet by packet, on the container's own clock: a track that starts late starts with
silence, a pause in the time stamps is silence, and so is a packet that cannot be decoded.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import re
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

import av
import numpy as np

from asr.audio.ogg import cut_off
from asr.audio.recording import MAX_SECONDS, Damage, check_rate, reason_of
from asr.audio.resample import Resampling
from asr.errors import AudioError

_CONTAINERS = "aac,ac3,aiff,amr,ape,asf,au,avi,caf,eac3,flac,flv,matroska,mov,mp3,mpeg,mpegts,ogg,tta,w64,wav,wv"
"""What FFmpeg may take a recording for: formats that hold audio. Its playlists (concat, hls, dash) hold the names of
other files and hosts, which whoever hands over a recording must not be able to have opened."""
_HEAD_BYTES = 65536
_XING = re.compile(rb"\xff[\xe0-\xff]..(?:..)?\0{9,32}(?:Xing|Info)\0\0\0[\x02\x03\x06\x07\x0a\x0b\x0e\x0f]", re.DOTALL)
"""The first frame of an MP3 whose encoder says how many bytes there are of it."""
_TAG_BYTES = 256
"""A tag behind an MP3's last frame (ID3v1 has 128 bytes) is shorter, and another MP3 is longer."""
_STATED = {
    "asf": (
        re.compile(rb"\xa1\xdc\xab\x8c\x47\xa9\xcf\x11\x8e\xe4\0\xc0\x0c\x20\x53\x65.{48}(.{24})", re.DOTALL),
        "<QQQ",
    ),
    "flv": (re.compile(rb"\0\x08duration\0(.{8})", re.DOTALL), ">d"),
}
"""Where headers state a length that FFmpeg corrects by the size of a file that was cut short: ASF's file properties
(the time to play and to send in units of 100 ns, and in ms how much of it is waited for the first packet), and the
metadata of FLV (seconds)."""
_SEGMENT = re.compile(rb"\x18\x53\x80\x67\x01(.{7})", re.DOTALL)
"""Of Matroska, all that comes after the header, and the bytes there are of it."""

JITTER_SECONDS = 0.1
"""Time stamps may be off by so much: Matroska rounds them, Vorbis's blocks differ in length, clocks drift."""
ROUNDING_SECONDS = 0.001
"""And so much where a packet is known to be missing before them."""
JOIN_SECONDS = 10.0
"""Of a leap, in a format whose clock may start anew (MPEG transport streams, Ogg): there another recording begins."""
LONGEST_SILENCE = 3600.0
"""Seconds of silence in all that time stamps can ask for: damaged ones ask for years."""
SILENCE_BLOCK = 60.0
"""Seconds of silence in one block."""
SEEK_SECONDS = 30.0
"""Decoding that much takes little longer than seeking, and is exact where time stamps are rounded."""
PREROLL_SECONDS = 1.0
"""Decoded before the place sought and thrown away: until then a codec's output depends on where it began."""
COUNTED_BYTES = 1 << 20
"""Of a file up to which it is decoded to know its length to the sample. Of a longer one the header's word is taken, or
else the time of the last packet, both wrong by the codec's delay at most."""
_INDEXED = {"mov", "matroska"}
"""Containers in which a moment can be sought. In others FFmpeg guesses from the bit rate where it is."""
_COUNTED = {"aac", "ac3", "eac3", "mp3"}
"""Containers whose clock is the count of the packets so far: those before the moment sought need no decoding."""
_TIME_STAMPED = {"mov", "matroska", "mpegts", "mpeg", "asf", "avi", "flv"}
"""Containers in which a pause may be meant. In the others, what is missing from the clock is lost."""
PLANES = 8
"""Channels from which on PyAV must not be asked for planar samples: it looks for the null pointer that ends FFmpeg's
list of planes, which a list of eight or more does not have, and reads whatever memory comes next."""
_STARTS_ANEW = 0x200
"""FFmpeg's flag of formats whose clock may (AVFMT_TS_DISCONT)."""
_COVER = 0x400
"""FFmpeg's flag of a picture that is no video (AV_DISPOSITION_ATTACHED_PIC)."""


@contextlib.contextmanager
def opened_track(
    file: BinaryIO, name: str, number: int = 1, *, cause: Exception | None = None, damage: Damage | None = None
) -> Iterator[Track]:
    """The ``number``-th audio track. ``cause`` is why libsndfile could not read the file, which says more than FFmpeg;
    ``damage`` is told of what is missing.

    Raises AudioError for what is no audio, and for a track that is not there.
    """
    try:
        file.seek(0)
        head = file.read(_HEAD_BYTES)
        if not head.strip(b"\0"):  # left so by a crash: FFmpeg would hold gigabytes of it in search of a frame
            raise AudioError(f"{name} is not audio that can be read: it begins with zero bytes alone")
        mpeg = _is_whole_mpeg(file, head)
        lost = cut_off(file)
        file.seek(0)
        container = av.open(file, options={"format_whitelist": _CONTAINERS})
    except (av.FFmpegError, ValueError, OSError) as error:
        raise AudioError(f"{name} is not audio that can be read: {reason_of(cause or error)}") from error
    with container:
        tracks = container.streams.audio
        if not tracks:
            raise AudioError(f"{name} holds no audio stream")
        if not 1 <= number <= len(tracks):
            raise AudioError(f"{name} has no audio track {number}: it has {len(tracks)}")
        if tracks[number - 1].codec_context is None:
            reason = reason_of(cause) if cause else "nothing here decodes its codec"
            raise AudioError(f"{name} is not audio that can be read: {reason}")
        track = Track(container, tracks[number - 1], name, head, Damage() if damage is None else damage, counts=mpeg)
        track.cut_off = lost.seconds(track.sample_rate)
        yield track


def _is_whole_mpeg(file: BinaryIO, head: bytes) -> bool:
    """Whether an MP3's encoder says how long it is, and says it of the whole file rather than the first of several."""
    xing = _XING.search(head)
    if not xing:
        return False
    at = xing.end() + (4 if head[xing.end() - 1] & 1 else 0)
    stated, there = int.from_bytes(head[at : at + 4], "big"), file.seek(0, os.SEEK_END) - xing.start()
    return stated >= there - _TAG_BYTES


def _stated(head: bytes, form: str) -> float:
    """The seconds that an ASF or FLV file's first bytes state; 0 for none."""
    pattern, layout = _STATED.get(form, (re.compile(rb"(?!)"), ""))
    if not (found := pattern.search(head)):
        return 0.0
    numbers = struct.unpack(layout, found[1])
    return numbers[0] / 1e7 - numbers[2] / 1e3 if form == "asf" else float(numbers[0])


def _is_cut(head: bytes, size: int) -> bool:
    """Whether a Matroska file of ``size`` bytes should have more; one whose writer does not know says so by ones."""
    segment = _SEGMENT.search(head)
    return segment is not None and size < segment.end() + int.from_bytes(segment[1], "big") < 2**55


class Track:
    """One audio track of an open container: ``sample_rate`` in Hz and ``channels`` are those of its first frame."""

    def __init__(self, container: Any, stream: Any, name: str, head: bytes, damage: Damage, *, counts: bool) -> None:
        """Decodes the first frame. The file begins with ``head``. ``damage`` is told of what is missing, until the last
        block has been read; ``counts`` says that an MP3's own length is exact. Raises AudioError."""
        self.name, self.damage = name, damage
        self._container, self._stream = container, stream
        self._format: str = container.format.name.split(",")[0]
        self._tick = float(stream.time_base)
        self._counts = counts
        self.cut_off = 0.0
        """Seconds of its last page that the file lacks."""
        self._broke = False
        """Whether a packet was lost since the last frame."""
        self._reached = 0.0
        """Where the last packet ends, in seconds of the container's clock."""
        self._silence = 0.0
        """Seconds of it that time stamps have asked for."""
        self._frames = self._decoded()
        first = next(self._frames, None)
        if first is None and self.damage:
            raise AudioError(f"{name} is not audio that can be read: {self.damage.reason or 'every packet is damaged'}")
        if first is None:
            raise AudioError(f"{name} holds no audio samples")
        self._frames = itertools.chain([first], self._frames)
        self.sample_rate: int = first.sample_rate
        self.channels: int = len(first.layout.channels)
        check_rate(self.sample_rate, name)
        self._origin = self._beginning(first)
        self._promised = self._promise(head)

    @property
    def estimate(self) -> float:
        """What the container says of its length, in seconds; 0 where it says nothing."""
        seconds = (self._container.duration or 0) / av.time_base
        return seconds if 0 < seconds < MAX_SECONDS else 0.0

    def length(self) -> int:
        """The samples there should be, a channel: counted, or what the header promises where that is more."""
        promised = round((self._promised or 0.0) * self.sample_rate)
        if promised and self._format == "mp3":  # to the sample, by its encoder, for all of the file
            return promised
        if (self._container.size or 0) <= COUNTED_BYTES:
            counted = sum(block.shape[1] for block in self.blocks()) + round(self.cut_off * self.sample_rate)
            return promised if promised - counted > JITTER_SECONDS * self.sample_rate else counted
        if promised and self._format != "flac":  # which may be several, joined, of which the first one speaks
            return promised
        return round(self._length_of_packets() * self.sample_rate)

    def _length_of_packets(self) -> float:
        """In seconds, without decoding what comes after the first frame."""
        end = self._reached
        length = end - (self._origin or 0.0)
        for packet in self._packets():
            if packet.pts is not None:
                leap = self._seconds(packet.pts) - end
                length += leap if leap >= -JITTER_SECONDS and self._believes(leap, length) else 0.0
                length += self._seconds(packet.duration or 0)
                end = self._reached
        return max(0.0, length)

    def read_as(self, sample_rate: int, channels: int) -> None:
        """``blocks`` come at this rate, with so many channels."""
        self.sample_rate, self.channels = sample_rate, channels

    def blocks(self, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """(channels, S) float32 at ``sample_rate`` Hz, from sample ``start`` up to ``stop``."""
        rate = self.sample_rate
        conversion = _Conversion(rate, self.channels)
        position = self._seek(start / rate, rate)
        for frame in itertools.chain(self._frames, [None]):
            silence = 0 if frame is None else self._silence_before(frame, position, rate)
            for piece in itertools.chain(self._silent(silence), conversion(frame)):
                wanted = piece
                if position < start or (stop is not None and position + piece.shape[1] > stop):
                    wanted = piece[:, max(0, start - position) : None if stop is None else max(0, stop - position)]
                position += piece.shape[1]
                if wanted.shape[1]:
                    yield wanted
            if stop is not None and position >= stop:
                break
            if position > MAX_SECONDS * rate:
                raise AudioError(f"{self.name} lasts longer than a day")
        if stop is None or position < stop:
            self._close(position / rate, None if stop is None else stop / rate)

    def _seconds(self, ticks: int) -> float:
        return ticks * self._tick

    def _decoded(self, after: float = -math.inf) -> Iterator[Any]:
        """The frames of packets that end ``after`` a moment of the container's clock. One that cannot be decoded costs
        itself and no more."""
        for packet in itertools.chain(self._packets(), [None]):
            if packet is not None and self._reached < after:
                continue
            try:
                yield from self._stream.codec_context.decode(packet)
            except av.FFmpegError:
                self.damage.packets += 1
                self._broke = True

    def _packets(self) -> Iterator[Any]:
        try:
            for packet in self._container.demux(self._stream):
                if packet.size:  # the others are PyAV's sign of the end
                    if packet.pts is not None:
                        self._reached = self._seconds(packet.pts + (packet.duration or 0))
                    yield packet
        except IndexError:  # PyAV's sign of the end, of a track that appeared on the way
            pass
        except (av.FFmpegError, OSError) as error:
            self.damage.reason = reason_of(error)

    def _beginning(self, first: Any) -> float | None:
        """Where the recording begins on the container's clock, in seconds: with the first of its tracks."""
        if first.pts is None:
            return None
        own = self._seconds(first.pts)
        starts = [
            float(stream.start_time * stream.time_base)
            for stream in self._container.streams
            if stream.type in ("audio", "video") and stream.start_time is not None and not stream.disposition & _COVER
            if stream is not self._stream or self._broke
        ]
        return min([own, *starts])

    def _promise(self, head: bytes) -> float | None:
        """Where the recording should end, in seconds, if its header can be taken at its word."""
        stream, alone = self._stream, len(self._container.streams) == 1
        # A fragmented MP4 states a part.
        stated = {"mov": stream.frames > 0, "mp3": self._counts, "flac": True}
        seconds = 0.0
        if stated.get(self._format) and stream.duration is not None:
            seconds = self._seconds(stream.duration)
            if self._format == "mov" and stream.start_time is not None:
                seconds += self._seconds(stream.start_time) - (self._origin or 0.0)
        elif self._format == "avi":
            seconds = self._seconds(stream.frames)
        elif self._format == "matroska" and (alone or _is_cut(head, self._container.size or 0)):
            seconds = self.estimate
        elif alone:  # or else it is the longest track's
            seconds = _stated(head, self._format)
        return seconds if 0 < seconds < MAX_SECONDS else None

    def _silence_before(self, frame: Any, position: int, rate: int) -> int:
        """The samples that the clock says are missing between sample ``position`` and ``frame``."""
        broke, self._broke = self._broke, False
        if frame.pts is None:
            return 0
        now, time = position / rate, self._seconds(frame.pts)
        if self._origin is None:
            self._origin = time - now
        leap = time - self._origin - now
        if -JITTER_SECONDS <= leap <= (ROUNDING_SECONDS if broke else JITTER_SECONDS):
            return 0
        if leap < 0 or not self._believes(leap, now):  # recordings were joined: another clock counts
            leap = time if self._format not in _TIME_STAMPED and JITTER_SECONDS < time < JOIN_SECONDS else 0.0
            self._origin = time - now - leap
        self._silence += leap
        if broke or self._format not in _TIME_STAMPED:
            self.damage.lost += leap
        return round(leap * rate)

    def _silent(self, missing: int) -> Iterator[np.ndarray]:
        block = round(SILENCE_BLOCK * self.sample_rate)
        for start in range(0, missing, block):
            yield np.zeros((self.channels, min(missing - start, block)), np.float32)

    def _believes(self, leap: float, now: float) -> bool:
        """Whether the clock may have leapt forward by so many seconds, ``now`` seconds into the recording."""
        joined = now > 0 and leap > JOIN_SECONDS and self._container.format.flags & _STARTS_ANEW
        fits = not self.estimate or now + leap <= self.estimate + SEEK_SECONDS
        return not joined and fits and self._silence + leap <= LONGEST_SILENCE

    def _seek(self, seconds: float, rate: int) -> int:
        """Goes to a moment, or somewhat before it, and says where that is, in samples."""
        wanted = seconds - PREROLL_SECONDS
        if wanted < SEEK_SECONDS or self._origin is None:
            return 0
        if self._format in _COUNTED:
            return self._arrived(self._decoded(after=self._origin + wanted), rate)
        if self._format not in _INDEXED:
            return 0
        for moment in (wanted, 0.0):
            target = (self._origin + moment) / self._tick
            try:
                self._container.seek(math.floor(target), stream=self._stream)
            except av.FFmpegError:  # it has no index: what has been opened goes on from the beginning
                return 0
            position = self._arrived(self._decoded(), rate)
            if position <= seconds * rate:
                return position
        return 0

    def _arrived(self, frames: Iterator[Any], rate: int) -> int:
        """Goes on with these, and says where the first of them is."""
        first = next(frames, None)
        self._frames = frames if first is None else itertools.chain([first], frames)
        at = self._reached if first is None or first.pts is None else self._seconds(first.pts)
        return max(0, round((at - (self._origin or 0.0)) * rate))

    def _close(self, end: float, stop: float | None) -> None:
        """What is missing after the last frame, ``end`` seconds into the recording."""
        self.damage.end = end
        promised = self._promised or (end + self.cut_off if self.cut_off else 0.0)
        if min(promised, promised if stop is None else stop) - end > JITTER_SECONDS:
            self.damage.promised = promised
        elif self._origin is not None and (self._broke or self._format not in _TIME_STAMPED):
            missing = self._reached - self._origin - end
            if missing > JITTER_SECONDS and self._believes(missing, end):
                self.damage.lost += missing


class _Conversion:
    """Frames of any layout, rate and sample format as (channels, S) float32 of one rate and so many channels."""

    def __init__(self, rate: int, channels: int) -> None:
        self._rate, self._channels = rate, channels
        self._kind: tuple[int, int] | None = None
        self._resamplings: list[Resampling] = []

    def __call__(self, frame: Any | None) -> list[np.ndarray]:
        """What ``frame`` completes; None ends the last."""
        pieces = []
        kind = None if frame is None else (frame.sample_rate, len(frame.layout.channels))
        if kind != self._kind:
            pieces.append(self._at_rate(np.zeros((len(self._resamplings), 0), np.float32), last=True))
            rate, channels = kind or (self._rate, 0)
            self._resamplings = [Resampling(rate, self._rate) for _ in range(channels if rate != self._rate else 0)]
            self._kind = kind
        if frame is not None:
            pieces.append(self._at_rate(_as_floats(frame), last=False))
        return [self._mixed(piece) for piece in pieces if piece.size]

    def _at_rate(self, samples: np.ndarray, *, last: bool) -> np.ndarray:
        if not self._resamplings:
            return samples
        pairs = zip(self._resamplings, samples, strict=True)
        return np.stack([resampling.feed(channel, last=last) for resampling, channel in pairs])

    def _mixed(self, samples: np.ndarray) -> np.ndarray:
        """Of a layout that changes on the way, the channels' mean in each of the first layout's."""
        if len(samples) == self._channels:
            return samples
        return np.repeat(samples.mean(axis=0, keepdims=True), self._channels, axis=0)


def _as_floats(frame: Any) -> np.ndarray:
    """A frame's samples, (channels, S) float32 in [-1, 1]."""
    channels = len(frame.layout.channels)
    if frame.format.is_planar and channels >= PLANES:
        interleaved = av.AudioResampler(format=frame.format.packed).resample(frame)
        return np.concatenate([_as_floats(piece) for piece in interleaved], axis=1)
    samples: np.ndarray = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, channels).T
    if samples.dtype == np.float32:
        return samples
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128
    if samples.dtype.kind == "i":
        return samples.astype(np.float32) / -float(np.iinfo(samples.dtype).min)
    return samples.astype(np.float32)

"""A recording's samples: whole, in part, or block by block.

libsndfile decodes what it reads truly (WAV, FLAC, AIFF, Ogg), FFmpeg everything else, and what libsndfile gives up on
from where it gave up.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import BinaryIO

import numpy as np

from asr.audio import sndfile
from asr.audio.recording import AudioInfo, Damage, Recording, check_rate, describe, door, opened, reason_of
from asr.audio.resample import finite, prepare, resampled
from asr.errors import AudioError
from asr.records import Waveform

BLOCK_SECONDS = 60
"""Of ``stream``: long enough that most recordings are one block."""
TOLERATED_SECONDS = 0.1
"""A clip that belongs to a text may lack so much: less than a phone is long, and a packet or two."""
CANCELLED = 0.1
"""Of a channel's level: a mix below it is what is left of channels that cancel each other out."""
SILENT = 1e-4
"""The mean of a channel's magnitudes up to which there is nothing to compare."""

log = logging.getLogger(__name__)


def probe(recording: Recording) -> AudioInfo:
    """How long a recording should be: what its header states, where that is exact, and what is in it otherwise.

    Raises AudioError.
    """
    return _measured(recording, exactly=True)


def outline(recording: Recording, *, track: int = 1) -> AudioInfo:
    """What the header claims, at once: a container's own duration is an estimate, and 0 where it gives none; of streams
    that are joined it is the first's.

    Raises AudioError for what is no audio, and for a track that is not there.
    """
    return _measured(recording, exactly=False, track=track)


def read(
    recording: Recording,
    *,
    sample_rate: int | None = None,
    offset: float = 0.0,
    duration: float | None = None,
) -> Waveform:
    """A recording, or ``duration`` seconds of it from ``offset``, mixed to mono and resampled to ``sample_rate`` Hz.

    Raises AudioError for what is missing, empty, truncated, damaged or no audio at all.
    """
    channels, rate = read_channels(recording, offset=offset, duration=duration)
    name = describe(recording)
    waveform = Waveform(samples=mixed(channels, name), sample_rate=rate)
    return prepare(waveform, sample_rate or rate, name)


def read_channels(
    recording: Recording, *, offset: float = 0.0, duration: float | None = None
) -> tuple[np.ndarray, int]:
    """As ``read``, but every channel as it is: (channels, S) float32, and the sample rate in Hz."""
    name, damage = describe(recording), Damage()
    with door(name):
        blocks = list(_blocks(recording, damage, offset=offset, duration=duration))
        if damage.seconds > TOLERATED_SECONDS:
            raise AudioError(damage.sentence(name))
        if not blocks:
            raise AudioError(f"{name} holds no audio samples")
        return np.concatenate([samples for samples, _ in blocks], axis=1), blocks[0][1]


def stream(
    recording: Recording, *, sample_rate: int, channel: int | None = None, track: int = 1
) -> Iterator[np.ndarray]:
    """The samples of ``read``, (S,) float32 blocks of a minute or so, in memory that does not grow with the recording.

    They differ from those of ``read`` by the rounding of the resampler at most, and not at all where the recording fits
    in one block. ``channel`` is one of the recording's, counted from 1, in place of their mix; ``track`` is one of a
    container's audio tracks.

    A recording that is damaged or breaks off is read as far as it can be, and what is missing of it is logged as a
    warning. Raises AudioError, on the way too, for what cannot be read at all.
    """
    name, damage = describe(recording), Damage()
    with door(name):
        blocks = _gathered(_blocks(recording, damage, track=track))
        first = next(blocks, None)
        if first is None:
            raise AudioError(damage.sentence(name) if damage else f"{name} holds no audio samples")
        channels, rate = first
        if channel is not None and not 1 <= channel <= len(channels):
            raise AudioError(f"{name} has no channel {channel}: it has {len(channels)}")
        mix = _Mix(name)
        mono = (
            finite(mix(block) if channel is None else block[channel - 1], name)
            for block, _ in itertools.chain([first], blocks)
        )
        yield from resampled(mono, rate, sample_rate, name)
    if damage:
        log.warning(damage.sentence(name))


def mixed(channels: np.ndarray, name: str = "the audio") -> np.ndarray:
    """The mean (S,) of channels (channels, S), or the loudest of them where they cancel each other out, as when one
    side of a cable is wired the wrong way round. That is logged as a warning."""
    return _Mix(name)(channels)


class _Mix:
    """``mixed``, for a recording that comes in blocks: the first that is not silent decides."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._decided = False
        self._chosen: int | None = None

    def __call__(self, channels: np.ndarray) -> np.ndarray:
        if len(channels) == 1:
            mono: np.ndarray = channels[0]
            return mono
        mix: np.ndarray = channels.mean(axis=0)
        if not self._decided:
            levels = np.abs(channels).mean(axis=1)
            self._decided = bool(levels.max() > SILENT)
            if self._decided and np.abs(mix).mean() < CANCELLED * levels.max():
                self._chosen = int(levels.argmax())
                log.warning(f"the channels of {self._name} cancel each other out: channel {self._chosen + 1} is read")
        return mix if self._chosen is None else channels[self._chosen]


def _measured(recording: Recording, *, exactly: bool, track: int = 1) -> AudioInfo:
    name = describe(recording)
    with opened(recording) as file:
        cause: Exception | None = None
        if track == 1 and sndfile.reads(file, exactly=exactly):
            try:
                with sndfile.opened_sound(file) as sound:
                    check_rate(sound.sample_rate, name)
                    if sound.is_believable:
                        return AudioInfo(samples=sound.promised, sample_rate=sound.sample_rate, channels=sound.channels)
            except sndfile.errors() as error:
                cause = error
        with _ffmpeg(name).opened_track(file, name, track, cause=cause) as audible:
            samples = audible.length() if exactly else round(audible.estimate * audible.sample_rate)
            if exactly and samples == 0:
                raise AudioError(f"{name} holds no audio samples")
            return AudioInfo(samples=samples, sample_rate=audible.sample_rate, channels=audible.channels)


@dataclass(slots=True)
class _Part:
    """What is asked of a recording, in seconds, and how much of it has been found, in samples at ``rate`` Hz.

    ``there`` samples are in the file and ``promised`` by its header, as libsndfile reads it.
    """

    offset: float
    duration: float | None
    rate: int = 0
    channels: int = 0
    there: int = 0
    promised: int = 0
    found: int = 0

    @property
    def start(self) -> int:
        return round(self.offset * self.rate)

    @property
    def stop(self) -> int | None:
        return None if self.duration is None else self.start + round(self.duration * self.rate)

    @property
    def missing(self) -> int:
        """Samples that the header promises of this part and that have not been found."""
        end = self.promised if self.stop is None else min(self.stop, self.promised)
        return max(0, end - self.start - self.found)

    def count(self, blocks: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, int]]:
        for block in blocks:
            self.found += block.shape[1]
            yield block, self.rate


def _blocks(
    recording: Recording, damage: Damage, *, track: int = 1, offset: float = 0.0, duration: float | None = None
) -> Iterator[tuple[np.ndarray, int]]:
    """(channels, S) blocks as they are decoded, each with the sample rate in Hz. ``damage`` is told what is missing."""
    name = describe(recording)
    if not 0 <= offset < math.inf or (duration is not None and not 0 <= duration < math.inf):
        raise AudioError(f"a part of {name} begins at 0 s or later and lasts 0 s or more; found {offset}, {duration}")
    part = _Part(offset, duration)
    with opened(recording) as file:
        cause: Exception | None = None
        if track == 1 and sndfile.reads(file):
            try:
                with sndfile.opened_sound(file) as sound:
                    check_rate(sound.sample_rate, name)
                    if sound.is_believable:
                        part.rate, part.channels = sound.sample_rate, sound.channels
                        part.there, part.promised = sound.samples, sound.promised
                        yield from part.count(sound.blocks(part.start, part.stop, BLOCK_SECONDS * part.rate))
            except sndfile.errors() as error:
                cause = error
        if not part.rate or (cause and part.missing):
            yield from _rest(file, name, track, part, cause, damage)
    if part.missing > TOLERATED_SECONDS * part.rate and not damage.seconds:
        damage.end = min(part.start + part.found, part.there) / part.rate
        damage.promised = part.promised / part.rate


def _rest(
    file: BinaryIO, name: str, track: int, part: _Part, cause: Exception | None, damage: Damage
) -> Iterator[tuple[np.ndarray, int]]:
    """What libsndfile has left of a part, decoded by FFmpeg: all of it, or what comes after the damage ``cause``."""
    try:
        with _ffmpeg(name).opened_track(file, name, track, cause=cause, damage=damage) as audible:
            if part.rate:
                audible.read_as(part.rate, part.channels)
            else:
                part.rate = audible.sample_rate
            yield from part.count(audible.blocks(part.start + part.found, part.stop))
    except AudioError:
        if not part.found:
            raise
        damage.reason = reason_of(cause) if cause else ""
        damage.end = (part.start + part.found) / part.rate


def _ffmpeg(name: str) -> ModuleType:
    """``asr.audio.ffmpeg``, when it is needed: PyAV takes 0.15 s to import, and most recordings do without."""
    try:
        from asr.audio import ffmpeg
    except ModuleNotFoundError as error:
        if error.name != "av":
            raise
        raise AudioError(
            f"{name} is no whole WAV, FLAC, AIFF or Ogg file, and MP3, M4A, WebM and the like need PyAV: pip install av"
        ) from error
    return ffmpeg


def _gathered(blocks: Iterable[tuple[np.ndarray, int]]) -> Iterator[tuple[np.ndarray, int]]:
    """The same samples in blocks of ``BLOCK_SECONDS`` or a little more."""
    held: list[np.ndarray] = []
    length, rate = 0, 1
    for block, rate in blocks:
        held.append(block)
        length += block.shape[1]
        if length >= BLOCK_SECONDS * rate:
            yield np.concatenate(held, axis=1), rate
            held, length = [], 0
    if held:
        yield np.concatenate(held, axis=1), rate

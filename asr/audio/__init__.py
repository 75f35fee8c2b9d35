"""Reading audio: soundfile first (WAV, FLAC, OGG, Opus, MP3), PyAV for every other container.

Everything that enters the project's ears comes through ``read``, or through ``stream`` where it may be long: mono,
float32, finite, at the rate asked for.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from asr.errors import AudioError
from asr.records import Waveform

if TYPE_CHECKING:
    from torch import Tensor

Recording = Path | bytes
MAX_SECONDS = 24 * 3600
"""A header that claims more than a day is taken for damage."""
BLOCK_SECONDS = 60
"""Of ``stream``: long enough that most recordings are one block."""
_SUFFIXES = (
    "3gp,aac,ac3,aif,aifc,aiff,amr,au,avi,caf,flac,flv,m2ts,m4a,m4b,m4v,mka,mkv,mov,mp2,mp3,mp4,mpeg,mpg,oga,ogg,ogv,"
    "opus,snd,sph,spx,tta,w64,wav,wave,weba,webm,wma,wmv,wv"
)
"""What files that hold sound are called, where a folder is searched for them."""
_CONTAINERS = "aac,ac3,aiff,amr,ape,asf,au,avi,caf,eac3,flac,flv,matroska,mov,mp3,mpeg,mpegts,ogg,tta,w64,wav,wv"
"""What FFmpeg may take a recording for: formats that hold audio. Its playlists (concat, hls, dash) hold the names of
other files and hosts, which whoever hands over a recording must not be able to have opened."""

_HEAD_BYTES = 65536
"""A file that a download or a crash left without its beginning, all zeros, is known by its first bytes: FFmpeg would
hold gigabytes of it in memory in search of a frame."""
_NO_MPEG_FRAME = 7
"""libsndfile's number for an MP3 that holds no frame, which it calls "not a regular file"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioInfo:
    """What a recording's header says: ``samples`` per channel, ``sample_rate`` in Hz, ``channels``."""

    samples: int
    sample_rate: int
    channels: int

    @property
    def duration(self) -> float:
        return self.samples / self.sample_rate


def describe(recording: Recording) -> str:
    return f"{len(recording)} bytes of audio" if isinstance(recording, bytes) else str(recording)


def sounds(path: Path) -> bool:
    """Whether a file's name is that of a recording."""
    return path.suffix[1:].lower() in _SUFFIXES.split(",")


def probe(recording: Recording) -> AudioInfo:
    """The header of a recording. Raises AudioError."""
    import soundfile

    _check_bytes(recording)
    try:
        info = soundfile.info(_open(recording))
        if 0 < info.frames < MAX_SECONDS * info.samplerate:
            return AudioInfo(samples=info.frames, sample_rate=info.samplerate, channels=info.channels)
    except (soundfile.SoundFileError, OSError):
        pass
    samples, rate = _read_av(recording, None, 0.0, None)  # containers' own durations are estimates: decode and count
    if samples.shape[1] == 0:
        raise AudioError(f"{describe(recording)} holds no audio samples")
    return AudioInfo(samples=samples.shape[1], sample_rate=rate, channels=samples.shape[0])


def read(
    recording: Recording,
    *,
    sample_rate: int | None = None,
    offset: float = 0.0,
    duration: float | None = None,
) -> Waveform:
    """A recording, or ``duration`` seconds of it from ``offset``, mixed to mono and resampled to ``sample_rate`` Hz.

    Raises AudioError for what is missing, empty, truncated or no audio at all.
    """
    channels, rate = read_channels(recording, offset=offset, duration=duration)
    waveform = Waveform(samples=channels.mean(axis=0), sample_rate=rate)
    return prepare(waveform, sample_rate or rate, describe(recording))


def outline(recording: Recording, *, track: int = 1) -> AudioInfo:
    """What the header claims, at once: a container's own duration is an estimate, and 0 where it gives none.

    Raises AudioError for what is no audio, and for a track that is not there.
    """
    import soundfile

    _check_bytes(recording)
    if track == 1:
        try:
            info = soundfile.info(_open(recording))
            samples = info.frames if info.frames < MAX_SECONDS * info.samplerate else 0
            return AudioInfo(samples=samples, sample_rate=info.samplerate, channels=info.channels)
        except (soundfile.SoundFileError, OSError) as error:
            cause: Exception | None = error
    else:
        cause = None
    with _av_track(recording, cause, track) as (container, audible):
        seconds = (container.duration or 0) / 1_000_000
        return AudioInfo(
            samples=max(0, round(seconds * audible.rate)), sample_rate=audible.rate, channels=audible.channels
        )


def stream(
    recording: Recording, *, sample_rate: int, channel: int | None = None, track: int = 1
) -> Iterator[np.ndarray]:
    """The samples of ``read``, (S,) float32 blocks of a minute or so, in memory that does not grow with the recording.

    They differ from those of ``read`` by the rounding of the resampler at most, and not at all where the recording fits
    in one block. ``channel`` is one of the recording's, counted from 1, in place of their mix; ``track`` is one of a
    container's audio tracks. Raises AudioError on the way, for a truncated recording after the blocks that are there.
    """
    blocks = _blocks(recording, track)
    try:
        first, rate = next(blocks)
    except StopIteration:
        raise AudioError(f"{describe(recording)} holds no audio samples") from None

    def mono() -> Iterator[np.ndarray]:
        for channels, _ in itertools.chain([(first, rate)], blocks):
            if channel is not None and not 1 <= channel <= len(channels):
                raise AudioError(f"{describe(recording)} has no channel {channel}: it has {len(channels)}")
            own = channels.mean(axis=0) if channel is None else channels[channel - 1]
            yield _finite(own, describe(recording))

    return resampled(mono(), rate, sample_rate)


def read_channels(
    recording: Recording, *, offset: float = 0.0, duration: float | None = None
) -> tuple[np.ndarray, int]:
    """As ``read``, but every channel as it is: (channels, S) float32, and the sample rate in Hz."""
    import soundfile

    _check_bytes(recording)
    try:
        with soundfile.SoundFile(_open(recording)) as file:
            rate = file.samplerate
            start = min(round(offset * rate), file.frames)
            wanted = file.frames - start
            if duration is not None:
                wanted = min(wanted, round(duration * rate))
            if file.frames >= MAX_SECONDS * rate:
                wanted = -1  # a stream without a length in its header
            file.seek(start)
            samples = file.read(wanted, dtype="float32", always_2d=True).T
            if samples.shape[1] < wanted:
                raise AudioError(
                    f"{describe(recording)} is truncated: its header promises {wanted} samples more, "
                    f"and {samples.shape[1]} are there"
                )
    except (soundfile.SoundFileError, OSError) as error:
        samples, rate = _read_av(recording, error, offset, duration)
    if samples.shape[1] == 0:
        raise AudioError(f"{describe(recording)} holds no audio samples")
    return samples, rate


def prepare(waveform: Waveform, sample_rate: int, name: str = "the audio") -> Waveform:
    """``waveform`` checked to be finite and resampled to ``sample_rate`` Hz. Raises AudioError for NaN or infinity."""
    _finite(waveform.samples, name)
    if waveform.sample_rate == sample_rate:
        return waveform
    import torch

    resampled = _resampler(waveform.sample_rate, sample_rate)(torch.from_numpy(waveform.samples))
    return Waveform(samples=resampled.numpy(), sample_rate=sample_rate)


def as_floats(samples: np.ndarray) -> np.ndarray:
    """An array of audio, (S,) or (channels, S), as (channels, S) float32. Raises AudioError."""
    if samples.ndim not in (1, 2) or samples.size == 0:
        raise AudioError(f"an array of audio is (S,) or (channels, S) and not empty; found shape {samples.shape}")
    if samples.dtype == np.int16:
        samples = samples.astype(np.float32) / 32768
    elif not np.issubdtype(samples.dtype, np.floating):
        raise AudioError(f"an array of audio is floating point in [-1, 1] or int16; found {samples.dtype}")
    return np.ascontiguousarray(np.atleast_2d(samples), dtype=np.float32)


def _finite(samples: np.ndarray, name: str) -> np.ndarray:
    if not np.isfinite(samples).all():
        raise AudioError(f"{name} holds samples that are not numbers (NaN or infinity)")
    return samples


class Seamless:
    """A function of finite reach over a signal that comes in pieces: joined, its outputs are those for the whole.

    ``function`` makes ``made`` outputs, each of shape ``width``, of every ``step`` inputs along the first axis. They
    depend on inputs within ``reach`` of those, and what it is given begins and ends as a whole signal does. So each
    piece goes through it together with as much of its neighbours as it reaches, and what belongs to them is cut off.
    """

    def __init__(
        self, function: Callable[[Tensor], Tensor], *, reach: int, step: int = 1, made: int = 1, width: tuple[int, ...]
    ) -> None:
        self.function = function
        self.step, self.made, self.width = step, made, width
        self.reach = -(-reach // step) * step
        self.pending: Tensor | None = None
        """The end of the signal so far, of which the first ``done`` inputs are context alone."""
        self.done = 0

    def feed(self, piece: Tensor, *, last: bool = False) -> Tensor:
        """The outputs that ``piece`` completes, and after the ``last`` piece the rest of them."""
        import torch

        pending = piece if self.pending is None else torch.cat([self.pending, piece])
        stop = (len(pending) - self.reach) // self.step * self.step
        ready = len(pending) > 0 if last else stop > self.done
        outputs = piece.new_zeros(0, *self.width)
        if ready:
            first, end = self.done // self.step * self.made, None if last else stop // self.step * self.made
            outputs = self.function(pending)[first:end]
            kept = max(0, stop - self.reach)
            pending, self.done = pending[kept:], stop - kept
        self.pending = pending
        return outputs


class Resampling:
    """Samples that come in pieces, as one continuous signal from ``source`` to ``target`` Hz."""

    def __init__(self, source: int, target: int, name: str = "the audio") -> None:
        self.name = name
        self.seamless: Seamless | None = None
        if source != target:
            resampler = _resampler(source, target)
            period, made = resampler.orig_freq, resampler.new_freq  # samples in, samples out
            self.seamless = Seamless(resampler, reach=resampler.width, step=period, made=made, width=())

    def feed(self, samples: np.ndarray, *, last: bool = False) -> np.ndarray:
        """What ``samples`` (S,) complete of the signal at the new rate. Raises AudioError for NaN or infinity."""
        import torch

        samples = _finite(samples, self.name)
        if self.seamless is None:
            return samples
        resampled: np.ndarray = self.seamless.feed(torch.from_numpy(samples), last=last).numpy()
        return resampled


def resampled(blocks: Iterable[np.ndarray], source: int, target: int) -> Iterator[np.ndarray]:
    """Blocks (S,) at ``source`` Hz as one continuous signal at ``target`` Hz."""
    resampling = Resampling(source, target)
    held: np.ndarray | None = None  # back by one, so that the last is known: a single block is resampled in one piece
    for block in blocks:
        if held is not None:
            yield resampling.feed(held)
        held = block
    if held is not None:
        yield resampling.feed(held, last=True)


@functools.lru_cache(maxsize=16)
def _resampler(source: int, target: int) -> Any:
    """Kept, since building the kernel of an odd ratio (22,050 to 16,000 Hz) costs ten times what using it does."""
    import torchaudio

    ratio = Fraction(target, source).limit_denominator(1000)  # keeps odd rates' kernels small
    return torchaudio.transforms.Resample(ratio.denominator, ratio.numerator)


def _open(recording: Recording) -> str | BinaryIO:
    return str(recording) if isinstance(recording, Path) else io.BytesIO(recording)


def _open_bytes(recording: Recording) -> BinaryIO:
    return recording.open("rb") if isinstance(recording, Path) else io.BytesIO(recording)


def _check_bytes(recording: Recording) -> None:
    try:
        if isinstance(recording, bytes):
            size = len(recording)
        elif recording.is_dir():
            raise AudioError(f"{recording} is a folder, not a recording")
        else:
            size = recording.stat().st_size
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = getattr(error, "strerror", None) or error
        raise AudioError(f"{describe(recording)} cannot be read: {reason}") from error
    if size == 0:
        raise AudioError(f"{describe(recording)} is empty (0 bytes)")


def _blocks(recording: Recording, track: int = 1) -> Iterator[tuple[np.ndarray, int]]:
    """(channels, S) blocks of about a minute as they are, each with the sample rate in Hz."""
    import soundfile

    _check_bytes(recording)
    found = 0
    cause: Exception | None = None
    try:
        if track != 1:  # libsndfile's formats have one
            raise OSError(f"it has no audio track {track}")
        with soundfile.SoundFile(_open(recording)) as file:
            rate = file.samplerate
            while len(block := file.read(BLOCK_SECONDS * rate, dtype="float32", always_2d=True)):
                found += len(block)
                yield block.T, rate
            if found < file.frames < MAX_SECONDS * rate:
                raise AudioError(
                    f"{describe(recording)} is truncated: its header promises {file.frames} samples, "
                    f"and {found} are there"
                )
            return
    except (soundfile.SoundFileError, OSError) as error:
        if found:
            raise AudioError(f"{describe(recording)} cannot be read past {found / rate:.1f} s: {error}") from error
        cause = error
    held: list[np.ndarray] = []
    for block, rate in _av_blocks(recording, cause, track=track):
        held.append(block)
        found += block.shape[1]
        if found >= BLOCK_SECONDS * rate:
            yield np.concatenate(held, axis=1), rate
            held, found = [], 0
    if found:
        yield np.concatenate(held, axis=1), rate


def _read_av(
    recording: Recording, cause: Exception | None, offset: float, duration: float | None
) -> tuple[np.ndarray, int]:
    until = math.inf if duration is None else offset + duration
    blocks = list(_av_blocks(recording, cause, until))
    if not blocks:
        return np.zeros((1, 0), np.float32), 1
    rate = blocks[0][1]
    samples = np.concatenate([block for block, _ in blocks], axis=1)
    return samples[:, round(offset * rate) : None if duration is None else round(until * rate)], rate


def _av_blocks(
    recording: Recording, cause: Exception | None, until: float = math.inf, track: int = 1
) -> Iterator[tuple[np.ndarray, int]]:
    """What PyAV decodes, frame by frame up to ``until`` seconds: (channels, S) float32, and the sample rate in Hz."""
    import av

    with _av_track(recording, cause, track) as (container, audible):
        rate = audible.rate
        resampler = av.AudioResampler(format="fltp", rate=rate)
        read = 0
        for frame in container.decode(audible):
            for block in resampler.resample(frame):
                samples = block.to_ndarray()
                read += samples.shape[1]
                yield samples, rate
            if read >= until * rate:
                return


@contextlib.contextmanager
def _av_track(recording: Recording, cause: Exception | None, track: int) -> Iterator[tuple[Any, Any]]:
    """PyAV's container and the audio stream in it that is the ``track``-th.

    ``cause`` is why soundfile could not, which says more than FFmpeg's own reasons. Raises AudioError.
    """
    import av

    if getattr(cause, "code", None) == _NO_MPEG_FRAME:
        cause = None
    try:
        with _open_bytes(recording) as file:
            if not file.read(_HEAD_BYTES).strip(b"\0"):
                raise ValueError("it begins with zero bytes alone")
        with av.open(_open(recording), options={"format_whitelist": _CONTAINERS}) as container:
            tracks = container.streams.audio
            if not tracks:
                raise AudioError(f"{describe(recording)} holds no audio stream")
            if not 1 <= track <= len(tracks):
                raise AudioError(f"{describe(recording)} has no audio track {track}: it has {len(tracks)}")
            if not tracks[track - 1].rate:
                raise ValueError("it has no sample rate")
            yield container, tracks[track - 1]
    except (av.error.FFmpegError, ValueError, OSError) as error:
        # Without soundfile's prefix, which repeats the file's name or, for bytes, an object's address.
        reason = getattr(cause, "error_string", None) or cause or getattr(error, "strerror", None) or error
        raise AudioError(f"{describe(recording)} is not audio that can be read: {reason}") from error

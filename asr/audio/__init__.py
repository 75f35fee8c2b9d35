"""Reading audio, one rate to another, and where in a recording somebody speaks (``asr.audio.voice``).

Everything that enters the project's ears comes through ``read``, or through ``stream`` where it may be long: mono,
float32, finite, at the rate asked for. Whatever goes wrong on the way is an AudioError.
"""

from asr.audio.reading import mixed, outline, probe, read, read_channels, stream
from asr.audio.recording import MAX_SECONDS, AudioInfo, Member, Recording, describe
from asr.audio.resample import Resampling, as_floats, prepare, resampled
from asr.audio.search import recordings_below, sounds
from asr.records import Waveform

__all__ = [
    "MAX_SECONDS",
    "AudioInfo",
    "Member",
    "Recording",
    "Resampling",
    "Waveform",
    "as_floats",
    "describe",
    "mixed",
    "outline",
    "prepare",
    "probe",
    "read",
    "read_channels",
    "recordings_below",
    "resampled",
    "sounds",
    "stream",
]

"""What the report plays of an utterance, and which utterances are worth it."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from asr.errors import AudioError
from asr.records import Waveform
from asr.score.system import ScoredLine, System

SOUND_SECONDS = 1800.0
"""Of speech in a report: some 5 MB of MP3, 7 MB in the page."""

_QUALITY = 0.8
"""LAME's scale, from 0 best to 1: some 22 kbit/s at 16 kHz. To listen to, not to measure with: AN4's model has a WER of
5.4 % on its test clips so written, 4.4 % on the clips themselves."""

_MP3_RATES = {8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000}


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """``sound`` is a data URI and ``picture`` an ``<svg>`` element, empty where the utterance was not drawn."""

    sound: str
    picture: str = ""


def worth_hearing(system: System, first: Iterable[ScoredLine] = (), seconds: float = SOUND_SECONDS) -> set[str]:
    """Ids of the utterances to play: the ``first`` ones, then by falling errors, as far as the seconds go. Those of
    unknown duration are none of them."""
    chosen: set[str] = set()
    for u in [*first, *system.worst(), *system.utterances]:
        if u.line.id not in chosen and u.line.duration is not None and u.line.duration <= seconds:
            chosen.add(u.line.id)
            seconds -= u.line.duration
    return chosen


def recorded(system: System, seconds: float = SOUND_SECONDS) -> tuple[dict[str, Clip], list[str]]:
    """Clips by utterance id where the reference names the audio, and why the others of them cannot be played."""
    from asr import audio

    wanted = worth_hearing(system, seconds=seconds)
    clips, faults = {}, []
    for u in system.utterances:
        if u.line.id in wanted and u.line.audio is not None:
            try:
                heard = audio.read(u.line.audio, offset=u.line.start or 0.0, duration=u.line.duration)
            except AudioError as error:
                faults.append(str(error))
            else:
                clips[u.line.id] = Clip(sound=as_sound(heard))
    return clips, faults


def as_sound(waveform: Waveform) -> str:
    """The waveform as a data URI: MP3, which every browser plays; FLAC at rates that MP3 does not know."""
    import soundfile

    mp3 = waveform.sample_rate in _MP3_RATES
    form = {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "VARIABLE", "compression_level": _QUALITY}
    written = io.BytesIO()
    with soundfile.SoundFile(
        written, "w", waveform.sample_rate, channels=1, **(form if mp3 else {"format": "FLAC"})
    ) as file:
        file.write(np.clip(waveform.samples, -1.0, 1.0))
    return f"data:audio/{'mpeg' if mp3 else 'flac'};base64,{base64.b64encode(written.getvalue()).decode()}"

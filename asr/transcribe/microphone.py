"""Where live speech comes from: a microphone (package sounddevice, extra ``live``), or a recording played to it."""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from asr import audio
from asr.audio import Recording
from asr.errors import AudioError, MissingExtraError

PIECE_SECONDS = 0.1
SILENT_SECONDS = 5.0
"""After which a microphone that sends nothing, not even silence, is taken to be gone."""


@contextlib.contextmanager
def microphone(sample_rate: int, name: str | None = None) -> Iterator[tuple[int, Iterator[np.ndarray]]]:
    """The rate in Hz at which a microphone records, ``sample_rate`` if it can, and its samples (S,) as they come.

    ``name`` is a part of the microphone's name or its number; None is the system's own choice. What piled up while the
    last piece was being worked on comes as one. Raises MissingExtraError, AudioError.
    """
    sounddevice = _sounddevice()
    device = int(name) if name is not None and name.isdecimal() else name
    pieces: queue.SimpleQueue[np.ndarray] = queue.SimpleQueue()
    try:
        found = sounddevice.query_devices(device, "input")
        try:
            sounddevice.check_input_settings(device=device, channels=1, samplerate=sample_rate)
        except sounddevice.PortAudioError:
            sample_rate = round(found["default_samplerate"])
        stream = sounddevice.InputStream(
            device=device,
            channels=1,
            samplerate=sample_rate,
            blocksize=round(PIECE_SECONDS * sample_rate),
            dtype="float32",
            callback=lambda samples, *_: pieces.put(samples[:, 0].copy()),
        )
        stream.start()
    except (sounddevice.PortAudioError, ValueError) as error:
        which = "no microphone" if name is None else f'no microphone "{name}"'
        raise AudioError(f"there is {which} that can be listened to: {' '.join(str(error).split())}") from error
    try:
        yield sample_rate, _arriving(pieces)
    finally:
        stream.close()


def play(recording: Recording, sample_rate: int, speed: float) -> Iterator[np.ndarray]:
    """A recording as a microphone would send it, at ``sample_rate`` Hz: samples (S,), each piece when its last sample
    has sounded. ``speed`` 1 is real time; 0 waits for nothing. Raises AudioError."""
    size, sent, began = round(PIECE_SECONDS * sample_rate), 0, None
    for block in audio.stream(recording, sample_rate=sample_rate):
        began = began or time.monotonic()
        for start in range(0, len(block), size):
            piece = block[start : start + size]
            sent += len(piece)
            if speed:
                time.sleep(max(0.0, began + sent / sample_rate / speed - time.monotonic()))
            yield piece


def _arriving(pieces: queue.SimpleQueue[np.ndarray]) -> Iterator[np.ndarray]:
    while True:
        try:
            waiting = [pieces.get(timeout=SILENT_SECONDS)]
        except queue.Empty:
            raise AudioError(f"the microphone sent nothing for {SILENT_SECONDS:.0f} s: is it still there?") from None
        while not pieces.empty():
            waiting.append(pieces.get())
        yield np.concatenate(waiting)


def _sounddevice() -> Any:
    try:
        import sounddevice
    except ImportError as error:
        raise MissingExtraError("sounddevice", "live", "listening to a microphone") from error
    except OSError as error:  # its wheels hold PortAudio for Windows and macOS only
        raise AudioError(f"listening to a microphone needs PortAudio (Debian: libportaudio2): {error}") from error
    return sounddevice

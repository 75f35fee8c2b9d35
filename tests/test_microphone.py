"""asr listen at a microphone, one that this file plays."""

import sys
import threading
import types

import numpy as np
import pytest

from asr.errors import AudioError, MissingExtraError
from asr.transcribe import microphone as source
from asr.transcribe.microphone import microphone


class PortAudioError(Exception):
    pass


def sounddevice(rates: tuple[int, ...], pieces: list[np.ndarray]) -> types.ModuleType:
    """A stand-in for the package: one microphone, "desk", that records at ``rates`` and sends ``pieces``."""
    module = types.ModuleType("sounddevice")

    class InputStream:
        def __init__(self, *, samplerate, callback, **_):
            assert samplerate in rates
            self.callback = callback

        def start(self):
            def send():
                for piece in pieces:
                    self.callback(piece[:, None], len(piece), None, None)

            self.sender = threading.Thread(target=send)
            self.sender.start()

        def close(self):
            self.sender.join()
            module.closed = True

    def query_devices(device, kind):
        if device not in (None, 0, "desk"):
            raise ValueError(f"No {kind} device matching {device!r}")
        return {"default_samplerate": float(rates[0])}

    def check_input_settings(*, samplerate, **_):
        if samplerate not in rates:
            raise PortAudioError("Invalid sample rate")

    module.PortAudioError, module.InputStream, module.closed = PortAudioError, InputStream, False
    module.query_devices, module.check_input_settings = query_devices, check_input_settings
    return module


@pytest.mark.parametrize(("rates", "expected"), [((48000, 16000), 16000), ((44100,), 44100)])
@pytest.mark.parametrize("name", [None, "desk", "0"])
def test_a_microphone_records_at_the_models_rate_if_it_can(monkeypatch, rates, expected, name):
    sent = [np.full(n, n, np.float32) for n in (3, 2, 4)]
    module = sounddevice(rates, sent)
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    monkeypatch.setattr(source, "SILENT_SECONDS", 0.05)
    heard = []
    with microphone(16000, name) as (rate, pieces):
        assert rate == expected
        with pytest.raises(AudioError, match="sent nothing for 0 s: is it still there"):
            heard += pieces
    np.testing.assert_array_equal(np.concatenate(heard), np.concatenate(sent))
    assert module.closed


def test_no_microphone_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", sounddevice((16000,), []))
    with pytest.raises(AudioError, match='there is no microphone "kitchen" that can be listened to: No input device'):
        microphone(16000, "kitchen").__enter__()


def test_a_missing_package_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(
        MissingExtraError, match=r"""needs the package "sounddevice".* pip install '\.\[live\]' in the clone"""
    ):
        microphone(16000).__enter__()

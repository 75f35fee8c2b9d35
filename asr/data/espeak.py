"""A synthetic corpus: word strings spoken by eSpeak NG's voice variants, made once, seeded and cached as FLAC.

A voice variant is the speaker. ``speakers`` slices keep train, dev and test voices disjoint; each utterance draws its
language, words, rate and pitch.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import random
import shutil
import tempfile
from pathlib import Path

import numpy as np

from asr import audio, recipe, runtime
from asr.errors import CorpusError, MissingExtraError
from asr.records import Waveform

SAMPLE_RATE = 16000
# espeak-ng/speak_lib.h
_SYNCHRONOUS, _UTF8, _RATE, _PITCH = 2, 1, 1, 3


def synthesise_corpus(source: recipe.EspeakCorpus) -> Path:
    """The manifest of the corpus that ``source`` describes, synthesised at the first call and cached for the next."""
    settings = source.model_dump_json(exclude={"name", "weight"})
    folder = runtime.cache_directory() / f"espeak-{hashlib.sha256(settings.encode()).hexdigest()[:16]}"
    manifest = folder / "manifest.jsonl"
    if manifest.is_file():
        return manifest
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".espeak-", dir=folder.parent))
        try:
            _write(source, aside)
            shutil.rmtree(folder, ignore_errors=True)
            aside.replace(folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise CorpusError(f"the synthesised corpus cannot be kept in {folder}: {error.strerror or error}") from error
    return manifest


def _write(source: recipe.EspeakCorpus, folder: Path) -> None:
    import soundfile
    from rich.console import Console
    from rich.progress import track

    engine = _Engine()
    variants = [name for name in engine.variants if source.includes(name)]
    if not variants:
        raise CorpusError(f"no eSpeak voice falls into speakers: {list(source.speakers)}; widen the slice")
    draw = random.Random(source.seed)
    label = f"synthesising {source.utterances} utterances, {len(variants)} voices"
    with (folder / "manifest.jsonl").open("w", encoding="utf-8") as manifest:
        for i in track(range(source.utterances), label, console=Console(stderr=True), transient=True):
            variant = draw.choice(variants)
            text = " ".join(draw.choices(source.vocabulary, k=draw.randint(*source.words)))
            spoken = engine.say(
                text,
                voice=f"{draw.choice(source.languages)}+{variant}",
                rate=draw.randint(*source.rate),
                pitch=draw.randint(*source.pitch),
            )
            samples = audio.prepare(spoken, SAMPLE_RATE).samples * draw.uniform(0.3, 1.0)
            name = f"{i:06d}.flac"
            soundfile.write(folder / name, samples, SAMPLE_RATE, subtype="PCM_16")
            row = {
                "id": f"{variant.replace(' ', '_')}-{i:06d}",
                "audio_filepath": name,
                "duration": round(len(samples) / SAMPLE_RATE, 3),
                "text": text,
                "speaker": variant,
            }
            manifest.write(json.dumps(row, ensure_ascii=False) + "\n")


class _Engine:
    """eSpeak NG, loaded from the espeakng-loader wheel. It keeps global state: one a process."""

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError as error:
            raise MissingExtraError("espeakng-loader", "demo", "a corpus of kind: espeak") from error
        self._data = Path(espeakng_loader.get_data_path())
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        self._rate = self._library.espeak_Initialize(_SYNCHRONOUS, 200, os.fsencode(self._data.parent), 0)
        if self._rate <= 0:
            raise CorpusError(f"eSpeak NG does not start with its data in {self._data} (a path over 150 bytes?)")
        self._blocks: list[np.ndarray] = []
        callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self._callback = callback(self._receive)  # kept: ctypes frees it with its last reference
        self._library.espeak_SetSynthCallback(self._callback)

    @property
    def variants(self) -> list[str]:
        return sorted(path.name for path in (self._data / "voices" / "!v").iterdir() if path.is_file())

    def say(self, text: str, *, voice: str, rate: int, pitch: int) -> Waveform:
        """``text`` spoken at ``rate`` words a minute and ``pitch`` 0..100. Raises CorpusError for an unknown voice."""
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise CorpusError(f'eSpeak NG has no voice "{voice}"')
        self._library.espeak_SetParameter(_RATE, rate, 0)
        self._library.espeak_SetParameter(_PITCH, pitch, 0)
        self._blocks.clear()
        utf8 = text.encode() + b"\0"
        if self._library.espeak_Synth(utf8, ctypes.c_size_t(len(utf8)), 0, 0, 0, _UTF8, None, None) != 0:
            raise CorpusError(f'eSpeak NG cannot say "{text}"')
        samples = np.concatenate(self._blocks) if self._blocks else np.zeros(1, np.int16)
        return Waveform(samples=samples.astype(np.float32) / 32768, sample_rate=self._rate)

    def _receive(self, samples: ctypes._Pointer[ctypes.c_short], count: int, _events: object) -> int:
        if samples and count > 0:
            self._blocks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

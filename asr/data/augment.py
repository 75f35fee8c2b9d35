"""Waveform augmentation in the loader, by lhotse: speed, reverberation, a codec, noise at a random SNR.

Every draw comes from a generator seeded with the run's seed, the epoch and the utterance's id, so that what is heard
does not depend on the number of workers or on where a run was resumed.
"""

from __future__ import annotations

import io
import logging
import random
from pathlib import Path
from typing import Any

import numpy as np

from asr import audio, recipe
from asr.errors import AudioError, CorpusError

log = logging.getLogger(__name__)


class Augmenter:
    """Applies a recipe's waveform augmentation to cuts."""

    def __init__(self, settings: recipe.Augment, root: Path, *, seed: int) -> None:
        self._settings = settings
        self._seed = seed
        self._noises = _find_noises(root / settings.noise.path) if settings.noise else []

    def __call__(self, cut: Any, epoch: int) -> Any:
        draw = random.Random(f"{self._seed}/{epoch}/{cut.id}")
        speed = draw.choice(self._settings.speed)
        if speed != 1.0:
            cut = cut.perturb_speed(speed)
        reverb = self._settings.reverb
        if reverb and draw.random() < reverb.probability:
            cut = cut.reverb_rir(_room(cut.sampling_rate, seed=draw.getrandbits(31)))
        codec = self._settings.codec
        if codec and draw.random() < codec.probability:
            cut = _coded(cut, draw.choice(codec.kinds), level=draw.random())
        noise = self._settings.noise
        if noise and draw.random() < noise.probability:
            cut = cut.mix(self._noise_for(cut, draw), snr=draw.uniform(*noise.snr), preserve_id="left")
        return cut

    def _noise_for(self, cut: Any, draw: random.Random) -> Any:
        """A stretch of a random noise recording as long as ``cut``, looped where the recording is shorter."""
        noise = draw.choice(self._noises)
        if noise.sampling_rate != cut.sampling_rate:
            noise = noise.resample(cut.sampling_rate)
        loop = noise
        while noise.duration <= cut.duration:
            noise = noise.append(loop)
        return noise.truncate(offset=draw.uniform(0, noise.duration - cut.duration), duration=cut.duration)


def _coded(cut: Any, kind: str, *, level: float) -> Any:
    """``cut`` after a codec of ``recipe.Codec``'s kinds and back, at a compression ``level`` in [0, 1]."""
    return cut.narrowband("mulaw") if kind == "telephone" else cut.compress(kind, compression_level=level)


def _room(sample_rate: int, *, seed: int) -> Any:
    """The impulse response of a random room, as a recording in memory.

    Drawn here and not by ``reverb_rir`` when the audio is loaded, since lhotse's generator (FRA-RIR, Luo and Gu 2022)
    draws from torch's global generator too, whatever seeds it is given, and adds echoes up in an order that with more
    than one thread is the threads' own.
    """
    import torch
    from lhotse.augmentation.utils import FastRandomRIRGenerator

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            response = FastRandomRIRGenerator(sr=sample_rate, room_seed=seed, source_seed=seed)(nsource=1)[0]
    finally:
        torch.set_num_threads(threads)
    return in_memory(response, sample_rate, "room").recording


def in_memory(samples: np.ndarray, sample_rate: int, id: str) -> Any:
    """A cut of ``samples`` (S,), float32."""
    import soundfile
    from lhotse import AudioSource, Recording

    wav = io.BytesIO()
    soundfile.write(wav, samples, sample_rate, format="WAV", subtype="FLOAT")
    source = AudioSource(type="memory", channels=[0], source=wav.getvalue())
    recording = Recording(id, [source], sample_rate, len(samples), len(samples) / sample_rate)
    cut = recording.to_cut()
    cut.id = id
    return cut


def _find_noises(folder: Path) -> list[Any]:
    from lhotse import AudioSource, Recording

    try:
        paths = sorted(audio.recordings_below(folder))
    except AudioError as error:
        raise CorpusError(f"augment.noise.path: {error}") from error
    cuts = []
    for path in paths:
        try:
            header = audio.probe(path)
        except AudioError as error:
            log.warning(f"left out of augment.noise: {error}")
            continue
        source = AudioSource(type="file", channels=list(range(header.channels)), source=str(path))
        recording = Recording(path.stem, [source], header.sample_rate, header.samples, header.duration)
        cuts.append(recording.to_cut())
    if not cuts:
        raise CorpusError(f"augment.noise.path: {folder} holds no audio files")
    return cuts

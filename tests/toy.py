"""A toy language for the tests: each letter is a tone, so that a tiny model learns it in seconds."""

from __future__ import annotations

import itertools
import json
import random
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml

RATE = 8000
PITCHES = {"a": 400, "b": 900, "c": 1500}


def speak(text: str, *, seconds: float = 0.16) -> np.ndarray:
    """(S,) float32: a tone for each letter, silence for a space and between letters."""
    time = np.arange(round(seconds * RATE)) / RATE
    gap = np.zeros(round(seconds * RATE / 2), np.float32)
    noise = np.random.default_rng(len(text))
    parts = [gap]
    for letter in text:
        tone = np.sin(2 * np.pi * PITCHES[letter] * time) * np.hanning(len(time)) if letter in PITCHES else 0 * time
        parts += [0.5 * tone.astype(np.float32), gap]
    samples = np.concatenate(parts)
    return (samples + 0.003 * noise.standard_normal(len(samples))).astype(np.float32)


def write_corpus(folder: Path, utterances: int, *, seed: int = 0, name: str = "train") -> Path:
    """A manifest of random toy sentences by four speakers."""
    draw = random.Random(seed)
    (folder / name).mkdir(parents=True)
    rows = []
    for i in range(utterances):
        words = ["".join(draw.choices("abc", k=draw.randint(1, 3))) for _ in range(draw.randint(1, 3))]
        samples = speak(" ".join(words))
        soundfile.write(folder / name / f"{i}.flac", samples, RATE)
        rows.append(
            {
                "id": f"{name}-{i}",
                "audio_filepath": f"{name}/{i}.flac",
                "duration": len(samples) / RATE,
                "text": " ".join(words),
                "speaker": f"speaker{i % 4}",
            }
        )
    manifest = folder / f"{name}.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


def write_lexicon(path: Path) -> None:
    """Every toy word, letter by letter; "a" may also be said as "b" is."""
    words = [letters for k in (1, 2, 3) for letters in itertools.product("abc", repeat=k)]
    path.write_text("".join(f"{''.join(word)} {' '.join(word).upper()}\n" for word in words) + "a B\n")


def recipe(**sections: object) -> dict[str, object]:
    """A small recipe for the toy corpus, as plain YAML values; sections replace the ones here."""
    return {
        "seed": 3,
        "data": "unused",
        "corpora": {
            "train": [{"kind": "manifest", "path": "train.jsonl"}],
            "dev": [{"kind": "manifest", "path": "dev.jsonl"}],
            "test": [{"kind": "manifest", "name": "toy", "path": "dev.jsonl"}],
        },
        "features": {"kind": "log_mel", "sample_rate": RATE, "mels": 24},
        "augment": {"speed": [0.95, 1.0, 1.05], "spec_augment": {"time_frames": 3, "frequency_bins": 3}},
        "encoder": {"kind": "lstm", "conv": {"channels": [8, 8]}, "layers": 1, "hidden": 32, "dropout": 0.1},
        "training": {
            "epochs": 3,
            "max_batch_seconds": 8,
            "workers": 0,
            "precision": "float32",
            "learning_rate": 0.01,
            "warmup_steps": 10,
            "averaging": {"kind": "ema", "decay": 0.9},
        },
        **sections,
    }


def write_recipe(path: Path, **sections: object) -> Path:
    path.write_text(yaml.safe_dump(recipe(**sections)))
    return path


def heed_interrupts() -> None:
    """For ``preexec_fn``: a shell has its background jobs ignore Ctrl-C, and what they start inherits that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def save_babbler(folder: Path, alphabet: str = " abc", **decoder: object) -> Path:
    """A model directory whose untrained model says nonsense that depends on all that it hears."""
    import torch

    from asr import checkpoint
    from asr.model.acoustic import AcousticModel
    from asr.recipe.reading import validate_recipe
    from asr.text.tokenise import CharacterTokeniser

    settings, tokeniser = (
        validate_recipe(recipe(decoder=decoder or {"kind": "greedy"}), "toy"),
        CharacterTokeniser(alphabet),
    )
    torch.manual_seed(5)
    model = AcousticModel(settings, len(tokeniser.tokens))
    torch.nn.init.normal_(model.head.weight, std=3)
    checkpoint.save_description(folder, settings, tokeniser)
    checkpoint.save_weights(folder / checkpoint.WEIGHTS, model.state_dict())
    checkpoint.save_meta(folder, {"results": {}})
    return folder


def hotword_score(text: str, weights: Mapping[str, float]) -> float:
    """What the hotwords in a text are worth, of each place where some end 200 nats at the most."""
    words = text.split()
    ends = [f" {' '.join(words[:end])}" for end in range(1, len(words) + 1)]
    gains = [sum(weight for phrase, weight in weights.items() if end.endswith(f" {phrase}")) for end in ends]
    return sum(min(max(gain, -200.0), 200.0) for gain in gains)


def kill_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings in this process end as at a kill, nothing tidied up, where step ``steps`` would begin."""
    from asr.train.step import Trainer

    step, taken = Trainer.step, iter(range(steps))

    def take(self: Any, *arguments: Any, **options: Any) -> Any:
        if next(taken, None) is None:
            raise KeyboardInterrupt
        return step(self, *arguments, **options)

    monkeypatch.setattr(Trainer, "step", take)

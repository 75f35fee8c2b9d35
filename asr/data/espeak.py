"""A synthetic corpus: word strings spoken by eSpeak NG's voice variants, made once, seeded and cached as FLAC.

A voice variant is the speaker. ``speakers`` slices keep train, dev and test voices disjoint; each utterance draws its
language, words, rate and pitch.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import tempfile
from pathlib import Path

from asr import audio, files, recipe
from asr.errors import CorpusError
from asr.text.espeak import engine

SAMPLE_RATE = 16000


def synthesise_corpus(source: recipe.EspeakCorpus) -> Path:
    """The manifest of the corpus that ``source`` describes, synthesised at the first call and cached for the next."""
    settings = source.model_dump_json(exclude={"name", "weight"})
    folder = files.cache_directory() / f"espeak-{hashlib.sha256(settings.encode()).hexdigest()[:16]}"
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

    speaker = engine("a corpus of kind: espeak")
    variants = [name for name in speaker.variants if source.includes(name)]
    if not variants:
        raise CorpusError(f"no eSpeak voice falls into speakers: {list(source.speakers)}; widen the slice")
    draw = random.Random(source.seed)
    label = f"synthesising {source.utterances} utterances, {len(variants)} voices"
    with (folder / "manifest.jsonl").open("w", encoding="utf-8") as manifest:
        for i in track(range(source.utterances), label, console=Console(stderr=True), transient=True):
            variant = draw.choice(variants)
            text = " ".join(draw.choices(source.vocabulary, k=draw.randint(*source.words)))
            voice = f"{draw.choice(source.languages)}+{variant}"
            if not speaker.speaks(voice):
                raise CorpusError(f'eSpeak NG has no voice "{voice}"')
            spoken = speaker.say(text, rate=draw.randint(*source.rate), pitch=draw.randint(*source.pitch))
            if spoken is None:
                raise CorpusError(f'eSpeak NG cannot say "{text}"')
            samples = audio.prepare(spoken, SAMPLE_RATE).samples * draw.uniform(0.3, 1.0)
            name = f"{i:06d}.flac"
            encoded = io.BytesIO()  # libsndfile does not say where a disk is full
            soundfile.write(encoded, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
            (folder / name).write_bytes(encoded.getvalue())
            row = {
                "id": f"{variant.replace(' ', '_')}-{i:06d}",
                "audio_filepath": name,
                "duration": round(len(samples) / SAMPLE_RATE, 3),
                "text": text,
                "speaker": variant,
            }
            manifest.write(json.dumps(row, ensure_ascii=False) + "\n")

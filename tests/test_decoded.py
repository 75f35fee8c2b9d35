"""Decoded audio kept in memory: the same batches, without decoding again."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from asr import audio, recipe, runtime
from asr.data.augment import Augmenter
from asr.data.batches import Utterances, load_ordered
from asr.data.corpora import Mixture, open_corpora
from asr.data.decoded import DecodedAudio, keep_decoded
from asr.data.listing import Listing
from asr.data.order import Epoch
from asr.records import Batch

RATE = 16000
FILES = {"float.wav": "FLOAT", "sixteen.wav": "PCM_16", "sixteen.flac": "PCM_16", "lossy.ogg": "OPUS"}


@pytest.fixture
def corpus(tmp_path) -> Mixture:
    """Twelve recordings of several formats, one of them in stereo, one broken, and a part of a long one."""
    draw = np.random.default_rng(0)
    rows = []
    for i, (name, subtype) in enumerate(3 * list(FILES.items())):
        samples = draw.uniform(-0.5, 0.5, (RATE // 2 + 100 * i, 2 if i == 1 else 1))
        soundfile.write(tmp_path / f"{i}-{name}", samples, RATE, subtype=subtype)
        rows.append({"id": f"u{i}", "audio_filepath": f"{i}-{name}", "text": "a"})
    (tmp_path / "broken.flac").write_bytes(b"fLaC, but no more")
    rows.append({"id": "broken", "audio_filepath": "broken.flac", "text": "a", "duration": 0.5})
    rows.append(
        {"id": "part", "audio_filepath": rows[3]["audio_filepath"], "offset": 0.1, "duration": 0.2, "text": "a"}
    )
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = recipe.ManifestCorpus(kind="manifest", path="m.jsonl", weight=1.5)
    return open_corpora((source,), tmp_path)


def epoch(
    corpus: Mixture, number: int, kept: DecodedAudio | None, *, workers: int = 0, skip: int = 0, **augment: object
) -> list[Batch]:
    augmenter = Augmenter(recipe.Augment(speed=(0.9, 1.0, 1.1), **augment), corpus_root(corpus), seed=1)
    dataset = Utterances(
        sample_rate=RATE, normalisation="words", augmenter=augmenter, epoch=number, recordings=kept, seconds=(0.0, 9.0)
    )
    order = Epoch(Listing(corpus), recipe.Training(max_batch_seconds=2, buckets=2), seed=1, number=number)
    return list(load_ordered(order.share(skip), dataset, workers=workers))


def corpus_root(corpus: Mixture) -> Path:
    return Path(next(iter(corpus.whole())).recording.sources[0].source).parent


def same(found: list[Batch], expected: list[Batch]) -> bool:
    return len(found) == len(expected) and all(
        a.ids == b.ids and a.rejected == b.rejected and torch.equal(a.waveforms, b.waveforms)
        for a, b in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("reverberant", [False, True], ids=["speed", "speed, noise and reverberation"])
def test_batches_are_those_of_a_loader_that_keeps_nothing(corpus, workers, reverberant):
    augment = {}
    if reverberant:
        augment = {
            "reverb": recipe.Reverb(probability=0.1),
            "noise": recipe.Noise(path="noises", probability=1.0),
        }
        folder = corpus_root(corpus) / "noises"
        folder.mkdir()
        soundfile.write(folder / "hiss.wav", np.random.default_rng(1).uniform(-0.1, 0.1, RATE), RATE)
    kept = DecodedAudio(corpus.whole(), limit=10**9)
    for number in range(3):
        expected = epoch(corpus, number, None, **augment)
        assert same(epoch(corpus, number, kept, workers=workers, **augment), expected)
        assert {r.id for batch in expected for r in batch.rejected} >= {"broken"}
        assert same(epoch(corpus, number, kept, workers=workers, skip=2, **augment), expected[2:])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_recording_is_decoded_once_whichever_process_reads_it(corpus, monkeypatch, workers):
    kept = DecodedAudio(corpus.whole(), limit=10**9)
    first = epoch(corpus, 0, kept, workers=workers)
    whole = audio.read_channels

    def no_more(path, *, offset=0.0, duration=None):
        assert offset or path.name == "broken.flac", f"{path} is decoded again"
        return whole(path, offset=offset, duration=duration)

    monkeypatch.setattr(audio, "read_channels", no_more)
    assert same(epoch(corpus, 0, kept, workers=workers), first)


def test_memory_is_bounded_and_what_has_no_room_is_decoded_each_time(corpus):
    second = 4 * RATE
    kept = DecodedAudio(corpus.whole(), limit=2 * second)
    assert 0 < kept.size <= 2 * second
    assert kept.left_out > 0
    assert str(kept).endswith(f"GB at most; there is no room for {kept.left_out} more")
    assert same(epoch(corpus, 0, kept), epoch(corpus, 0, None))


@pytest.mark.parametrize(("name", "size"), [("float.wav", 4), ("sixteen.wav", 2), ("sixteen.flac", 2)])
def test_sixteen_bit_recordings_take_two_bytes_a_sample(corpus, name, size):
    cuts = [cut for cut in corpus.whole() if cut.recording.sources[0].source.endswith(f"-{name}") and cut.id != "part"]
    kept = DecodedAudio(cuts, limit=10**9)
    assert kept.taken == 0
    for cut in cuts:
        kept.read_channels(Path(cut.recording.sources[0].source))
    assert kept.taken == size * sum(cut.recording.num_samples * cut.recording.num_channels for cut in cuts)


@pytest.mark.parametrize(
    ("wanted", "free", "kept"),
    [(False, 10**9, 0), ("auto", 10**9, 13), ("auto", 10**6, 0), (True, 10**6, 13), (True, 2 * 10**5, 2)],
)
def test_what_is_kept_depends_on_what_is_wanted_and_on_the_memory_that_is_free(corpus, monkeypatch, wanted, free, kept):
    monkeypatch.setattr(runtime, "free_memory", lambda: free)
    found = keep_decoded(itertools.chain(corpus.whole(), corpus.whole()), wanted)
    assert (len(found._places) if found else 0) == kept


def test_free_memory_is_some_of_the_machines():
    assert 10**7 < runtime.free_memory() < 10**14

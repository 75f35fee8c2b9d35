"""The order of an epoch is drawn before anything is read: from ids, seed and epoch."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import soundfile

from asr import audio, recipe
from asr.data.corpora import open_corpora
from asr.data.cuts import Described
from asr.data.listing import Listing
from asr.data.order import Epoch


def manifest(folder: Path, rows: int, **more: object) -> Listing:
    """So many utterances of 1 to 10 s, which their manifest tells; there are no recordings."""
    lines = (
        {"id": f"u{n}", "audio_filepath": f"{n}.flac", "text": "some words", "duration": 1 + 9 * (n * 37 % 101) / 101}
        for n in range(rows)
    )
    told = {"sampling_rate": 16000, **more}
    (folder / "m.jsonl").write_text("".join(json.dumps({**line, **told}) + "\n" for line in lines))
    return listed(folder, kind="manifest", path="m.jsonl")


def listed(root: Path, **keys: object) -> Listing:
    return Listing(open_corpora([recipe.ManifestCorpus(**keys)], root))


def epoch(listing: Listing, number: int = 0, *, seed: int = 1, **training: object) -> Epoch:
    return Epoch(listing, recipe.Training(**{"max_batch_seconds": 60.0, **training}), seed=seed, number=number)


def ids(order: Epoch, skip: int = 0, every: int = 1) -> list[list[str]]:
    return [[item.id for item in batch] for batch in order.share(skip, every)]


def seconds(batch: list[Described]) -> list[float]:
    return [item.utterance.duration for item in batch]


def test_each_utterance_comes_once_in_batches_of_like_durations_no_longer_than_asked_for(tmp_path):
    batches = list(epoch(manifest(tmp_path, 2000)).share())
    assert sorted(item.id for batch in batches for item in batch) == sorted(f"u{n}" for n in range(2000))
    padded = sum(len(batch) * max(seconds(batch)) for batch in batches)
    assert all(len(batch) * max(seconds(batch)) <= 60 for batch in batches)
    assert padded < 1.1 * sum(sum(seconds(batch)) for batch in batches)
    assert len(batches) < 1.1 * padded / 60


def test_the_order_depends_on_ids_seed_and_epoch_alone(tmp_path):
    listing = manifest(tmp_path, 300)
    first = ids(epoch(listing))
    lines = (tmp_path / "m.jsonl").read_text().splitlines()
    (tmp_path / "m.jsonl").write_text("\n".join(lines[::-1]) + "\n")
    assert ids(epoch(listed(tmp_path, kind="manifest", path="m.jsonl"))) == first
    assert ids(epoch(listing, 1)) != first != ids(epoch(listing, seed=2))


def test_processes_share_an_epoch_out_from_wherever_a_run_goes_on(tmp_path):
    order = epoch(manifest(tmp_path, 300))
    whole = ids(order)
    for skip, world in ((0, 3), (5, 2)):
        shares = [ids(order, skip + rank, world) for rank in range(world)]
        assert [batch for turn in range(len(shares[0])) for share in shares for batch in share[turn : turn + 1]] == (
            whole[skip:]
        )


def test_no_header_is_read_where_the_manifest_tells_duration_and_rate_and_memory_stays_flat(tmp_path, monkeypatch):
    probed = []
    monkeypatch.setattr(audio, "probe", probed.append)
    tracemalloc.start()
    listing = manifest(tmp_path, 20_000)
    order = epoch(listing)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert probed == []
    assert order.utterances == len(listing) == 20_000
    assert kept < 300 * 20_000
    assert peak < 600 * 20_000


def test_a_header_is_read_where_the_manifest_does_not_tell_all(tmp_path, monkeypatch):
    probed = []

    def probe(path):
        probed.append(path.name)
        return audio.AudioInfo(samples=8000, sample_rate=8000, channels=1)

    monkeypatch.setattr(audio, "probe", probe)
    listing = manifest(tmp_path, 3, sampling_rate=None, duration=None)
    assert probed == ["0.flac", "1.flac", "2.flac"]
    assert listing.seconds.tolist() == [1.0] * 3


def test_what_a_manifest_tells_wrongly_is_found_by_who_loads_it(tmp_path, tone):
    soundfile.write(tmp_path / "0.flac", tone(1.0), 16000)
    [[item]] = epoch(manifest(tmp_path, 1, duration=2.0)).share()
    assert "it ends 1.00 s past the end of" in item.cut().custom["fault"]
    [[item]] = epoch(manifest(tmp_path, 1, duration=0.5, sampling_rate=8000)).share()
    assert (item.cut().duration, item.cut().sampling_rate) == (0.5, 16000)


def test_an_id_that_is_given_twice_is_the_second_ones_fault(tmp_path, monkeypatch):
    (tmp_path / "m.jsonl").write_text('{"id": "x", "audio_filepath": "a", "text": "", "duration": 9}\n' * 2)
    monkeypatch.setattr(audio, "probe", lambda _path: audio.AudioInfo(samples=72000, sample_rate=8000, channels=1))
    listing = listed(tmp_path, kind="manifest", path="m.jsonl")
    assert listing.faulty.tolist() == [False, True]
    fault = listing.waiting(1).utterance.fault
    assert fault == f'{tmp_path}/m.jsonl, line 2: the id "x" is that of {tmp_path}/m.jsonl, line 1 already'

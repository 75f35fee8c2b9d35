"""The order of an epoch is drawn before anything is read: from ids, seed and epoch, and for tar files in windows."""

from __future__ import annotations

import json
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import toy

from asr import audio, recipe
from asr.data.corpora import open_corpora
from asr.data.cuts import Described
from asr.data.listing import Listing
from asr.data.order import Epoch
from asr.data.shar import Held
from asr.data.shards import write_shards


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
    sources = [recipe.ManifestCorpus(**keys) if keys["kind"] == "manifest" else recipe.LhotseCorpus(**keys)]
    return Listing(open_corpora(sources, root))


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


# ------------------------------------------------------------------------------------------------------ tar files


@pytest.fixture(scope="module")
def shar(tmp_path_factory) -> Path:
    """The toy corpus of 60 utterances in files, and in a Shar of several shards."""
    folder = tmp_path_factory.mktemp("shar")
    toy.write_corpus(folder, 60)
    write_shards(listed(folder, kind="manifest", path="train.jsonl"), folder / "s", shard_hours=15 / 3600)
    return folder


def both(folder: Path, **training: object) -> tuple[Epoch, Epoch]:
    options = {"max_batch_seconds": 6.0, "buckets": 3, **training}
    files = epoch(listed(folder, kind="manifest", path="train.jsonl"), **options)
    return files, epoch(listed(folder, kind="lhotse", path="s"), **options)


def test_with_a_window_as_large_as_the_corpus_a_shar_has_the_order_of_files(shar):
    files, tar = both(shar, shuffle_window=60)
    assert ids(tar) == ids(files)
    assert tar.seconds == pytest.approx(files.seconds)


def test_a_smaller_window_shuffles_within_it_and_loses_nothing(shar):
    _, tar = both(shar, shuffle_window=10)
    order = [id for batch in ids(tar) for id in batch]
    assert sorted(order) == sorted(f"train-{n}" for n in range(60))
    stream = [id for number in tar._tapes[0].shards for id in _ids_of(shar / "s", number)]
    moved = [abs(stream.index(id) - place) for place, id in enumerate(order)]
    assert np.mean(moved) < 15
    assert order != stream


def _ids_of(folder: Path, shard: int) -> list[str]:
    import gzip

    lines = gzip.decompress((folder / f"cuts.{shard:06d}.jsonl.gz").read_bytes()).splitlines()
    return [json.loads(line)["id"] for line in lines]


@pytest.mark.parametrize("window", [10, 1000])
def test_processes_share_a_shar_out_and_each_holds_its_own_alone(shar, window):
    _, tar = both(shar, shuffle_window=window)
    whole = ids(tar)
    shares = [ids(tar, rank, 3) for rank in range(3)]
    assert sorted(batch for share in shares for batch in share) == sorted(whole)
    assert ids(tar, 7, 2) == whole[7::2]
    share = tar.share(1, 3)
    next(share)
    [(tape, _)] = share.gi_frame.f_locals["tapes"]
    held = {held.id for held in tape._held.values()}
    assert held <= {id for batch in shares[1] for id in batch}


def test_a_shard_of_which_nothing_is_needed_is_not_opened(shar, monkeypatch):
    from asr.data.shar import Shard

    _, tar = both(shar, shuffle_window=10)
    opened: list[str] = []
    passing = Shard.passing

    def spy(shard):
        opened.append(shard.recordings.name)
        return passing(shard)

    monkeypatch.setattr(Shard, "passing", spy)
    list(tar.share())
    assert Counter(opened) == Counter(f"recording.{n:06d}.tar" for n in range(len(tar._tapes[0].shards)))
    opened.clear()
    list(tar.share(tar.batches - 2))
    assert 0 < len(opened) < len(tar._tapes[0].shards)


def test_a_recording_of_a_shar_is_that_of_the_file_to_the_bit(shar):
    files, tar = both(shar)
    for one, other in zip(files.share(), tar.share(), strict=True):
        for file, held in zip(one, other, strict=True):
            assert isinstance(held, Held)
            expected, found = file.cut(), held.cut()
            assert np.array_equal(expected.load_audio(), found.load_audio())
            assert [s.text for s in expected.supervisions] == [s.text for s in found.supervisions]

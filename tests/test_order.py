"""The order of an epoch is drawn before anything is read: from ids, seed and epoch, and for tar files in windows."""

from __future__ import annotations

import json
import random
import tracemalloc
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import toy
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from asr import audio, recipe
from asr.data.corpora import open_corpora
from asr.data.cuts import Described
from asr.data.listing import Listing, Part
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
    listing = manifest(tmp_path, 5000)
    order = epoch(listing)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert probed == []
    assert order.utterances == len(listing) == 5000
    assert kept < 300 * 5000
    assert peak < 600 * 5000


def test_an_utterance_of_a_manifest_takes_few_bytes_of_memory_even_for_a_moment(tmp_path):
    def peaks(rows: int) -> tuple[int, int]:
        manifest(tmp_path, rows)
        tracemalloc.start()
        try:
            listing = listed(tmp_path, kind="manifest", path="m.jsonl")
            _, to_list = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            epoch(listing)
            return to_list, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few = peaks(2000)
    # Now and then the interpreter's table of names doubles meanwhile, some megabytes at once: not three times in a row.
    many = map(min, zip(*(peaks(12000) for _ in range(3)), strict=True))
    to_list, to_order = ((after - before) / 10000 for before, after in zip(few, many, strict=True))
    assert to_list < 65, "25 kept: seconds, a key, a place in the file; and what sorts them"
    assert to_order < 110


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
    stream = [id for number in tar._tapes[0].shards[0] for id in _ids_of(shar / "s", number)]
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
    assert Counter(opened) == Counter(f"recording.{n:06d}.tar" for n in range(len(tar._tapes[0].shards[0])))
    opened.clear()
    list(tar.share(tar.batches - 2))
    assert 0 < len(opened) < len(tar._tapes[0].shards[0])


def test_a_recording_of_a_shar_is_that_of_the_file_to_the_bit(shar):
    files, tar = both(shar)
    for one, other in zip(files.share(), tar.share(), strict=True):
        for file, held in zip(one, other, strict=True):
            assert isinstance(held, Held)
            expected, found = file.cut(), held.cut()
            assert np.array_equal(expected.load_audio(), found.load_audio())
            assert [s.text for s in expected.supervisions] == [s.text for s in found.supervisions]


# ----------------------------------------------------------------------------------- whatever the corpus is made of


class Paper:
    """A shard of a Shar without audio, of so many seconds each."""

    cuts, recordings = Path("cuts.jsonl"), None

    def __init__(self, cuts: dict[str, float]) -> None:
        self._cuts = cuts

    def lines(self):
        return (json.dumps({"id": id, "duration": duration}).encode() for id, duration in self._cuts.items())


class OnPaper:
    """A listing of utterances of so many seconds, part by part with its weight; a part of shards has their sizes."""

    def __init__(self, *parts: tuple[dict[str, float], float, list[int]]) -> None:
        self.ids = [id for part, _, _ in parts for id in part]
        self.seconds = np.array([duration for part, _, _ in parts for duration in part.values()])
        self.keys = np.array([random.Random(id).getrandbits(64) for id in self.ids], np.uint64)
        self.parts, first = [], 0
        for part, weight, sizes in parts:
            shards, rows, places = [], iter(part.items()), []
            for number, size in enumerate(sizes):
                shards.append(Paper(dict(next(rows) for _ in range(size))))
                places += [(number, line) for line in range(size)]
            table = np.array(places, np.int64).reshape(-1, 2) if sizes else None
            last = first + len(part)
            self.parts.append(Part(first=first, last=last, weight=weight, shards=tuple(shards), places=table))
            first = last

    def __len__(self) -> int:
        return len(self.ids)

    def waiting(self, number: int, turn: int) -> SimpleNamespace:
        return SimpleNamespace(id=self.ids[number], turn=turn)


@st.composite
def listings(draw, *, shars: bool = True, weights: bool = True) -> OnPaper:
    parts = []
    for number in range(draw(st.integers(1, 3))):
        durations = draw(st.lists(st.floats(0.5, 20.0), min_size=1, max_size=25))
        part = {f"{number}-{n}": duration for n, duration in enumerate(durations)}
        weight = draw(st.sampled_from([1.0, 0.25, 0.5, 1.75, 2.0, 3.0])) if weights else 1.0
        sizes = []
        if shars and draw(st.booleans()):
            cuts = sorted(draw(st.lists(st.integers(0, len(part)), max_size=3)))
            sizes = [end - start for start, end in zip([0, *cuts], [*cuts, len(part)], strict=True) if end > start]
        parts.append((part, weight, sizes))
    return OnPaper(*parts)


def heard(order: Epoch, skip: int = 0, every: int = 1) -> list[list[tuple[str, int]]]:
    return [[(item.id, item.turn) for item in batch] for batch in order.share(skip, every)]


a_few = hypothesis_settings(max_examples=25)
training = st.fixed_dictionaries(
    {"max_batch_seconds": st.floats(5.0, 60.0), "buckets": st.integers(1, 6), "shuffle_window": st.integers(1, 40)}
)


@a_few
@given(listings(), training)
def test_in_four_epochs_each_utterance_comes_four_times_its_weight_and_never_twice_the_same(listing, settings):
    epochs = [[pair for batch in heard(epoch(listing, number, **settings)) for pair in batch] for number in range(4)]
    weights = {listing.ids[n]: part.weight for part in listing.parts for n in range(part.first, part.last)}
    for pairs in epochs:
        times = Counter(id for id, _ in pairs)
        assert all(abs(times[id] - weight) < 1 for id, weight in weights.items())
        assert sorted(pairs) == sorted((id, turn) for id, count in times.items() for turn in range(count))
    assert Counter(id for pairs in epochs for id, _ in pairs) == {id: 4 * weight for id, weight in weights.items()}


@a_few
@given(listings(), training)
def test_no_batch_is_larger_than_asked_for_unless_it_is_one_utterance(listing, settings):
    long = dict(zip(listing.ids, listing.seconds.tolist(), strict=True))
    for batch in heard(epoch(listing, **settings)):
        assert len(batch) == 1 or len(batch) * max(long[id] for id, _ in batch) <= settings["max_batch_seconds"]


@a_few
@given(listings(), training, st.integers(0, 30), st.integers(1, 4))
def test_from_any_batch_on_and_among_any_number_of_processes_the_order_is_the_same(listing, settings, skip, world):
    whole = heard(epoch(listing, 3, **settings))
    for rank in range(world):
        assert heard(epoch(listing, 3, **settings), skip + rank, world) == whole[skip + rank :: world]


@a_few
@given(listings(shars=False, weights=False), training, st.randoms(use_true_random=False))
def test_however_files_are_sorted_and_parted_into_corpora_the_order_is_the_same(listing, settings, shuffled):
    rows = list(zip(listing.ids, listing.seconds.tolist(), strict=True))
    shuffled.shuffle(rows)
    middle = len(rows) // 2
    parted = OnPaper((dict(rows[:middle]), 1.0, []), (dict(rows[middle:]), 1.0, []))
    assert heard(epoch(parted, **settings)) == heard(epoch(listing, **settings))


def many(*, weight: float = 1.0, shards: int = 0, utterances: int = 4000) -> OnPaper:
    draw = np.random.default_rng(0)
    part = {f"u{n}": duration for n, duration in enumerate(draw.uniform(1, 16, utterances).tolist())}
    return OnPaper((part, weight, [utterances // shards] * shards if shards else []))


@pytest.mark.parametrize(("shards", "window"), [(0, 1), (20, 10_000), (20, 400)])
def test_long_and_short_batches_come_all_over_an_epoch(shards, window):
    listing = many(shards=shards)
    long = dict(zip(listing.ids, listing.seconds.tolist(), strict=True))
    for number in range(3):
        order = epoch(listing, number, max_batch_seconds=120.0, shuffle_window=window)
        means = [np.mean([long[id] for id, _ in batch]) for batch in heard(order)]
        assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 4 / len(means) ** 0.5
        thirds = [np.mean(part) for part in np.array_split(means, 3)]
        assert max(thirds) < 1.25 * min(thirds)


@pytest.mark.parametrize("weight", [1.0, 0.5, 2.0])
def test_epochs_and_seeds_differ_all_over(weight):
    listing = many(weight=weight, utterances=400)
    orders = [epoch(listing, number, seed=seed) for number, seed in ((0, 1), (1, 1), (2, 1), (0, 2))]
    first, *others = ({frozenset(batch) for batch in ids(order)} for order in orders)
    assert all(len(first & other) <= 2 for other in others)


def test_of_a_shar_that_comes_several_times_an_epoch_the_copies_are_a_pass_apart():
    listing = many(weight=3.0, shards=8, utterances=400)
    order = [pair for batch in heard(epoch(listing, shuffle_window=50)) for pair in batch]
    passes = {pair: place * 3 / len(order) for place, pair in enumerate(order)}
    late = [abs(passes[pair] - pair[1] - 0.5) for pair in passes]
    assert max(late) < 1.0
    assert len({tuple(pair for pair in order if pair[1] == turn) for turn in range(3)}) == 3


def test_an_utterance_that_two_sources_have_is_not_beside_itself_in_each_epoch(tmp_path):
    line = '{{"id": "u{0}", "audio_filepath": "{0}.flac", "text": "", "duration": 2, "sampling_rate": 16000}}\n'
    (tmp_path / "m.jsonl").write_text("".join(line.format(n) for n in range(200)))
    source = recipe.ManifestCorpus(kind="manifest", path="m.jsonl")
    batches = ids(epoch(Listing(open_corpora([source, source], tmp_path))))
    assert Counter(id for batch in batches for id in batch) == {f"u{n}": 2 for n in range(200)}
    assert sum(len(batch) - len({*batch}) for batch in batches) < 40


def test_real_speech_is_padded_little_and_does_not_drift(shared_data):
    listing = listed(shared_data / "mini_librispeech", kind="manifest", path="train.jsonl")
    long = {listing.told(n)[0]: seconds for n, seconds in enumerate(listing.seconds.tolist())}
    for number in range(3):
        batches = [[long[id] for id in batch] for batch in ids(epoch(listing, number, max_batch_seconds=120.0))]
        padding = sum(len(batch) * max(batch) - sum(batch) for batch in batches)
        assert padding < 0.08 * sum(long.values())
        means = [np.mean(batch) for batch in batches]
        assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 4 / len(means) ** 0.5

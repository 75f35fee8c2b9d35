"""An archive is planned, transcribed by many processes and merged: each recording once, whatever dies on the way."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import signal
import sys
import tarfile
import time
import tracemalloc
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import toy
from click.testing import CliRunner
from commands import Command
from commands import run as asr

from asr import audio, files
from asr.cli import main
from asr.cli.archive import progress_line
from asr.errors import AsrError, AudioError, CorpusError
from asr.export.directory import write_graphs
from asr.transcribe import archive, ledger, merge, pool, ray_pool, worker
from asr.transcribe.archive import Entry, Shard
from asr.transcribe.worker import Orders, Refusal, Report, Worker


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """It says nonsense, and needs no torch, which takes seconds to import."""
    from asr import checkpoint

    folder = toy.save_babbler(tmp_path_factory.mktemp("model"))
    write_graphs(checkpoint.load_checkpoint(folder, device="cpu").model, folder, "float32")
    (folder / checkpoint.WEIGHTS).unlink()
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """Twelve of them, each of other letters, from 0.4 to 1.4 s, in two folders."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(12):
        path = folder / f"tape{number % 2}" / f"{number:02}.flac"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, toy.speak("abc"[number % 3] * (number // 3 + 1)), toy.RATE)
    return folder


def planned(folder: Path, *names: object, seconds: float = 2.0) -> list[Shard]:
    archive.write_plan([str(name) for name in names], folder / "plan.jsonl", seconds)
    return list(archive.read_plan(folder / "plan.jsonl"))


def entries(folder: Path, *names: object) -> list[Entry]:
    return [entry for shard in planned(folder, *names) for entry in shard.entries]


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def write_shar(folder: Path, clips: Path) -> Path:
    """As lhotse writes one, of two shards."""
    folder.mkdir()
    found = sorted(clips.rglob("*.flac"))
    for number, part in enumerate((found[:6], found[6:])):
        members = {}
        with gzip.open(folder / f"cuts.{number:06}.jsonl.gz", "wt") as cuts:
            for clip in part:
                cuts.write(json.dumps({"id": clip.stem, "duration": audio.outline(clip).duration}) + "\n")
                members |= {clip.name: clip.read_bytes(), f"{clip.stem}.json": b"{}"}
        write_tar(folder / f"recording.{number:06}.tar", members)
    return folder


# -------------------------------------------------------------------------------------------------------- the plan


def test_a_plan_is_every_recording_once_in_an_order_of_its_own_cut_by_seconds(tmp_path, clips):
    shards = planned(tmp_path, clips)
    ids = [entry.id for shard in shards for entry in shard.entries]
    assert ids == sorted(f"tape{number % 2}/{number:02}.flac" for number in range(12))
    assert [shard.number for shard in shards] == list(range(len(shards)))
    for shard in shards[:-1]:
        assert 2.0 <= shard.seconds < 2.0 + shard.entries[-1].seconds
    assert planned(tmp_path, clips) == shards


def test_recordings_in_a_tar_are_found_by_their_heads(tmp_path, clips):
    found = {f"in/{clip.name}": clip.read_bytes() for clip in sorted(clips.rglob("*.flac"))}
    write_tar(tmp_path / "some.tar", {**found, "in/notes.txt": b"no sound"})
    listed = entries(tmp_path, tmp_path / "some.tar")
    assert [entry.id for entry in listed] == [f"some.tar/{name}" for name in found]
    for entry, (name, content) in zip(listed, found.items(), strict=True):
        assert np.array_equal(audio.read(entry.recording).samples, audio.read(content).samples), name
        assert entry.seconds == pytest.approx(audio.outline(content).duration, abs=0.001)


def test_what_a_manifest_says_is_believed_and_no_header_is_read(tmp_path, monkeypatch):
    lines = [
        {"audio_filepath": "gone.wav", "duration": 2.5, "offset": start, "id": f"at {start}"} for start in (0, 2.5)
    ]
    (tmp_path / "calls.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr(audio, "outline", lambda *_: pytest.fail("a header was read"))
    assert entries(tmp_path, tmp_path / "calls.jsonl") == [
        Entry(id="at 0", recording=tmp_path / "gone.wav", seconds=2.5, duration=2.5),
        Entry(id="at 2.5", recording=tmp_path / "gone.wav", seconds=2.5, offset=2.5, duration=2.5),
    ]


def test_a_shar_is_its_cuts_each_with_its_audio(tmp_path, clips):
    listed = entries(tmp_path, write_shar(tmp_path / "shar", clips))
    assert [entry.id for entry in listed] == [clip.stem for clip in sorted(clips.rglob("*.flac"))]
    for entry, clip in zip(listed, sorted(clips.rglob("*.flac")), strict=True):
        assert np.array_equal(audio.read(entry.recording).samples, audio.read(clip).samples)


def test_a_shar_whose_tar_breaks_off_loses_the_cuts_behind_and_names_each(tmp_path, clips):
    shar = write_shar(tmp_path / "shar", clips)
    tar = shar / "recording.000000.tar"
    tar.write_bytes(tar.read_bytes()[:8000])
    listed = entries(tmp_path, shar)
    lost = [entry.id for entry in listed if entry.fault]
    assert len(listed) == 12
    assert 1 <= len(lost) < 6
    assert [entry.id for entry in listed if not entry.fault] == [entry.id for entry in listed if entry.id not in lost]
    assert "recording.000000.tar cannot be read past" in next(entry.fault for entry in listed if entry.fault)


@pytest.mark.parametrize("kept", [700, 1024, 5000])
def test_a_tar_that_breaks_off_is_named_beside_what_it_holds(tmp_path, kept):
    sound = io.BytesIO()
    soundfile.write(sound, toy.speak("abc"), toy.RATE, format="WAV")
    whole = write_tar(tmp_path / "x.tar", {"a.wav": sound.getvalue(), "b.wav": sound.getvalue()}).read_bytes()
    (tmp_path / "x.tar").write_bytes(whole[: len(sound.getvalue()) // 512 * 512 + kept])
    *found, broken = entries(tmp_path, tmp_path / "x.tar")
    assert found[0].id == "x.tar/a.wav"
    assert (broken.id, f"{tmp_path}/x.tar cannot be read past" in broken.fault) == ("x.tar", True)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("empty", None, "empty holds no recordings: no file in it is called .wav, .flac, .mp3 or the like, or .tar"),
        ("*.wav", None, r"no file matches .*\*.wav"),
        ("x.tar.gz", b"", "x.tar.gz is compressed, and is read from its middle: unpack it to a plain .tar"),
        ("x.jsonl", b"{}\n", "x.jsonl, line 1: 'audio_filepath' is missing"),
        ("gone.jsonl", None, "gone.jsonl cannot be read: No such file"),
    ],
)
def test_what_cannot_be_planned_is_a_sentence_and_no_plan(tmp_path, name, content, sentence):
    (tmp_path / "empty").mkdir()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises((AudioError, CorpusError), match=sentence):
        planned(tmp_path, tmp_path / name)
    assert not (tmp_path / "plan.jsonl").exists()


def test_memory_does_not_grow_with_the_archive(tmp_path):
    def peak(lines: int) -> int:
        """Of the bytes that planning and reading the plan take."""
        manifest = tmp_path / "many.jsonl"
        with manifest.open("w") as file:
            file.writelines(f'{{"audio_filepath": "{number}.wav", "duration": 4}}\n' for number in range(lines))
        tracemalloc.start()
        try:
            archive.write_plan([str(manifest)], tmp_path / "plan.jsonl", 60.0)
            assert sum(len(shard.entries) for shard in archive.read_plan(tmp_path / "plan.jsonl")) == lines
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few = min(peak(100), peak(400))
    # Now and then the interpreter's table of names doubles meanwhile, some megabytes at once: not three times in a row.
    assert any(peak(4000) - few < 20 * 3600 for _ in range(3))


# ------------------------------------------------------------------------------------------------ one worker's shard


@pytest.fixture(scope="module")
def loaded(model, tmp_path_factory) -> Worker:
    working = Worker(Orders(model=model, shards=tmp_path_factory.mktemp("shards")))
    assert working.load() is None
    return working


def written(loaded: Worker, *given: Entry, warily: bool = False) -> list[dict]:
    report = loaded.transcribe(Shard(number=3, entries=given), warily=warily)
    assert isinstance(report, Report), report
    made = rows(loaded._orders.shards / "000003.jsonl")
    assert (report.transcribed, report.failed) == (
        sum("text" in row for row in made),
        sum("error" in row for row in made),
    )
    return made


def test_bad_recordings_are_named_in_their_shard_and_stop_no_other(loaded, clips, tmp_path):
    (tmp_path / "junk.wav").write_bytes(b"junk" * 100)
    whole = (clips / "tape0" / "00.flac").read_bytes()
    damaged = tmp_path / "damaged.wav"
    soundfile.write(damaged, toy.speak("abcabc"), toy.RATE)
    damaged.write_bytes(damaged.read_bytes()[:9000])
    bad, gone, good, hurt = written(
        loaded,
        Entry(id="d", recording=damaged),
        Entry(id="c", recording=clips / "tape0" / "00.flac"),
        Entry(id="b", recording=tmp_path / "gone.wav"),
        Entry(id="a", recording=tmp_path / "junk.wav"),
    )
    assert [row["id"] for row in (bad, gone, good, hurt)] == ["a", "b", "c", "d"]
    assert "junk.wav is not audio that can be read" in bad["error"]
    assert "gone.wav cannot be read: No such file or directory" in gone["error"]
    assert good["duration"] == pytest.approx(audio.outline(whole).duration, abs=0.001)
    assert "damaged.wav is truncated" in hurt["warnings"][0]
    assert "warnings" not in good


def test_a_part_of_a_recording_is_transcribed_as_the_file_of_that_part(loaded, tmp_path):
    sound = toy.speak("abcabc")
    soundfile.write(tmp_path / "whole.wav", sound, toy.RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "part.wav", sound[4000:12000], toy.RATE, subtype="FLOAT")
    part, cut, rounded, whole = written(
        loaded,
        Entry(id="a", recording=tmp_path / "part.wav"),
        Entry(id="b", recording=tmp_path / "whole.wav", offset=0.5, duration=1.0),
        Entry(id="c", recording=tmp_path / "whole.wav", duration=round(len(sound) / toy.RATE, 1)),
        Entry(id="d", recording=tmp_path / "whole.wav"),
    )
    assert part["text"]
    assert [cut[key] for key in ("text", "words", "duration")] == [part[key] for key in ("text", "words", "duration")]
    assert rounded["words"] == whole["words"]


def test_a_recording_that_a_library_stumbles_over_fails_alone(loaded, clips, monkeypatch):
    emit = loaded._recogniser.network.emit
    long = 8000 * audio.outline(clips / "tape1" / "11.flac").duration

    def stumble(waveforms):
        if max(map(len, waveforms)) >= long:
            raise RuntimeError("too much")
        return emit(waveforms)

    monkeypatch.setattr(loaded._recogniser.network, "emit", stumble)
    found = [Entry(id=clip.stem, recording=clip) for clip in sorted(clips.rglob("*.flac"))]
    failed = [row for row in written(loaded, *found) if "error" in row]
    assert {row["id"] for row in failed} == {"09", "10", "11"}
    assert failed[0]["error"] == "RuntimeError in stumble: too much"


def test_a_recording_that_processes_die_of_is_left_out_and_named(loaded, clips, monkeypatch):
    good, deadly = Entry(id="good", recording=clips / "tape0" / "00.flac"), Entry(id="deadly", recording=clips / "x")
    read = Worker._rows

    def die(working, given):
        if deadly in given:
            raise KeyboardInterrupt
        return read(working, given)

    monkeypatch.setattr(Worker, "_rows", die)
    for _ in range(worker.DEADLY):
        with pytest.raises(KeyboardInterrupt):
            written(loaded, good, deadly, warily=True)
    bad, well = written(loaded, good, deadly, warily=True)
    assert bad["error"] == "the process that read it died, each time"
    assert well["text"]
    assert [path.name for path in loaded._orders.shards.iterdir()] == ["000003.jsonl"]


def test_a_model_that_does_not_load_and_a_full_disk_are_refusals(model, clips, tmp_path, monkeypatch):
    refused = Worker(Orders(model=tmp_path / "gone", shards=tmp_path)).load()
    assert isinstance(refused, Refusal)
    assert f"{tmp_path}/gone" in refused.sentence
    full = Worker(Orders(model=model, shards=tmp_path))
    assert full.load() is None

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    refused = full.transcribe(Shard(number=0, entries=(Entry(id="a", recording=clips / "tape0" / "00.flac"),)))
    assert isinstance(refused, Refusal)
    assert "000000.jsonl cannot be written: No space left on device" in refused.sentence
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------ many workers


class Fates:
    """A pool without processes. ``fates`` are what becomes of whoever gets a shard, in turn: "done" or "dies"."""

    def __init__(self, fates: str, stillborn: bool = False) -> None:
        self._fates, self._stillborn = iter(fates.split()), stillborn
        self._happened: list[pool.Event] = []
        self.started = 0
        self.given: list[tuple[int, bool]] = []

    def start(self) -> int:
        self.started += 1
        self._happened.append(
            pool.Died(worker=self.started, reason="exit code 1") if self._stillborn else pool.Ready(worker=self.started)
        )
        return self.started

    def give(self, worker: int, shard: Shard, *, warily: bool) -> None:
        self.given.append((shard.number, warily))
        if next(self._fates, "done") == "dies":
            self._happened.append(pool.Died(worker=worker, reason="killed by SIGKILL"))
        else:
            report = Report(number=shard.number, transcribed=1, failed=0, seconds=1.0, processor_seconds=0.1)
            self._happened.append(pool.Done(worker=worker, report=report))

    def events(self, _seconds: float) -> list[pool.Event]:
        happened, self._happened = self._happened, []
        return happened

    def close(self) -> None: ...


SHARDS = [Shard(number=number, entries=()) for number in range(6)]


@pytest.mark.parametrize("workers", [1, 2, 9])
@pytest.mark.parametrize("fates", ["", "dies", "done dies dies", "dies dies dies dies"])
def test_every_shard_is_finished_once_whoever_dies(workers, fates):
    fated = Fates(fates)
    finished = [report.number for report in pool.work_off(SHARDS, fated, workers) if report]
    assert sorted(finished) == list(range(6))
    assert len(fated.given) == 6 + fates.count("dies")
    assert fated.started == workers + fates.count("dies")


def test_a_shard_that_workers_die_of_is_read_warily():
    fated = Fates("dies dies")
    list(pool.work_off(SHARDS[:1], fated, 1))
    assert fated.given == [(0, False), (0, False), (0, True)]


def test_workers_that_die_as_they_start_are_not_started_for_ever():
    with pytest.raises(AsrError, match="the processes that transcribe die as they start: exit code 1"):
        list(pool.work_off(SHARDS, Fates("", stillborn=True), 2))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((0.0, 0.0, 36000.0, 5.0, 0), "0.0 of 10.0 hours of audio, 0 failed"),
        ((0.0, 7200.0, 36000.0, 60.0, 3), "2.0 of 10.0 hours of audio, 120 hours an hour, 0:04:00 left, 3 failed"),
        ((18000.0, 7200.0, 36000.0, 60.0, 0), "7.0 of 10.0 hours of audio, 120 hours an hour, 0:01:30 left, 0 failed"),
    ],
)
def test_one_line_tells_of_all_workers(arguments, line):
    assert progress_line(*arguments) == line


# ------------------------------------------------------------------------------------------------------- merging


def write_shards(folder: Path, ids: list[list[str]]) -> list[Path]:
    paths = []
    for number, some in enumerate(ids):
        paths.append(worker.shard_file(folder, number))
        made = [{"id": id, "file": f"{number}/{id}", "duration": 1.5, "text": id, "words": []} for id in sorted(some)]
        paths[-1].write_text("".join(json.dumps(row) + "\n" for row in made))
    return paths


def test_shards_merge_by_id_and_of_doubles_the_first_stays(tmp_path):
    shards = write_shards(tmp_path, [["c", "a"], ["b", "a"]])
    merged = merge.merge(shards, tmp_path, ["txt"])
    assert [(row["id"], row["file"]) for row in rows(tmp_path / "transcripts.jsonl")] == [
        ("a", "0/a"),
        ("b", "1/b"),
        ("c", "0/c"),
    ]
    assert rows(tmp_path / "failures.jsonl") == [{"id": "a", "file": "1/a", "error": "the id a is that of 0/a"}]
    assert (merged.transcribed, merged.failed, merged.seconds) == (3, 1, 4.5)
    assert (tmp_path / "transcripts.txt").read_text() == "a\ta\nb\tb\nc\tc\n"


def test_more_shards_than_files_may_be_open_merge_alike(tmp_path, monkeypatch):
    shards = write_shards(tmp_path, [[f"{number * 7 % 40:02}", f"x{number:02}"] for number in range(40)])
    merge.merge(shards, tmp_path)
    whole = (tmp_path / "transcripts.jsonl").read_bytes()
    monkeypatch.setattr(merge, "OPEN_FILES", 3)
    merge.merge(shards, tmp_path)
    assert (tmp_path / "transcripts.jsonl").read_bytes() == whole
    assert [row["id"] for row in rows(tmp_path / "transcripts.jsonl")] == sorted(
        id for number in range(40) for id in (f"{number:02}", f"x{number:02}")
    )
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_merging_takes_no_memory_by_the_transcript(tmp_path, monkeypatch):
    monkeypatch.setattr(merge, "OPEN_FILES", 4)

    def peak(shards: int) -> int:
        folder = tmp_path / str(shards)
        folder.mkdir(exist_ok=True)
        paths = write_shards(folder, [[f"{number:03}-{place:02}" for place in range(40)] for number in range(shards)])
        tracemalloc.start()
        try:
            assert merge.merge(paths, folder).transcribed == 40 * shards
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(2)
    assert any(peak(80) - peak(10) < 20 * 2800 for _ in range(3))


# ------------------------------------------------------------------------------------------------ what is remembered


def test_a_folder_goes_on_with_its_plan_and_refuses_others(tmp_path, clips):
    def opened(*names: object, minutes: float = 1.0, overwrite: bool = False, **settings: object) -> ledger.Ledger:
        return ledger.open_ledger(out, list(map(str, names)), settings, shard_minutes=minutes, overwrite=overwrite)

    out = tmp_path / "out"
    out.mkdir()
    more = tmp_path / "more.flac"
    more.write_bytes((clips / "tape0" / "00.flac").read_bytes())
    first = opened(clips, more, model="m")
    assert first.is_new
    assert not opened(clips, more, model="m").is_new
    (ledger.shards_folder(out) / "000000.jsonl").touch()
    with pytest.raises(AsrError, match=r"other settings \(model: m then, n now\): go on as it was begun, give another"):
        opened(clips, more, model="n")
    with pytest.raises(AsrError, match="was begun with 13 files, and 12 are named now"):
        opened(clips, model="m")
    os.utime(more, ns=(0, 0))
    with pytest.raises(AsrError, match="other files, or some of them have changed since"):
        opened(clips, more, model="m")
    assert (ledger.shards_folder(out) / "000000.jsonl").exists()
    anew = opened(clips, more, model="n", overwrite=True)
    assert anew.is_new
    assert not any(map(anew.is_finished, anew.all_shards()))


# -------------------------------------------------------------------------------------------------- the command


def command(model: Path, clips: Path, out: Path, *options: object) -> list[object]:
    return ["archive", clips, "-o", out, "--model", model, "--shard-minutes", 0.001, *options]


def finished(out: Path) -> dict[str, int]:
    """Shards, and when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in (out / "shards").glob("*.jsonl")}


def wait_for(out: Path, shards: int, running: Command) -> None:
    while len(finished(out)) < shards:
        assert running.returncode is None, running.stderr()
        time.sleep(0.01)


def workers_of(running: Command) -> list[int]:
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.fixture(scope="module")
def mixed(clips, tmp_path_factory) -> Path:
    """The clips, and one that cannot be read."""
    folder = tmp_path_factory.mktemp("mixed")
    shutil.copytree(clips, folder, dirs_exist_ok=True)
    (folder / "tape0" / "bad.wav").write_bytes(b"junk")
    return folder


@pytest.fixture(scope="module")
def alone(model, mixed, tmp_path_factory) -> Path:
    """What one process makes of them."""
    out = tmp_path_factory.mktemp("alone")
    done = asr(*command(model, mixed, out, "--workers", 1, "--format", "json,txt,ctm"))
    assert done.returncode == 1, done.stderr.decode()
    assert "12 transcribed, 1 failed (see" in done.stderr.decode()
    return out


def test_an_output_folder_is_one_runs_at_a_time(model, clips, tmp_path):
    with files.claimed(tmp_path, ledger.LOCK, "transcribed into", "give another --out"):
        refused = CliRunner().invoke(main, [str(word) for word in command(model, clips, tmp_path)])
    assert (refused.exit_code, refused.stderr) == (
        1,
        f"asr: {tmp_path} is being transcribed into by this process already: give another --out\n",
    )


def test_whoever_is_killed_the_transcripts_are_those_of_one_process_and_little_is_done_twice(
    model, mixed, alone, tmp_path
):
    out = tmp_path / "many"
    killed = Command(*command(model, mixed, out, "--workers", 2, "--format", "json,txt,ctm"))
    wait_for(out, 1, killed)
    for process in workers_of(killed)[:1]:
        os.kill(process, signal.SIGKILL)
    wait_for(out, 4, killed)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    before = finished(out)
    done = asr(*command(model, mixed, out, "--workers", 2, "--format", "json,txt,ctm"))
    assert "going on with" in done.stderr.decode()
    assert finished(out).keys() == finished(alone).keys()
    assert sum(finished(out)[name] != when for name, when in before.items()) <= 2
    for name in ("transcripts.jsonl", "transcripts.txt", "transcripts.ctm", "failures.jsonl"):
        assert (out / name).read_bytes() == (alone / name).read_bytes(), name
    ids = Counter(row["id"] for row in rows(out / "transcripts.jsonl") + rows(out / "failures.jsonl"))
    assert len(ids) == 13
    assert set(ids.values()) == {1}


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Ray's own
def test_a_ray_cluster_that_loses_a_node_transcribes_what_one_process_does(model, mixed, alone, tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="needs ray: pip install ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    out = tmp_path / "many"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        node = cluster.add_node(num_cpus=1)
        running = Command(*command(model, mixed, out, "--workers", 2, "--ray", cluster.address))
        wait_for(out, 3, running)
        before = finished(out)
        cluster.remove_node(node, allow_graceful=False)
        done = running.wait()
    finally:
        cluster.shutdown()
    assert "12 transcribed, 1 failed (see" in done.stderr.decode()
    assert all(finished(out)[name] == when for name, when in before.items())
    for name in ("transcripts.jsonl", "failures.jsonl"):
        assert (out / name).read_bytes() == (alone / name).read_bytes(), name


def test_a_ray_cluster_without_a_processor_to_spare_is_said_and_waited_for(tmp_path, monkeypatch, caplog):
    actor = SimpleNamespace(remote=lambda *_: SimpleNamespace(load=SimpleNamespace(remote=object)))
    full = SimpleNamespace(
        init=lambda **_: None,
        remote=lambda **_: lambda _worker: actor,
        wait=lambda asked, timeout: ([], asked),  # noqa: ARG005
        cluster_resources=lambda: {"CPU": 2.0},
        available_resources=dict,
    )
    monkeypatch.setitem(sys.modules, "ray", full)
    monkeypatch.setattr(ray_pool, "PATIENCE_SECONDS", -1.0)
    waiting = ray_pool.RayPool(Orders(model=tmp_path, shards=tmp_path, threads=2), "auto")
    waiting.start()
    assert waiting.events(0.0) == []
    assert caplog.messages == [
        "no worker has begun: each needs 2 processors of one node, and in the cluster 0 of 2 CPUs and 0 of 0 GPUs are "
        "free; waiting for nodes that have them"
    ]


def test_without_ray_it_is_named_with_the_line_to_type(model, clips, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    refused = CliRunner().invoke(main, [str(word) for word in command(model, clips, tmp_path, "--ray", "auto")])
    assert (refused.exit_code, 'asr archive --ray needs the package "ray"' in refused.stderr) == (1, True)

"""asr shards: a corpus in tar files, without loss; training from them is training from files."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import toy
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file

from asr import recipe
from asr.cli import main
from asr.data import shards
from asr.data.batches import load_channels, reading_as_training_does
from asr.data.corpora import open_corpora
from asr.data.listing import Listing
from asr.data.order import Epoch
from asr.data.shar import Tape
from asr.errors import CorpusError
from asr.recipe.reading import validate_recipe
from asr.train.acoustic import train_acoustic_model as train

pytestmark = [
    pytest.mark.usefixtures("no_pictures"),
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),  # lhotse 1.33 leaves Shar's tar files open
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """30 utterances, of which one is no audio, and a dev set."""
    folder = tmp_path_factory.mktemp("corpus")
    toy.write_corpus(folder, 30, name="train")
    toy.write_corpus(folder, 4, seed=9, name="dev")
    (folder / "train" / "7.flac").write_bytes(b"fLaC, but no more")
    return folder


def convert(corpus: Path, out: Path, *options: object):
    path = toy.write_recipe(corpus / "toy.yaml")
    words = ["shards", path, "--data", corpus, "-o", out, "--shard-hours", 8 / 3600, *options]
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def written(corpus):
    done = convert(corpus, corpus / "tar")
    assert done.exit_code == 0, done.output
    return done


def listed(**keys: object) -> Listing:
    return Listing(open_corpora([recipe.LhotseCorpus(kind="lhotse", **keys)], Path("/")))


def test_it_names_what_cannot_be_read_and_prints_the_lines_for_the_recipe(corpus, written):
    said = yaml.safe_load(written.stdout)
    assert said == {"corpora": {"train": [{"kind": "lhotse", "name": "train", "path": str(corpus / "tar" / "train")}]}}
    assert "left out: train-7: " in written.stderr
    told = json.loads((corpus / "tar" / "train.json").read_text())
    assert told["utterances"] == 29
    assert [left["id"] for left in told["left_out"]] == ["train-7"]
    assert told["shards"] == len(list((corpus / "tar" / "train").glob("recording.*.tar"))) > 2
    assert sorted(path.name for path in (corpus / "tar").iterdir()) == ["train", "train.json"]


def test_lhotse_opens_what_was_written(corpus, written):  # noqa: ARG001
    from lhotse import CutSet

    cuts = list(CutSet.from_shar(in_dir=corpus / "tar" / "train"))
    assert sorted(cut.id for cut in cuts) == sorted(f"train-{n}" for n in range(30) if n != 7)
    rows = {row["id"]: row for row in map(json.loads, (corpus / "train.jsonl").read_text().splitlines())}
    for cut in cuts:
        samples, _ = soundfile.read(corpus / rows[cut.id]["audio_filepath"], dtype="float32")
        with reading_as_training_does():
            assert np.array_equal(load_channels(cut), samples[None])
        assert (cut.supervisions[0].text, cut.supervisions[0].speaker) == (
            rows[cut.id]["text"],
            rows[cut.id]["speaker"],
        )


def test_a_conversion_that_was_stopped_goes_on_to_the_same_bytes(corpus, written, tmp_path, monkeypatch):  # noqa: ARG001
    write, calls = shards._write_shard, []

    def stop_at_the_third(*arguments):
        calls.append(arguments[-1])
        if len(calls) == 3:
            raise KeyboardInterrupt
        write(*arguments)

    monkeypatch.setattr(shards, "_write_shard", stop_at_the_third)
    assert convert(corpus, tmp_path).exit_code == 1
    assert not (tmp_path / "train").exists()
    other = convert(corpus, tmp_path, "--shard-hours", 1)
    assert "was begun with another corpus or shard size" in other.output
    assert convert(corpus, tmp_path).exit_code == 0
    assert calls.count(0) == calls.count(1) == 1, "what was whole is not written again"
    expected = {path.name: path.read_bytes() for path in (corpus / "tar" / "train").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "train").iterdir()} == expected
    assert "is there already" in convert(corpus, tmp_path).output


@pytest.mark.parametrize(
    ("name", "subtype", "suffix", "exact"),
    [
        ("a.wav", "PCM_16", ".flac", True),
        ("a.wav", "PCM_24", ".flac", True),
        ("a.wav", "FLOAT", ".flac", False),
        ("a.flac", "PCM_16", ".flac", True),
        ("a.ogg", "VORBIS", ".ogg", True),
    ],
)
def test_audio_is_kept_without_loss_and_finer_numbers_to_24_bits(tmp_path, name, subtype, suffix, exact):
    draw = np.random.default_rng(0)
    soundfile.write(tmp_path / name, draw.uniform(-0.5, 0.5, (8000, 2)), 16000, subtype=subtype)
    (tmp_path / "m.jsonl").write_text(json.dumps({"id": "x", "audio_filepath": name, "text": "a"}) + "\n")
    source = recipe.ManifestCorpus(kind="manifest", path="m.jsonl")
    listing = Listing(open_corpora([source], tmp_path))
    shards.write_shards(listing, tmp_path / "s", shard_hours=1)
    with tarfile.open(tmp_path / "s" / "recording.000000.tar") as tar:
        assert tar.getnames() == [f"x{suffix}", "x.json"]
    [[held]] = Epoch(listed(path=str(tmp_path / "s")), recipe.Training(), seed=0, number=0).share()
    with reading_as_training_does():
        found, expected = load_channels(held.cut()), load_channels(listing.waiting(0).cut())
    assert np.array_equal(found, expected) is exact
    assert np.abs(found - expected).max() <= 2**-24


def settings(source: dict[str, object], **training: object) -> recipe.Recipe:
    raw = toy.recipe()
    corpora = {**raw["corpora"], "train": [source]}
    small = {"epochs": 2, "max_batch_seconds": 4.0, "save_minutes": 1e-6, **training}
    return validate_recipe({**raw, "corpora": corpora, "training": {**raw["training"], **small}}, "toy")


def losses(directory: Path) -> list[float]:
    lines = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    return [line["train_loss"] for line in lines if line["kind"] == "epoch"]


def test_training_from_tar_files_is_training_from_files_where_the_window_takes_all(corpus, written, tmp_path):  # noqa: ARG001
    # The file that is no audio would have a place in a batch, of which the Shar knows nothing.
    rows = (corpus / "train.jsonl").read_text().splitlines(keepends=True)
    (corpus / "good.jsonl").write_text("".join(row for row in rows if '"train-7"' not in row))
    train(settings({"kind": "manifest", "path": "good.jsonl"}), tmp_path / "files", root=corpus)
    train(settings({"kind": "lhotse", "path": "tar/train"}), tmp_path / "tar", root=corpus)
    assert losses(tmp_path / "tar") == pytest.approx(losses(tmp_path / "files"), abs=1e-6)
    one, other = (load_file(tmp_path / name / "last.safetensors") for name in ("files", "tar"))
    assert all((one[key] == other[key]).all() for key in one)


def test_a_run_from_tar_files_that_was_killed_ends_as_if_it_had_not_been(corpus, written, tmp_path, monkeypatch):  # noqa: ARG001
    tar = settings({"kind": "lhotse", "path": "tar/train"}, shuffle_window=8, workers=1)
    train(tar, tmp_path / "whole", root=corpus)
    with monkeypatch.context() as patch:
        toy.kill_after(3, patch)
        with pytest.raises(KeyboardInterrupt):
            train(tar, tmp_path / "cut", root=corpus)
    train(tar, tmp_path / "cut", root=corpus, resume=True)
    one, other = (load_file(tmp_path / name / "last.safetensors") for name in ("whole", "cut"))
    assert all((one[key] == other[key]).all() for key in one)


@pytest.mark.parametrize("keep", [100, 600, 1500, 3000])
def test_a_tar_file_that_breaks_off_anywhere_is_a_corpus_error_in_training_too(corpus, written, tmp_path, keep):  # noqa: ARG001
    for path in (corpus / "tar" / "train").iterdir():
        content = path.read_bytes()
        (tmp_path / path.name).write_bytes(content[:keep] if path.name == "recording.000000.tar" else content)
    table = listed(path=str(tmp_path))
    [part] = table.parts
    tape = Tape(part.shards, part.places, [range(len(part.shards))], np.ones((1, len(table)), np.bool_))
    with pytest.raises(CorpusError, match=r"recording\.000000\.tar (cannot be read|lacks recordings)"):
        tape.read_to(len(tape))

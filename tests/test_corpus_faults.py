"""Nothing of a corpus vanishes unsaid: what cannot be used is named by its file and line, and the rest still comes."""

from __future__ import annotations

import gc
import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from asr.cli import main
from asr.data.batches import Utterances, load_batches
from asr.data.corpora import open_corpora
from asr.data.remarks import remarks
from asr.errors import CorpusError
from asr.recipe import reading
from asr.score.transcripts import read_references

RATE = 16000
SHARED = Path(__file__).parents[2] / "shared" / "faults"


def recording(path: Path, seconds: float = 1.0, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.sin(np.arange(round(seconds * RATE)) / 10)
    soundfile.write(path, np.stack([samples] * channels, axis=1), RATE)
    return path


def mixture(root: Path, **keys):
    corpora = {"train": [keys], "dev": [keys]}
    return open_corpora(reading.validate_recipe({"corpora": corpora}, "test").corpora.train, root)


def read(root: Path, **keys) -> tuple[dict[str, str], dict[str, str]]:
    """The texts of a corpus's utterances by id, and the reasons for those that were left out."""
    batches = list(
        load_batches(
            mixture(root, **keys).whole(), Utterances(sample_rate=RATE, normalisation="words"), max_batch_seconds=60
        )
    )
    texts = {id: text for batch in batches for id, text in zip(batch.ids, batch.texts, strict=True)}
    return texts, {rejection.id: rejection.reason for batch in batches for rejection in batch.rejected}


def refusal(root: Path, **keys) -> str:
    with pytest.raises(CorpusError) as caught:
        list(mixture(root, **keys).whole())
    return str(caught.value)


# --------------------------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize(
    ("name", "table", "line", "reason"),
    [
        ("m.csv", "audio_filepath,text\na.wav,one, two\n", 2, "3 cells for 2 columns, a comma that is not between"),
        ("m.csv", "audio_filepath,text\na.wav,one\na.wav,one, two\n", 3, "the surplus: ' two'"),
        ("m.tsv", "audio_filepath\ttext\na.wav\tone\ttwo\n", 2, "3 cells for 2 columns, a tab too many"),
        (
            "m.csv",
            'audio_filepath,text\na.wav,"one\na.wav,two\n',
            2,
            "a quotation mark opens a cell and none closes it",
        ),
        ("m.csv", 'audio_filepath,text\na.wav,"one" two\n', 2, "',' expected after '\"'"),
        ("m.csv", "audio_filepath,text,text\na.wav,one,two\n", 1, "two columns are called 'text'"),
        ("m.jsonl", '{"audio_filepath": "a.wav", "text": ["one", "two"]}', 1, "expected a string as text, found ["),
        ("m.jsonl", '{"audio": {"path": "a.wav"}, "text": "one"}', 1, "expected a string as audio, found {"),
        ("m.jsonl", '{"audio_filepath": "a.wav", "text": "one", "id": ' + "9" * 5000 + "}", 1, "thousands of digits"),
    ],
)
def test_a_row_that_is_not_what_its_columns_say_is_named_by_its_line(tmp_path, name, table, line, reason):
    recording(tmp_path / "a.wav")
    (tmp_path / name).write_text(table)
    message = refusal(tmp_path, kind="manifest", path=name)
    assert message.startswith(f"{tmp_path / name}, line {line}: ")
    assert reason in message


@pytest.mark.parametrize(
    "columns",
    [
        ("audio_filepath", "text", "speaker"),
        ("wav_filename", "transcript", "speaker_id"),
        ("path", "sentence", "client_id"),
        ("file_name", "transcription", "speaker"),
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_manifests_of_other_tools_are_understood_by_the_names_of_their_columns(tmp_path, columns, suffix):
    recording(tmp_path / "a.wav")
    row = dict(zip(columns, ("a.wav", "one two", "ann"), strict=True))
    sign = "," if suffix == "csv" else "\t"
    table = json.dumps(row) if suffix == "jsonl" else f"{sign.join(row)}\n{sign.join(row.values())}\n"
    (tmp_path / f"m.{suffix}").write_text(table)
    [cut] = mixture(tmp_path, kind="manifest", path=f"m.{suffix}").whole()
    assert (cut.supervisions[0].text, cut.supervisions[0].speaker) == ("one two", "ann")
    [line] = read_references(tmp_path / f"m.{suffix}").lines
    assert (line.id, line.text, line.speaker, line.audio) == ("a.wav", "one two", "ann", tmp_path / "a.wav")


# ---------------------------------------------------------------------------------------------- ids, times, channels


def rows(root: Path, *some: dict) -> None:
    (root / "m.jsonl").write_text("".join(json.dumps({"text": "hi", **row}) + "\n" for row in some))


def test_an_id_that_comes_again_is_left_out_and_named_with_both_lines(tmp_path):
    recording(tmp_path / "a.wav"), recording(tmp_path / "b.wav", 0.5)
    rows(
        tmp_path,
        {"id": "u", "audio_filepath": "a.wav", "text": "one"},
        {"id": "u", "audio_filepath": "b.wav", "text": "two"},
        {"audio_filepath": "b.wav"},
    )
    texts, left_out = read(tmp_path, kind="manifest", path="m.jsonl")
    assert texts == {"u": "one", "m-000003": "hi"}
    where = tmp_path / "m.jsonl"
    assert left_out == {"u": f'{where}, line 2: the id "u" is that of {where}, line 1 already'}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"duration": 6.7}, "it ends 5.70 s past the end of"),
        ({"offset": 2.0}, "it ends 1.00 s past the end of"),
        ({"offset": 0.5, "duration": 1.2}, "it ends 0.70 s past the end of"),
        ({"duration": 1e-9}, "1e-09 s is less than one sample"),
    ],
)
def test_a_stretch_that_its_recording_does_not_hold_is_named(tmp_path, row, reason):
    recording(tmp_path / "a.wav")
    rows(tmp_path, {"id": "u", "audio_filepath": "a.wav", **row}, {"id": "v", "audio_filepath": "a.wav"})
    texts, left_out = read(tmp_path, kind="manifest", path="m.jsonl")
    assert texts == {"v": "hi"}
    assert left_out["u"].startswith(f"{tmp_path / 'm.jsonl'}, line 1: {reason}")


def test_a_duration_that_is_rounded_up_ends_with_its_recording(tmp_path):
    recording(tmp_path / "a.wav")
    rows(tmp_path, {"id": "u", "audio_filepath": "a.wav", "duration": 1.4})
    assert read(tmp_path, kind="manifest", path="m.jsonl") == ({"u": "hi"}, {})


def test_channels_that_cancel_are_named(tmp_path):
    samples = np.sin(np.arange(RATE) / 10)
    soundfile.write(tmp_path / "a.wav", np.stack([samples, -samples], axis=1), RATE)
    recording(tmp_path / "b.wav", channels=2)
    rows(tmp_path, {"id": "u", "audio_filepath": "a.wav"}, {"id": "v", "audio_filepath": "b.wav"})
    texts, left_out = read(tmp_path, kind="manifest", path="m.jsonl")
    assert texts == {"v": "hi"}
    assert "its channels cancel each other" in left_out["u"]


# ---------------------------------------------------------------------------------------------------------- Kaldi


def kaldi(root: Path, **files: str) -> Path:
    recording(root / "k" / "r1.wav", 2.0)
    for name, content in files.items():
        (root / "k" / name.replace("_", ".")).write_text(content)
    return root / "k"


def test_what_a_kaldi_directory_contradicts_itself_in_is_named_by_file_and_line(tmp_path):
    folder = kaldi(
        tmp_path,
        wav_scp="r1 r1.wav\n",
        text="u1 one\nu2 two\nu3 three\nu4 four\nu5 five\nu1 again\n",
        segments="u1 r1 0.0 99\nu2 r1 0.5 0.5\nu3 r1 1.0 -1\nu4 r1 0 1\n",
    )
    assert read(tmp_path, kind="kaldi", path="k")[0] == {"u3": "three", "u4": "four"}
    assert rejected(tmp_path, kind="kaldi", path="k") == {
        ("u1", f"{folder / 'text'}, line 6: u1 has a text in line 1 already"),
        ("u1", f"{folder / 'segments'}, line 1: it ends 97.00 s past the end of {folder / 'r1.wav'}, which has 2.00 s"),
        ("u2", f"{folder / 'segments'}, line 2: it starts where it ends, at 0.5 s"),
        ("u5", f"{folder / 'text'}, line 5: u5 has a text and no segment"),
    }


def rejected(root: Path, **keys) -> set[tuple[str, str]]:
    cuts = mixture(root, **keys).whole()
    dataset = Utterances(sample_rate=RATE, normalisation="words")
    return {(r.id, r.reason) for batch in load_batches(cuts, dataset, max_batch_seconds=60) for r in batch.rejected}


def test_a_segment_that_ends_at_minus_one_ends_with_its_recording(tmp_path):
    kaldi(tmp_path, wav_scp="r1 r1.wav\n", text="u1 one\n", segments="u1 r1 0.5 -1\n")
    [cut] = mixture(tmp_path, kind="kaldi", path="k").whole()
    assert (cut.start, cut.duration) == (0.5, 1.5)


def test_recordings_of_a_wav_scp_are_found_from_the_working_directory_too(tmp_path, monkeypatch):
    kaldi(tmp_path, wav_scp="r1 sounds/a.wav\nr2 r1.wav\n", text="r1 one\nr2 two\n")
    recording(tmp_path / "sounds" / "a.wav")
    monkeypatch.chdir(tmp_path)
    texts, left_out = read(tmp_path, kind="kaldi", path="k")
    assert (texts, left_out) == ({"r1": "one", "r2": "two"}, {})


# --------------------------------------------------------------------------------------------------------- folders


def test_a_folder_corpus_takes_every_recording_in_linked_folders_too(tmp_path):
    formats = ["wav", "flac", "aiff", "caf", "ogg", "mp3"]
    for suffix in formats:
        recording(tmp_path / "real" / f"{suffix}.{suffix}").with_suffix(".txt").write_text(suffix)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "ann").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "round").symlink_to(tmp_path / "c")
    texts, left_out = read(tmp_path, kind="folder", path="c")
    assert sorted(texts) == sorted(f"ann/{suffix}" for suffix in formats)
    assert left_out == {}


# ---------------------------------------------------------------------------------------------------------- lhotse


def lhotse_cut(**changes) -> dict:
    source = {"type": "file", "channels": [0], "source": "a.wav"} | changes.pop("source", {})
    speaker = changes.pop("speaker", "ann")
    told = {"id": "r", "sources": [source], "sampling_rate": RATE, "num_samples": RATE, "duration": 1.0}
    return {
        "id": "c1",
        "type": "MonoCut",
        "start": 0.0,
        "duration": 0.5,
        "channel": 0,
        "supervisions": [
            {"id": "s", "recording_id": "r", "start": 0.0, "duration": 0.5, "text": "hi", "speaker": speaker}
        ],
        "recording": told | changes.pop("recording", {}),
    } | changes


BROKEN = {
    "deep": "[" * 5000,
    "a list": "[1]",
    "a number": "7",
    "no duration": lhotse_cut(duration=None),
    "less than nothing": lhotse_cut(duration=-1.0),
    "no rate": lhotse_cut(recording={"sampling_rate": 0}),
    "no source": lhotse_cut(source={"source": None}),
    "of a Shar": lhotse_cut(source={"type": "shar", "source": ""}),
    "half a pair": lhotse_cut(speaker="\ud800"),
    "no id": {key: value for key, value in lhotse_cut().items() if key != "id"},
    "no tracks": {"id": "m", "type": "MixedCut", "tracks": []},
    "no type": {key: value for key, value in lhotse_cut().items() if key != "type"},
    "a number for a text": lhotse_cut(
        supervisions=[{"id": "s", "recording_id": "r", "start": 0.0, "duration": 0.5, "text": 5}]
    ),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_line_that_lhotse_cannot_use_is_a_corpus_error_of_that_line(tmp_path, broken):
    recording(tmp_path / "a.wav")
    line = BROKEN[broken] if isinstance(BROKEN[broken], str) else json.dumps(BROKEN[broken])
    (tmp_path / "c.jsonl").write_text(json.dumps(lhotse_cut(id="c0")) + "\n" + line + "\n")
    message = refusal(tmp_path, kind="lhotse", path="c.jsonl")
    assert message.startswith(f"{tmp_path / 'c.jsonl'}, line 2: ")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("cut", "reason"),
    [
        (lhotse_cut(source={"channels": [0, 1, 2]}), "its recording has fewer channels than the cut names"),
        (lhotse_cut(recording={"num_samples": "many", "duration": "long"}), "not supported between"),
    ],
)
def test_a_cut_that_its_recording_contradicts_is_named(tmp_path, cut, reason):
    recording(tmp_path / "a.wav")
    (tmp_path / "c.jsonl").write_text(json.dumps(cut))
    texts, left_out = read(tmp_path, kind="lhotse", path="c.jsonl")
    assert texts == {}
    assert reason in left_out["c1"]


@pytest.fixture
def shar(tmp_path) -> Path:
    from lhotse import CutSet

    recording(tmp_path / "a.wav")
    cuts = (lhotse_cut(id=f"c{n}", source={"source": str(tmp_path / "a.wav")}) for n in range(3))
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(cut) + "\n" for cut in cuts))
    (tmp_path / "s").mkdir()
    CutSet.from_jsonl(tmp_path / "c.jsonl").to_shar(tmp_path / "s", fields={"recording": "wav"}, shard_size=2)
    return tmp_path / "s"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_shar_that_holds_less_audio_than_cuts_says_so(shar):
    list(mixture(shar.parent, kind="lhotse", path="s").whole())
    cuts = shar / "cuts.000001.jsonl.gz"
    lines = gzip.decompress(cuts.read_bytes()).decode()
    cuts.write_bytes(gzip.compress((lines + lines.replace("c2", "c3")).encode()))
    assert refusal(shar.parent, kind="lhotse", path="s") == (
        f"{shar}: it lists 4 cuts and holds the audio of 3: its tar files lack some"
    )


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # lhotse leaves damaged files open
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # lhotse leaves the tar file open
def test_a_shar_without_one_of_its_files_or_with_half_of_one_says_so(shar):
    tar = shar / "recording.000001.tar"
    content = tar.read_bytes()
    tar.write_bytes(content[:600])
    assert refusal(shar.parent, kind="lhotse", path="s").startswith(f"{shar}, cut 3: not a lhotse cut: ")
    tar.unlink()
    assert refusal(shar.parent, kind="lhotse", path="s").startswith(f"{shar}: lhotse cannot open it: Expected 2 shards")
    gc.collect()  # here, and not in a test that takes the warning for its own


# --------------------------------------------------------------------------------- what reads well and may be wrong


def test_tags_that_will_be_taken_for_words_are_remarked_on(tmp_path):
    recording(tmp_path / "a.wav")
    some = ["one [noise] two", "three", "<unk> four [noise]", "((five)) {laugh}", "six [ seven ] < eight"]
    rows(tmp_path, *({"audio_filepath": "a.wav", "text": text} for text in some))
    assert remarks({"train": mixture(tmp_path, kind="manifest", path="m.jsonl")}) == [
        f"3 texts of train hold tags, such as [noise], <unk>, ((five)), {{laugh}} ({tmp_path / 'm.jsonl'}, line 1), "
        "which will be learnt and scored as words: take them out, or write what is heard"
    ]


@pytest.mark.parametrize(
    "tag", ["[background noise]", "<no speech>", "{lip smack}", "(laughs)", "++um++", "*sigh*", "【音楽】", "♪"]
)
def test_tags_are_known_in_every_form_that_transcribers_give_them(tmp_path, tag):
    recording(tmp_path / "a.wav")
    rows(tmp_path, {"audio_filepath": "a.wav", "text": f"one {tag} two"})
    [remark] = remarks({"train": mixture(tmp_path, kind="manifest", path="m.jsonl")})
    assert remark.startswith(f"1 texts of train hold tags, such as {tag} (")


@pytest.mark.parametrize("text", ["a < b and c > d", "two * three * four", "(as she had said) one", "c++ one", "f#"])
def test_signs_that_are_no_tags_are_let_alone(tmp_path, text):
    recording(tmp_path / "a.wav")
    rows(tmp_path, {"audio_filepath": "a.wav", "text": text})
    assert remarks({"train": mixture(tmp_path, kind="manifest", path="m.jsonl")}) == []


def test_a_recording_in_two_splits_is_remarked_on(tmp_path):
    recording(tmp_path / "a.wav"), recording(tmp_path / "b.wav")
    rows(tmp_path, {"audio_filepath": "a.wav"}, {"audio_filepath": "b.wav"})
    shutil.copy(tmp_path / "m.jsonl", tmp_path / "train.jsonl")
    rows(tmp_path, {"audio_filepath": "b.wav"})
    splits = {
        "train": mixture(tmp_path, kind="manifest", path="train.jsonl"),
        "dev": mixture(tmp_path, kind="manifest", path="m.jsonl"),
    }
    [sentence] = remarks(splits)
    assert sentence == (
        f"1 recordings are in both train and dev, the first {tmp_path / 'b.wav'} ({tmp_path / 'train.jsonl'}, line 2; "
        f"{tmp_path / 'm.jsonl'}, line 1): error rates on dev will flatter"
    )


# ------------------------------------------------------------------------------------------------ reported by others


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("folder", "sentences"),
    [
        ("csv-comma-truncates", ["m.csv, line 2: 4 cells for 3 columns"]),
        ("csv-quote-swallows-rows", ["m.csv, line 2: a quotation mark opens a cell"]),
        (
            "kaldi-segments",
            [
                "d/segments, line 1: it ends 97.46 s past the end of",
                "d/segments, line 2: it starts where it ends",
                "d/text, line 3: u2 has a text and no segment",
                "d/text, line 4: u3 has a text and no segment",
            ],
        ),
        ("truncated-wav-unsaid", ["train: 1 unreadable", "m-000002:", "trunc.wav"]),
        ("fuzz-lhotse-duration-null", ["c.jsonl, line 1: expected a duration in seconds, found None"]),
        ("fuzz-lhotse-json-deep", ["c.jsonl, line 1: not a lhotse cut"]),
        ("fuzz-lhotse-mixed-empty", ["c.jsonl, line 1: not a lhotse cut"]),
        ("fuzz-lhotse-rate-0", ["c.jsonl, line 1: expected a sampling rate of 1000 to 768000 Hz, found 0"]),
        ("fuzz-lhotse-shar-unfilled", ["c.jsonl, line 1: an audio source that the Shar holds, without it"]),
        ("fuzz-lhotse-source-null", ["c.jsonl, line 1: not a lhotse cut"]),
        ("fuzz-lhotse-surrogate-speaker", ["c.jsonl, line 1: not a lhotse cut"]),
        ("fuzz-lhotse-channels-lie", ["c1: its recording has fewer channels than the cut names"]),
        (
            "fuzz-shar-half-the-audio-silently-dropped",
            ["s/recording.000000.tar lacks recordings that cuts.000000.jsonl.gz lists"],
        ),
        ("fuzz-shar-missing-shard", ["s: lhotse cannot open it: Expected 2 shards"]),
        ("fuzz-shar-tar-cut-short", ["s, cut 1: not a lhotse cut"]),
    ],
)
def test_check_names_the_fault_of_each_reported_corpus(folder, sentences, monkeypatch):
    if not (SHARED / folder).is_dir():
        pytest.skip(f"{SHARED / folder} is not there")
    monkeypatch.chdir(SHARED / folder)
    [name] = Path().glob("*.yaml")
    done = CliRunner().invoke(main, ["check", str(name), "--data", ".", "--device", "cpu"])
    assert done.exception is None or isinstance(done.exception, SystemExit)
    said = "".join((done.stdout + done.stderr).split())  # a terminal breaks long lines anywhere
    for sentence in sentences:
        assert "".join(sentence.split()) in said


def test_the_folder_of_many_formats_is_read_whole():
    if not (SHARED / "folder-skips-formats").is_dir():
        pytest.skip(f"{SHARED / 'folder-skips-formats'} is not there")
    texts, left_out = read(SHARED / "folder-skips-formats", kind="folder", path="x")
    assert (len(texts), left_out) == (6, {})


# --------------------------------------------------------------------------------------- what mutations have found


@pytest.mark.parametrize("seconds", [1e308, 10**400, "1e300", 1e10])
@pytest.mark.parametrize("column", ["duration", "offset"])
def test_a_time_that_no_recording_has_is_named_by_its_line(tmp_path, column, seconds):
    recording(tmp_path / "a.wav")
    rows(tmp_path, {"audio_filepath": "a.wav", column: seconds})
    assert "m.jsonl, line 1: offset and duration are seconds, 0 or more; found 1" in refusal(
        tmp_path, kind="manifest", path="m.jsonl"
    )


def test_half_a_character_in_what_an_error_quotes_is_escaped(tmp_path):
    rows(tmp_path, {"\ud800": "a.wav"})
    message = refusal(tmp_path, kind="manifest", path="m.jsonl")
    assert message.endswith("found text, \\ud800")
    message.encode()


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b"])
def test_a_name_that_no_file_can_have_is_a_file_that_is_not_there(tmp_path, name):
    for source in ({"kind": "manifest", "path": f"{name}.jsonl"}, {"kind": "folder", "path": name}):
        with pytest.raises(CorpusError, match="is not there"):
            mixture(tmp_path, **source)
    (tmp_path / "k").mkdir()
    (tmp_path / "k" / "wav.scp").write_text(f"u1 {name}.wav\n")
    (tmp_path / "k" / "text").write_text("u1 one\n")
    assert list(read(tmp_path, kind="kaldi", path="k")[1]) == ["u1"]


def test_a_speaker_may_be_a_number_in_a_lhotse_cut(tmp_path):
    recording(tmp_path / "a.wav")
    (tmp_path / "c.jsonl").write_text(json.dumps(lhotse_cut(id="c0", speaker=1089)) + "\n")
    [batch] = load_batches(
        mixture(tmp_path, kind="lhotse", path="c.jsonl").whole(),
        Utterances(sample_rate=RATE, normalisation="words"),
        max_batch_seconds=60,
    )
    assert list(batch.speakers) == ["1089"]


@pytest.mark.parametrize("rate", [2**31, 10**9, 1])
def test_a_sampling_rate_that_no_recording_has_is_refused_before_lhotse_resamples_to_it(tmp_path, rate):
    inner = lhotse_cut(id="c1", recording={"sampling_rate": rate})
    tracks = [{"cut": cut, "type": "MonoCut", "offset": 0.0} for cut in (lhotse_cut(id="c0"), inner)]
    (tmp_path / "c.jsonl").write_text(json.dumps({"id": "m", "type": "MixedCut", "tracks": tracks}) + "\n")
    said = refusal(tmp_path, kind="lhotse", path="c.jsonl")
    assert f"expected a sampling rate of 1000 to 768000 Hz, found {rate}" in said


def test_nor_does_a_transform_resample_to_such_a_rate(tmp_path):
    resample = {"name": "Resample", "kwargs": {"source_sampling_rate": RATE, "target_sampling_rate": 10**9}}
    (tmp_path / "c.jsonl").write_text(json.dumps(lhotse_cut(recording={"transforms": [resample]})) + "\n")
    assert "found 1000000000" in refusal(tmp_path, kind="lhotse", path="c.jsonl")


def test_what_a_cut_keeps_of_its_own_is_no_sampling_rate(tmp_path):
    recording(tmp_path / "a.wav")
    kept = {"sampling_rate": "48 kHz", "device": {"sampling_rate": 2_000_000}}
    (tmp_path / "c.jsonl").write_text(json.dumps(lhotse_cut(custom=kept)) + "\n")
    assert len(list(mixture(tmp_path, kind="lhotse", path="c.jsonl").whole())) == 1

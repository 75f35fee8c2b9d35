"""Corpora open lazily to the utterances that their files spell, and every utterance reaches a batch or is named."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from asr import audio, recipe
from asr.data.augment import Augmenter
from asr.data.batches import Utterances, check_length, load_batches, load_ordered, load_samples
from asr.data.corpora import left_out, name_of, open_corpora
from asr.data.join import Joined, join, texts_to_spell
from asr.data.listing import Listing
from asr.data.order import Epoch
from asr.data.remarks import lone_words
from asr.errors import CorpusError, RecipeError
from asr.recipe import reading
from asr.text.pronounce import Pronunciation, PronunciationLexicon
from asr.text.tokenise import CharacterTokeniser, PhoneTokeniser, build_tokeniser

RATE = 16000
LETTERS = CharacterTokeniser(list(" 'abcdefghijklmnopqrstuvwxyz"))


@pytest.fixture
def wav(tmp_path, tone):
    """``wav(name, seconds)``: a tone under ``tmp_path``."""

    def write(name: str, seconds: float = 1.0, *, hz: float = 440, rate: int = RATE, channels: int = 1) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = np.stack([tone(seconds, hz, rate) / (i + 1) for i in range(channels)], axis=1)
        soundfile.write(path, samples, rate)
        return path

    return write


@pytest.fixture
def manifest(tmp_path):
    """``manifest(rows)``: a JSON-lines manifest, opened as cuts."""

    def write(rows: list[dict], name: str = "m.jsonl", **source):
        lines = "".join(json.dumps({"audio_filepath": "a.wav", "text": "hi", **row}) + "\n" for row in rows)
        (tmp_path / name).write_text(lines)
        return opened(tmp_path, kind="manifest", path=name, **source)

    return write


def source_of(**keys) -> recipe.Corpus:
    corpora = {"train": [keys], "dev": [keys]}
    return reading.validate_recipe({"corpora": corpora}, "test").corpora.train[0]


def opened(root: Path, **keys):
    return open_corpora((source_of(**keys),), root).whole()


def summary(cuts) -> list[tuple[str, str, str, float]]:
    """(id, text, speaker, duration) of each cut."""
    return [(cut.id, cut.supervisions[0].text, cut.supervisions[0].speaker, cut.duration) for cut in cuts]


def refusal(root: Path, **keys) -> str:
    with pytest.raises(CorpusError) as caught:
        list(opened(root, **keys))
    return str(caught.value)


# ------------------------------------------------------------------------------------------------------ kinds


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "m.jsonl",
            '{"id": "u1", "audio_filepath": "a.wav", "text": "Hi, you", "speaker": "ann", "duration": 1.0}\n'
            "\n"
            '{"audio_filepath": "deep/b.wav", "text": "bye"}\n',
        ),
        ("m.csv", 'id,audio_filepath,text,speaker,duration\nu1,a.wav,"Hi, you",ann,1.0\n  \n,deep/b.wav,bye,,\n'),
        ("m.tsv", "id\taudio_filepath\ttext\tspeaker\tduration\nu1\ta.wav\tHi, you\tann\t1.0\n\tdeep/b.wav\tbye\t\t\n"),
    ],
)
def test_a_manifest_opens_to_its_rows(tmp_path, wav, name, content):
    wav("a.wav", 1.0), wav("deep/b.wav", 0.5)
    (tmp_path / name).write_text("\ufeff" + content, encoding="utf-8")
    first, second = summary(opened(tmp_path, kind="manifest", path=name))
    assert first == ("u1", "Hi, you", "ann", 1.0)
    assert second == (f"m-{3 if name == 'm.tsv' else 3 + name.endswith('csv'):06d}", "bye", "", 0.5)


def test_quotes_in_a_tab_separated_table_are_text(tmp_path, wav):
    wav("a.wav")
    (tmp_path / "m.tsv").write_text('audio_filepath\ttext\na.wav\the said "go\na.wav\tdone\n')
    assert [text for _, text, *_ in summary(opened(tmp_path, kind="manifest", path="m.tsv"))] == ['he said "go', "done"]


def test_a_folder_opens_to_its_audio_with_the_text_beside_it(tmp_path, wav):
    for name, text in [("c/ann/1.wav", "one\n"), ("c/bob/2.flac", "two\nlines"), ("c/3.wav", "three")]:
        wav(name, 0.5).with_suffix(".txt").write_text(text)
    assert summary(opened(tmp_path, kind="folder", path="c")) == [
        ("3", "three", "", 0.5),
        ("ann/1", "one", "ann", 0.5),
        ("bob/2", "two lines", "bob", 0.5),
    ]


def test_the_librispeech_layout_opens_to_its_transcripts(tmp_path, wav):
    for id in ("84-121-0000", "84-121-0001", "99-7-0000"):
        speaker, chapter, _ = id.split("-")
        wav(f"LibriSpeech/dev/{speaker}/{chapter}/{id}.flac", 0.5)
    (tmp_path / "LibriSpeech/dev/84/121/84-121.trans.txt").write_text("84-121-0000 GO ON\n84-121-0001 STOP\n")
    (tmp_path / "LibriSpeech/dev/99/7/99-7.trans.txt").write_text("99-7-0000 WELL\n")
    assert summary(opened(tmp_path, kind="librispeech", splits=["dev"])) == [
        ("84-121-0000", "GO ON", "84", 0.5),
        ("84-121-0001", "STOP", "84", 0.5),
        ("99-7-0000", "WELL", "99", 0.5),
    ]


def test_a_common_voice_table_opens_to_its_clips(tmp_path, wav):
    wav("cv/clips/x1.wav", 0.5), wav("cv/clips/x2.wav", 1.0)
    header = "client_id\tpath\tsentence\tup_votes\n"
    (tmp_path / "cv/dev.tsv").write_text(header + 'ann\tx1.wav\tSay "hi.\t2\nbob\tx2.wav\tBye.\t0\n')
    assert summary(opened(tmp_path, kind="common_voice", path="cv", split="dev")) == [
        ("x1", 'Say "hi.', "ann", 0.5),
        ("x2", "Bye.", "bob", 1.0),
    ]


@pytest.fixture
def kaldi(tmp_path, wav):
    wav("k/r1.wav", 2.0), wav("k/r2.wav", 1.0)

    def write(**files: str) -> Path:
        for name, content in files.items():
            (tmp_path / "k" / name.replace("_", ".")).write_text(content)
        return tmp_path

    return write


@pytest.mark.parametrize("between", [" ", "\t", "  "])
def test_a_kaldi_directory_without_segments_opens_to_whole_recordings(kaldi, between):
    root = kaldi(wav_scp=f"r1{between}r1.wav\nr2{between}r2.wav\n", text=f"r2{between}bye now\nr1{between}hi\n")
    assert summary(opened(root, kind="kaldi", path="k")) == [("r2", "bye now", "", 1.0), ("r1", "hi", "", 2.0)]


def test_a_kaldi_directory_with_segments_opens_to_parts_of_recordings(kaldi):
    root = kaldi(
        wav_scp="r1 r1.wav\n",
        text="u1 hi\nu2 bye\n",
        utt2spk="u1 ann\nu2 bob\n",
        segments="u1 r1 0.0 0.5\nu2 r1 0.5 2.0\n",
    )
    cuts = list(opened(root, kind="kaldi", path="k"))
    assert summary(cuts) == [("u1", "hi", "ann", 0.5), ("u2", "bye", "bob", 1.5)]
    assert [cut.start for cut in cuts] == [0.0, 0.5]


def lhotse_cut(path: Path, **source) -> dict:
    """A cut of the first half second of ``path``, as lhotse writes it."""
    return {
        "id": "cut-1",
        "type": "MonoCut",
        "start": 0.0,
        "duration": 0.5,
        "channel": 0,
        "supervisions": [
            {"id": "s", "recording_id": "r", "start": 0.0, "duration": 0.5, "text": "hi", "speaker": "ann"}
        ],
        "recording": {
            "id": "r",
            "sampling_rate": RATE,
            "num_samples": RATE,
            "duration": 1.0,
            "sources": [{"type": "file", "channels": [0], "source": str(path), **source}],
        },
    }


def test_a_lhotse_cuts_file_opens_to_its_cuts(tmp_path, wav):
    (tmp_path / "cuts.jsonl").write_text(json.dumps(lhotse_cut(wav("a.wav"))) + "\n")
    cuts = opened(tmp_path, kind="lhotse", path="cuts.jsonl")
    assert summary(cuts) == [("cut-1", "hi", "ann", 0.5)]
    assert [load_samples(cut, RATE).shape for cut in cuts] == [(8000,)]


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # lhotse 1.33 leaves Shar's tar files open
def test_a_lhotse_shar_folder_opens_to_its_cuts(tmp_path, wav):
    (tmp_path / "cuts.jsonl").write_text(json.dumps(lhotse_cut(wav("a.wav"))) + "\n")
    cuts = opened(tmp_path, kind="lhotse", path="cuts.jsonl")
    (tmp_path / "shar").mkdir()
    cuts.to_shar(tmp_path / "shar", fields={"recording": "flac"}, verbose=False)
    shar = opened(tmp_path, kind="lhotse", path="shar")
    assert summary(shar) == [("cut-1", "hi", "ann", 0.5)]
    assert [load_samples(cut, RATE).shape for cut in shar] == [(8000,)]


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        ({"kind": "manifest", "path": "an4/train.jsonl"}, "an4/train"),
        ({"kind": "manifest", "path": "an4/train.jsonl", "name": "mine"}, "mine"),
        ({"kind": "librispeech", "splits": ["dev-clean", "dev-other"]}, "dev-clean+dev-other"),
        ({"kind": "common_voice", "path": "cv", "split": "dev"}, "cv/dev"),
    ],
)
def test_reports_call_a_corpus_by_its_name_its_splits_or_its_path(keys, name):
    assert name_of(source_of(**keys)) == name


# ----------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    "keys",
    [
        {"kind": "manifest", "path": "nowhere"},
        {"kind": "folder", "path": "nowhere"},
        {"kind": "librispeech", "splits": ["nowhere"]},
        {"kind": "common_voice", "path": "nowhere"},
        {"kind": "kaldi", "path": "nowhere"},
        {"kind": "lhotse", "path": "nowhere"},
    ],
    ids=lambda keys: keys["kind"],
)
def test_a_corpus_that_is_not_there_is_named_before_anything_is_read(tmp_path, keys):
    with pytest.raises(CorpusError, match=r"nowhere.* is not there: give the"):
        opened(tmp_path, **keys)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{nope", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "expected a JSON object, found list"),
        ('{"text": "hi"}', "'audio_filepath' is missing; found text"),
        ('{"audio_filepath": "a.wav"}', "'text' is missing; found audio_filepath"),
        ('{"audio_filepath": null, "text": "hi"}', "audio_filepath is empty"),
        ('{"audio_filepath": "a.wav", "text": "hi", "duration": "long"}', "could not convert string to float: 'long'"),
        ('{"audio_filepath": "a.wav", "text": "hi", "duration": [1]}', "float()"),
        ('{"audio_filepath": "a.wav", "text": "hi", "duration": -1}', "seconds, 0 or more; found -1"),
        ('{"audio_filepath": "a.wav", "text": "hi", "duration": NaN}', "seconds, 0 or more; found nan"),
        ('{"audio_filepath": "a.wav", "text": "hi", "offset": -0.5}', "seconds, 0 or more; found -0.5"),
        ('{"audio_filepath": "a.wav", "text": "hi", "offset": Infinity}', "seconds, 0 or more; found inf"),
        ('{"audio_filepath": "a.wav", "text": "hi", "speaker": "\\ud800"}', "surrogates not allowed"),
    ],
    ids=lambda value: value[:60],
)
def test_a_malformed_line_of_a_manifest_is_named(tmp_path, wav, line, reason):
    wav("a.wav")
    (tmp_path / "m.jsonl").write_text(f'{{"audio_filepath": "a.wav", "text": "hi"}}\n\n{line}\n')
    message = refusal(tmp_path, kind="manifest", path="m.jsonl")
    assert message.startswith(f"{tmp_path / 'm.jsonl'}, line 3: ")
    assert reason in message


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("a.wav,hi,long", "could not convert string to float: 'long'"),
        (",hi,1.0", "audio_filepath is empty"),
        ("a.wav," + "x" * 200_000 + ",1.0", "field larger than field limit"),
    ],
    ids=["duration", "no path", "huge field"],
)
def test_a_malformed_row_of_a_table_is_named_counting_blank_lines(tmp_path, wav, row, reason):
    wav("a.wav")
    (tmp_path / "m.csv").write_text(f"audio_filepath,text,duration\na.wav,hi,1.0\n\n   \n{row}\n")
    message = refusal(tmp_path, kind="manifest", path="m.csv")
    assert message.startswith(f"{tmp_path / 'm.csv'}, line 5: ")
    assert reason in message


def test_a_table_without_the_columns_says_which(tmp_path):
    (tmp_path / "m.tsv").write_text("clip\ttext\na.wav\thi\n")
    assert "line 2: 'audio_filepath' is missing; found clip, text" in refusal(tmp_path, kind="manifest", path="m.tsv")


def test_a_manifest_that_is_not_text_is_named(tmp_path):
    (tmp_path / "m.jsonl").write_bytes(b"\xff\xfe\x00")
    assert "m.jsonl cannot be read: it is not UTF-8 text" in refusal(tmp_path, kind="manifest", path="m.jsonl")


def test_audio_in_a_folder_without_its_text_is_named(tmp_path, wav):
    wav("c/1.wav")
    assert "1.wav has no 1.txt beside it" in refusal(tmp_path, kind="folder", path="c")


def test_a_folder_without_audio_says_so(tmp_path):
    (tmp_path / "c").mkdir()
    assert "c holds no audio files: none in it is called .wav, .flac, .mp3 or the like" in refusal(
        tmp_path, kind="folder", path="c"
    )


def test_a_librispeech_line_without_a_text_is_named(tmp_path):
    (tmp_path / "LibriSpeech/dev/84/121").mkdir(parents=True)
    (tmp_path / "LibriSpeech/dev/84/121/84-121.trans.txt").write_text("84-121-0000 GO\n84-121-0001\n")
    message = refusal(tmp_path, kind="librispeech", splits=["dev"])
    assert message.endswith("84-121.trans.txt, line 2: an id without a text")


def test_a_folder_that_is_not_laid_out_as_librispeech_says_so(tmp_path):
    (tmp_path / "LibriSpeech/dev").mkdir(parents=True)
    assert "it is not laid out as LibriSpeech is" in refusal(tmp_path, kind="librispeech", splits=["dev"])


def test_a_common_voice_row_without_a_sentence_is_named(tmp_path):
    (tmp_path / "cv").mkdir()
    (tmp_path / "cv/train.tsv").write_text("client_id\tpath\tsentence\nann\tx.mp3\thi\nann\tx.mp3\n")
    assert "train.tsv, line 3: path or sentence is missing" in refusal(tmp_path, kind="common_voice", path="cv")


@pytest.mark.parametrize("command", ["sox x.sph -t wav - |", "touch {made} |", "touch {made}; cat r1.wav|"])
def test_a_command_in_a_kaldi_wav_scp_is_refused_and_not_run(kaldi, tmp_path, command):
    made = tmp_path / "made"
    root = kaldi(wav_scp=f"r1 r1.wav\nr2 {command.format(made=made)}\n", text="r1 hi\nr2 bye\n")
    assert "wav.scp, line 2: a command, which is not run" in refusal(root, kind="kaldi", path="k")
    assert not made.exists()


@pytest.mark.parametrize("segment", ["u2 r1 0.5", "u2 r1 a b", "u2 r1 0.5 0.2", "u2 r1 -1 0.5", "u2 r1 0 1 2", "u2"])
def test_a_malformed_kaldi_segment_is_named(kaldi, segment):
    root = kaldi(wav_scp="r1 r1.wav\n", text="u1 hi\nu2 bye\n", segments=f"u1 r1 0 0.5\n{segment}\n")
    message = refusal(root, kind="kaldi", path="k")
    assert "segments, line 2: expected UTTERANCE RECORDING START END" in message


def test_a_kaldi_segment_of_an_unknown_recording_is_named(kaldi):
    root = kaldi(wav_scp="r1 r1.wav\n", text="u1 hi\n", segments="u1 r9 0 0.5\n")
    assert 'segments, line 1: the recording "r9" is not in wav.scp' in refusal(root, kind="kaldi", path="k")


@pytest.mark.parametrize("line", ["{nope", "[1]", '{"id": "x", "type": "MonoCut"}', '{"a": 1}', '{"type": "Odd"}'])
def test_a_line_that_is_no_lhotse_cut_is_named(tmp_path, wav, line):
    (tmp_path / "cuts.jsonl").write_text(json.dumps(lhotse_cut(wav("a.wav"))) + f"\n{line}\n")
    assert f"{tmp_path / 'cuts.jsonl'}, line 2: " in refusal(tmp_path, kind="lhotse", path="cuts.jsonl")


def test_a_lhotse_file_of_recordings_is_not_taken_for_cuts(tmp_path, wav):
    (tmp_path / "r.jsonl").write_text(json.dumps(lhotse_cut(wav("a.wav"))["recording"]) + "\n")
    assert "line 1: expected a lhotse cut, found Recording" in refusal(tmp_path, kind="lhotse", path="r.jsonl")


def _mixed(cut: dict) -> dict:
    return {"id": "m", "type": "MixedCut", "tracks": [{"cut": cut, "type": "MonoCut", "offset": 0.0}]}


@pytest.mark.parametrize("wrap", [lambda cut: cut, _mixed], ids=["alone", "mixed"])
@pytest.mark.parametrize("kind", ["command", "url"])
def test_a_lhotse_cut_that_runs_a_command_or_calls_a_host_is_refused(tmp_path, wav, kind, wrap):
    made = tmp_path / "made"
    cut = lhotse_cut(wav("a.wav"), type=kind, source=f"touch {made}; cat {tmp_path}/a.wav")
    (tmp_path / "cuts.jsonl").write_text(json.dumps(wrap(cut)) + "\n")
    message = refusal(tmp_path, kind="lhotse", path="cuts.jsonl")
    assert f"line 1: an audio source of type {kind}, which is never run" in message
    assert not made.exists()


# -------------------------------------------------------------------------------------------- what a cut holds


def test_offset_and_duration_select_a_part(wav, manifest):
    path = wav("a.wav", 2.0)
    (cut,) = manifest([{"offset": 0.5, "duration": 0.75}])
    whole, _ = soundfile.read(path, dtype="float32")
    np.testing.assert_array_equal(load_samples(cut, RATE), whole[8000:20000])


def test_an_offset_alone_reads_to_the_end(wav, manifest):
    wav("a.wav", 2.0)
    (cut,) = manifest([{"offset": 0.5}])
    assert load_samples(cut, RATE).shape == (24000,)


@pytest.mark.parametrize("rounded", [1.2, 1.23, 1.3])
def test_a_rounded_duration_does_not_truncate(wav, manifest, rounded):
    wav("a.wav", 1.2345)
    (cut,) = manifest([{"duration": rounded}])
    assert load_samples(cut, RATE).shape == (19752,)


def test_a_stereo_file_is_mixed_to_mono(wav, manifest):
    path = wav("a.wav", channels=2)
    (cut,) = manifest([{}])
    stereo, _ = soundfile.read(path, dtype="float32")
    np.testing.assert_allclose(load_samples(cut, RATE), stereo.mean(axis=1), atol=1e-6)


def test_a_recording_of_another_rate_is_heard_as_transcribing_hears_it(wav, manifest):
    path = wav("a.wav", rate=8000)
    (cut,) = manifest([{}])
    np.testing.assert_array_equal(load_samples(cut, RATE), audio.prepare(audio.read(path), RATE).samples)


def test_a_corpus_can_be_read_twice(wav, manifest):
    wav("a.wav")
    cuts = manifest([{"id": "a"}, {"id": "b"}])
    assert summary(cuts) == summary(cuts)


# ---------------------------------------------------------------------------------------- slices and mixtures


def ids_of_epoch(mixture, number: int) -> list[str]:
    epoch = Epoch(Listing(mixture), recipe.Training(max_batch_seconds=2.0), seed=3, number=number)
    return [item.cut().id for batch in epoch.share() for item in batch]


@pytest.mark.parametrize(("weight", "least", "most"), [(2.0, 80, 80), (0.25, 2, 20), (1.5, 45, 75)])
def test_a_weight_is_how_often_an_epoch_passes_over_a_source(tmp_path, tone, weight, least, most):
    soundfile.write(tmp_path / "a.wav", tone(0.1), 16000)
    rows = [{"id": str(i), "audio_filepath": "a.wav", "text": "a"} for i in range(40)]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mixture = open_corpora((source_of(kind="manifest", path="m.jsonl", weight=weight),), tmp_path)
    first, second = (ids_of_epoch(mixture, number) for number in (0, 1))
    assert least <= len(first) <= most
    assert len(set(first)) == len(first)
    assert first == ids_of_epoch(mixture, 0)
    assert first != second  # shuffled anew, and another part where the weight has a fraction
    assert (sorted(first) == sorted(second)) == (weight == 2.0)
    assert len(list(mixture.whole())) == 40


def test_slices_of_speakers_part_a_corpus_without_sharing_a_speaker(wav, manifest):
    wav("a.wav", 0.1)
    rows = [{"id": f"{speaker}-{i}", "speaker": f"s{speaker}"} for speaker in range(20) for i in range(2)]
    train = summary(manifest(rows, speakers=[0.0, 0.7]))
    dev = summary(manifest(rows, speakers=[0.7, 1.0]))
    assert len(train) + len(dev) == 40
    assert min(len(train), len(dev)) > 0
    assert {cut[2] for cut in train}.isdisjoint({cut[2] for cut in dev})


def test_utterances_that_leave_out_names_are_not_heard_and_it_is_said(tmp_path, wav, manifest):
    wav("a.wav")
    keys = {"kind": "manifest", "path": "m.jsonl", "leave_out": ["two", "four"]}
    cuts = manifest([{"id": "one"}, {"id": "two"}, {"id": "three"}], leave_out=["two", "four"])
    assert [cut.id for cut in cuts] == ["one", "three"]
    assert list(left_out([source_of(**keys)], tmp_path)) == [
        "1 of 3 utterances of m are left out, as leave_out says",
        "leave_out of m names 1 ids that it does not hold: four",
    ]
    assert list(left_out([source_of(kind="manifest", path="m.jsonl")], tmp_path)) == []


def test_slices_part_a_lhotse_corpus_too(tmp_path, wav):
    cut = lhotse_cut(wav("a.wav"))
    rows = []
    for i in range(20):
        cut["id"], cut["supervisions"][0]["speaker"] = f"c{i}", f"s{i}"
        rows.append(json.dumps(cut))
    (tmp_path / "cuts.jsonl").write_text("\n".join(rows) + "\n")
    halves = [
        {cut[0] for cut in summary(opened(tmp_path, kind="lhotse", path="cuts.jsonl", speakers=half))}
        for half in ([0.0, 0.5], [0.5, 1.0])
    ]
    assert halves[0] | halves[1] == {f"c{i}" for i in range(20)}
    assert halves[0].isdisjoint(halves[1])


def test_two_sources_are_mixed_and_none_of_their_utterances_is_lost(tmp_path, wav, manifest):
    wav("a.wav", 0.1)
    manifest([{"id": f"x{i}"} for i in range(30)], "x.jsonl")
    manifest([{"id": f"y{i}"} for i in range(5)], "y.jsonl")
    sources = tuple(source_of(kind="manifest", path=f"{name}.jsonl", weight=w) for name, w in [("x", 1.0), ("y", 1.0)])
    ids = ids_of_epoch(open_corpora(sources, tmp_path), 0)
    assert sorted(ids) == sorted([f"x{i}" for i in range(30)] + [f"y{i}" for i in range(5)])
    assert [id[0] for id in ids] != ["x"] * 30 + ["y"] * 5
    assert ids == ids_of_epoch(open_corpora(sources, tmp_path), 0)


# ----------------------------------------------------------------------------------------------- augmentation


@pytest.fixture
def augmenter(tmp_path, wav):
    wav("noise/n1.wav", 0.3, hz=900)
    wav("noise/n2.wav", 2.0, hz=1300, rate=44100, channels=2)

    def make(seed: int = 1) -> Augmenter:
        settings = recipe.Augment(
            speed=(0.9, 1.0, 1.1),
            noise=recipe.Noise(path="noise", probability=0.7),
            reverb=recipe.Reverb(probability=0.5),
            codec=recipe.Codec(kinds=("telephone", "mp3", "opus", "vorbis"), probability=0.5),
        )
        return Augmenter(settings, tmp_path, seed=seed)

    return make


def heard(augmenter: Augmenter, cuts, epoch: int) -> dict[str, bytes]:
    return {cut.id: load_samples(augmenter(cut, epoch), RATE).tobytes() for cut in cuts}


def test_what_is_heard_depends_on_seed_epoch_and_id_alone(wav, manifest, augmenter):
    wav("a.wav", 0.5)
    cuts = list(manifest([{"id": f"u{i}"} for i in range(6)]))
    first = heard(augmenter(), cuts, epoch=1)
    assert heard(augmenter(), reversed(cuts), epoch=1) == first  # another order, another process
    assert heard(augmenter(), cuts[3:4], epoch=1) == {"u3": first["u3"]}  # alone
    assert heard(augmenter(), cuts, epoch=2) != first
    assert heard(augmenter(seed=2), cuts, epoch=1) != first
    assert len(set(first.values())) > 1  # one recording under six ids


def test_loading_an_augmented_cut_twice_gives_the_same_samples(wav, manifest, augmenter):
    wav("a.wav", 0.5)
    for cut in manifest([{"id": f"u{i}"} for i in range(6)]):
        augmented = augmenter()(cut, 1)
        np.testing.assert_array_equal(load_samples(augmented, RATE), load_samples(augmented, RATE))


def test_augmenting_draws_nothing_from_the_generator_of_the_training_step(wav, manifest, augmenter):
    wav("a.wav", 0.5)
    cuts = list(manifest([{"id": f"u{i}"} for i in range(6)]))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    heard(augmenter(), cuts, epoch=1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.usefixtures("augmenter")  # for its folder of noise
@pytest.mark.parametrize(
    "settings",
    [
        {"noise": {"path": "noise", "probability": 1.0, "snr": [10, 10]}},
        {"reverb": {"probability": 1.0}},
        *({"codec": {"kinds": [kind], "probability": 1.0}} for kind in ("mp3", "opus", "vorbis")),
    ],
    ids=["noise", "reverb", "mp3", "opus", "vorbis"],
)
def test_noise_reverb_and_codecs_change_the_samples_and_not_their_number(wav, manifest, tmp_path, settings):
    wav("a.wav", 0.5)
    (cut,) = manifest([{}])
    change = Augmenter(recipe.Augment.model_validate_json(json.dumps({"speed": [1.0], **settings})), tmp_path, seed=1)
    dry, wet = load_samples(cut, RATE), load_samples(change(cut, 1), RATE)
    assert wet.shape == dry.shape
    assert np.isfinite(wet).all()
    assert 0.01 < np.square(wet - dry).mean() ** 0.5 / np.square(dry).mean() ** 0.5 < 2


def test_a_telephone_carries_nothing_above_4_kHz(wav, manifest, tmp_path):
    wav("low.wav", 0.5, hz=1000), wav("high.wav", 0.5, hz=6000)
    settings = recipe.Augment(speed=(1.0,), codec=recipe.Codec(probability=1.0))
    call = Augmenter(settings, tmp_path, seed=1)
    cuts = manifest([{"audio_filepath": "low.wav"}, {"audio_filepath": "high.wav"}])
    low, high = (np.square(load_samples(call(cut, 1), RATE)).mean() for cut in cuts)
    assert high < 0.02 * low


def test_a_noise_that_cannot_be_read_is_named_and_the_others_are_used(wav, tmp_path, caplog):
    wav("hum/n.wav", 1.0, hz=900)
    (tmp_path / "hum" / "bad.wav").write_bytes(b"this is not audio")
    Augmenter(recipe.Augment(noise=recipe.Noise(path="hum")), tmp_path, seed=1)
    assert "left out of augment.noise" in caplog.text
    assert "bad.wav" in caplog.text


def test_the_noise_is_as_loud_as_its_snr_says(wav, manifest, tmp_path):
    wav("a.wav", 1.0, hz=500), wav("hum/n.wav", 0.3, hz=2000)
    (cut,) = manifest([{}])
    settings = recipe.Augment(speed=(1.0,), noise=recipe.Noise(path="hum", snr=(20.0, 20.0), probability=1.0))
    noise = load_samples(Augmenter(settings, tmp_path, seed=1)(cut, 1), RATE) - load_samples(cut, RATE)
    power = np.square(load_samples(cut, RATE)).mean() / np.square(noise).mean()
    assert 10 * np.log10(power) == pytest.approx(20.0, abs=0.5)


def test_speed_changes_the_duration_by_its_factor(wav, manifest, tmp_path):
    wav("a.wav", 1.0)
    (cut,) = manifest([{}])
    faster = Augmenter(recipe.Augment(speed=(1.25,)), tmp_path, seed=1)(cut, 0)
    assert load_samples(faster, RATE).shape == (12800,)


def test_without_augmentation_a_cut_is_left_as_it_is(wav, manifest, tmp_path):
    wav("a.wav")
    (cut,) = manifest([{}])
    assert Augmenter(recipe.Augment(speed=(1.0,)), tmp_path, seed=1)(cut, 0) is cut


def test_a_folder_without_noise_is_a_sentence(tmp_path):
    (tmp_path / "hush").mkdir()
    with pytest.raises(CorpusError, match=r"augment\.noise\.path: .*hush holds no audio files"):
        Augmenter(recipe.Augment(noise=recipe.Noise(path="hush")), tmp_path, seed=1)
    with pytest.raises(CorpusError, match=r"augment\.noise\.path: .*nowhere cannot be searched: No such file"):
        Augmenter(recipe.Augment(noise=recipe.Noise(path="nowhere")), tmp_path, seed=1)


# ---------------------------------------------------------------------------------------------------- batches


def frames(samples: int) -> int:
    """25 a second, as of a model that subsamples by 4."""
    return samples // 640


def dataset(**options) -> Utterances:
    return Utterances(
        **{
            "sample_rate": RATE,
            "normalisation": "words",
            "tokeniser": LETTERS,
            "emission_frames": frames,
            "seconds": (0.05, 3.0),
            **options,
        }
    )


def contents(batches) -> list[tuple]:
    return [
        (
            batch.ids,
            batch.texts,
            batch.waveforms.numpy().tobytes(),
            batch.waveform_lengths.tolist(),
            batch.tokens.tolist(),
            batch.token_lengths.tolist(),
            batch.rejected,
        )
        for batch in batches
    ]


@pytest.fixture
def many(wav, manifest):
    """Thirty cuts of 0.3 to 1.2 s, every tenth with a text that cannot be spelled."""
    rows = []
    for i in range(30):
        wav(f"{i}.wav", 0.3 + 0.03 * i, hz=200 + 20 * i)
        rows.append({"id": f"u{i}", "audio_filepath": f"{i}.wav", "text": "a 7" if i % 10 == 5 else "a"})
    return manifest(rows)


@pytest.fixture
def bucketed(many):
    def batches(**options):
        return load_batches(many, dataset(), **{"max_batch_seconds": 4.0, "buckets": 3, **options})

    return batches


def test_a_batch_holds_its_utterances_padded_with_zeros(wav, manifest):
    wav("a.wav", 1.0), wav("b.wav", 0.5)
    rows = [{"id": "a", "text": "Go, on!", "speaker": "ann"}, {"id": "b", "audio_filepath": "b.wav", "text": "no"}]
    (batch,) = load_batches(manifest(rows), dataset(), max_batch_seconds=10)
    assert (batch.ids, batch.texts, batch.speakers) == (("a", "b"), ("go on", "no"), ("ann", ""))
    assert batch.waveforms.shape == (2, 16000)
    assert batch.waveform_lengths.tolist() == [16000, 8000]
    assert batch.waveforms[1, 8000:].abs().max() == 0
    assert batch.tokens.tolist() == [LETTERS.encode("go on"), [*LETTERS.encode("no"), 0, 0, 0]]
    assert batch.token_lengths.tolist() == [5, 2]
    assert batch.rejected == ()


def test_batches_do_not_depend_on_the_number_of_workers(bucketed):
    alone = contents(bucketed())
    assert contents(bucketed(workers=2)) == alone
    assert sorted(id for ids, *_ in alone for id in ids) == sorted(f"u{i}" for i in range(30) if i % 10 != 5)


@pytest.mark.parametrize("workers", [0, 2])
def test_skipping_batches_leaves_the_others_as_they_were(bucketed, workers):
    whole = contents(bucketed())
    assert len(whole) > 4
    for skip in (0, 3, len(whole)):
        assert contents(bucketed(skip=skip, workers=workers)) == whole[skip:]


def test_no_batch_is_longer_than_asked_for(bucketed):
    for batch in bucketed():
        assert batch.waveform_lengths.sum() <= 4.0 * RATE


@pytest.mark.parametrize("workers", [0, 2])
def test_each_unusable_utterance_is_named_with_its_reason_and_the_others_still_come(tmp_path, wav, manifest, workers):
    wav("a.wav", 1.0), wav("long.wav", 3.5), wav("blip.wav", 0.02)
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, RATE)
    soundfile.write(tmp_path / "cut.flac", noise, RATE)
    content = (tmp_path / "cut.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.wav").write_text("no audio at all")
    (tmp_path / "empty.wav").write_bytes(b"")
    reasons = {
        "missing": ({"audio_filepath": "nowhere.wav"}, "nowhere.wav cannot be read: No such file or directory"),
        "no audio": ({"audio_filepath": "text.wav"}, "text.wav is not audio that can be read"),
        "no bytes": ({"audio_filepath": "empty.wav"}, "empty.wav is empty (0 bytes)"),
        "cut short": ({"audio_filepath": "cut.flac"}, "cut.flac is truncated: its header promises 1.0 s"),
        "null byte": ({"audio_filepath": "a\0.wav"}, "null byte"),
        "past the end": ({"offset": 1.5}, "0.00 s is outside the limits of 0.05 to 3 s"),
        "no text": ({"text": " ?! "}, "its text is empty"),
        "odd text": ({"text": "a 7 é"}, "'7é' is outside the alphabet"),
        "fast talker": ({"text": "ab" * 12 + "bb"}, "too short for its labels: 25 emission frames, 28 needed"),
        "long": ({"audio_filepath": "long.wav"}, "3.50 s is outside the limits of 0.05 to 3 s"),
        "short": ({"audio_filepath": "blip.wav"}, "0.02 s is outside the limits of 0.05 to 3 s"),
    }
    rows = [{"id": "first"}, *({"id": id, **row} for id, (row, _) in reasons.items()), {"id": "last"}]
    batches = list(load_batches(manifest(rows), dataset(), max_batch_seconds=4.0, workers=workers))
    assert [id for batch in batches for id in batch.ids] == ["first", "last"]
    found = {rejection.id: rejection.reason for batch in batches for rejection in batch.rejected}
    assert found.keys() == reasons.keys()
    for id, (_, reason) in reasons.items():
        assert reason in found[id], id
        assert "\n" not in found[id]
        assert "Details:" not in found[id]


def test_an_utterance_past_the_end_of_its_recording_is_named_without_limits_too(wav, manifest):
    wav("a.wav", 1.0)
    (batch,) = load_batches(manifest([{"offset": 1.5}]), dataset(seconds=(0.0, 9.0)), max_batch_seconds=4.0)
    assert len(batch) == 0
    assert batch.rejected[0].reason.endswith("a.wav holds no audio samples")


def test_samples_that_are_not_numbers_are_named(tmp_path, manifest):
    samples = np.zeros(RATE, np.float32)
    samples[7] = np.nan
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    (batch,) = load_batches(manifest([{"id": "u"}]), dataset(), max_batch_seconds=4.0)
    assert [(r.id, r.reason) for r in batch.rejected] == [("u", "its audio holds samples that are not numbers")]


def test_without_a_tokeniser_texts_are_kept_as_they_are_and_none_is_refused(wav, manifest):
    wav("a.wav")
    rows = [{"id": "a", "text": ""}, {"id": "b", "text": "Nr. 7"}]
    (batch,) = load_batches(manifest(rows), dataset(tokeniser=None), max_batch_seconds=9.0)
    assert batch.texts == ("", "nr 7")
    assert batch.token_lengths.tolist() == [0, 0]
    assert batch.rejected == ()


def test_a_corpus_without_utterances_is_a_sentence(tmp_path):
    (tmp_path / "m.jsonl").write_text("\n")
    with pytest.raises(CorpusError, match="holds no utterances"):
        list(load_batches(opened(tmp_path, kind="manifest", path="m.jsonl"), dataset(), max_batch_seconds=4.0))


@pytest.mark.parametrize(("tokens", "needed"), [("ab", 2), ("aab", 4), ("aaa", 5), ("aba", 3), ("", 0)])
def test_labels_need_a_frame_each_and_one_more_between_repeats(tokens, needed):
    check_length(needed, LETTERS.encode(tokens))
    if needed:
        with pytest.raises(Exception, match=f"too short for its labels: {needed - 1} emission frames, {needed} needed"):
            check_length(needed - 1, LETTERS.encode(tokens))


def test_real_speech_of_the_librispeech_layout_loads(shared_data):
    cuts = opened(shared_data, kind="librispeech", splits=["train-clean-5"])
    (batch,) = load_batches(list(itertools.islice(cuts, 1)), dataset(seconds=(0, 40)), max_batch_seconds=40)
    assert len(batch.texts[0].split()) > 3
    assert 0.01 < batch.waveforms.abs().max() <= 1.0


# --------------------------------------------------------------------------------------------- joined utterances


@pytest.fixture
def words(wav, manifest):
    """Eight clips of a word each, 0.2 to 0.27 s, as cuts of an epoch; the fourth cannot be spelled."""
    rows = []
    for i, word in enumerate(["one", "two", "three", "4", "five", "six", "seven", "eight"]):
        wav(f"{i}.wav", 0.2 + 0.01 * i, hz=300 + 100 * i)
        rows.append({"id": word, "audio_filepath": f"{i}.wav", "text": word})
    return manifest(rows)


def joining(cuts, salt: str = "1/0", **settings):
    chosen = recipe.Join(**{"probability": 1.0, "longest": 3.0, **settings})
    return join(cuts, chosen, salt=salt, seconds=(0.05, max(3.0, chosen.longest)))


def test_joined_utterances_are_each_heard_once_with_silence_around_and_their_texts_in_order(words):
    [*cuts] = joining(words, silence=(0.1, 0.2))
    assert 1 <= len(cuts) < 8
    for cut in cuts:
        batch = dataset(emission_frames=None)[[cut]]
        taken = [part for part in cut.cuts if part.id != "4"]
        assert batch.texts == (" ".join(part.id for part in taken),)
        assert batch.token_lengths.tolist() == [len(batch.texts[0])]
        assert [rejection.id for rejection in batch.rejected] == ["4"] * (len(cut.cuts) - len(taken))
        gaps = sum(gap for gap, part in zip(cut.silences, cut.cuts, strict=False) if part in taken)
        seconds = gaps + cut.silences[-1] + sum(part.duration for part in taken)
        assert batch.waveform_lengths.item() == pytest.approx(seconds * RATE, abs=len(taken) + 1)
        assert all(0.1 <= gap <= 0.2 for gap in cut.silences)
    assert [part.id for cut in cuts for part in cut.cuts] == [cut.id for cut in words]


def test_a_joined_utterance_is_its_clips_where_its_silences_say(words):
    parts = [load_samples(cut, RATE) for cut in words][:2]
    joined = Joined(id="", duration=0.0, cuts=tuple(words)[:2], silences=(0.1, 0.05, 0.2), background=False, seed=1)
    samples, (first, second) = joined.samples(parts, RATE), parts
    at = 1600
    assert not samples[:at].any()
    assert np.array_equal(samples[at : at + len(first)], first)
    at += len(first) + 800
    assert np.array_equal(samples[at : at + len(second)], second)
    assert not samples[at + len(second) :].any()
    assert len(samples) == at + len(second) + 3200


def test_the_background_between_joined_clips_is_as_loud_as_their_quietest_part():
    hiss = np.random.default_rng(0).standard_normal(3200).astype(np.float32)
    part = np.concatenate([0.5 * hiss, 0.01 * hiss])
    joined = Joined(id="", duration=0.0, cuts=(None, None), silences=(0.0, 0.5, 0.0), background=True, seed=1)
    between = joined.samples([part, part], RATE)
    assert np.sqrt(np.square(between[6400 : 6400 + 8000]).mean()) == pytest.approx(0.01, rel=0.15)


def test_what_is_joined_depends_on_seed_epoch_and_order_alone(words):
    def told(salt):
        return contents(dataset(augmenter=None)[[cut]] for cut in joining(words, salt, probability=0.5))

    assert told("1/0") == told("1/0")
    assert told("1/0") != told("1/1")


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("workers", [1, 2])
def test_joined_batches_depend_neither_on_workers_nor_on_where_a_run_goes_on(tmp_path, workers):
    listing = Listing(open_corpora((source_of(kind="manifest", path="m.jsonl"),), tmp_path))
    epoch = Epoch(
        listing,
        recipe.Training(max_batch_seconds=6.0, buckets=2),
        seed=1,
        number=0,
        joins=recipe.Join(probability=1.0, longest=3.0),
    )
    augmenter = Augmenter(recipe.Augment(speed=(0.9, 1.1)), tmp_path, seed=1)

    def batches(skip, workers):
        return contents(load_ordered(epoch.share(skip), dataset(augmenter=augmenter), workers=workers))

    whole = batches(0, 0)
    assert batches(1, workers) == whole[1:]
    assert sum(len(text.split()) for _, texts, *_ in whole for text in texts) == 27


def test_cuts_outside_the_limits_and_faulty_ones_are_not_joined(wav, manifest):
    wav("long.wav", 4.0)
    wav("short.wav", 0.3)
    cuts = manifest([{"id": name, "audio_filepath": f"{name}.wav"} for name in ("short", "long", "short")])
    alone = [cut.id for cut in joining(cuts) if not isinstance(cut, Joined)]
    assert alone == ["long", "short"]  # the second short one has the first one's id: that is its fault


def test_phones_of_joined_words_are_separated_as_those_of_a_sentence(words):
    lexicon = PronunciationLexicon({cut.id: (Pronunciation(("P",)),) for cut in words})
    tokeniser = PhoneTokeniser(["P"], lexicon, recipe.Phones(kind="phones", separator=True))
    [cut] = joining(words, longest=100.0, silence=(0.3, 0.3), salt="x")
    batch = dataset(tokeniser=tokeniser, seconds=(0.05, 100.0), spelled={"two": [2, 2]})[[cut]]
    assert batch.tokens[0, :6].tolist() == [2, 1, 2, 2, 1, 2]


def test_an_alphabet_that_is_learnt_for_joining_has_the_space():
    texts = ["one", "two"]
    assert " " in build_tokeniser(recipe.Characters(), texts_to_spell(texts, recipe.Join())).tokens
    assert list(texts_to_spell(texts, None)) == texts


def test_joining_with_an_alphabet_without_space_is_a_faulty_recipe():
    sections = {"augment": {"join": {}}, "text": {"tokeniser": {"kind": "characters", "alphabet": "abc"}}}
    source = [{"kind": "folder", "path": "x"}]
    with pytest.raises(RecipeError, match=r"augment\.join needs a space"):
        reading.validate_recipe({"corpora": {"train": source, "dev": source}, **sections}, "test")


@pytest.mark.parametrize(
    ("texts", "warned"),
    [
        (["yes"] * 60, True),
        (["yes"] * 58 + ["go on"] * 2, True),
        (["yes"] * 50 + ["go on"] * 10, False),
        (["yes"] * 20, False),
        (["你好吗"] * 60, False),
    ],
)
def test_texts_of_one_word_each_are_remarked_upon(texts, warned):
    assert ("augment.join is off" in lone_words(texts, len(texts))) == warned

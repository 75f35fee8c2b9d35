"""The command line as its user meets it: real processes, sentences, exit codes."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import toy
from commands import run as asr

from asr.recipe.reading import load_recipe

COMMANDS = [
    "",
    "train",
    "transcribe",
    "archive",
    "listen",
    "align",
    "evaluate",
    "score",
    "check",
    "text",
    "tune",
    "export",
    "lm",
    "lm train",
    "lm perplexity",
    "lm prune",
    "lm mix",
    "lm compress",
    "lexicon",
    "lexicon make",
    "lexicon add",
    "info",
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a toy corpus, its recipe, and a trained models/toy."""
    folder = tmp_path_factory.mktemp("home")
    toy.write_corpus(folder / "data", 60, name="train")
    toy.write_corpus(folder / "data", 8, seed=9, name="dev")
    toy.write_recipe(folder / "toy.yaml", training={**toy.recipe()["training"], "epochs": 12})
    done = asr("train", "toy.yaml", "--data", "data", cwd=folder)
    assert done.returncode == 0, done.stderr.decode()
    assert b"models/toy: dev WER" in done.stdout
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_help_answers_at_once_without_importing_torch(command):
    heavy = ("torch", "numpy", "pydantic", "lhotse", "librosa", "numba", "rich")
    code = (
        "import sys\nfrom asr.cli import main\n"
        f"try: main({[*command.split(), '--help']})\nexcept SystemExit as end: assert not end.code\n"
        f"print([module for module in {heavy} if module in sys.modules])"
    )
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage:" in seen.stdout
    assert seen.stdout.splitlines()[-1] == "[]"


def test_help_takes_less_than_300_ms_of_processor_time():
    command = [sys.executable, "-c", "from asr.cli import main; main()", "transcribe", "--help"]

    def once() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(once() for _ in range(5)) < 0.3


def test_info_says_what_a_model_is(home):
    done = asr("info", "models/toy", cwd=home)
    assert done.returncode == 0, done.stderr.decode()
    facts = {line[:9].strip(): line[11:] for line in done.stdout.decode().splitlines()}
    assert facts["units"] == "4 characters: ␣ a b c"
    assert facts["trained"].startswith("12 epochs of ")
    assert re.match(r"dev WER [\d.]+%, CER [\d.]+% at epoch \d+", facts["results"])
    assert facts["decoder"] == "kind greedy"
    assert facts["corpora"] == "train: train; dev: dev"
    (home / "models" / "toy" / "MODEL_CARD.md").write_text("# Toy\n")
    assert "card       models/toy/MODEL_CARD.md" in asr("info", "models/toy", cwd=home).stdout.decode()


def test_evaluate_prints_pooled_rates_and_writes_both_files(home):
    done = asr("evaluate", "models/toy", "--json", "scores.json", "--hypotheses", "hypotheses.jsonl", cwd=home)
    assert done.returncode == 0, done.stderr.decode()
    scores = json.loads((home / "scores.json").read_text())
    assert set(scores["sets"]) == {"toy"}
    assert scores["sets"]["toy"]["utterances"] == 8
    assert f"toy: WER {scores['sets']['toy']['wer']:.2%}".encode() in done.stdout
    hypotheses = [json.loads(line) for line in (home / "hypotheses.jsonl").read_text().splitlines()]
    assert {line["id"] for line in hypotheses} == {f"dev-{i}" for i in range(8)}


def test_evaluate_writes_a_report_of_every_utterance(home):
    done = asr("evaluate", "models/toy", "--report", "report.html", "--hypotheses", "hypotheses.jsonl", cwd=home)
    assert done.returncode == 0, done.stderr.decode()
    page = (home / "report.html").read_text()
    assert page.count("<article>") == 8
    assert page.count('<audio controls preload="none" src="data:audio/mpeg;base64,') == 8
    assert page.count("How the network read it") > 0
    assert "WER by speaker" in page
    assert "Expected calibration error" in page
    scored = asr("score", "data/dev.jsonl", "hypotheses.jsonl", cwd=home)
    assert scored.returncode == 0, scored.stderr.decode()
    assert done.stdout.split(b"WER ")[1].split(b"  ")[0] in scored.stdout  # the same rate and interval


def test_evaluate_takes_manifests_and_recipes(home):
    done = asr("evaluate", "models/toy", "data/dev.jsonl", "toy.yaml", "--data", "data", cwd=home)
    assert done.returncode == 0, done.stderr.decode()
    assert b"data/dev: WER" in done.stdout
    assert b"toy: WER" in done.stdout


def test_an_unreadable_utterance_is_named_and_fails_the_evaluation(home, tmp_path):
    rows = [json.loads(line) for line in (home / "data" / "dev.jsonl").read_text().splitlines()]
    for row in rows:
        row["audio_filepath"] = str(home / "data" / row["audio_filepath"])
    rows[0]["audio_filepath"] = "gone.flac"
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = asr("evaluate", home / "models" / "toy", tmp_path / "set.jsonl")
    assert done.returncode == 1
    assert b"not scored: dev-0" in done.stderr
    assert b"in 7 utterances" in done.stdout


def test_transcribe_takes_the_newest_model_and_says_which(home):
    done = asr("transcribe", "data/dev/0.flac", cwd=home)
    assert done.returncode == 0
    assert b"using models/toy" in done.stderr


def test_transcribe_writes_words_with_times_as_json(home):
    done = asr("transcribe", "data/dev/0.flac", "--format", "json", cwd=home)
    document = json.loads(done.stdout)
    assert document["text"] == " ".join(word["text"] for word in document["words"])
    for word in document["words"]:
        assert 0 <= word["start"] < word["end"] <= document["duration"] + 0.1
        assert 0 <= word["confidence"] <= 1


def test_transcribe_reads_standard_input(home):
    named = asr("transcribe", "data/dev/0.flac", cwd=home).stdout
    piped = asr("transcribe", "-", cwd=home, stdin=(home / "data" / "dev" / "0.flac").read_bytes()).stdout
    assert piped == named


def test_listen_prints_a_line_an_utterance_and_says_how_late_the_first_word_was(home, tmp_path):
    clips = [soundfile.read(home / "data" / "dev" / f"{i}.flac", dtype="float32")[0] for i in range(2)]
    pause = 0.003 * np.random.default_rng(0).standard_normal(2 * toy.RATE)
    soundfile.write(tmp_path / "two.wav", np.concatenate([clips[0], pause, clips[1]]), toy.RATE)
    command = ["listen", "--from-file", tmp_path / "two.wav", "--chunk", 0.1]
    done = asr(*command, "--speed", 8, cwd=home)
    assert done.returncode == 0, done.stderr.decode()
    assert re.search(r"first word shown \d+\.\d\d s after it began", done.stderr.decode())
    assert len(done.stdout.splitlines()) >= 2
    assert b"\x1b" not in done.stdout
    events = [json.loads(e) for e in asr(*command, "--speed", 0, "--format", "json", cwd=home).stdout.splitlines()]
    final = [word["text"] for event in events if event["kind"] == "final" for word in event["words"]]
    assert final == done.stdout.decode().split()
    assert {event["kind"] for event in events} == {"partial", "final"}
    assert sum(event["ends"] for event in events) == len(done.stdout.splitlines())
    assert [event["time"] for event in events] == sorted(event["time"] for event in events)


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
def test_on_a_terminal_what_is_being_said_is_redrawn_in_place(home, tmp_path):
    clips = [soundfile.read(home / "data" / "dev" / f"{i}.flac") for i in range(4)]
    long = tmp_path / "long.wav"
    soundfile.write(long, np.concatenate([samples for samples, _ in clips]), clips[0][1])
    ours, theirs = os.openpty()
    command = [sys.executable, "-c", "from asr.cli import main; main()", "listen", "--from-file", str(long)]
    command += ["--speed", "0", "--chunk", "0.1"]
    subprocess.run(command, stdout=theirs, stderr=subprocess.DEVNULL, cwd=home, check=True)
    os.close(theirs)
    *redrawn, _ = os.read(ours, 100_000).decode().split("\r\x1b[K")
    os.close(ours)
    lines = [text.strip() for text in redrawn if text.endswith("\r\n")]
    drafts = [text for text in redrawn if text and not text.endswith("\r\n")]
    assert any(line.startswith(draft) for line in lines for draft in drafts)


def test_one_bad_file_does_not_stop_the_others(home, tmp_path):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("this is not audio")
    flac = (home / "data" / "dev" / "1.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(flac[: len(flac) // 2])
    samples, rate = soundfile.read(home / "data" / "dev" / "0.flac")
    stereo = np.stack([samples, samples], axis=1)
    soundfile.write(tmp_path / "stereo.mp3", stereo, rate, format="MP3")
    names = ["empty.wav", "text.wav", "cut.flac", "missing.wav", "stereo.mp3"]
    done = asr("transcribe", *(tmp_path / name for name in names), "--model", home / "models" / "toy")
    assert done.returncode == 1
    complaints = done.stderr.decode().splitlines()
    assert len(complaints) == 4
    assert all(complaint.startswith("asr: ") for complaint in complaints)
    # What there is of a recording that breaks off is read.
    for name in ("empty.wav", "text.wav", "cut.flac is truncated: its header promises 1.3 s", "missing.wav"):
        assert sum(name in complaint for complaint in complaints) == 1
    read = [line.split("\t")[0] for line in done.stdout.decode().splitlines()]
    assert read == [str(tmp_path / "cut.flac"), str(tmp_path / "stereo.mp3")]


@pytest.fixture(scope="module")
def mixed(home, tmp_path_factory):
    """A folder tree of the dev clips in several formats, a broken one among them."""
    folder = tmp_path_factory.mktemp("mixed")
    for i in range(8):
        samples, rate = soundfile.read(home / "data" / "dev" / f"{i}.flac")
        suffix = ("wav", "flac", "mp3", "opus")[i % 4]
        path = folder / f"day{i % 2}" / f"clip{i // 2}.{suffix}"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, samples, rate, **({"format": "OGG", "subtype": "OPUS"} if suffix == "opus" else {}))
    (folder / "day1" / "broken.m4a").write_bytes(b"no audio at all")
    return folder


def test_a_folder_is_transcribed_but_for_what_is_broken_and_a_rerun_does_the_rest(home, mixed, tmp_path):
    arguments = ["transcribe", mixed, "--model", home / "models" / "toy", "--out", tmp_path / "out"]
    done = asr(*arguments, "--format", "txt,json", "--format", "srt")
    assert done.returncode == 1
    complaint, summary = done.stderr.decode().splitlines()
    assert "day1/broken.m4a is not audio that can be read" in complaint
    assert summary.startswith("8 transcribed, 1 failed: ")
    written = sorted(
        str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()
    )
    names = [f"day{i % 2}/clip{i // 2}" for i in range(8)]
    assert written == sorted(f"{name}.{form}" for name in names for form in ("txt", "json", "srt"))
    alone = asr("transcribe", mixed / "day0" / "clip1.mp3", "--model", home / "models" / "toy")
    assert alone.stdout == (tmp_path / "out" / "day0" / "clip1.txt").read_bytes()
    (tmp_path / "out" / "day0" / "clip1.txt").unlink()
    again = asr(*arguments, "--format", "txt,json")
    assert "1 transcribed, 7 finished before, 1 failed" in again.stderr.decode()
    assert alone.stdout == (tmp_path / "out" / "day0" / "clip1.txt").read_bytes()
    everything = asr(*arguments, "--overwrite")
    assert "8 transcribed, 1 failed" in everything.stderr.decode()


def test_a_killed_run_leaves_whole_files_and_the_next_one_finishes(home, mixed, tmp_path):
    command = ["transcribe", str(mixed), "--model", str(home / "models" / "toy"), "--out", str(tmp_path / "out")]
    code = f"""
from asr.cli import main
from asr import runtime
import os
replace, written = os.replace, 0
class Killed(type(runtime.Path())):
    def replace(self, target):
        global written
        written += 1
        if written == 4: os.kill(os.getpid(), 9)
        return super().replace(target)
    def with_name(self, name): return Killed(super().with_name(name))
from asr.transcribe import folders
paths = folders.output_paths
folders.output_paths = lambda stem, forms: {{form: Killed(path) for form, path in paths(stem, forms).items()}}
main({command!r})
"""
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    whole = [path for path in (tmp_path / "out").rglob("*.txt") if not path.name.startswith(".")]
    assert len(whole) == 3
    assert all(path.read_text().endswith("\n") for path in whole)
    done = asr(*command)
    assert "5 transcribed, 3 finished before, 1 failed" in done.stderr.decode()
    assert not list((tmp_path / "out").rglob(".*"))


def test_standard_output_takes_one_format_and_subtitles_of_one_recording(home, mixed):
    several = asr("transcribe", mixed, "--model", home / "models" / "toy", "--format", "srt")
    assert "several need --out DIR" in several.stderr.decode()
    both = asr("transcribe", mixed, "--model", home / "models" / "toy", "--format", "srt,vtt")
    assert "need a folder to be written to: --out DIR" in both.stderr.decode()
    one = asr("transcribe", mixed / "day0" / "clip0.wav", "--model", home / "models" / "toy", "--format", "vtt")
    assert one.stdout.startswith(b"WEBVTT\n\n00:00:0")


@pytest.mark.parametrize(("option", "sentence"), [("--format=doc", '"doc" is not one of'), ("--channels=0", "1 being")])
def test_an_unknown_format_or_channel_is_a_sentence(option, sentence):
    done = asr("transcribe", "any.wav", option)
    assert done.returncode != 0
    assert sentence in done.stderr.decode()


@pytest.fixture(scope="module")
def call(tmp_path_factory) -> Path:
    """Two people, each in a channel, in the second audio track of a container; the first is silent."""
    import av

    path = tmp_path_factory.mktemp("call") / "call.mkv"
    sides = np.stack([toy.speak("abc"), toy.speak("cab")])
    with av.open(str(path), "w") as container:
        tracks = [container.add_stream("pcm_s16le", rate=toy.RATE, layout="stereo") for _ in range(2)]
        for track, samples in zip(tracks, (0 * sides, sides), strict=True):
            interleaved = np.ascontiguousarray((samples * 32767).astype(np.int16).T).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(interleaved, format="s16", layout="stereo")
            frame.rate, frame.pts = toy.RATE, 0
            container.mux(track.encode(frame))
    return path


def test_each_side_of_a_call_is_transcribed_by_itself_and_labelled(home, call, tmp_path):
    command = ["transcribe", call, "--model", home / "models" / "toy", "--track", 2, "--out", tmp_path]
    done = asr(*command, "--channels", "split", "--format", "json,srt,ctm")
    assert done.returncode == 0, done.stderr.decode()
    segments = json.loads((tmp_path / "call.json").read_text())["segments"]
    assert sorted((segment["channel"], segment["text"]) for segment in segments) == [(1, "abc"), (2, "cab")]
    assert {"channel 1: abc", "channel 2: cab"} < set((tmp_path / "call.srt").read_text().splitlines())
    assert [line.split()[1] for line in (tmp_path / "call.ctm").read_text().splitlines()] == ["1", "2"]


@pytest.mark.parametrize(("options", "text"), [("--channels 1", "abc"), ("--channels 2", "cab"), ("--track 1", "")])
def test_one_channel_or_track_is_transcribed_alone(home, call, options, text):
    track = [] if "--track" in options else ["--track", "2"]
    done = asr("transcribe", call, "--model", home / "models" / "toy", *options.split(), *track)
    assert (done.returncode, done.stdout.decode()) == (0, f"{text}\n"), done.stderr.decode()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [("--channels 3 --track 2", "has no channel 3: it has 2"), ("--track 3", "has no audio track 3: it has 2")],
)
def test_a_channel_or_track_that_is_not_there_is_a_sentence(home, call, options, sentence):
    done = asr("transcribe", call, "--model", home / "models" / "toy", *options.split())
    assert done.returncode == 1
    assert sentence in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


def test_silence_is_an_empty_transcript_and_says_so(home, tmp_path):
    soundfile.write(tmp_path / "silence.wav", np.zeros(60 * 8000), 8000)
    done = asr("transcribe", tmp_path / "silence.wav", "--model", home / "models" / "toy")
    assert (done.returncode, done.stdout) == (0, b"\n")
    assert "silence.wav holds no words" in done.stderr.decode()


def test_a_disk_that_is_full_stops_the_run_with_a_sentence_and_no_half_file(home, mixed, tmp_path):
    code = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (40, 40)); from asr.cli import main; main()"
    arguments = ["transcribe", mixed, "--model", home / "models" / "toy", "--out", tmp_path / "out", "--format", "json"]
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, check=False)
    assert done.returncode == 1
    assert "cannot be written: File too large" in done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "gone.yaml"], "the recipe gone.yaml cannot be read: No such file or directory"),
        (["train", "toy.yaml", "--data", "nowhere", "--out", "elsewhere"], "nowhere/train.jsonl is not there"),
        (["train", "toy.yaml", "--data", "data"], "models/toy holds a run already: go on with --resume"),
        (["train", "toy.yaml", "--set", "encoder.hiden=3"], 'unknown key; did you mean "hidden"?'),
        (["evaluate", "data"], "data is not a whole model directory"),
        (["evaluate", "models/toy", "gone.jsonl"], "gone.jsonl is not there"),
        (["transcribe", "data/dev/0.flac", "--model", "gone"], "gone is not a model directory"),
        (["transcribe", "data/dev/0.flac", "--device", "tpu"], '"tpu" is not a device'),
        (["listen", "--from-file", "gone.flac"], "gone.flac cannot be read: No such file or directory"),
        (["listen", "--from-file", "data/dev/0.flac", "--chunk", "-1"], "a stream needs a sample rate, a chunk"),
        (["listen", "--from-file", "data/dev/0.flac", "--speed", "-1"], "a --speed of 0 or more"),
        (["align", "data/dev/0.flac"], "the text to align is a file, TEXT, or the words after --text"),
        (["align", "-", "-"], "cannot both be read from standard input"),
        (["align", "data/dev/0.flac", "gone.txt"], "gone.txt cannot be read: No such file or directory"),
        (["align", "data/dev/0.flac", "data/dev/0.flac"], "data/dev/0.flac is not text in UTF-8"),
        (["align", "gone.flac", "--text", "abc"], "gone.flac cannot be read: No such file or directory"),
        (["align", "data/dev/0.flac", "--text", " "], "the text to align holds no words"),
        (
            ["align", "data/dev/0.flac", "--text", "a xy"],
            "the model cannot spell \"xy\" ('xy' is outside the alphabet)",
        ),
        (["align", "data/dev/0.flac", "--text", "abc " * 200], "is it the right text?"),
    ],
)
def test_a_mistake_is_a_sentence_and_exit_code_1(home, arguments, sentence):
    done = asr(*arguments, cwd=home)
    assert done.returncode == 1
    assert sentence in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


def test_align_reads_a_file_or_standard_input_and_writes_either_way(home, tmp_path):
    text = json.loads((home / "data" / "dev.jsonl").read_text().splitlines()[0])["text"].upper()
    (tmp_path / "said.txt").write_text(text + "\n", encoding="utf-8-sig")
    printed = asr("align", "data/dev/0.flac", tmp_path / "said.txt", "--format", "srt", cwd=home)
    assert printed.returncode == 0, printed.stderr.decode()
    assert printed.stdout.decode().startswith("1\n00:00:00,")
    assert printed.stdout.decode().endswith(f"\n{text}\n")
    piped = asr(
        "align", "data/dev/0.flac", "-", "--format", "srt", "-o", tmp_path / "out.srt", cwd=home, stdin=text.encode()
    )
    assert (piped.stdout, (tmp_path / "out.srt").read_bytes()) == (b"", printed.stdout)


def test_align_names_the_words_that_it_does_not_find(home):
    row = json.loads((home / "data" / "dev.jsonl").read_text().splitlines()[0])
    done = asr("align", "data/dev/0.flac", "--text", row["text"] + " xyz", "--skip-unknown", cwd=home)
    assert done.returncode == 0, done.stderr.decode()
    assert f"not found, 1 of {len(row['text'].split()) + 1} words: xyz" in done.stderr.decode()
    assert done.stdout.decode().splitlines()[-1] == ";; not found: xyz"


def test_silence_holds_none_of_the_words(home, tmp_path):
    soundfile.write(tmp_path / "silence.wav", np.zeros(5 * toy.RATE), toy.RATE)
    done = asr("align", tmp_path / "silence.wav", "--text", "abc cab bca", cwd=home)
    assert done.returncode == 1
    assert "silence.wav holds none of the 3 words of the text" in done.stderr.decode()


def test_a_full_disk_is_a_sentence_and_leaves_no_half_written_file(home):
    done = asr("evaluate", "models/toy", "--json", "/dev/full/scores.json", cwd=home)
    assert done.returncode == 1
    assert b"cannot be written" in done.stderr
    assert b"Traceback" not in done.stderr


def test_check_reports_what_training_would_meet(home, tmp_path):
    rows = [json.loads(line) for line in (home / "data" / "train.jsonl").read_text().splitlines()]
    for row in rows:
        row["audio_filepath"] = str(home / "data" / row["audio_filepath"])
    rows[0]["text"] = "abc" * 100
    rows[1]["text"] = ""
    rows[2]["audio_filepath"] = "gone.flac"
    for name in ("train", "dev"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = asr("check", home / "toy.yaml", "--data", tmp_path, "--set", "corpora.test=[]")
    report = done.stdout.decode()
    assert done.returncode == 0, done.stderr.decode()
    assert "train: 1 too short for its labels\n  train-0: too short for its labels: " in report
    assert "train: 1 empty text\n  train-1" in report
    assert "train: 1 unreadable\n  train-2" in report
    assert "4 speakers are in both train and dev" in report
    assert "alphabet, 4 tokens: ␣ a b c" in report
    assert "forecast on " in report


def test_ctrl_c_is_a_sentence(home):
    command = [sys.executable, "-c", "from asr.cli import main; main()", "transcribe", "-", "--model", "models/toy"]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=home,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        preexec_fn=toy.heed_interrupts,
    )
    time.sleep(4)
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=30)
    assert process.returncode == 1
    assert complaint.decode().strip().splitlines()[-1] == "asr: stopped"


# -------------------------------------------------------------------------------------------------- decoding


@pytest.fixture(scope="module")
def language_model(home):
    """A language model of the toy corpus's transcripts, beside it."""
    text = asr("text", "toy.yaml", "--data", "data", cwd=home)
    assert text.stdout.count(b"\n") == 60
    done = asr("lm", "train", "-", "-o", "toy.arpa", "--order", 2, "--prune", 0, cwd=home, stdin=text.stdout)
    assert done.returncode == 0, done.stderr.decode()
    return home / "toy.arpa"


def test_tune_keeps_its_choice_in_the_model_directory_where_evaluate_finds_it(home, language_model, tmp_path):
    model = tmp_path / "tuned"
    shutil.copytree(home / "models" / "toy", model)
    done = asr("tune", model, "--lm", language_model, "--data", "data", cwd=home)
    assert done.returncode == 0, done.stderr.decode()
    assert b"greedy" in done.stdout
    settings = load_recipe(model / "recipe.yaml").decoder
    assert (settings.kind, settings.language_model) == ("beam", "language_model.ngrams")
    assert settings.calibration is not None
    language_model.rename(language_model.with_suffix(".away"))  # the directory holds all that it needs
    try:
        tuned = asr("evaluate", model, "--data", "data", cwd=home)
        greedy = asr("evaluate", model, "--data", "data", "--greedy", cwd=home)
    finally:
        language_model.with_suffix(".away").rename(language_model)
    assert tuned.returncode == greedy.returncode == 0
    before, after = (float(re.search(rb"WER ([\d.]+)%", done.stdout)[1]) for done in (greedy, tuned))
    assert after <= before


def test_transcribe_takes_hotwords_and_a_lexicon(home, tmp_path):
    clip = next((home / "data" / "dev").glob("*.flac"))
    (tmp_path / "words.txt").write_text("abc\n")
    done = asr("transcribe", clip, "--lexicon", tmp_path / "words.txt", "--hotwords", "Abc:3", cwd=home)
    assert done.returncode == 0, done.stderr.decode()
    assert set(done.stdout.decode().split()) <= {"abc"}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--alpha", "high"], "decoder.alpha: expected a valid number; found 'high'"),
        (["--lm", "missing.arpa"], "missing.arpa cannot be read"),
        (["--lm", "broken.arpa"], "broken.arpa, line 5"),
        (["--lm", "xyz.arpa"], "cannot be spelled"),
        (["--lexicon", "empty.txt"], "holds no word"),
        (["--hotwords", "a:b:c"], 'hotwords: "c" is not a weight'),
        (["--hotwords", "zebra"], '"zebra" cannot be spelled'),
        (["--greedy", "--beam", "4"], "--greedy searches nothing"),
        (["--beam", "none"], "decoder.width"),
        (["--lstm", "."], "is not a whole model directory"),
        (["--nonsense"], "No such option"),
    ],
)
def test_decoding_that_cannot_be_is_one_sentence(home, language_model, options, sentence):
    arpa = language_model.read_text()
    (home / "broken.arpa").write_text(arpa.replace("\\1-grams:", "\\1-grams", 1))
    letters = str.maketrans("abc", "xyz")
    lines = [line.translate(letters) if "\t" in line else line for line in arpa.splitlines(keepends=True)]
    (home / "xyz.arpa").write_text("".join(lines))
    (home / "empty.txt").write_text("\n")
    done = asr("evaluate", "models/toy", "--data", "data", *options, cwd=home)
    assert done.returncode == 1
    assert done.stderr.decode().strip().startswith("asr: ")
    assert sentence in done.stderr.decode()

"""A recording that cannot be read ends no run: it is named in its place, and the others come out as without it."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import av
import pytest
import soundfile
import toy
from click.testing import CliRunner, Result
from containers import clip, encode

from asr.cli import main


def bad_recordings(folder: Path) -> dict[str, str]:
    """Files of every kind of fault in ``folder``: what is said of each."""
    wav = clip("wav", toy.speak("abc"), toy.RATE)
    header = {"codec.wav": (20, b"\x34\x12"), "1hz.wav": (24, b"\1\0\0\0"), "32mhz.wav": (24, b"\1\x48\xe8\1")}
    contents = {name: wav[:at] + field + wav[at + len(field) :] for name, (at, field) in header.items()}
    contents |= {"text.wav": b"no audio at all", "empty.wav": b"", "zeros.mp3": bytes(5000)}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    os.mkfifo(folder / "pipe.wav")
    with av.open(str(folder / "mute.webm"), "w") as out:
        stream = out.add_stream("libvpx", rate=10)
        stream.width = stream.height = 16
        out.mux(stream.encode(av.VideoFrame(16, 16, "yuv420p")))
        out.mux(stream.encode(None))
    return {
        "codec.wav": "is not audio that can be read",
        "1hz.wav": "has a sample rate of 1 Hz",
        "32mhz.wav": "has a sample rate of 32000001 Hz",
        "text.wav": "is not audio that can be read",
        "empty.wav": "is empty",
        "zeros.mp3": "begins with zero bytes alone",
        "pipe.wav": "is not a file but a pipe",
        "mute.webm": "holds no audio stream",
    }


def odd_recordings(folder: Path) -> list[str]:
    """Files that were refused once, or ended the run, and can be read."""
    sound = toy.speak("cab")
    (folder / os.fsdecode(b"caf\xe9.wav")).write_bytes(clip("wav", sound, toy.RATE))
    (folder / "10:30.m4a").write_bytes(clip("m4a", sound, toy.RATE))
    soundfile.write(folder / "8001hz.wav", sound, 8001)
    stereo = io.BytesIO()
    with av.open(stereo, "w", format="mpegts") as out:
        encode(out, out.add_stream("aac", rate=toy.RATE, layout="stereo"), sound, toy.RATE)
    (folder / "change.ts").write_bytes(clip("ts", sound, toy.RATE) + stereo.getvalue())
    return [os.fsdecode(b"caf\xe9.wav"), "10:30.m4a", "8001hz.wav", "change.ts"]


def asr(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return toy.save_babbler(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("form", ["txt", "json", "srt"])
def test_a_folder_is_transcribed_but_for_the_bad_ones(model, tmp_path, form):
    folder = tmp_path / "recordings"
    folder.mkdir()
    bad, odd = bad_recordings(folder), odd_recordings(folder)
    soundfile.write(folder / "good.wav", toy.speak("ab ca"), toy.RATE)
    alone = asr("transcribe", folder / "good.wav", "--model", model).stdout.strip()
    done = asr("transcribe", folder, folder / "change.ts", "--model", model, "-o", tmp_path / "out", "--format", form)
    assert done.exit_code == 1
    for name, reason in bad.items():
        [line] = [line for line in done.stderr.splitlines() if f"/{name}" in line]
        assert reason in line
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {f"{Path(name).stem}.{form}" for name in [*odd, "good.wav"]}
    assert alone in (tmp_path / "out" / f"good.{form}").read_text()


@pytest.fixture
def corpus(tmp_path) -> dict[str, str]:
    """A toy corpus with every bad recording in it: what is said of each utterance that cannot be used."""
    for name, utterances, seed in (("train", 12, 0), ("dev", 4, 9)):
        manifest = toy.write_corpus(tmp_path, utterances, seed=seed, name=name)
        bad, odd = bad_recordings(tmp_path / name), odd_recordings(tmp_path / name)
        names = [*bad, *(file for file in odd if file.isprintable())]  # a manifest is UTF-8
        rows = [{"id": f"{name}-{file}", "audio_filepath": f"{name}/{file}", "text": "cab"} for file in names]
        rows.append({"id": f"{name}-long name", "audio_filepath": "a" * 300 + ".wav", "text": "cab"})
        with manifest.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    return bad


def test_every_bad_recording_of_a_corpus_is_named_by_check(corpus, tmp_path):
    recipe = toy.write_recipe(tmp_path / "toy.yaml")
    done = asr("check", recipe, "--data", tmp_path)
    said = " ".join(done.output.split())
    for split in ("train", "dev"):
        for name, reason in corpus.items():
            assert f"{split}-{name}: " in said
            assert reason in said
        assert "File name too long" in said


def test_an_evaluation_scores_the_others(corpus, model, tmp_path):
    done = asr("evaluate", model, tmp_path / "dev.jsonl")
    assert "in 7 utterances" in done.stdout  # four of the corpus, three odd ones
    for name in corpus:
        assert f"not scored: dev-{name}" in done.stderr


@pytest.mark.usefixtures("corpus")
def test_a_training_goes_on_without_them(tmp_path):
    training = {**toy.recipe()["training"], "epochs": 1}
    recipe = toy.write_recipe(tmp_path / "toy.yaml", training=training)
    done = asr("train", recipe, "--data", tmp_path, "--out", tmp_path / "model")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "model" / "model.safetensors").is_file()

"""From Python: the examples of README and guide as they stand there, and one recogniser in several threads."""

import json
import re
import string
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
import toy

import asr

ROOT = Path(__file__).parents[1]
EXAMPLES = [
    pytest.param(name, code, id=f"{name} {number}")
    for name in ("README.md", "recipes/guides/python.md")
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL), 1)
]


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    return np.concatenate([toy.speak("abc cab"), toy.speak("a bb ccc")])


@pytest.fixture
def named(tmp_path, monkeypatch, clip) -> dict[str, object]:
    """The files that the examples name, in the working directory, and the values that they are given."""
    toy.save_babbler(tmp_path / "models" / "digits", " " + string.ascii_lowercase)
    soundfile.write(tmp_path / "clip.wav", clip, toy.RATE)
    (tmp_path / "lm.arpa").write_text("\\data\\\nngram 1=3\n\n\\1-grams:\n-1 <s>\n-1 </s>\n-1 abc\n\n\\end\\\n")
    monkeypatch.chdir(tmp_path)
    logits = np.random.default_rng(0).normal(0, 4, size=(2, 30, 29)).astype(np.float32)
    pieces = np.array_split(clip, 7)
    spoken = [(np.repeat(toy.speak(text), 16000 // toy.RATE), text) for text in ["abc", "cab a", "b", "bb cc"] * 3]
    return {
        "spoken": spoken,
        "pieces": pieces,
        "logits": logits[0],
        "many_logits": logits,
        "lengths": np.array([30, 20]),
    }


@pytest.mark.parametrize(("name", "code"), EXAMPLES)
def test_the_documents_examples_run_as_they_stand_there(named, name, code):
    exec(compile(code, name, "exec"), dict(named))


def test_the_readmes_example_says_what_the_recogniser_says(named, capsys):
    [code] = [example.values[1] for example in EXAMPLES if example.values[0] == "README.md"]
    assert len([line for line in code.splitlines() if line]) <= 8
    exec(compile(code, "README.md", "exec"), dict(named))
    printed = capsys.readouterr().out.splitlines()
    expected = asr.load("models/digits").transcribe("clip.wav")
    assert expected.words
    assert printed[0] == expected.text
    assert [line.split()[2] for line in printed[1:]] == [word.text for word in expected.words]


def test_a_file_its_bytes_and_its_samples_are_the_same_recording(tmp_path, clip):
    recogniser = asr.load(toy.save_babbler(tmp_path / "model"))
    path = tmp_path / "clip.wav"
    soundfile.write(path, clip, toy.RATE)
    sixteen_bits, rate = soundfile.read(path, dtype="int16")
    transcript = recogniser.transcribe(path)
    assert transcript == recogniser.transcribe(str(path)) == recogniser.transcribe(path.read_bytes())
    assert transcript == recogniser.transcribe(sixteen_bits, sample_rate=rate)


@pytest.mark.parametrize("decoder", [{"kind": "greedy"}, {"kind": "beam", "width": 8}])
def test_threads_that_share_a_recogniser_hear_what_one_hears_alone(tmp_path, decoder):
    """Of recordings in one piece and in several, which voice activity cuts."""
    directory = toy.save_babbler(tmp_path / "model", **decoder)
    sounds = [toy.speak("abc cab " * (i % 4 + 1) * (20 if i % 4 == 3 else 1)) for i in range(8)]
    assert max(map(len, sounds)) > 40 * toy.RATE
    recogniser = asr.load(directory)

    def hear(number: int) -> asr.Transcript:
        return recogniser.transcribe(sounds[number % 8], sample_rate=toy.RATE, vad=False)

    alone = [hear(number) for number in range(8)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(hear, range(24))) == alone * 3


def test_threads_that_load_at_once_hear_the_same(tmp_path, clip):
    directory = toy.save_babbler(tmp_path / "model")

    def load_and_hear(_: int) -> asr.Transcript:
        return asr.load(directory).transcribe(clip, sample_rate=toy.RATE)

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(load_and_hear, range(8)))) == 1


def test_hotwords_and_lexicon_are_heard_for_one_call(tmp_path, clip):
    recogniser = asr.load(toy.save_babbler(tmp_path / "model", kind="beam", width=16))
    plain = recogniser.transcribe(clip, sample_rate=toy.RATE)
    closed = recogniser.transcribe(clip, sample_rate=toy.RATE, lexicon=["abc", "cab"])
    assert {word.text for word in closed.words} <= {"abc", "cab"}
    favouring = recogniser.decoder_for({"cab": 6.0}, None)
    assert favouring.settings.hotwords == {"cab": 6.0}
    assert favouring is recogniser.decoder_for({"cab": 6.0}, None)  # made once
    assert recogniser.transcribe(clip, sample_rate=toy.RATE) == plain


def test_a_transcript_writes_itself_as_the_command_line_does(tmp_path, clip):
    transcript = asr.load(toy.save_babbler(tmp_path / "model")).transcribe(clip, sample_rate=toy.RATE)
    assert json.loads(transcript.to_json("clip.wav"))["text"] == transcript.text == transcript.to_text()
    assert transcript.to_vtt().startswith("WEBVTT")
    assert transcript.to_srt().startswith("1\n00:00:0")

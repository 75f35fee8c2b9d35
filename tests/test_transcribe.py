"""Transcription of anything: recordings of any length, several at once, channels, folders."""

import itertools
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import toy

from asr import audio
from asr.audio import voice
from asr.decode.greedy import GreedyDecoder
from asr.errors import AsrError, AudioError
from asr.model.acoustic import AcousticModel
from asr.model.network import TorchNetwork
from asr.recipe.reading import validate_recipe
from asr.records import Transcript
from asr.text.tokenise import CharacterTokeniser
from asr.transcribe import folders, recordings
from asr.transcribe.pieces import pieces
from asr.transcribe.recogniser import Recogniser

RATE = 16000


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    """An untrained model that hears a frame and its neighbours, at 16 kHz: its texts are nonsense and depend on
    everything that it hears."""
    sections = toy.recipe(
        encoder={"kind": "feedforward", "context": 2, "layers": 1, "hidden": 16, "conv": {"channels": [4, 4]}},
        features={"kind": "log_mel", "sample_rate": RATE, "mels": 24, "normalise": "none"},
    )
    settings = validate_recipe(sections, "toy")
    torch.manual_seed(0)
    tokeniser = CharacterTokeniser(" abc")
    model = AcousticModel(settings, len(tokeniser.tokens))
    model.head.weight.data.mul_(20)
    return Recogniser(TorchNetwork(model), tokeniser, settings, {}, GreedyDecoder(tokeniser))


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.3, 0.3, round(seconds * RATE)).astype(np.float32)


@pytest.fixture(scope="module")
def clips(shared_data) -> list[np.ndarray]:
    files = sorted((shared_data / "an4" / "audio" / "test").glob("*.flac"))[:24]
    return [audio.read(file).samples for file in files]


def test_a_recording_that_fits_in_a_window_is_one_piece():
    samples = noise(40)
    [piece] = pieces([samples[:999], samples[999:]], rate=RATE, frame=640)
    assert np.array_equal(piece.samples, samples)
    assert (piece.start, piece.stop, piece.first, piece.last) == (0, len(samples), 0, None)


def test_of_a_longer_one_the_speech_is_cut_out_with_its_place(clips):
    silence = np.zeros(6 * RATE, np.float32)
    parts = [part for clip in clips[:8] for part in (silence, clip)]
    starts = np.cumsum([0, *map(len, parts)])[1:-1:2]
    found = list(pieces([np.concatenate(parts)], rate=RATE, frame=640))
    assert len(found) == len(clips[:8])
    for piece, start, clip in zip(found, starts, clips, strict=False):
        assert start - 0.35 * RATE < piece.start < piece.stop < start + len(clip) + 0.35 * RATE
        assert piece.start % 640 == 0


@pytest.mark.parametrize("block", [5000, 16000 * 60])
@pytest.mark.parametrize("vad", [None, False])
def test_pieces_are_the_recordings_own_samples_whatever_the_blocks(clips, block, vad):
    recording = np.concatenate(clips)
    blocks = [recording[i : i + block] for i in range(0, len(recording), block)]
    found = list(pieces(blocks, rate=RATE, frame=640, vad=vad))
    assert any(piece.goes_on for piece in found) == (vad is False)
    for piece in found:
        start = piece.start - piece.first * 640
        assert np.array_equal(piece.samples, recording[start : start + len(piece.samples)])
    for before, after in itertools.pairwise(found):
        assert before.stop <= after.start
        assert before.stop == after.start or not before.goes_on


def test_where_there_is_no_pause_emissions_join_into_what_one_piece_gives(recogniser, monkeypatch):
    """The model hears some 0.3 s, less than the pieces overlap: joined, they are the recording read at once."""
    whole = noise(95)
    heard = {}
    for name, window in (("whole", 100.0), ("cut", 40.0)):
        monkeypatch.setattr("asr.transcribe.pieces.WINDOW_SECONDS", window)
        heard[name] = recogniser.transcribe(whole, sample_rate=RATE, vad=False)
    assert len(heard["cut"].segments) == 1
    assert heard["cut"].words == heard["whole"].words
    assert heard["cut"].text == heard["whole"].text


@pytest.mark.parametrize("vad", [None, False])
def test_memory_does_not_grow_with_the_recording(vad):
    def peak(minutes: int) -> int:
        """Bytes; every third minute is silent."""
        sound, silence = noise(60), np.zeros(60 * RATE, np.float32)
        tracemalloc.start()
        for piece in pieces((sound * (i % 3 > 0) + silence for i in range(minutes)), rate=RATE, frame=640, vad=vad):
            assert len(piece.samples) <= 40 * RATE
            assert piece.samples.base is None  # a view would hold on to minutes
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    peak(2)
    assert peak(12) < 1.1 * peak(4)


def test_a_transcript_does_not_depend_on_what_it_is_batched_with(recogniser, monkeypatch):
    lengths = [0.4, 3, 1.7, 2.2, 41, 0.9, 1.1, 5]
    sounds = [noise(seconds, i) for i, seconds in enumerate(lengths)]
    alone = [recogniser.transcribe(sound, sample_rate=RATE, vad=False) for sound in sounds]
    sources = [recordings.Source(channels=lambda: 1, blocks=lambda _, sound=sound: [sound]) for sound in sounds]
    reader = (recogniser.network, recogniser.decoder, recogniser.tokeniser)
    for pool in (1.0, 20.0, 480.0):
        monkeypatch.setattr(recordings, "POOL_SECONDS", pool)
        together = list(recordings.Transcription(*reader, vad=False)(sources))
        assert [t.text for t in together] == [t.text for t in alone]
        assert [t.duration for t in together] == pytest.approx(lengths)


def test_a_failure_takes_its_own_place_and_stops_no_other(recogniser, tmp_path):
    soundfile.write(tmp_path / "good.wav", noise(1), RATE)
    (tmp_path / "bad.wav").write_text("no audio")
    heard = []
    names = ["good.wav", "bad.wav", "gone.wav", "good.wav"]
    outcomes = list(recogniser.transcribe_all([tmp_path / name for name in names], advance=heard.append))
    assert [type(outcome) for outcome in outcomes] == [Transcript, AudioError, AudioError, Transcript]
    assert outcomes[0] == outcomes[3]
    assert sum(heard) == pytest.approx(2.0)


def test_a_recording_that_breaks_off_is_transcribed_as_far_as_it_goes_and_that_is_said(recogniser, tmp_path, caplog):
    soundfile.write(tmp_path / "cut.flac", noise(90), RATE)
    content = (tmp_path / "cut.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(content[: len(content) * 4 // 5])
    soundfile.write(tmp_path / "good.wav", noise(1), RATE)
    cut, good = recogniser.transcribe_all([tmp_path / "cut.flac", tmp_path / "good.wav"], vad=False)
    assert 60 < cut.duration < 80
    assert "cut.flac is truncated: its header promises 90.0 s" in caplog.text
    assert good.duration == 1.0


def test_channels_are_taken_apart_or_chosen(recogniser, tmp_path):
    left, right = noise(2, 1), noise(2, 2)
    soundfile.write(tmp_path / "call.wav", np.stack([left, right], axis=1), RATE, subtype="FLOAT")
    alone = [recogniser.transcribe(side, sample_rate=RATE).text for side in (left, right)]
    split = recogniser.transcribe(tmp_path / "call.wav", channels="split")
    assert [(segment.channel, segment.text) for segment in split.segments] == [(1, alone[0]), (2, alone[1])]
    assert split.duration == 2.0
    second = recogniser.transcribe(tmp_path / "call.wav", channels=2)
    assert [(segment.channel, segment.text) for segment in second.segments] == [(2, alone[1])]
    as_array = recogniser.transcribe(np.stack([left, right]), sample_rate=RATE, channels="split")
    assert as_array == split
    with pytest.raises(AudioError, match=r"call.wav has no channel 3: it has 2"):
        recogniser.transcribe(tmp_path / "call.wav", channels=3)


def test_a_track_of_a_container_is_chosen(recogniser, tmp_path):
    import av

    path = tmp_path / "two.mkv"
    sounds = [noise(1, 1), noise(1, 2)]
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("pcm_s16le", rate=RATE, layout="mono") for _ in sounds]
        for stream, sound in zip(streams, sounds, strict=True):
            samples = (sound * 32767).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.rate, frame.pts = RATE, 0
            container.mux(stream.encode(frame))
    second = np.concatenate(list(audio.stream(path, sample_rate=RATE, track=2)))
    assert np.abs(second - sounds[1]).max() < 1e-3
    assert audio.outline(path, track=2).duration == pytest.approx(1.0, abs=0.1)
    with pytest.raises(AudioError, match=r"two.mkv has no audio track 3: it has 2"):
        recogniser.transcribe(path, track=3)


@pytest.mark.parametrize("samples", [1, 160, 400, 800])
def test_a_moment_of_sound_is_a_transcript(recogniser, samples):
    assert recogniser.transcribe(noise(1)[:samples], sample_rate=RATE).duration == round(samples / RATE, 3)


def test_silence_holds_no_speech(recogniser):
    assert recogniser.transcribe(np.zeros(50 * RATE), sample_rate=RATE) == Transcript(segments=(), duration=50.0)
    assert recogniser.transcribe(np.zeros(RATE), sample_rate=RATE, vad=True).segments == ()


def test_192_khz_in_8_channels_is_heard(recogniser, tmp_path):
    soundfile.write(tmp_path / "many.wav", np.stack([noise(12)[:192_000]] * 8, axis=1), 192_000)
    assert recogniser.transcribe(tmp_path / "many.wav").duration == 1.0


def test_speech_at_8_khz_is_found_where_it_is(clips):
    silence = np.zeros(30 * RATE, np.float32)
    recording = np.concatenate([silence, clips[0], silence])
    [piece] = pieces(audio.resampled([recording], RATE, 8000), rate=8000, frame=320)
    assert 29.65 < piece.start / 8000 < 31 < piece.stop / 8000 < 30.35 + len(clips[0]) / RATE


def test_words_of_a_long_recording_lie_where_they_do_in_its_clip(recogniser, clips):
    """To the emission frame: a clip's span begins on the grid of the recording's frames."""
    silence = np.zeros(640 * 100, np.float32)
    parts = [part for clip in clips[:12] for part in (silence, clip[: len(clip) // 640 * 640])]
    heard = recogniser.transcribe(np.concatenate(parts), sample_rate=RATE)
    for segment in heard.segments:
        first, last = round(segment.start * RATE), round(segment.end * RATE)
        alone = recogniser.transcribe(np.concatenate(parts)[first:last], sample_rate=RATE)
        moved = [round(word.start - segment.start, 3) for word in segment.words]
        assert moved == [word.start for word in alone.words]


def test_folders_are_searched_and_outputs_mirror_them(tmp_path):
    for name in ("a/x.wav", "b/x.wav", "b/x.mp3", "b/notes.txt", ".hidden/y.wav", "b/deep/z.OPUS"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    found = folders.find_recordings([str(tmp_path)])
    assert [str(path.relative_to(tmp_path)) for path in found] == ["a/x.wav", "b/x.mp3", "b/x.wav", "b/deep/z.OPUS"]
    stems = folders.output_stems(found, folders.common_folder([str(tmp_path)]))
    assert [str(stem) for stem in stems.values()] == ["a/x", "b/x.mp3", "b/x.wav", "b/deep/z"]
    several = [str(tmp_path / "a"), str(tmp_path / "b" / "*.wav")]
    assert folders.find_recordings(several) == [tmp_path / "a" / "x.wav", tmp_path / "b" / "x.wav"]
    assert folders.common_folder(several) == tmp_path
    assert folders.common_folder([str(tmp_path / "a" / "x.wav")]) == tmp_path / "a"


def test_no_transcript_leaves_the_output_folder_however_its_recording_is_named(tmp_path, monkeypatch):
    for name in ("a/x.wav", "a/y.wav", "b/x.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b" / "link").symlink_to("../a")
    monkeypatch.chdir(tmp_path / "a")
    names = ["x.wav", "../b/x.wav", "../a/y.wav", str(tmp_path / "a" / "x.wav"), "../b/link/../b/x.wav"]
    found = folders.find_recordings(names)
    assert found == [Path("x.wav"), Path("../b/x.wav"), Path("../a/y.wav")]  # each once
    stems = folders.output_stems(found, folders.common_folder(names))
    assert [str(stem) for stem in stems.values()] == ["a/x", "b/x", "a/y"]
    linked = folders.output_stems([Path("../b/link/y.wav")], folders.common_folder([".."]))
    assert [str(stem) for stem in linked.values()] == ["b/link/y"]
    (tmp_path / "e" / "c").mkdir(parents=True)
    (tmp_path / "e" / "x.wav").touch()
    (tmp_path / "a" / "l").symlink_to("../e/c")
    names = ["*/../x.wav"]
    patterned = folders.output_stems(folders.find_recordings(names), folders.common_folder(names))
    assert [str(stem) for stem in patterned.values()] == ["e/x"]


def test_folders_that_are_links_are_searched_once_and_a_link_that_leads_nowhere_is_named(tmp_path, caplog):
    for name in ("here/a.wav", "elsewhere/b.wav"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    (tmp_path / "here" / "linked").symlink_to("../elsewhere")
    (tmp_path / "elsewhere" / "round").symlink_to("../here")
    (tmp_path / "here" / "gone").symlink_to("../nothing")
    found = folders.find_recordings([str(tmp_path / "here")])
    assert [str(path.relative_to(tmp_path)) for path in found] == ["here/a.wav", "here/linked/b.wav"]
    assert caplog.messages == [f"{tmp_path / 'here' / 'gone'} is a link that leads nowhere"]


def test_a_folder_or_a_pattern_without_recordings_is_a_sentence(tmp_path):
    with pytest.raises(AudioError, match="holds no recordings"):
        folders.find_recordings([str(tmp_path)])
    with pytest.raises(AudioError, match="no file matches"):
        folders.find_recordings([str(tmp_path / "*.wav")])


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(AsrError, match="nothing can be written to"):
        folders.check_writable(tmp_path / "file")


def test_what_is_finished_is_what_is_there_and_not_older(tmp_path):
    import os

    recording, output = tmp_path / "a.wav", tmp_path / "a.txt"
    recording.touch()
    assert not folders.is_finished(recording, [output])
    output.touch()
    assert folders.is_finished(recording, [output])
    os.utime(output, (1, 1))
    assert not folders.is_finished(recording, [output])


def test_the_network_for_voice_is_not_loaded_for_a_short_recording(recogniser, monkeypatch):
    monkeypatch.setattr(voice, "VoiceNetwork", lambda: pytest.fail("not needed"))
    recogniser.transcribe(noise(2), sample_rate=RATE)

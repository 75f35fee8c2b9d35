"""The end of a sound, as loudness tells it, and words that end with theirs."""

import json
import random
import statistics
from pathlib import Path

import numpy as np
import pytest
import soundfile
import toy
from hypothesis import given
from hypothesis import strategies as st

import asr
from asr import recipe
from asr.audio.loudness import Loudness, Meter
from asr.decode.decoder import build_decoder
from asr.decode.words import TAIL, words_of
from asr.records import Emissions
from asr.text.tokenise import CharacterTokeniser
from asr.transcribe.alignment import align_text, spell
from asr.transcribe.pieces import pieces
from asr.transcribe.recogniser import Recogniser
from asr.transcribe.recordings import uttered

TOKENISER = CharacterTokeniser(" ab")
ROOM = -60.0


def loudness(*parts: tuple[float, float]) -> Loudness:
    """Of seconds at so many dB each, in levels of 10 ms."""
    levels = [np.full(round(seconds * 100), level, np.float32) for seconds, level in parts]
    return Loudness(levels=np.concatenate(levels), seconds=0.01)


@pytest.mark.parametrize(
    ("parts", "end"),
    [
        ([(0.5, -20), (0.5, ROOM)], 0.5),
        ([(0.5, -20), (0.5, -120)], 0.5),  # digital silence
        ([(0.5, -20), (0.1, -50), (0.5, ROOM)], 0.6),  # it fades
        ([(0.3, -20), (0.08, ROOM), (0.05, -40), (0.5, ROOM)], 0.43),  # a plosive's closure and its release
        ([(0.3, -20), (0.3, ROOM), (0.5, -20)], 0.3),  # what comes after a pause is another sound
        ([(0.4, -30), (0.2, 10), (0.5, -80)], 0.6),  # a bang, beside which the word was quiet, does not end it
        ([(0.5, -20), (0.5, -35)], None),  # the room is too loud to hear an end
        ([(1.0, -20), (0.5, ROOM)], None),  # out of reach
        ([(0.5, -20)], None),  # the recording ends before the sound does
    ],
)
def test_a_sound_ends_where_it_is_35_decibels_down_or_the_room_is_heard(parts, end):
    found = loudness(*parts).end_of_sound(0.1, 0.25, 2.0)
    assert found == (None if end is None else pytest.approx(end))


@pytest.mark.parametrize(
    ("parts", "begin"),
    [
        ([(0.5, ROOM), (0.5, -20)], 0.5),
        ([(0.3, ROOM), (0.05, -40), (0.08, ROOM), (0.57, -20)], 0.3),  # a plosive's burst and what follows its closure
        ([(0.2, -20), (0.3, ROOM), (0.5, -20)], 0.5),  # what comes before a pause is another sound
        ([(0.5, -35), (0.5, -20)], None),  # the room is too loud to hear a beginning
        ([(1.0, -20)], None),  # it begins out of reach
    ],
)
def test_a_sound_begins_where_it_would_end_if_it_were_played_backwards(parts, begin):
    found = loudness(*parts).begin_of_sound(0.65, 0.9, 0.1)
    assert found == (None if begin is None else pytest.approx(begin))


def test_a_sound_does_not_begin_before_what_was_said_before_it():
    assert loudness((0.5, ROOM), (0.5, -20)).begin_of_sound(0.65, 0.9, 0.55) is None


def test_nothing_before_a_limit_is_nothing_to_tell_by():
    assert loudness((0.5, -20), (0.5, ROOM)).end_of_sound(0.1, 0.25, 0.26) is None
    assert loudness((0.5, -20)).end_of_sound(0.6, 0.7, 2.0) is None


@given(silence=st.floats(0.0, 3.0), level=st.sampled_from([ROOM, -120.0]))
def test_what_is_far_from_a_word_does_not_move_its_end(silence, level):
    near = [(0.5, -20), (0.6, ROOM)]
    alone = loudness(*near).end_of_sound(0.1, 0.25, 9.0)
    before = round(silence, 2)
    found = loudness((before, level), *near, (silence, level)).end_of_sound(before + 0.1, before + 0.25, 9.0)
    assert found == pytest.approx(before + alone)


@given(cuts=st.lists(st.integers(0, 1000), max_size=5), frame=st.sampled_from([20, 25, 160]))
def test_samples_are_measured_alike_whatever_their_blocks(cuts, frame):
    samples = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    whole, parts = Meter(rate=1000, frame=frame), Meter(rate=1000, frame=frame)
    whole.feed(samples)
    assert sum(map(len, parts.through(np.split(samples, sorted(cuts))))) == 1000
    assert parts.seconds == 1.0
    np.testing.assert_array_equal(parts.loudness().levels, whole.loudness().levels)


def test_less_than_a_level_is_no_loudness():
    meter = Meter(rate=1000, frame=20)
    meter.feed(np.zeros(0, np.float32))
    meter.feed(np.ones(9, np.float32))
    assert meter.seconds == 0.009
    assert len(meter.loudness().levels) == 0
    assert meter.loudness().end_of_sound(0.0, 0.0, 1.0) is None


def test_an_utterance_that_is_read_in_pieces_is_measured_once():
    samples = np.random.default_rng(1).normal(size=100 * 1000).astype(np.float32)
    cut = list(uttered(pieces(np.split(samples, 10), rate=1000, frame=20, vad=False), rate=1000, frame=20))
    assert len(cut) > 1
    assert len({id(passage) for _, passage in cut}) == 1
    whole = Meter(rate=1000, frame=20)
    whole.feed(samples)
    np.testing.assert_array_equal(cut[0][1].meter.loudness().levels, whole.loudness().levels)


def test_a_word_begins_and_ends_with_its_sound_in_transcripts_and_alignments():
    path = "-ab -------a---------"
    log_probs = np.full((len(path), 4), np.log(0.1 / 3), np.float32)
    log_probs[np.arange(len(path)), ["- ab".index(letter) for letter in path]] = np.log(0.9)
    said = Emissions(log_probs=log_probs[None], lengths=np.array([len(path)]), frame_shift=0.1)
    heard = loudness((0.1, ROOM), (0.5, -20), (0.45, ROOM), (0.3, -30), (0.7, ROOM))
    [[best]] = build_decoder(recipe.Greedy(), TOKENISER, root=Path())(said)
    times = [(word.start, word.end) for word in words_of(best, TOKENISER, 0.1, loudness=heard)]
    assert times == [pytest.approx((0.1, 0.6)), pytest.approx((1.05, 1.35))]
    times = [(word.start, word.end) for word in words_of(best, TOKENISER, 0.1)]
    assert times == [pytest.approx((0.1, 0.3 + TAIL)), pytest.approx((1.1, 1.2 + TAIL))]
    spelling = spell("ab a", TOKENISER, "words")
    aligned = align_text(said, spelling, TOKENISER, duration=2.05, loudness=heard)
    times = [(word.start, word.end) for word in aligned.words]
    assert times == [pytest.approx((0.07, 0.6), abs=0.03), pytest.approx((1.05, 1.35))]


@pytest.fixture(scope="module")
def babbler(tmp_path_factory):
    return Recogniser.load(toy.save_babbler(tmp_path_factory.mktemp("loudness") / "model"), device="cpu")


def told(transcript, channel):
    return [(w.text, w.start, w.end) for s in transcript.segments if s.channel == channel for w in s.words]


def call(folder, channels, rate):
    """A recording of several channels, and each of them in a file of its own."""
    soundfile.write(folder / "call.wav", np.stack(channels, axis=1), rate)
    for number, samples in enumerate(channels, start=1):
        soundfile.write(folder / f"{number}.wav", samples, rate)


def bursts(samples):
    """Loud noise of 0.4 s every 0.8 s: its sounds end within another channel's."""
    loud = 0.3 * np.random.default_rng(0).standard_normal(samples)
    loud[np.arange(samples) // 3200 % 2 == 1] *= 1e-3
    return loud.clip(-1, 1)


@pytest.mark.parametrize("other", [lambda n: 0.5 * toy.speak("cab" * n)[:n], bursts], ids=["speech", "bursts"])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_channel_s_words_begin_and_end_as_in_a_file_of_its_own_however_loud_the_other_is(
    babbler, tmp_path, other, order
):
    quiet = 0.05 * np.concatenate([toy.speak("ab c abc"), 1e-3 * bursts(toy.RATE)])
    pair = quiet, other(len(quiet))
    call(tmp_path, [pair[which] for which in order], toy.RATE)
    split = babbler.transcribe(tmp_path / "call.wav", channels="split")
    for number in (1, 2):
        assert told(split, number) == told(babbler.transcribe(tmp_path / f"{number}.wav"), None)
    [(_, _, end)] = told(split, order.index(0) + 1)
    assert end < len(quiet) / toy.RATE - 0.5  # the end of its sound was heard, not the recording's


def test_digits_in_two_channels_of_a_long_recording_begin_and_end_as_in_each(shared_data, tmp_path):
    """One speaker on each side, the second louder by 20 dB and speaking in the first's pauses."""
    english, rate = asr.load("english"), 8000
    clips = [json.loads(line) for line in (shared_data / "fsdd" / "test.jsonl").read_text().splitlines()]
    sides = []
    for speaker, level, first in (("jackson", 0.1, 0.0), ("nicolas", 1.0, 0.6)):
        side = np.zeros(50 * rate, np.float32)
        for i, clip in enumerate([clip for clip in clips if clip["speaker"] == speaker][:12]):
            sound, _ = soundfile.read(shared_data / "fsdd" / clip["audio_filepath"], dtype="float32")
            at = round((first + 1.2 * i + (30 if i >= 8 else 0)) * rate)
            side[at : at + len(sound)] += level * sound
        sides.append(side)
    call(tmp_path, sides, rate)
    split = english.transcribe(tmp_path / "call.wav", channels="split")
    for number in (1, 2):
        alone = told(english.transcribe(tmp_path / f"{number}.wav"), None)
        assert len(alone) > 6
        assert told(split, number) == alone


def test_joined_digits_begin_and_end_where_their_clips_do(shared_data):
    """Eight clips of one speaker with silence between; no word times were ever learnt from them."""
    english, draw, rate = asr.load("english"), random.Random(1), 8000
    clips = [json.loads(line) for line in (shared_data / "fsdd" / "test.jsonl").read_text().splitlines()]
    early: list[float] = []
    errors: list[float] = []
    for speaker in ("jackson", "nicolas", "theo"):
        chosen = draw.sample([clip for clip in clips if clip["speaker"] == speaker], 8)
        parts, begins, ends, at = [], [], [], 0
        for clip in chosen:
            sound, _ = soundfile.read(shared_data / "fsdd" / clip["audio_filepath"], dtype="float32")
            parts += [np.zeros(int(draw.uniform(0.2, 0.5) * rate), np.float32), sound]
            at += sum(map(len, parts[-2:]))
            begins.append((at - len(sound)) / rate)
            ends.append(at / rate)
        joined = np.concatenate([*parts, np.zeros(rate // 2, np.float32)])
        words = english.align(joined, " ".join(clip["text"] for clip in chosen), sample_rate=rate).words
        errors += [abs(word.end - end) for word, end in zip(words, ends, strict=True) if word.end is not None]
        early += [abs(word.start - b) for word, b in zip(words, begins, strict=True) if word.start is not None]
    assert len(errors) >= 22
    assert statistics.median(errors) < 0.03
    assert statistics.median(early) < 0.03

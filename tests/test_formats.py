"""Transcripts as files: subtitles that strict parsers and people accept, and the tables that others read."""

import io
import itertools
import json

import pytest
import srt
import webvtt
from hypothesis import given
from hypothesis import strategies as st
from praatio import textgrid

from asr.records import Segment, Transcript, Word
from asr.transcribe import formats
from asr.transcribe.cues import cues


def said(text: str, *, start: float = 0.0, each: float = 0.3, gap: float = 0.05, pauses=()) -> tuple[Word, ...]:
    """Words of ``each`` seconds; ``pauses`` are the numbers of words that a second's silence follows."""
    words = []
    for i, word in enumerate(text.split()):
        words.append(Word(text=word, start=start, end=start + each, confidence=0.9))
        start += each + (1.0 if i in pauses else gap)
    return tuple(words)


def shown(*stretches: tuple[Word, ...]) -> list[str]:
    return [" / ".join(cue.lines) for cue in cues(("", words) for words in stretches)]


def transcript(*stretches: tuple[Word, ...], channels: bool = False) -> Transcript:
    segments = tuple(
        Segment(
            text=" ".join(word.text for word in words),
            start=words[0].start,
            end=words[-1].end,
            words=words,
            channel=i + 1 if channels else None,
        )
        for i, words in enumerate(stretches)
    )
    return Transcript(segments=segments, duration=max(s.end for s in segments) if segments else 1.0)


CALL = transcript(said("hello <you> & me"), said("well --> hello", start=0.9), channels=True)


def test_a_cue_is_broken_at_a_pause_rather_than_where_it_is_full():
    words = said("one two three four five six seven eight nine ten eleven twelve", pauses=[4])
    assert shown(words) == ["one two three four five", "six seven eight nine ten eleven twelve"]


def test_a_stretch_without_pauses_is_broken_where_it_must_be_into_even_lines():
    assert shown(said("a word that goes on and on without a pause to breathe")) == [
        "a word that goes on and on / without a pause to breathe"
    ]


def test_a_short_word_is_not_left_alone():
    assert shown(said("yes it is", each=0.2, gap=0.6)) == ["yes it is"]


def test_a_word_longer_than_a_line_is_broken():
    assert " / ".join(shown(said("x" * 100))) == f"{'x' * 42} / {'x' * 42} / {'x' * 16}"


def test_words_of_two_stretches_share_no_cue():
    assert shown(said("one"), said("two", start=0.5)) == ["one", "two"]


def in_a_row(words: list[tuple[int, float, float]]) -> tuple[Word, ...]:
    """Words of so many letters and seconds, each with the seconds of silence after it."""
    stretch, start = [], 0.0
    for letters, length, gap in words:
        stretch.append(Word(text="x" * letters, start=start, end=start + length, confidence=1.0))
        start += length + gap
    return tuple(stretch)


STRETCHES = st.lists(st.tuples(st.integers(1, 60), st.floats(0.02, 9), st.floats(0, 3)), min_size=1, max_size=60).map(
    in_a_row
)


@given(STRETCHES)
def test_cues_last_1_to_7_seconds_do_not_overlap_hold_2_lines_of_42_and_every_word(stretch):
    found = cues([("", stretch)])
    assert "".join("".join(cue.lines) for cue in found).replace(" ", "") == "".join(word.text for word in stretch)
    for cue in found:
        assert 1000 <= cue.end - cue.start <= 7000
        assert 1 <= len(cue.lines) <= 2
        assert all(0 < len(line) <= 42 for line in cue.lines)
    assert all(a.end <= b.start for a, b in itertools.pairwise(found))


@given(STRETCHES)
def test_no_moment_without_a_cue_is_so_short_that_it_flickers(stretch):
    for before, after in itertools.pairwise(cues([("", stretch)])):
        gap = after.start - before.end
        assert gap == 0 or gap >= 500 or before.end - before.start == 7000


def test_channels_are_named_where_there_are_several():
    assert formats.as_text(CALL) == "channel 1: hello <you> & me\nchannel 2: well --> hello"
    chosen = Transcript(segments=CALL.segments[1:], duration=CALL.duration)
    assert formats.as_text(chosen) == "well --> hello"
    assert "channel" not in formats.as_srt(chosen)


def test_srt_and_vtt_hold_the_same_cues_for_strict_parsers():
    written = transcript(
        said("one two three four five six seven " * 30, pauses=range(0, 200, 9)), said("end", start=99)
    )
    ours = list(srt.parse(formats.as_srt(written), ignore_errors=False))
    assert [cue.index for cue in ours] == list(range(1, len(ours) + 1))
    assert srt.compose(ours, reindex=False).strip() == formats.as_srt(written).strip()
    theirs = list(webvtt.from_buffer(io.StringIO(formats.as_vtt(written))))
    assert [(c.start.total_seconds(), c.end.total_seconds(), c.content) for c in ours] == [
        (
            c.start_in_seconds + c.start_time.milliseconds / 1000,
            c.end_in_seconds + c.end_time.milliseconds / 1000,
            c.text,
        )
        for c in theirs
    ]
    assert " ".join(c.content for c in ours).split() == written.text.split()


def test_vtt_keeps_its_own_signs_out_of_the_text():
    blocks = formats.as_vtt(CALL).split("\n\n")
    assert blocks == [
        "WEBVTT",
        "00:00:00.000 --> 00:00:01.350\nchannel 1: hello &lt;you&gt; &amp; me",
        "00:00:01.350 --> 00:00:02.350\nchannel 2: well --&gt; hello",
    ]


def test_channels_are_named_in_every_form():
    assert formats.as_text(CALL) == "channel 1: hello <you> & me\nchannel 2: well --> hello"
    assert formats.as_tsv(CALL).splitlines()[1:] == [
        "0.000\t1.350\t1\thello <you> & me",
        "0.900\t1.900\t2\twell --> hello",
    ]
    assert formats.as_ctm(CALL, "a call").splitlines()[4] == "a_call 2 0.900 0.300 well 0.9000"
    document = json.loads(formats.as_json(CALL, "call.wav"))
    assert [segment["channel"] for segment in document["segments"]] == [1, 2]
    assert {word["channel"] for word in document["words"]} == {1, 2}


@pytest.mark.parametrize("written", [CALL, transcript(said("a b c")), transcript()])
def test_a_textgrid_reads_back(tmp_path, written):
    path = tmp_path / "out.TextGrid"
    path.write_text(formats.as_textgrid(written))
    grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=False)
    words = [entry.label for name in grid.tierNames if name.startswith("words") for entry in grid.getTier(name).entries]
    assert words == [word.text for word in written.words]


@pytest.mark.parametrize("form", formats.WRITERS)
def test_a_recording_without_words_has_a_file_in_every_form(form):
    assert isinstance(formats.WRITERS[form](transcript(), "silence.wav"), str)

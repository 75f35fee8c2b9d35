"""Transcripts and aligned texts in the forms that others read. Each function returns text without a last newline."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import PurePath
from typing import Any

from asr.records import AlignedText, AlignedWord, Heard, Segment, Transcript, Word
from asr.transcribe.cues import Cue, cues

Span = tuple[float, float, str]


def as_text(transcript: Transcript) -> str:
    """A line a stretch of speech, which names its channel where there are several."""
    return "\n".join(name + segment.text for name, segment in _named(transcript) if segment.text)


def as_json(transcript: Transcript, file: str) -> str:
    """One JSON object on one line: file, duration (s), text, segments with start and end (s), and words with start, end
    and confidence (0..1). Where channels were taken apart, segments and words say which; a segment's remark says what
    was not taken for words, and why."""
    return json.dumps(as_document(transcript, file), ensure_ascii=False)


def as_document(transcript: Transcript, file: str) -> dict[str, Any]:
    """What ``as_json`` writes."""
    words, segments = [], []
    for segment in transcript.segments:
        channel = {} if segment.channel is None else {"channel": segment.channel}
        remark = {"remark": segment.remark} if segment.remark else {}
        segments.append({**channel, "start": segment.start, "end": segment.end, "text": segment.text, **remark})
        words += [{**channel, **asdict(word)} for word in segment.words]
    return {
        "file": file,
        "duration": transcript.duration,
        "text": transcript.text,
        "segments": segments,
        "words": words,
    }


def as_tsv(transcript: Transcript) -> str:
    """A heading, then a line a stretch of speech: start and end in seconds, channel (0: mixed), text. Tabs between."""
    rows = [f"{s.start:.3f}\t{s.end:.3f}\t{s.channel or 0}\t{s.text}" for s in transcript.segments if s.text]
    return "\n".join(["start\tend\tchannel\ttext", *rows])


def as_srt(transcript: Transcript) -> str:
    """SubRip subtitles."""
    return _srt(_cues(transcript))


def as_vtt(transcript: Transcript) -> str:
    """WebVTT subtitles."""
    blocks = ["WEBVTT"]
    for cue in _cues(transcript):
        text = "\n".join(cue.lines).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        blocks.append(f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n{text}")
    return "\n\n".join(blocks)


def as_ctm(transcript: Transcript, id: str) -> str:
    """NIST's time-marked conversation format: id, channel, start and duration in seconds, word, confidence."""
    return "\n".join(ctm_line(id, s.channel or 1, word) for s in transcript.segments for word in s.words)


def as_textgrid(transcript: Transcript) -> str:
    """Praat's TextGrid, long form: a tier of stretches of speech and one of words, for each channel."""
    tiers: dict[str, list[Span]] = {}
    for segment in transcript.segments or (Segment(text="", start=0.0, end=0.0, words=()),):
        name = "" if segment.channel is None else f", channel {segment.channel}"
        tiers.setdefault(f"speech{name}", []).append((segment.start, segment.end, segment.text))
        tiers.setdefault(f"words{name}", []).extend((w.start, w.end, w.text) for w in segment.words)
    return _textgrid(tiers, transcript.duration)


WRITERS: dict[str, Callable[[Transcript, str], str]] = {
    "txt": lambda transcript, _file: as_text(transcript),
    "json": as_json,
    "srt": lambda transcript, _file: as_srt(transcript),
    "vtt": lambda transcript, _file: as_vtt(transcript),
    "tsv": lambda transcript, _file: as_tsv(transcript),
    "ctm": lambda transcript, file: as_ctm(transcript, PurePath(file).stem),
    "textgrid": lambda transcript, _file: as_textgrid(transcript),
}
"""What a transcript of a file can be written as. ``asr transcribe`` names the same."""


class LiveEvents:
    """What a stream of live speech tells, as JSON objects on a line each: the kind (partial: in place of the partial
    before; final: these words stay), the seconds heard by then, whether an utterance ends, the text and its words, and
    a remark where something was not taken for words. ``asr listen`` and the server's /v1/listen tell the same."""

    def __init__(self) -> None:
        self.partial: tuple[Word, ...] = ()

    def __call__(self, heard: Heard, time: float) -> Iterator[str]:
        """The events of what was heard by ``time``, in seconds of the stream."""
        ends = bool(heard.segments)
        if heard.final or ends:
            remark = "; ".join(segment.remark for segment in heard.segments if segment.remark)
            yield _event("final", heard.final, time, ends, remark)
        if heard.partial != self.partial:
            yield _event("partial", heard.partial, time, False)
            self.partial = heard.partial


def _event(kind: str, words: tuple[Word, ...], time: float, ends: bool, remark: str = "") -> str:
    text = " ".join(word.text for word in words)
    event = {"kind": kind, "time": round(time, 3), "ends": ends, "text": text}
    event |= {"remark": remark} if remark else {}
    return json.dumps({**event, "words": [asdict(word) for word in words]}, ensure_ascii=False)


def as_aligned_json(aligned: AlignedText, file: str) -> str:
    """One JSON object on one line: file, duration (s), and words with start, end (s, null where not found), confidence,
    found and characters."""
    words = [{**asdict(word), "found": word.found} for word in aligned.words]
    return json.dumps({"file": file, "duration": aligned.duration, "words": words}, ensure_ascii=False)


def as_aligned_ctm(aligned: AlignedText, id: str) -> str:
    """As ``as_ctm``. A word that was not found is a comment."""
    return "\n".join(
        ctm_line(id, 1, timed) if (timed := _timed(word)) else f";; not found: {word.text}" for word in aligned.words
    )


def as_aligned_textgrid(aligned: AlignedText) -> str:
    """Praat's TextGrid, long form: a tier of words and one of characters; between them the intervals are empty."""
    words = [(w.start, w.end, w.text) for w in aligned.words if w.start is not None and w.end is not None]
    characters = [(c.start, c.end, c.text) for w in aligned.words for c in w.characters]
    return _textgrid({"words": words, "characters": characters}, aligned.duration)


def as_aligned_srt(aligned: AlignedText) -> str:
    """SubRip subtitles: no cue holds words of two lines of the text."""
    return _srt(cues(("", _shown(line)) for line in aligned.lines))


def _timed(word: AlignedWord) -> Word | None:
    if word.start is None or word.end is None:
        return None
    return Word(text=word.text, start=word.start, end=word.end, confidence=word.confidence)


def _shown(line: Sequence[AlignedWord]) -> list[Word]:
    """A line's words; those not found are shown with the one before them, or else with the one after."""
    shown: list[Word] = []
    lost: list[str] = []
    for word in line:
        if timed := _timed(word):
            text = " ".join([*lost, timed.text])
            shown.append(Word(text=text, start=timed.start, end=timed.end, confidence=timed.confidence))
            lost = []
        elif shown:
            last = shown.pop()
            shown.append(
                Word(text=f"{last.text} {word.text}", start=last.start, end=last.end, confidence=last.confidence)
            )
        else:
            lost.append(word.text)
    return shown


def _cues(transcript: Transcript) -> list[Cue]:
    return cues((name, segment.words) for name, segment in _named(transcript))


def _named(transcript: Transcript) -> Iterator[tuple[str, Segment]]:
    """Segments, each with the name of its channel where there are several to tell apart."""
    several = len({segment.channel for segment in transcript.segments}) > 1
    for segment in transcript.segments:
        yield f"channel {segment.channel}: " if several else "", segment


def ctm_line(id: str, channel: int, word: Word) -> str:
    """A word of a recording, as ``as_ctm`` has it."""
    id = "_".join(id.split()) or "recording"
    return f"{id} {channel} {word.start:.3f} {word.end - word.start:.3f} {word.text} {word.confidence:.4f}"


def _textgrid(tiers: dict[str, list[Span]], duration: float) -> str:
    """Each tier's spans; between them the intervals are empty."""
    # The last frame of an emission may reach past the recording's end.
    duration = max([duration, *(end for spans in tiers.values() for _, end, _ in spans)])
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', ""]
    lines += ["xmin = 0", f"xmax = {duration}", "tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, (name, spans) in enumerate(tiers.items(), start=1):
        intervals = list(_tiled(spans, duration))
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{name}"']
        lines += ["        xmin = 0", f"        xmax = {duration}"]
        lines += [f"        intervals: size = {len(intervals)}"]
        for i, (start, end, text) in enumerate(intervals, start=1):
            quoted = text.replace('"', '""')
            lines += [f"        intervals [{i}]:", f"            xmin = {start}", f"            xmax = {end}"]
            lines += [f'            text = "{quoted}"']
    return "\n".join(lines)


def _srt(shown: Iterable[Cue]) -> str:
    return "\n\n".join(
        f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n" + "\n".join(cue.lines)
        for number, cue in enumerate(shown, start=1)
    )


def _tiled(spans: Sequence[Span], duration: float) -> Iterator[Span]:
    """Spans in order, and empty ones where they leave a gap. What overlaps the span before begins where that ends."""
    reached = 0.0
    for start, end, text in spans:
        start = max(start, reached)
        if end <= start:
            continue
        if start > reached:
            yield reached, start, ""
        yield start, end, text
        reached = end
    if reached < duration:
        yield reached, duration, ""


def _clock(milliseconds: int, point: str) -> str:
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{point}{rest % 1000:03}"

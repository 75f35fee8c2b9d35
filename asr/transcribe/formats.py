"""Transcripts and aligned texts in the forms that others read. Each function returns text without a last newline."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from asr.records import AlignedText, AlignedWord, Transcript

CUE_SECONDS = 7.0
"""The longest subtitle."""


def as_text(transcript: Transcript) -> str:
    return transcript.text


def as_json(transcript: Transcript, file: str) -> str:
    """One JSON object on one line: file, duration (s), text, and words with start, end (s) and confidence (0..1)."""
    words = [asdict(word) for word in transcript.words]
    document = {"file": file, "duration": transcript.duration, "text": transcript.text, "words": words}
    return json.dumps(document, ensure_ascii=False)


def as_aligned_json(aligned: AlignedText, file: str) -> str:
    """One JSON object on one line: file, duration (s), and words with start, end (s, null where not found), confidence,
    found and characters."""
    words = [{**asdict(word), "found": word.found} for word in aligned.words]
    return json.dumps({"file": file, "duration": aligned.duration, "words": words}, ensure_ascii=False)


def as_ctm(aligned: AlignedText, id: str) -> str:
    """NIST's time-marked conversation format: id, channel, start and duration in seconds, word, confidence. A word that
    was not found is a comment."""
    id = "_".join(id.split()) or "recording"
    return "\n".join(
        f";; not found: {word.text}"
        if word.start is None or word.end is None
        else f"{id} 1 {word.start:.3f} {word.end - word.start:.3f} {word.text} {word.confidence:.4f}"
        for word in aligned.words
    )


def as_textgrid(aligned: AlignedText) -> str:
    """Praat's TextGrid, long form: a tier of words and one of characters; between them the intervals are empty."""
    words = [(w.start, w.end, w.text) for w in aligned.words if w.start is not None and w.end is not None]
    characters = [(c.start, c.end, c.text) for w in aligned.words for c in w.characters]
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', ""]
    lines += ["xmin = 0", f"xmax = {aligned.duration}", "tiers? <exists>", "size = 2", "item []:"]
    for number, (name, spans) in enumerate([("words", words), ("characters", characters)], start=1):
        intervals = list(_tiled(spans, aligned.duration))
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{name}"']
        lines += ["        xmin = 0", f"        xmax = {aligned.duration}"]
        lines += [f"        intervals: size = {len(intervals)}"]
        for i, (start, end, text) in enumerate(intervals, start=1):
            quoted = text.replace('"', '""')
            lines += [f"        intervals [{i}]:", f"            xmin = {start}", f"            xmax = {end}"]
            lines += [f'            text = "{quoted}"']
    return "\n".join(lines)


def as_srt(aligned: AlignedText) -> str:
    """SubRip subtitles: a cue a line of the text, a long line cut between words."""
    cues: list[str] = []
    for line in aligned.lines:
        for words in _cues(line):
            times = [t for word in words for t in (word.start, word.end) if t is not None]
            text = " ".join(word.text for word in words)
            cues.append(f"{len(cues) + 1}\n{_clock(times[0])} --> {_clock(times[-1])}\n{text}\n")
    return "\n".join(cues).rstrip("\n")


def _tiled(spans: Sequence[tuple[float, float, str]], duration: float) -> Iterator[tuple[float, float, str]]:
    """Spans in order, and empty ones where they leave a gap."""
    reached = 0.0
    for start, end, text in spans:
        if start > reached:
            yield reached, start, ""
        yield start, end, text
        reached = end
    if reached < duration:
        yield reached, duration, ""


def _cues(line: Sequence[AlignedWord]) -> Iterator[list[AlignedWord]]:
    """A line's words in groups of ``CUE_SECONDS`` at most; those not found stay with their neighbours."""
    group: list[AlignedWord] = []
    began: float | None = None
    for word in line:
        if began is not None and word.end is not None and word.end - began > CUE_SECONDS:
            yield group
            group, began = [], None
        group.append(word)
        began = word.start if began is None else began
    if began is not None:
        yield group


def _clock(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02},{rest % 1000:03}"

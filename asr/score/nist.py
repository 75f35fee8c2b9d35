"""NIST's files of transcripts: TRN, STM and CTM (SCTK, infmts.htm).

Texts are kept in NIST's notation, which ``score.graphs`` reads. Comments are lines that begin with ``;;``. File and
channel names are alike in any case, as they are to sclite.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from asr.errors import CorpusError
from asr.score.forms import Line, Transcripts, listed
from asr.score.graphs import word_graph
from asr.text.tables import lines

_NOT_SCORED = re.compile("ignore_?time_?segment_?in_?scoring", re.IGNORECASE)
_ROUNDING = 0.05
"""Seconds by which published files end a word before they begin it."""
_SWAPPED = 0.4
"""Seconds by which a word may begin before the one that its file has before it; beyond that, a file is not in order."""
_CHOICE = {"<ALT_BEGIN>": "{", "<ALT>": "/", "<ALT_END>": "}"}
"""The marks of alternatives in a CTM, in any case, and the notation's."""


def is_scored(segment: Line) -> bool:
    return not _NOT_SCORED.search(segment.text)


def read_trn(path: Path) -> Iterator[Line]:
    """``words (speaker-utterance)``: the bracket holds the id."""
    for number, line in _records(path):
        text, bracket, id = line.removesuffix(")").rpartition("(")
        if not (line.endswith(")") and bracket and id.strip()):
            raise CorpusError(f"{path}, line {number}: expected words and an id in brackets; found {line}")
        speaker = re.match(r"([^-_]+)[-_]", id)
        yield Line(id=id.strip(), text=_checked(text, path, number), speaker=speaker[1] if speaker else "")


def read_stm(path: Path) -> Iterator[Line]:
    """``file channel speaker begin end [<labels>] words``."""
    seen: dict[str, int] = defaultdict(int)
    for number, line in _records(path):
        fields = line.split(maxsplit=5)
        if len(fields) < 5:
            raise CorpusError(
                f"{path}, line {number}: expected file, channel, speaker, begin, end, words; found {line}"
            )
        file, channel, speaker, *times = fields[:5]
        start, end = _times(times, path, number)
        text = fields[5] if len(fields) > 5 else ""
        if text.startswith("<") and ">" in text:
            text = text.partition(">")[2]
        id = f"{file} {channel} {times[0]}-{times[1]}"
        seen[id] += 1
        yield Line(
            id=id if seen[id] == 1 else f"{id} #{seen[id]}",  # two speakers at one time
            text=_checked(text, path, number),
            speaker=speaker,
            duration=end - start,
            recording=f"{file} {channel}",
            start=start,
        )


def read_ctm(path: Path) -> Iterator[Line]:
    """A CTM as a reference: each channel of each file is an utterance."""
    for (file, channel), words in _timed(path).items():
        yield Line(id=f"{file} {channel}", text=_joined(words), speaker=f"{file}-{channel}")


def as_referred(hypotheses: Iterable[Line], references: Transcripts) -> Iterator[Line]:
    """Hypotheses under the ids of the references as these spell them: NIST's ids are alike in any case."""
    spelled = {line.id.casefold(): line.id for line in references.lines}
    return (replace(line, id=spelled.get(line.id.casefold(), line.id)) for line in hypotheses)


def laid_out(path: Path, references: Transcripts) -> Iterator[Line]:
    """The words of a CTM as one line for each reference.

    On the segments of an STM they are laid as sclite lays them: a recording's segments in order of time each take the
    words left whose middle lies before the segment's end, the last one all that are left. So no word goes uncounted but
    those that fall to a segment that is not scored. A reference of another form is a file, or a file's channel.
    """
    words = _timed(path)
    if references.form == "stm":
        yield from _on_segments(words, references)
        return
    channels: dict[str, list[str]] = defaultdict(list)
    for file, channel in words:
        channels[file].append(channel)
    if references.form != "ctm" and (several := [file for file, some in channels.items() if len(some) > 1]):
        raise CorpusError(f"{path}: {len(several)} files have several channels ({listed(several)}): refer to an STM")
    spelled = {line.id.casefold(): line.id for line in references.lines}
    texts = dict.fromkeys(spelled.values(), "")
    for (file, channel), some in words.items():
        name = f"{file} {channel}" if references.form == "ctm" else file
        texts[spelled.get(name.casefold(), name)] = _joined(some)
    yield from (Line(id=id, text=text) for id, text in texts.items())


def _on_segments(words: dict[tuple[str, str], list[_Timed]], references: Transcripts) -> Iterator[Line]:
    segments: dict[str, list[Line]] = defaultdict(list)
    for segment in (*references.lines, *references.skipped):
        segments[segment.recording.casefold()].append(segment)
    said = {segment.id: "" for segment in references.lines}
    for (file, channel), timed in words.items():
        homes = sorted(segments.get(f"{file} {channel}".casefold(), []), key=lambda home: home.start or 0.0)
        if not homes:
            said[f"{file} {channel}"] = _joined(timed)  # of no reference: named with others of its kind
            continue
        left = iter(timed)
        word = next(left, None)
        for home in homes:
            end = (home.start or 0.0) + (home.duration or 0.0) if home is not homes[-1] else float("inf")
            taken = []
            while word is not None and word.middle < end:
                taken.append(word)
                word = next(left, None)
            if is_scored(home):
                said[home.id] = _joined(taken)
    yield from (Line(id=id, text=text) for id, text in said.items())


# ------------------------------------------------------------------------------------------------ records and words


@dataclass(frozen=True, slots=True)
class _Timed:
    """A word of a CTM, or a choice of alternatives in NIST's notation; seconds. A choice's middle is its latest."""

    start: float
    middle: float
    text: str


def _timed(path: Path) -> dict[tuple[str, str], list[_Timed]]:
    """The words of a CTM, ``file channel start duration word [confidence]``, in order of time, by file and channel."""
    words: dict[tuple[str, str], list[_Timed]] = defaultdict(list)
    choices: dict[tuple[str, str], list[_Timed]] = {}  # of each channel, the one that is open
    for number, line in _records(path):
        fields = line.split()
        if len(fields) < 5:
            raise CorpusError(f"{path}, line {number}: expected file, channel, start, duration, word; found {line}")
        file, channel, *times, word = fields[:5]
        where, choice = (file, channel), choices.get((file, channel))
        if sign := _CHOICE.get(word.upper()):
            if (choice is None) != (sign == "{"):
                raise CorpusError(f"{path}, line {number}: {word} does not follow from the lines before")
            if sign == "{":
                choices[where] = [_Timed(float("inf"), 0.0, sign)]
            elif choice is not None:
                choice.append(_Timed(float("inf"), 0.0, sign))
            if sign == "}":
                words[where].append(_choice(choices.pop(where)))
            continue
        start, end = _times(times, path, number, durations=True)
        (words[where] if choice is None else choice).append(_Timed(start, (start + end) / 2, word))
    if choices:
        raise CorpusError(f"{path}: alternatives begin in {listed(map(' '.join, choices))} and do not end")
    return {where: _in_order(some) for where, some in words.items()}


def _in_order(words: list[_Timed]) -> list[_Timed]:
    """The words in order of time. Recognisers' files swap neighbours by fractions of a second: those keep the file's
    order, which is that of the sentence."""
    if any(after.start < before.start - _SWAPPED for before, after in itertools.pairwise(words)):
        return sorted(words, key=lambda word: word.start)
    return words


def _choice(parts: list[_Timed]) -> _Timed:
    return _Timed(min(part.start for part in parts), max(part.middle for part in parts), _joined(parts))


def _joined(words: Sequence[_Timed]) -> str:
    return " ".join(word.text for word in words)


def _records(path: Path) -> Iterator[tuple[int, str]]:
    return ((number, line.strip()) for number, line in lines(path) if not line.lstrip().startswith(";;"))


def _checked(text: str, path: Path, number: int) -> str:
    try:
        word_graph(text)
    except ValueError as error:
        raise CorpusError(f"{path}, line {number}: {error}; alternatives are written {{ a / b / @ }}") from error
    return text.strip()


def _times(fields: list[str], path: Path, number: int, *, durations: bool = False) -> tuple[float, float]:
    """Start and end, the second field being either the end or the duration."""
    try:
        start, end = (float(field) for field in fields)
    except ValueError as error:
        raise CorpusError(f"{path}, line {number}: expected two times in seconds; found {' '.join(fields)}") from error
    end = start + end if durations else end
    if not (0 <= start < float("inf") and start - _ROUNDING <= end < float("inf")):
        raise CorpusError(f"{path}, line {number}: {' '.join(fields)} is no stretch of time")
    return start, end

"""Utterances to lhotse cuts, which is how the loader reads them.

Nothing is skipped in silence: an utterance whose file is unreadable, or whose times are wrong, still becomes a cut, so
that whoever loads it names it.
"""

from __future__ import annotations

import marshal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asr import audio
from asr.audio.recording import HIGHEST_RATE, LOWEST_RATE
from asr.data.layouts import Utterance
from asr.errors import AudioError, CorpusError

FAULT = "fault"
"""Of a cut's custom fields, the reason that it cannot be used."""
_OVERSHOOT_SECONDS = 0.5
"""Manifests round times: a cut may end so much after its recording and is taken to end with it."""


def header_of(path: Path) -> audio.AudioInfo | None:
    """None for a recording that cannot be read: whoever loads it says why."""
    try:
        return audio.probe(path)
    except AudioError:
        return None


def is_told(utterance: Utterance) -> bool:
    """Whether the corpus tells how long an utterance is, so that no header need be read to put it into a batch."""
    return bool(utterance.fault) or bool(utterance.duration and utterance.sample_rate)


def seconds_of(utterance: Utterance, header: audio.AudioInfo | None) -> float:
    """How long its cut will be; without ``header``, by what its corpus tells."""
    if header is None and not utterance.fault and utterance.duration and utterance.sample_rate:
        return utterance.duration
    header, fault = _judged(utterance, header)
    part = None if fault else _part(utterance, header)
    return part[1] if part else header.duration


def cut_of(utterance: Utterance, header: audio.AudioInfo | None) -> Any:
    """The cut of an utterance; ``header`` is its recording's, None where that cannot be read."""
    from lhotse import AudioSource, Recording, SupervisionSegment

    header, fault = _judged(utterance, header)
    channels = list(range(header.channels))
    cut = Recording(
        id=utterance.id,
        sources=[AudioSource(type="file", channels=channels, source=str(utterance.audio))],
        sampling_rate=header.sample_rate,
        num_samples=header.samples,
        duration=header.duration,
    ).to_cut()
    part = None if fault else _part(utterance, header)
    if fault:
        cut.custom = {FAULT: fault}
    elif part:
        cut = cut.truncate(offset=min(part[0], header.duration), duration=part[1])
    cut.id = utterance.id
    cut.supervisions = [
        SupervisionSegment(
            id=utterance.id,
            recording_id=utterance.id,
            start=0.0,
            duration=cut.duration,
            text=utterance.text,
            speaker=utterance.speaker,
            channel=channels if len(channels) > 1 else 0,
        )
    ]
    return cut


def speaker_of(cut: Any) -> str:
    """The first that a supervision names, as text: some number theirs; empty where none does."""
    return str(next((s.speaker for s in cut.supervisions if s.speaker not in (None, "")), ""))


def check_sources(cut: Any) -> None:
    """Raises CorpusError where ``cut``, as a dictionary, has an audio source that is not read, since lhotse would run
    one of type "command" in a shell, or a sampling rate that none has, at which lhotse would resample."""
    for rate in _rates(cut):
        if not (isinstance(rate, int | float) and LOWEST_RATE <= rate <= HIGHEST_RATE):
            raise CorpusError(f"expected a sampling rate of {LOWEST_RATE} to {HIGHEST_RATE} Hz, found {str(rate)[:60]}")
    for kind in _source_types(cut):
        if kind not in {"file", "memory", "shar"}:
            raise CorpusError(f"an audio source of type {kind}, which is never run; use files")
        if kind == "shar":
            raise CorpusError("an audio source that the Shar holds, without it; open the Shar's folder")


def _source_types(node: Any) -> Iterator[str]:
    """The types of all audio sources in a cut's dictionary, those of mixed-in cuts and of transforms included."""
    return (str(mapping["type"]) for mapping in _mappings(node) if "source" in mapping and "type" in mapping)


def _rates(node: Any) -> Iterator[Any]:
    """The sampling rates in a cut's dictionary, those of its recordings and transforms included, and not what its
    writer keeps in it besides."""
    for mapping in _mappings(node, without="custom"):
        yield from (value for key, value in mapping.items() if key in _RATES and value is not None)


_RATES = {"sampling_rate", "source_sampling_rate", "target_sampling_rate"}


def _mappings(node: Any, *, without: str | None = None) -> Iterator[dict[str, Any]]:
    """A cut's dictionary and all those in it, but for what stands under the key ``without``."""
    if isinstance(node, dict):
        yield node
        node = [value for key, value in node.items() if key != without]
    if isinstance(node, list | tuple):
        for item in node:
            yield from _mappings(item, without=without)


def again(cut: Any, turn: int) -> Any:
    """The cut itself at first, then under another id, so that it is augmented otherwise."""
    return cut if turn == 0 else cut.with_id(f"{cut.id}#{turn + 1}")


def _judged(utterance: Utterance, header: audio.AudioInfo | None) -> tuple[audio.AudioInfo, str]:
    """The header, or one that stands for it, and what is wrong with the utterance; empty where nothing is."""
    fault = utterance.fault or (_mistimed(utterance, header) if header else "")
    if header is None or fault:  # loading it will say why
        seconds = 0.1 if fault else max(utterance.offset + (utterance.duration or 1.0), 0.1)
        header = audio.AudioInfo(samples=round(seconds * 16000), sample_rate=16000, channels=1)
    return header, fault


def _part(utterance: Utterance, header: audio.AudioInfo) -> tuple[float, float] | None:
    """Offset and seconds of a part of a recording, None for the whole. A manifest's duration is often rounded: it cuts
    only where it clearly means a part."""
    if not utterance.offset and (utterance.duration or header.duration) >= header.duration - 0.1:
        return None
    rest = max(header.duration - utterance.offset, 0.01)
    return utterance.offset, min(utterance.duration or rest, rest)


def _mistimed(utterance: Utterance, header: audio.AudioInfo) -> str:
    """What is wrong with an utterance's times in its recording; empty where nothing is."""
    end = utterance.offset + (utterance.duration or 0.0)
    if utterance.duration is not None and utterance.duration * header.sample_rate < 1:
        return f"{utterance.where}: {utterance.duration:g} s is less than one sample"
    if end > header.duration + _OVERSHOOT_SECONDS:
        return (
            f"{utterance.where}: it ends {end - header.duration:.2f} s past the end of {utterance.audio}, which has "
            f"{header.duration:.2f} s"
        )
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """An utterance on its way to the process that loads it; ``header`` is None where it was not read yet, or could not
    be. ``turn`` counts from 0 how often the epoch has had it."""

    utterance: Utterance
    header: audio.AudioInfo | None
    turn: int

    @property
    def id(self) -> str:
        return self.utterance.id

    def cut(self) -> Any:
        header = self.header or (None if self.utterance.fault else header_of(self.utterance.audio))
        return again(cut_of(self.utterance, header), self.turn)

    def outline(self) -> Any:
        """The cut, of a recording that is as the corpus tells where it was not opened."""
        told, header = self.utterance, self.header
        if header is None and told.duration and told.sample_rate:
            samples = round((told.offset + told.duration) * told.sample_rate)
            header = _info(samples, told.sample_rate, 1)
        return cut_of(told, header)


def _info(samples: int, sample_rate: int, channels: int) -> audio.AudioInfo:
    return audio.AudioInfo(samples=samples, sample_rate=sample_rate, channels=channels)


@dataclass(slots=True)
class Packing:
    """Utterances as short bytes, for corpora of millions. Folders, and what the names of lines begin with, are kept
    once."""

    beginnings: list[str] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)

    def pack(self, utterance: Utterance, header: audio.AudioInfo | None) -> bytes:
        """Of the bytes the first two fields are id and text, as in all of ``data.listing``."""
        audio, where = utterance.file, utterance.where
        name, line = audio.rfind("/") + 1, where.rfind(" ") + 1
        return marshal.dumps(
            (
                *(utterance.id, utterance.text, utterance.speaker, utterance.offset, utterance.duration),
                *(utterance.sample_rate, utterance.fault),
                *(self._number(audio[:name]), audio[name:], self._number(where[:line]), where[line:]),
                (header.samples, header.sample_rate, header.channels) if header else None,
            )
        )

    def unpack(self, packed: bytes, turn: int = 0, fault: str = "") -> Described:
        """``fault`` is one that was found since."""
        (
            *(id, text, speaker, offset, duration, sample_rate, known, folder, name, file, line),
            header,
        ) = marshal.loads(packed)
        utterance = Utterance(
            id=id,
            file=self.beginnings[folder] + name,
            text=text,
            speaker=speaker,
            offset=offset,
            duration=duration,
            sample_rate=sample_rate,
            where=self.beginnings[file] + line,
            fault=known or fault,
        )
        return Described(utterance=utterance, header=_info(*header) if header else None, turn=turn)

    def _number(self, beginning: str) -> int:
        number = self.numbers.get(beginning)
        if number is None:
            number = self.numbers[beginning] = len(self.beginnings)
            self.beginnings.append(beginning)
        return number

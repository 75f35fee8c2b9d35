"""Corpora that Python code gives to ``asr.train``: rows of audio and text, or lhotse's cuts.

Rows are read once for their texts and lengths, and each again whenever it is heard: a list has them in memory, and a
Hugging Face dataset decodes them then. Nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from asr import audio
from asr.data.layouts import Utterance
from asr.errors import AudioError, CorpusError
from asr.text.tables import AUDIO_COLUMNS, SPEAKER_COLUMNS, TEXT_COLUMNS, column_of

_AUDIO = ("audio", *AUDIO_COLUMNS)  # before "path", which a dataset may have beside it
_EXPECTED = 'expected (audio, text) or {"audio": …, "text": …}'


class GivenRows:
    """A split's rows: (audio, text), or mappings as Hugging Face datasets have them.

    Audio is a path, the bytes of a file, (samples, sample rate in Hz), or {"array": samples, "sampling_rate": Hz};
    samples are as ``audio.as_floats`` takes them. What is in no file has a path that no file has, a key of ``headers``.
    """

    def __init__(self, rows: Sequence[Any], split: str) -> None:
        """Raises CorpusError for a row that is none. What is wrong with one's audio is its utterance's ``fault``."""
        self._rows = rows
        self._numbers: dict[Path, int] = {}
        self.headers: dict[Path, audio.AudioInfo | None] = {}
        self.utterances = [self._utterance(number, f"{split}-{number}") for number in range(len(rows))]

    def _utterance(self, number: int, name: str) -> Utterance:
        row, where = self._rows[number], f"row {name} of the cuts given"
        sound, text, id, speaker = _parted(row, where)
        path, fault = Path(f"given/{name}"), ""  # relative, as no path of a corpus is
        try:
            sound = _recording(sound, where)
            if isinstance(sound, Path):
                path = sound
            else:
                self._numbers[path], self.headers[path] = number, _header(sound)
        except AudioError as error:
            fault = f"{where}: {error}"
        return Utterance(id=id or name, file=str(path), text=text, speaker=speaker, where=where, fault=fault)

    def read_channels(self, path: Path) -> tuple[np.ndarray, int]:
        """Of a path of ``headers``, (channels, S) float32 and the sample rate in Hz. Raises AudioError."""
        number = self._numbers[path]
        sound = _recording(_parted(self._rows[number], str(path))[0], str(path))
        if isinstance(sound, tuple):
            return sound
        return audio.read_channels(sound)


Given: TypeAlias = GivenRows | Iterable[Any]
"""A split as it was given: rows, or lhotse cuts that can be iterated over again and again."""


def as_given(cuts: Iterable[Any], split: str) -> Given:
    """A lhotse CutSet or another iterable of cuts, or one of rows. What can be iterated over once is kept in memory.

    Raises CorpusError for anything else.
    """
    from lhotse import CutSet
    from lhotse.cut import Cut

    if isinstance(cuts, CutSet):
        stored: Iterable[Any] = cuts
        return stored
    if isinstance(cuts, str | bytes | PathLike | Mapping) or not hasattr(cuts, "__iter__"):
        raise CorpusError(
            f"the {split} cuts are a lhotse CutSet, or an iterable of (audio, text); found {type(cuts).__name__}"
        )
    rows: Any = cuts if hasattr(cuts, "__getitem__") and hasattr(cuts, "__len__") else list(cuts)
    if len(rows) and isinstance(rows[0], Cut):
        return list(rows)
    return GivenRows(rows, split)


class GivenRecordings:
    """Reads the recordings of rows, and all others from their files."""

    def __init__(self, splits: Iterable[Given]) -> None:
        self._rows = [rows for rows in splits if isinstance(rows, GivenRows)]

    def read_channels(
        self, path: Path, *, offset: float = 0.0, duration: float | None = None
    ) -> tuple[np.ndarray, int]:
        """As ``audio.read_channels``."""
        for rows in self._rows:
            if path in rows.headers:
                samples, rate = rows.read_channels(path)
                end = None if duration is None else round((offset + duration) * rate)
                return samples[:, round(offset * rate) : end], rate
        return audio.read_channels(path, offset=offset, duration=duration)


def _parted(row: Any, where: str) -> tuple[Any, str, str, str]:
    """A row's audio, text, id and speaker, the last two empty where it has none. Raises CorpusError."""
    id = speaker = ""
    if isinstance(row, Mapping):
        named = {**row}
        audio_column, text_column = column_of(named, _AUDIO), column_of(named, TEXT_COLUMNS)
        if audio_column is None or text_column is None:
            raise CorpusError(f"{where}: {_EXPECTED}; found the columns {', '.join(map(str, row))}")
        sound, text = row[audio_column], row[text_column]
        speaker_column = column_of(named, SPEAKER_COLUMNS)
        id, speaker = (str(row[column]) if column in row else "" for column in ("id", speaker_column))
    elif isinstance(row, tuple | list) and len(row) == 2:
        sound, text = row
    else:
        raise CorpusError(f"{where}: {_EXPECTED}; found {type(row).__name__}")
    if not isinstance(text, str):
        raise CorpusError(f"{where}: expected its text, a str; found {type(text).__name__}")
    return sound, text, id, speaker


def _recording(sound: Any, where: str) -> Path | bytes | tuple[np.ndarray, int]:
    """A row's audio as a file's absolute path, the bytes of one, or (channels, S) float32 and the sample rate in Hz.

    Raises AudioError, and CorpusError for what is no audio at all.
    """
    if isinstance(sound, str | PathLike):
        return Path(sound).expanduser().absolute()
    if isinstance(sound, bytes):
        return sound
    if isinstance(sound, Mapping) and "array" not in sound:
        stored = sound.get("bytes") or sound.get("path")
        if isinstance(stored, str | bytes):
            return _recording(stored, where)
    try:
        samples, rate = sound if isinstance(sound, tuple) else (sound["array"], sound["sampling_rate"])
        rate = int(rate)
    except (TypeError, ValueError, KeyError, IndexError):
        raise CorpusError(
            f'{where}: expected audio: a path, (samples, sample rate) or {{"array": …, "sampling_rate": …}}; found '
            f"{type(sound).__name__}"
        ) from None
    if rate <= 0:
        raise AudioError(f"expected a sample rate in Hz; found {rate}")
    return audio.as_floats(np.asarray(samples)), rate


def _header(sound: bytes | tuple[np.ndarray, int]) -> audio.AudioInfo:
    if isinstance(sound, bytes):
        return audio.probe(sound)
    (channels, samples), rate = sound[0].shape, sound[1]
    return audio.AudioInfo(samples=samples, sample_rate=rate, channels=channels)

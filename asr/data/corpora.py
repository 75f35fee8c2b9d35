"""Corpora: each kind is a lazy stream of utterances, opened as a lhotse ``CutSet``.

A kind is a generator of ``Utterance`` (where the audio is, what it says, who speaks); one function turns an utterance
into a cut. Nothing is read before it is asked for, and nothing is skipped in silence: an unreadable file still becomes
a cut, so that whoever loads it names it.
"""

from __future__ import annotations

import csv
import itertools
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asr import audio, recipe
from asr.data import download, espeak
from asr.errors import AudioError, CorpusError

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".mp4", ".webm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Utterance:
    """One utterance of a corpus; ``offset`` and ``duration`` in seconds, ``duration`` None for "to the end"."""

    id: str
    audio: Path
    text: str
    speaker: str = ""
    offset: float = 0.0
    duration: float | None = None


@dataclass(frozen=True, slots=True)
class Mixture:
    """Several sources, each passed over ``weight`` times an epoch: 2 is twice, 0.25 a quarter of it, another each
    epoch."""

    parts: tuple[tuple[Any, float], ...]
    seed: int = 0

    def epoch(self, number: int) -> Any:
        """The cuts of one epoch as a lazy CutSet, the sources interleaved at random."""
        from lhotse import CutSet

        weighted = [CutSet(_Weighted(cuts, weight, f"{self.seed}/{number}")) for cuts, weight in self.parts]
        if len(weighted) == 1:
            return weighted[0]
        return CutSet.mux(*weighted, weights=[weight for _, weight in self.parts], seed=self.seed)

    def whole(self) -> Any:
        """Every utterance once, whatever the weights."""
        return Mixture(tuple((cuts, 1.0) for cuts, _ in self.parts), self.seed).epoch(0)


def open_corpora(sources: tuple[recipe.Corpus, ...], root: Path, *, seed: int = 0) -> Mixture:
    """The sources, opened and ready to be mixed by their weights. Raises CorpusError."""
    return Mixture(tuple((open_corpus(source, root), source.weight) for source in sources), seed)


def open_corpus(source: recipe.Corpus, root: Path) -> Any:
    """One source as a lazy CutSet. Raises CorpusError where it is missing; malformed lines raise when reached."""
    from lhotse import CutSet

    if isinstance(source, recipe.LhotseCorpus):
        return CutSet(_Selected(_LhotseCuts(_existing(_inside(source.path, root))), source.includes))
    return CutSet(_Cuts(_utterances(source, root), source.includes))


def name_of(source: recipe.Corpus) -> str:
    """What reports call a source: its ``name``, else its splits or its path without suffix."""
    if source.name:
        return source.name
    match source:
        case recipe.LibriSpeechCorpus():
            return "+".join(source.splits)
        case recipe.EspeakCorpus():
            return "espeak"
        case recipe.CommonVoiceCorpus():
            return f"{source.path}/{source.split}"
    return str(Path(source.path).with_suffix(""))


def _inside(path: str, root: Path) -> Path:
    return root / Path(path).expanduser()


# ------------------------------------------------------------------------------------------ utterances to cuts


@dataclass
class _Cuts:
    """Cuts of ``utterances()``, made anew at each iteration; file headers are read once and remembered."""

    utterances: Callable[[], Iterator[Utterance]]
    includes: Callable[[str], bool]
    headers: dict[Path, audio.AudioInfo | None] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Any]:
        for utterance in self.utterances():
            if self.includes(utterance.speaker or utterance.id):
                yield self._cut(utterance)

    def _cut(self, utterance: Utterance) -> Any:
        from lhotse import AudioSource, Recording, SupervisionSegment

        header = self._header(utterance.audio)
        if header is None:  # loading it will say why
            seconds = utterance.offset + (utterance.duration or 1.0)
            header = audio.AudioInfo(samples=round(seconds * 16000), sample_rate=16000, channels=1)
        channels = list(range(header.channels))
        cut = Recording(
            id=utterance.id,
            sources=[AudioSource(type="file", channels=channels, source=str(utterance.audio))],
            sampling_rate=header.sample_rate,
            num_samples=header.samples,
            duration=header.duration,
        ).to_cut()
        if utterance.offset or (utterance.duration or header.duration) < header.duration - 0.1:
            # A manifest's duration is often rounded: it cuts only where it clearly means a part.
            rest = max(header.duration - utterance.offset, 0.01)
            cut = cut.truncate(
                offset=min(utterance.offset, header.duration), duration=min(utterance.duration or rest, rest)
            )
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

    def _header(self, path: Path) -> audio.AudioInfo | None:
        if path not in self.headers:
            try:
                self.headers[path] = audio.probe(path)
            except AudioError:
                self.headers[path] = None
        return self.headers[path]


@dataclass
class _Weighted:
    cuts: Any
    weight: float
    salt: str

    def __iter__(self) -> Iterator[Any]:
        whole, fraction = divmod(self.weight, 1)
        for turn in range(int(whole)):
            for cut in self.cuts:
                yield cut if turn == 0 else cut.with_id(f"{cut.id}#{turn + 1}")
        if fraction:
            for cut in self.cuts:
                if random.Random(f"{self.salt}/{cut.id}").random() < fraction:
                    yield cut if whole == 0 else cut.with_id(f"{cut.id}#{int(whole) + 1}")


@dataclass
class _Selected:
    cuts: Any
    includes: Callable[[str], bool]

    def __iter__(self) -> Iterator[Any]:
        for cut in self.cuts:
            speaker = next((s.speaker for s in cut.supervisions if s.speaker), None)
            if self.includes(speaker or cut.id):
                yield cut


@dataclass
class _LhotseCuts:
    """Cuts of a lhotse cuts file or Shar folder, checked: lhotse would run a source of type "command" in a shell."""

    path: Path

    def __iter__(self) -> Iterator[Any]:
        from lhotse import CutSet
        from lhotse.cut import Cut

        cuts = iter(CutSet.from_shar(in_dir=self.path) if self.path.is_dir() else CutSet.from_jsonl_lazy(self.path))
        for number in itertools.count(1):
            where = f"{self.path}, cut {number}" if self.path.is_dir() else f"{self.path}, line {number}"
            try:
                cut = next(cuts)
            except StopIteration:
                return
            except (ValueError, TypeError, KeyError, AttributeError, AssertionError, OSError, EOFError) as error:
                raise CorpusError(f"{where}: not a lhotse cut: {str(error) or type(error).__name__}") from error
            if not isinstance(cut, Cut):
                raise CorpusError(f"{where}: expected a lhotse cut, found {type(cut).__name__}")
            for kind in _source_types(cut.to_dict()):
                if kind not in {"file", "memory", "shar"}:
                    raise CorpusError(f"{where}: an audio source of type {kind}, which is never run; use files")
            yield cut


def _source_types(node: Any) -> Iterator[str]:
    """The types of all audio sources in a cut's dictionary, those of mixed-in cuts and of transforms included."""
    if isinstance(node, dict):
        if "source" in node and "type" in node:
            yield str(node["type"])
        node = list(node.values())
    if isinstance(node, list | tuple):
        for item in node:
            yield from _source_types(item)


# ------------------------------------------------------------------------------------------------------- kinds


def _utterances(source: recipe.Corpus, root: Path) -> Callable[[], Iterator[Utterance]]:
    match source:
        case recipe.ManifestCorpus():
            manifest = _existing_file(_inside(source.path, root))
            return lambda: read_manifest(manifest)
        case recipe.LibriSpeechCorpus():
            folder = _inside(source.path, root)
            if source.download:
                download.download_librispeech(folder, source.splits, source.mirror)
            splits = [_existing_folder(folder / split) for split in source.splits]
            return lambda: (u for split in splits for u in _read_librispeech(split))
        case recipe.FolderCorpus():
            folder = _existing_folder(_inside(source.path, root))
            return lambda: _read_folder(folder)
        case recipe.CommonVoiceCorpus():
            table = _existing_file(_inside(source.path, root) / f"{source.split}.tsv")
            return lambda: _read_common_voice(table)
        case recipe.KaldiCorpus():
            folder = _existing_folder(_inside(source.path, root))
            return lambda: _read_kaldi(folder)
        case recipe.EspeakCorpus():
            manifest = espeak.synthesise_corpus(source)
            return lambda: read_manifest(manifest)
    raise AssertionError(source)  # a kind in the schema without a reader here


def _existing(path: Path) -> Path:
    return path if path.is_dir() else _existing_file(path)


def _existing_file(path: Path) -> Path:
    if not path.is_file():
        raise CorpusError(f"{path} is not there: give the folder that holds the corpora with --data or ASR_DATA")
    return path


def _existing_folder(path: Path) -> Path:
    if not path.is_dir():
        raise CorpusError(
            f"the folder {path} is not there: give the one that holds the corpora with --data or ASR_DATA"
        )
    return path


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    return ((number, line) for number, line in _all_lines(path) if line.strip())


def _all_lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from enumerate(file, 1)
    except (UnicodeDecodeError, OSError) as error:
        raise CorpusError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8 text'}"
        ) from error


def read_manifest(path: Path) -> Iterator[Utterance]:
    """Utterances of a JSON-lines, CSV or TSV manifest: ``audio_filepath`` (relative to the manifest), ``text``, and
    optionally ``duration``, ``offset`` (s), ``speaker``, ``id``. Raises CorpusError with the line number."""
    if path.suffix.lower() in {".csv", ".tsv"}:
        rows = _table(path, "\t" if path.suffix.lower() == ".tsv" else ",")
    else:
        rows = _json_lines(path)
    for number, row in rows:
        try:
            if not row["audio_filepath"]:
                raise ValueError("audio_filepath is empty")
            utterance = Utterance(
                id=str(row.get("id") or f"{path.stem}-{number:06d}"),
                audio=path.parent / str(row["audio_filepath"]),
                text=str(row["text"] if row["text"] is not None else ""),
                speaker=str(row.get("speaker") or ""),
                offset=_seconds(row.get("offset") or 0.0),
                duration=_seconds(row["duration"]) if row.get("duration") else None,
            )
            # JSON can spell half a surrogate pair, which no file name and no hash takes.
            f"{utterance.id}{utterance.audio}{utterance.text}{utterance.speaker}".encode()
        except KeyError as error:
            raise CorpusError(f"{path}, line {number}: {error} is missing; found {', '.join(map(str, row))}") from error
        except (TypeError, ValueError) as error:
            raise CorpusError(f"{path}, line {number}: {error}") from error
        yield utterance


def _seconds(value: Any) -> float:
    seconds = float(value)
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"offset and duration are seconds, 0 or more; found {value}")
    return seconds


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in _lines(path):
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise CorpusError(f"{path}, line {number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise CorpusError(f"{path}, line {number}: expected a JSON object, found {type(row).__name__}")
        yield number, row


def _table(path: Path, delimiter: str) -> Iterator[tuple[int, dict[str, Any]]]:
    # Blank lines too, so that the reader counts lines as an editor does; those between rows it skips itself.
    lines = (line if line.strip() else "\n" for _, line in _all_lines(path))
    if delimiter == "\t":  # tables of sentences: a quotation mark is a quotation mark
        reader = csv.DictReader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    else:
        reader = csv.DictReader(lines, delimiter=delimiter)
    try:
        for row in reader:
            yield reader.line_num, {key: value for key, value in row.items() if key is not None}
    except csv.Error as error:
        raise CorpusError(f"{path}, line {reader.reader.line_num}: {error}") from error


def _read_librispeech(split: Path) -> Iterator[Utterance]:
    """The official layout: SPLIT/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt beside its FLAC files."""
    found = False
    for transcript in sorted(split.glob("*/*/*.trans.txt")):
        for number, line in _lines(transcript):
            found = True
            id, *text = line.split(maxsplit=1)
            if not text:
                raise CorpusError(f"{transcript}, line {number}: an id without a text")
            flac = transcript.parent / f"{id}.flac"
            yield Utterance(id=id, audio=flac, text=text[0].strip(), speaker=id.split("-")[0])
    if not found:
        raise CorpusError(f"{split} holds no SPEAKER/CHAPTER/*.trans.txt: it is not laid out as LibriSpeech is")


def _read_folder(folder: Path) -> Iterator[Utterance]:
    """Audio files with a .txt of the same name beside them, at any depth; the enclosing folder is the speaker."""
    found = False
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES):
        found = True
        text = path.with_suffix(".txt")
        if not text.is_file():
            raise CorpusError(f"{path} has no {text.name} beside it")
        speaker = path.parent.name if path.parent != folder else ""
        words = " ".join(line.strip() for _, line in _lines(text))
        yield Utterance(id=path.relative_to(folder).with_suffix("").as_posix(), audio=path, text=words, speaker=speaker)
    if not found:
        raise CorpusError(f"{folder} holds no audio files ({', '.join(AUDIO_SUFFIXES)})")


def _read_common_voice(table: Path) -> Iterator[Utterance]:
    """A Common Voice table (path, sentence, client_id), clips in ``clips/`` beside it."""
    for number, row in _table(table, "\t"):
        if not row.get("path") or row.get("sentence") is None:
            raise CorpusError(f"{table}, line {number}: path or sentence is missing; found {', '.join(row)}")
        yield Utterance(
            id=Path(row["path"]).stem,
            audio=table.parent / "clips" / row["path"],
            text=row["sentence"],
            speaker=row.get("client_id") or "",
        )


def _read_kaldi(folder: Path) -> Iterator[Utterance]:
    """A Kaldi data directory: wav.scp, text, and where they are there segments and utt2spk. Commands (``... |``) in
    wav.scp are refused: a corpus is never run."""

    def table(name: str) -> Iterator[tuple[int, str, str]]:
        for number, line in _lines(_existing_file(folder / name)):
            key, *value = line.split(maxsplit=1)
            yield number, key, "".join(value).strip()

    wavs = {}
    for number, key, value in table("wav.scp"):
        if value.endswith("|"):
            raise CorpusError(
                f"{folder / 'wav.scp'}, line {number}: a command, which is not run; write the audio out first"
            )
        wavs[key] = folder / value
    texts = {key: value for _, key, value in table("text")}
    speakers = {key: value for _, key, value in table("utt2spk")} if (folder / "utt2spk").is_file() else {}

    def utterance(id: str, recording: str, offset: float, duration: float | None, where: str) -> Utterance:
        if recording not in wavs:
            raise CorpusError(f'{where}: the recording "{recording}" is not in wav.scp')
        return Utterance(
            id=id,
            audio=wavs[recording],
            text=texts.get(id, ""),
            speaker=speakers.get(id, ""),
            offset=offset,
            duration=duration,
        )

    if not (folder / "segments").is_file():
        for id in texts:
            yield utterance(id, id, 0.0, None, str(folder / "text"))
        return
    for number, id, value in table("segments"):
        where = f"{folder / 'segments'}, line {number}"
        try:
            recording, start, end = value.split()
            offset, duration = _seconds(start), _seconds(float(end) - float(start))
        except ValueError as error:
            raise CorpusError(f"{where}: expected UTTERANCE RECORDING START END, found {id} {value}") from error
        yield utterance(id, recording, offset, duration, where)

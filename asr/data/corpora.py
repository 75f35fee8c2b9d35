"""Corpora: each source of a recipe is a lazy stream of lhotse cuts.

Most layouts are read as ``Utterance`` records, and one function turns a record into a cut. Nothing is opened before it
is asked for, and nothing is skipped in silence: an unreadable file still becomes a cut, so that whoever loads it names
it.
"""

from __future__ import annotations

import dataclasses
import gzip
import itertools
import logging
import random
import zlib
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from asr import audio, recipe
from asr.data import download, espeak
from asr.data.given import Given, GivenRows
from asr.data.layouts import (
    Utterance,
    existing,
    existing_file,
    existing_folder,
    read_common_voice,
    read_folder,
    read_kaldi,
    read_librispeech,
    read_manifest,
)
from asr.errors import AudioError, CorpusError

log = logging.getLogger(__name__)

AnySource: TypeAlias = recipe.Corpus | recipe.Subset
Takes: TypeAlias = Callable[[str, str], bool]
"""Whether the utterance of a speaker, empty where none is named, and an id belongs to a source."""

FAULT = "fault"
"""Of a cut's custom fields, the reason that it cannot be used."""
_NAMED = 20
"""Speakers named in one sentence."""
_OVERSHOOT_SECONDS = 0.5
"""Manifests round times: a cut may end so much after its recording and is taken to end with it."""


@dataclass(frozen=True, slots=True)
class Told:
    """An utterance as its corpus tells of it: ``where`` is file and line, or the id of a lhotse cut; ``recording`` is
    the file, empty where it is none."""

    id: str
    where: str
    text: str
    recording: str


@dataclass(frozen=True, slots=True)
class Mixture:
    """Several sources, each passed over ``weight`` times an epoch: 2 is twice, 0.25 a quarter of it, another each
    epoch."""

    parts: tuple[tuple[_Cuts | _LhotseCuts, float], ...]
    seed: int = 0

    def epoch(self, number: int) -> Any:
        """The cuts of one epoch as a lazy CutSet, shuffled across sources anew each epoch.

        Utterances are shuffled whole, since they are no more than names; lhotse cuts come in their own order, mixed in,
        and are shuffled by the sampler's buffer alone.
        """
        from lhotse import CutSet

        described = [(cuts, weight) for cuts, weight in self.parts if isinstance(cuts, _Cuts)]
        streams: list[tuple[Any, float]] = [
            (_Weighted(cuts, weight, f"{self.seed}/{number}"), weight)
            for cuts, weight in self.parts
            if isinstance(cuts, _LhotseCuts)
        ]
        if described:
            streams.append((_Shuffled(described, f"{self.seed}/{number}"), sum(weight for _, weight in described)))
        if len(streams) == 1:
            return CutSet(streams[0][0])
        sets = [CutSet(stream) for stream, _ in streams]
        return CutSet.mux(*sets, weights=[weight for _, weight in streams], seed=self.seed + number)

    def whole(self) -> Any:
        """Every utterance once, in the sources' order, whatever the weights."""
        from lhotse import CutSet

        return CutSet(_Chained([cuts for cuts, _ in self.parts]))

    def told(self) -> Iterator[Told]:
        """As ``whole``, what is known of each utterance before its recording is opened."""
        for cuts, _ in self.parts:
            if isinstance(cuts, _Cuts):
                yield from (Told(u.id, u.where or u.id, u.text, "" if u.fault else str(u.audio)) for u in cuts.chosen())
            else:
                yield from map(_told, cuts)

    def only(self, ids: Container[str]) -> Any:
        """As ``whole``, the utterances of these ids alone."""
        from lhotse import CutSet

        return CutSet(_Only(self.whole(), ids))


def open_corpora(
    sources: Iterable[AnySource], root: Path, *, seed: int = 0, given: Mapping[str, Given] | None = None
) -> Mixture:
    """The sources, opened and ready to be mixed by their weights; ``given`` is what Python code gave, by split.

    Raises CorpusError where one is missing; malformed lines raise when they are reached.
    """
    parts: list[tuple[_Cuts | _LhotseCuts, float]] = []
    for source in sources:
        if isinstance(source, recipe.Subset):
            parts += _open_subset(source, root, given or {})
        else:
            parts.append((_open(source, root, given or {}), source.weight))
    return Mixture(tuple(parts), seed)


def _open(source: recipe.Corpus, root: Path, given: Mapping[str, Given]) -> _Cuts | _LhotseCuts:
    left_out = frozenset(source.leave_out)

    def takes(speaker: str, id: str) -> bool:
        return source.includes(speaker or id) and id not in left_out

    match source:
        case recipe.LhotseCorpus():
            return _stored_cuts(existing(_inside(source.path, root)), root, takes)
        case recipe.GivenCorpus():
            cuts = given.get(source.split)
            if cuts is None:
                raise CorpusError(
                    f"the {source.split} corpus was given from Python and lies in no file: give it to asr.train again "
                    "(cuts=…), or name a corpus that does"
                )
            if isinstance(cuts, GivenRows):
                return _Cuts(lambda: iter(cuts.utterances), takes, headers={**cuts.headers})
            return _LhotseCuts(f"the {source.split} cuts given, number", lambda: iter(cuts), takes)
    return _Cuts(_utterances(source, root), takes)


def _open_subset(
    subset: recipe.Subset, root: Path, given: Mapping[str, Given]
) -> Iterator[tuple[_Cuts | _LhotseCuts, float]]:
    whole = [_open(source, root, given) for source in subset.of]
    is_held_out = _hold_out(whole, subset.rule)

    def within(takes: Takes) -> Takes:
        return lambda speaker, id: takes(speaker, id) and is_held_out(speaker, id) is (subset.split == "dev")

    for source, cuts in zip(subset.of, whole, strict=True):
        yield dataclasses.replace(cuts, takes=within(cuts.takes)), source.weight


def _hold_out(corpora: Sequence[_Cuts | _LhotseCuts], rule: recipe.HeldOut) -> Takes:
    """Which utterances of the corpora ``rule`` holds out. Warns where it cannot go by speakers."""
    names = [name for cuts in corpora for name in cuts.names()]
    speakers = Counter(speaker or id for speaker, id in names)
    if rule.by == "speaker":
        if len(speakers) > 1 and any(speaker for speaker, _ in names):
            chosen = _choose(speakers, rule.share)
            return lambda speaker, id: (speaker or id) in chosen
        if names:
            who = f'one speaker, "{names[0][0]}"' if names[0][0] else "no speakers"
            log.warning(
                f"the training corpora name {who}, so the dev set is held out by utterance: it does not show how well "
                "the model understands new voices"
            )
    chosen = _choose(Counter(id for _, id in names), rule.share)
    return lambda _speaker, id: id in chosen


def _choose(utterances: Mapping[str, int], share: float) -> frozenset[str]:
    """Of speakers (or ids) and how many utterances each has, those to hold out: in the order of their names' hashes,
    each that still fits in ``share`` of all; at the least the one with the fewest."""
    order = sorted(utterances, key=lambda name: (zlib.crc32(f"held out:{name}".encode()), name))
    room = share * sum(utterances.values()) + 1e-9
    chosen = set()
    for name in order:
        if utterances[name] <= room:
            chosen.add(name)
            room -= utterances[name]
    return frozenset(chosen or sorted(order, key=utterances.__getitem__)[:1])


def check_not_empty(
    mixture: Mixture, settings: recipe.Recipe, split: str, root: Path, given: Mapping[str, Given] | None = None
) -> None:
    """Raises CorpusError where ``mixture``, the corpora of ``split``, has no utterance; it says where they are."""
    if next(mixture.told(), None) is not None:
        return
    sources = settings.corpora.split(split)
    reasons = "; ".join(_why_empty(source, root, given or {}) for source in sources)
    advice = "" if isinstance(settings.corpora.dev, recipe.HeldOut) else "corpora.dev: {share: 0.1, by: speaker} "
    raise CorpusError(
        f"corpora.{split} holds no utterances: {reasons}"
        + (f". {advice}holds a tenth of the training corpora out, whoever speaks in them" if advice else "")
    )


def _why_empty(source: AnySource, root: Path, given: Mapping[str, Given]) -> str:
    name = name_of(source)
    if isinstance(source, recipe.Subset):
        return "there are too few utterances in the training corpora to hold some out"
    everything = source.model_copy(update={"speakers": (0.0, 1.0)})
    speakers = sorted({speaker or id for speaker, id in _open(everything, root, given).names()}, key=recipe.place_of)
    if not speakers:
        return f"{name} has none"
    places = ", ".join(f"{speaker} at {recipe.place_of(speaker):.3f}" for speaker in speakers[:_NAMED])
    more = f" and {len(speakers) - _NAMED} more" if len(speakers) > _NAMED else ""
    low, high = source.speakers
    return (
        f"{name} has none in its slice, speakers: [{low:g}, {high:g}], for its speakers lie elsewhere: {places}{more}"
    )


def name_of(source: AnySource) -> str:
    """What reports call a source: its ``name``, else its splits or its path without suffix."""
    if isinstance(source, recipe.Subset):
        return source.split
    if source.name:
        return source.name
    match source:
        case recipe.LibriSpeechCorpus():
            return "+".join(source.splits)
        case recipe.EspeakCorpus():
            return "espeak"
        case recipe.CommonVoiceCorpus():
            return f"{source.path}/{source.split}"
        case recipe.GivenCorpus():
            return f"the {source.split} cuts given"
    return str(Path(source.path).with_suffix(""))


def left_out(sources: Iterable[AnySource], root: Path, given: Mapping[str, Given] | None = None) -> Iterator[str]:
    """What each source's ``leave_out`` comes to, a sentence each; ids that the source does not hold are named."""
    for source in sources:
        if isinstance(source, recipe.Subset):
            yield from left_out(source.of, root, given)
        elif source.leave_out:
            whole = _open(source.model_copy(update={"leave_out": ()}), root, given or {})
            held = {id for _, id in whole.names()}
            named = set(source.leave_out)
            yield f"{len(named & held)} of {len(held)} utterances of {name_of(source)} are left out, as leave_out says"
            if unknown := sorted(named - held):
                shown = ", ".join(unknown[:_NAMED]) + (" ..." if len(unknown) > _NAMED else "")
                yield f"leave_out of {name_of(source)} names {len(unknown)} ids that it does not hold: {shown}"


def sources_of(settings: recipe.Recipe, split: str) -> tuple[AnySource, ...]:
    """The recipe's sources for a split. Raises CorpusError where it names none."""
    sources = settings.corpora.split(split)
    if not sources:
        raise CorpusError(f"the recipe names no {split} corpus; give manifests to evaluate on, or --split dev")
    return sources


def manifest_source(path: Path) -> recipe.ManifestCorpus:
    """A manifest on disk as a source; its name is the path without suffix."""
    return recipe.ManifestCorpus(kind="manifest", path=str(path.absolute()), name=str(path.with_suffix("")))


def check_names(sources: Sequence[AnySource]) -> None:
    """Raises CorpusError where two different sources go by one name: their scores could not be told apart."""
    paths: dict[str, str] = {}
    for source in sources:
        name, path = name_of(source), source.model_dump_json(exclude={"name", "weight"})
        if paths.setdefault(name, path) != path:
            raise CorpusError(f'two different sets are called "{name}"; give each a name of its own in a recipe')


def _utterances(source: recipe.Corpus, root: Path) -> Callable[[], Iterator[Utterance]]:
    match source:
        case recipe.ManifestCorpus():
            manifest = existing_file(_inside(source.path, root))
            return lambda: read_manifest(manifest)
        case recipe.LibriSpeechCorpus():
            folder = _inside(source.path, root)
            if source.download:
                download.download_librispeech(folder, source.splits, source.mirror)
            splits = [existing_folder(folder / split) for split in source.splits]
            return lambda: (u for split in splits for u in read_librispeech(split))
        case recipe.FolderCorpus():
            folder = existing_folder(_inside(source.path, root))
            return lambda: read_folder(folder)
        case recipe.CommonVoiceCorpus():
            table = existing_file(_inside(source.path, root) / f"{source.split}.tsv")
            return lambda: read_common_voice(table)
        case recipe.KaldiCorpus():
            folder = existing_folder(_inside(source.path, root))
            return lambda: read_kaldi(folder)
        case recipe.EspeakCorpus():
            manifest = espeak.synthesise_corpus(source)
            return lambda: read_manifest(manifest)
    raise AssertionError(source)  # a kind in the schema without a reader here


def _inside(path: str, root: Path) -> Path:
    return root / Path(path).expanduser()


# ------------------------------------------------------------------------------------------ utterances to cuts


@dataclass
class _Cuts:
    """Cuts of ``utterances()``, made anew at each iteration; file headers are read once and remembered."""

    utterances: Callable[[], Iterator[Utterance]]
    takes: Takes
    headers: dict[Path, audio.AudioInfo | None] = field(default_factory=dict)

    def chosen(self) -> Iterator[Utterance]:
        """The utterances that belong to this source; one whose id another has already has that for a fault."""
        first: dict[str, str] = {}
        for utterance in self.utterances():
            if not self.takes(utterance.speaker or "", utterance.id):
                continue
            where = utterance.where if utterance.fault else first.setdefault(utterance.id, utterance.where)
            if where != utterance.where:
                fault = f'{utterance.where}: the id "{utterance.id}" is that of {where} already'
                utterance = dataclasses.replace(utterance, fault=fault)
            yield utterance

    def __iter__(self) -> Iterator[Any]:
        return map(self.cut, self.chosen())

    def names(self) -> Iterator[tuple[str, str]]:
        """Speaker, empty where none is named, and id of each utterance."""
        return ((utterance.speaker or "", utterance.id) for utterance in self.chosen())

    def cut(self, utterance: Utterance) -> Any:
        from lhotse import AudioSource, Recording, SupervisionSegment

        header = None if utterance.fault else self._header(utterance.audio)
        fault = utterance.fault or (_mistimed(utterance, header) if header else "")
        if header is None or fault:  # loading it will say why
            seconds = 0.1 if fault else max(utterance.offset + (utterance.duration or 1.0), 0.1)
            header = audio.AudioInfo(samples=round(seconds * 16000), sample_rate=16000, channels=1)
        channels = list(range(header.channels))
        cut = Recording(
            id=utterance.id,
            sources=[AudioSource(type="file", channels=channels, source=str(utterance.audio))],
            sampling_rate=header.sample_rate,
            num_samples=header.samples,
            duration=header.duration,
        ).to_cut()
        if fault:
            cut.custom = {FAULT: fault}
        elif utterance.offset or (utterance.duration or header.duration) < header.duration - 0.1:
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


@dataclass
class _Shuffled:
    """Described sources in one shuffled stream, each utterance as often as its source's weight says."""

    sources: list[tuple[_Cuts, float]]
    salt: str

    def __iter__(self) -> Iterator[Any]:
        entries = [
            (cuts, utterance, turn)
            for cuts, weight in self.sources
            for utterance in cuts.chosen()
            for turn in _turns(utterance.id, weight, self.salt)
        ]
        random.Random(self.salt).shuffle(entries)
        return (_again(cuts.cut(utterance), turn) for cuts, utterance, turn in entries)


@dataclass
class _Weighted:
    """A lhotse source's cuts in their own order, each as often as its weight says."""

    cuts: _LhotseCuts
    weight: float
    salt: str

    def __iter__(self) -> Iterator[Any]:
        return (_again(cut, turn) for cut in self.cuts for turn in _turns(cut.id, self.weight, self.salt))


@dataclass
class _Chained:
    sources: list[_Cuts | _LhotseCuts]

    def __iter__(self) -> Iterator[Any]:
        return itertools.chain.from_iterable(self.sources)


@dataclass
class _Only:
    cuts: Iterable[Any]
    ids: Container[str]

    def __iter__(self) -> Iterator[Any]:
        return (cut for cut in self.cuts if cut.id in self.ids)


def _turns(id: str, weight: float, salt: str) -> range:
    """How often an utterance comes in the epoch that ``salt`` names: the weight, its fraction settled by a draw."""
    fraction = random.Random(f"{salt}/{id}").random() < weight % 1
    return range(int(weight) + fraction)


def _again(cut: Any, turn: int) -> Any:
    """The cut itself at first, then under another id, so that it is augmented otherwise."""
    return cut if turn == 0 else cut.with_id(f"{cut.id}#{turn + 1}")


@dataclass
class _LhotseCuts:
    """Cuts of lhotse, as ``opened`` anew at each iteration, checked: lhotse would run a source of type "command" in a
    shell. ``where``, with a number, names one; ``placed`` says where its recordings are; ``account_for`` is told how
    many were read."""

    where: str
    opened: Callable[[], Iterator[Any]]
    takes: Takes
    placed: Callable[[Any], Any] = lambda cut: cut
    account_for: Callable[[int], None] = lambda _read: None

    def __iter__(self) -> Iterator[Any]:
        return (cut for _, cut in self._named())

    def names(self) -> Iterator[tuple[str, str]]:
        """Speaker, empty where none is named, and id of each cut."""
        return ((speaker, cut.id) for speaker, cut in self._named())

    def _named(self) -> Iterator[tuple[str, Any]]:
        number = 0
        cuts = self.opened()
        while True:
            number += 1
            where = f"{self.where} {number}"
            # Whatever a damaged file makes lhotse raise, of any type, the line is to blame.
            try:
                cut = next(cuts)
                speaker = self._checked(cut)
                placed = self.placed(cut)
            except StopIteration:
                break
            except CorpusError as error:
                raise CorpusError(f"{where}: {error}") from error
            except Exception as error:
                raise CorpusError(f"{where}: not a lhotse cut: {_reason(error)}") from error
            if self.takes(speaker, cut.id):
                yield speaker, placed
        self.account_for(number - 1)

    def _checked(self, cut: Any) -> str:
        """The speaker of a cut that can be used, empty where it names none. Raises CorpusError for others."""
        from lhotse.cut import Cut

        if not isinstance(cut, Cut):
            raise CorpusError(f"expected a lhotse cut, found {type(cut).__name__}")
        for kind in _source_types(cut.to_dict()):
            if kind not in {"file", "memory", "shar"}:
                raise CorpusError(f"an audio source of type {kind}, which is never run; use files")
            if kind == "shar":
                raise CorpusError("an audio source that the Shar holds, without it; open the Shar's folder")
        if not (isinstance(cut.duration, int | float) and 0 < cut.duration < audio.MAX_SECONDS):
            raise CorpusError(f"expected a duration in seconds, found {cut.duration}")
        if cut.has_recording and not cut.sampling_rate > 0:
            raise CorpusError(f"expected a sampling rate in Hz, found {cut.sampling_rate}")
        speaker = str(next((s.speaker for s in cut.supervisions if s.speaker), ""))
        # JSON can spell half a surrogate pair, which has no UTF-8.
        "".join([cut.id, speaker, *(s.text or "" for s in cut.supervisions)]).encode()
        return speaker


def _stored_cuts(path: Path, root: Path, takes: Takes) -> _LhotseCuts:
    """Those of a cuts file, whose recordings' paths start in ``root``, or of a Shar folder."""

    def opened() -> Iterator[Any]:
        from lhotse import CutSet

        try:
            return iter(CutSet.from_shar(in_dir=path) if path.is_dir() else CutSet.from_jsonl_lazy(path))
        except Exception as error:
            raise CorpusError(f"{path}: lhotse cannot open it: {_reason(error)}") from error

    if path.is_dir():
        return _LhotseCuts(f"{path}, cut", opened, takes, account_for=lambda read: _account_for(path, read))
    return _LhotseCuts(f"{path}, line", opened, takes, placed=lambda cut: cut.with_recording_path_prefix(root))


def _account_for(shar: Path, read: int) -> None:
    """A Shar's files of cuts and of audio are read side by side, and lhotse stops at the end of the shorter."""
    listed = 0
    for shard in sorted(shar.glob("cuts.*.jsonl*")):
        with gzip.open(shard) if shard.suffix == ".gz" else shard.open("rb") as file:
            listed += sum(1 for line in file if line.strip())
    if read < listed:
        raise CorpusError(f"{shar}: it lists {listed} cuts and holds the audio of {read}: its tar files lack some")


def _told(cut: Any) -> Told:
    text = " ".join(s.text for s in cut.supervisions if s.text)
    sources = [] if not getattr(cut, "has_recording", False) or not hasattr(cut, "recording") else cut.recording.sources
    return Told(cut.id, cut.id, text, next((str(s.source) for s in sources if s.type == "file"), ""))


def _reason(error: Exception) -> str:
    """The first line of what lhotse says, and the type where that says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines and not isinstance(error, KeyError) else f"{type(error).__name__} {error}".strip()


def _source_types(node: Any) -> Iterator[str]:
    """The types of all audio sources in a cut's dictionary, those of mixed-in cuts and of transforms included."""
    if isinstance(node, dict):
        if "source" in node and "type" in node:
            yield str(node["type"])
        node = list(node.values())
    if isinstance(node, list | tuple):
        for item in node:
            yield from _source_types(item)

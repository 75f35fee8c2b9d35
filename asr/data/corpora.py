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
import zlib
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from asr import audio, recipe
from asr.data import download, espeak
from asr.data.cuts import check_sources, cut_of, header_of, speaker_of
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
from asr.errors import CorpusError

log = logging.getLogger(__name__)

AnySource: TypeAlias = recipe.Corpus | recipe.Subset
Takes: TypeAlias = Callable[[str, str], bool]
"""Whether the utterance of a speaker, empty where none is named, and an id belongs to a source."""
Rule: TypeAlias = tuple[tuple[recipe.Corpus, ...], recipe.HeldOut]
"""Of which corpora what is held out."""

_NAMED = 20
"""Speakers named in one sentence."""


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

    parts: tuple[tuple[DescribedCuts | LhotseCuts, float], ...]

    def whole(self) -> Any:
        """Every utterance once, in the sources' order, whatever the weights."""
        from lhotse import CutSet

        return CutSet(_Chained([cuts for cuts, _ in self.parts]))

    def told(self) -> Iterator[Told]:
        """As ``whole``, what is known of each utterance before its recording is opened."""
        for cuts, _ in self.parts:
            if isinstance(cuts, DescribedCuts):
                yield from (Told(u.id, u.where or u.id, u.text, "" if u.fault else str(u.audio)) for u in cuts.chosen())
            else:
                yield from map(_told, cuts)

    def only(self, ids: Container[str]) -> Any:
        """As ``whole``, the utterances of these ids alone."""
        from lhotse import CutSet

        return CutSet(_Only(self.whole(), ids))


def open_corpora(
    sources: Iterable[AnySource],
    root: Path,
    *,
    given: Mapping[str, Given] | None = None,
    decided: dict[Rule, Takes] | None = None,
) -> Mixture:
    """The sources, opened and ready to be mixed by their weights; ``given`` is what Python code gave, by split. What is
    held out is ``decided`` once for all splits that are opened with it.

    Raises CorpusError where one is missing; malformed lines raise when they are reached.
    """
    parts: list[tuple[DescribedCuts | LhotseCuts, float]] = []
    for source in sources:
        if isinstance(source, recipe.Subset):
            parts += _open_subset(source, root, given or {}, {} if decided is None else decided)
        else:
            parts.append((_open(source, root, given or {}), source.weight))
    return Mixture(tuple(parts))


def _open(source: recipe.Corpus, root: Path, given: Mapping[str, Given]) -> DescribedCuts | LhotseCuts:
    left_out, all_speak = frozenset(source.leave_out), source.speakers == (0.0, 1.0)

    def takes(speaker: str, id: str) -> bool:
        return (all_speak or source.includes(speaker or id)) and id not in left_out

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
                return DescribedCuts(lambda: iter(cuts.utterances), takes, headers={**cuts.headers})
            return LhotseCuts(f"the {source.split} cuts given, number", lambda: iter(cuts), takes)
    return DescribedCuts(_utterances(source, root), takes)


def _open_subset(
    subset: recipe.Subset, root: Path, given: Mapping[str, Given], decided: dict[Rule, Takes]
) -> Iterator[tuple[DescribedCuts | LhotseCuts, float]]:
    whole = [_open(source, root, given) for source in subset.of]
    rule = (subset.of, subset.rule)
    is_held_out = decided[rule] = decided.get(rule) or _hold_out(whole, subset.rule)

    def within(takes: Takes) -> Takes:
        return lambda speaker, id: takes(speaker, id) and is_held_out(speaker, id) is (subset.split == "dev")

    for source, cuts in zip(subset.of, whole, strict=True):
        yield dataclasses.replace(cuts, takes=within(cuts.takes)), source.weight


def _hold_out(corpora: Sequence[DescribedCuts | LhotseCuts], rule: recipe.HeldOut) -> Takes:
    """Which utterances of the corpora ``rule`` holds out. Warns where it cannot go by speakers."""
    if rule.by == "speaker":
        speakers: Counter[str] = Counter()
        named = ""
        for speaker, id in _names(corpora):
            speakers[speaker or id] += 1
            named = named or speaker
        if len(speakers) > 1 and named:
            held = _choose(speakers, rule.share)
            return lambda speaker, id: (speaker or id) in held
        if speakers:
            who = f'one speaker, "{named}"' if named else "no speakers"
            log.warning(
                f"the training corpora name {who}, so the dev set is held out by utterance: it does not show how well "
                "the model understands new voices"
            )
    chosen = _choose(Counter(id for _, id in _names(corpora)), rule.share)
    return lambda _speaker, id: id in chosen


def _names(corpora: Sequence[DescribedCuts | LhotseCuts]) -> Iterator[tuple[str, str]]:
    return (name for cuts in corpora for name in cuts.names())


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


# -------------------------------------------------------------------------------------------- what a source reads


@dataclass
class DescribedCuts:
    """Cuts of ``utterances()``, made anew at each iteration; file headers are read once and remembered."""

    utterances: Callable[[], Iterator[Utterance]]
    takes: Takes
    headers: dict[Path, audio.AudioInfo | None] = field(default_factory=dict)

    def taken(self) -> Iterator[Utterance]:
        """The utterances that belong to this source."""
        return (u for u in self.utterances() if self.takes(u.speaker, u.id))

    def chosen(self) -> Iterator[Utterance]:
        """As ``taken``; one whose id another has already has that for a fault."""
        first: dict[str, str] = {}
        for utterance in self.taken():
            where = utterance.where if utterance.fault else first.setdefault(utterance.id, utterance.where)
            if where != utterance.where:
                utterance = dataclasses.replace(utterance, fault=id_taken(utterance, where))
            yield utterance

    def __iter__(self) -> Iterator[Any]:
        return (cut_of(utterance, self._header(utterance)) for utterance in self.chosen())

    def names(self) -> Iterator[tuple[str, str]]:
        """Speaker, empty where none is named, and id of each utterance."""
        return ((utterance.speaker, utterance.id) for utterance in self.taken())

    def _header(self, utterance: Utterance) -> audio.AudioInfo | None:
        if utterance.fault:
            return None
        if utterance.audio not in self.headers:
            self.headers[utterance.audio] = header_of(utterance.audio)
        return self.headers[utterance.audio]


def id_taken(utterance: Utterance, where: str) -> str:
    """The fault of an utterance whose id is that of the one at ``where``."""
    return f'{utterance.where}: the id "{utterance.id}" is that of {where} already'


@dataclass
class _Chained:
    sources: list[DescribedCuts | LhotseCuts]

    def __iter__(self) -> Iterator[Any]:
        return itertools.chain.from_iterable(self.sources)


@dataclass
class _Only:
    cuts: Iterable[Any]
    ids: Container[str]

    def __iter__(self) -> Iterator[Any]:
        return (cut for cut in self.cuts if cut.id in self.ids)


@dataclass
class LhotseCuts:
    """Cuts of lhotse, as ``opened`` anew at each iteration, checked: lhotse would run a source of type "command" in a
    shell. ``where``, with a number, names one; ``placed`` says where its recordings are; ``account_for`` is told how
    many were read. ``shar`` is the folder that they come from, if they do."""

    where: str
    opened: Callable[[], Iterator[Any]]
    takes: Takes
    placed: Callable[[Any], Any] = lambda cut: cut
    account_for: Callable[[int], None] = lambda _read: None
    shar: Path | None = None

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
        check_sources(cut.to_dict())
        if not (isinstance(cut.duration, int | float) and 0 < cut.duration < audio.MAX_SECONDS):
            raise CorpusError(f"expected a duration in seconds, found {cut.duration}")
        speaker = speaker_of(cut)
        # JSON can spell half a surrogate pair, which has no UTF-8.
        "".join([cut.id, speaker, *(s.text or "" for s in cut.supervisions)]).encode()
        return speaker


def _stored_cuts(path: Path, root: Path, takes: Takes) -> LhotseCuts:
    """Those of a cuts file, whose recordings' paths start in ``root``, or of a Shar folder."""

    def opened() -> Iterator[Any]:
        from lhotse import CutSet

        try:
            return iter(CutSet.from_shar(in_dir=path) if path.is_dir() else CutSet.from_jsonl_lazy(path))
        except Exception as error:
            raise CorpusError(f"{path}: lhotse cannot open it: {_reason(error)}") from error

    if path.is_dir():
        return LhotseCuts(f"{path}, cut", opened, takes, account_for=lambda read: _account_for(path, read), shar=path)
    return LhotseCuts(f"{path}, line", opened, takes, placed=lambda cut: cut.with_recording_path_prefix(root))


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

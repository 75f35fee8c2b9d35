"""Writing a corpus as a Shar (lhotse): tar files of some hours each, which training reads from beginning to end.

Utterances come in an order of chance, which their ids decide, so that each tar file is a sample of the whole. Audio is
kept without loss: a compressed file as it is, what is of 16 bits as FLAC. What was decoded to finer numbers, and is a
part of its file, is rounded to FLAC's 24 bits.
"""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asr import files, runtime
from asr.data.batches import Refused, load_channels, mixed, opened, reading_as_training_does
from asr.data.listing import Listing
from asr.data.order import draw
from asr.errors import CorpusError
from asr.records import Rejection

SHAR = "shar"
"""In the folder of an unfinished conversion, the Shar: lhotse takes every file beside its own for a part of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What was written to ``folder``: ``utterances`` and ``seconds`` in so many ``shards``, and what was left out."""

    folder: Path
    shards: int
    utterances: int
    seconds: float
    rejected: tuple[Rejection, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Recording:
    """``content`` is a file of the kind ``suffix``; ``cut`` and ``described`` are lhotse's of it."""

    content: bytes
    suffix: str
    cut: Any
    described: Any


def write_shards(
    listing: Listing,
    folder: Path,
    *,
    shard_hours: float,
    advance: Callable[[float], None] = lambda _seconds: None,
) -> Written:
    """Writes the corpus to ``folder``, which appears when it is whole, going on where an earlier call was stopped.

    Beside it appears ``folder``.json, which tells what was written, and the utterances that were left out with reasons.
    ``advance`` hears of the seconds that are done. Raises CorpusError where a folder of another corpus is in the way.
    """
    if any(part.shards for part in listing.parts):
        raise CorpusError("the corpus is a Shar already, or one of its sources is; write the others")
    order = np.argsort(draw(listing.keys, np.zeros(len(listing), np.int64), 0), kind="stable")
    ends = np.cumsum(listing.seconds[order])
    shard_of = (ends - listing.seconds[order]) // (3600 * shard_hours)
    parts = np.split(order, np.flatnonzero(np.diff(shard_of)) + 1)
    told = {"corpus": listing.digest, "shard_hours": shard_hours}
    if folder.exists():
        raise CorpusError(f"{folder} is there already; remove it, or write elsewhere")
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    _take(unfinished, told)
    for number, part in enumerate(parts):
        if not _cuts(unfinished / SHAR, number).is_file():
            _write_shard(listing, part.tolist(), unfinished, number)
        advance(float(listing.seconds[part].sum()))
    rejected, utterances, seconds = _account(unfinished, len(parts))
    if not utterances:
        raise CorpusError(f"no utterance can be read, the first: {rejected[0].id}: {rejected[0].reason}")
    summary = {
        **told,
        "shards": len(parts),
        "utterances": utterances,
        "hours": round(seconds / 3600, 3),
        "left_out": [{"id": rejection.id, "reason": rejection.reason} for rejection in rejected],
    }
    with files.replacing(folder.with_name(f"{folder.name}.json")) as file:
        json.dump(summary, file, ensure_ascii=False, indent=1)
    (unfinished / SHAR).rename(folder)
    shutil.rmtree(unfinished)
    return Written(folder=folder, shards=len(parts), utterances=utterances, seconds=seconds, rejected=rejected)


def _take(unfinished: Path, told: dict[str, Any]) -> None:
    """Begins the folder, or goes on with what an earlier call began. Raises CorpusError where that was another."""
    plan = unfinished / "plan.json"
    if plan.is_file():
        if json.loads(plan.read_text(encoding="utf-8")) != told:
            raise CorpusError(
                f"{unfinished} was begun with another corpus or shard size; remove it, or write elsewhere"
            )
        return
    shutil.rmtree(unfinished, ignore_errors=True)
    (unfinished / SHAR).mkdir(parents=True)
    with files.replacing(plan) as file:
        json.dump(told, file)


def _cuts(folder: Path, number: int) -> Path:
    return folder / f"cuts.{number:06d}.jsonl.gz"


def _left_out(folder: Path, number: int) -> Path:
    return folder / f"left-out.{number:06d}.json"


def _write_shard(listing: Listing, numbers: list[int], folder: Path, number: int) -> None:
    """The file of cuts comes last: where it is, its shard is whole."""
    rejected: list[Rejection] = []
    lines: list[bytes] = []
    seconds = 0.0
    with (
        files.replacing(folder / SHAR / f"recording.{number:06d}.tar", "wb") as file,
        tarfile.open(fileobj=file, mode="w") as tar,
        reading_as_training_does(),
        ThreadPoolExecutor(runtime.cores()) as pool,
    ):
        for done in pool.map(lambda each: _recording(listing, each), numbers):
            if isinstance(done, Rejection):
                rejected.append(done)
                continue
            _add(tar, f"{done.cut.id}{done.suffix}", done.content)
            _add(tar, f"{done.cut.id}.json", json.dumps(done.described.to_dict(), ensure_ascii=False).encode())
            lines.append(json.dumps(done.cut.to_dict(), ensure_ascii=False).encode() + b"\n")
            seconds += done.cut.duration
    with files.replacing(_left_out(folder, number)) as text:
        said = [[rejection.id, rejection.fault, rejection.reason] for rejection in rejected]
        json.dump({"utterances": len(lines), "seconds": seconds, "rejected": said}, text)
    with (
        files.replacing(_cuts(folder / SHAR, number), "wb") as file,
        gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as packed,
    ):
        packed.writelines(lines)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _account(folder: Path, shards: int) -> tuple[tuple[Rejection, ...], int, float]:
    """What was left out of all shards, and how many utterances and seconds were not."""
    parts = [json.loads(_left_out(folder, number).read_text(encoding="utf-8")) for number in range(shards)]
    rejected = (
        Rejection(id=id, fault=fault, reason=reason) for part in parts for id, fault, reason in part["rejected"]
    )
    return tuple(rejected), sum(part["utterances"] for part in parts), sum(part["seconds"] for part in parts)


def _recording(listing: Listing, number: int) -> _Recording | Rejection:
    """An utterance as the Shar has it, or why it cannot be."""
    waiting = listing.waiting(number)
    try:
        if str(Path(waiting.id)) != waiting.id:
            raise Refused("unreadable", "its id cannot be a file's name; give it another")
        cut = opened(waiting)
        channels = load_channels(cut)
        mixed(channels)
        return _encoded(cut, channels)
    except Refused as refusal:
        return Rejection(id=waiting.id, fault=refusal.fault, reason=refusal.reason)


def _encoded(cut: Any, channels: np.ndarray) -> _Recording:
    """``channels`` (C, S) are what ``cut`` is of."""
    from lhotse import AudioSource, Recording

    content, suffix = _file_of(cut, channels.size) or _compressed(channels, int(cut.sampling_rate))
    described = Recording(
        id=cut.id,
        sources=[AudioSource(type="shar", channels=list(range(len(channels))), source="")],
        sampling_rate=int(cut.sampling_rate),
        num_samples=channels.shape[1],
        duration=channels.shape[1] / cut.sampling_rate,
    )
    written = described.to_cut()
    written.id, written.supervisions = cut.id, cut.supervisions
    return _Recording(content=content, suffix=suffix, cut=written, described=described)


def _file_of(cut: Any, samples: int) -> tuple[bytes, str] | None:
    """The file that the cut is the whole of, where it is compressed, and its suffix."""
    recording = cut.recording
    source = recording.sources[0]
    whole = (
        cut.start == 0 and abs(cut.duration - recording.duration) < 1e-3 and cut.num_channels == recording.num_channels
    )
    if len(recording.sources) > 1 or source.type != "file" or recording.transforms or not whole:
        return None
    path = Path(source.source)
    return (path.read_bytes(), path.suffix) if path.stat().st_size < 2 * samples else None


def _compressed(channels: np.ndarray, sample_rate: int) -> tuple[bytes, str]:
    """As FLAC; as floating-point WAV what is louder than full scale."""
    import soundfile

    encoded = io.BytesIO()
    if np.abs(channels).max() > 1:
        soundfile.write(encoded, channels.T, sample_rate, format="WAV", subtype="FLOAT")
        return encoded.getvalue(), ".wav"
    sixteen = np.clip(channels * 32768, -32768, 32767).astype(np.int16)
    if np.array_equal(sixteen.astype(np.float32) / 32768, channels):
        soundfile.write(encoded, sixteen.T, sample_rate, format="FLAC", subtype="PCM_16")
    else:
        fine = np.clip(np.round(channels.astype(np.float64) * 2**23), -(2**23), 2**23 - 1).astype(np.int32) << 8
        soundfile.write(encoded, fine.T, sample_rate, format="FLAC", subtype="PCM_24")
    return encoded.getvalue(), ".flac"

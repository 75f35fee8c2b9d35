"""From cuts to padded batches: buckets by duration, worker processes that decode and augment, and what was left out.

An utterance that cannot be trained on (unreadable, empty text, a character outside the alphabet, too short for its
labels, outside the duration limits) is named in ``Batch.rejected`` and never hidden in the loss.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lhotse.audio.backend import AudioBackend, audio_backend

from asr import audio
from asr.data.augment import Augmenter, in_memory
from asr.data.cuts import FAULT, speaker_of
from asr.data.decoded import Recordings
from asr.data.join import Joined
from asr.data.listing import Waiting
from asr.errors import AudioError, CorpusError, TextError
from asr.model.collation import LoadedUtterance, collate
from asr.records import Batch, Fault, Rejection, Waveform
from asr.text.normalise import normalise
from asr.text.tokenise import PhoneTokeniser, Tokeniser, frames_needed

CANCELLED = 0.02
"""A mix whose peak is below so much of its channels' is what is left of channels of opposite sign."""


class _ProjectReader(AudioBackend):  # type: ignore[misc]
    """Lets lhotse read audio the way the rest of the project does: from ``recordings``, or else their files."""

    def __init__(self, recordings: Recordings | None) -> None:
        self._recordings = recordings

    def read_audio(
        self,
        path_or_fd: Any,
        offset: float = 0.0,
        duration: float | None = None,
        force_opus_sampling_rate: int | None = None,  # noqa: ARG002 (named by lhotse; soundfile decodes Opus as it is)
    ) -> tuple[np.ndarray, int]:
        if hasattr(path_or_fd, "read"):
            samples, sample_rate = audio.read_channels(path_or_fd.read(), offset=offset, duration=duration)
        else:
            source = self._recordings or audio
            samples, sample_rate = source.read_channels(Path(path_or_fd), offset=offset, duration=duration)
        # Channel by channel, wherever they come from: the order of memory is the order in which NumPy sums.
        return np.ascontiguousarray(samples), sample_rate


def reading_as_training_does(recordings: Recordings | None = None) -> contextlib.AbstractContextManager[None]:
    """Within, lhotse reads audio as the rest of the project does."""
    reader: contextlib.AbstractContextManager[None] = audio_backend(_ProjectReader(recordings))
    return reader


@dataclass(frozen=True, slots=True, kw_only=True)
class Utterances(torch.utils.data.Dataset[Batch]):
    """Loads the cuts of one batch. Without ``tokeniser`` the batch carries no labels, and no text is refused.

    ``emission_frames`` maps samples to the model's emission frames; ``featurise`` computes features in the loader.
    ``seconds`` are the shortest and the longest utterance taken. ``recordings`` are read in place of files.
    ``spelled`` are the tokens of some utterances, by id, in place of the tokeniser's.
    """

    sample_rate: int
    normalisation: str
    tokeniser: Tokeniser | None = None
    augmenter: Augmenter | None = None
    epoch: int = 0
    emission_frames: Callable[[int], int] | None = None
    featurise: Callable[[np.ndarray], np.ndarray] | None = None
    seconds: tuple[float, float] = (0.0, float("inf"))
    recordings: Recordings | None = None
    spelled: Mapping[str, Sequence[int]] | None = None

    def __getitem__(self, cuts: Any) -> Batch:
        loaded: list[LoadedUtterance] = []
        rejected: list[Rejection] = []
        with reading_as_training_does(self.recordings):
            for cut in cuts:
                if isinstance(cut, Joined):
                    loaded += self._load_joined(cut, rejected)
                else:
                    loaded += self._taken(cut, rejected, self.augmenter)
        return collate(loaded, rejected)

    def _taken(self, cut: Any, rejected: list[Rejection], augmenter: Augmenter | None) -> list[LoadedUtterance]:
        """The utterance of ``cut``, or none, and why not among those ``rejected``."""
        try:
            return [self._load(opened(cut), augmenter)]
        except Refused as refusal:
            rejected.append(Rejection(id=cut.id, fault=refusal.fault, reason=refusal.reason))
            return []

    def _load_joined(self, joined: Joined, rejected: list[Rejection]) -> list[LoadedUtterance]:
        """One utterance of all that are joined, as far as they can be used, augmented as a whole."""
        taken = [self._taken(cut, rejected, None) for cut in joined.cuts]
        utterances = [utterance for part in taken for utterance in part]
        if not utterances:
            return []
        empty = np.zeros(0, np.float32)
        parts = [part[0].samples if part else empty for part in taken]
        samples = joined.samples(parts, self.sample_rate)
        if self.augmenter:
            samples = load_samples(
                self.augmenter(in_memory(samples, self.sample_rate, joined.id), self.epoch), self.sample_rate
            )
        text = " ".join(utterance.text for utterance in utterances)
        tokens: Sequence[int] = ()
        if isinstance(self.tokeniser, PhoneTokeniser):
            tokens = self.tokeniser.join([utterance.tokens for utterance in utterances])
        elif self.tokeniser is not None:
            tokens = self.tokeniser.encode(text)
        return [
            LoadedUtterance(
                samples=samples,
                features=self.featurise(samples) if self.featurise else None,
                id=joined.id,
                text=text,
                speaker=utterances[0].speaker,
                tokens=tuple(tokens),
            )
        ]

    def _load(self, cut: Any, augmenter: Augmenter | None) -> LoadedUtterance:
        if fault := (getattr(cut, "custom", None) or {}).get(FAULT):
            raise Refused("unreadable", fault)
        text = text_of(cut, self.normalisation)
        tokens: list[int] = []
        if self.tokeniser is not None:
            if not text:
                raise Refused("empty text", "its text is empty")
            try:
                spelled = (self.spelled or {}).get(cut.id)
                tokens = self.tokeniser.encode(text) if spelled is None else list(spelled)
            except TextError as error:
                raise Refused("outside the alphabet", str(error)) from error
        shortest, longest = self.seconds
        if not shortest <= cut.duration <= longest:
            raise Refused(
                "outside the limits", f"{cut.duration:.2f} s is outside the limits of {shortest:g} to {longest:g} s"
            )
        samples = load_samples(augmenter(cut, self.epoch) if augmenter else cut, self.sample_rate)
        if tokens and self.emission_frames is not None:
            check_length(self.emission_frames(len(samples)), tokens)
        features = self.featurise(samples) if self.featurise else None
        speaker = speaker_of(cut)
        return LoadedUtterance(
            samples=samples, features=features, id=cut.id, text=text, speaker=speaker, tokens=tuple(tokens)
        )


def opened(cut: Any) -> Any:
    """The cut itself, or what one becomes that is listed (``data.listing``). Raises Refused."""
    if not isinstance(cut, Waiting):
        return cut
    try:
        return cut.cut()
    except Exception as error:  # of every type, as in load_samples
        raise Refused("unreadable", _first_line(error)) from error


def text_of(cut: Any, normalisation: str) -> str:
    return normalise(" ".join(s.text for s in cut.supervisions if s.text), normalisation)


def load_samples(cut: Any, sample_rate: int) -> np.ndarray:
    """A cut's audio (S,), mono at ``sample_rate``, resampled as that of a file is. Raises Refused where it cannot be
    read."""
    samples = mixed(load_channels(cut))
    try:
        return audio.prepare(Waveform(samples=samples, sample_rate=cut.sampling_rate), sample_rate).samples
    except AudioError as error:
        raise Refused("unreadable", _first_line(error)) from error


def load_channels(cut: Any) -> np.ndarray:
    """A cut's audio (channels, S). Raises Refused where it cannot be read."""
    if fault := (getattr(cut, "custom", None) or {}).get(FAULT):
        raise Refused("unreadable", fault)
    if not cut.has_recording:
        raise Refused("unreadable", "the cut has no recording")
    try:
        channels: np.ndarray = cut.load_audio()
    except IndexError as error:
        raise Refused("unreadable", "its recording has fewer channels than the cut names") from error
    except Exception as error:
        # A cut is what a stranger wrote, and lhotse raises of every type: this utterance is to blame, and no other.
        raise Refused("unreadable", _first_line(error)) from error
    return channels


def mixed(channels: np.ndarray) -> np.ndarray:
    """(channels, S) mixed to mono, (S,). Raises Refused where nothing is left that can be heard."""
    samples: np.ndarray = channels.mean(axis=0, dtype=np.float32)
    if not np.isfinite(samples).all():
        raise Refused("unreadable", "its audio holds samples that are not numbers")
    if len(channels) > 1 and np.abs(samples).max(initial=0) < CANCELLED * np.abs(channels).max(initial=0):
        raise Refused("unreadable", "its channels cancel each other: mixed to mono they are silence; keep one of them")
    if len(samples) == 0:
        raise Refused("unreadable", "it lies past the end of its recording")
    return samples


def check_length(frames: int, tokens: Sequence[int]) -> None:
    """CTC needs a frame for each label and one more between equal neighbours. Raises Refused."""
    needed = frames_needed(tokens)
    if frames < needed:
        raise Refused(
            "too short for its labels", f"too short for its labels: {frames} emission frames, {needed} needed"
        )


def load_batches(
    cuts: Any,
    dataset: Utterances,
    *,
    max_batch_seconds: float,
    buckets: int = 10,
    workers: int = 0,
    skip: int = 0,
    every: int = 1,
) -> Iterator[Batch]:
    """``cuts`` in batches of about ``max_batch_seconds`` of similar durations, each utterance once.

    ``skip`` leaves out the first batches without reading their audio, and of the rest one in ``every`` is read, the
    first and so on, which is how processes share them out. Raises CorpusError where the cuts are none.
    """
    whole = _bucketed(cuts, max_batch_seconds, buckets)
    return load_ordered(itertools.islice(whole, skip, None, every), dataset, workers=workers)


def load_ordered(
    batches: Iterable[Sequence[Any]], dataset: Utterances, *, workers: int = 0
) -> Generator[Batch, None, None]:
    """``batches`` of cuts, of what becomes cuts (``data.listing``) or of what is joined, loaded by so many ``workers``
    in their order. Closing it ends them. Raises CorpusError where one of those dies."""
    loader = torch.utils.data.DataLoader(
        dataset,
        sampler=batches,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        multiprocessing_context="fork" if workers and dataset.recordings else None,  # memory is shared by forking
        worker_init_fn=_leave_signals_to_the_parent,
        pin_memory=torch.cuda.is_available(),
    )
    loaded = iter(loader)
    while True:
        try:
            batch = next(loaded)
        except StopIteration:
            return
        except RuntimeError as error:
            if "killed by signal" not in str(error) and "exited unexpectedly" not in str(error):
                raise
            raise CorpusError(
                "a loader process died, most likely for want of memory: lower training.workers or "
                "training.max_batch_seconds"
            ) from error
        yield batch


def _bucketed(cuts: Any, max_batch_seconds: float, buckets: int) -> Iterator[Any]:
    from lhotse.dataset import DynamicBucketingSampler, DynamicCutSampler

    some = list(itertools.islice(iter(cuts), buckets * 2))
    if not some:
        raise CorpusError("the corpus holds no utterances")
    options = {"max_duration": max_batch_seconds, "rank": 0, "world_size": 1}
    if len(some) < buckets * 2 or buckets == 1:  # too few to part by duration
        return iter(DynamicCutSampler(cuts, **options))
    return iter(DynamicBucketingSampler(cuts, num_buckets=buckets, **options))


def _leave_signals_to_the_parent(_worker: int) -> None:
    """Ctrl-C and a batch system's SIGTERM reach the whole process group, and the parent still needs its batch: workers
    move to a group of their own, where the parent's own SIGTERM still ends them."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


class Refused(Exception):
    """One utterance cannot be used."""

    def __init__(self, fault: Fault, reason: str) -> None:
        super().__init__(reason)
        self.fault: Fault = fault
        self.reason = reason


def _first_line(error: Exception) -> str:
    """The cause at the root of lhotse's wrapped errors, in one line."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]

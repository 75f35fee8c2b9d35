"""The nouns that cross rooms. Read this file first.

Shape legend, used everywhere: B batch, S samples, T feature frames, T' emission frames (after subsampling), U labels,
V tokens (blank is 0), F feature bins, H hidden units. Lengths are integers in the unit of their axis, never fractions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from torch import Tensor, device

Fault = Literal["unreadable", "empty text", "outside the alphabet", "too short for its labels", "outside the limits"]
"""The kinds of reason for leaving an utterance out of training."""

BLANK = 0
"""The CTC blank's token id, in every tokeniser and every emission."""
SURELY_NOT = -20.0
"""The log probability, in nats, of a token where nobody speaks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waveform:
    """One channel of audio: ``samples`` (S,) float32 in [-1, 1] at ``sample_rate`` Hz."""

    samples: np.ndarray
    sample_rate: int

    @property
    def duration(self) -> float:
        """Seconds."""
        return len(self.samples) / self.sample_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """An utterance that was left out of a batch: ``fault`` is its kind, ``reason`` says it in full."""

    id: str
    fault: Fault
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """``values`` (B, T, F), log-mel energies or MFCCs; ``lengths`` (B,) in frames."""

    values: Tensor
    lengths: Tensor

    def to(self, device: device) -> Features:
        return Features(values=self.values.to(device), lengths=self.lengths.to(device))


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Utterances padded with zeros to the longest, as the loader hands them to the model.

    ``waveforms`` (B, S), ``waveform_lengths`` (B,) in samples, ``tokens`` (B, U), ``token_lengths`` (B,). ``features``
    is filled only where the recipe asks for the librosa backend, which runs in the loader. ``rejected`` names the
    utterances that should have been here.
    """

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    speakers: tuple[str, ...]
    waveforms: Tensor
    waveform_lengths: Tensor
    tokens: Tensor
    token_lengths: Tensor
    features: Features | None = None
    rejected: tuple[Rejection, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labels(self) -> int:
        """The tokens to be spelled, padding not counted."""
        return int(self.token_lengths.sum())

    def pin_memory(self) -> Batch:
        """As PyTorch's DataLoader asks for: in memory from which a GPU copies while the CPU goes on."""
        names = ("waveforms", "waveform_lengths", "tokens", "token_lengths")
        return replace(self, **{name: getattr(self, name).pin_memory() for name in names})


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceBatch:
    """Written sentences padded with zeros to the longest, as a language model learns from them: ``tokens`` (B, U),
    ``token_lengths`` (B,). ``rejected`` names the sentences that should have been here."""

    ids: tuple[str, ...]
    tokens: Tensor
    token_lengths: Tensor
    rejected: tuple[Rejection, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labels(self) -> int:
        """The tokens to be predicted: each sentence's own and its end."""
        return int(self.token_lengths.sum()) + len(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Emissions:
    """``log_probs`` (B, T', V), natural log, float32; ``lengths`` (B,) int64, in frames; ``frame_shift`` in seconds."""

    log_probs: np.ndarray
    lengths: np.ndarray
    frame_shift: float


def blanks(frames: int, tokens: int) -> np.ndarray:
    """Emissions (frames, tokens) of silence."""
    import numpy as np  # not above: ``import asr`` imports nothing heavy

    silence = np.full((frames, tokens), SURELY_NOT, np.float32)
    silence[:, BLANK] = 0.0
    return silence


class Network(Protocol):
    """What a recogniser reads with, whatever computes it. ``sample_rate`` in Hz, ``frame_shift`` in seconds: S samples
    become S // (sample_rate * frame_shift) + 1 emission frames."""

    sample_rate: int
    frame_shift: float

    def emit(self, waveforms: Sequence[np.ndarray]) -> Emissions:
        """The emissions of utterances (S,) of any lengths, float32 at ``sample_rate``. Each is what it is alone."""
        ...


class EmissionStream(Protocol):
    """One stream's way through a network. ``latency`` is what it hears ahead, in seconds, at the most."""

    latency: float

    def feed(self, samples: np.ndarray, *, last: bool = False) -> np.ndarray:
        """The log probabilities (T', V) that samples (S,) more complete; after the ``last``, all that are left."""
        ...


class Streaming(Protocol):
    """A network that reads live."""

    sample_rate: int
    frame_shift: float

    def stream(self, *, chunk: float, context: float) -> EmissionStream:
        """A stream read ``chunk`` seconds at a time and, where the network looks ahead, ``context`` beyond them."""
        ...

    @property
    def batches_streams(self) -> bool:
        """Whether it reads many streams' chunks in less time together than one by one."""
        ...

    def feed_together(
        self, streams: Sequence[Any], samples: Sequence[np.ndarray], *, last: Sequence[bool]
    ) -> list[np.ndarray | Exception]:
        """What each of its own streams' ``feed`` gives, or raises."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Hypothesis:
    """One reading of one utterance.

    ``frames[i]`` is the emission frame of ``tokens[i]`` and ``probabilities[i]`` its posterior there. Scores are
    natural logs. Where words do not follow from the tokens (phones), ``spans[i]`` says from which token to which the
    text's word ``i`` is pronounced. ``length`` are the frames read, None where they are not known. ``remark`` says why
    a text is empty where something was said.
    """

    tokens: tuple[int, ...]
    frames: tuple[int, ...]
    probabilities: tuple[float, ...]
    text: str
    acoustic_score: float
    lm_score: float = 0.0
    spans: tuple[tuple[int, int], ...] | None = None
    length: int | None = None
    remark: str = ""

    @property
    def score(self) -> float:
        return self.acoustic_score + self.lm_score


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """A word with its ``start`` and ``end`` in seconds and a ``confidence`` in [0, 1]."""

    text: str
    start: float
    end: float
    confidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A stretch of speech: its words, ``start`` and ``end`` in seconds, and the ``channel`` that it was heard in,
    counted from 1, or None where channels were mixed. ``remark`` says what was not taken for words, and why."""

    text: str
    start: float
    end: float
    words: tuple[Word, ...]
    channel: int | None = None
    remark: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """A recording's segments in order; ``duration`` is the recording's, in seconds."""

    segments: tuple[Segment, ...]
    duration: float

    @property
    def text(self) -> str:
        return " ".join(segment.text for segment in self.segments if segment.text)

    @property
    def words(self) -> tuple[Word, ...]:
        return tuple(word for segment in self.segments for word in segment.words)

    def to_text(self) -> str:
        """A line a stretch of speech."""
        from asr.transcribe.formats import as_text

        return as_text(self)

    def to_json(self, file: str = "") -> str:
        """One JSON object on one line, as ``asr transcribe --format json`` prints it of the recording ``file``."""
        from asr.transcribe.formats import as_json

        return as_json(self, file)

    def to_srt(self) -> str:
        """SubRip subtitles."""
        from asr.transcribe.formats import as_srt

        return as_srt(self)

    def to_vtt(self) -> str:
        """WebVTT subtitles."""
        from asr.transcribe.formats import as_vtt

        return as_vtt(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What a stream's newest samples told: words that became ``final``, each once and in order; the words since as they
    read now, ``partial``, in place of the last ones; and the ``segments`` that ended, whose words are all final."""

    final: tuple[Word, ...] = ()
    partial: tuple[Word, ...] = ()
    segments: tuple[Segment, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignedWord:
    """A word of a given text, as it is written there, and where it is said.

    ``start`` and ``end`` in seconds are None where the recording does not hold it. ``confidence`` in [0, 1] is the
    geometric mean of its tokens' posteriors, 0 where it was not found. ``characters`` are its tokens, timed alike.
    """

    text: str
    start: float | None
    end: float | None
    confidence: float
    characters: tuple[Word, ...] = ()

    @property
    def found(self) -> bool:
        return self.start is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignedText:
    """A given text over a recording, line by line; ``duration`` is the recording's, in seconds."""

    lines: tuple[tuple[AlignedWord, ...], ...]
    duration: float

    @property
    def words(self) -> tuple[AlignedWord, ...]:
        return tuple(word for line in self.lines for word in line)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What a training came to: the model ``directory``; the ``best_epoch`` of so many ``epochs``, counted from 1, with
    its ``dev`` figures (``loss`` in nats a label, and ``wer`` and ``cer`` or else ``per``, of 1); the ``minutes`` that
    it took; and ``remarks`` on what may be wrong with the corpus."""

    directory: Path
    epochs: int
    best_epoch: int
    dev: Mapping[str, float]
    minutes: float
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorCounts:
    """Edit operations between references and hypotheses. Add them up, then ask for the rate: pooled, never averaged."""

    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    def __add__(self, other: ErrorCounts) -> ErrorCounts:
        return ErrorCounts(
            hits=self.hits + other.hits,
            substitutions=self.substitutions + other.substitutions,
            deletions=self.deletions + other.deletions,
            insertions=self.insertions + other.insertions,
        )

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def reference_length(self) -> int:
        """Words (or characters) in the references."""
        return self.hits + self.substitutions + self.deletions

    @property
    def rate(self) -> float:
        """Errors per reference unit, as a fraction; can pass 1. With an empty reference: 0 if nothing was inserted,
        else infinity."""
        if self.reference_length == 0:
            return float("inf") if self.insertions else 0.0
        return self.errors / self.reference_length

    @property
    def match_error_rate(self) -> float:
        """Errors per aligned unit, from 0 to 1; 0 where nothing was said and nothing recognised."""
        return self.errors / max(self.errors + self.hits, 1)

    @property
    def information_lost(self) -> float:
        """1 - (hits / reference units) (hits / hypothesis units), from 0 to 1: WIL where the units are words.

        Morris, Maier, Green (2004), From WER and RIL to MER and WIL. 0 where nothing was said and nothing recognised.
        """
        if self.errors == 0:
            return 0.0
        said, recognised = self.reference_length, self.hits + self.substitutions + self.insertions
        return 1.0 - (self.hits / said) * (self.hits / recognised) if said and recognised else 1.0

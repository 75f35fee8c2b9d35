"""Evaluation: transcription plus score, corpus-level and per utterance."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asr import files
from asr.data.corpora import AnySource, name_of, open_corpora
from asr.decode.calibration import Reliability, reliability
from asr.decode.words import words_of
from asr.errors import CorpusError
from asr.records import ErrorCounts, Rejection
from asr.score.edits import word_hits
from asr.score.forms import Line
from asr.score.system import System, aligned
from asr.text.tokenise import PhoneTokeniser
from asr.transcribe.corpus import plain_batches
from asr.transcribe.phones import phone_errors
from asr.transcribe.recogniser import Recogniser, recognise


@dataclass(frozen=True, slots=True, kw_only=True)
class SetScore:
    """The recogniser's score on a set, and what could not be read of it; ``audio`` and ``processing`` are seconds.
    ``phones`` are a model of phones' errors in these."""

    system: System
    unreadable: tuple[Rejection, ...]
    audio: float
    processing: float
    phones: ErrorCounts | None = None

    @property
    def name(self) -> str:
        return self.system.name


def evaluate(
    recogniser: Recogniser,
    sources: Iterable[AnySource],
    *,
    root: Path,
    advance: Callable[[float], None] = lambda _seconds: None,
) -> list[SetScore]:
    """Scores the recogniser's transcripts of each source.

    ``advance`` hears of each batch's seconds of audio. Raises CorpusError for a source that is missing or empty.
    """
    return [_evaluate_set(recogniser, source, root, advance) for source in sources]


def _evaluate_set(recogniser: Recogniser, source: AnySource, root: Path, advance: Callable[[float], None]) -> SetScore:
    settings = recogniser.recipe
    lines: list[Line] = []
    hypotheses: list[str] = []
    confidences: list[tuple[float, ...]] = []
    unreadable: list[Rejection] = []
    tokeniser = recogniser.tokeniser
    phones = ErrorCounts() if isinstance(tokeniser, PhoneTokeniser) else None
    audio = processing = 0.0
    started = time.perf_counter()
    batches = plain_batches(settings, open_corpora((source,), root).whole())
    for batch, emissions, found in recognise(recogniser.network, recogniser.decoder, batches):
        processing += time.perf_counter() - started
        unreadable += batch.rejected
        durations = (batch.waveform_lengths / settings.features.sample_rate).tolist()
        facts = zip(batch.ids, batch.texts, batch.speakers, durations, strict=True)
        lines += [Line(id=id, text=text, speaker=who, duration=seconds) for id, text, who, seconds in facts]
        for best, *_ in found:
            hypotheses.append(best.text)
            calibration = recogniser.decoder.calibration
            words = words_of(best, recogniser.tokeniser, emissions.frame_shift, calibration=calibration)
            confidences.append(tuple(word.confidence for word in words))
        if phones is not None and isinstance(tokeniser, PhoneTokeniser):
            phones += phone_errors(batch.texts, [best for best, *_ in found], tokeniser)
        audio += sum(durations)
        advance(sum(durations))
        started = time.perf_counter()
    name = name_of(source)
    if not lines:
        raise CorpusError(f"{name}: no utterance could be read; the first: {unreadable[0].id}: {unreadable[0].reason}")
    return SetScore(
        system=aligned(name, lines, hypotheses, confidences),
        unreadable=tuple(unreadable),
        audio=audio,
        processing=processing,
        phones=phones,
    )


def reliability_of(scores: Sequence[SetScore]) -> Reliability:
    """How far the confidences of all the hypotheses' words can be believed."""
    utterances = [utterance for score in scores for utterance in score.system.utterances]
    confidences = [confidence for u in utterances for confidence in u.confidences]
    hits = [hit for u in utterances for hit in word_hits(u.alignment)]
    return reliability(np.array(confidences, dtype=float), np.array(hits, dtype=bool))


def write_scores(path: Path, scores: Sequence[SetScore]) -> None:
    """``{"sets": {NAME: {"wer", "cer", "words", "utterances", "hits", "substitutions", "deletions", "insertions",
    "wer_interval", "unreadable"}}, "rtf"}``, rates as fractions; of a model of phones, "per" too."""
    sets: dict[str, Any] = {}
    for score in scores:
        words, interval = score.system.words, score.system.interval()
        sets[score.name] = {
            "wer": words.rate,
            "cer": score.system.characters.rate,
            "words": words.reference_length,
            "utterances": len(score.system.utterances),
            "hits": words.hits,
            "substitutions": words.substitutions,
            "deletions": words.deletions,
            "insertions": words.insertions,
            "wer_interval": [interval.low, interval.high] if interval else None,
            "unreadable": [rejection.id for rejection in score.unreadable],
        }
        if score.phones is not None:
            sets[score.name]["per"] = score.phones.rate
    with files.replacing(path) as file:
        json.dump({"sets": sets, "rtf": real_time_factor(scores)}, file, indent=1, ensure_ascii=False)
        file.write("\n")


def write_hypotheses(path: Path, scores: Sequence[SetScore]) -> None:
    """JSON lines of ``{"id", "ref", "hyp"}``."""
    with files.replacing(path) as file:
        for score in scores:
            for u in score.system.utterances:
                line = {"id": u.line.id, "ref": u.line.text, "hyp": u.hypothesis}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


def doubtful(score: SetScore, *, above: float) -> list[str]:
    """Ids of the utterances whose character error rate is higher than ``above``: something else may be said in them
    than their text."""
    return [u.line.id for u in score.system.utterances if u.counts("character").rate > above]


def real_time_factor(scores: Sequence[SetScore]) -> float:
    """Seconds of processing (reading, features, model, decoding) a second of audio."""
    return sum(score.processing for score in scores) / max(sum(score.audio for score in scores), 1e-9)

"""How our network read an utterance, as a picture: its words over the spectrogram, the posteriors under it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from asr import recipe
from asr.data.corpora import open_corpora
from asr.decode.greedy import words_of
from asr.model.features import FeatureExtractor
from asr.records import BLANK, Waveform, Word
from asr.report.clips import SOUND_SECONDS, Clip, as_sound, worth_hearing
from asr.report.figures import as_svg, new_figure
from asr.scores import ScoredLine, System
from asr.text.score import Alignment, align_words
from asr.transcribe.loading import plain_batches
from asr.transcribe.recogniser import Recogniser, recognise

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DRAWN_WORST, DRAWN_RIGHT = 12, 3
"""Utterances of a set that are drawn: those with the most errors, and for comparison the longest without any."""
SEEN = 0.1
"""A token is drawn whose posterior passes this somewhere in the utterance."""

_INCHES_PER_SECOND, _NARROWEST, _WIDEST = 0.9, 11.0, 30.0
_WORD_COLOURS = {"hit": "#000000", "substitution": "#9a5b00", "insertion": "#1a6b45"}
_LETTER = 0.08
"""The width of a letter of a word, in inches, or a little more."""
_MOST_LINES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """``posteriors`` (T', V) of the ``tokens``, a row each ``frame_shift`` seconds; the ``words`` that came of them and
    their alignment with what was said."""

    waveform: Waveform
    posteriors: np.ndarray
    frame_shift: float
    tokens: Sequence[str]
    words: Sequence[Word]
    alignment: Alignment


def clips_of(
    recogniser: Recogniser, source: recipe.Corpus, root: Path, system: System, seconds: float = SOUND_SECONDS
) -> dict[str, Clip]:
    """Clips by utterance id, of which the worst and some right ones have pictures.

    They are read and recognised once more: evaluation keeps no audio. In other batches than then, rounding may settle a
    close call otherwise, so a picture goes by what is recognised now.
    """
    drawn = {u.line.id: u for u in worth_drawing(system)}
    wanted = worth_hearing(system, drawn.values(), seconds) | drawn.keys()
    if not wanted:
        return {}
    settings, tokeniser = recogniser.recipe, recogniser.tokeniser
    cuts = open_corpora((source,), root).only(wanted)
    clips = {}
    for batch, emissions, found in recognise(recogniser.model, recogniser.decoder, plain_batches(settings, cuts)):
        for i, (id, (best, *_)) in enumerate(zip(batch.ids, found, strict=True)):
            waveform = Waveform(
                samples=batch.waveforms[i, : batch.waveform_lengths[i]].numpy(),
                sample_rate=settings.features.sample_rate,
            )
            picture = ""
            if id in drawn:
                [alignment] = align_words([drawn[id].line.text], [best.text])
                reading = Reading(
                    waveform=waveform,
                    posteriors=emissions.log_probs[i, : emissions.lengths[i]].exp().numpy(),
                    frame_shift=emissions.frame_shift,
                    tokens=tokeniser.tokens,
                    words=words_of(best, tokeniser, emissions.frame_shift),
                    alignment=alignment,
                )
                picture = as_svg(draw(reading), f"{system.name} {id}")
            clips[id] = Clip(sound=as_sound(waveform), picture=picture)
    return clips


def worth_drawing(system: System) -> list[ScoredLine]:
    right = [u for u in system.utterances if not u.words.errors]
    longest = sorted(right, key=lambda u: (-u.words.hits, u.line.id))
    return [*system.worst()[:DRAWN_WORST], *longest[:DRAWN_RIGHT]]


def draw(reading: Reading) -> Figure:
    """The recognised words over the spectrogram (80 mel bands, logarithmic), and under it the posteriors of the blank
    and of every token that was ever likely, on one axis of time."""
    duration = reading.waveform.duration
    spectrogram = _log_mel(reading.waveform)
    likely = [i for i, peak in enumerate(reading.posteriors.max(axis=0, initial=0.0)) if i != BLANK and peak > SEEN]
    width = min(max(_NARROWEST, duration * _INCHES_PER_SECOND), _WIDEST)
    heights = [1.9, max(0.9, 0.12 * (1 + len(likely)))]
    figure, (above, below) = new_figure(width, sum(heights) + 0.7, 2, height_ratios=heights, sharex=True)

    quiet = float(np.quantile(spectrogram, 0.2))  # what is below lets the page through
    _paint(above, spectrogram, duration, "#6f8090", quiet, max(float(spectrogram.max()), quiet + 1.0))
    lines = _write_words(above, reading, top=spectrogram.shape[1], seconds_per_inch=duration / width)
    above.set(ylim=(0, (1.04 + 0.14 * lines) * spectrogram.shape[1]), yticks=[])
    above.spines["left"].set_visible(False)
    above.tick_params(bottom=False)

    rows = [BLANK, *likely]
    _paint(below, reading.posteriors[:, rows], len(reading.posteriors) * reading.frame_shift, "#2f7fd0", 0.0, 1.0)
    names = ["blank", *(reading.tokens[i].replace(" ", "space") for i in likely)]
    below.set_yticks(np.arange(len(rows)) + 0.5, names, fontsize=7)
    below.tick_params(axis="y", length=0)
    below.set(xlabel="seconds", xlim=(0, duration))
    return figure


def _log_mel(waveform: Waveform) -> np.ndarray:
    """(T, 80), whatever the model's own features are."""
    samples = torch.from_numpy(waveform.samples)[None]
    extractor = FeatureExtractor(recipe.LogMel(sample_rate=waveform.sample_rate))
    values: np.ndarray = extractor.extract(samples, torch.tensor([samples.shape[1]])).values[0].numpy()
    return values


def _paint(axes: Any, values: np.ndarray, seconds: float, colour: str, low: float, high: float) -> None:
    """Values (T, rows) over the seconds, from clear to the colour, so that they can be seen on a light page and on a
    dark one."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgb

    axes.imshow(
        values.T,
        extent=(0.0, seconds, 0.0, float(values.shape[1])),
        cmap=LinearSegmentedColormap.from_list("clear", [(*to_rgb(colour), 0.0), (*to_rgb(colour), 1.0)]),
        vmin=low,
        vmax=high,
        origin="lower",
        aspect="auto",
        interpolation="none",
    )


def _write_words(axes: Any, reading: Reading, *, top: float, seconds_per_inch: float) -> int:
    """Each word above the time that it takes, on the lowest of the lines that has room. How many lines it took."""
    kinds = [edit.kind for edit in reading.alignment if edit.hypothesis]
    letter = _LETTER * seconds_per_inch
    free = [-math.inf]  # from when on a line has room
    for word, kind in zip(reading.words, kinds, strict=True):
        middle = (word.start + word.end) / 2
        begin, end = middle - len(word.text) * letter / 2, middle + (len(word.text) / 2 + 1) * letter
        if min(free) > begin and len(free) < _MOST_LINES:
            free.append(-math.inf)
        line = next((i for i, since in enumerate(free) if since <= begin), free.index(min(free)))
        free[line] = end
        colour, weight = _WORD_COLOURS[kind], "normal" if kind == "hit" else "bold"
        height = top * (1.05 + 0.14 * line)
        axes.text(middle, height, word.text, ha="center", fontsize=8, color=colour, weight=weight)
        axes.hlines(1.015 * top, word.start, word.end, color=colour, linewidth=1.2)
    return len(free)

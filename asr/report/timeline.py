"""Pictures of one utterance: rows over time, one above the other, under the words that were recognised.

Colours are laid on with more or less opacity, over whatever the page has behind them, light or dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from asr import recipe
from asr.model.features import FeatureExtractor
from asr.records import BLANK, Waveform, Word

if TYPE_CHECKING:
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

COLOURS = ("#2b7bd3", "#d9692a", "#2f9e62")
"""Blue, orange, green: seen on white and on black."""
SHORTEST_INCHES, INCHES_A_SECOND = 9.0, 1.1
_LEFT, _RIGHT, _TOP, _BOTTOM, _GAP = 0.95, 0.15, 0.05, 0.45, 0.09
_LINE = 0.17
"""Inches: a line of words."""
_LEVELS = 25
"""Of opacity: more are hardly seen. Odd, so that nothing is laid on at zero."""
_MOST_TOKENS = 40
_SEEN = 0.05
"""A token whose posterior stays below this has no row."""


class Timeline:
    """A figure of ``seconds``, with the ``words`` on top and a row for each of ``heights``, in inches.

    Its width grows with the time, and its margins do not: figures of one utterance lie in step. Words are black, or of
    the ``colours`` given, one each.
    """

    def __init__(
        self, seconds: float, words: Sequence[Word], heights: Sequence[float], colours: Sequence[str] = ()
    ) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import MultipleLocator

        width = max(SHORTEST_INCHES, INCHES_A_SECOND * seconds)
        inches = (width - _LEFT - _RIGHT) / seconds
        lines = _lines(words, inches)
        above = _LINE * (1 + max(lines, default=0)) + 0.08
        height = _TOP + above + sum(heights) + _GAP * len(heights) + _BOTTOM
        self.figure: Figure = Figure(figsize=(width, height), dpi=100)
        FigureCanvasAgg(self.figure)
        self.rows: list[Any] = []
        top = height - _TOP - above - _GAP
        for row in heights:
            place = (_LEFT / width, (top - row) / height, (width - _LEFT - _RIGHT) / width, row / height)
            axes = self.figure.add_axes(place)
            axes.set_xlim(0, seconds)
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(labelbottom=False)
            axes.xaxis.set_major_locator(MultipleLocator(1.0 if seconds > 8 else 0.5 if seconds > 0.5 else 0.1))
            for word in words:
                axes.axvline(word.start, color="#000000", linewidth=0.5, alpha=0.35)
            self.rows.append(axes)
            top -= row + _GAP
        self.rows[-1].tick_params(labelbottom=True)
        self.rows[-1].set_xlabel("seconds")
        for word, line, colour in zip(words, lines, colours or ["#000000"] * len(words), strict=True):
            self.rows[0].annotate(
                word.text,
                (word.start, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(1, 4 + 72 * _LINE * line),
                textcoords="offset points",
                fontsize=9,
                color=colour,
                annotation_clip=False,
                parse_math=False,
            )

    def draw(self, row: int, values: np.ndarray, label: str, *, shift: float, limit: float | None = None) -> Any:
        """``values`` (T, H), one every ``shift`` seconds, the first of H on top. From 0 to 1; or, with a ``limit``,
        orange for what is below zero and blue for what is above. Returns the row's axes."""
        axes = self.rows[row]
        axes.imshow(
            values.T,
            extent=(0, len(values) * shift, values.shape[1], 0),
            aspect="auto",
            interpolation_stage="data",  # resampled first, coloured then: few colours, a quarter of the size
            cmap=_single(COLOURS[0]) if limit is None else _double(COLOURS[1], COLOURS[0]),
            vmin=0.0 if limit is None else -limit,
            vmax=1.0 if limit is None else limit,
        )
        axes.set_ylabel(label)
        axes.set_yticks([])
        return axes


def speech_figure(
    waveform: Waveform,
    *,
    posteriors: np.ndarray,
    tokens: Sequence[str],
    frame_shift: float,
    words: Sequence[Word],
    colours: Sequence[str] = (),
) -> Figure:
    """An utterance's log-mel energies and under them what the network says of it: ``posteriors`` (T', V) of ``tokens``,
    a frame each ``frame_shift`` seconds."""
    shown = _likely(posteriors)
    heights = (1.9, max(0.8, 0.155 * len(shown)))
    timeline = Timeline(len(posteriors) * frame_shift, words, heights, colours)
    settings = recipe.LogMel(sample_rate=waveform.sample_rate)  # whatever the model reads
    spectrogram, frequencies = log_mel(waveform, settings)
    quiet, loud = np.percentile(spectrogram, [20, 99.8])
    levels = (spectrogram - quiet) / max(loud - quiet, 1e-6)
    axes = timeline.draw(0, levels.clip(0, 1)[:, ::-1], "kHz", shift=settings.shift)
    ticks = [hertz for hertz in (250, 500, 1000, 2000, 4000, 8000) if frequencies[0] <= hertz <= frequencies[-1]]
    places = np.interp(ticks, frequencies, np.arange(len(frequencies)))
    axes.set_yticks(len(frequencies) - 0.5 - places, [f"{hertz / 1000:g}" for hertz in ticks])
    axes = timeline.draw(1, posteriors[:, shown], "posterior", shift=frame_shift)
    names = ["blank" if token == BLANK else _name(tokens[token]) for token in shown]
    axes.set_yticks(np.arange(len(shown)) + 0.5, names, fontsize=8, parse_math=False)
    return timeline.figure


def log_mel(waveform: Waveform, settings: recipe.LogMel) -> tuple[np.ndarray, np.ndarray]:
    """Energies (T, F) in natural log, and the frequencies (F,) of their bins in Hz."""
    extractor = FeatureExtractor(settings)
    samples = torch.from_numpy(waveform.samples)
    energies = extractor.shape(extractor.extract(samples[None], torch.tensor([len(samples)])))
    frequencies = extractor.filters.argmax(dim=0) * waveform.sample_rate / extractor.fft
    return energies[0].numpy(), frequencies.numpy()


def _likely(posteriors: np.ndarray) -> list[int]:
    """Tokens that are likely somewhere, in the tokeniser's order, the blank first; of too many, the likeliest."""
    peaks = posteriors.max(axis=0, initial=0.0)
    peaks[BLANK] = 1.0
    likeliest = np.argsort(-peaks)[:_MOST_TOKENS]
    return sorted(int(token) for token in likeliest if peaks[token] >= _SEEN)


def _name(token: str) -> str:
    return "space" if token == " " else token


def _lines(words: Sequence[Word], inches: float) -> list[int]:
    """The line, from 0, that each word is written in, so that none runs into the next; ``inches`` are a second's."""
    free: list[float] = []
    chosen = []
    for word in words:
        start = word.start * inches
        line = next((i for i, end in enumerate(free) if end <= start), len(free))
        free[line : line + 1] = [start + 0.08 * len(word.text) + 0.1]
        chosen.append(line)
    return chosen


def _single(colour: str) -> Colormap:
    from matplotlib.colors import LinearSegmentedColormap, to_rgb

    return LinearSegmentedColormap.from_list("single", [(*to_rgb(colour), 0.0), (*to_rgb(colour), 1.0)], N=_LEVELS)


def _double(below: str, above: str) -> Colormap:
    from matplotlib.colors import LinearSegmentedColormap, to_rgb

    stops = [(*to_rgb(below), 1.0), (*to_rgb(below), 0.0), (*to_rgb(above), 0.0), (*to_rgb(above), 1.0)]
    return LinearSegmentedColormap.from_list("double", list(zip([0.0, 0.5, 0.5, 1.0], stops, strict=True)), N=_LEVELS)

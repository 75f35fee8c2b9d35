"""A given text laid over emissions: from written words to tokens, and from tokens' frames back to words with times.

A CTC network names a token in a frame or two and is silent for the rest of it, early or late as its training settled.
The constants here turn that into spans. They are a compromise between two models measured against pocketsphinx's
aligner: one of AN4 at 20 ms a frame, whose words' first tokens come 90 ms late in the median, and a half-trained one of
mini LibriSpeech at 40 ms, where they come 40 ms early after a pause.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from asr.audio.loudness import Loudness
from asr.decode.align import Alignment, Slack, align
from asr.decode.words import end_of, start_of
from asr.errors import TextError
from asr.records import AlignedText, AlignedWord, Emissions, Word
from asr.text.normalise import normalise
from asr.text.tokenise import Tokeniser, frames_needed

LAG = 0.03
"""Seconds from the beginning of a sound to that of its token's frames. The separator before a word is closer to the
word's beginning than its own first token: it is preferred where there is one."""
SEPARATOR_REACH = 0.12
"""Seconds by which a separator may come before its word's first token and still mark the word's beginning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spelling:
    """A text in tokens. ``lines`` are its written words; ``spans`` says for each of them, in order, from which token
    to which it is spelled, or None where the alphabet lacks a character of it. ``separator`` is the token between two
    words, where the tokeniser has one."""

    lines: tuple[tuple[str, ...], ...]
    tokens: tuple[int, ...]
    spans: tuple[tuple[int, int] | None, ...]
    separator: int | None


def spell(text: str, tokeniser: Tokeniser, normalisation: str, *, skip_unknown: bool = False) -> Spelling:
    """``text`` as the tokeniser spells it, word by word. A word keeps the look it has in the text; what normalisation
    leaves nothing of (a dash) is no word.

    Raises TextError for a text without words and, unless ``skip_unknown``, for words that the alphabet cannot spell.
    """
    separator = tokeniser.tokens.index(tokeniser.space) if tokeniser.space in tokeniser.tokens else None
    lines: list[tuple[str, ...]] = []
    tokens: list[int] = []
    spans: list[tuple[int, int] | None] = []
    unknown: dict[str, str] = {}
    for line in text.splitlines():
        words = [(word, normal) for word in line.split() if (normal := normalise(word, normalisation))]
        for word, normal in words:
            try:
                spelled = tokeniser.encode(normal)
            except TextError as error:
                unknown[word] = str(error)
                spans.append(None)
                continue
            if tokens and separator is not None and not tokeniser.tokens[spelled[0]].startswith(tokeniser.space):
                tokens.append(separator)
            spans.append((len(tokens), len(tokens) + len(spelled)))
            tokens += spelled
        if words:
            lines.append(tuple(word for word, _ in words))
    if not spans:
        raise TextError("the text to align holds no words")
    if unknown and not skip_unknown:
        some = ", ".join(f'"{word}" ({reason})' for word, reason in itertools.islice(unknown.items(), 5))
        more = f" and {len(unknown) - 5} others" if len(unknown) > 5 else ""
        raise TextError(f"the model cannot spell {some}{more}: write them otherwise, or leave them out: --skip-unknown")
    return Spelling(lines=tuple(lines), tokens=tuple(tokens), spans=tuple(spans), separator=separator)


def align_text(
    emissions: Emissions,
    spelling: Spelling,
    tokeniser: Tokeniser,
    *,
    duration: float,
    loudness: Loudness | None = None,
    slack: Slack | None = None,
) -> AlignedText:
    """Where a text's words lie in a recording of ``duration`` seconds, from its emissions (a batch of one), and from
    its ``loudness`` where their sounds end.

    Raises TextError where the recording has no room for the text.
    """
    log_probs, shift = emissions.log_probs[0], emissions.frame_shift
    needed = frames_needed(spelling.tokens)
    if needed > len(log_probs):
        raise TextError(
            f"the text takes {needed * shift:.1f} s at the very least ({needed} emission frames of {shift * 1000:.0f} "
            f"ms), and the recording lasts {duration:.1f} s: is it the right text?"
        )
    spelled = [span for span in spelling.spans if span is not None]
    starts = [0, *(end for _, end in spelled[:-1])] if spelled else []  # a separator goes with the word after it
    found = align(log_probs, spelling.tokens, words=starts, separator=spelling.separator, slack=slack or Slack())
    written = [word for line in spelling.lines for word in line]
    spoken = np.maximum.accumulate([0, *(found.last + 1)]).tolist()  # frames up to the end of the token before each
    words: list[AlignedWord] = []
    limit = duration  # where the word after begins
    for text, span in reversed(list(zip(written, spelling.spans, strict=True))):
        if span is None or found.first[span[0]] < 0:
            words.append(AlignedWord(text=text, start=None, end=None, confidence=0.0))
            continue
        begins = [_onset(frame, shift) for frame in found.first[slice(*span)]]
        first, over = float(found.first[span[0]]) * shift, float(found.last[span[1] - 1] + 1) * shift
        after = spoken[span[0]] * shift
        begin = start_of(first, over, after, loudness, otherwise=_word_onset(found, span, spelling, shift))
        begins[0] = min([begin, *begins[1:2]])
        end = end_of(begins[0], over, limit, loudness)
        words.append(_timed(text, span, begins, end, spelling, tokeniser, found))
        limit = begins[0]
    aligned = iter(reversed(words))
    return AlignedText(
        lines=tuple(tuple(next(aligned) for _ in line) for line in spelling.lines), duration=round(duration, 3)
    )


def _word_onset(found: Alignment, span: tuple[int, int], spelling: Spelling, shift: float) -> float:
    """When a word begins, in seconds: with the separator before it, where the audio holds one near by."""
    first, before = span[0], span[0] - 1
    own = _onset(found.first[first], shift)
    if before < 0 or spelling.tokens[before] != spelling.separator or found.first[before] < 0:
        return own
    return max(_onset(found.first[before], shift), own - SEPARATOR_REACH)


def _onset(frame: int, shift: float) -> float:
    """When the sound of a token begins, in seconds; later ones begin later, and none before the recording."""
    seconds = float(frame) * shift
    return seconds - min(LAG, seconds / 2)


def _timed(
    text: str,
    span: tuple[int, int],
    begins: list[float],
    end: float,
    spelling: Spelling,
    tokeniser: Tokeniser,
    found: Alignment,
) -> AlignedWord:
    """A word whose tokens begin at ``begins`` and of which the last ends at ``end``, in seconds."""
    probabilities = [min(1.0, max(1e-30, float(p))) for p in found.probabilities[slice(*span)]]
    characters = tuple(
        Word(text=piece, start=round(begin, 3), end=round(until, 3), confidence=round(probability, 4))
        for token, begin, until, probability in zip(
            spelling.tokens[slice(*span)], begins, [*begins[1:], end], probabilities, strict=True
        )
        if (piece := tokeniser.tokens[token].replace(tokeniser.space, ""))
    )
    return AlignedWord(
        text=text,
        start=round(begins[0], 3),
        end=round(end, 3),
        confidence=round(math.exp(sum(map(math.log, probabilities)) / len(probabilities)), 4),
        characters=characters,
    )

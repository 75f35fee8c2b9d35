"""How our network read an utterance, as a picture: its words over the spectrogram, the posteriors under it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from asr.data.corpora import AnySource, open_corpora
from asr.decode.words import words_of
from asr.records import Waveform
from asr.report.clips import SOUND_SECONDS, Clip, as_sound, worth_hearing
from asr.report.figures import HIT, INSERTION, SUBSTITUTION, as_svg
from asr.report.timeline import speech_figure
from asr.score.edits import align_words
from asr.score.system import ScoredLine, System
from asr.transcribe.corpus import plain_batches
from asr.transcribe.recogniser import Recogniser, recognise

DRAWN_WORST, DRAWN_RIGHT = 12, 3
"""Utterances of a set that are drawn: those with the most errors, and for comparison the longest without any."""

_COLOURS = {"hit": HIT, "substitution": SUBSTITUTION, "insertion": INSERTION}


def clips_of(
    recogniser: Recogniser, source: AnySource, root: Path, system: System, seconds: float = SOUND_SECONDS
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
    for batch, emissions, found in recognise(recogniser.network, recogniser.decoder, plain_batches(settings, cuts)):
        for i, (id, (best, *_)) in enumerate(zip(batch.ids, found, strict=True)):
            waveform = Waveform(
                samples=batch.waveforms[i, : batch.waveform_lengths[i]].numpy(),
                sample_rate=settings.features.sample_rate,
            )
            picture = ""
            if id in drawn:
                [alignment] = align_words([drawn[id].line.text], [best.text])
                figure = speech_figure(
                    waveform,
                    posteriors=np.exp(emissions.log_probs[i, : emissions.lengths[i]]),
                    tokens=tokeniser.tokens,
                    frame_shift=emissions.frame_shift,
                    words=words_of(best, tokeniser, emissions.frame_shift),
                    colours=[_COLOURS[edit.kind] for edit in alignment if edit.hypothesis],
                )
                picture = as_svg(figure, f"{system.name} {id}")
            clips[id] = Clip(sound=as_sound(waveform), picture=picture)
    return clips


def worth_drawing(system: System) -> list[ScoredLine]:
    """``DRAWN_WORST`` utterances with the most errors, then the ``DRAWN_RIGHT`` longest, in words, without any."""
    right = [u for u in system.utterances if not u.words.errors]
    longest = sorted(right, key=lambda u: (-u.words.hits, u.line.id))
    return [*system.worst()[:DRAWN_WORST], *longest[:DRAWN_RIGHT]]

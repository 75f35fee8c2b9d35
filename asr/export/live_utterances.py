"""``asr.audio.utterances`` of streams side by side, in what can be traced.

What is held of streams has one shape for all of them: rows, left-aligned, with a count of what is real.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from asr.audio.levels import (
    ACTIVE_DECIBELS,
    DECIBEL,
    DOUBT_SECONDS,
    FADING_DECIBELS,
    INAUDIBLE,
    LEVEL_SECONDS,
    LONGEST_WARM_UP_SECONDS,
    MARGIN_SECONDS,
    MEMORY_SECONDS,
    PAUSE_SECONDS,
    RECENT_SECONDS,
    SILENT_DECIBELS,
    SPEECH_DECIBELS,
    STEADY_DECIBELS,
    WARM_UP_SECONDS,
)
from asr.model.acoustic import AcousticModel
from asr.model.features import Statistics, frame_loudness, frame_mask
from asr.records import Features

OLDEST = 4096
"""In frames: an age or a count beyond it tells no more."""
UNREAD_SECONDS = 6.0
"""Held before they are read, at the most: more than doubt, warm-up and margin together."""
NEVER = 1 << 20
"""In frames: more than any place."""


class Speech(NamedTuple):
    """As ``SpeechMemory`` and ``UtteranceCutter`` of ``asr.audio.utterances`` hold it. ``ages`` (B, N) are how many
    frames ago those in ``energies`` were; ``heard`` is whether there is a ``level``, ``moving`` that it is not steady,
    and ``awake`` that it does not rest."""

    recent: Tensor
    recents: Tensor
    energies: Tensor
    ages: Tensor
    stored: Tensor
    level: Tensor
    heard: Tensor
    moving: Tensor
    doubtful: Tensor
    unread: Tensor
    waiting: Tensor
    awake: Tensor
    quiet: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretches:
    """Of each stream, how many frames of ``silence`` (B,) come first, and then the energies (B, T, mels) to be read, of
    which ``count`` (B,) are real, normalised by ``statistics``; whether an utterance ``ended`` (B,) with them, and
    whether one that begins ``waits`` (B,) to be normalised."""

    silence: Tensor
    energies: Tensor
    count: Tensor
    statistics: Statistics | None
    ended: Tensor
    waits: Tensor


class Utterances(nn.Module):
    """``asr.audio.utterances`` of streams side by side: from energies (B, T, mels) to what is to be read of them.

    What follows an utterance's end within one chunk waits for the next, which is all that differs.
    """

    def __init__(self, model: AcousticModel) -> None:
        super().__init__()
        settings, self.extractor = model.features.settings, model.features

        def frames(seconds: float) -> int:
            return round(seconds / settings.shift)

        self.loudest, self.recently, self.most = frames(LEVEL_SECONDS), frames(RECENT_SECONDS), frames(MEMORY_SECONDS)
        self.warm_up, self.longest_warm_up = frames(WARM_UP_SECONDS), frames(LONGEST_WARM_UP_SECONDS)
        self.fading, self.doubt = FADING_DECIBELS * DECIBEL * settings.shift, frames(DOUBT_SECONDS)
        self.margin, self.pause = frames(MARGIN_SECONDS), frames(PAUSE_SECONDS)
        self.unread, self.step = frames(UNREAD_SECONDS), model.encoder.subsampling
        mels = settings.mels
        self.shapes = [
            (self.recently, 2),
            (1,),
            (self.most, mels),
            (self.most,),
            *[(1,)] * 5,
            (self.unread, mels),
            *[(1,)] * 3,
        ]

    def forward(
        self, speech: Speech, energies: Tensor, fresh: Tensor, read: Tensor, closed: Tensor
    ) -> tuple[Stretches, Speech]:
        """Of ``energies`` the first ``fresh`` (B,) are real; ``read`` (B,) frames of the utterance are read. What was
        heard suffices where a stream is ``closed`` (B,)."""
        speech = self._remembered(self._followed(speech, energies, fresh), energies, fresh)
        known = speech.heard[:, 0] > 0
        count = speech.stored[:, 0].to(torch.int64)
        told = known & (
            (count >= self.warm_up) | ((count > 0) & (closed | (speech.ages[:, 0] >= self.longest_warm_up)))
        )
        memory = speech.energies[:, : count.max().clamp(min=1)]
        statistics = self.extractor.measure(Features(values=memory, lengths=count), speech.level[:, 0])
        return self._cut(speech, energies, fresh, read, told, statistics)

    def _followed(self, speech: Speech, energies: Tensor, fresh: Tensor) -> Speech:
        """As ``SpeechMemory._follow``."""
        heard = torch.stack([frame_loudness(energies), energies.mean(2)], dim=2)
        recents = speech.recents[:, 0].to(torch.int64)
        recent, recents = joined(speech.recent, recents, heard), recents + fresh
        recent = from_place(recent, (recents - self.recently).clamp(min=0), self.recently)
        recents = recents.clamp(max=self.recently)
        real = frame_mask(recents, self.recently)[:, :, None]
        loudest, high = recent.masked_fill(~real, -1e9).topk(self.loudest, dim=1).values[:, -1].unbind(1)
        ranked = recent[:, :, 1].masked_fill(~real[:, :, 0], 1e9).sort(dim=1).values
        place = 0.1 * (recents - 1).clamp(min=0).float()
        below = place.floor().to(torch.int64)
        low = ranked.gather(1, torch.stack([below, (below + 1).minimum((recents - 1).clamp(min=0))], dim=1))
        tenth = low[:, 0] + (low[:, 1] - low[:, 0]) * (place - below.float())
        varies = (high - tenth) / DECIBEL
        enough = recents >= self.loudest
        moving = (enough & (varies >= STEADY_DECIBELS)) | (~enough & (speech.moving[:, 0] > 0))
        known, doubtful = speech.heard[:, 0] > 0, speech.doubtful[:, 0]
        loud = enough & moving & ~known & ((varies >= SPEECH_DECIBELS) | (doubtful >= self.doubt))
        doubts = enough & moving & ~known & ~loud
        faded = loudest.maximum(speech.level[:, 0] - self.fading * fresh.float())
        level = torch.where(loud, loudest, torch.where(enough & moving & known, faded, speech.level[:, 0]))
        doubtful = torch.where(enough & ~moving, 0.0, doubtful + doubts.float() * fresh.float())
        return speech._replace(
            recent=recent,
            recents=recents[:, None].float(),
            level=level[:, None],
            heard=(known | loud)[:, None].float(),
            moving=moving[:, None].float(),
            doubtful=doubtful.clamp(max=OLDEST)[:, None],
        )

    def _remembered(self, speech: Speech, energies: Tensor, fresh: Tensor) -> Speech:
        """As ``SpeechMemory.hear``."""
        count = speech.stored[:, 0].to(torch.int64)
        newest = (fresh[:, None] - places(energies.shape[1])).float()
        ages = joined((speech.ages + fresh[:, None].float())[:, :, None], count, newest[:, :, None])
        memory, count = joined(speech.energies, count, energies), count + fresh
        real, known = frame_mask(count, memory.shape[1]), speech.heard > 0
        active = frame_loudness(memory) >= speech.level - ACTIVE_DECIBELS * DECIBEL
        kept = real & (active | ~known)
        most = torch.where(known, self.most, self.recently)
        rank = kept.to(torch.int64).cumsum(1)
        kept = kept & (rank > rank[:, -1:] - most)
        place = torch.arange(memory.shape[1])
        order = torch.where(kept, place, place + memory.shape[1]).sort(dim=1).indices[:, : self.most, None]
        return speech._replace(
            energies=memory.gather(1, order.expand(-1, -1, memory.shape[2])),
            ages=ages.gather(1, order)[:, :, 0].clamp(max=OLDEST),
            stored=rank[:, -1:].minimum(most).float(),
        )

    def _cut(
        self,
        speech: Speech,
        energies: Tensor,
        fresh: Tensor,
        read: Tensor,
        told: Tensor,
        statistics: Statistics,
    ) -> tuple[Stretches, Speech]:
        """As ``UtteranceCutter.feed``, one turn of it: what rests first, and then what is read."""
        waiting = speech.waiting[:, 0].to(torch.int64)
        unread, waiting = joined(speech.unread, waiting, energies), waiting + fresh
        unread = unread[:, : waiting.max()]
        size = unread.shape[1]
        known, moving = speech.heard > 0, speech.moving > 0
        level, loudness = speech.level, frame_loudness(unread)
        silent = (loudness < level - SILENT_DECIBELS * DECIBEL) | (level < INAUDIBLE)
        sound = frame_mask(waiting, size) & moving & ~(silent & known)
        rests = (speech.awake[:, 0] == 0) | ~known[:, 0]
        begins = first_of(sound)
        nothing = begins >= NEVER
        ahead = torch.where(nothing, waiting, begins) - self.margin
        silence = torch.where(rests, ahead.clamp(min=0) // self.step * self.step, 0)
        rests = rests & nothing
        waiting = waiting - silence
        unread = from_place(unread, silence, size)
        sound = from_place(sound.float()[:, :, None], silence, size)[:, :, 0] > 0
        reads = ~rests & (told | (waiting > self.unread - fresh))
        place = places(size)
        quiet = place - _newest(sound, self.pause + self.step).maximum(-1 - speech.quiet[:, :1].to(torch.int64))
        ends = first_of(
            frame_mask(waiting, size) & (quiet >= self.pause) & ((read[:, None] + place + 1) % self.step == 0)
        )
        ended = reads & (ends < NEVER)
        count = torch.where(reads, torch.where(ended, ends + 1, waiting), 0)
        newest = quiet.gather(1, (count - 1).clamp(min=0)[:, None])[:, 0]
        since = torch.where(ended | (count == 0), 0, newest.clamp(max=OLDEST))
        stretches = Stretches(
            silence=silence,
            energies=unread[:, : count.max()],
            count=count,
            statistics=statistics,
            ended=ended,
            waits=~rests & ~reads & (read == 0),
        )
        return stretches, speech._replace(
            unread=from_place(unread, count, self.unread),
            waiting=(waiting - count)[:, None].float(),
            awake=(~(rests | ended))[:, None].float(),
            quiet=torch.where(reads, since.float(), speech.quiet[:, 0])[:, None],
        )


def places(size: Any) -> Tensor:
    """(1, size); a ``size`` that is computed stays so in a traced graph."""
    return torch.arange(size)[None, :]


def from_place(values: Tensor, start: Tensor, size: Any) -> Tensor:
    """(B, size, F) of values (B, T, F), each row's from its own ``start`` (B,) on; past the end the last repeats."""
    place = (start[:, None] + places(size)).clamp(max=values.shape[1] - 1)
    return values.gather(1, place[:, :, None].expand(-1, -1, values.shape[2]))


def joined(values: Tensor, count: Tensor, more: Tensor) -> Tensor:
    """(B, T + N, F): of values (B, T, F) each row's first ``count`` (B,), and then ``more`` (B, N, F)."""
    room = values.shape[1]
    place = places(room + more.shape[1])
    order = torch.where(place < count[:, None], place, place - count[:, None] + room)
    order = order.clamp(max=room + more.shape[1] - 1)
    return torch.cat([values, more], dim=1).gather(1, order[:, :, None].expand(-1, -1, values.shape[2]))


def first_of(flags: Tensor) -> Tensor:
    """(B,): where the first of flags (B, T) is set, else ``NEVER``."""
    return torch.where(flags, places(flags.shape[1]), NEVER).amin(1)


def _newest(sound: Tensor, furthest: int) -> Tensor:
    """(B, T): the place of the newest sound so far, of the last ``furthest`` frames."""
    place = torch.where(sound, places(sound.shape[1]), -NEVER).float()
    held = functional.pad(place, (furthest, 0), value=float(-NEVER))
    return functional.max_pool1d(held[:, None], furthest + 1, stride=1)[:, 0].to(torch.int64)

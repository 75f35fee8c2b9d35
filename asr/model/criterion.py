"""Training criteria over emissions: CTC, and CTC-CRF, which weighs label sequences too.

CTC takes an utterance's frames as independent of each other given the audio. CTC-CRF (Xiang & Ou, ICASSP 2019, "CRF-
based single-stage acoustic modeling with CTC topology") scores a path by the posteriors of its frames and by an n-gram
model of its labels, and normalises over all paths:

    log p(labels | audio) = log sum over paths of the labels of q(path)  -  log sum over all paths of q(path)
    q(path) = p_ngram(labels of the path) product over t of p(path_t | audio)

The first sum is CTC's, plus the labels' own log probability. The second (the denominator) is one dense recursion, since
a state is no more than the last labels and whether a blank follows them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from asr import recipe
from asr.model.emitted import Emitted
from asr.model.features import frame_mask
from asr.records import BLANK


class Criterion(Protocol):
    def __call__(self, emissions: Emitted, tokens: Tensor, token_lengths: Tensor) -> Tensor:
        """The loss of labels (B, U) in nats, summed over the batch: a scalar in float32, whatever the autocast.

        Impossible utterances give infinity: they are refused by the loader, not zeroed here.
        """
        ...


def build_criterion(
    settings: recipe.Ctc | recipe.CtcCrf, transcripts: Iterable[Sequence[int]], vocabulary: int
) -> Criterion:
    """``transcripts`` are the training corpus's, in tokens: what an n-gram is estimated from, where one is needed."""
    if isinstance(settings, recipe.Ctc):
        return ctc_loss
    return CtcCrf(estimate_ngram(transcripts, vocabulary, settings.order), ctc=settings.ctc)


def ctc_loss(emissions: Emitted, tokens: Tensor, token_lengths: Tensor) -> Tensor:
    """CTC loss (Graves et al. 2006) in nats, summed over the batch, in float32."""
    device = emissions.log_probs.device
    return functional.ctc_loss(
        emissions.log_probs.transpose(0, 1),
        tokens.to(device, non_blocking=True),
        emissions.lengths,
        token_lengths.to(device, non_blocking=True),
        blank=BLANK,
        reduction="sum",
    )


def divergence(emissions: Emitted) -> Tensor:
    """How far two hearings of the same utterances, the first and the second half of a batch, are apart: the mean of
    the Kullback-Leibler divergences of each from the other, in nats, summed over frames and utterances. Each is drawn
    to the other as it is: no gradient flows through what a divergence is from (Yao et al. 2024, equation 4)."""
    one, other = emissions.log_probs.chunk(2)
    apart = functional.kl_div(other, one.detach(), reduction="none", log_target=True)
    apart = apart + functional.kl_div(one, other.detach(), reduction="none", log_target=True)  # (B / 2, T', V)
    real = frame_mask(emissions.lengths[: len(one)], apart.shape[1])
    return (apart.sum(-1) * real).sum() / 2


class CtcCrf:
    """CTC-CRF, and ``ctc`` times plain CTC beside it, which keeps the posteriors near those of the audio alone."""

    def __init__(self, ngram: Tensor, *, ctc: float = 0.0) -> None:
        """``ngram`` as ``estimate_ngram`` gives it."""
        self.ngram = ngram
        self.ctc = ctc
        self._denominators: dict[torch.device, Denominator] = {}

    def __call__(self, emissions: Emitted, tokens: Tensor, token_lengths: Tensor) -> Tensor:
        device = emissions.log_probs.device
        if device not in self._denominators:
            self._denominators[device] = Denominator(self.ngram.to(device))
        everything = self._denominators[device]
        tokens, token_lengths = tokens.to(device, non_blocking=True), token_lengths.to(device, non_blocking=True)
        paths = ctc_loss(emissions, tokens, token_lengths)
        labels = label_log_prob(everything.ngram, tokens, token_lengths)
        return (1 + self.ctc) * paths - labels.sum() + everything(emissions.log_probs, emissions.lengths).sum()


def estimate_ngram(transcripts: Iterable[Sequence[int]], vocabulary: int, order: int) -> Tensor:
    """An n-gram over tokens by Witten-Bell smoothing (1991, method C): probabilities (V,) * ``order`` in float32.

    The last axis is the token that follows the histories of the axes before it, oldest first. The blank's place stands
    for a transcript's beginning in a history and for its end in the last axis. Every probability is above 0.
    """
    counts: list[Counter[tuple[int, ...]]] = [Counter() for _ in range(order)]
    for transcript in transcripts:
        padded = [BLANK] * (order - 1) + [*transcript, BLANK]
        for i in range(order - 1, len(padded)):
            for n in range(order):
                counts[n][tuple(padded[i - n : i + 1])] += 1
    probabilities = torch.full((vocabulary,), 1 / vocabulary, dtype=torch.float64)
    for n, grams in enumerate(counts):
        table = torch.zeros((vocabulary,) * (n + 1), dtype=torch.float64)
        if grams:
            table[tuple(torch.tensor(list(grams)).T)] = torch.tensor(list(grams.values()), dtype=torch.float64)
        total, kinds = table.sum(-1, keepdim=True), (table > 0).sum(-1, keepdim=True)
        seen = total > 0
        smoothed = (table + kinds * probabilities) / torch.where(seen, total + kinds, 1)
        probabilities = torch.where(seen, smoothed, probabilities)
    return probabilities.float()


def label_log_prob(ngram: Tensor, tokens: Tensor, token_lengths: Tensor) -> Tensor:
    """(B,) log probability of each row's labels and of their end after them."""
    batch, longest = tokens.shape
    history = ngram.ndim - 1
    past_end = torch.arange(longest + 1, device=tokens.device)[None, :] > token_lengths[:, None]
    padded = torch.zeros(batch, history + longest + 1, dtype=torch.long, device=tokens.device)
    padded[:, history : history + longest] = tokens
    padded[:, history:] *= torch.arange(longest + 1, device=tokens.device)[None, :] < token_lengths[:, None]
    places = tuple(padded[:, n : n + longest + 1] for n in range(history + 1))
    return ngram.log()[places].masked_fill(past_end, 0.0).sum(1)


class Denominator:
    """log sum over all paths of q(path), and its gradient, for one n-gram on one device.

    The forward-backward algorithm in probabilities, divided by their sum at each frame. A state is a history, the last
    ``order - 1`` labels, with a blank after it or without. Past its end an utterance is given sure blanks, which leave
    the sum over its states as it is; so no row needs a mask in the recursion, and any number of frames may be added.
    """

    def __init__(self, ngram: Tensor) -> None:
        self.ngram = ngram
        self.steps = _Steps(ngram)
        self._graphs: dict[tuple[str, int], _Graph] = {}

    def __call__(self, log_probs: Tensor, lengths: Tensor) -> Tensor:
        """(B,) for log probabilities (B, T', V), ``lengths`` (B,) of them real; in float32, whatever the autocast."""
        with torch.autocast(log_probs.device.type, enabled=False):
            sums: Tensor = _Recursion.apply(log_probs.float(), lengths, self)
        return sums

    def forward(self, posteriors: Tensor, blanks: Tensor, labels: Tensor, scales: Tensor) -> None:
        """Fills the states' masses (T' + 1, B, ...) after each frame of ``posteriors`` (T', B, V), the first being
        given, and what they summed to (T', B)."""
        if not posteriors.is_cuda:
            self.steps.forwards(posteriors, blanks, labels, scales)
            return
        graph = self._graph("forwards", self.steps.forwards, posteriors, blanks, labels, scales)
        at_hand = graph.buffers
        for part in _stretches(len(posteriors)):
            at_hand[0].copy_(posteriors[part])
            at_hand[1][0].copy_(blanks[part.start])
            at_hand[2][0].copy_(labels[part.start])
            graph.replay()
            blanks[part.start + 1 : part.stop + 1].copy_(at_hand[1][1:])
            labels[part.start + 1 : part.stop + 1].copy_(at_hand[2][1:])
            scales[part].copy_(at_hand[3])

    def backward(
        self, posteriors: Tensor, blanks: Tensor, labels: Tensor, scales: Tensor, worth: Tensor, occupancy: Tensor
    ) -> None:
        """Fills ``occupancy`` (T', B, V), each token's share of all paths at each frame, from what the states after the
        last frame are ``worth`` (2, B, ...), with a blank and without."""
        if not posteriors.is_cuda:
            self.steps.backwards(posteriors, blanks[1:], labels[1:], scales, worth, occupancy)
            return
        given = (posteriors, blanks[1:], labels[1:], scales)
        graph = self._graph("backwards", self.steps.backwards, *given, worth, occupancy)
        at_hand = graph.buffers
        at_hand[4].copy_(worth)
        for part in reversed(list(_stretches(len(posteriors)))):
            for buffer, tensor in zip(at_hand, given, strict=False):
                buffer.copy_(tensor[part])
            graph.replay()
            occupancy[part].copy_(at_hand[5])

    def _graph(self, name: str, work: Callable[..., None], *tensors: Tensor) -> _Graph:
        """The one for a batch of this size; ``tensors`` but those of two states have a row a frame."""
        key = (name, tensors[0].shape[1])
        if key not in self._graphs:
            frames = len(tensors[0])
            rows = [STRETCH + len(tensor) - frames if len(tensor) >= frames else len(tensor) for tensor in tensors]
            self._graphs[key] = _Graph(work, [tensor[:n].clone() for tensor, n in zip(tensors, rows, strict=True)])
        return self._graphs[key]


STRETCH = 32
"""Frames of the recursion that a GPU works off in one launch."""
TOGETHER = 8
"""A GPU's batches are filled up to a multiple of this, so that few sizes need a graph of their own."""


def _stretches(frames: int) -> Iterator[slice]:
    return (slice(start, start + STRETCH) for start in range(0, frames, STRETCH))


class _Graph:
    """``work`` on ``buffers`` as a CUDA graph: hundreds of small kernels in one launch, which else would take several
    times as long as the kernels."""

    def __init__(self, work: Callable[..., None], buffers: list[Tensor]) -> None:
        self.buffers = buffers
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            work(*buffers)  # libraries take up their memory at the first call, which no graph may hold
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        # The loader's thread pins memory meanwhile, which is no business of the capture's.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            work(*buffers)

    def replay(self) -> None:
        self._graph.replay()


class _Recursion(torch.autograd.Function):
    @staticmethod
    def forward(ctx, log_probs, lengths, denominator):  # type: ignore[no-untyped-def]
        batch, frames, vocabulary = log_probs.shape
        rows, steps = (-(-batch // TOGETHER) * TOGETHER, -(-frames // STRETCH) * STRETCH)
        if not log_probs.is_cuda:
            rows, steps = batch, frames
        real = torch.arange(frames, device=log_probs.device)[None, :] < lengths[:, None]
        posteriors = log_probs.new_zeros(steps, rows, vocabulary)
        posteriors[:, :, BLANK] = 1.0
        sure = posteriors[:frames, :batch].transpose(0, 1)
        posteriors[:frames, :batch] = torch.where(real[:, :, None], log_probs.exp(), sure).transpose(0, 1)
        blanks = log_probs.new_zeros((steps + 1, rows, *denominator.steps.states))
        labels = torch.zeros_like(blanks)  # the last label itself was heard last
        blanks[0].view(rows, -1)[:, 0] = 1.0  # the history at the beginning is BLANK, BLANK
        scales = log_probs.new_empty(steps, rows)
        denominator.forward(posteriors, blanks, labels, scales)
        ends = (blanks[-1] + labels[-1]).flatten(1) @ denominator.steps.ends.flatten()
        ctx.save_for_backward(posteriors, real, blanks, labels, scales, ends)
        ctx.denominator = denominator
        return (scales.log().sum(0) + ends.log())[:batch]

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        posteriors, real, blanks, labels, scales, ends = ctx.saved_tensors
        batch, frames = real.shape
        occupancy = torch.empty_like(posteriors)
        worth = ctx.denominator.steps.ends / ends.view(-1, *[1] * (blanks.ndim - 2))
        ctx.denominator.backward(posteriors, blanks, labels, scales, torch.stack([worth, worth]), occupancy)
        own = occupancy[:frames, :batch].transpose(0, 1) * real[:, :, None]
        return own * gradient[:, None, None], None, None


class _Steps:
    """One frame of the recursion, forwards and backwards; ``states`` is the shape of the histories, (V,) * (order - 1).

    A label grows a history (..., v) into (v, w), which drops its oldest label; after the label v itself, without a
    blank between, the frame's v is the same label still and no new one.
    """

    def __init__(self, ngram: Tensor) -> None:
        self.states = ngram.shape[:-1]
        self.ends = ngram[..., BLANK].contiguous()
        grows = ngram.clone()
        grows[..., BLANK] = 0.0
        self.trigram = ngram.ndim == 3
        if self.trigram:
            self.from_old = grows.transpose(0, 1).contiguous()  # (v, u, w)
            self.to_old = grows.permute(1, 2, 0).contiguous()  # (v, w, u)
        else:
            self.from_old = grows
            self.to_old = grows.T.contiguous()
        self.repeats = torch.diagonal(grows, dim1=-2, dim2=-1).contiguous()  # (..., v): v once more

    def forwards(self, posteriors: Tensor, blanks: Tensor, labels: Tensor, scales: Tensor) -> None:
        for t in range(len(posteriors)):
            self._forward(posteriors[t], blanks[t], labels[t], blanks[t + 1], labels[t + 1], scales[t])

    def backwards(
        self, posteriors: Tensor, blanks: Tensor, labels: Tensor, scales: Tensor, worth: Tensor, occupancy: Tensor
    ) -> None:
        """``blanks`` and ``labels`` are the masses after each frame. ``worth`` becomes that of the states before the
        first."""
        with_blank, without = worth
        for t in reversed(range(len(posteriors))):
            occupancy[t, :, BLANK] = (blanks[t] * with_blank).flatten(1).sum(1)
            heard = (labels[t] * without).view(len(scales[t]), -1, posteriors.shape[2]).sum(1)
            occupancy[t, :, BLANK + 1 :] = heard[:, BLANK + 1 :]
            with_blank, without = self._backward(posteriors[t] / scales[t][:, None], with_blank, without)
        worth[0].copy_(with_blank)
        worth[1].copy_(without)

    def _forward(
        self, posteriors: Tensor, blank: Tensor, label: Tensor, next_blank: Tensor, next_label: Tensor, scale: Tensor
    ) -> None:
        """Fills ``next_*`` with the states' masses after a frame of ``posteriors`` (B, V), from those before it.

        They are divided by what they sum to, which ``scale`` (B,) is filled with.
        """
        both = blank + label
        repeated = label * self.repeats
        if self.trigram:
            grown = torch.bmm(both.permute(2, 0, 1), self.from_old).transpose(0, 1)  # (B, v, w)
            torch.diagonal(grown, dim1=1, dim2=2).sub_(repeated.sum(1))
        else:
            grown = both @ self.from_old - repeated
        torch.add(grown, label, out=next_label)
        heard = posteriors[:, None] if self.trigram else posteriors
        next_label *= heard
        torch.mul(both, heard[..., BLANK : BLANK + 1], out=next_blank)
        total = (next_blank + next_label).flatten(1).sum(1)
        scale.copy_(total)
        inverse = total.reciprocal().view(-1, *[1] * (label.ndim - 1))
        next_blank *= inverse
        next_label *= inverse

    def _backward(self, scaled: Tensor, after_blank: Tensor, after_label: Tensor) -> tuple[Tensor, Tensor]:
        """What this frame and those after it are worth, from each state before it: with a blank, without one.

        ``scaled`` (B, V) are the frame's posteriors, divided as in ``forward``.
        """
        heard = scaled[:, None] if self.trigram else scaled
        value = after_label * heard  # of a new or lasting label w after v: (B, v, w)
        rest = after_blank * heard[..., BLANK : BLANK + 1]
        if self.trigram:
            grown = torch.bmm(value.transpose(0, 1), self.to_old).permute(1, 2, 0)  # (B, u, v)
            again = torch.diagonal(value, dim1=1, dim2=2)[:, None] * self.repeats
        else:
            grown = value @ self.to_old
            again = value * self.repeats
        before_blank = rest + grown
        return before_blank, before_blank + value - again

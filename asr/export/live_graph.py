"""A one-directional model as the graph of a stream, which sherpa-onnx runs live.

Of sherpa-onnx's streaming kinds one hands its graph the samples themselves, and so our own front end can be in the
graph: T-one CTC. A call has ``CHUNK`` samples as integers of 16 bits, and a state, one row a stream, in 16-bit floats.
In it goes all that ``asr.audio.streaming`` and ``asr.audio.utterances`` hold of a stream, each number as the sum of two
16-bit floats. A state of zeros is a stream's beginning.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from asr.export.graphs import Interface, Normalised, to_onnx
from asr.export.live_utterances import NEVER, OLDEST, Speech, Stretches, Utterances, from_place, places
from asr.export.spectra import LogMelEnergies
from asr.model.acoustic import AcousticModel
from asr.model.encoder import RecurrentStack
from asr.model.features import Statistics, frame_mask
from asr.model.recurrent import RecurrentLayer
from asr.recipe.frames import window_samples
from asr.records import BLANK, Features, blanks

if TYPE_CHECKING:
    from onnx import ModelProto

CHUNK = 2400
"""Samples a call: 0.3 s of the 8 kHz that sherpa-onnx takes for granted."""
SLOT = 240
"""Samples that it takes an emission frame to last."""
CLOSING = 1600
"""Samples of digital silence that close a stream, whose end its graph is not told of: sherpa-onnx's server and examples
end recordings with zeros."""
FULL_SCALE = 32768.0
CERTAIN = -100.0
"""The log probability of tokens that an emission has not."""
LENGTHS = "lengths"


class Held(NamedTuple):
    """What is held of streams, float32: ``samples`` (B, S) in 16 bits, whether they have ``begun`` (B, 1), the energies
    (B, H, mels) that an utterance's next encodings reach back to (``tail``) and how many frames of it are ``read``, the
    recurrent ``states`` (B, N), the ``last`` token, and how many samples of the last ``slot`` were left over."""

    samples: Tensor
    begun: Tensor
    tail: Tensor
    read: Tensor
    states: Tensor
    last: Tensor
    slot: Tensor


class LiveSamples(nn.Module):
    """Samples (B, CHUNK, 1) of 16 bits and states (B, D) to log probabilities (B, T', V) and the states after them.

    And how many frames (B,) the recurrent layers read of each stream, which only ``live_graph`` wants to know.
    """

    interface = Interface(
        inputs=("signal", "state"),
        outputs=("logprobs", "state_after", LENGTHS),
        axes={
            "signal": {0: "streams"},
            "state": {0: "streams"},
            "logprobs": {0: "streams", 1: "emission_frames"},
            "state_after": {0: "streams"},
            LENGTHS: {0: "streams"},
        },
    )

    blank: Tensor

    def __init__(self, model: AcousticModel, *, space: int = BLANK) -> None:
        """``space`` is the token between words, where there is one."""
        super().__init__()
        self.space = space
        settings = model.features.settings
        fft, window, self.hop = window_samples(settings)
        self.frames = CHUNK // self.hop
        self.late = -(-(fft // 2) // self.hop)  # frames that a chunk is short of, as in ``Stream``
        self.energies = LogMelEnergies(model.features)
        self.reader = StepReader(model)
        self.utterances = Utterances(model) if settings.normalise == "utterance" else None
        self.frame_samples = self.hop * model.encoder.subsampling
        self.usual = -(-CHUNK // min(self.frame_samples, SLOT)) + -(-self.frame_samples // SLOT)  # slots a chunk
        self.vocabulary = model.head.out_features
        self.register_buffer("blank", torch.from_numpy(blanks(1, self.vocabulary)), persistent=False)
        mels, reader = settings.mels, self.reader
        self.shapes: list[tuple[int, ...]] = [
            (self.late * self.hop + window // 2,),
            (1,),
            (reader.tail, mels),
            (1,),
            (reader.states,),
            (1,),
            (1,),
        ]
        if self.utterances:
            self.shapes += self.utterances.shapes
        self.size = 2 * sum(math.prod(shape) for shape in self.shapes)

    def forward(self, signal: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        values = _whole(state, self.shapes)
        held = Held._make(values[: len(Held._fields)])
        # sherpa-onnx has multiplied by 32767 and cut towards zero: of 16 bits that takes one from each.
        given = signal[:, :, 0]
        samples = torch.cat([held.samples, (given + given.sign()).float()], dim=1)
        energies = self.energies(samples / FULL_SCALE)[:, : self.frames]
        late = ((1 - held.begun[:, 0]) * self.late).to(torch.int64)
        energies, fresh = from_place(energies, late, self.frames), self.frames - late
        rest: list[Tensor] = []
        if self.utterances:
            speech, closed = Speech._make(values[len(Held._fields) :]), (given[:, -CLOSING:] == 0).all(1)
            stretches, rest[:] = self.utterances(speech, energies, fresh, held.read[:, 0].to(torch.int64), closed)
        else:
            none = torch.zeros_like(fresh)
            stretches = Stretches(
                silence=none, energies=energies, count=fresh, statistics=None, ended=none > 0, waits=none > 0
            )
        log_probs, count, lengths, after = self.reader(held, stretches)
        silent = stretches.silence // self.reader.step
        emitted, last, slot = self._in_slots(log_probs, count, silent, stretches.waits, held)
        begun = torch.ones_like(held.begun)
        after = after._replace(samples=samples[:, -self.shapes[0][0] :], begun=begun, last=last, slot=slot)
        return emitted, _halves([*after, *rest]), lengths

    def _in_slots(
        self, log_probs: Tensor, count: Tensor, silent: Tensor, waits: Tensor, held: Held
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Frames (B, M, V), of which ``count`` are real, after ``silent`` ones, each as often as makes sherpa-onnx's
        times right: repeats are merged anyway."""
        total, size = silent + count, self.frame_samples
        before = held.slot[:, 0].to(torch.int64)
        slots = (before + total * size) // SLOT if size >= SLOT else total
        place = places(slots.max())
        frame = place.expand(slots.shape[0], -1)
        if size >= SLOT:
            frame = ((place + 1) * SLOT - before[:, None] + size - 1) // size - 1
        row = (frame - silent[:, None]).clamp(min=0).minimum((count - 1).clamp(min=0)[:, None])
        emitted = log_probs.gather(1, row[:, :, None].expand(-1, -1, self.vocabulary))
        emitted = torch.where((frame < silent[:, None])[:, :, None], self.blank, emitted)
        final = log_probs.gather(1, (count - 1).clamp(min=0)[:, None, None].expand(-1, -1, self.vocabulary))
        newest, earlier = final[:, 0].argmax(1), held.last[:, 0].to(torch.int64)
        last = torch.where(count > 0, newest, torch.where(silent > 0, BLANK, earlier))
        alone = torch.ones_like(slots).sum() == 1
        last = torch.where(waits & ~alone, self.space, last)
        rest = (before + total * size) % SLOT if size >= SLOT else before
        emitted = self._side_by_side(emitted, slots, alone, earlier, last)
        return emitted, last[:, None].float(), rest[:, None].float()

    def _side_by_side(self, emitted: Tensor, slots: Tensor, alone: Tensor, earlier: Tensor, last: Tensor) -> Tensor:
        """Of streams that emit more frames (B, T, V) and fewer, as many of each, with the same words: ``slots`` (B,)
        are real, after a token ``earlier`` (B,), and those with fewer repeat their ``last``.

        sherpa-onnx takes blanks for silence, which ends an utterance and loses what is held of it. So a stream that
        ``waits`` in its warm-up beside others repeats the space between words. And where a warm-up ends, seconds of
        frames come at once, which those beside it would repeat as often; so of those only what begins a run is kept.
        """
        real = frame_mask(slots, emitted.shape[1])
        best = emitted.argmax(2)
        begins = real & (best != torch.cat([earlier[:, None], best], dim=1)[:, :-1])
        runs = begins.to(torch.int64).sum(1)
        most = torch.where(alone, slots.max(), runs.max().clamp(min=self.usual).minimum(slots.max()))
        crowded = (slots > most)[:, None]
        place = places(emitted.shape[1])
        order = torch.where(begins | ~crowded, place, place + emitted.shape[1]).sort(dim=1).indices
        emitted = emitted.gather(1, order[:, :, None].expand(-1, -1, self.vocabulary))
        real = frame_mask(torch.where(crowded[:, 0], runs, slots), emitted.shape[1])
        sure = functional.one_hot(last, self.vocabulary)[:, None]
        return torch.where(real[:, :, None], emitted, (1 - sure) * CERTAIN)[:, :most]

    def example(self) -> tuple[Tensor, ...]:
        draw = torch.Generator().manual_seed(0)
        signal = torch.randint(-9000, 9000, (2, CHUNK, 1), generator=draw, dtype=torch.int32)
        return signal, torch.zeros(2, self.size, dtype=torch.float16)


def live_graph(module: LiveSamples) -> ModelProto:
    """The module as a graph, in which a layer's state after a chunk is that after each stream's own last frame."""
    graph = to_onnx(module, module.example(), module.interface)
    for node in graph.graph.node:
        if node.op_type in {"LSTM", "GRU", "RNN"}:
            node.input[4] = LENGTHS
    del graph.graph.output[2:]
    return graph


class StepReader(nn.Module):
    """What encoder and head make of more of an utterance, as ``asr.audio.streaming.Stream`` reads it."""

    def __init__(self, model: AcousticModel) -> None:
        super().__init__()
        self.extractor, self.encoder, self.head = model.features, model.encoder, model.head
        self.front = Normalised(model)
        self.step, self.reach = model.encoder.subsampling, model.encoder.reach
        self.patience = -(-self.reach // self.step) * self.step  # as ``asr.audio.seamless`` waits
        self.tail = 2 * self.patience + self.step
        stack = model.encoder.stack
        assert isinstance(stack, RecurrentStack)
        self.layers = stack.recurrent_layers()
        self.widths = [part.shape[2] for state in stack.initial_states(1) for part in state]
        self.states = sum(self.widths)

    def forward(self, held: Held, stretches: Stretches) -> tuple[Tensor, Tensor, Tensor, Held]:
        """Log probabilities (B, M, V), how many of each stream's are real, how many were read, one at least, and what
        is held after them."""
        count, ended = stretches.count, stretches.ended
        read = held.read[:, 0].to(torch.int64)
        energies = torch.cat([held.tail, stretches.energies], dim=1)
        until = read + count
        first = (read - self.patience).clamp(min=0) // self.step
        after = torch.where(
            ended, (until + self.step - 1) // self.step, (until - self.patience).clamp(min=0) // self.step
        )
        emitted = after - first
        end = torch.where(ended, until, NEVER)
        lengths = emitted.clamp(min=1).to(torch.int32)
        encodings = self._encodings(
            self._features(energies, stretches.statistics), read - self.tail, first, emitted.max().clamp(min=1), end
        )
        outputs, states = self._stack(encodings, lengths, held.states)
        states = torch.where((emitted > 0)[:, None], states, held.states) * (~ended)[:, None]
        log_probs = self.head(outputs).log_softmax(-1)
        return (
            log_probs,
            emitted,
            lengths,
            held._replace(
                tail=from_place(energies, count, self.tail),
                read=torch.where(ended, 0, _bounded(until, self.step))[:, None].float(),
                states=states,
            ),
        )

    def _features(self, energies: Tensor, statistics: Statistics | None) -> Tensor:
        whole = Features(values=energies, lengths=torch.ones_like(energies[:, :, 0], dtype=torch.int64).sum(1))
        if statistics is not None:
            normalised: Tensor = self.extractor.normalise(whole, statistics).values
            return normalised
        floored: Tensor = self.front(self.extractor.shape(whole))
        return floored

    def _encodings(self, features: Tensor, begin: Tensor, first: Tensor, most: Tensor, end: Tensor) -> Tensor:
        """``most`` encodings (B, M, size) from the ``first`` (B,) on. ``features`` (B, T, F) begin with an utterance's
        frame ``begin`` (B,), and it ends before frame ``end``: beyond its ends there are zeros, in each layer."""
        place = first * self.step - self.reach
        size = (most - 1) * self.step + 2 * self.reach + 1
        values = from_place(features, place - begin, size)
        values = values * _within(place, 1, values.shape[1], end)[:, :, None]
        if self.encoder.front_end is None:
            return values
        images, scale = values[:, None], 1
        for layer, stride in zip(self.encoder.front_end.layers, self.encoder.front_end.time_strides, strict=True):
            assert isinstance(layer, nn.Conv2d)
            images = functional.conv2d(images, layer.weight, layer.bias, layer.stride, (0, 1)).relu()
            place, scale = place + scale, scale * stride
            images = images * _within(place, scale, images.shape[2], end)[:, None, :, None]
        return images.permute(0, 2, 1, 3).flatten(2)

    def _stack(self, values: Tensor, lengths: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        before, after = list(torch.split(states, self.widths, dim=1)), []
        for layer in self.layers:
            own = [before.pop(0)[None].contiguous() for _ in layer.initial_state(1)]
            values, carried = _read_on(layer, values, lengths, own)
            after += [part[0] for part in carried]
        return values, torch.cat(after, dim=1)


def _read_on(
    layer: RecurrentLayer, values: Tensor, lengths: Tensor, state: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Outputs (B, T', size), and the state after each stream's own ``lengths`` (B,) frames."""
    cell = layer.forwards
    before = tuple(state) if isinstance(cell, nn.LSTM) else state[0]
    if torch.onnx.is_in_onnx_export():  # where packing warns without end: ``live_graph`` tells the layers the lengths
        outputs, after = cell(values, before)
    else:
        packed = nn.utils.rnn.pack_padded_sequence(values, lengths, batch_first=True, enforce_sorted=False)
        read, after = cell(packed, before)
        outputs, _ = nn.utils.rnn.pad_packed_sequence(read, batch_first=True)
    return layer.norm(layer.projection(outputs)), list(after) if isinstance(cell, nn.LSTM) else [after]


def _within(place: Tensor, scale: int, size: int, end: Tensor) -> Tensor:
    """(B, size) float: whether frames ``place`` (B,) and every ``scale`` after it are an utterance's."""
    frame = place[:, None] + scale * places(size)
    return ((frame >= 0) & (frame < end[:, None])).float()


def _bounded(read: Tensor, step: int) -> Tensor:
    """A count that a state can hold for ever: what is far beyond any reach is as good as what is farther."""
    return torch.where(read >= 2 * OLDEST, read - OLDEST // step * step, read)


def _halves(parts: Sequence[Tensor]) -> Tensor:
    """Float32 numbers as sums of two 16-bit floats each, (B, D): within 2^-22 of themselves."""
    values = torch.cat([part.flatten(1) for part in parts], dim=1)
    coarse = values.half()
    return torch.cat([coarse, (values - coarse.float()).half()], dim=1)


def _whole(state: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    coarse, fine = state.float().chunk(2, dim=1)
    values = torch.split(coarse + fine, [math.prod(shape) for shape in shapes], dim=1)
    return [value.reshape(-1, *shape) for value, shape in zip(values, shapes, strict=True)]

"""The encoder: convolutional front end, then a feed-forward or recurrent stack, as the recipe chooses."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from asr import recipe
from asr.errors import RecipeError
from asr.model.features import frame_mask
from asr.model.recurrent import RecurrentLayer, State


class ConvolutionFrontEnd(nn.Module):
    """3x3 convolutions over time and frequency, the first ones strided: (B, T, F) to (B, T', channels * F').

    Padding is set to zero after each layer, so that an utterance's last frames see what they would see alone.
    """

    def __init__(self, settings: recipe.Convolution, bins: int) -> None:
        super().__init__()
        strides = {1: (), 2: (2,), 4: (2, 2)}[settings.subsampling]
        self.time_strides: list[int] = []
        layers = []
        inputs = 1
        for i, channels in enumerate(settings.channels):
            # Frequency is halved by every layer, time only by the strides asked for.
            stride = (strides[i] if i < len(strides) else 1, 2)
            layers.append(nn.Conv2d(inputs, channels, 3, stride=stride, padding=1))
            self.time_strides.append(stride[0])
            inputs, bins = channels, (bins - 1) // 2 + 1
        # Channels-last is three times faster on a CPU at these channel counts.
        self.layers = nn.ModuleList(layers).to(memory_format=torch.channels_last)
        self.size = inputs * bins

    @property
    def reach(self) -> int:
        """Feature frames on either side of an emission frame's first that it depends on."""
        return sum(math.prod(self.time_strides[:i]) for i in range(len(self.time_strides)))

    def forward(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        images = values[:, None].contiguous(memory_format=torch.channels_last)
        for layer, stride in zip(self.layers, self.time_strides, strict=True):
            images = functional.relu(layer(images))
            lengths = (lengths - 1) // stride + 1
            images = images * frame_mask(lengths, images.shape[2])[:, None, :, None]
        return images.permute(0, 2, 1, 3).flatten(2), lengths


class Dropout(nn.Module):
    """Dropout of (B, T, H) while training: a mask a frame, or one an utterance, the same at all its frames."""

    def __init__(self, settings: recipe.EncoderSettings) -> None:
        super().__init__()
        self.probability = settings.dropout
        self.locked = settings.dropout_mask == "utterance"

    def forward(self, values: Tensor) -> Tensor:
        if not self.locked or not self.training:
            return functional.dropout(values, self.probability, self.training)
        mask = functional.dropout(values.new_ones(values.shape[0], 1, values.shape[2]), self.probability)
        return values * mask


class FeedForwardStack(nn.Module):
    """A window of ``context`` frames on either side, then fully connected layers: the recurrent stack's foil."""

    def __init__(self, settings: recipe.FeedForward, inputs: int) -> None:
        super().__init__()
        self.reach = settings.context
        self.window = nn.Conv1d(inputs, settings.hidden, 2 * settings.context + 1, padding=settings.context)
        layers: list[nn.Module] = []
        for i in range(settings.layers):
            if i > 0:
                layers.append(nn.Linear(settings.hidden, settings.hidden))
            if settings.layer_norm:
                layers.append(nn.LayerNorm(settings.hidden))
            layers += [nn.ReLU(), Dropout(settings)]
        self.layers = nn.Sequential(*layers)
        self.size = settings.hidden

    def forward(self, values: Tensor, lengths: Tensor) -> Tensor:
        values = values * frame_mask(lengths, values.shape[1])[:, :, None]
        outputs: Tensor = self.layers(self.window(values.transpose(1, 2)).transpose(1, 2))
        return outputs


class RecurrentStack(nn.Module):
    """Recurrent layers, dropout between them."""

    def __init__(self, settings: recipe.Recurrent, inputs: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        self.bidirectional = settings.bidirectional
        for _ in range(settings.layers):
            layer = RecurrentLayer(settings, inputs)
            self.layers.append(layer)
            inputs = layer.size
        self.dropout = Dropout(settings)
        self.size = inputs

    def forward(
        self, values: Tensor, lengths: Tensor, states: tuple[State, ...] | None = None
    ) -> tuple[Tensor, tuple[State, ...] | None]:
        """``states``, one a layer, carry a one-directional stack on from an earlier chunk; the new ones come back."""
        if states is None:
            *_, values = self.each_layer(values, lengths)
            return values, None
        carried = []
        for layer, state in zip(self.layers, states, strict=True):
            values, state = layer(values, lengths, state)
            values = self.dropout(values)
            carried.append(state)
        return values, tuple(carried)

    def each_layer(self, values: Tensor, lengths: Tensor) -> Iterator[Tensor]:
        """What each layer hands on, (B, T, size), the first layer's first: the last is what ``forward`` returns."""
        batch = values.shape[0]  # not len(): a traced graph would keep it as a constant
        values, lengths = _in_eights(values, lengths)
        for layer in self.layers:
            values = self.dropout(layer(values, lengths)[0])
            yield values[:batch]

    def forward_chunk(self, values: Tensor, keep: int, states: tuple[State, ...]) -> tuple[Tensor, tuple[State, ...]]:
        """A chunk of a stream, ``keep`` frames of (B, T, inputs), with what lies ahead of it for the backward direction
        to begin with: (B, keep, size), and the states after the chunk."""
        carried = []
        for layer, state in zip(self.recurrent_layers(), states, strict=True):
            values, after = layer.forward_chunk(values, keep, state)
            carried.append(after)
        return values[:, :keep], tuple(carried)

    def initial_states(self, batch: int) -> tuple[State, ...]:
        """The zero states of ``batch`` streams, for the first chunk."""
        return tuple(layer.initial_state(batch) for layer in self.recurrent_layers())

    def recurrent_layers(self) -> list[RecurrentLayer]:
        return [layer for layer in self.layers if isinstance(layer, RecurrentLayer)]


def _in_eights(values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """On a GPU in half precision, with rows of zeros up to a multiple of eight, else as they are.

    cuDNN's persistent kernels, which keep the recurrent weights on the chip from frame to frame, are chosen for such
    batches alone, of up to 128 rows, where the hidden and the input size are multiples of 128
    (``use_persist_device_heuristics`` in ATen's RNN.cpp).
    """
    missing = -len(values) % 8
    if not missing or not values.is_cuda or not torch.is_autocast_enabled("cuda"):
        return values, lengths
    return functional.pad(values, (0, 0, 0, 0, 0, missing)), functional.pad(lengths, (0, missing), value=1)


class Encoder(nn.Module):
    """Features (B, T, F) to encodings (B, T', size)."""

    def __init__(self, settings: recipe.FeedForward | recipe.Recurrent, bins: int) -> None:
        super().__init__()
        self.front_end = ConvolutionFrontEnd(settings.conv, bins) if settings.conv else None
        self.subsampling: int = settings.conv.subsampling if settings.conv else 1
        inputs = self.front_end.size if self.front_end else bins
        self.stack: FeedForwardStack | RecurrentStack
        if isinstance(settings, recipe.FeedForward):
            self.stack = FeedForwardStack(settings, inputs)
        else:
            self.stack = RecurrentStack(settings, inputs)
        self.size = self.stack.size
        self.local_size = inputs if isinstance(self.stack, RecurrentStack) else self.size

    def forward(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        values, lengths = self.local(values, lengths)
        if isinstance(self.stack, RecurrentStack):
            values, _ = self.stack(values, lengths)
        return values, lengths

    def forward_tapped(self, values: Tensor, lengths: Tensor, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        """As ``forward``, with the encodings of recurrent layer ``layer``, counted from 1, between the two: for a loss
        on a middle layer too (Lee & Watanabe 2021, intermediate CTC). They have the size of the last layer's, so that
        both go through one head."""
        if not isinstance(self.stack, RecurrentStack):
            raise ValueError("a feed-forward stack has no middle layer to tap")
        values, lengths = self.local(values, lengths)
        each = list(self.stack.each_layer(values, lengths))
        return each[-1], each[layer - 1], lengths

    def local(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """What has a finite reach: the front end, and a stack that does not recur."""
        if self.front_end is not None:
            values, lengths = self.front_end(values, lengths)
        if isinstance(self.stack, FeedForwardStack):
            values = self.stack(values, lengths)
        return values, lengths

    @property
    def looks_ahead(self) -> bool:
        """Whether an encoding depends on everything after it."""
        return isinstance(self.stack, RecurrentStack) and self.stack.bidirectional

    @property
    def reach(self) -> int:
        """Of ``local``, in feature frames on either side."""
        reach = self.front_end.reach if self.front_end else 0
        return reach + (self.stack.reach * self.subsampling if isinstance(self.stack, FeedForwardStack) else 0)


def build_encoder(settings: recipe.Encoder, bins: int, own: type[nn.Module] | None = None) -> Encoder:
    """The encoder that a recipe asks for. One of kind ``own`` is the class ``own``, a module with this signature:

        Mine(settings, bins); size, subsampling; forward(values (B, T, bins), lengths (B,)) -> (B, T', size), (B,)

    where T' is T / subsampling, rounded up. Raises RecipeError where class and recipe do not belong together, or where
    the class does otherwise.
    """
    if not isinstance(settings, recipe.Own):
        if own is not None:
            raise RecipeError(f"the encoder is one of asr's own, of kind {settings.kind}, so it takes no class")
        return Encoder(settings, bins)
    name = settings.name.rpartition(":")[2]
    if own is None:
        raise RecipeError(
            f"the encoder is the class {settings.name}, which is code and is never found by its name: pass it from "
            f"Python, asr.load(…, encoder={name}) or asr.train(…, encoder={name})"
        )
    if own.__qualname__ != name:
        raise RecipeError(f"the encoder is the class {settings.name}; found {own.__module__}:{own.__qualname__}")
    module = own(settings, bins)
    _check_signature(module, settings, bins)
    return cast(Encoder, module)  # what needs more than its signature asks for an Encoder first


@torch.no_grad()
def _check_signature(module: nn.Module, settings: recipe.Own, bins: int) -> None:
    """Has ``module`` read two utterances of 33 and 9 frames of zeros. Raises RecipeError."""
    expected = settings.conv.subsampling if settings.conv else 1
    found = getattr(module, "subsampling", None)
    if found != expected:
        raise RecipeError(
            f"{settings.name} has subsampling {found}, and the recipe {expected} (encoder.conv.subsampling; "
            "encoder.conv: null is 1): they must be the same"
        )
    lengths = torch.tensor([33, 9])
    training = module.training
    values, after = module.eval()(torch.zeros(2, 33, bins), lengths)
    module.train(training)
    frames = (lengths - 1) // expected + 1
    shape = (2, int(frames[0]), getattr(module, "size", None))
    if tuple(values.shape) != shape or after.tolist() != frames.tolist():
        raise RecipeError(
            f"{settings.name} makes encodings {tuple(values.shape)} and lengths {after.tolist()} of features "
            f"(2, 33, {bins}) and lengths {lengths.tolist()}; expected (B, T', size) {shape} and {frames.tolist()}"
        )

"""The decoder for emissions of any CTC network: arrays and labels in, n-best lists out.

>>> from asr import CtcDecoder
>>> labels = ["<pad>", "<s>", "</s>", "<unk>", "|", *"etaonihsrdlumwcfgypbvk'xjqz"]
>>> decoder = CtcDecoder(labels, blank=0, kind="logits", ignore=["<s>", "</s>", "<unk>"], hotwords={"saturn": 6.0})
>>> best, *others = decoder.decode(logits)      # (T, V), an array or a tensor
>>> best.text, best.score, best.frames
>>> decoder.words(best, frame_shift=0.02)       # with times in seconds and confidences
>>> decoder.decode_batch(logits, lengths)       # (B, T, V) and (B,): a list of n-best lists
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np

from asr import recipe
from asr.decode.checks import TOLERANCE, array_of, checked_lengths, real_frames
from asr.decode.decoder import Decoder, read_lexicon
from asr.decode.greedy import GreedyDecoder
from asr.decode.words import words_of
from asr.errors import EmissionsError, TextError
from asr.recipe.reading import validate_recipe
from asr.records import BLANK, Emissions, Hypothesis, Word

Kind = Literal["log_probs", "logits", "probabilities"]
KINDS = ("log_probs", "logits", "probabilities")


class Labels:
    """A tokeniser over another network's labels, the blank first. A word boundary is a label " " or "|", or a label's
    beginning with ▁, as sentencepiece has it."""

    def __init__(self, labels: Sequence[str], blank: int) -> None:
        self.order = [blank, *(i for i in range(len(labels)) if i != blank)]
        spelt = [labels[i] for i in self.order]
        pieces = any(label.startswith("▁") for label in spelt[1:])
        self.space = "▁" if pieces else " "
        delimiter = not pieces and " " not in spelt[1:]
        self.tokens = ("<blank>", *(" " if label == "|" and delimiter else label for label in spelt[1:]))
        self._ids = {token: i for i, token in reversed([*enumerate(self.tokens)]) if i != BLANK and token}
        self._longest = max(map(len, self._ids), default=1)

    def encode(self, text: str) -> list[int]:
        """The longest label each time."""
        text, place, ids = (f"▁{text.replace(' ', '▁')}" if self.space == "▁" else text), 0, []
        while place < len(text):
            ends = range(min(len(text), place + self._longest), place, -1)
            end = next((end for end in ends if text[place:end] in self._ids), None)
            if end is None:
                raise TextError(f"{text[place]!r} is spelt by none of the labels")
            ids.append(self._ids[text[place:end]])
            place = end
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join("".join(self.tokens[i] for i in ids if i != BLANK).replace(self.space, " ").split())

    def to_json(self) -> str:
        raise TextError("the labels of another network are not written into a model directory")


class CtcDecoder:
    """Decodes what any CTC network emits.

    ``labels`` are its V outputs in order, with whatever name for the blank, which is ``labels[blank]`` (-1 is the
    last). ``kind`` says what the numbers are: natural-log probabilities, logits, or probabilities. Labels to ``ignore``
    (<s>, <unk>) are never read. ``width`` is the beam's, and 1 reads the best path, without any of the rest.
    ``language_model`` is an ARPA file, weighed by ``alpha``, with ``beta`` for each word and ``unknown`` for one that
    it lacks; ``lexicon`` a file or the words themselves, which are then all that is read; ``hotwords`` are phrases and
    their weights in nats. All are written as the labels are: in capitals, if these are capitals.

    Raises EmissionsError, TextError, LanguageModelError and RecipeError for what does not fit together.
    """

    def __init__(
        self,
        labels: Sequence[str],
        *,
        blank: int = 0,
        kind: Kind = "log_probs",
        ignore: Iterable[str] = (),
        width: int = 64,
        nbest: int = 1,
        language_model: str | PathLike[str] | None = None,
        alpha: float = 0.5,
        beta: float = 1.0,
        unknown: float = -5.0,
        lexicon: str | PathLike[str] | Iterable[str] | None = None,
        hotwords: Mapping[str, float] | None = None,
    ) -> None:
        labels = list(labels)
        if kind not in KINDS:
            raise EmissionsError(f"kind is one of {', '.join(KINDS)}; found {kind!r}")
        if not all(isinstance(label, str) for label in labels) or len(labels) < 2:
            raise TextError(
                f"labels are strings, one for each of the network's outputs, the blank's too; found {labels}"
            )
        if not -len(labels) <= blank < len(labels):
            raise TextError(f"the blank is one of the {len(labels)} labels, counted from 0; found {blank}")
        self.kind = kind
        self._tokeniser = Labels(labels, blank % len(labels))
        strange = {*ignore} - {*labels}
        if strange:
            raise TextError(f"{sorted(strange)[0]!r} is to be ignored and is none of the labels")
        ignored = {*ignore} - {labels[blank]}
        self._ignored = [i for i, place in enumerate(self._tokeniser.order) if labels[place] in ignored]
        settings = validate_recipe(
            {"width": width, "alpha": alpha, "beta": beta, "unknown": unknown}, "CtcDecoder", schema=recipe.Beam
        )
        self._decoder: Decoder = GreedyDecoder(self._tokeniser)
        if width > 1 or language_model is not None or lexicon is not None or hotwords:
            self._decoder = self._beam(settings, nbest, language_model, lexicon, hotwords or {})

    def _beam(
        self,
        settings: recipe.Beam,
        nbest: int,
        language_model: str | PathLike[str] | None,
        lexicon: str | PathLike[str] | Iterable[str] | None,
        hotwords: Mapping[str, float],
    ) -> Decoder:
        from asr.decode.beam import BeamDecoder, Knowledge  # numba's import takes a second
        from asr.decode.fusion import Fusion
        from asr.decode.ngram import NgramModel

        model = None if language_model is None else NgramModel.load(Path(language_model))
        words = read_lexicon(Path(lexicon), "none") if isinstance(lexicon, str | PathLike) else lexicon
        knowledge = Knowledge()
        if model is not None or words is not None or hotwords:
            words = None if words is None else [*words]
            fusion = Fusion(self._tokeniser, model=model, lexicon=words, hotwords=hotwords)
            knowledge = Knowledge(fusion=fusion).weighed(settings)
        return BeamDecoder(self._tokeniser, settings, knowledge, nbest=max(nbest, 1))

    def decode(self, emissions: Any) -> tuple[Hypothesis, ...]:
        """The readings of one utterance, (T, V), the best one first; tokens are places in ``labels``."""
        array = array_of(emissions, "emissions")
        if array.ndim != 2:
            raise EmissionsError(f"one utterance's emissions are (T, V); found the shape {array.shape}")
        return self.decode_batch(array[None])[0]

    def decode_batch(self, emissions: Any, lengths: Any = None) -> list[tuple[Hypothesis, ...]]:
        """The readings of each utterance of a batch, (B, T, V), of ``lengths`` (B,) frames, all of T if left out."""
        array = array_of(emissions, "emissions")
        order = self._tokeniser.order
        if array.ndim != 3 or array.shape[2] != len(order):
            raise EmissionsError(
                f"a batch's emissions are (B, T, {len(order)}), a number for each label; found the shape {array.shape}"
            )
        count, frames = array.shape[:2]
        lengths = checked_lengths(np.full(count, frames) if lengths is None else lengths, count, frames)
        values = array[..., order].astype(np.float32)
        log_probs = _log_probs(values, self.kind, real_frames(lengths, frames))
        if self._ignored:
            log_probs[..., self._ignored] = -np.inf
            nothing_else = log_probs.max(axis=-1, keepdims=True) == -np.inf
            log_probs = np.where(nothing_else, log_probs, _log_softmax(log_probs))
        read = self._decoder(Emissions(log_probs=log_probs, lengths=lengths, frame_shift=1.0))
        return [tuple(replace(h, tokens=tuple(order[i] for i in h.tokens)) for h in readings) for readings in read]

    def words(self, hypothesis: Hypothesis, *, frame_shift: float) -> tuple[Word, ...]:
        """A reading's words, with times in seconds where ``frame_shift`` seconds lie between frames."""
        place = {label: i for i, label in enumerate(self._tokeniser.order)}
        own = replace(hypothesis, tokens=tuple(place[label] for label in hypothesis.tokens))
        return words_of(own, self._tokeniser, frame_shift)


def _log_probs(values: np.ndarray, kind: Kind, real: np.ndarray) -> np.ndarray:
    """Natural-log probabilities of ``values`` (B, T, V), float32, which are of this kind where ``real`` (B, T).

    Log probabilities are left for the decoder to check. Raises EmissionsError.
    """
    if kind == "log_probs":
        return values
    rows = values[real]
    sums_to_one = np.abs(rows.sum(axis=-1) - 1) <= TOLERANCE
    distributed = sums_to_one & (rows >= 0).all(axis=-1)
    if kind == "logits":
        if len(rows) and distributed.all():
            raise EmissionsError("these are probabilities and no logits: they are from 0 to 1 and sum to 1")
        return _log_softmax(values)
    if not distributed.all():
        row = rows[~distributed][0]
        raise EmissionsError(
            f"probabilities are from 0 to 1 and sum to 1; found a frame of {float(row.min()):.4g} to "
            f"{float(row.max()):.4g} that sum to {float(row.sum()):.4g}"
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.log(values))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis. Where there is NaN or infinity among the logits of a frame, all are NaN, which decoders
    refuse."""
    with np.errstate(invalid="ignore"):
        logits = logits - logits.max(axis=-1, keepdims=True)
        return np.asarray(logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)))

"""Others' CTC decoders behind one face, for `decode`: a builder takes a search and returns a decoder.

They come with the extra `peers`, but for pyctcdecode: it works with numpy 2 and refuses to be installed beside it, so
`pip install --no-deps pyctcdecode`. Each is driven as its documentation says, at one pruning for all.
"""

from __future__ import annotations

import functools
import itertools
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Decode = Callable[[np.ndarray], str]
"""From one utterance's emissions, as its peer's ``reads`` gave them, to text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What to decode with. Scores are natural logs.

    ``tokens[0]`` is the blank and ``space``, where it is a token, parts words. Where tokens are phones,
    ``pronunciations`` says which spell each word. A token is tried in frames where its log-probability passes
    ``token_threshold``; ``token_limit`` says the same as a count, for who prunes by one. A prefix is dropped where the
    best is ahead of it by more than ``score_threshold``. The language model in ``arpa`` weighs ``alpha``, a word earns
    ``beta``, and one outside its vocabulary ``unknown`` too.
    """

    tokens: tuple[str, ...]
    space: str
    beam: int
    token_threshold: float
    token_limit: int
    score_threshold: float
    arpa: Path | None
    alpha: float
    beta: float
    unknown: float
    pronunciations: Mapping[str, list[list[int]]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """``reads`` turns log-probabilities (T', V) float32 into what the decoder takes; it is not timed."""

    modules: tuple[str, ...]
    build: Callable[[Search], Decode]
    reads: Callable[[np.ndarray, Search], np.ndarray] = lambda log_probs, _search: log_probs
    language_model: bool = True
    phones: bool = False


def _fast_ctc_decode(search: Search) -> Decode:
    from fast_ctc_decode import beam_search

    # It refuses a threshold of a uniform distribution's probability or more.
    threshold = min(math.exp(search.token_threshold), 0.99 / len(search.tokens))
    return lambda probabilities: beam_search(probabilities, search.tokens, search.beam, threshold)[0]


def _flashlight(search: Search) -> Decode:
    """Sums over paths (``log_add``), as the others do. With a language model: words of its vocabulary alone."""
    from flashlight.lib.text import decoder as flashlight
    from flashlight.lib.text.decoder.kenlm import KenLM
    from flashlight.lib.text.dictionary import Dictionary

    blank, threshold = 0, search.score_threshold
    separator = [search.tokens.index(search.space)] if search.space in search.tokens else []
    silence = separator[0] if separator else blank  # what lasts between two words
    sums, ctc = True, flashlight.CriterionType.CTC
    if search.arpa is None:
        letters = flashlight.LexiconFreeDecoderOptions(search.beam, search.token_limit, threshold, 0.0, 0.0, sums, ctc)
        free = flashlight.LexiconFreeDecoder(letters, flashlight.ZeroLM(), silence, blank, [])

        def spell(log_probs: np.ndarray) -> str:
            path = free.decode(log_probs.ctypes.data, *log_probs.shape)[0].tokens
            return "".join(search.tokens[token] for token, _ in itertools.groupby(path) if token != blank)

        return spell

    spellings = search.pronunciations or _spelled(search)
    words = [word for word in _vocabulary(search.arpa) if word in spellings]
    dictionary = Dictionary([*words, "<unk>"])
    model = KenLM(str(search.arpa), dictionary)
    start = model.start(False)
    trie = flashlight.Trie(len(search.tokens), silence)
    for i, word in enumerate(words):
        score = model.score(start, i)[1]
        for spelling in spellings[word]:
            trie.insert([*spelling, *separator], i, score)
    trie.smear(flashlight.SmearingMode.MAX)
    alpha = search.alpha * math.log(10)  # KenLM's scores are decimal, and it leaves them so
    options = flashlight.LexiconDecoderOptions(
        search.beam, search.token_limit, threshold, alpha, search.beta, -math.inf, 0.0, sums, ctc
    )
    lexical = flashlight.LexiconDecoder(options, trie, model, silence, blank, len(words), [], False)

    def decode(log_probs: np.ndarray) -> str:
        found = lexical.decode(log_probs.ctypes.data, *log_probs.shape)[0].words
        return " ".join(words[i] for i in found if 0 <= i < len(words))

    return decode


def _spelled(search: Search) -> dict[str, list[list[int]]]:
    """The words of the language model in letters, as far as there are tokens for them."""
    assert search.arpa
    ids = {token: i for i, token in enumerate(search.tokens)}
    return {word: [[ids[c] for c in word]] for word in _vocabulary(search.arpa) if set(word) <= ids.keys()}


def _closed_by_a_space(log_probs: np.ndarray, search: Search) -> np.ndarray:
    """A flashlight word ends in a space, the utterance's last one too: one more frame that says nothing else."""
    if search.arpa is None or search.space not in search.tokens:
        return log_probs
    frame = np.full((1, log_probs.shape[1]), -1e3, np.float32)
    frame[0, search.tokens.index(search.space)] = 0.0
    return np.concatenate([log_probs, frame])


def _ctc_beam_decoder(search: Search) -> Decode:
    from ctc_beam_decoder import build_ctcdecoder

    return _pyctcdecode_like(build_ctcdecoder, search)


def _pyctcdecode(search: Search) -> Decode:
    from pyctcdecode import build_ctcdecoder

    logging.getLogger("pyctcdecode").setLevel(logging.ERROR)
    return _pyctcdecode_like(build_ctcdecoder, search)


def _pyctcdecode_like(build: Callable[..., Any], search: Search) -> Decode:
    decoder = build(
        ["", *search.tokens[1:]],
        None if search.arpa is None else str(search.arpa),
        alpha=search.alpha,
        beta=search.beta,
        unk_score_offset=search.unknown,
    )
    decode = functools.partial(
        decoder.decode,
        beam_width=search.beam,
        beam_prune_logp=-search.score_threshold,
        token_min_logp=search.token_threshold,
    )
    return lambda log_probs: decode(log_probs)


def _vocabulary(arpa: Path) -> list[str]:
    with arpa.open(encoding="utf-8") as file:
        lines = itertools.takewhile(lambda line: not line.startswith("\\2-grams:"), file)
        unigrams = itertools.dropwhile(lambda line: not line.startswith("\\1-grams:"), lines)
        words = [fields[1] for fields in map(str.split, unigrams) if len(fields) > 1]
    return [word for word in words if word not in {"<s>", "</s>", "<unk>"}]


DECODERS = {
    "fast-ctc-decode": Decoder(
        modules=("fast_ctc_decode",),
        build=_fast_ctc_decode,
        reads=lambda log_probs, _search: np.exp(log_probs),
        language_model=False,
    ),
    "flashlight-text": Decoder(
        modules=("flashlight.lib.text.decoder",), build=_flashlight, reads=_closed_by_a_space, phones=True
    ),
    "ctc-beam-decoder": Decoder(modules=("ctc_beam_decoder",), build=_ctc_beam_decoder),
    "pyctcdecode": Decoder(modules=("pyctcdecode", "kenlm"), build=_pyctcdecode),
}

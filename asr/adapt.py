"""Adapting a model to a text without training: new words are pronounced, and the language model is mixed with the
text's. The network stays as it is."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from asr import checkpoint, files, recipe
from asr.decode.arpa import UNKNOWN
from asr.decode.decoder import read_lexicon
from asr.decode.fusion import MARK
from asr.decode.ngram import NgramModel
from asr.errors import CheckpointError, TextError
from asr.text.pronounce import PronunciationLexicon
from asr.text.tokenise import PhoneTokeniser, Tokeniser, lm_symbols

LANGUAGE_MODEL, LEXICON = "adapted.ngrams", "adapted-lexicon.txt"
ORDER = 3
NOT_COPIED = ("training", "metrics.jsonl", "training.png", "hypotheses.jsonl", checkpoint.LAST_WEIGHTS)
"""Of a model directory, what its training needs and recognition does not."""
NAMED = 5
"""Words named in a sentence."""

Estimate = Callable[[Iterable[Sequence[str]], int], NgramModel]
"""The model of sentences of symbols, with n-grams up to an order."""
Mix = Callable[[Sequence[NgramModel], Sequence[float]], NgramModel]
"""Models and their weights, which sum to one, to their linear interpolation."""
Share = Callable[[NgramModel, Sequence[Sequence[str]]], float]
"""A model and the sentences that it is to be mixed with, to the weight of these, in (0, 1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapted:
    """What a model took from ``sentences`` sentences of ``words`` different words: those that are ``new`` to its
    language model, and those that it can neither spell nor pronounce. ``weight``: the text's share in the language
    model, None where the model had none before."""

    sentences: int
    words: int
    new: tuple[str, ...]
    lacking: tuple[str, ...]
    weight: float | None


def adapt(
    model: Path, sentences: Iterable[str], out: Path, *, share: float | Share, estimate: Estimate, mix: Mix
) -> Adapted:
    """Writes a copy of the model directory ``model`` to ``out``, whole or not at all, that knows ``sentences``, which
    are normalised as the model's are. ``share`` is the text's in the language model, in (0, 1), or what chooses it.

    Raises CheckpointError where ``model`` is none or ``out`` is there already, TextError where the text is empty or
    where the model can write none of its words, and LanguageModelError.
    """
    settings, tokeniser = checkpoint.load_description(model)
    if out.exists():
        raise CheckpointError(f"{out} is there already: name a folder that is not")
    if isinstance(settings.decoder, recipe.Phrases):
        raise CheckpointError(f"{model} hears the phrases of a grammar alone, and no text changes those")
    checkpoint.check_paths(model, settings.decoder)
    decoder = settings.decoder if isinstance(settings.decoder, recipe.Beam) else recipe.Beam()
    own = NgramModel.load(model / decoder.language_model) if decoder.language_model else None
    lines = [sentence.split() for sentence in sentences]
    learnt = _learn(model, tokeniser, own, lines)
    symbols = _symbols(tokeniser, own, {*learnt.lacking})
    spelled = [symbols(line) for line in lines]
    text = estimate(spelled, ORDER)
    if own is not None:
        learnt = replace(learnt, weight=share if isinstance(share, float) else share(own, spelled))

    with _copied(model, out, without=decoder.language_model) as copy:
        mixed = mix([own, text], [1 - learnt.weight, learnt.weight]) if own and learnt.weight else text
        mixed.save(copy / LANGUAGE_MODEL)
        if isinstance(tokeniser, PhoneTokeniser):
            written = {word for line in lines for word in line} - {*learnt.lacking, *tokeniser.lexicon}
            tokeniser.lexicon = tokeniser.lexicon.extended(sorted(written))
            checkpoint.save_lexicon(copy, tokeniser)
        decoder = _decoder_of(decoder, model, copy, learnt.new)
        checkpoint.save_recipe(copy, settings.model_copy(update={"decoder": decoder}))
        _note(copy, {"from": str(model.absolute()), **asdict(learnt)})
    return learnt


def _learn(model: Path, tokeniser: Tokeniser, own: NgramModel | None, lines: Sequence[Sequence[str]]) -> Adapted:
    """What there is to learn from ``lines``. Raises TextError where there is nothing."""
    words = list(dict.fromkeys(word for line in lines for word in line))
    if not words:
        raise TextError("the text holds no words, so there is nothing to adapt the model to")
    writable = set(_writable(tokeniser, words))
    lacking = tuple(word for word in words if word not in writable)
    if not writable:
        raise TextError(
            f"{model} can write none of the {len(words)} words of the text ({', '.join(lacking[:NAMED])}): is the text "
            "in its language?"
        )
    known = writable if own is not None and _is_over_tokens(own) else {*own.words} if own else set()
    new = tuple(word for word in words if word in writable and word not in known)
    return Adapted(sentences=len(lines), words=len(words), new=new, lacking=lacking, weight=None)


def _writable(tokeniser: Tokeniser, words: Sequence[str]) -> Iterator[str]:
    """Those of ``words`` that the model can spell, or pronounce in its phones."""
    if isinstance(tokeniser, PhoneTokeniser):
        pronounced = PronunciationLexicon(tokeniser.lexicon.pronounced(words)).within(tokeniser.tokens)
        yield from pronounced
        return
    for word in words:
        with contextlib.suppress(TextError):
            tokeniser.encode(word)
            yield word


def _is_over_tokens(model: NgramModel) -> bool:
    return any(word.startswith(MARK) for word in model.words)


def _symbols(tokeniser: Tokeniser, own: NgramModel | None, lacking: set[str]) -> Callable[[Sequence[str]], list[str]]:
    """What makes a sentence's words the symbols of a language model: words or, where the model's own is over its
    tokens, those. Words that it cannot write are <unk>, or left out."""
    if own is None or not _is_over_tokens(own):
        return lambda line: [UNKNOWN if word in lacking else word for word in line]
    symbols = lm_symbols(tokeniser)
    return lambda line: [
        symbols[token] for token in tokeniser.encode(" ".join(word for word in line if word not in lacking))
    ]


def _decoder_of(decoder: recipe.Beam, model: Path, copy: Path, new: Sequence[str]) -> recipe.Beam:
    """The model's decoder, otherwise as it is, with the mixed language model and the new words."""
    changes: dict[str, Any] = {"language_model": LANGUAGE_MODEL}
    if decoder.lexicon is not None:
        words = dict.fromkeys([*read_lexicon(model / decoder.lexicon, "none"), *new])
        with files.replacing(copy / LEXICON) as file:
            file.writelines(f"{word}\n" for word in words)
        changes["lexicon"] = LEXICON
    return decoder.model_copy(update=changes)


@contextlib.contextmanager
def _copied(model: Path, out: Path, *, without: str | None) -> Iterator[Path]:
    """A copy of ``model`` to be changed, which becomes ``out`` at the end; the file ``without`` is left out of it."""
    aside = out.with_name(f".{out.name}.partial")
    left_out = {*NOT_COPIED, *([without] if without else [])}
    try:
        shutil.rmtree(aside, ignore_errors=True)  # what a killed call left
        # Links stay links: what they lead to may lie outside the model directory.
        shutil.copytree(model, aside, symlinks=True, ignore=lambda _folder, names: left_out & {*names})
        yield aside
        aside.rename(out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _note(directory: Path, record: dict[str, Any]) -> None:
    """Writes to meta.json what the model was adapted to. Raises CheckpointError."""
    try:
        meta = json.loads((directory / "meta.json").read_text(encoding="utf-8"))
        checkpoint.save_meta(directory, {**meta, "adapted": [*meta.get("adapted", ()), record]})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{directory} is not a whole model directory: meta.json: {error}") from error

"""The words that a search over pronunciations can find: a tree of phones, and what a language model knows of them.

Of a hundred thousand words that takes seconds to make. What a model directory's lexicon and its language model make
together is kept in the cache directory, until either changes, and mapped from there.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.numpy import save as safetensors

from asr import files
from asr.decode.fusion import exemption_of, unigrams_of
from asr.decode.mapped import UNREADABLE, map_tensors
from asr.decode.ngram import NgramModel
from asr.decode.tree import LONGEST, best_below, build_tree
from asr.errors import AsrError, LanguageModelError, TextError
from asr.text.tokenise import PhoneTokeniser


class PhoneTree(NamedTuple):
    """Pronunciations as a tree of token ids, see ``Tree``, with E of them that end somewhere.

    ``first_end`` (N + 1,): those that end at place i are ``first_end[i]`` to ``first_end[i + 1] - 1``. Of each, its
    ``word`` (E,), the ``log_prob`` (E,) that the word is pronounced so, and whether it is the ``only`` one (E,) of the
    word. ``best`` (N,) is the unigram log probability of the likeliest word at or below a place, -inf where the
    language model knows none of them.
    """

    first_child: np.ndarray
    symbol: np.ndarray
    first_end: np.ndarray
    word: np.ndarray
    log_prob: np.ndarray
    only: np.ndarray
    best: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class SpokenWords:
    """The W ``words`` and their ``tree``, at one place of which ``most`` words end at the most.

    ``unit`` (W,) int32 are their ids in the language model, ``foreign`` (W,) says which of them it lacks and nobody
    asked for by name.
    """

    words: tuple[str, ...]
    unit: np.ndarray
    foreign: np.ndarray
    tree: PhoneTree
    most: int

    @classmethod
    def make(
        cls,
        tokeniser: PhoneTokeniser,
        model: NgramModel | None,
        closed: Sequence[str] | None = None,
        named: Iterable[str] = (),
    ) -> SpokenWords:
        """Of the tokeniser's lexicon, or of the words ``closed`` alone; ``named`` words must have a pronunciation.

        Raises TextError, and LanguageModelError where ``model`` knows none of the words.
        """
        entries = pronounce(tokeniser, closed, named)
        words = tuple(dict.fromkeys(word for _, word, _ in entries))
        unit, foreign, unigrams = _know(words, model, {*named})
        index = {word: i for i, word in enumerate(words)}
        tree, most = _build_tree(entries, index, unigrams)
        return cls(words=words, unit=unit, foreign=foreign, tree=tree, most=most)

    @classmethod
    def keep(cls, tokeniser: PhoneTokeniser, model: NgramModel | None) -> SpokenWords:
        """``make`` of the tokeniser's lexicon and no words by name, from the cache directory where it is there."""
        source = tokeniser.lexicon.source
        if source is None:
            return cls.make(tokeniser, model)
        name = hashlib.sha256(f"{source.path} {model is None}".encode()).hexdigest()[:16]
        kept = files.cache_directory() / "lexicons" / f"{name}.safetensors"
        made_of = _describe(tokeniser, model)
        with contextlib.suppress(OSError, *UNREADABLE):
            return cls._map(kept, made_of)
        words = cls.make(tokeniser, model)
        with contextlib.suppress(AsrError):  # a cache that cannot be written costs time, not the words
            words._save(kept, made_of)
        return words

    @classmethod
    def _map(cls, path: Path, made_of: str) -> SpokenWords:
        metadata, tensors, _ = map_tensors(path)
        if (metadata["made_of"], metadata["checksum"]) != (made_of, _checksum(tensors)):
            raise ValueError("it was made of something else, or is damaged")
        return cls(
            words=tuple(tensors["spelling"].tobytes().decode().split("\n")),
            unit=tensors["unit"],
            foreign=tensors["foreign"],
            tree=PhoneTree(*(tensors[f"tree.{name}"] for name in PhoneTree._fields)),
            most=int(metadata["most"]),
        )

    def _save(self, path: Path, made_of: str) -> None:
        tensors = {
            "spelling": np.frombuffer("\n".join(self.words).encode(), np.uint8),
            "unit": self.unit,
            "foreign": self.foreign,
            **{f"tree.{name}": array for name, array in self.tree._asdict().items()},
        }
        metadata = {"made_of": made_of, "checksum": _checksum(tensors), "most": str(self.most)}
        with files.replacing(path, "wb") as file:
            file.write(safetensors(tensors, metadata))

    def has(self, words: Iterable[str]) -> bool:
        """Whether it has all of ``words``, and its language model too, so that to ask for them changes nothing."""
        asked = {*words}
        if not asked:
            return True
        known = {word for word, foreign in zip(self.words, self.foreign.tolist(), strict=True) if not foreign}
        return asked <= known


def _describe(tokeniser: PhoneTokeniser, model: NgramModel | None) -> str:
    """What tells words that are kept from those of any other lexicon, language model or version."""
    hashed = hashlib.sha256()
    if model is not None:
        hashed.update("\n".join(model.words).encode())
        hashed.update(unigrams_of(model).tobytes())
    source, settings = tokeniser.lexicon.source, tokeniser.settings.model_dump(mode="json")
    content = source and [source.content, *source.extended]
    return json.dumps([_version(), content, tokeniser.tokens, settings, hashed.hexdigest()])


@functools.cache
def _version() -> str:
    """Another one with any change of what reads and pronounces words, by rule too, and builds their tree: nobody has to
    remember to count it up."""
    hashed = hashlib.sha256()
    for path in _makers():
        hashed.update(f"{path.name} {path.stat().st_size} ".encode() + path.read_bytes())
    return hashed.hexdigest()


def _makers() -> list[Path]:
    """The source of that: this room's, the texts', and the model directories'."""
    room = Path(__file__).parent
    return sorted([*room.glob("*.py"), *(room.parent / "text").glob("*.py"), room.parent / "checkpoint.py"])


def _checksum(tensors: Mapping[str, np.ndarray]) -> str:
    checksum = 0
    for name in sorted(tensors):
        checksum = zlib.crc32(np.ascontiguousarray(tensors[name]).view(np.uint8).data, checksum)
    return str(checksum)


Entry = tuple[str, str, float]
"""A pronunciation: a character for each token, whose id is its code point; the word; log probability."""


def pronounce(tokeniser: PhoneTokeniser, closed: Sequence[str] | None, named: Iterable[str]) -> list[Entry]:
    """The pronunciations of the lexicon's words, or of ``closed`` alone, sorted; of ``named`` words there must be one.

    Raises TextError.
    """
    for word in named:
        tokeniser.pronounce(word)
    lexicon = tokeniser.lexicon
    letter = {phone: chr(i) for i, phone in enumerate(tokeniser.tokens) if i}
    entries: list[Entry] = []
    for word in dict.fromkeys(lexicon if closed is None else closed):
        ways: dict[str, float] = {}
        for way in lexicon[word]:
            try:
                spelled = "".join([letter[phone] for phone in way.phones])
            except KeyError:
                continue  # in phones that the model has never heard
            if 0 < len(spelled) <= LONGEST:
                ways[spelled] = ways.get(spelled, 0.0) + way.probability
        entries += [(spelled, word, math.log(probability)) for spelled, probability in ways.items()]
    if not entries:
        raise TextError("the lexicon pronounces no word in the model's phones")
    return sorted(entries)


def uniform(words: Sequence[str]) -> float:
    return -math.log(len(words))


def _know(words: Sequence[str], model: NgramModel | None, named: Set[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each word (W,): its id in the model, whether it costs ``unknown``, which ``named`` ones never do, and its
    unigram log probability, -inf where it does. Raises LanguageModelError where the model knows none."""
    if model is None:
        return np.zeros(len(words), np.int32), np.zeros(len(words), bool), np.full(len(words), uniform(words))
    unit = np.array([model.index(word) for word in words], np.int32)
    lacking = unit == model.unknown
    if lacking.all():
        raise LanguageModelError(
            f"the language model knows none of the {len(words)} words of the lexicon, "
            f'"{words[0]}" for one: is it written otherwise?'
        )
    foreign = lacking & np.array([word not in named for word in words])
    unigrams = unigrams_of(model)[unit] + np.where(lacking, exemption_of(model), 0.0)
    return unit, foreign, np.where(foreign, -np.inf, unigrams)


def _build_tree(entries: Sequence[Entry], index: Mapping[str, int], unigrams: np.ndarray) -> tuple[PhoneTree, int]:
    """The tree of sorted ``entries``, whose words have these ids and ``unigrams`` (W,), and how many words end at one
    place at most."""
    spelled, names, log_probs = zip(*entries, strict=True)
    tree = build_tree(spelled)
    words = np.array([index[name] for name in names])
    order = np.argsort(tree.ends, kind="stable")
    counts = np.bincount(tree.ends, minlength=len(tree.symbol))
    phones = PhoneTree(
        first_child=tree.first_child,
        symbol=tree.symbol,
        first_end=np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
        word=words[order].astype(np.int32),
        log_prob=np.array(log_probs)[order],
        only=(np.bincount(words)[words] == 1)[order],
        best=best_below(tree, unigrams[words]).astype(np.float32),
    )
    return phones, int(counts.max())

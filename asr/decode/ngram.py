"""Back-off n-gram language models (Katz 1987): a trie in flat arrays, read from ARPA files, scored by numba code.

Words are integers, and so are states: a state is the node of the trie that spells the longest history that can still
matter, so that two histories after which every continuation scores alike are mostly one state. All scores are natural
logs. A symbol may be a word or a sub-word piece; nothing here knows the difference.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import math
import mmap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.numpy import save

from asr import files
from asr.decode.arpa import END, MAX_ORDER, START, UNKNOWN, Arpa, Section, read_arpa, repeats_remark
from asr.decode.compiled import compiled
from asr.errors import AsrError, LanguageModelError

log = logging.getLogger(__name__)

FORMAT = "asr n-gram 1"
_READING = 2
"""Raised where an ARPA file is read to other numbers than before, so that what is kept of it is made anew."""
LOG_ZERO = -90 * math.log(10)
"""A log probability below stands for none: SRILM writes log10 p = -99, KenLM -100."""
ROOT = 0
"""The state with no history."""
_TYPES = {
    "words": np.int32,
    "log_probs": np.float32,
    "suffixes": np.int32,
    "backoffs": np.float32,
    "first_child": np.int32,
    "spelling": np.uint8,
}
"""What a saved model holds: NgramArrays, and the words in UTF-8, parted by line feeds."""


class NgramArrays(NamedTuple):
    """The n-grams of every order as the N nodes of one trie, of which the first I may have children.

    Node 0 is the root, node 1 + w the unigram of word w; the longer n-grams follow, order by order, those with the
    same context side by side and sorted by their last word. The children of node i, which are the n-grams that extend
    it by one word, are the nodes ``first_child[i]`` to ``first_child[i + 1] - 1``.
    """

    words: np.ndarray
    """(N,) int32: the last word."""
    log_probs: np.ndarray
    """(N,) float32: log p(last word | the words before it)."""
    suffixes: np.ndarray
    """(N,) int32: the state that is left when the first word is forgotten. It has fewer words, and comes earlier."""
    backoffs: np.ndarray
    """(I,) float32: log back-off weight of the node as a context."""
    first_child: np.ndarray
    """(I + 1,) int32."""


@compiled
def find_child(arrays: NgramArrays, state: int, word: int) -> int:
    """The node of ``state``'s words and then ``word``, or -1 where the model lists no such n-gram."""
    if state == ROOT:
        return 1 + word
    low, end = arrays.first_child[state], arrays.first_child[state + 1]
    high = end
    while low < high:
        middle = (low + high) >> 1
        if arrays.words[middle] < word:
            low = middle + 1
        else:
            high = middle
    return low if low < end and arrays.words[low] == word else -1


@compiled
def advance(arrays: NgramArrays, state: int, word: int) -> tuple[float, int]:
    """log p(word | state), and the state after it.

    Nothing is checked here: ``state`` comes from this function, NgramModel.start or ROOT, and ``word`` is in [0, V).
    """
    backed_off = 0.0
    node = find_child(arrays, state, word)
    while node < 0:
        backed_off += arrays.backoffs[state]
        state = arrays.suffixes[state]
        node = find_child(arrays, state, word)
    # What nothing extends and costs nothing to leave predicts as its suffix does.
    matters = node < len(arrays.backoffs) and (
        arrays.first_child[node] < arrays.first_child[node + 1] or arrays.backoffs[node] != 0
    )
    return backed_off + arrays.log_probs[node], node if matters else arrays.suffixes[node]


@compiled
def walk(arrays: NgramArrays, state: int, words: np.ndarray) -> np.ndarray:
    """log p of each of ``words`` (U,) after ``state`` and those before it: (U,) float64."""
    log_probs = np.empty(len(words))
    for i in range(len(words)):
        log_probs[i], state = advance(arrays, state, words[i])
    return log_probs


@dataclass(frozen=True, slots=True, kw_only=True)
class Perplexity:
    """How well a model predicts a text: sums of natural logs over its ``words`` and its ``sentences``' ends.

    ``oovs`` of the words are outside the vocabulary and were scored as <unk>, ``oov_log_prob`` in sum, which
    ``log_prob`` includes.
    """

    words: int
    oovs: int
    sentences: int
    log_prob: float
    oov_log_prob: float

    @property
    def including_oov(self) -> float:
        return _perplexity(self.log_prob, self.words + self.sentences)

    @property
    def excluding_oov(self) -> float:
        return _perplexity(self.log_prob - self.oov_log_prob, self.words - self.oovs + self.sentences)

    @property
    def oov_rate(self) -> float:
        return self.oovs / self.words if self.words else 0.0


def _perplexity(log_prob: float, events: int) -> float:
    return float(np.exp(min(-log_prob / events, 700.0)))


@dataclass(frozen=True, slots=True, kw_only=True)
class NgramModel:
    """A back-off model of n-grams up to ``order``; ``words[i]`` spells word i, ``start`` is the state after <s>.

    ``rarest`` is the smallest log probability of a listed word with no history. ``remarks`` are sentences about what
    was not as it should be where the model came from.
    """

    order: int
    words: tuple[str, ...]
    arrays: NgramArrays
    start: int
    unknown: int
    end: int
    rarest: float
    remarks: tuple[str, ...]
    _index: dict[str, int]

    @classmethod
    def load(cls, path: Path) -> NgramModel:
        """The model in an ARPA file, plain or compressed, or in one that ``save`` wrote; its remarks are logged.

        An ARPA file is read once: what became of it is kept in the cache directory until the file changes. A model
        that gives no probability to words that it does not list, because it has no <unk> or one of log10 p = -99, gives
        them that of its rarest word. Raises LanguageModelError.
        """
        model = cls._load(path)
        for remark in model.remarks:
            log.warning(f"{path}: {remark}")
        return model

    @classmethod
    def _load(cls, path: Path) -> NgramModel:
        if _is_compiled(path):
            return _map(path)
        try:
            status, resolved = path.stat(), path.resolve()
        except OSError as error:
            raise LanguageModelError(f"{path} cannot be read: {error.strerror or error}") from error
        source = f"{resolved} {status.st_size} {status.st_mtime_ns} {_READING}"
        name = f"{path.name}-{hashlib.sha256(str(resolved).encode()).hexdigest()[:16]}.safetensors"
        kept = files.cache_directory() / "ngrams" / name
        with contextlib.suppress(LanguageModelError):
            return _map(kept, source)
        model = cls.from_arpa(read_arpa(path), str(path))
        with contextlib.suppress(AsrError):  # a cache that cannot be written costs time, not the model
            model.save(kept, source)
        return model

    @classmethod
    def from_arpa(cls, arpa: Arpa, name: str = "the model") -> NgramModel:
        """Raises LanguageModelError, naming the line of ``name``, where an n-gram lacks its context, or where <s> or
        </s> is missing. Of an n-gram that is there twice the first counts, and a remark says so."""
        arrays, remarks = _build(arpa, name)
        return cls._of(arpa.words, arrays, len(arpa.sections), name, (*arpa.remarks, *remarks))

    @classmethod
    def _of(
        cls, words: tuple[str, ...], arrays: NgramArrays, order: int, name: str, remarks: tuple[str, ...]
    ) -> NgramModel:
        index = {word: i for i, word in enumerate(words)}
        if missing := [word for word in (START, END, UNKNOWN) if word not in index]:
            raise LanguageModelError(f"{name} cannot score sentences: it has no {' and no '.join(missing)}")
        rarest, remark = _price_unknown(arrays, index)
        return cls(
            order=order,
            words=words,
            arrays=arrays,
            start=advance(arrays, ROOT, index[START])[1],
            unknown=index[UNKNOWN],
            end=index[END],
            rarest=rarest,
            remarks=(*remarks, remark) if remark else remarks,
            _index=index,
        )

    def save(self, path: Path, source: str = "") -> None:
        """Writes the model in the form that loads at once: safetensors, so that nothing in it can run."""
        spelling = np.frombuffer("\n".join(self.words).encode(), np.uint8)
        remarks = json.dumps(self.remarks, ensure_ascii=False)
        metadata = {"format": FORMAT, "order": str(self.order), "source": source, "remarks": remarks}
        with files.replacing(path, "wb") as file:
            file.write(save({**self.arrays._asdict(), "spelling": spelling}, metadata))

    def index(self, word: str) -> int:
        """The word's id; that of <unk> where the model does not know it."""
        return self._index.get(word, self.unknown)

    def score(self, words: Sequence[str], *, bos: bool = True, eos: bool = True) -> list[float]:
        """log p of each word after those before it, and last, with ``eos``, of the sentence's end."""
        ids = [self.index(word) for word in words] + [self.end] * eos
        scores: list[float] = walk(self.arrays, self.start if bos else ROOT, np.array(ids, np.int32)).tolist()
        return scores

    def perplexity(self, sentences: Iterable[Sequence[str]]) -> Perplexity:
        """Over all ``sentences``, pooled. Raises LanguageModelError where there are none."""
        words = oovs = count = 0
        log_prob = oov_log_prob = 0.0
        for sentence in sentences:
            scores = self.score(sentence)
            unknown = [score for word, score in zip(sentence, scores, strict=False) if word not in self._index]
            words, oovs, count = words + len(sentence), oovs + len(unknown), count + 1
            log_prob, oov_log_prob = log_prob + sum(scores), oov_log_prob + sum(unknown)
        if count == 0:
            raise LanguageModelError("there are no sentences to measure perplexity on")
        return Perplexity(words=words, oovs=oovs, sentences=count, log_prob=log_prob, oov_log_prob=oov_log_prob)


def _price_unknown(arrays: NgramArrays, index: dict[str, int]) -> tuple[float, str]:
    """The log probability of the rarest word, and a remark where that becomes the price of <unk>, for want of one."""
    unigrams = arrays.log_probs[1 : 1 + len(index)]
    listed = unigrams > LOG_ZERO
    listed[[index[START], index[END], index[UNKNOWN]]] = False
    if not listed.any():
        return float(unigrams[index[UNKNOWN]]), ""
    rarest = float(unigrams[listed].min())
    if unigrams[index[UNKNOWN]] > LOG_ZERO:
        return rarest, ""
    unigrams[index[UNKNOWN]] = rarest
    return rarest, (
        f"it has no probability for words that it does not list (no <unk>, or one of log10 p = -99 or less); they get "
        f"that of its rarest word, log10 p = {rarest / math.log(10):.2f}"
    )


def _build(arpa: Arpa, name: str) -> tuple[NgramArrays, list[str]]:
    """Sorts the sections into the trie, order by order: an n-gram's context is in the orders before it. And remarks on
    n-grams that are there twice."""
    remarks: list[str] = []
    unigrams, *longer = arpa.sections
    vocabulary = len(arpa.words)
    arrays = NgramArrays(
        words=np.append(np.int32(-1), unigrams.ids[:, 0]),
        log_probs=np.append(np.float32(0), unigrams.log_probs),
        suffixes=np.zeros(1 + vocabulary, np.int32),
        backoffs=np.append(np.float32(0), unigrams.backoffs) if longer else np.zeros(1, np.float32),
        first_child=np.array([1, 1 + vocabulary], np.int32),
    )
    for section in longer:
        contexts = _find_contexts(arrays, section.ids)
        if (lost := contexts < 0).any():
            raise _fault(arpa, name, section, int(lost.argmax()), "its context is not among the shorter n-grams")
        order = np.argsort(contexts * vocabulary + section.ids[:, -1], kind="stable")
        contexts, words = contexts[order], section.ids[order, -1]
        if (twice := (np.diff(contexts) == 0) & (np.diff(words) == 0)).any():
            remarks.append(repeats_remark(section, arpa.words, order[1:][twice]))
            kept = np.append(True, ~twice)
            order, contexts, words = order[kept], contexts[kept], words[kept]
        # The nodes so far of the highest order, from first_child's last entry on, get the new ones as children.
        leaves, size = len(arrays.first_child) - 1, len(arrays.words)
        children = np.bincount(contexts - leaves, minlength=size - leaves)
        arrays = NgramArrays(
            words=np.append(arrays.words, words),
            log_probs=np.append(arrays.log_probs, section.log_probs[order]),
            suffixes=np.zeros(size + len(words), np.int32),
            backoffs=arrays.backoffs if section is longer[-1] else np.append(arrays.backoffs, section.backoffs[order]),
            first_child=np.append(arrays.first_child, (size + np.cumsum(children)).astype(np.int32)),
        )
    _link(arrays)
    return arrays, remarks


def _fault(arpa: Arpa, name: str, section: Section, row: int, reason: str) -> LanguageModelError:
    ngram = " ".join(arpa.words[i] for i in section.ids[row])
    return LanguageModelError(f"{name}, line {section.line(row)}: {ngram!r}: {reason}")


@compiled
def _find_contexts(arrays: NgramArrays, ids: np.ndarray) -> np.ndarray:
    """The node of each row of ``ids`` (M, n) without its last word: (M,) int64, -1 where there is none."""
    nodes = np.zeros(len(ids), np.int64)
    for i in range(len(ids)):
        for k in range(ids.shape[1] - 1):
            if nodes[i] >= 0:
                nodes[i] = find_child(arrays, nodes[i], ids[i, k])
    return nodes


@compiled
def _link(arrays: NgramArrays) -> None:
    """Fills in the suffixes: a node's is where its last word leads from its context's suffix (as Aho and Corasick's
    failure links, 1975). Contexts come first, so that what is looked up is there."""
    for context in range(1, len(arrays.backoffs)):
        for node in range(arrays.first_child[context], arrays.first_child[context + 1]):
            arrays.suffixes[node] = advance(arrays, arrays.suffixes[context], arrays.words[node])[1]


def _is_compiled(path: Path) -> bool:
    """Whether the file is safetensors: eight bytes of length, then JSON."""
    try:
        with path.open("rb") as file:
            return file.read(9)[8:] == b"{"
    except OSError:
        return False  # whoever reads it next will say why


def _map(path: Path, source: str | None = None) -> NgramModel:
    """The model that ``save`` wrote to ``path``, its arrays mapped from the file; only pages that are used are read.

    Raises LanguageModelError where it is damaged, or was not made from ``source``.
    """
    try:
        with path.open("rb") as file:
            # Copy on write, because numba compiles anew for arrays that are read-only.
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        start = 8 + int.from_bytes(mapped[:8], "little")
        header = json.loads(mapped[8:start])
        metadata = header.pop("__metadata__")
        if metadata["format"] != FORMAT or source not in (None, metadata["source"]):
            raise ValueError("it is another model, or of another version")
        tensors = {
            name: np.frombuffer(mapped, _TYPES[name], math.prod(entry["shape"]), start + entry["data_offsets"][0])
            for name, entry in header.items()
        }
        if not all(tensor.flags.aligned for tensor in tensors.values()):
            raise ValueError("its arrays are not aligned")
        words = tuple(tensors.pop("spelling").tobytes().decode().split("\n"))
        arrays, order = NgramArrays(**tensors), int(metadata["order"])
        remarks = tuple(map(str, json.loads(metadata.get("remarks", "[]"))))
        _check(arrays, order, len(words))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise LanguageModelError(f"{path} is not a whole language model: {error}") from error
    return NgramModel._of(words, arrays, order, str(path), remarks)


def _check(arrays: NgramArrays, order: int, vocabulary: int) -> None:
    """Raises ValueError where a file could lead code without bounds checks out of its arrays or round in circles."""
    words, log_probs, suffixes, backoffs, first_child = arrays
    size, inner = len(words), len(backoffs)
    if not (len(log_probs) == len(suffixes) == size and len(first_child) == inner + 1 and 1 <= inner < size):
        raise ValueError("its arrays do not fit together")
    if (first_child[:-1] <= np.arange(inner)).any() or (np.diff(first_child) < 0).any():
        raise ValueError("an n-gram comes before its context")
    if first_child[0] != 1 or first_child[1] != 1 + vocabulary or first_child[-1] != size:
        raise ValueError("its n-grams are not all reached")
    rising = np.diff(words[1:]) > 0
    rising[first_child[(first_child > 1) & (first_child < size)] - 2] = True  # where another context's children begin
    if not rising.all() or words[1 : 1 + vocabulary].tolist() != list(range(vocabulary)):
        raise ValueError("its n-grams are not sorted")
    if words[1:].min() < 0 or words[1:].max() >= vocabulary:
        raise ValueError("it has words outside its vocabulary")
    starts = [0]
    while starts[-1] < inner and len(starts) <= MAX_ORDER:
        starts.append(int(first_child[starts[-1]]))
    if starts[-1] < inner or not len(starts) - 1 <= order <= MAX_ORDER:
        raise ValueError("it is not of the order that it says")
    for start, end in itertools.pairwise([*starts, size]):
        if start < end and (suffixes[start:end].min() < 0 or suffixes[start:end].max() >= max(min(start, inner), 1)):
            raise ValueError("a suffix is not shorter than its n-gram")
    if not (np.isfinite(log_probs).all() and np.isfinite(backoffs).all() and log_probs.max() <= 0):
        raise ValueError("its numbers are not log probabilities")

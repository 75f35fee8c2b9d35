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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from asr import files
from asr.decode.arpa import END, MAX_ORDER, START, UNKNOWN, Arpa, Listings, Section, read_arpa, repeats_remark
from asr.decode.compiled import compiled
from asr.decode.mapped import NAMES, UNREADABLE, map_tensors
from asr.decode.packed import (
    BITS,
    PACKED_FORMAT,
    Packer,
    Unpacker,
    differences,
    is_compiled,
    is_packed,
    levels,
    undo_differences,
)
from asr.errors import AsrError, LanguageModelError

log = logging.getLogger(__name__)

FORMAT = "asr n-gram 1"
_READING = 2
"""Raised where an ARPA file is read to other numbers than before, so that what is kept of it is made anew."""
LOG_ZERO = -90 * math.log(10)
"""A log probability below stands for none: SRILM writes log10 p = -99, KenLM -100."""
ROOT = 0
"""The state with no history."""
_ROWS = 1 << 20
"""N-grams that are taken from the disk at once."""
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
    """(I,) int32 or longer: the state that is left when the first word is forgotten. It has fewer words, and comes
    earlier."""
    backoffs: np.ndarray
    """(I,) float32: log back-off weight of the node as a context."""
    first_child: np.ndarray
    """(I + 1,) int32."""


@compiled(inline="always")
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


@compiled(inline="always")
def matters(arrays: NgramArrays, node: int) -> bool:
    """Whether another history than its suffix's is one for ``node``."""
    return node < len(arrays.backoffs) and (
        arrays.first_child[node] < arrays.first_child[node + 1] or arrays.backoffs[node] != 0
    )


@compiled(inline="always")
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
    log_prob = backed_off + arrays.log_probs[node]
    # What nothing extends and costs nothing to leave predicts as its suffix does: where the word leads from the suffix
    # of its context.
    while not matters(arrays, node):
        if state == ROOT:
            return log_prob, ROOT
        if node < len(arrays.backoffs):
            return log_prob, arrays.suffixes[node]
        state = arrays.suffixes[state]
        node = find_child(arrays, state, word)
        while node < 0:
            state = arrays.suffixes[state]
            node = find_child(arrays, state, word)
    return log_prob, node


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
        """The model in an ARPA file, plain or compressed, or in one that ``save`` or ``save_packed`` wrote; its remarks
        are logged.

        An ARPA file or a packed one is read once: what became of it is kept in the cache directory until the file
        changes. A model that gives no probability to words that it does not list, because it has no <unk> or one of
        log10 p = -99, gives them that of its rarest word. Raises LanguageModelError.
        """
        model = cls._load(path)
        for remark in model.remarks:
            log.warning(f"{path}: {remark}")
        return model

    @classmethod
    def _load(cls, path: Path) -> NgramModel:
        ours = is_compiled(path)
        if ours and not is_packed(path):
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
        model = _map(path) if ours else cls.from_arpa(read_arpa(path), str(path))
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
    def from_sorted(cls, listings: Listings, name: str = "the model") -> NgramModel:
        """The same of n-grams that are sorted by context and last word already, each once and each with its context:
        read slice by slice, so that no more than the model itself is in memory."""
        return cls._of(listings.words, _build_sorted(listings), len(listings.sections), name, ())

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

    @classmethod
    def keep(cls, path: Path, target: Path) -> None:
        """Puts the model in ``path`` into ``target``, in a form of ours: as it is where it is that already."""
        model = cls.load(path)
        if not is_compiled(path):
            model.save(target)
            return
        with files.replacing(target, "wb") as file:
            file.write(path.read_bytes())

    @property
    def ids(self) -> Mapping[str, int]:
        """Each word's number."""
        return self._index

    def level(self, n: int) -> tuple[int, int]:
        """From which node to which the n-grams of ``n`` words are; the root is that of 0 words."""
        first_child, start, stop = self.arrays.first_child, 0, 1
        for _ in range(n):
            children = first_child[[start, stop]] if stop < len(first_child) else [len(self.arrays.words)] * 2
            start, stop = int(children[0]), int(children[1])
        return start, stop

    def to_arpa(self) -> Arpa:
        """The n-grams one by one again, sorted by context and last word."""
        sections, spelled = [], np.zeros((1, 0), np.int32)
        for n in range(1, self.order + 1):
            (first, last), (start, stop) = self.level(n - 1), self.level(n)
            contexts = np.repeat(np.arange(last - first), np.diff(self.arrays.first_child[first : last + 1]))
            spelled = np.concatenate([spelled[contexts], self.arrays.words[start:stop, None]], axis=1)
            backoffs = np.zeros(stop - start, np.float32)
            if n < self.order:
                backoffs[:] = self.arrays.backoffs[start:stop]
            sections.append(Section(ids=spelled, log_probs=self.arrays.log_probs[start:stop], backoffs=backoffs))
        return Arpa(words=self.words, sections=tuple(sections))

    def save_packed(self, path: Path, bits: int = BITS) -> None:
        """Writes the model in the form that is smallest, its numbers quantised to ``bits`` bits."""
        tensors = self._pack(bits)
        with files.replacing(path, "wb") as file:
            _write_tensors(file, tensors, {"format": PACKED_FORMAT, "order": str(self.order)})

    def _pack(self, bits: int) -> dict[str, np.ndarray]:
        arrays, packer = self.arrays, Packer()
        packer.add_bytes("spelling", "\n".join(self.words).encode())
        bounds = [self.level(n) for n in range(1, self.order + 1)]
        packer.add_integers("sizes", np.array([stop - start for start, stop in bounds]))
        packer.add_integers("children", np.diff(arrays.first_child[1:]))
        for n, (start, stop) in enumerate(bounds, start=1):
            if n == 1:
                packer.add_floats("log_probs.1", arrays.log_probs[start:stop])
            else:
                packer.add_quantised(f"log_probs.{n}", arrays.log_probs[start:stop], bits)
                begins = np.unique(arrays.first_child[bounds[n - 2][0] : bounds[n - 2][1] + 1]) - start
                parted = differences(arrays.words[start:stop], begins[begins < stop - start])
                packer.add_integers(f"words.{n}", parted)
            if n < self.order:
                packer.add_quantised(f"backoffs.{n}", arrays.backoffs[start:stop], bits)
        return packer.tensors

    def save(self, path: Path, source: str = "") -> None:
        """Writes the model in the form that loads at once: safetensors, so that nothing in it can run."""
        spelling = np.frombuffer("\n".join(self.words).encode(), np.uint8)
        remarks = json.dumps(self.remarks, ensure_ascii=False)
        metadata = {"format": FORMAT, "order": str(self.order), "source": source, "remarks": remarks}
        with files.replacing(path, "wb") as file:
            _write_tensors(file, {**self.arrays._asdict(), "spelling": spelling}, metadata)

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
        suffixes=np.zeros(1 + vocabulary if longer else 1, np.int32),
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
            suffixes=np.zeros(size, np.int32),
            backoffs=arrays.backoffs if section is longer[-1] else np.append(arrays.backoffs, section.backoffs[order]),
            first_child=np.append(arrays.first_child, (size + np.cumsum(children)).astype(np.int32)),
        )
    _link(arrays)
    return arrays, remarks


def _write_tensors(file: IO[bytes], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """A safetensors file, tensor by tensor: the package's own ``save`` holds all of it in memory twice over."""
    header: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": tensor.shape, "data_offsets": (start, end)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # what follows is aligned
    file.write(len(text).to_bytes(8, "little") + text)
    for tensor in tensors.values():
        file.write(np.ascontiguousarray(tensor).view(np.uint8).data)


def _build_sorted(listings: Listings) -> NgramArrays:
    sizes = [1, *(len(section.ids) for section in listings.sections)]
    total, inner = sum(sizes), max(sum(sizes[:-1]), 1)
    arrays = NgramArrays(
        words=np.full(total, -1, np.int32),
        log_probs=np.zeros(total, np.float32),
        suffixes=np.zeros(inner, np.int32),
        backoffs=np.zeros(inner, np.float32),
        first_child=np.empty(inner + 1, np.int32),
    )
    first, place = 0, 1
    for contexts, section in zip(sizes, listings.sections, strict=False):
        children = np.zeros(contexts + 1, np.int32)
        children[0] = place
        for start in range(0, len(section.ids), _ROWS):
            rows = slice(start, start + _ROWS)
            ids = section.ids[rows]
            found = 1 + _find_contexts(arrays, ids) - first
            children[found[0] : found[-1] + 1] += np.bincount(found - found[0]).astype(np.int32)
            nodes = slice(place, place + len(ids))
            arrays.words[nodes], arrays.log_probs[nodes] = ids[:, -1], section.log_probs[rows]
            if place < inner:
                arrays.backoffs[nodes] = section.backoffs[rows]
            place += len(ids)
        np.cumsum(children, out=arrays.first_child[first : first + contexts + 1])
        first += contexts
    _link(arrays)
    return arrays


def _fault(arpa: Arpa, name: str, section: Section, row: int, reason: str) -> LanguageModelError:
    ngram = " ".join(arpa.words[i] for i in section.ids[row])
    return LanguageModelError(f"{name}, line {section.line(row)}: {ngram!r}: {reason}")


@compiled
def _find_contexts(arrays: NgramArrays, ids: np.ndarray) -> np.ndarray:
    """The node of each row of ``ids`` (M, n) without its last word: (M,) int64, -1 where there is none."""
    nodes, length = np.zeros(len(ids), np.int64), ids.shape[1] - 1
    for i in range(len(ids)):
        shared = 0
        while i > 0 and shared < length and ids[i, shared] == ids[i - 1, shared]:
            shared += 1
        if i > 0 and shared == length:  # as in most rows of a sorted list
            nodes[i] = nodes[i - 1]
            continue
        for k in range(length):
            if nodes[i] >= 0:
                nodes[i] = find_child(arrays, nodes[i], ids[i, k])
    return nodes


@compiled
def _link(arrays: NgramArrays) -> None:
    """Fills in the suffixes: a node's is where its last word leads from its context's suffix (as Aho and Corasick's
    failure links, 1975). Contexts come first, so that what is looked up is there."""
    for context in range(1, len(arrays.backoffs)):
        for node in range(arrays.first_child[context], min(arrays.first_child[context + 1], len(arrays.backoffs))):
            arrays.suffixes[node] = advance(arrays, arrays.suffixes[context], arrays.words[node])[1]


def _map(path: Path, source: str | None = None) -> NgramModel:
    """The model that ``save`` wrote to ``path``, its arrays mapped from the file; only pages that are used are read.

    Raises LanguageModelError where it is damaged, or was not made from ``source``.
    """
    try:
        metadata, tensors, size = map_tensors(path)
        packed = metadata["format"] == PACKED_FORMAT and source is None
        if not packed and (metadata["format"] != FORMAT or source not in (None, metadata["source"])):
            raise ValueError("it is another model, or of another version")
        if any(tensor.dtype != (np.uint8 if packed else _TYPES[name]) for name, tensor in tensors.items()):
            raise ValueError("its arrays are of other types")
        order = int(metadata["order"])
        if packed:
            words, arrays = _unpack(Unpacker(tensors, size))
        else:
            words = tuple(tensors.pop("spelling").tobytes().decode().split("\n"))
            arrays = NgramArrays(**tensors)
        remarks = tuple(map(str, json.loads(metadata.get("remarks", "[]"))))
        if source is None:  # what is kept was checked before, and to read it all again would fill the memory with it
            _check(arrays, order, len(words))
        if packed:
            _link(arrays)
    except (OSError, *UNREADABLE) as error:
        raise LanguageModelError(f"{path} is not a whole language model: {error}") from error
    return NgramModel._of(words, arrays, order, str(path), remarks)


def _unpack(packed: Unpacker) -> tuple[tuple[str, ...], NgramArrays]:
    """The words and the trie, its suffixes not yet linked, of what ``NgramModel.save_packed`` wrote; _check sees to the
    rest."""
    words = tuple(packed.take_bytes("spelling").decode().split("\n"))
    sizes = packed.take_integers("sizes").tolist()
    children = packed.take_integers("children")
    if not 0 < len(sizes) <= MAX_ORDER or sum(sizes) >= 2**31 or children.sum() != sum(sizes[1:]):
        raise ValueError("its n-grams are not as many as it says")
    first_child = np.append(1, 1 + sizes[0] + np.cumsum(np.append(0, children)))
    last_words, log_probs = [np.array([-1]), np.arange(sizes[0])], [np.zeros(1), packed.take_floats("log_probs.1")]
    backoffs = [np.zeros(1), *(packed.take_quantised(f"backoffs.{n}") for n in range(1, len(sizes)))]
    for n, start, stop in levels(sizes):
        begins = np.unique(first_child[(first_child >= start) & (first_child < stop)]) - start
        parted = packed.take_integers(f"words.{n}")
        if len(parted) != stop - start or (len(parted) and begins[:1].tolist() != [0]):
            raise ValueError("its n-grams are not as many as it says")
        last_words.append(undo_differences(parted, begins))
        log_probs.append(packed.take_quantised(f"log_probs.{n}"))
    inner = np.concatenate(backoffs).astype(np.float32)
    return words, NgramArrays(
        words=np.concatenate(last_words).astype(np.int32),
        log_probs=np.concatenate(log_probs).astype(np.float32),
        suffixes=np.zeros(len(inner), np.int32),
        backoffs=inner,
        first_child=first_child.astype(np.int32),
    )


def _check(arrays: NgramArrays, order: int, vocabulary: int) -> None:
    """Raises ValueError where a file could lead code without bounds checks out of its arrays or round in circles."""
    words, log_probs, suffixes, backoffs, first_child = arrays
    size, inner = len(words), len(backoffs)
    fitting = len(log_probs) == size and inner <= len(suffixes) <= size and len(first_child) == inner + 1
    if not (fitting and 1 <= inner < size):
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
    for start, end in itertools.pairwise([*starts[:-1], inner]):
        if start < end and (suffixes[start:end].min() < 0 or suffixes[start:end].max() >= max(min(start, inner), 1)):
            raise ValueError("a suffix is not shorter than its n-gram")
    if not (np.isfinite(log_probs).all() and np.isfinite(backoffs).all() and log_probs.max() <= 0):
        raise ValueError("its numbers are not log probabilities")

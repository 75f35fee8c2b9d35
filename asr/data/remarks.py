"""What may be wrong with corpora that read well: tags taken for words, ids given twice, audio in two splits."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Set
from pathlib import Path

from asr.data.corpora import Mixture

_TAG = re.compile(
    r"\[[^\[\]\s]+(?: [^\[\]\s]+)*\]|<[^<>\s]+(?: [^<>\s]+)*>|\{[^{}\s]+(?: [^{}\s]+)*\}|\(\([^()]*\)\)|\([^()\s]+\)"
    r"|\+\+[^+\s]+\+\+|\*[^*\s]+\*|【[^【】]+】|[♪♫]"
)
"""Marks that transcribers set beside words: [background noise], <unk>, {laugh}, ((unclear)), (laughs), ++um++, *sigh*,
【音楽】, ♪."""
_MOST_TAGS = 5
_MOST_IDS = 10
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff]")
"""Of Thai, Lao, Burmese, Khmer, Japanese and Chinese, which set no space between words."""
_LONE_SHARE, _LONE_LEAST = 0.95, 50
"""Nearly all, and of how many it can be said."""


def lone_words(texts: Iterable[str], total: int) -> str:
    """A sentence where nearly all of ``total`` training ``texts``, of utterances not joined, are of one word; else
    empty, and then few of them are looked at."""
    if total < _LONE_LEAST:
        return ""
    lone = total
    for text in texts:
        lone -= len(text.split()) != 1 or _UNSPACED.search(text) is not None
        if lone < _LONE_SHARE * total:
            return ""
    return (
        f"{lone} of {total} training texts are of one word, and augment.join is off: a network learns to write such a "
        "word anywhere in its clip, so that words in a row will run together and times will be wrong; set augment.join"
    )


def remarks(splits: Mapping[str, Mixture]) -> list[str]:
    """A sentence for each, with the number of utterances and the first by file and line. Reads texts, and of recordings
    only those that have the size of one in another split."""
    sentences = []
    recordings: dict[str, dict[str, str]] = {}
    for split, mixture in splits.items():
        tags: Counter[str] = Counter()
        tagged, first = 0, ""
        places = recordings[split] = {}
        ids: Counter[str] = Counter()
        for told in mixture.told():
            ids[told.id] += 1
            places.setdefault(told.recording, told.where)
            if found := _TAG.findall(told.text):
                tags.update(found)
                tagged += 1
                first = first or told.where
        places.pop("", None)
        if repeated := [id for id, count in ids.items() if count > 1]:
            sentences.append(
                f"{len(repeated)} ids of {split} are given to more than one utterance: {_named(repeated)}; give each "
                "utterance its own"
            )
        if tagged:
            names = ", ".join(tag for tag, _ in tags.most_common(_MOST_TAGS))
            sentences.append(
                f"{tagged} texts of {split} hold tags, such as {names} ({first}), which will be learnt and scored as "
                "words: take them out, or write what is heard"
            )
    for (a, in_a), (b, in_b) in itertools.combinations(recordings.items(), 2):
        both = sorted(in_a.keys() & in_b.keys())
        if both:
            sentences.append(
                f"{len(both)} recordings are in both {a} and {b}, the first {both[0]} ({in_a[both[0]]}; "
                f"{in_b[both[0]]}): error rates on {b} will flatter"
            )
        if copies := _copies(in_a.keys() - set(both), in_b.keys() - set(both)):
            one, other = copies[0]
            sentences.append(
                f"{len(copies)} recordings of {b} are copies of recordings of {a}, the first {other} of {one}: error "
                f"rates on {b} will flatter"
            )
    return sentences


def _copies(ones: Set[str], others: Set[str]) -> list[tuple[str, str]]:
    """Files of two sets that are equal byte for byte, told apart by their sizes first."""
    sizes = [
        {path: Path(path).stat().st_size for path in sorted(some) if Path(path).is_file()} for some in (ones, others)
    ]
    shared = set(sizes[0].values()) & set(sizes[1].values())
    first = {_digest(path): path for path, size in sizes[0].items() if size in shared}
    seconds = ((path, _digest(path)) for path, size in sizes[1].items() if size in shared)
    return [(first[digest], path) for path, digest in seconds if digest in first]


def _digest(path: str) -> bytes:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _named(ids: list[str]) -> str:
    return ", ".join(ids[:_MOST_IDS]) + (f" and {len(ids) - _MOST_IDS} more" if len(ids) > _MOST_IDS else "")

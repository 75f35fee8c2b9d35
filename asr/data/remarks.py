"""What may be wrong with corpora that read well: tags taken for words, recordings in two splits."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Mapping

from asr.data.corpora import Mixture

_TAG = re.compile(r"\[[^\[\]\s]+\]|<[^<>\s]+>|\(\([^()]*\)\)|\{[^{}\s]+\}")
"""Marks that transcribers set beside words: [noise], <unk>, ((unclear)), {laugh}."""
_MOST_TAGS = 5


def remarks(splits: Mapping[str, Mixture]) -> list[str]:
    """A sentence for each, with the number of utterances and the first by file and line. Reads texts alone."""
    sentences = []
    recordings: dict[str, dict[str, str]] = {}
    for split, mixture in splits.items():
        tags: Counter[str] = Counter()
        tagged, first = 0, ""
        places = recordings[split] = {}
        for told in mixture.told():
            places.setdefault(told.recording, told.where)
            if found := _TAG.findall(told.text):
                tags.update(found)
                tagged += 1
                first = first or told.where
        if tagged:
            names = ", ".join(tag for tag, _ in tags.most_common(_MOST_TAGS))
            sentences.append(
                f"{tagged} texts of {split} hold tags, such as {names} ({first}), which will be learnt and scored as "
                "words: take them out, or write what is heard"
            )
    for (a, in_a), (b, in_b) in itertools.combinations(recordings.items(), 2):
        if both := sorted((in_a.keys() & in_b.keys()) - {""}):
            sentences.append(
                f"{len(both)} recordings are in both {a} and {b}, the first {both[0]} ({in_a[both[0]]}; "
                f"{in_b[both[0]]}): error rates on {b} will flatter"
            )
    return sentences

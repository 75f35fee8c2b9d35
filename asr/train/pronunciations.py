"""How each training utterance says its words, by the model's own alignment.

Training begins with every word's first pronunciation. Once the network can tell, each word of each utterance takes the
pronunciation with which CTC finds the utterance likeliest, the other words being said as they were. How often each was
taken becomes its probability in the lexicon, which the decoder reads.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn import functional

from asr import files
from asr.errors import CheckpointError, TextError
from asr.model.acoustic import AcousticModel
from asr.records import BLANK, Batch
from asr.text.pronounce import PronunciationLexicon, Pronunciations
from asr.text.tokenise import PhoneTokeniser, frames_needed

CHOICES = Path("training") / "pronunciations.json"

Choices = dict[str, tuple[int, ...]]
"""For each utterance, by id, which of its words' pronunciations are said, counted from 0."""


def choose(
    model: AcousticModel,
    tokeniser: PhoneTokeniser,
    batches: Iterable[Batch],
    advance: Callable[[int], None] = lambda _utterances: None,
) -> Choices:
    """The choices of all utterances that have any. ``batches`` are the training corpus as it is; ``advance`` hears of
    how many utterances of it are done."""
    training = model.training
    model.eval()
    choices: Choices = {}
    with torch.inference_mode():
        for batch in batches:
            if not len(batch):
                advance(len(batch.rejected))
                continue
            emissions = model(batch)
            for i, text in enumerate(batch.texts):
                try:
                    ways = [tokeniser.pronounce(word) for word in text.split()]
                except TextError:
                    continue  # the loader names it
                if any(len(some) > 1 for some in ways):
                    frames = int(emissions.lengths[i])
                    choices[batch.ids[i]] = _likeliest(emissions.log_probs[i, :frames], ways, tokeniser)
            advance(len(batch) + len(batch.rejected))
    model.train(training)
    return choices


def _likeliest(
    log_probs: torch.Tensor, ways: Sequence[Sequence[Sequence[int]]], tokeniser: PhoneTokeniser
) -> tuple[int, ...]:
    """Of each word's ``ways`` the likeliest, given (T', V) log probabilities."""
    first = [some[0] for some in ways]
    tried = [(0, 0)] + [(word, way) for word, some in enumerate(ways) for way in range(1, len(some))]
    spelled = [tokeniser.join([*first[:word], ways[word][way], *first[word + 1 :]]) for word, way in tried]
    fitting = [n for n, tokens in enumerate(spelled) if frames_needed(tokens) <= len(log_probs)]
    best = [(0, float("inf"))] * len(ways)
    if fitting and fitting[0] == 0:
        losses = functional.ctc_loss(
            log_probs[:, None].expand(-1, len(fitting), -1),
            torch.cat([torch.tensor(spelled[n]) for n in fitting]).to(log_probs.device),
            torch.full((len(fitting),), len(log_probs)),
            torch.tensor([len(spelled[n]) for n in fitting]),
            blank=BLANK,
            reduction="none",
        ).tolist()
        best = [(0, losses[0])] * len(ways)
        for (word, way), loss in zip((tried[n] for n in fitting), losses, strict=True):
            best[word] = min(best[word], (way, loss), key=lambda choice: choice[1])
    return tuple(way for way, _ in best)


def summary(choices: Choices) -> str:
    """What was chosen, in a line."""
    words = sum(map(len, choices.values()))
    others = sum(way > 0 for choice in choices.values() for way in choice)
    return (
        f"pronunciations chosen: {others:,} of the {words:,} words in {len(choices):,} utterances are said otherwise "
        "than the lexicon says first"
    )


def spell(text: str, choice: Sequence[int], tokeniser: PhoneTokeniser) -> list[int]:
    """The tokens of ``text``, each word said as ``choice`` has it."""
    return tokeniser.join([tokeniser.pronounce(word)[way] for word, way in zip(text.split(), choice, strict=True)])


def weighed(lexicon: PronunciationLexicon, chosen: Iterable[tuple[str, str, tuple[int, ...]]]) -> PronunciationLexicon:
    """``lexicon`` with each pronunciation's share of the likeliest one's uses, one added to each; words that no
    utterance says stay as they are. ``chosen`` are utterances by id, text and choice."""
    uses: dict[str, Counter[int]] = {}
    for _, text, choice in chosen:
        for word, way in zip(text.split(), choice, strict=True):
            uses.setdefault(word, Counter())[way] += 1

    def likeliness(word: str, ways: Pronunciations) -> Pronunciations:
        counts = uses.get(word)
        if counts is None or len(ways) == 1:
            return ways
        most = max(counts.values()) + 1
        return tuple(replace(way, probability=(counts[i] + 1) / most) for i, way in enumerate(ways))

    entries = {word: likeliness(word, ways) for word, ways in lexicon.items()}
    return PronunciationLexicon(entries, lexicon.generate)


def save_choices(directory: Path, choices: Choices) -> None:
    with files.replacing(directory / CHOICES) as file:
        json.dump(choices, file)


def load_choices(directory: Path) -> Choices | None:
    """None where none were made yet. Raises CheckpointError for a damaged file."""
    path = directory / CHOICES
    if not path.is_file():
        return None
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
        return {str(id): tuple(map(int, choice)) for id, choice in loaded.items()}
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError, OSError) as error:
        raise CheckpointError(f"{path} does not load: {error}") from error

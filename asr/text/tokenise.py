"""Tokenisers: text to token ids and back. Id 0 is the CTC blank in each of them and spells nothing."""

from __future__ import annotations

import base64
import io
import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from asr import files, recipe
from asr.errors import TextError
from asr.records import BLANK
from asr.text.normalise import normalise
from asr.text.pronounce import (
    Entry,
    Pronunciation,
    PronunciationLexicon,
    Pronunciations,
    build_lexicon,
    generator,
    parse_entry,
)


class Tokeniser(Protocol):
    """Spells text in tokens. ``tokens[i]`` is the text of id ``i``; ``tokens[BLANK]`` is never emitted as text."""

    @property
    def tokens(self) -> tuple[str, ...]: ...

    @property
    def space(self) -> str:
        """What marks a word boundary inside ``tokens``."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``; raises TextError where it holds what no token spells."""
        ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def to_json(self) -> str: ...


class CharacterTokeniser:
    """One token a character. ``alphabet`` is in id order, from 1."""

    space = " "

    def __init__(self, alphabet: Sequence[str]) -> None:
        self.tokens = ("<blank>", *alphabet)
        self._ids = {character: i for i, character in enumerate(self.tokens) if i != BLANK}
        self._spelling = ("", *alphabet)

    def encode(self, text: str) -> list[int]:
        try:
            return [self._ids[character] for character in text]
        except KeyError:
            unknown = "".join(sorted(set(text) - set(self._ids)))
            raise TextError(f"{unknown!r} is outside the alphabet") from None

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join("".join(map(self._spelling.__getitem__, ids)).split())

    def to_json(self) -> str:
        return json.dumps({"kind": "characters", "alphabet": self.tokens[1:]}, ensure_ascii=False, indent=1)


class SentencePieceTokeniser:
    """Sub-words of a sentencepiece unigram model; its piece ``i`` is token ``i + 1``."""

    space = "▁"

    def __init__(self, model: bytes) -> None:
        import sentencepiece

        self._model = model
        self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.tokens = ("<blank>", *(self._pieces.id_to_piece(i) for i in range(self._pieces.get_piece_size())))

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._pieces.encode(text)
        if self._pieces.unk_id() in ids:
            unknown = sorted({c for c in text if self._pieces.unk_id() in self._pieces.encode(c)})
            raise TextError(f"{''.join(unknown)!r} is outside the alphabet")
        return [i + 1 for i in ids]

    def decode(self, ids: Sequence[int]) -> str:
        # By hand, so that a word split by the search at any place still reads as its pieces do.
        return " ".join("".join(self.tokens[i] for i in ids if i != BLANK).replace(self.space, " ").split())

    def to_json(self) -> str:
        return json.dumps({"kind": "sentencepiece", "model": base64.b64encode(self._model).decode()}, indent=1)


class PhoneTokeniser:
    """Phones of a pronunciation lexicon, in id order from 1; with ``separator``, a token between words comes first.

    Text cannot be read back from phones, since words sound alike: ``decode`` spells the phones, and a search with the
    lexicon finds words.
    """

    space = " "

    def __init__(self, phones: Sequence[str], lexicon: PronunciationLexicon, settings: recipe.Phones) -> None:
        self.lexicon = lexicon
        self.settings = settings
        self._phones = tuple(phones)
        self.tokens = ("<blank>", *([self.space] if settings.separator else []), *phones)
        self._ids = {phone: i for i, phone in enumerate(self.tokens) if i != BLANK}

    def encode(self, text: str) -> list[int]:
        """The preferred pronunciation of each word."""
        return self.join([self.pronounce(word)[0] for word in text.split()])

    def pronounce(self, word: str) -> list[list[int]]:
        """The token ids of each pronunciation of ``word``; raises TextError where there is none in these phones."""
        try:
            ways = self.lexicon[word]
        except KeyError:
            raise TextError(
                f'the lexicon has no pronunciation of "{word}": add it to the lexicon file, or to a trained model with '
                "asr lexicon add"
            ) from None
        spelled = [[self._ids[phone] for phone in way.phones] for way in ways if self._ids.keys() >= {*way.phones}]
        if not spelled:
            strange = sorted({phone for way in ways for phone in way.phones} - self._ids.keys())
            raise TextError(f'"{word}" is pronounced with {" ".join(strange)}, which is outside the model\'s phones')
        return spelled

    def read_entry(self, entry: str, form: str) -> Entry:
        """A word, normalised to ``form``, and its pronunciation: that which follows it in ``entry``, as in a lexicon's
        line, or else the generated ones. Raises TextError where there is none in these phones."""
        given, *phones = entry.split(maxsplit=1) or [""]
        word = normalise(given, form)
        if len(word.split()) != 1:
            raise TextError(f'"{given}" is not one word: a phrase is added word by word')
        if phones:
            _, way = parse_entry(entry)
            ways: Pronunciations = (Pronunciation(tuple(map(self.own_phone, way.phones)), way.probability),)
        else:
            ways = self.lexicon.generate([word]).get(word, ()) if self.lexicon.generate else ()
        if not ways:
            raise TextError(
                f'"{word}" cannot be pronounced: give its phones after it, as in "kettering K EH T ER IH NG"'
            )
        if strange := sorted({phone for way in ways for phone in way.phones} - self._ids.keys()):
            raise TextError(
                f'"{word}" is pronounced with {" ".join(strange)}, and the model has only {" ".join(self._phones)}'
            )
        return word, ways

    def own_phone(self, phone: str) -> str:
        """``phone`` as the model has it: without CMUdict's stress where the model has none."""
        return phone if phone in self._ids else phone.rstrip("012")

    def join(self, words: Sequence[Sequence[int]]) -> list[int]:
        """The ids of pronounced words, one after another, separated where the tokeniser has a separator."""
        separator = [self._ids[self.space]] if self.settings.separator else []
        return [id for i, word in enumerate(words) for id in (*(separator if i else ()), *word)]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(" ".join(self.tokens[i] for i in ids if i != BLANK).split())

    def to_json(self) -> str:
        return json.dumps({**self.settings.model_dump(), "phones": self._phones}, ensure_ascii=False, indent=1)


def frames_needed(tokens: Sequence[int]) -> int:
    """The fewest frames that can spell ``tokens``: one for each, and a blank between equal neighbours."""
    return len(tokens) + sum(a == b for a, b in itertools.pairwise(tokens))


def lm_symbols(tokeniser: Tokeniser) -> tuple[str, ...]:
    """How a language model over tokens spells each of them: a boundary is ▁, because files part symbols at spaces."""
    return tuple(token.replace(tokeniser.space, "▁") for token in tokeniser.tokens)


def build_tokeniser(
    settings: recipe.Characters | recipe.SentencePiece | recipe.Phones, texts: Iterable[str], root: Path = Path()
) -> Tokeniser:
    """The tokeniser that a recipe asks for, learnt from normalised training ``texts`` where the recipe leaves it open.
    ``root`` is where a lexicon's relative path starts.

    Raises TextError where the texts hold too little to learn from.
    """
    if isinstance(settings, recipe.Phones):
        words = list(dict.fromkeys(word for text in texts for word in text.split()))
        lexicon = build_lexicon(settings, words, root)
        if not any(word in lexicon for word in words):
            examples = f" ({', '.join(words[:5])}, ...): are they in another language or alphabet?" if words else ""
            raise TextError(
                f"the lexicon {settings.lexicon} pronounces none of the {len(words)} words in the training corpora"
                + examples
            )
        return PhoneTokeniser(lexicon.phones, lexicon, settings)
    if isinstance(settings, recipe.Characters):
        alphabet = sorted(set(settings.alphabet) if settings.alphabet else _characters(texts))
        if not alphabet:
            raise TextError("the training corpora hold no text to take an alphabet from")
        return CharacterTokeniser(alphabet)
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            vocab_size=settings.vocabulary,
            model_type="unigram",
            character_coverage=1.0,
            normalization_rule_name="identity",
            bos_id=-1,
            eos_id=-1,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        reason = str(error).rpartition("]")[2].strip() or "there is no text to learn from"
        raise TextError(f"a sentencepiece vocabulary of {settings.vocabulary} cannot be learnt: {reason}") from error
    return SentencePieceTokeniser(model.getvalue())


def _characters(texts: Iterable[str]) -> set[str]:
    """Those of all ``texts``. Most texts have none that is new, which ``str.translate`` tells sooner than a set."""
    found: set[str] = set()
    known: dict[int, None] = {}
    for text in texts:
        if text.translate(known):
            found.update(text)
            known = dict.fromkeys(map(ord, found))
    return found


def tokeniser_from_json(text: str, lexicon: Callable[[Sequence[str]], PronunciationLexicon] | None = None) -> Tokeniser:
    """The tokeniser that ``to_json`` wrote; one of phones goes with the ``lexicon`` in them that lies beside it.

    Raises TextError where the text is something else.
    """
    try:
        match files.strict_json(text):
            case {"kind": "phones", "phones": [*phones], **options} if lexicon is not None:
                if not all(isinstance(p, str) and p.split() == [p] for p in phones) or len({*phones}) < len(phones):
                    raise ValueError("its phones are not a list of words, each once")
                settings = recipe.Phones.model_validate({"kind": "phones", **options})
                entries = lexicon(phones)
                entries.generate = generator(settings)
                return PhoneTokeniser(phones, entries, settings)
            case {"kind": "characters", "alphabet": [*alphabet]}:
                if not all(isinstance(c, str) and len(c) == 1 for c in alphabet) or len(set(alphabet)) < len(alphabet):
                    raise ValueError("its alphabet is not a list of characters, each once")
                return CharacterTokeniser(alphabet)
            case {"kind": "sentencepiece", "model": str(model)}:
                if not model:  # sentencepiece takes it for "no model yet"
                    raise ValueError("its model is empty")
                return SentencePieceTokeniser(base64.b64decode(model, validate=True))
    except (ValueError, RuntimeError) as error:
        raise TextError(f"not a tokeniser: {error}") from error
    raise TextError('not a tokeniser: expected kind "characters", "sentencepiece" or "phones"')

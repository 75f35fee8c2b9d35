"""The decoder that settings ask for: the one seam through which emissions become n-best lists."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from asr import recipe
from asr.decode.greedy import GreedyDecoder
from asr.errors import LanguageModelError
from asr.records import Emissions, Hypothesis
from asr.text.normalise import normalise
from asr.text.tokenise import PhoneTokeniser, Tokeniser

if TYPE_CHECKING:
    import numpy as np

    from asr.decode.beam import Knowledge
    from asr.decode.rescore import TextModel, TokenModel

SENTENCE_MARKS = ("<s>", "</s>", "<unk>")
"""What a language model lists besides words."""


class Search(Protocol):
    """One utterance's decoding, fed with frames as they come."""

    @property
    def revises(self) -> bool:
        """Whether later frames may change what has been read."""
        ...

    def feed(self, log_probs: np.ndarray) -> None:
        """Reads (T', V) emissions more."""
        ...

    def best(self) -> Hypothesis:
        """The best reading of the frames so far, as if the utterance ended here. It may be asked for at any time."""
        ...

    def conclude(self) -> Hypothesis:
        """The best reading of an utterance that has ended, with all that the decoder knows."""
        ...


class Decoder(Protocol):
    @property
    def calibration(self) -> recipe.Calibration | None:
        """What makes confidences of posteriors, see ``words_of``."""
        ...

    def __call__(self, emissions: Emissions) -> list[tuple[Hypothesis, ...]]:
        """A batch of emissions to each utterance's readings, the best one first and at least one."""
        ...

    def begin(self) -> Search: ...


def build_decoder(
    settings: recipe.Decoder,
    tokeniser: Tokeniser,
    *,
    root: Path,
    form: str = "none",
    lstm: TokenModel | TextModel | None = None,
    nbest: int = 1,
    words: Iterable[str] | None = None,
) -> Decoder:
    """``root`` is where the settings' relative paths start, ``form`` the model's text normalisation, which hotwords and
    lexicon go through too, ``lstm`` the model that ``settings.lstm`` names. ``words``, where given, are all that a beam
    may find, in place of the lexicon that the settings name. Raises LanguageModelError and TextError."""
    if isinstance(settings, recipe.Greedy):
        return GreedyDecoder(tokeniser)
    if isinstance(settings, recipe.Phrases):
        from asr.decode.grammar import read_grammar
        from asr.decode.phrases import PhraseDecoder

        return PhraseDecoder(tokeniser, read_grammar(root / settings.file, form), settings)
    from asr.decode.beam import BeamDecoder  # numba's import takes a second

    knowledge = gather_knowledge(settings, tokeniser, root=root, form=form, lstm=lstm, words=words)
    return BeamDecoder(tokeniser, settings, knowledge, nbest=nbest)


def gather_knowledge(
    settings: recipe.Beam,
    tokeniser: Tokeniser,
    *,
    root: Path,
    form: str,
    lstm: TokenModel | TextModel | None = None,
    words: Iterable[str] | None = None,
) -> Knowledge:
    """As ``build_decoder``: what the settings let the search know.

    The lexicon of phones learns to pronounce the words of the language model, unless the settings name those to find.
    """
    from asr.decode.beam import Knowledge
    from asr.decode.fusion import Fusion
    from asr.decode.lexical import LexicalFusion
    from asr.decode.ngram import NgramModel

    model = NgramModel.load(root / settings.language_model) if settings.language_model else None
    lexicon = read_lexicon(root / settings.lexicon, form) if settings.lexicon else None
    if words is not None:
        lexicon = list(dict.fromkeys(part for word in words for part in normalise(word, form).split()))
    hotwords = {normalise(phrase, form): weight for phrase, weight in settings.hotwords.items()}
    if isinstance(tokeniser, PhoneTokeniser):
        if model is not None and lexicon is None:
            words = [word for word in model.words if word not in SENTENCE_MARKS]
            tokeniser.lexicon = tokeniser.lexicon.to_be_extended(words)
        lexical = LexicalFusion(tokeniser, model=model, lexicon=lexicon, hotwords=hotwords)
        return Knowledge(fusion=lexical, lstm=lstm).weighed(settings)
    if model is None and lexicon is None and not hotwords and lstm is None:
        return Knowledge()
    fusion = Fusion(tokeniser, model=model, lexicon=lexicon, hotwords=hotwords)
    return Knowledge(fusion=fusion, lstm=lstm).weighed(settings)


def read_lexicon(path: Path, form: str) -> list[str]:
    """The words of a lexicon: the first of each line, so that one with pronunciations serves too.

    Raises LanguageModelError where the file cannot be read or holds none.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise LanguageModelError(f"the lexicon {path} cannot be read: {reason}") from error
    words = [word for line in lines if line.strip() for word in normalise(line.split()[0], form).split()]
    if not words:
        raise LanguageModelError(f"the lexicon {path} holds no word")
    return list(dict.fromkeys(words))

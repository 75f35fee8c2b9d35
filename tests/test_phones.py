"""Phone errors, apart from what became of the words."""

from asr import recipe
from asr.records import Hypothesis
from asr.text.pronounce import Pronunciation, PronunciationLexicon
from asr.text.tokenise import PhoneTokeniser
from asr.transcribe.phones import phone_errors

LEXICON = PronunciationLexicon(
    {
        word: (Pronunciation(tuple(phones.split())),)
        for word, phones in {"sea": "S IY", "see": "S IY", "tea": "T IY"}.items()
    }
)
TOKENISER = PhoneTokeniser(LEXICON.phones, LEXICON, recipe.Phones(kind="phones"))


def reading(text: str) -> Hypothesis:
    tokens = tuple(TOKENISER.encode(text))
    return Hypothesis(tokens=tokens, frames=tokens, probabilities=(1.0,) * len(tokens), text=text, acoustic_score=0.0)


def test_a_homophone_is_no_phone_error_and_errors_are_pooled():
    counts = phone_errors(["sea tea", "tea"], [reading("see tea"), reading("see")], TOKENISER)
    assert (counts.hits, counts.substitutions, counts.reference_length) == (5, 1, 6)


def test_a_reference_with_a_word_that_has_no_pronunciation_is_left_out():
    assert phone_errors(["sea zyzzyva"], [reading("sea")], TOKENISER).reference_length == 0

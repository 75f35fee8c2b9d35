"""The words of a search over pronunciations, kept between processes: the same as made anew, and never stale."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from asr import recipe
from asr.decode import spoken
from asr.decode.decoder import gather_knowledge
from asr.decode.lexical import LexicalFusion
from asr.decode.ngram import NgramModel
from asr.decode.spoken import SpokenWords
from asr.text.pronounce import Pronunciation, PronunciationLexicon, Pronunciations, Source
from asr.text.tokenise import PhoneTokeniser
from asr.train.kneser_ney import estimate, read_text

ENTRIES: dict[str, Pronunciations] = {
    "a": (Pronunciation(("A",)),),
    "eh": (Pronunciation(("A",)),),
    "ab": (Pronunciation(("A", "B"), 0.7), Pronunciation(("B",), 0.3)),
    "ba": (Pronunciation(("B", "A")),),
}


def generate(words: list[str]) -> dict[str, Pronunciations]:
    return {word: (Pronunciation(tuple(word.upper())),) for word in words if set(word) <= set("abc")}


def tokeniser(
    entries: Callable[[], dict[str, Pronunciations]] = lambda: ENTRIES, content: str = "1", tokens: str = "ABC"
) -> PhoneTokeniser:
    lexicon = PronunciationLexicon(entries, generate, Source(Path("/models/x/pronunciations.txt"), content))
    return PhoneTokeniser(tokens, lexicon, recipe.Phones(kind="phones"))


def unread() -> dict[str, Pronunciations]:
    raise AssertionError("the lexicon is read, and what is kept should do")


def model_of(*sentences: str) -> NgramModel:
    return NgramModel.from_arpa(estimate(read_text(sentence.split() for sentence in sentences), order=2).model)


LANGUAGE = model_of("a ab", "ba a")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ASR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "lexicons"


def assert_same(found: SpokenWords, expected: SpokenWords) -> None:
    assert (found.words, found.most) == (expected.words, expected.most)
    arrays = {"unit": expected.unit, "foreign": expected.foreign, **expected.tree._asdict()}
    for name, array in arrays.items():
        again = getattr(found.tree, name, None) if name in expected.tree._fields else getattr(found, name)
        np.testing.assert_array_equal(again, array, name, strict=True)
        assert again.flags.writeable, "or the search is compiled anew"


@pytest.mark.parametrize("model", [None, LANGUAGE])
def test_what_is_kept_is_what_was_made_and_the_lexicon_is_not_read(model):
    made = SpokenWords.keep(tokeniser(), model)
    assert_same(made, SpokenWords.make(tokeniser(), model))
    assert_same(SpokenWords.keep(tokeniser(unread), model), made)


@pytest.mark.parametrize(
    "other",
    [
        (tokeniser(content="2"), LANGUAGE),
        (tokeniser(tokens="ACB"), LANGUAGE),
        (tokeniser(), model_of("a ab", "a a")),
        (tokeniser(), None),
    ],
    ids=["the lexicon's content", "the phones", "the language model", "no language model"],
)
def test_of_another_lexicon_or_language_model_it_is_made_anew(other):
    SpokenWords.keep(tokeniser(), LANGUAGE)
    assert_same(SpokenWords.keep(*other), SpokenWords.make(*other))


def test_of_another_version_of_what_pronounces_it_is_made_anew(monkeypatch, tmp_path):
    assert {"arpabet.py", "espeak.py", "pronounce.py", "tokenise.py", "tree.py", "spoken.py"} <= {
        path.name for path in spoken._makers()
    }
    rules = tmp_path / "arpabet.py"
    rules.write_text('LETTERS = {"x": "K S"}')
    monkeypatch.setattr(spoken, "_makers", lambda: [rules])
    spoken._version.cache_clear()
    made = SpokenWords.keep(tokeniser(), LANGUAGE)
    assert_same(SpokenWords.keep(tokeniser(unread), LANGUAGE), made)
    rules.write_text('LETTERS = {"x": "G Z"}')
    spoken._version.cache_clear()  # as in the next process
    with pytest.raises(AssertionError, match="the lexicon is read"):
        SpokenWords.keep(tokeniser(unread), LANGUAGE)


def test_a_damaged_or_forbidden_cache_costs_time_and_not_the_words(cache):
    made = SpokenWords.keep(tokeniser(), LANGUAGE)
    [kept] = cache.iterdir()
    content = bytearray(kept.read_bytes())
    for damaged in (content[:-20], content[:40], content[:-5] + bytes([content[-5] ^ 1]) + content[-4:], b""):
        kept.write_bytes(damaged)
        assert_same(SpokenWords.keep(tokeniser(), LANGUAGE), made)
    kept.unlink()
    cache.rmdir()
    cache.write_text("no folder")
    assert_same(SpokenWords.keep(tokeniser(), LANGUAGE), made)


def test_the_words_that_a_language_model_brings_are_kept_too_and_are_in_the_lexicon_when_it_is_read(tmp_path):
    model_of("a cab", "cab bcb").save(tmp_path / "lm.ngrams")
    settings = recipe.Beam(language_model="lm.ngrams")
    first, *others = [
        (gather_knowledge(settings, mine, root=tmp_path, form="none"), mine)
        for mine in (tokeniser(), tokeniser(unread), tokeniser())
    ]
    assert {*first[0].words} == {*ENTRIES, "cab", "bcb"}
    assert [knowledge.words for knowledge, _ in others] == [first[0].words] * 2
    assert [*others[1][1].lexicon] == [*first[1].lexicon] == [*ENTRIES, "cab", "bcb"]
    again = gather_knowledge(settings, others[0][1], root=tmp_path, form="none")  # with the same tokeniser
    assert again.words == first[0].words


@pytest.mark.parametrize("hotwords", [{"ab a": 3.0}, {"cab": 2.0}, {"eh": 1.0, "ba": 2.0}])
def test_with_hotwords_the_tables_are_those_made_without_a_cache(hotwords):
    SpokenWords.keep(tokeniser(), LANGUAGE)
    found, expected = (
        LexicalFusion(mine, model=LANGUAGE, hotwords=hotwords)
        for mine in (tokeniser(), PhoneTokeniser("ABC", PronunciationLexicon(ENTRIES, generate), tokeniser().settings))
    )
    assert (found.words, found.tables.most) == (expected.words, expected.tables.most)
    for name in ("unit", "foreign", "tree", "phrases"):
        np.testing.assert_equal(getattr(found.tables, name), getattr(expected.tables, name), name)

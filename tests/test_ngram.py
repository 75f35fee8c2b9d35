"""n-gram language models: scores worked by hand and by KenLM, and files that are broken or hostile."""

from __future__ import annotations

import bz2
import contextlib
import functools
import gzip
import json
import lzma
import math
import random
import re
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from asr.decode import ngram
from asr.decode.ngram import ROOT, NgramModel, advance
from asr.errors import LanguageModelError
from asr.train.kneser_ney import estimate, read_text

ARPA = """\\data\\
ngram 1=5
ngram 2=4
ngram 3=1

\\1-grams:
-1.2\t<unk>
-99\t<s>\t-0.3
-0.9\tthe\t-0.2
-0.5\t</s>
-0.7\tcat\t-0.11

\\2-grams:
-0.4\t<s> the\t-0.05
-0.3\tthe </s>
-0.2\tthe cat\t-0.5
-0.1\tcat the

\\3-grams:
-0.15\t<s> the cat

\\end\\
"""
LINES = ARPA.splitlines()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ASR_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def arpa(tmp_path) -> Path:
    path = tmp_path / "lm.arpa"
    path.write_text(ARPA)
    return path


def log10s(scores: list[float]) -> list[float]:
    return [round(score / math.log(10), 5) for score in scores]


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("the cat", [-0.4, -0.15, -0.5 - 0.11 - 0.5]),  # no "the cat </s>", no "cat </s>"
        ("the the", [-0.4, -0.05 - 0.2 - 0.9, -0.3]),  # "<s> the the" and "the the" back off, then a bigram
        ("cat the cat", [-0.3 - 0.7, -0.1, -0.2, -0.5 - 0.11 - 0.5]),
        ("dog the", [-0.3 - 1.2, -0.9, -0.3]),  # what is unknown is <unk>, after which nothing is known
        ("", [-0.3 - 0.5]),
    ],
)
def test_a_word_is_scored_by_its_longest_known_history(arpa, sentence, expected):
    assert log10s(NgramModel.load(arpa).score(sentence.split())) == pytest.approx(expected, abs=1e-5)


def test_without_its_markers_a_sentence_starts_anywhere_and_need_not_end(arpa):
    scores = NgramModel.load(arpa).score(["the", "cat"], bos=False, eos=False)
    assert log10s(scores) == pytest.approx([-0.9, -0.2], abs=1e-5)


def test_the_search_scores_as_the_model_does(arpa):
    model = NgramModel.load(arpa)
    state, scores = model.start, []
    for word in ("the", "cat", "the"):
        score, state = advance(model.arrays, state, model.index(word))
        scores.append(score)
    assert scores == model.score(["the", "cat", "the"], eos=False)


def test_histories_that_predict_alike_are_one_state(arpa):
    model = NgramModel.load(arpa)

    def state(*words: str) -> int:
        at = ROOT
        for word in words:
            _, at = advance(model.arrays, at, model.index(word))
        return at

    assert state("dog") == state("cat", "dog") == ROOT
    assert state("cat", "the") == state("the")  # "cat the" is listed, but nothing extends it
    assert state("the", "cat") != state("cat")  # nothing extends it either, but leaving it costs -0.5


def test_perplexity_is_told_with_and_without_unknown_words(arpa):
    measured = NgramModel.load(arpa).perplexity([["the", "cat"], ["dog", "the"]])
    known, unknown = -0.4 - 0.15 - 1.11 - 0.9 - 0.3, -1.5
    assert (measured.words, measured.oovs, measured.sentences, measured.oov_rate) == (4, 1, 2, 0.25)
    assert measured.including_oov == pytest.approx(10 ** (-(known + unknown) / 6), rel=1e-5)
    assert measured.excluding_oov == pytest.approx(10 ** (-known / 5), rel=1e-5)


def test_the_same_model_comes_from_gzip_from_the_cache_and_from_a_saved_file(arpa, tmp_path, monkeypatch):
    sentence = ["dog", "the", "cat"]
    scores = NgramModel.load(arpa).score(sentence)
    (tmp_path / "lm.arpa.gz").write_bytes(gzip.compress(b"# a comment\n" + ARPA.encode()))
    NgramModel.load(arpa).save(tmp_path / "lm.safetensors")
    assert NgramModel.load(tmp_path / "lm.arpa.gz").score(sentence) == scores
    assert NgramModel.load(tmp_path / "lm.safetensors").score(sentence) == scores
    monkeypatch.setattr("asr.decode.ngram.read_arpa", lambda path: pytest.fail(f"{path} was read again"))
    assert NgramModel.load(arpa).score(sentence) == scores


def test_a_changed_file_is_read_again(arpa):
    NgramModel.load(arpa)
    arpa.write_text(ARPA.replace("-0.15\t", "-0.1599\t"))
    assert log10s(NgramModel.load(arpa).score(["the", "cat"]))[1] == pytest.approx(-0.1599)


def test_a_damaged_or_forbidden_cache_costs_time_and_not_the_model(arpa, tmp_path):
    scores = NgramModel.load(arpa).score(["the"])
    [kept] = (tmp_path / "cache").rglob("*.safetensors")
    kept.write_bytes(kept.read_bytes()[:-40])
    assert NgramModel.load(arpa).score(["the"]) == scores
    kept.unlink()
    kept.parent.rmdir()
    kept.parent.write_text("a file where the folder should be")
    assert NgramModel.load(arpa).score(["the"]) == scores


@pytest.mark.parametrize(
    ("count", "line"), [(4, ""), (5, "-99\t<unk>\n"), (5, "-100\t<unk>\t-1\n"), (5, "-99\t<UNK>\n")]
)
def test_words_of_no_probability_get_that_of_the_rarest_word_and_every_load_says_so(tmp_path, caplog, count, line):
    path = tmp_path / "lm.arpa"
    path.write_text(ARPA.replace("ngram 1=5", f"ngram 1={count}").replace("-1.2\t<unk>\n", line))
    for _ in range(2):  # the second time from the cache
        caplog.clear()
        assert log10s(NgramModel.load(path).score(["dog"]))[0] == pytest.approx(-0.3 - 0.9)
        assert f"{path}: it has no probability for words that it does not list" in caplog.text
    NgramModel.load(path).save(tmp_path / "lm.safetensors")
    caplog.clear()
    NgramModel.load(tmp_path / "lm.safetensors")
    assert "lm.safetensors: it has no probability for words" in caplog.text


def test_a_model_with_a_usable_unk_is_loaded_without_a_word(arpa, caplog):
    assert log10s(NgramModel.load(arpa).score(["dog"]))[0] == pytest.approx(-1.5)
    assert caplog.text == ""


PREAMBLES = {
    "cmuclmtk": "######\n## a banner\n==== its name ====\nThis is a 2-gram model over 2 words,\n\n  'one'...\n",
    "quicklm": "\nLanguage model created by QuickLM on some day\n\nThe (fixed) discount mass is 0.5; 2 sentences\n\n",
    "not UTF-8": "made by J\xfcrgen, ngram 1=9\n\\1-grams:\n",
    "byte order mark": "\ufeff",
    "windows": "made by a tool\r\n\r\n",
}


@pytest.mark.parametrize("preamble", PREAMBLES.values(), ids=PREAMBLES)
def test_any_text_may_stand_before_the_data(arpa, tmp_path, preamble):
    path = tmp_path / "other.arpa"
    path.write_bytes(preamble.encode("latin-1" if "\xfc" in preamble else "utf-8") + ARPA.encode())
    assert NgramModel.load(path).score(["the", "cat"]) == NgramModel.load(arpa).score(["the", "cat"])
    path.write_text(preamble.replace("\\1-grams:\n", "") + replaced(9, "-0.9\tthe\tx"), newline="")
    with pytest.raises(LanguageModelError, match=rf"line {9 + preamble.count(chr(10)) - preamble.count('1-grams')}:"):
        NgramModel.load(path)


def test_blank_lines_between_counts_and_ngrams_are_passed_over_and_lines_counted(tmp_path, arpa):
    path = tmp_path / "airy.arpa"
    airy = (
        ARPA.replace("\\data\\\n", "\\data\\\n\n")
        .replace("-0.7\tcat", "\n\n-0.7\tcat")
        .replace("-0.1\tcat", "\n-0.1\tcat")
    )
    path.write_text(airy.replace("ngram 3=1\n\n", "ngram 3=1\n"))
    assert NgramModel.load(path).score(["the", "cat"]) == NgramModel.load(arpa).score(["the", "cat"])
    for old, new, line in [
        ("-0.7\tcat", "x\tcat", 14),
        ("-0.1\tcat the", "-0.1\tcat dog", 21),
        ("<s> the cat", "<s> cat the", 24),
    ]:
        path.write_text(airy.replace(old, new))
        with pytest.raises(LanguageModelError, match=f"line {line}: "):
            NgramModel.load(path)


@pytest.mark.parametrize(
    ("again", "old", "line"),
    [
        ("0\t</s>\t-0.3\n0\t</s>\t-0.3\n", "-0.9\tthe", 10),  # what Hugging Face's recipe adds, twice
        ("-2\t<s>\t-0.9\n", "-0.7\tcat", 11),
        ("-2\tthe\t-0.9\n", "-0.7\tcat", 11),
        ("-2\t<unk>\n", "-0.7\tcat", 11),
        ("-2\tthe cat\t-0.9\n", "\n\\3-grams", 18),
        ("-2\t<s> the cat\n", "\n\\end", 21),
    ],
)
def test_of_an_ngram_that_is_there_twice_the_first_counts_and_a_remark_names_the_line(
    tmp_path, arpa, caplog, again, old, line
):
    words = (again.split("\t")[1]).count(" ") + 1
    counts = {1: 5, 2: 4, 3: 1}
    text = ARPA.replace(f"ngram {words}={counts[words]}", f"ngram {words}={counts[words] + again.count(chr(10))}")
    path = tmp_path / "twice.arpa"
    path.write_text(text.replace(old, again + old, 1))
    sentence = ["dog", "the", "cat", "the"]
    for _ in range(2):
        caplog.clear()
        scores = NgramModel.load(path).score(sentence)
        assert f"line {line} lists" in caplog.text
    if "</s>" in again:
        assert log10s(scores)[-1] == pytest.approx(-0.3)  # "the </s>" is a bigram of its own
    else:
        assert scores == NgramModel.load(arpa).score(sentence)


@pytest.mark.parametrize(
    "compress", [gzip.compress, bz2.compress, lzma.compress, functools.partial(lzma.compress, format=lzma.FORMAT_ALONE)]
)
def test_models_compressed_by_common_tools_are_read_and_damage_is_a_sentence(arpa, tmp_path, compress):
    packed, path = compress(ARPA.encode()), tmp_path / "lm.arpa.packed"
    path.write_bytes(packed)
    assert NgramModel.load(path).score(["the"]) == NgramModel.load(arpa).score(["the"])
    for damaged in (packed[:-20], packed[:30] + bytes(30) + packed[60:], packed[:12]):
        path.write_bytes(damaged)
        with pytest.raises(LanguageModelError, match=r"(gzip|bzip2|xz|lzma) data are cut short or damaged after this"):
            NgramModel.load(path)


OTHER_KINDS = {
    "KenLM": (b"mmap lm http://kheafield.com/code format version 5\n\0" + bytes(60), "a KenLM binary"),
    "Sphinx": (b"\x11\0\0\0Darpa Trigram LM\0", "a binary of CMU Sphinx"),
    "zip": (b"PK\x03\x04" + bytes(30), "a zip archive"),
    "tar": (b"lm.arpa".ljust(257, b"\0") + b"ustar\x0000", "a tar archive"),
    "web page": (b"\n<!DOCTYPE html>\n<html>", "a web page"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
    "UTF-16": (ARPA.encode("utf-16"), "UTF-16 text"),
    "binary": (b"\x7fELF\0\0", "a binary file"),
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize(("content", "kind"), OTHER_KINDS.values(), ids=OTHER_KINDS)
def test_files_of_other_kinds_are_named_as_such(tmp_path, content, kind, packed):
    path = tmp_path / "lm.bin"
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(LanguageModelError, match=f"{path} is {kind}"):
        NgramModel.load(path)


def test_symbols_may_be_pieces_of_any_script(tmp_path):
    path = tmp_path / "lm.arpa"
    path.write_text(ARPA.replace("the", "▁über").replace("cat", "ё"), encoding="utf-8")
    assert log10s(NgramModel.load(path).score(["▁über", "ё"]))[:2] == pytest.approx([-0.4, -0.15])


def random_arpa(path: Path, *, order: int, seed: int, vocabulary: int = 30) -> None:
    """A model with random numbers for the n-grams of random sentences, some of them pruned as SRILM would: suffixes
    and contexts stay."""
    draw = random.Random(seed)
    names = [f"w{i}" for i in range(vocabulary)]
    sentences = [["<s>", *draw.choices(names, k=draw.randint(1, 9)), "</s>"] for _ in range(60)]
    levels = [{(word,) for word in ("<unk>", "<s>", "</s>", *names)}]
    for n in range(2, order + 1):
        grams = {tuple(s[i : i + n]) for s in sentences for i in range(len(s) - n + 1) if draw.random() < 0.8}
        levels.append({gram for gram in grams if gram[1:] in levels[-1] and gram[:-1] in levels[-1]})
    text = ["\\data\\", *(f"ngram {n}={len(level)}" for n, level in enumerate(levels, start=1))]
    for n, level in enumerate(levels, start=1):
        text += ["", f"\\{n}-grams:"]
        for gram in draw.sample(sorted(level), len(level)):
            backoff = (
                f"\t{draw.uniform(-2, 0.3):.4f}" if n < order and gram[-1] != "</s>" and draw.random() < 0.8 else ""
            )
            text.append(f"{draw.uniform(-6, 0):.6f}\t{' '.join(gram)}{backoff}")
    path.write_text("\n".join([*text, "", "\\end\\", ""]))


@pytest.mark.parametrize("order", [2, 3, 4, 5])
def test_scores_are_kenlms(tmp_path, order):
    kenlm = pytest.importorskip("kenlm", reason="needs the wheel ufal-kenlm")
    path = tmp_path / "lm.arpa"
    random_arpa(path, order=order, seed=order)
    ours, draw = NgramModel.load(path), random.Random(0)
    theirs = kenlm.Model(str(path))
    for _ in range(200):
        words = draw.choices([*ours.words[3:], "unheard"], k=draw.randint(0, 12))
        expected = [log10 * math.log(10) for log10, _, _ in theirs.full_scores(" ".join(words))]
        assert ours.score(words) == pytest.approx(expected, abs=1e-4)


def replaced(line: int, text: str | None) -> str:
    """ARPA with line ``line``, from 1, replaced or, for None, left out."""
    lines = LINES.copy()
    lines[line - 1 : line] = [] if text is None else [text]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("", 0, "file ends"),
        ("hello\nyou\n", 2, "without a line .*data.*begins with 'hello'"),
        (replaced(2, "ngram 2=5"), 2, "ngram 1=COUNT"),
        (replaced(2, "ngram 1=five"), 2, "ngram 1=COUNT"),
        (replaced(2, "ngram 1=999999999999"), 2, "2\\*\\*31"),
        (replaced(2, "ngram 1=6"), 13, "1-grams end here.*6 of 6"),
        (replaced(2, "ngram 1=4"), 11, "expected .2-grams:"),
        (replaced(7, "-1.x\t<unk>"), 7, "expected a number"),
        (replaced(7, "0.3\t<unk>"), 7, "positive"),
        (replaced(7, "nan\t<unk>"), 7, "not finite"),
        (replaced(7, "-1e99\t<unk>"), 7, "not finite"),
        (replaced(9, "-0.9\tthe\tcat"), 9, "expected a number"),
        (replaced(9, "-0.9\tthe\t-0.1 -0.2"), 9, "1 words"),
        (replaced(8, "-inf\t<s>\t-0.3"), 8, "'-inf' is not finite"),
        (replaced(9, "-0.9\tthe\tnan"), 9, "'nan' is not finite"),
        (replaced(9, "0.8\tthe\t-0.2"), 9, "'0.8' is positive"),
        (replaced(14, "-0.4\t<s> dog\t-0.05"), 14, "'dog' is not among the unigrams"),
        (replaced(15, "-0.3\tthe"), 15, "2 words"),
        (replaced(20, "-0.15\t<s> cat the"), 20, "context"),
        (replaced(20, "-0.15\t<s> the cat\t-0.1"), 20, "highest order"),
        (replaced(22, None), 20, "file ends"),
        ("\n".join(LINES[:15]), 15, "2 of the 4 2-grams|3 of the 4"),
        (replaced(22, "-1\tthe cat the"), 22, "expected .end"),
        (replaced(7, "-1\t" + "x" * 2**21), 6, "longer than"),
    ],
)
def test_a_broken_arpa_is_a_sentence_with_the_files_line(tmp_path, text, line, reason):
    path = tmp_path / "lm.arpa"
    path.write_text(text)
    with pytest.raises(LanguageModelError, match=f"{re.escape(str(path))}, line {line}: .*({reason})"):
        NgramModel.load(path)


pieces = st.sampled_from([b"\n", b"\t", b"-", b"1", b"\\end\\", b"<s>", b"\xff", b"1e400", b"nan", b"\0", b"the", b""])


@given(st.lists(st.tuples(st.integers(0, len(ARPA)), st.integers(0, 4), pieces), min_size=1, max_size=3))
def test_an_arpa_damaged_anywhere_scores_or_is_a_sentence(tmp_path_factory, damages):
    content = bytearray(ARPA.encode())
    for place, length, piece in damages:
        content[place : place + length] = piece
    path = tmp_path_factory.mktemp("lm") / "lm.arpa"
    path.write_bytes(content)
    with contextlib.suppress(LanguageModelError):
        assert np.isfinite(NgramModel.load(path).score(["the", "cat", "dog"])).all()


@pytest.mark.parametrize("word", ["<s>", "</s>"])
def test_a_model_without_sentence_markers_is_refused(tmp_path, word):
    path = tmp_path / "lm.arpa"
    path.write_text(ARPA.replace(word, "x" + word[1:-1].replace("/", "e")))
    with pytest.raises(LanguageModelError, match=f"no {word}"):
        NgramModel.load(path)


@pytest.mark.parametrize(
    "content", [b"", b"\x00", b"\xff\xfe" * 50, gzip.compress(ARPA.encode(), mtime=0)[:-20], b"\x1f\x8bno"]
)
def test_what_is_no_arpa_or_a_piece_of_one_is_a_sentence(tmp_path, content):
    path = tmp_path / "lm.arpa.gz"
    path.write_bytes(content)
    with pytest.raises(LanguageModelError, match=str(path)):
        NgramModel.load(path)


def test_a_missing_file_and_a_folder_are_sentences(tmp_path):
    for path in (tmp_path / "nothing.arpa", tmp_path):
        with pytest.raises(LanguageModelError, match=f"{path} cannot be read"):
            NgramModel.load(path)


def test_words_that_are_not_utf_8_are_named(tmp_path):
    path = tmp_path / "lm.arpa"
    path.write_bytes(ARPA.encode().replace(b"cat", b"c\xe4t"))
    with pytest.raises(LanguageModelError, match=r"line 11: .*UTF-8"):
        NgramModel.load(path)


NAMES = ["words", "log_probs", "suffixes", "backoffs", "first_child"]


@given(
    name=st.sampled_from(NAMES),
    place=st.integers(0, 10),
    value=st.sampled_from([-(2**31), -1, 0, 1, 2, 3, 5, 7, 10, 11, 2**31 - 1, math.nan, math.inf, 3.5]),
)
def test_no_saved_file_leads_the_search_out_of_its_arrays(tmp_path_factory, name, place, value):
    """Either the change is refused, or every walk still ends and gives finite scores."""
    folder = tmp_path_factory.mktemp("lm")
    (folder / "lm.arpa").write_text(ARPA)
    model = NgramModel.load(folder / "lm.arpa")
    arrays = {key: array.copy() for key, array in model.arrays._asdict().items()}
    changed = arrays[name]
    changed[place % len(changed)] = value if changed.dtype == np.float32 or math.isfinite(value) else 12
    spelling = np.frombuffer("\n".join(model.words).encode(), np.uint8)
    metadata = {"format": "asr n-gram 1", "order": "3", "source": ""}
    save_file({**arrays, "spelling": spelling}, folder / "lm.safetensors", metadata)
    try:
        loaded = NgramModel.load(folder / "lm.safetensors")
    except LanguageModelError:
        return
    draw = random.Random(0)
    for _ in range(20):
        assert np.isfinite(loaded.score(draw.choices(loaded.words, k=8))).all()


@given(cut=st.integers(0, 700), noise=st.binary(max_size=8))
def test_a_saved_file_cut_or_overwritten_anywhere_loads_or_is_a_sentence(tmp_path_factory, cut, noise):
    folder = tmp_path_factory.mktemp("lm")
    (folder / "lm.arpa").write_text(ARPA)
    NgramModel.load(folder / "lm.arpa").save(folder / "lm.safetensors")
    content = (folder / "lm.safetensors").read_bytes()
    damaged = content[:cut] + noise + content[cut + len(noise) :] * (len(noise) > 0)
    (folder / "damaged.safetensors").write_bytes(damaged)
    with contextlib.suppress(LanguageModelError):
        NgramModel.load(folder / "damaged.safetensors").score(["the", "cat"])


@pytest.mark.parametrize("entry", [{"data_offsets": []}, {"data_offsets": [-8, 0]}, {"shape": [2**70]}, {"dtype": []}])
def test_a_header_that_is_not_safetensors_own_is_a_sentence(tmp_path, entry):
    (tmp_path / "lm.arpa").write_text(ARPA)
    NgramModel.load(tmp_path / "lm.arpa").save(tmp_path / "lm.safetensors")
    content = (tmp_path / "lm.safetensors").read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header["words"] |= entry
    changed = json.dumps(header).encode()
    changed += b" " * (-len(changed) % 8)
    (tmp_path / "lm.safetensors").write_bytes(len(changed).to_bytes(8, "little") + changed + content[start:])
    with pytest.raises(LanguageModelError, match="is not a whole language model"):
        NgramModel.load(tmp_path / "lm.safetensors")


@pytest.fixture
def books() -> NgramModel:
    draw = random.Random(4)
    text = [draw.choices("abcdefghij", range(1, 11), k=draw.randint(1, 9)) for _ in range(200)]
    return NgramModel.from_arpa(estimate(read_text(text), order=4, prune=(0, 0, 1)).model)


@pytest.mark.parametrize(("bits", "tolerance"), [(8, 0.03), (4, 0.5)])
def test_a_packed_model_has_the_same_ngrams_and_nearly_the_same_numbers(tmp_path, books, bits, tolerance):
    books.save_packed(tmp_path / "books.lm", bits)
    loaded = NgramModel.load(tmp_path / "books.lm")
    assert (loaded.words, loaded.order, loaded.start) == (books.words, books.order, books.start)
    for name in ("words", "suffixes", "first_child"):
        np.testing.assert_array_equal(getattr(loaded.arrays, name), getattr(books.arrays, name))
    np.testing.assert_allclose(loaded.arrays.log_probs, books.arrays.log_probs, atol=tolerance)
    np.testing.assert_allclose(loaded.arrays.backoffs, books.arrays.backoffs, atol=tolerance)


def test_a_packed_model_is_unpacked_once(tmp_path, books, monkeypatch):
    path = tmp_path / "books.lm"
    books.save_packed(path)
    first = NgramModel.load(path)
    monkeypatch.setattr(ngram, "_unpack", None)
    assert NgramModel.load(path).score(["a", "b"]) == first.score(["a", "b"])


def test_a_model_without_longer_ngrams_is_packed_too(tmp_path):
    model = NgramModel.from_arpa(estimate(read_text([["a", "b"]]), order=1).model)
    model.save_packed(tmp_path / "one.lm")
    assert NgramModel.load(tmp_path / "one.lm").score(["a"]) == model.score(["a"])


def test_an_arpa_of_a_model_is_the_arpa_that_it_was_made_from(books):
    again = NgramModel.from_arpa(books.to_arpa())
    for name in NAMES:
        np.testing.assert_array_equal(getattr(again.arrays, name), getattr(books.arrays, name))


@given(place=st.floats(0, 1), noise=st.binary(max_size=4), cut=st.booleans())
def test_a_packed_file_cut_or_overwritten_anywhere_loads_or_is_a_sentence(tmp_path_factory, place, noise, cut):
    folder = tmp_path_factory.mktemp("lm")
    (folder / "lm.arpa").write_text(ARPA)
    NgramModel.load(folder / "lm.arpa").save_packed(folder / "whole.lm")
    content = bytearray((folder / "whole.lm").read_bytes())
    start = int(place * len(content))
    content[start : start + len(noise)] = noise
    (folder / "damaged.lm").write_bytes(content[:start] if cut else content)
    with contextlib.suppress(LanguageModelError):
        assert np.isfinite(NgramModel.load(folder / "damaged.lm").score(["the", "cat"])).all()


def test_a_packed_file_that_unpacks_to_far_more_than_its_size_is_a_sentence(tmp_path):
    tensors = {"spelling": np.frombuffer(zlib.compress(bytes(10**8)), np.uint8)}
    save_file(tensors, tmp_path / "bomb.lm", {"format": "asr n-gram packed 1", "order": "1"})
    with pytest.raises(LanguageModelError, match="more than it should"):
        NgramModel.load(tmp_path / "bomb.lm")


@pytest.mark.parametrize("name", list("abcdefgh"))
def test_no_packed_file_leads_the_search_out_of_its_arrays(tmp_path, books, name):
    """Each array of a packed file with numbers that were not in it: refused, or every walk ends in finite scores."""
    books.save_packed(tmp_path / "books.lm")
    tensors = load_file(tmp_path / "books.lm")
    key = sorted(tensors)[ord(name) - ord("a")]
    content = bytearray(zlib.decompress(tensors[key].tobytes()))
    draw = random.Random(name)
    for _ in range(30):
        content[draw.randrange(len(content))] = draw.randrange(256)
        changed = {**tensors, key: np.frombuffer(zlib.compress(content), np.uint8)}
        save_file(changed, tmp_path / "changed.lm", {"format": "asr n-gram packed 1", "order": "4"})
        with contextlib.suppress(LanguageModelError):
            assert np.isfinite(NgramModel.load(tmp_path / "changed.lm").score(list("abcdefghij"))).all()


def test_a_header_made_to_exhaust_the_reader_is_a_sentence(tmp_path):
    path = tmp_path / "lm.safetensors"
    for header in (b"{" + b'"a":[' * 100_000, json.dumps({"__metadata__": 3}).encode(), b"{}"):
        path.write_bytes(len(header).to_bytes(8, "little") + header)
        with pytest.raises(LanguageModelError, match="not a whole language model"):
            NgramModel.load(path)


def test_a_file_is_written_tensor_by_tensor_and_read_by_the_safetensors_package(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {
        "words": rng.integers(0, 9, 500_000, np.int32),
        "log_probs": rng.normal(size=500_000).astype(np.float32),
        "none": np.zeros(0, np.int32),
        "spelling": np.frombuffer("a\nä".encode(), np.uint8),
    }
    path = tmp_path / "x.safetensors"
    tracemalloc.start()
    try:
        with path.open("wb") as file:
            ngram._write_tensors(file, tensors, {"format": "of ours"})
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()
    with safe_open(path, "np") as read:
        assert read.metadata() == {"format": "of ours"}
        assert set(read.keys()) == set(tensors)
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(read.get_tensor(name), tensor)

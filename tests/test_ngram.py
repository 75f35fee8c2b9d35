"""n-gram language models: scores worked by hand and by KenLM, and files that are broken or hostile."""

from __future__ import annotations

import contextlib
import gzip
import json
import math
import random
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from asr.decode.ngram import ROOT, NgramModel, advance
from asr.errors import LanguageModelError

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
    (tmp_path / "lm.arpa.gz").write_bytes(gzip.compress(ARPA.encode()))
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


def test_a_model_without_unk_gives_it_next_to_nothing(tmp_path):
    path = tmp_path / "lm.arpa"
    path.write_text(ARPA.replace("ngram 1=5", "ngram 1=4").replace("-1.2\t<unk>\n", ""))
    assert log10s(NgramModel.load(path).score(["dog"]))[0] == pytest.approx(-100.3)


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
        ("hello\n", 1, "begins with"),
        (replaced(2, "ngram 2=5"), 2, "ngram 1=COUNT"),
        (replaced(2, "ngram 1=five"), 2, "ngram 1=COUNT"),
        (replaced(2, "ngram 1=999999999999"), 5, "2\\*\\*31"),
        (replaced(2, "ngram 1=6"), 12, "6 of 6"),
        (replaced(2, "ngram 1=4"), 11, "expected .2-grams:"),
        (replaced(7, "-1.x\t<unk>"), 7, "expected a number"),
        (replaced(7, "0.3\t<unk>"), 7, "positive"),
        (replaced(7, "nan\t<unk>"), 7, "not finite"),
        (replaced(7, "-1e99\t<unk>"), 7, "not finite"),
        (replaced(9, "-0.9\tthe\tcat"), 9, "expected a number"),
        (replaced(9, "-0.9\tthe\t-0.1 -0.2"), 9, "1 words"),
        (replaced(9, "-0.9\tcat"), 11, "twice"),
        (replaced(14, "-0.4\t<s> dog\t-0.05"), 14, "'dog' is not among the unigrams"),
        (replaced(15, "-0.3\tthe"), 15, "2 words"),
        (replaced(15, "-0.3\tcat the"), 17, "twice"),
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


@pytest.mark.parametrize("word", ["<s>", "</s>"])
def test_a_model_without_sentence_markers_is_refused(tmp_path, word):
    path = tmp_path / "lm.arpa"
    path.write_text(ARPA.replace(word, "x" + word[1:-1].replace("/", "e")))
    with pytest.raises(LanguageModelError, match=f"no {word}"):
        NgramModel.load(path)


@pytest.mark.parametrize("content", [b"", b"\x00", b"\xff\xfe" * 50, gzip.compress(ARPA.encode())[:-20], b"\x1f\x8bno"])
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


def test_a_header_made_to_exhaust_the_reader_is_a_sentence(tmp_path):
    path = tmp_path / "lm.safetensors"
    for header in (b"{" + b'"a":[' * 100_000, json.dumps({"__metadata__": 3}).encode(), b"{}"):
        path.write_bytes(len(header).to_bytes(8, "little") + header)
        with pytest.raises(LanguageModelError, match="not a whole language model"):
            NgramModel.load(path)

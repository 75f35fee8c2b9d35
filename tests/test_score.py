"""asr score: any system's transcripts, every form, counts as published, and a verdict that can be trusted."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from asr.cli import main
from asr.errors import CorpusError, MissingExtraError
from asr.records import ErrorCounts
from asr.score.compare import Rules, compare
from asr.score.compare import score as score_systems
from asr.score.edits import align_characters, align_words, character_errors, count, error_slots, unit_of, word_errors
from asr.score.transcripts import read_hypotheses, read_references
from asr.text.normalise import _whisper_english, normalise

# ---------------------------------------------------------------------------------------- counts as published


def fewest_errors(reference: list[str], hypothesis: list[str], weights=(1, 1, 1)) -> tuple[int, ErrorCounts]:
    """The cheapest alignment, by textbook: its cost by ``weights`` (substitution, deletion, insertion), and counts."""
    substitution, deletion, insertion = weights
    row = [(j * insertion, ErrorCounts(insertions=j)) for j in range(len(hypothesis) + 1)]
    for i, said in enumerate(reference, 1):
        above, row = row, [(i * deletion, ErrorCounts(deletions=i))]
        for j, recognised in enumerate(hypothesis, 1):
            same = said == recognised
            (c, n), (d, m), (e, k) = above[j - 1], above[j], row[j - 1]
            ways = [
                (c + (0 if same else substitution), n + ErrorCounts(hits=int(same), substitutions=int(not same))),
                (d + deletion, m + ErrorCounts(deletions=1)),
                (e + insertion, k + ErrorCounts(insertions=1)),
            ]
            row.append(min(ways, key=lambda way: way[0]))
    return row[-1]


def random_pairs(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """References of 0 to 12 words of a small vocabulary, Unicode among them, and hypotheses made by chance."""
    generator = random.Random(seed)
    vocabulary = ["a", "the", "grüße", "naïve", "日本", "हिन्दी", "cat", "cut", "it's", "🙂"]
    pairs = []
    for _ in range(count):
        said = generator.choices(vocabulary, k=generator.randrange(13))
        heard = [generator.choice([word, word, word, generator.choice(vocabulary), ""]) for word in said]
        heard += generator.choices(vocabulary, k=generator.choice([0, 0, 1, 3]))
        pairs.append((" ".join(said), " ".join(" ".join(heard).split())))
    return [*pairs, ("", ""), ("a b", ""), ("", "a b")]


def test_jiwer_finds_the_fewest_errors_on_1000_random_pairs_and_its_counts_add_up():
    pairs = random_pairs(1000)
    for reference, hypothesis in pairs:
        counts = word_errors([reference], [hypothesis])
        assert counts.errors == fewest_errors(reference.split(), hypothesis.split())[0]
        assert counts.reference_length == len(reference.split())
        assert counts.hits + counts.substitutions + counts.insertions == len(hypothesis.split())
        characters = character_errors([reference], [hypothesis])
        assert characters.reference_length == len(reference)
        assert characters.hits + characters.substitutions + characters.insertions == len(hypothesis)
    for reference, hypothesis in pairs[::10]:
        counts = character_errors([reference], [hypothesis])
        assert counts.errors == fewest_errors(list(reference), list(hypothesis))[0]


def test_the_alignment_is_the_counts_and_both_texts():
    pairs = random_pairs(1000)
    references, hypotheses = zip(*pairs, strict=True)
    words, characters = align_words(references, hypotheses), align_characters(references, hypotheses)
    for (reference, hypothesis), by_word, by_character in zip(pairs, words, characters, strict=True):
        assert count(by_word) == word_errors([reference], [hypothesis])
        assert count(by_character) == character_errors([reference], [hypothesis])
        assert " ".join(e.reference for e in by_word if e.reference) == reference
        assert " ".join(e.hypothesis for e in by_word if e.hypothesis) == hypothesis
        assert "".join(e.reference for e in by_character) == reference
        slots = error_slots(by_word)
        assert len(slots) == 2 * len(reference.split()) + 1
        assert slots.sum() == count(by_word).errors
        assert slots[::2].sum() == count(by_word).insertions


def test_sclites_weights_never_find_fewer_errors_and_seldom_more():
    # sclite aligns with 4 for a substitution and 3 for a deletion or an insertion (SCTK, sclite's manual); its rates
    # are those of jiwer: errors over reference words, with hits + substitutions + deletions = reference words.
    more = 0
    for reference, hypothesis in random_pairs(1000):
        ours = word_errors([reference], [hypothesis])
        _, sclite = fewest_errors(reference.split(), hypothesis.split(), weights=(4, 3, 3))
        assert sclite.reference_length == ours.reference_length
        assert sclite.errors >= ours.errors
        more += sclite.errors > ours.errors
    assert more / 1000 < 0.02


def test_rates_are_those_of_the_papers():
    counts = ErrorCounts(hits=6, substitutions=2, deletions=2, insertions=4)  # 10 words said, 12 recognised
    assert counts.rate == pytest.approx(8 / 10)
    assert counts.match_error_rate == pytest.approx(8 / 14)
    assert counts.information_lost == pytest.approx(1 - (6 / 10) * (6 / 12))
    assert ErrorCounts().match_error_rate == ErrorCounts().information_lost == 0.0
    assert ErrorCounts(insertions=3).match_error_rate == ErrorCounts(insertions=3).information_lost == 1.0


@pytest.mark.parametrize(
    ("reference", "hypothesis", "words", "characters"),
    [
        ("", "", (0, 0, 0, 0), (0, 0, 0, 0)),
        ("", "a bc", (0, 0, 0, 2), (0, 0, 0, 4)),  # an empty reference: everything is inserted
        ("a bc", "", (0, 0, 2, 0), (0, 0, 4, 0)),  # an empty hypothesis: everything is deleted
        ("grüße", "gruße", (0, 1, 0, 0), (4, 1, 0, 0)),
        ("Cafe\u0301", "CAFÉ", (1, 0, 0, 0), (4, 0, 0, 0)),  # the same once normalised
        ("日本語", "日本", (0, 1, 0, 0), (2, 0, 1, 0)),  # what has no spaces is one word
        ("हिन्दी", "हिन्दि", (0, 1, 0, 0), (5, 1, 0, 0)),  # code points, vowel signs on their own
        ("a\u00a0b", "a b", (2, 0, 0, 0), (3, 0, 0, 0)),  # any white space parts words
        ("🙂", "", (0, 0, 0, 0), (0, 0, 0, 0)),  # no letter, and gone
    ],
)
def test_empty_texts_and_unicode_are_counted_as_documented(tmp_path, reference, hypothesis, words, characters):
    [system] = score(tmp_path, {"1": reference, "2": "x"}, {"1": hypothesis, "2": "x"})
    first = system.utterances[0]
    assert counted(first.words) == words
    assert counted(first.characters) == characters


def counted(counts: ErrorCounts) -> tuple[int, int, int, int]:
    return counts.hits, counts.substitutions, counts.deletions, counts.insertions


# ----------------------------------------------------------------------------------------------------- the forms


def write(path: Path, *rows: dict | str) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines))
    return path


def texts(folder: Path, name: str, by_id: dict[str, str], **more) -> Path:
    return write(folder / f"{name}.jsonl", *({"id": id, "text": text, **more} for id, text in by_id.items()))


def score(folder: Path, said: dict[str, str], *systems: dict[str, str], normalisation="basic"):
    references = read_references(texts(folder, "ref", said))
    files = [texts(folder, f"system{n}", system) for n, system in enumerate(systems)]
    return score_systems(
        references, [read_hypotheses(file, references) for file in files], Rules(normalisation=normalisation)
    )


SAID = {"u1": "one two three", "u2": "four five", "u3": ""}
HEARD = {"u1": "one too three", "u2": "", "u3": ""}


def forms_of(folder: Path) -> dict[str, Path]:
    """The same hypotheses in every form that has ids."""
    (folder / "kaldi").mkdir()
    return {
        "jsonl": write(folder / "a.jsonl", *({"id": id, "text": text} for id, text in HEARD.items())),
        "ours": write(folder / "b.jsonl", *({"id": i, "ref": SAID[i], "hyp": text} for i, text in HEARD.items())),
        "nemo": write(folder / "n.json", *({"id": i, "text": SAID[i], "pred_text": t} for i, t in HEARD.items())),
        "csv": write(folder / "a.csv", "id,text", 'u1,"one too three"', "u2,", "u3,"),
        "tsv": write(folder / "a.tsv", "id\thyp", "u1\tone too three", "u2\t", "u3\t"),
        "kaldi": write(folder / "kaldi" / "text", "u1 one too three", "u2", "u3"),
        "trn": write(folder / "a.trn", ";; by hand", "one too three (u1)", "(u2)", " (u3)"),
        "kaldi by its ids": write(folder / "a.txt", "u1  one too three", "u2", "u3"),
        "ctm": write(
            folder / "a.ctm", ";; made by hand", "u1 A 1.0 0.2 too 0.9", "u1 A 0.5 0.2 one", "u1 A 2 0.5 three 0.7"
        ),
    }


def test_every_form_reads_to_the_same_score(tmp_path):
    references = read_references(texts(tmp_path, "ref", SAID))
    for form, path in forms_of(tmp_path).items():
        [system] = score_systems(references, [read_hypotheses(path, references)])
        assert counted(system.words) == (2, 1, 2, 0), form
        assert [u.hypothesis for u in system.utterances] == list(HEARD.values()), form


def test_plain_text_is_paired_line_by_line_and_blank_lines_count(tmp_path):
    references = read_references(write(tmp_path / "ref.txt", "one two three", "four five", ""))
    [system] = score_systems(
        references, [read_hypotheses(write(tmp_path / "hyp.txt", "one too three", "", ""), references)]
    )
    assert counted(system.words) == (2, 1, 2, 0)
    with pytest.raises(CorpusError, match="plain text has no ids"):
        read_hypotheses(texts(tmp_path, "hyp", HEARD), references)
    short = read_hypotheses(write(tmp_path / "short.txt", "one"), references)
    with pytest.raises(CorpusError, match=r"2 of the 3 references have no hypothesis: line 2, line 3"):
        score_systems(references, [short])


def test_the_words_of_a_ctm_lie_on_the_stm_segments_that_hold_their_midpoints(tmp_path):
    stm = write(
        tmp_path / "ref.stm",
        ";; CATEGORY",
        "talk A anna 0.00 2.00 <o,f0> one two",
        "talk A ben 2.00 4.00 three",
        "talk A anna 5.00 6.00 ignore_time_segment_in_scoring",
        "talk a anna 7.00 8.00 four",
        "talk B cleo 0.00 4.00",
    )
    ctm = write(
        tmp_path / "hyp.ctm",
        "talk A 1.9 0.4 three",  # begins in the first segment, its middle is in the second
        "talk A 0.1 0.4 one",
        "talk A 1.0 0.4 two",
        "talk A 4.3 0.2 um",  # in the gap before a segment that is not scored, to which it falls
        "talk A 5.2 0.2 cough",
        "talk A 7.2 0.2 four",
        "talk A 6.3 0.2 er",  # in the gap after it: counted with the next
        "talk A 9.3 0.2 oh",  # after the last
    )
    references = read_references(stm)
    [system] = score_systems(references, [read_hypotheses(ctm, references)])
    assert [u.hypothesis for u in system.utterances] == ["one two", "three", "er four oh", ""]
    assert counted(system.words) == (4, 0, 0, 2)
    assert {name: g.words.errors for name, g in system.groups()["speaker"].items()} == {"anna": 2, "ben": 0, "cleo": 0}
    assert len(references.skipped) == 1


def test_a_trn_id_begins_with_the_speaker(tmp_path):
    trn = write(tmp_path / "ref.trn", "a b (anna-001)", "c (ben_2-x)", "d (3)")
    assert [(line.id, line.text, line.speaker) for line in read_references(trn).lines] == [
        ("anna-001", "a b", "anna"),
        ("ben_2-x", "c", "ben"),
        ("3", "d", ""),
    ]


def test_kaldi_tables_beside_the_reference_tell_speakers_and_durations(tmp_path):
    text = write(tmp_path / "text", "u1 one two", "u2 three")
    write(tmp_path / "utt2spk", "u1 anna", "u2 ben")
    write(tmp_path / "utt2dur", "u1 1.5", "u2 3")
    assert [(line.speaker, line.duration) for line in read_references(text).lines] == [("anna", 1.5), ("ben", 3.0)]


def test_errors_are_grouped_by_whatever_the_reference_tells(tmp_path):
    rows = [
        {"id": "1", "text": "a b", "speaker": "anna", "corpus": "x", "duration": 1.0, "snr": 10},
        {"id": "2", "text": "c d", "speaker": "ben", "corpus": "x", "duration": 30.0, "snr": 0},
        {"id": "3", "text": "e", "speaker": "anna", "corpus": "y", "duration": 1.5, "snr": 10},
    ]
    references = read_references(write(tmp_path / "ref.jsonl", *rows))
    heard = read_hypotheses(texts(tmp_path, "hyp", {"1": "a b", "2": "c x", "3": "f"}), references)
    [system] = score_systems(references, [heard])
    wrong = {
        kind: {name: (g.words.errors, g.words.reference_length) for name, g in groups.items()}
        for kind, groups in system.groups().items()
    }
    assert wrong == {
        "corpus": {"x": (1, 4), "y": (1, 1)},
        "speaker": {"anna": (1, 3), "ben": (1, 2)},
        "duration": {"0 to 2 s": (1, 3), "over 20 s": (1, 2)},
        "noise": {"10": (1, 3), "0": (1, 2)},
    }


# ------------------------------------------------------------------------------------------- writing without spaces

CHINESE = {f"u{n}": text for n, text in enumerate(["今天天气很好，我们去公园。", "你好", "他在北京工作"] * 6)}


def test_where_words_are_not_spaced_characters_are_the_headline_and_spaces_do_not_count(tmp_path):
    heard = {id: " ".join(text[:-1]) for id, text in CHINESE.items()}
    [system] = score(tmp_path, CHINESE, heard)
    assert system.unit == "character"
    assert counted(system.characters) == (6 * (11 + 1 + 5), 0, 6 * 2, 0)  # the full stop is none
    interval = system.interval("character")
    assert interval.low < 12 / 114 < interval.high
    done = run(tmp_path / "ref.jsonl", tmp_path / "system0.jsonl")
    assert "114 characters in 18 utterances" in done.stdout
    assert f"system0: CER 10.53% [{interval.low:.2%}, {interval.high:.2%}]" in done.stdout
    assert "0 substituted, 12 deleted, 0 inserted" in done.stdout


def test_systems_are_compared_by_what_the_headline_counts(tmp_path):
    systems = score(tmp_path, CHINESE, CHINESE, {id: "x" + text[1:] for id, text in CHINESE.items()})
    [comparison] = compare(systems)
    assert comparison.estimate == pytest.approx(18 / 114)
    assert "of the CER" in str(comparison)
    assert comparison.better == "system0"


@pytest.mark.parametrize(
    ("texts", "unit"),
    [
        (["今天天气很好", "你好"], "character"),
        (["今天 天气 很 好", "我们 去 公园"], "word"),  # parted all the same
        (["東京タワーに行きました"], "character"),
        (["วันนี้อากาศดี", "ไปเที่ยวกันเถอะ"], "character"),
        (["안녕하세요 여러분", "감사합니다"], "word"),
        (["the book 老子 is short"], "word"),
        (["donaudampfschifffahrt"], "word"),
        ([""], "word"),
    ],
)
def test_scripts_without_spaces_are_told_by_their_letters(texts, unit):
    assert unit_of(texts) == unit


def test_turkish_is_scored_with_its_own_small_letters(tmp_path):
    texts_of = texts(tmp_path, "ref", {"1": "ISLIK İYİ"}), texts(tmp_path, "hyp", {"1": "ıslık iyi"})
    assert "hyp: WER 50.00%" in run(*texts_of).stdout
    assert "hyp: WER 0.00%" in run(*texts_of, "--language", "tr").stdout


# ------------------------------------------------------------------------------------------------- normalisation


def test_each_normalisation_makes_alike_what_it_says(tmp_path):
    said, heard = {"1": "Mr. Smith paid twenty dollars."}, {"1": "mister smith paid $20"}
    rates = {}
    for form in ("none", "basic", "english"):
        if form == "english":
            pytest.importorskip("whisper_normalizer")
        [system] = score(tmp_path, said, heard, normalisation=form)
        rates[form] = system.words.errors
    assert rates == {"none": 4, "basic": 3, "english": 0}


def test_figures_that_the_reference_has_none_of_are_remarked_on(tmp_path):
    reference = texts(tmp_path, "ref", {"1": "call two", "2": "a"})
    figures = texts(tmp_path, "figures", {"1": "call 2", "2": "a"})
    done = run(reference, figures)
    assert "figures writes figures in 1 of 2 utterances, the reference in none: --normalise english" in done.stdout
    assert "writes figures" not in run(reference, reference).stdout
    assert "writes figures" not in run(figures, reference).stdout


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ("rubout g m e f three nine", "Rubout G-M-E-F-39."),
        ("erase c q q f seven", "Erase CQQF7"),
        ("a seven", "A7."),
        ("three three one oh one eight eight", "331-0188"),
        ("three three one oh one eight eight", "3, 3, 1, 0, 1, 88"),
        ("ten twenty seven sixty two", "1027.62"),
        ("may second nineteen sixty five", "May 2nd, 1965"),
        ("march seventh nineteen sixty seven", "March 7, 1967."),
        ("w o o d", "W-O-O-D"),
        ("i am at c m u", "I am at CMU"),
        ("one thousand two hundred dollars", "$1,200"),
        ("five percent", "5%"),
    ],
)
def test_the_spelled_form_makes_what_is_spelled_out_alike(said, written):
    pytest.importorskip("whisper_normalizer")
    assert normalise(said, "spelled") == normalise(written, "spelled")


def test_a_file_in_capitals_is_not_taken_for_spelled(tmp_path):
    pytest.importorskip("whisper_normalizer")
    [system] = score(tmp_path, {"1": "CALL BOB AT NINE"}, {"1": "Call Bob at 9."}, normalisation="spelled")
    assert system.words.errors == 0


def test_a_number_that_whispers_english_cannot_take_is_a_sentence(tmp_path):
    pytest.importorskip("whisper_normalizer")
    long = texts(tmp_path, "ref", {"1": "call 9" + "9" * 5000})
    done = run(long, texts(tmp_path, "hyp", {"1": "call"}), "--normalise", "english")
    assert done.exit_code == 1
    assert done.stderr.startswith("asr: Whisper's English normalisation fails on the text 'call 999")


def test_the_english_form_without_its_package_says_what_to_install(monkeypatch):
    _whisper_english.cache_clear()
    monkeypatch.setitem(sys.modules, "whisper_normalizer.english", None)
    with pytest.raises(MissingExtraError, match=r"pip install '\.\[english\]' in the clone"):
        normalise("a", "english")


# ------------------------------------------------------------------------------------------------------ bad input


def run(*arguments: object):
    return CliRunner().invoke(main, ["score", *map(str, arguments)])


def test_each_mistake_is_one_sentence_that_names_and_counts_and_exit_code_1(tmp_path):
    said = {f"u{i}": "One two" for i in range(9)}
    good = texts(tmp_path, "ref", said)
    two = [{"id": "u1", "text": "a"}, {"id": "u2", "text": "b"}]

    def hyp(name: str, *rows: dict | str) -> Path:
        return write(tmp_path / name, *rows)

    lower = texts(tmp_path, "lower", {id: text.lower() for id, text in said.items()})
    upper = texts(tmp_path, "upper", {id: text.upper() for id, text in said.items()})
    other = hyp("other.jsonl", *({"id": id, "ref": "else", "hyp": "one two"} for id in said))
    stm, ctm = hyp("s.stm", "t A s 1 2 a"), hyp("s.ctm", "t A 1 1 a")
    mistakes = [
        ([good, hyp("few.jsonl", *two)], "7 of the 9 references have no hypothesis: u0, u3, u4, u5, u6 and 2 more"),
        (
            [good, hyp("more.jsonl", *({"id": i, "text": "a"} for i in (*said, "v1", "v2")))],
            "2 of its 11 ids have no reference: v1, v2",
        ),
        ([good, hyp("twice.jsonl", *two, two[0])], "1 ids come more than once: u1"),
        ([hyp("ref2.jsonl", *two, *two), lower], "2 ids come more than once: u1, u2"),
        ([hyp("empty.jsonl"), lower], "empty.jsonl (JSON lines) holds no utterance"),
        ([good, hyp("none.csv", "id,text")], "none.csv (CSV) holds no utterance"),
        ([texts(tmp_path, "silent", dict.fromkeys(said, "...")), lower], "holds no words (basic normalisation)"),
        (
            [good, lower, upper, "--normalise", "none"],
            "the systems are normalised differently: upper writes capital letters, lower none",
        ),
        ([good, lower, other], "of which 9 differ from those of"),
        ([good, lower, lower], "given twice"),
        ([good, tmp_path / "gone.jsonl"], "gone.jsonl cannot be read: No such file or directory"),
        ([good, hyp("bad.jsonl", "{")], "bad.jsonl, line 1: not JSON"),
        ([good, hyp("noid.jsonl", {"text": "a"})], "noid.jsonl, line 1: no id; found text"),
        ([good, hyp("notext.csv", "id,words", "u1,a")], "no text, which is called hyp or hypothesis or pred_text"),
        ([good, hyp("number.jsonl", {"id": "u1", "text": 5})], "a text is a string; found 5"),
        ([hyp("nan.jsonl", '{"id": "u1", "text": "a", "duration": NaN}'), lower], "seconds, 0 or more; found nan"),
        ([hyp("a.ctm", "u A 0 1 a"), lower], "1 of the 1 references have no hypothesis: u A"),
        ([good, hyp("b.ctm", "u1 A zero 1 a")], "b.ctm, line 1: expected two times in seconds; found zero 1"),
        ([good, hyp("c.ctm", "u1 A 0 1 a", "u1 B 0 1 a")], "1 files have several channels (u1)"),
        ([hyp("a.stm", "t A s 2 1 a"), lower], "a.stm, line 1: 2 1 is no stretch of time"),
        ([hyp("b.stm", "t A s 1 2 { a / b"), lower], "b.stm, line 1: an opening brace without a closing one"),
        ([hyp("a.trn", ";;", "a b } / c (u1)"), lower], "a.trn, line 2: a closing brace without an opening one"),
        (
            [hyp("deep.trn", ";;", "{ " * 1500 + "a (u1)"), lower],
            "deep.trn, line 2: braces are nested more than 50 deep",
        ),
        ([good, hyp("d.ctm", "u1 A * * <ALT>")], "d.ctm, line 1: <ALT> does not follow from the lines before"),
        (
            [good, hyp("e.ctm", "u1 A * * <ALT_BEGIN>", "u1 A 0 1 a")],
            "e.ctm: alternatives begin in u1 A and do not end",
        ),
        ([stm, hyp("f.ctm", "t A 1 1 {")], "f.ctm (CTM), t A 1-2: an opening brace without a closing one"),
        ([good, lower, "--glm", hyp("a.glm", ";;", "A => B")], "a.glm is for references in NIST's forms"),
        ([stm, ctm, "--glm", hyp("b.glm", ";;", "", "A B")], "b.glm, line 3: expected FOUND => WRITTEN; found A B"),
        ([good, hyp("b.trn", "a b u1")], "b.trn, line 1: expected words and an id in brackets; found a b u1"),
        ([good, hyp("c.trn", "a (u1)", "b (u1)")], "1 ids come more than once: u1"),
        ([good, hyp("plain.txt", "hello there")], "plain text has no ids"),
    ]
    for arguments, sentence in mistakes:
        done = run(*arguments)
        assert done.exit_code == 1, arguments
        assert sentence in done.stderr
        assert done.stderr.startswith("asr: ")
        assert done.stderr.count("\n") == 1
        assert done.stdout == ""


def test_ctm_words_of_an_unknown_file_are_hypotheses_for_no_reference(tmp_path):
    ctm = write(tmp_path / "a.ctm", "u1 A 0 1 one", "u9 A 0 1 nine")
    done = run(texts(tmp_path, "ref", SAID), ctm)
    assert "1 of its 4 ids have no reference: u9" in done.stderr


# ------------------------------------------------------------------------------------------------------- verdicts


def systems(folder: Path, utterances: int, *wrong_rates: float, speakers: int = 20):
    """Systems that get each word of the same 10-word utterances wrong with their own probability."""
    generator = np.random.default_rng(4)
    words = [f"w{i}" for i in range(10)]
    rows = [{"id": f"u{i}", "text": " ".join(words), "speaker": f"s{i % speakers}"} for i in range(utterances)]
    reference = write(folder / "ref.jsonl", *rows)
    files = []
    for name, rate in zip("ABCD", wrong_rates, strict=False):
        heard = {row["id"]: " ".join("x" if generator.random() < rate else word for word in words) for row in rows}
        files.append(texts(folder, name, heard))
    return reference, files


def test_a_better_system_is_called_better_with_its_difference_interval_and_p(tmp_path):
    reference, files = systems(tmp_path, 300, 0.20, 0.10)
    done = run(reference, *files, "--json", tmp_path / "s.json")
    assert done.exit_code == 0
    verdict = done.stdout.splitlines()[-1]
    assert verdict.startswith("B is better than A: -")
    assert " % absolute, 95 % CI [-" in verdict
    assert "p < 0.001 (paired bootstrap), p < 0.001 (MAPSSWE, " in verdict
    document = json.loads((tmp_path / "s.json").read_text())
    [comparison] = document["comparisons"]
    assert comparison["better"] == "B"
    assert comparison["sentence"] == verdict
    assert comparison["interval"][0] <= comparison["difference"] <= comparison["interval"][1] < 0
    assert document["systems"]["A"]["wer_interval"][0] <= document["systems"]["A"]["wer"]
    assert len(document["systems"]["A"]["by"]["speaker"]) == 20
    assert document["normalisation"]["name"] == "basic"
    assert "normalisation basic: NFKC, lower case" in done.stdout


def test_a_set_too_small_to_say_is_said_to_be(tmp_path):
    reference, files = systems(tmp_path, 40, 0.10, 0.10, speakers=4)
    assert "the set is too small to say which is better" in run(reference, *files).stdout
    reference, files = systems(tmp_path, 5, 0.5, 0.1)
    done = run(reference, *files)
    assert "5 utterances are too few to say which is better" in done.stdout
    assert "[too few for an interval]" in done.stdout


def test_three_systems_are_compared_in_pairs_with_p_values_raised_for_it(tmp_path):
    reference, files = systems(tmp_path, 80, 0.20, 0.16, 0.20)
    references = read_references(reference)
    read = [read_hypotheses(file, references) for file in files]
    three = compare(score_systems(references, read))
    assert [(c.a, c.b) for c in three] == [("A", "B"), ("A", "C"), ("B", "C")]
    [alone] = compare(score_systems(references, read[:2]))
    assert three[0].bootstrap_p > alone.bootstrap_p
    assert three[0].difference == alone.difference


def test_our_own_hypotheses_files_score_as_evaluate_scored_them(tmp_path):
    rows = [{"id": "1", "ref": "a b c", "hyp": "a x"}, {"id": "2", "ref": "d", "hyp": "d d"}]
    ours = write(tmp_path / "hypotheses.jsonl", *rows)
    done = run(ours, ours)
    assert done.exit_code == 0
    assert "hypotheses: WER 75.00%" in done.stdout


def test_scoring_imports_no_torch_and_no_lhotse(tmp_path):
    reference, files = systems(tmp_path, 10, 0.1, 0.1)
    arguments = ["score", *map(str, [reference, *files]), "--report", str(tmp_path / "out.html")]
    code = (
        f"import sys\nfrom asr.cli import main\ntry: main({arguments})\nexcept SystemExit as end: assert not end.code\n"
    )
    code += "print([m for m in ('torch', 'lhotse', 'numba', 'librosa') if m in sys.modules])"
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert seen.stdout.splitlines()[-1] == "[]"

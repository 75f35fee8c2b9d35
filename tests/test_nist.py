"""NIST's files and notation: every count is sclite's (SCTK 2.4.10), with its options -D, and -F where said."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest
from click.testing import CliRunner

from asr.cli import main
from asr.score.compare import Rules, score
from asr.score.edits import count
from asr.score.glm import read_glm
from asr.score.graphs import align, word_graph
from asr.score.transcripts import read_hypotheses, read_references

Counts = tuple[int, int, int, int]
"""Hits, substitutions, deletions, insertions."""

SHARED = Path(__file__).parents[2] / "shared" / "faults"
SCLITE = shutil.which("sclite") or shutil.which("sclite", path="/usr/lib/sctk/bin")


def counts(said: str, heard: str, *, fragments: bool = False) -> Counts:
    graphs = (word_graph(text, "lower", fragments=fragments) for text in (said, heard))
    found = align(*graphs, fragments=fragments)
    errors = count(found.edits)
    assert found.slots.sum() == errors.errors
    return errors.hits, errors.substitutions, errors.deletions, errors.insertions


@pytest.mark.parametrize(
    ("said", "heard", "sclite"),
    [
        # alternatives: the one that fits best counts, with its own number of words
        ("i've { um / uh / @ } as far", "i've as far", (3, 0, 0, 0)),
        ("i've { um / uh / @ } as far", "i've uh as far", (4, 0, 0, 0)),
        ("i've { um / uh } as far", "i've as far", (3, 0, 1, 0)),
        ("a { b / c d } e", "a c d e", (4, 0, 0, 0)),
        ("a { b / c d } e", "a c e", (3, 0, 1, 0)),
        ("had a { age-old / age old } problem", "had a age old problem", (5, 0, 0, 0)),
        ("a { b / { c / d } e } f", "a d e f", (4, 0, 0, 0)),
        ("{a/b} c", "b c", (2, 0, 0, 0)),
        ("a b", "{ a b / a } b", (2, 0, 0, 0)),
        ("a b @ c", "a b c", (3, 0, 0, 0)),
        # words that may be left out: right whether they are or not
        ("a (uh) b", "a b", (3, 0, 0, 0)),
        ("a (uh) b", "a uh b", (3, 0, 0, 0)),
        ("a (uh) b", "a er b", (2, 1, 0, 0)),
        ("a b", "a (uh) b", (3, 0, 0, 0)),
        ("%hesitation a (%hesitation) b", "a b", (3, 0, 1, 0)),
        # tags, and marks that are no part of a word
        ("Word;tag1;tag2 semi\\;colon", "word semi;colon", (1, 1, 0, 0)),
        ("right* wrong", "right wrong", (2, 0, 0, 0)),
        ("a ( b", "a ( b", (3, 0, 0, 0)),
        # the weights, 4 for a substitution and 3 for a deletion or an insertion
        ("a b", "x y z", (0, 2, 0, 1)),
        ("a b c d", "b c d e", (3, 0, 1, 1)),
        ("a b c", "x y a z c", (2, 1, 0, 2)),
        ("x a a x b b x", "a x x b", (3, 1, 3, 0)),
        ("", "a b", (0, 0, 0, 2)),
        ("a b", "", (0, 0, 2, 0)),
        # a fragment is a word like others
        ("th- this", "the this", (1, 1, 0, 0)),
        ("(th-) a", "this a", (1, 1, 0, 0)),
    ],
)
def test_the_notation_counts_as_sclite_counts_it(said, heard, sclite):
    assert counts(said, heard) == sclite


@pytest.mark.parametrize(
    ("said", "heard", "sclite"),
    [
        ("th- this", "the this", (2, 0, 0, 0)),
        ("-ing a", "going a", (2, 0, 0, 0)),
        ("(th-) a", "this a", (2, 0, 0, 0)),
        ("th- this", "a this", (1, 1, 0, 0)),
    ],
)
def test_fragments_are_right_where_the_word_begins_or_ends_so(said, heard, sclite):
    assert counts(said, heard, fragments=True) == sclite


@pytest.mark.parametrize("alternatives_in", ["the reference", "both"])
def test_random_notation_counts_as_sclite_counts_it(tmp_path, alternatives_in):
    if SCLITE is None:
        pytest.skip("sclite is not installed (Debian's package sctk)")
    generator = random.Random(7)
    # With "@" in both, sclite's sums in single precision settle between paths of one cost.
    words = ["a", "b", "c", "d", "a-", "-b", *(["@"] if alternatives_in == "the reference" else [])]

    def item(depth: int = 0) -> str:
        kind = generator.random()
        if kind < 0.25 and depth < 3:
            some = (" ".join(item(depth + 1) for _ in range(generator.choice([1, 1, 2]))) for _ in range(3))
            return "{ " + " / ".join(some) + " }"
        return f"({generator.choice(words[:4])})" if kind < 0.35 else generator.choice(words)

    def text(size: int, notation: bool) -> str:
        return " ".join(item() if notation else generator.choice(words[:6]) for _ in range(generator.randrange(size)))

    pairs = [(text(7, True), text(8, alternatives_in == "both")) for _ in range(300)]
    for name, texts in zip(("ref", "hyp"), zip(*pairs, strict=True), strict=True):
        (tmp_path / name).write_text("".join(f"{said} (s-{n})\n" for n, said in enumerate(texts)))
    for fragments in (False, True):
        options = ["-D", *(["-F"] if fragments else [])]
        found = sclite_counts(tmp_path / "ref", "trn", tmp_path / "hyp", "trn", *options, "-i", "spu_id")["s"]
        assert found == [counts(said, heard, fragments=fragments) for said, heard in pairs]


def sclite_counts(ref: Path, ref_form: str, hyp: Path, hyp_form: str, *options: str) -> dict[str, list[Counts]]:
    """sclite's counts of each utterance, in its order, by speaker."""
    command = [str(SCLITE), "-r", str(ref), ref_form, "-h", str(hyp), hyp_form, *options, "-o", "pra", "stdout"]
    done = subprocess.run(command, capture_output=True, check=True).stdout.decode(errors="replace")
    by_speaker: dict[str, list[Counts]] = defaultdict(list)
    ids = re.findall(r"^id: \((.*?)(?:[-_][^-_]*)?\)$", done, re.MULTILINE)
    scores = re.findall(r"^Scores: \(#C #S #D #I\) (\d+) (\d+) (\d+) (\d+)$", done, re.MULTILINE)
    for id, found in zip(ids, scores, strict=True):
        hits, substitutions, deletions, insertions = map(int, found)
        by_speaker[id.lower()].append((hits, substitutions, deletions, insertions))
    return dict(by_speaker)


# ---------------------------------------------------------------------------------------------------------- files


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(line + "\n" for line in lines))
    return path


def scored(ref: Path, hyp: Path, **options) -> Counts:
    references = read_references(ref)
    [system] = score(references, [read_hypotheses(hyp, references)], Rules(**{"normalisation": "lower", **options}))
    words = system.words
    return words.hits, words.substitutions, words.deletions, words.insertions


def test_alternatives_of_a_ctm_are_those_of_its_marks_in_any_case(tmp_path):
    ref = write(
        tmp_path / "ref.ctm",
        "7654 A 11.34 0.2 yes",
        "7654 A * * <ALT_BEGIN>",
        "7654 A 12.00 0.34 um",
        "7654 A * * <alt>",
        "7654 A 12.00 0.34 uh",
        "7654 A * * <ALT>",
        "7654 A * * <ALT_END>",
        "7654 A 13.30 0.5 can",
    )
    for heard, sclite in [(["uh"], (3, 0, 0, 0)), ([], (2, 0, 0, 0)), (["er"], (2, 0, 0, 1))]:
        words = ["7654 a 11.3 0.2 YES", *(f"7654 a 12.1 0.2 {word}" for word in heard), "7654 a 13.2 0.5 CAN"]
        assert scored(ref, write(tmp_path / "hyp.ctm", *words)) == sclite


def test_comments_begin_a_line_and_semicolons_within_one_are_tags(tmp_path):
    ref = write(tmp_path / "ref.trn", ";; one two (s-9)", "one;;tag two;tag (S-1)")
    assert scored(ref, write(tmp_path / "hyp.trn", "ONE TWO (s-1)")) == (2, 0, 0, 0)


def test_two_speakers_at_one_time_are_two_segments(tmp_path):
    ref = write(tmp_path / "ref.stm", "f 1 anna 0 2 one", "f 1 ben 0 2 two", "f 1 ben 3 4 three")
    assert len(read_references(ref).lines) == 3


def test_words_that_published_files_swap_or_end_too_early_keep_their_order(tmp_path):
    ref = write(tmp_path / "ref.stm", "f 1 s 0 4 one two three")
    hyp = write(tmp_path / "hyp.ctm", "f 1 1.01 -0.01 one", "f 1 1.00 0.3 two", "f 1 2 0.3 three")
    assert scored(ref, hyp) == (3, 0, 0, 0)


@pytest.mark.parametrize(
    ("folder", "sclite"), [("stm-lowercase-ignore", (15, 0, 0, 0)), ("stm-gap-next-to-ignored", (4, 0, 0, 1))]
)
def test_segments_that_are_not_scored_take_the_words_that_sclite_gives_them(folder, sclite):
    if not (SHARED / folder).is_dir():
        pytest.skip(f"{SHARED / folder} is not there")
    assert scored(SHARED / folder / "ref.stm", SHARED / folder / "hyp.ctm") == sclite


def test_each_form_of_text_keeps_the_notation(tmp_path):
    ref = write(tmp_path / "ref.stm", "f 1 s 0 4 Well-known, { Um / %hesitation } (Uh) it's { 20 / twenty }.")
    hyp = write(tmp_path / "hyp.ctm", "f 1 0 0.3 well", "f 1 1 0.3 known", "f 1 2 0.3 it's", "f 1 3 0.3 TWENTY")
    assert scored(ref, hyp, normalisation="basic") == (5, 0, 1, 0)
    pytest.importorskip("whisper_normalizer")
    assert scored(ref, hyp, normalisation="english") == (5, 0, 0, 0)  # fillers dropped; it is


# ---------------------------------------------------------------------------------------------------- global maps

GLM = """;; rules for a test
* name "test.glm"
* copy_no_hit = 'T'
COLOUR => COLOR / [ ] __ [ ]   ;; American
[UH] => [(%HESITATION)] / [ ] __ [ ]
UM => (%HESITATION) / [ ] __ [ ]
AUTO MAKERS => AUTOMAKERS
;; INPUT_DEPENDENT_APPLICATION = "ctm"
[HE'S] => [{HE'S / HE IS / HE HAS}] / [ ] __ [ ]
"""


@pytest.mark.parametrize(
    ("form", "text", "rewritten"),
    [
        ("stm", "a colour uh", "a COLOR (%HESITATION)"),
        ("stm", "he's colourful", "he's colourful"),  # a rule between spaces, and one for CTMs alone
        ("ctm", "he's", "{HE'S / HE IS / HE HAS}"),
        ("stm", "auto makers um um well-known fi- -ing", "AUTOMAKERS (%HESITATION) (%HESITATION) well known fi- -ing"),
        ("stm", "(well-known) (one two)", "(well) (known) (one) (two)"),
    ],
)
def test_rules_are_applied_as_csrfilt_applies_them(tmp_path, form, text, rewritten):
    rules = read_glm(write(tmp_path / "a.glm", *GLM.splitlines()), form, "ref")
    assert rules(text) == rewritten


def test_a_global_map_makes_contractions_and_hesitations_alike(tmp_path):
    glm = write(tmp_path / "a.glm", *GLM.splitlines())
    ref = write(tmp_path / "ref.stm", "f 1 s 0 4 he is uh the colour")
    hyp = write(tmp_path / "hyp.ctm", "f 1 0 0.3 he's", "f 1 2 0.3 the", "f 1 3 0.3 color")
    assert scored(ref, hyp) == (1, 2, 2, 0)
    assert scored(ref, hyp, glm=glm) == (5, 0, 0, 0)
    done = CliRunner().invoke(main, ["score", str(ref), str(hyp), "--glm", str(glm), "--fragments"])
    assert "hyp: WER 0.00%" in done.stdout


# ------------------------------------------------------------------------------------------------ SCTK's own tests

SCTK = Path(os.environ.get("SCTK", "/nowhere"))
"""A copy of SCTK's sources."""

TESTS = ((170, 76, 20, 40), (178, 75, 13, 33))
OWN_TESTS = [
    # its counts without -F and with it
    ("csrnab.ref", "csrnab.hyp", (1263, 131, 12, 26), (1263, 131, 12, 26)),
    ("csrnab1.ref", "csrnab1.hyp", (55, 8, 1, 1), (55, 8, 1, 1)),
    ("lvc_ref.stm", "lvc_hyp.ctm", (1013, 540, 226, 171), (1015, 539, 227, 170)),
    ("lvc_ref.stm", "lvc_hypc.ctm", (1013, 540, 226, 171), (1015, 539, 227, 170)),
    ("lvc_ref.stm", "lvc_hypr.ctm", (239, 143, 1397, 59), (239, 143, 1397, 59)),
    ("lvc_refe.stm", "lvc_hyp.ctm", (957, 503, 212, 165), (959, 502, 213, 164)),
    ("lvc_refm.stm", "lvc_hypm.ctm", (23, 9, 21, 33), (23, 9, 21, 33)),
    ("lvc_refr.stm", "lvc_hyp.ctm", (448, 237, 110, 1039), (448, 237, 110, 1039)),
    ("lvc_refr.stm", "lvc_hypr.ctm", (239, 143, 413, 59), (239, 143, 413, 59)),
    ("mand_ref.stm", "mand_hyp.ctm", (33, 3, 1, 1), (35, 1, 1, 1)),
    ("stm2ctm_missing.ref.stm", "stm2ctm_missing.hyp.ctm", (83, 58, 21, 18), (83, 58, 21, 18)),
    ("stm2ctm_missing.ref.stm", "stm2ctm_missing.hyp-missall.ctm", (0, 0, 162, 0), (0, 0, 162, 0)),
    ("stm2ctm_missing.ref.stm", "stm2ctm_missing.hyp-missfile1.ctm", (66, 49, 47, 11), (66, 49, 47, 11)),
    ("stm2ctm_missing.ref.stm", "stm2ctm_missing.hyp-missfile2chanB.ctm", (50, 38, 74, 18), (50, 38, 74, 18)),
    ("test.cantonese.stm", "test.cantonese.ctm", (26, 5, 3, 5), (26, 4, 4, 5)),
    ("test.turkish.ref", "test.turkish.hyp", (7, 0, 7, 7), (7, 0, 7, 7)),
    ("test.ukranian.ref", "test.ukranian.hyp", (59, 7, 0, 2), (59, 7, 0, 2)),
    ("test.vietnamese.ref.trn", "test.vietnamese.hyp.trn", (624, 0, 136, 208), (624, 0, 136, 208)),
    ("tests.ref", "tests.hyp", *TESTS),
    ("tests.hyp", "tests.ref", (170, 76, 40, 20), (178, 75, 33, 13)),
    *((f"tests.ref.utf8-{size}bytes", f"tests.hyp.utf8-{size}bytes", *TESTS) for size in range(1, 5)),
    ("tima_ref.ctm", "tima_hyp.ctm", (566, 256, 103, 47), (569, 253, 106, 47)),
]
NORMALISED = {"tests.ref.utf8-2bytes": "none"}
"""Where small letters and capitals are different words: there sclite makes only those of ASCII alike."""


@pytest.mark.skipif(not SCTK.is_dir(), reason="SCTK=FOLDER names no copy of SCTK's sources")
@pytest.mark.parametrize(("ref", "hyp", "plain", "with_fragments"), OWN_TESTS)
def test_the_files_of_sclites_own_tests_count_as_sclite_counts_them(tmp_path, ref, hyp, plain, with_fragments):
    for name in (ref, hyp):
        text = (SCTK / "src" / "sclite" / "testdata" / name).read_bytes()
        (tmp_path / name).write_text(text.decode("gb18030" if name.startswith("mand") else "utf-8"))
    forms = [name[-3:] if name[-3:] in ("stm", "ctm") else "trn" for name in (ref, hyp)]
    references = read_references(tmp_path / ref, forms[0])
    hypotheses = read_hypotheses(tmp_path / hyp, references, forms[1])
    for fragments, sclite in ((False, plain), (True, with_fragments)):
        rules = Rules(normalisation=NORMALISED.get(ref, "lower"), fragments=fragments)
        words = score(references, [hypotheses], rules)[0].words
        assert (words.hits, words.substitutions, words.deletions, words.insertions) == sclite


@pytest.mark.skipif(not SCTK.is_dir(), reason="SCTK=FOLDER names no copy of SCTK's sources")
@pytest.mark.parametrize(
    ("folder", "ref", "hyp", "hubscr"),
    [
        ("test1.base", "lvc_refe.stm", "lvc_hyp.ctm", (959, 503, 214, 166)),
        ("test1-notag.base", "lvc_refe.notag.noat.stm", "lvc_hyp.notag.ctm", (959, 506, 217, 163)),
    ],
)
def test_hubscrs_own_tests_count_as_hubscr_counts_them(folder, ref, hyp, hubscr):
    files = SCTK / "src" / "hubscr" / folder
    assert scored(files / ref, files / hyp, glm=files / "example.glm", fragments=True) == hubscr

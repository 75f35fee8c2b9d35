"""Forced alignment: exact, in little memory, and honest about words that are not there."""

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import torchaudio
from hypothesis import given
from hypothesis import strategies as st

from asr import recipe
from asr.decode import align as engine
from asr.decode.align import Slack, align
from asr.decode.words import TAIL
from asr.errors import TextError
from asr.records import AlignedText, AlignedWord, Emissions, Word
from asr.text.tokenise import CharacterTokeniser, build_tokeniser
from asr.transcribe import formats
from asr.transcribe.alignment import LAG, SEPARATOR_REACH, align_text, spell

TOKENISER = CharacterTokeniser(" abc")  # ids: blank 0, space 1, a 2, b 3, c 4


def log_probs(path: str, *, sure: float = 0.9) -> np.ndarray:
    """(T, 5) emissions whose best path spells ``path``, "-" for blank, with probability ``sure``."""
    values = np.full((len(path), 5), (1 - sure) / 4, np.float32)
    for frame, letter in enumerate(path):
        values[frame, "- abc".index(letter)] = sure
    return np.log(values)


def emissions(path: str, *, sure: float = 0.9) -> Emissions:
    values = log_probs(path, sure=sure)
    return Emissions(log_probs=values[None], lengths=np.array([len(path)]), frame_shift=0.1)


def aligned(text: str, path: str) -> AlignedText:
    return align_text(emissions(path), spell(text, TOKENISER, "words"), TOKENISER, duration=len(path) * 0.1)


def random_emissions(seed: int, frames: int, vocabulary: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return np.log(draw.dirichlet(np.full(vocabulary, 0.3), frames) + 1e-6).astype(np.float32)


@st.composite
def problems(draw):
    """Random emissions and tokens that have room in them, repeats included."""
    vocabulary = draw(st.integers(2, 4))
    tokens = draw(st.lists(st.integers(1, vocabulary - 1), min_size=1, max_size=12))
    needed = len(tokens) + sum(a == b for a, b in itertools.pairwise(tokens))
    return random_emissions(draw(st.integers(0, 10**6)), needed + draw(st.integers(0, 30)), vocabulary), tokens


@pytest.fixture(params=["whole", "in stretches"])
def memory(request, monkeypatch):
    """The search with room for everything, and with so little that each stretch is parted again and again."""
    if request.param == "in stretches":
        monkeypatch.setattr(engine, "MOST_PAIRS", 20)
        monkeypatch.setattr(engine, "CHECKPOINTS", 3)


# ------------------------------------------------------------------------------------------------- the search


@pytest.mark.usefixtures("memory")
def test_the_score_is_that_of_torchaudios_aligner():
    @given(problems())
    def check(problem):
        values, tokens = problem
        path, scores = torchaudio.functional.forced_align(
            torch.from_numpy(values)[None], torch.tensor([tokens], dtype=torch.int32), blank=0
        )
        found = align(values, tokens)
        assert found.score == pytest.approx(float(scores.sum()), abs=1e-3)
        held = [frame for u in range(len(tokens)) for frame in range(found.first[u], found.last[u] + 1)]
        assert held == sorted(set(held))
        assert sum(values[held, :].max(1)) <= 0
        assert len(path[0]) == len(values)

    check()


def cheapest(values: np.ndarray, tokens: list[int], words: list[int], separator: int, slack: Slack) -> float:
    """The best score over every choice of words to leave out, by a plain search over the states that remain."""
    ends = [*words[1:], len(tokens)]
    filler = np.maximum(values[:, [0, separator]].max(1), values.max(1) - slack.frame)
    best = -np.inf
    for kept in itertools.product([True, False], repeat=len(words)):
        price = sum(
            slack.word + slack.token * (end - start)
            for start, end, keep in zip(words, ends, kept, strict=True)
            if not keep
        )
        states = [("filler", 0)]
        for start, end, keep in zip(words, ends, kept, strict=True):
            if not keep:  # leaving a word out takes a frame between words to do it in, but for the first words
                states[-1] = ("filler" if len(states) == 1 else "pause", 0)
                continue
            for u in range(start, end):
                states += [("blank", 0)] if u > start else []
                states += [("separator" if tokens[u] == separator else "token", tokens[u])]
            states += [("filler", 0)]
        before = {-1: 0.0}  # by state; the start is the one before the first
        for t in range(len(values)):
            after = {}
            for i, (kind, token) in enumerate(states):
                predecessors = [i, i - 1]
                passed = states[i - 1][0] if i else ""
                if i > 1 and token and states[i - 2][1] != token and passed != "pause":
                    predecessors.append(i - 2)
                if i > 1 and not token and passed == "separator":
                    predecessors.append(i - 2)
                if t == 0:  # as if the first state had been there before
                    predecessors = [-1] if i in (0, 1) or (i == 2 and not token and passed == "separator") else []
                reached = max((before.get(j, -np.inf) for j in predecessors), default=-np.inf)
                after[i] = reached + (filler[t] if kind in ("filler", "pause") else values[t, token])
            before = after
        ends_on = [len(states) - 1] + [len(states) - 2] * (states[-1][0] == "filler")
        best = max(best, max(before.get(i, -np.inf) for i in ends_on) - price)
    return best


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize("seed", range(40))
def test_leaving_words_out_is_the_best_of_every_choice_of_words(seed):
    draw = np.random.default_rng(seed)
    spelled = [list(draw.integers(2, 5, draw.integers(1, 4))) for _ in range(draw.integers(1, 5))]
    tokens, words = [], []
    for i, word in enumerate(spelled):
        words.append(len(tokens))
        tokens += [1, *word] if i else word
    values = random_emissions(seed, int(draw.integers(1, 25)), 5)
    slack = Slack(word=1.0, token=0.5, frame=1.0)
    found = align(values, tokens, words=words, separator=1, slack=slack)
    assert found.score == pytest.approx(cheapest(values, tokens, words, 1, slack), abs=1e-3)


@pytest.mark.usefixtures("memory")
def test_frames_and_posteriors_are_those_of_each_tokens_run():
    found = align(log_probs("--aa-b-bb-"), [2, 3, 3])
    assert found.first.tolist() == [2, 5, 7]
    assert found.last.tolist() == [3, 5, 8]
    assert found.probabilities == pytest.approx([0.9] * 3)
    assert found.score == pytest.approx(10 * np.log(0.9), rel=1e-5)


def test_too_few_frames_for_the_tokens_are_a_sentence():
    with pytest.raises(TextError, match="the text needs 3 emission frames, and the audio has 2"):
        align(log_probs("aa"), [2, 2])


def test_memory_grows_with_frames_and_labels_and_not_with_their_product():
    tracemalloc = pytest.importorskip("tracemalloc")
    tokens = list(np.random.default_rng(0).integers(1, 5, 3000))
    values = random_emissions(0, 8000, 5)
    align(values[:100], tokens[:10])  # compiled before it is measured
    tracemalloc.start()
    align(values, tokens)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * engine.MOST_PAIRS + 64 * 8 * 3001 + 2e6  # the product is 48 MB, a byte a state


# --------------------------------------------------------------------------------------------------- words


def test_a_word_begins_with_the_separator_before_it_and_ends_where_the_next_begins():
    first, second = aligned("ab c", "---a-b-- c------").words
    assert (first.text, second.text) == ("ab", "c")
    assert first.start == pytest.approx(0.3 - LAG)
    assert second.start == pytest.approx(0.8 - LAG)
    assert first.end == pytest.approx(0.6 + TAIL)
    assert second.end == pytest.approx(1.0 + TAIL)
    assert first.confidence == pytest.approx(0.9, abs=1e-3)


def test_a_separator_long_before_its_word_does_not_mark_its_beginning():
    words = aligned("ab c", "-a-b- ----c-").words
    assert words[1].start == pytest.approx(1.0 - LAG - SEPARATOR_REACH)


def test_characters_tile_their_word():
    [word] = aligned("abc", "--a-b-c--").words
    assert "".join(c.text for c in word.characters) == "abc"
    assert word.characters[0].start == word.start
    assert word.characters[-1].end == word.end
    for before, after in itertools.pairwise(word.characters):
        assert before.end == after.start


def test_a_word_that_is_not_said_is_not_found_and_moves_no_other():
    right = aligned("ab ca", "-a-b- -c-a-")
    wrong = aligned("ab bcb ca", "-a-b- -c-a-")
    assert [word.found for word in wrong.words] == [True, False, True]
    assert (wrong.words[0], wrong.words[2]) == right.words
    assert wrong.words[1] == AlignedWord(text="bcb", start=None, end=None, confidence=0.0)


@pytest.mark.parametrize("text", ["bcb ab ca", "ab ca bcb"])
def test_a_word_too_many_at_either_end_is_not_found(text):
    found = [word.text for word in aligned(text, "-a-b- -c-a-").words if word.found]
    assert found == ["ab", "ca"]


def test_speech_that_the_text_lacks_is_passed_over():
    words = aligned("ab ca", "-a-b- -b-b-bb- c-a-").words
    assert [(word.found, word.start) for word in words] == [(True, 0.1 - LAG), (True, pytest.approx(1.4 - LAG))]


def test_silence_holds_no_word():
    spelling = spell("ab ca", TOKENISER, "words")
    words = align_text(emissions("-" * 40, sure=0.999), spelling, TOKENISER, duration=4.0).words
    assert not any(word.found for word in words)


def test_a_text_longer_than_the_recording_is_a_sentence():
    with pytest.raises(TextError, match=r"takes 0\.8 s at the very least .* lasts 0\.5 s: is it the right text"):
        aligned("abc abca", "a-b-c")


@pytest.mark.parametrize("text", ["", " \n\t", "— …"])
def test_a_text_without_words_is_a_sentence(text):
    with pytest.raises(TextError, match="holds no words"):
        spell(text, TOKENISER, "words")


def test_words_that_the_alphabet_lacks_are_named_or_left_out():
    with pytest.raises(
        TextError, match=r'the model cannot spell "dab" .*\'d\' is outside the alphabet.*--skip-unknown'
    ):
        spell("ab dab", TOKENISER, "words")
    spelling = spell("ab dab ca", TOKENISER, "words", skip_unknown=True)
    words = align_text(emissions("-a-b- -c-a-"), spelling, TOKENISER, duration=1.1).words
    assert [(word.text, word.found) for word in words] == [("ab", True), ("dab", False), ("ca", True)]


def test_a_text_that_cannot_be_spelled_at_all_is_not_found():
    spelling = spell("x yz", TOKENISER, "words", skip_unknown=True)
    assert [w.found for w in align_text(emissions("-a-"), spelling, TOKENISER, duration=0.3).words] == [False, False]


def test_sub_words_carry_their_own_boundaries():
    texts = ["ab cab abc", "cab ab", "abc cab ab"] * 20
    tokeniser = build_tokeniser(recipe.SentencePiece(kind="sentencepiece", vocabulary=8), texts)
    spelling = spell("ab cab", tokeniser, "words")
    assert spelling.tokens == tuple(tokeniser.encode("ab cab"))
    path = np.full((2 * len(spelling.tokens) + 1, len(tokeniser.tokens)), 0.01, np.float32)
    path[::2, 0] = 1
    path[np.arange(1, len(path), 2), list(spelling.tokens)] = 1
    log_probs = np.log(path / path.sum(1, keepdims=True))[None]
    said = Emissions(log_probs=log_probs, lengths=np.array([len(path)]), frame_shift=0.1)
    words = align_text(said, spelling, tokeniser, duration=len(path) * 0.1).words
    assert [(word.text, "".join(c.text for c in word.characters)) for word in words] == [("ab", "ab"), ("cab", "cab")]


def test_words_keep_the_look_and_the_lines_that_they_have_in_the_text():
    text = aligned("“Ab”,\n\n – C-a!", "-a-b- -c- -a-")
    assert [[word.text for word in line] for line in text.lines] == [["“Ab”,"], ["C-a!"]]
    assert "".join(c.text for c in text.words[1].characters) == "ca"


# -------------------------------------------------------------------------------------------------- writers

LETTER = Word(text="a", start=0.5, end=0.75, confidence=0.9)
TEXT = AlignedText(
    lines=(
        (
            AlignedWord(text='"a"', start=0.5, end=0.75, confidence=0.9, characters=(LETTER,)),
            AlignedWord(text="lost", start=None, end=None, confidence=0.0),
        ),
        (
            AlignedWord(text="b", start=1.0, end=1.5, confidence=0.8),
            AlignedWord(text="c", start=9, end=9.5, confidence=1),
        ),
    ),
    duration=10.0,
)


def test_ctm_has_a_line_a_word():
    assert formats.as_aligned_ctm(TEXT, "my clip").splitlines() == [
        'my_clip 1 0.500 0.250 "a" 0.9000',
        ";; not found: lost",
        "my_clip 1 1.000 0.500 b 0.8000",
        "my_clip 1 9.000 0.500 c 1.0000",
    ]


def test_srt_has_a_cue_a_line_and_parts_long_ones():
    assert formats.as_aligned_srt(TEXT).split("\n\n") == [
        '1\n00:00:00,500 --> 00:00:01,500\n"a" lost',
        "2\n00:00:01,500 --> 00:00:02,500\nb",
        "3\n00:00:09,000 --> 00:00:10,000\nc",
    ]


def test_json_says_which_words_were_found():
    words = json.loads(formats.as_aligned_json(TEXT, "clip.wav"))["words"]
    assert [(word["found"], word["start"]) for word in words] == [(True, 0.5), (False, None), (True, 1.0), (True, 9)]
    assert words[0]["characters"] == [{"text": "a", "start": 0.5, "end": 0.75, "confidence": 0.9}]


def test_a_textgrid_reads_back_as_it_was_written(tmp_path):
    textgrid = pytest.importorskip("praatio.textgrid")
    path = tmp_path / "clip.TextGrid"
    path.write_text(formats.as_aligned_textgrid(TEXT) + "\n", encoding="utf-8")
    grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=False)
    assert grid.tierNames == ("words", "characters")
    assert [tuple(entry) for entry in grid.getTier("words").entries] == [
        (0.5, 0.75, '"a"'),
        (1.0, 1.5, "b"),
        (9.0, 9.5, "c"),
    ]
    assert [tuple(entry) for entry in grid.getTier("characters").entries] == [(0.5, 0.75, "a")]
    assert grid.maxTimestamp == 10.0


def test_greedy_transcription_does_not_import_numba():
    code = "import asr.transcribe.recogniser, sys; print('numba' in sys.modules, 'lhotse' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"

"""Greedy decoding: the collapse rule, and the times and confidences of words."""

import itertools
import math

import numpy as np
import pytest

from asr.decode.greedy import GreedySearch, decode_greedy
from asr.decode.words import words_of
from asr.records import Emissions
from asr.text.tokenise import CharacterTokeniser

TOKENISER = CharacterTokeniser(" ab")  # ids: blank 0, space 1, a 2, b 3


def emissions(*paths: str, sure: float = 0.9) -> Emissions:
    """Emissions whose best path spells each string, "-" for blank, with probability ``sure``."""
    longest = max(map(len, paths))
    probabilities = np.full((len(paths), longest, 4), (1 - sure) / 3, np.float32)
    for i, path in enumerate(paths):
        for frame, letter in enumerate(path.ljust(longest, "a")):  # what lies past the end must not be read
            probabilities[i, frame, "- ab".index(letter)] = sure
    return Emissions(log_probs=np.log(probabilities), lengths=np.array([len(p) for p in paths]), frame_shift=0.04)


@pytest.mark.parametrize(
    ("path", "text"),
    [("a", "a"), ("aa-a", "aa"), ("--", ""), ("aabb", "ab"), ("a- -b", "a b"), (" a ", "a"), ("a-  -b", "a b")],
)
def test_repeats_merge_and_blanks_part_them(path, text):
    assert decode_greedy(emissions(path), TOKENISER)[0].text == text


def test_frames_past_an_utterances_length_are_not_decoded():
    long, short = decode_greedy(emissions("a-b-a", "b"), TOKENISER)
    assert (long.text, short.text) == ("aba", "b")


def test_a_hypothesis_carries_the_frame_and_probability_of_each_token():
    [hypothesis] = decode_greedy(emissions("-a--b"), TOKENISER)
    assert hypothesis.tokens == (2, 3)
    assert hypothesis.frames == (1, 4)
    assert hypothesis.probabilities == pytest.approx((0.9, 0.9))
    assert hypothesis.acoustic_score == pytest.approx(5 * math.log(0.9), rel=1e-5)


def test_a_tokens_frame_is_where_its_run_peaks():
    path = emissions("aaa")
    path.log_probs[0, 1, 2] = -0.01
    assert decode_greedy(path, TOKENISER)[0].frames == (1,)


@pytest.mark.parametrize("cuts", [[], [1], [3, 4], [2, 2, 5, 7]])
def test_a_path_followed_in_pieces_reads_as_the_whole(cuts):
    path = emissions("aa-ab  bb")
    search = GreedySearch(TOKENISER)
    edges = [0, *cuts, 9]
    for start, end in itertools.pairwise(edges):
        search.feed(path.log_probs[0, start:end])
    [whole] = decode_greedy(path, TOKENISER)
    assert (search.best().tokens, search.best().frames) == (whole.tokens, whole.frames)
    assert search.conclude().acoustic_score == pytest.approx(whole.acoustic_score)


def test_words_have_times_in_seconds_and_the_product_of_their_tokens_probabilities_as_confidence():
    [hypothesis] = decode_greedy(emissions("-ab- -b"), TOKENISER)
    first, second = words_of(hypothesis, TOKENISER, 0.04, offset=1.0)
    assert (first.text, first.start, first.end) == ("ab", 1.04, 1.12)
    assert (second.text, second.start, second.end) == ("b", 1.24, 1.28)
    assert first.confidence == pytest.approx(0.9 * 0.9, abs=1e-4)

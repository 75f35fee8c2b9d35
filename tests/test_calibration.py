"""Calibration against cases worked by hand."""

import numpy as np
import pytest

from asr.decode.calibration import draw_reliability, reliability
from asr.text.score import align_words, word_hits


def test_the_error_is_the_gap_between_confidence_and_accuracy_weighed_by_words():
    # Two words at 0.95, one right; two at 0.25, none right: (2 x 0.45 + 2 x 0.25) / 4.
    measured = reliability(np.array([0.95, 0.95, 0.25, 0.25]), np.array([True, False, False, False]))
    assert measured.error == pytest.approx(0.35)
    assert measured.counts.tolist() == [0, 0, 2, 0, 0, 0, 0, 0, 0, 2]


def test_confidence_one_belongs_to_the_last_bin_and_words_that_are_as_right_as_said_cost_nothing():
    measured = reliability(np.ones(5), np.ones(5, bool))
    assert (measured.counts[-1], measured.error) == (5, 0.0)


def test_no_words_have_no_error():
    assert reliability(np.zeros(0), np.zeros(0, bool)).error == 0.0


@pytest.mark.parametrize(
    ("reference", "hypothesis", "hits"),
    [
        ("a b c", "a x c", (True, False, True)),
        ("a b", "a b b", (True, True, False)),
        ("a b", "b", (True,)),
        ("", "a", (False,)),
        ("a", "", ()),
    ],
)
def test_a_word_is_right_where_the_alignment_makes_it_a_hit(reference, hypothesis, hits):
    assert sorted(word_hits(*align_words([reference], [hypothesis]))) == sorted(hits)


def test_the_diagram_is_a_picture(tmp_path):
    draw_reliability(reliability(np.array([0.1, 0.9]), np.array([False, True])), tmp_path / "r.png", "two words")
    assert (tmp_path / "r.png").read_bytes()[:4] == b"\x89PNG"

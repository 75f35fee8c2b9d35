"""Calibration against cases worked by hand."""

import math

import numpy as np
import pytest

from asr import recipe
from asr.decode.calibration import confidence, fit_calibration, reliability
from asr.report.reliability import draw_reliability
from asr.score.edits import align_words, word_hits


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


def test_a_fitted_calibration_believes_words_as_far_as_they_are_right():
    """Letters' posteriors of a network that a language model corrects: what words are right follows another law."""
    generator = np.random.default_rng(1)
    words = [generator.beta(3, 1, size=length).tolist() for length in generator.integers(1, 9, size=6000)]
    truth = recipe.Calibration(offset=-0.5, slope=0.4, length=0.3)
    hits = [generator.random() < confidence(word, truth) for word in words]
    fitted = fit_calibration(words[:3000], hits[:3000])
    assert (fitted.offset, fitted.slope, fitted.length) == pytest.approx((-0.5, 0.4, 0.3), abs=0.2)
    assert fitted.mean == pytest.approx(np.mean(hits[:3000]), abs=0.01)

    def error(calibration):
        confidences = np.array([confidence(word, calibration) for word in words[3000:]])
        return reliability(confidences, np.array(hits[3000:])).error

    assert error(fitted) < 0.03 < 0.2 < error(None)


@pytest.mark.parametrize(("hit", "mean"), [(True, 0.999), (False, 0.001)])
def test_words_that_are_all_right_or_all_wrong_leave_the_mean_short_of_certainty(hit, mean):
    assert fit_calibration([[float(hit)] * 3] * 5000, [hit] * 5000).mean == mean


def test_few_words_move_a_calibration_little_and_none_not_at_all():
    assert fit_calibration([], []) == recipe.Calibration()
    fitted = fit_calibration([[0.9, 0.9]], [True])
    assert confidence([0.9, 0.9], fitted) == pytest.approx(0.81, abs=0.1)


def test_a_calibration_that_changes_nothing_leaves_the_product_of_the_posteriors():
    assert confidence([0.5, 0.5], recipe.Calibration()) == pytest.approx(0.25) == confidence([0.5, 0.5], None)


def test_a_calibration_is_a_logistic_curve_over_log_odds_and_length():
    shifted = confidence([0.5, 0.5], recipe.Calibration(offset=0.1, slope=2.0, length=0.3))
    assert math.log(shifted / (1 - shifted)) == pytest.approx(0.1 + 2 * math.log(1 / 3) + 2 * 0.3)
    assert 0.0 < confidence([0.0], recipe.Calibration()) < confidence([1.0], recipe.Calibration()) < 1.0


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
    draw_reliability(reliability(np.array([0.1, 0.9]), np.array([False, True])), tmp_path / "r.png", r"two $\words$")
    assert (tmp_path / "r.png").read_bytes()[:4] == b"\x89PNG"

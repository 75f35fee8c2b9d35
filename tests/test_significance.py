"""Significance: intervals that cover what they say, and tests that cry wolf as often as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import special, stats

from asr.score import student
from asr.score.significance import (
    FEWEST_BLOCKS,
    FEWEST_SEGMENTS,
    holm,
    matched_pairs,
    paired_bootstrap,
    rate_interval,
    segment_errors,
    utterances_needed,
)

RATE = 0.1


def difficulty(generator: np.random.Generator, utterances: int) -> np.ndarray:
    """How often a word of each utterance is wrong: some are five times as hard as others, ``RATE`` on average."""
    return RATE * generator.gamma(2.0, 0.5, utterances)


def lengths_of(generator: np.random.Generator, utterances: int) -> np.ndarray:
    return generator.integers(3, 20, utterances)


def coverage(trials: int, utterances: int, samples: int) -> float:
    generator = np.random.default_rng(5)
    covered = 0
    for _ in range(trials):
        lengths = lengths_of(generator, utterances)
        interval = rate_interval(
            generator.poisson(difficulty(generator, utterances) * lengths), lengths, samples=samples
        )
        covered += interval.low <= RATE <= interval.high
    return covered / trials


def false_alarms(trials: int, utterances: int, samples: int) -> tuple[float, float]:
    """How often the paired bootstrap and MAPSSWE tell two equal systems apart at the 5 % level."""
    generator = np.random.default_rng(6)
    bootstrap = matched = 0
    for _ in range(trials):
        lengths, hard = lengths_of(generator, utterances), difficulty(generator, utterances)
        slots = [[slots_of(generator, n, rate) for n, rate in zip(lengths, hard, strict=True)] for _ in range(2)]
        a, b = (np.array([s.sum() for s in system]) for system in slots)
        bootstrap += paired_bootstrap(a, b, lengths, samples=samples).p < 0.05
        matched += matched_pairs(segment_errors(*slots)) < 0.05
    return bootstrap / trials, matched / trials


def slots_of(generator: np.random.Generator, words: int, rate: float) -> np.ndarray:
    """Errors of a synthetic system: a tenth of them are insertions."""
    slots = np.zeros(2 * words + 1, dtype=int)
    slots[1::2] = generator.random(words) < 0.9 * rate
    slots[::2] = generator.random(words + 1) < 0.1 * rate
    return slots


def test_the_interval_covers_the_true_rate_about_95_times_in_100():
    assert 0.92 <= coverage(400, utterances=150, samples=1000) <= 0.98


def test_equal_systems_are_told_apart_about_5_times_in_100():
    bootstrap, matched = false_alarms(250, utterances=60, samples=1000)
    assert 0.02 <= bootstrap <= 0.08
    assert 0.02 <= matched <= 0.08


@pytest.mark.slow
def test_of_1000_intervals_930_to_970_cover_the_true_rate():
    assert 0.93 <= coverage(1000, utterances=100, samples=2000) <= 0.97


@pytest.mark.slow
def test_of_1000_equal_pairs_30_to_70_are_told_apart():
    bootstrap, matched = false_alarms(1000, utterances=60, samples=1000)
    assert 0.03 <= bootstrap <= 0.07
    assert 0.03 <= matched <= 0.07


def test_speakers_drawn_whole_widen_the_interval_where_they_differ():
    generator = np.random.default_rng(0)
    speakers = np.repeat(np.arange(20), 15)
    lengths = np.full(300, 10)
    errors = generator.poisson(RATE * generator.gamma(2, 0.5, 20)[speakers] * lengths)
    by_utterance = rate_interval(errors, lengths)
    by_speaker = rate_interval(errors, lengths, [f"s{s}" for s in speakers])
    assert by_speaker.high - by_speaker.low > 2 * (by_utterance.high - by_utterance.low)


def test_a_speaker_for_each_utterance_is_no_block_at_all():
    errors, lengths = np.array([0, 1, 2, 0, 0, 3, 0, 1, 0, 1]), np.full(10, 5)
    assert rate_interval(errors, lengths, list("abcdefghij")) == rate_interval(errors, lengths)


def test_the_order_of_the_utterances_changes_nothing():
    generator = np.random.default_rng(8)
    a, b, lengths = generator.integers([[0], [0], [5]], 9, (3, 50))
    order = generator.permutation(50)
    assert rate_interval(a, lengths) == rate_interval(a[order], lengths[order])
    assert paired_bootstrap(a, b, lengths) == paired_bootstrap(a[order], b[order], lengths[order])


def test_too_few_blocks_give_no_interval():
    errors, lengths = np.arange(FEWEST_BLOCKS), np.full(FEWEST_BLOCKS, 9)
    assert rate_interval(errors, lengths) is not None
    assert rate_interval(errors[1:], lengths[1:]) is None
    assert paired_bootstrap(errors[1:], errors[1:], lengths[1:]) is None
    assert rate_interval(errors, lengths, ["one", "two"] * (FEWEST_BLOCKS // 2)) is None


def test_without_any_error_the_interval_ends_by_the_rule_of_three():
    interval = rate_interval(np.zeros(100), np.full(100, 15))
    assert (interval.low, interval.high) == (0.0, pytest.approx(3 / 1500))


def test_a_normal_sample_without_skew_gets_the_interval_of_students_t():
    errors, lengths = stats.norm.ppf((np.arange(25) + 0.5) / 25, 50, 10), np.full(25, 100)
    interval = rate_interval(errors, lengths)
    low, high = stats.t.interval(0.95, 24, loc=errors.mean() / 100, scale=stats.sem(errors) / 100)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=0.003)


def test_the_paired_p_is_that_of_students_paired_t_where_differences_are_normal():
    generator = np.random.default_rng(2)
    for shift in (0.0, 2.0, 4.0):
        a, b = generator.normal([[50], [50 + shift]], 10, (2, 40))
        ours = paired_bootstrap(a, b, np.full(40, 100))
        assert ours.p == pytest.approx(stats.ttest_rel(a, b).pvalue, abs=0.02)
        assert ours.estimate == pytest.approx((b - a).mean() / 100)


def test_the_paired_interval_touches_zero_where_p_is_5_percent():
    generator = np.random.default_rng(3)
    for _ in range(60):
        a, b = generator.normal([[50], [54.5]], 10, (2, 30))
        difference = paired_bootstrap(a, b, np.full(30, 100), samples=2000)
        if abs(difference.p - 0.05) > 0.003:
            assert (difference.interval.low <= 0 <= difference.interval.high) == (difference.p > 0.05)


def test_a_system_against_itself_is_no_different():
    errors, lengths = np.array([0, 1, 2, 0] * 5), np.full(20, 9)
    difference = paired_bootstrap(errors, errors, lengths)
    assert (difference.estimate, difference.p) == (0.0, 1.0)
    assert matched_pairs(np.stack([errors, errors])) == 1.0
    assert utterances_needed(difference, 20) == math.inf


# ---------------------------------------------------------------------------------------------------- MAPSSWE


@pytest.mark.parametrize(
    ("a", "b", "segments"),
    [
        # Slots: gap, word, gap, word, ... gap.
        ([0, 0, 0, 0, 0], [0, 0, 0, 0, 0], []),  # nothing wrong
        ([0, 1, 0, 0, 0], [0, 0, 0, 1, 0], [(1, 1)]),  # neighbours are one segment
        ([0, 1, 0, 0, 0, 1, 0], [0] * 7, [(2, 0)]),  # one right word between is too little
        ([0, 1, 0, 0, 0, 0, 0, 1, 0], [0] * 9, [(1, 0), (1, 0)]),  # two part them
        ([0, 1, 0, 0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 1, 0, 0, 0, 0], [(2, 1)]),  # unless B inserts between the two
        ([2, 0, 0, 0, 1], [0, 0, 0, 0, 0], [(2, 0), (1, 0)]),  # insertions at both ends of two right words
        ([3], [0], [(3, 0)]),  # an empty reference
    ],
)
def test_segments_lie_between_two_words_that_both_have_right(a, b, segments):
    found = segment_errors([np.array(a)], [np.array(b)])
    assert list(map(tuple, found.T)) == segments


def test_no_segment_crosses_two_utterances():
    wrong, right = np.array([0, 1, 0]), np.array([0, 0, 0])
    assert segment_errors([wrong, wrong], [right, right]).T.tolist() == [[1, 0], [1, 0]]


def test_mapsswe_is_the_mean_difference_over_its_standard_error():
    generator = np.random.default_rng(4)
    errors = generator.poisson([[1.0], [1.4]], (2, 200))
    difference = errors[1] - errors[0]
    w = difference.mean() / (difference.std(ddof=1) / math.sqrt(200))  # Gillick & Cox 1989, section 3
    assert matched_pairs(errors) == pytest.approx(2 * stats.norm.sf(abs(w)), rel=0.15)
    assert matched_pairs(errors) == pytest.approx(stats.ttest_rel(errors[0], errors[1]).pvalue)


def test_mapsswe_says_nothing_of_a_handful_of_segments():
    assert matched_pairs(np.ones((2, FEWEST_SEGMENTS - 1))) is None


# ------------------------------------------------------------------------------------------------------- the rest


def test_the_needed_size_is_that_of_the_usual_power_calculation():
    generator = np.random.default_rng(7)
    a, b = generator.normal([[50], [51]], 10, (2, 100))
    difference = paired_bootstrap(a, b, np.full(100, 100))
    d = (b - a).mean() / (b - a).std(ddof=1)
    assert utterances_needed(difference, 100) == pytest.approx((2.80 / d) ** 2, rel=0.1)


def test_holm_multiplies_the_smallest_p_by_the_number_of_tests_and_keeps_the_order():
    assert holm([0.03, 0.01, 0.04]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.02]) == [0.02]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("degrees", [1, 2, 7, 40, 5000])
def test_students_and_the_normal_distribution_are_scipys(degrees):
    for t in (-40.0, -3.0, -0.2, 0.0, 0.7, 2.5, 12.0):
        assert student.student_cdf(degrees, t) == pytest.approx(special.stdtr(degrees, t), rel=1e-9, abs=1e-300)
    for p in (1e-4, 0.025, 0.5, 0.8, 0.975):
        assert student.student_quantile(degrees, p) == pytest.approx(special.stdtrit(degrees, p), rel=1e-9, abs=1e-12)
        assert student.normal_quantile(p) == pytest.approx(special.ndtri(p), rel=1e-12, abs=1e-15)

"""The report's statistics against numbers worked by hand and known distributions."""

import math

import numpy as np
import pytest
from scipy import stats

from dynvgd_jax.report import statistics
from dynvgd_jax.report.statistics import Estimate

# Five and four runs of three tasks.
X = [[0.5, 1.0, 0.1], [0.9, 0.3, 0.4], [0.8, 0.4, 0.5], [0.0, 0.8, 0.5]]
X = np.array([*X, [0.3, 0.8, 0.3]])
Y = np.array([[0.5, 0.1, 0.4], [0.2, 0.3, 0.8], [0.3, 0.5, 1.0], [1.0, 0.7, 0.5]])


def test_mean_over_runs_by_hand():
    """Deviation 0.1 of 3 runs, t(2) = 4.302653: 0.5 +- 4.302653 * 0.1 / sqrt(3)."""
    half = 4.302653 * 0.1 / math.sqrt(3)
    found = statistics.mean_over_runs([0.4, 0.5, 0.6])
    assert found == pytest.approx((0.5, 0.5 - half, 0.5 + half))
    assert statistics.interquartile_mean([[0.4, 0.5, 0.6]]) == found
    # t(1) = 12.7 times 0.1 is beyond what a success can be.
    assert statistics.mean_over_runs([0.4, 0.6]) == pytest.approx((0.5, 0.0, 1.0))
    one = statistics.mean_over_runs([0.7])
    assert one.value == 0.7 and math.isnan(one.low) and str(one) == "0.700"
    assert str(Estimate(math.nan)) == "–"


def test_bootstrap_interval_of_many_runs_is_the_normal_one():
    values = np.repeat([0.0, 1.0], 50)  # the mean's deviation is sqrt(0.25 / 100)
    found = statistics.mean_over_runs(values)
    assert found == pytest.approx((0.5, 0.5 - 0.098, 0.5 + 0.098), abs=0.011)
    assert statistics.mean_over_runs(values) == found  # drawn from a seed of its own


def test_interquartile_mean_by_hand():
    # Of 5 runs the quarter is 1: the mean of 0.2, 0.3, 0.4. Of 3 it is 0: their mean.
    assert statistics.interquartile_mean([[0.9, 0.2, 0.4, 0.3, 0.0]]).value == (
        pytest.approx(0.3)
    )
    assert statistics.interquartile_mean([[0.0, 0.3, 0.9]]).value == pytest.approx(0.4)
    # rliable 1.2.0's aggregate_iqm of the same runs and tasks.
    assert statistics.interquartile_mean(X.T).value == pytest.approx(0.5)
    assert statistics.interquartile_mean(Y.T).value == pytest.approx(0.4833333333333333)
    # All of one task is above all of the other: the middle half is the upper half of
    # the lower task and the lower half of the upper one, whatever is drawn.
    found = statistics.interquartile_mean([[0.1] * 4, [0.9] * 4])
    assert found == pytest.approx((0.5, 0.5, 0.5))
    assert math.isnan(statistics.interquartile_mean([[0.1], [0.2]]).low)


def test_probability_of_improvement_by_hand():
    # Pairs: 3 > 1, 3 > 2, 2 > 1 win, 2 = 2 is half: 3.5 of 4.
    found = statistics.probability_of_improvement([[3, 2]], [[1, 2]])
    assert found.value == pytest.approx(3.5 / 4)
    back = statistics.probability_of_improvement([[1, 2]], [[3, 2]])
    assert back.value == pytest.approx(1 - found.value)
    assert (back.low, back.high) == pytest.approx((1 - found.high, 1 - found.low))
    # rliable 1.2.0's probability_of_improvement of the same runs and tasks.
    found = statistics.probability_of_improvement(X.T, Y.T)
    assert found.value == pytest.approx(0.48333333333333334)
    assert found.low < 0.3 and found.high > 0.65
    sure = statistics.probability_of_improvement([[2, 3]], [[1, 1, 0]])
    assert sure == (1, 1, 1)
    alone = statistics.probability_of_improvement([[2]], [[1]])
    assert alone.value == 1 and math.isnan(alone.low)
    with pytest.raises(ValueError):
        statistics.probability_of_improvement([[1], [2]], [[1]])


def test_differences_by_hand():
    # Episodes 2 and 3 are in both: 1 - 0 and 0.5 - 0.5.
    ours, theirs = {1: 0.0, 2: 1.0, 3: 0.5}, {2: 0.0, 3: 0.5, 4: 1.0}
    found = statistics.difference_over_episodes(ours, theirs)
    assert found.value == 0.5 and found.low >= 0 and found.high <= 1
    assert statistics.difference_over_episodes(ours, ours) == (0, 0, 0)
    assert statistics.difference_over_episodes(ours, {9: 1.0}) is None
    runs = [{1: 1, 2: 0, 3: 1}, {1: 1, 2: 1}]  # 3 was not played by both
    assert statistics.mean_by_episode(runs) == {1: 1.0, 2: 0.5}


def test_differences_over_runs_by_hand():
    # Means 0.5 and 0.2; variances 0.01 of 3 and 0.0004 of 3: s^2 = 0.0104 / 3, Welch's
    # degrees of freedom 2 * 0.0104^2 / (0.01^2 + 0.0004^2) = 2.159744.
    found = statistics.difference_over_runs([0.4, 0.5, 0.6], [0.18, 0.2, 0.22])
    half = stats.t.ppf(0.975, 2.159744) * math.sqrt(0.0104 / 3)
    assert found == pytest.approx((0.3, 0.3 - half, 0.3 + half), rel=1e-5)
    same = statistics.difference_over_runs([0.5, 0.5], [0.2, 0.2])
    assert same == pytest.approx((0.3, 0.3, 0.3))
    # Of many runs the bootstrap's, here about normal: sqrt(2 * 0.25 / 100).
    many = np.repeat([0.0, 1.0], 50)
    found = statistics.difference_over_runs(many, many)
    assert found == pytest.approx((0, -0.1386, 0.1386), abs=0.015)
    # One trained run has no spread; the base policy has none to have.
    for ours, theirs in (([0.7], [0.1, 0.2]), ([0.1, 0.2], [0.7])):
        assert math.isnan(statistics.difference_over_runs(ours, theirs).low)
    ours = [0.4, 0.5, 0.6]
    found = statistics.difference_over_runs(ours, [0.3], theirs_trained=False)
    assert found == pytest.approx([x - 0.3 for x in statistics.mean_over_runs(ours)])


def test_few_runs_are_covered_as_often_as_it_says():
    """Of runs about 0.5 the interval of 3 holds it in 95 %; a bootstrap's in 75 %."""
    drawn = np.random.default_rng(1).normal(0.5, 0.05, (2000, 3))
    found = [statistics.mean_over_runs(runs) for runs in drawn]
    assert np.mean([e.low <= 0.5 <= e.high for e in found]) == pytest.approx(
        0.95, abs=0.015
    )


def test_the_first_evaluation_that_reaches_a_success():
    points = {3000: 0.9, 1000: 0.4, 2000: 0.8}
    assert statistics.first_reach(points, 0.5) == 2000
    assert statistics.first_reach(points, 0.8) == 2000
    assert statistics.first_reach(points, 0.95) is None


def test_success_of_a_run_has_the_wilson_interval():
    found = statistics.success_of_run([1] * 5 + [0] * 5)
    assert found == pytest.approx((0.5, 0.2366, 0.7634), abs=1e-4)


def test_rank_correlation_by_hand():
    x = np.arange(8.0)
    # One exchange of neighbours: 1 - 6 * 2 / (8 * 63).
    y = np.array([1.0, 0.0, 2, 3, 4, 5, 6, 7]) ** 3
    found = statistics.rank_correlation([(x, y)])
    assert found.value == pytest.approx(1 - 12 / 504)
    assert found.low <= found.value <= found.high
    falling = statistics.rank_correlation([(x, -x), (x, -y)])
    assert falling.value == pytest.approx((-1 - found.value) / 2)
    # t(1) = 12.7 times half their distance of 12 / 504, cut at -1.
    high = falling.value + 12.706205 * (1 - found.value) / 2
    assert (falling.low, falling.high) == pytest.approx((-1, high))
    # Neither constant series nor short ones have one.
    assert math.isnan(statistics.rank_correlation([(x, np.ones(8))]).value)
    assert math.isnan(statistics.rank_correlation([(x[:7], y[:7])]).value)
    assert math.isnan(statistics.rank_correlation([]).value)


def test_blocks_widen_the_interval_of_points_that_hang_together():
    rng = np.random.default_rng(3)
    noise = rng.standard_normal((2, 400))
    walk = np.zeros_like(noise)
    for i in range(1, 400):
        walk[:, i] = 0.95 * walk[:, i - 1] + noise[:, i]

    def width(x, y):
        found = statistics.rank_correlation([(x, y)])
        return found.high - found.low

    # Of independent points it is that of 2 * 1.96 / sqrt(400).
    assert width(*noise) == pytest.approx(0.196, rel=0.25)
    assert width(*walk) > 2 * width(*noise)

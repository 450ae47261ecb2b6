import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hip_mri.evaluation.metrics.confidence_intervals import (
    NORMAL_QUANTILE,
    compute_binomial_interval,
    compute_deviations,
    compute_student_intervals,
    compute_t_quantile,
    compute_wilson_intervals,
)
from tests.evaluation.metrics.studies import quick


@quick
@given(st.integers(1, 1000), st.data())
def test_for_independent_trials_it_is_wilson_s_interval(num_trials, data):
    num_hits = data.draw(st.integers(0, num_trials))
    fraction = num_hits / num_trials
    deviation = np.sqrt(fraction * (1 - fraction) / num_trials)
    limits = compute_wilson_intervals(fraction, deviation, NORMAL_QUANTILE, num_trials)
    assert tuple(limits) == pytest.approx(compute_binomial_interval(num_hits, num_trials), abs=1e-9)


@quick
@given(st.floats(0, 1), st.floats(0, 0.5), st.integers(1, 100))
def test_interval_contains_the_fraction(fraction, deviation, num_groups):
    lower, upper = compute_wilson_intervals(fraction, deviation, NORMAL_QUANTILE, num_groups)
    assert 0 <= lower <= fraction <= upper <= 1
    assert lower < upper


def test_four_times_the_variance_is_a_quarter_of_the_sample_size():
    expected = compute_wilson_intervals(0.8, np.sqrt(0.16 / 25), NORMAL_QUANTILE, 1)
    assert compute_wilson_intervals(0.8, 2 * np.sqrt(0.16 / 100), NORMAL_QUANTILE, 1) == pytest.approx(expected)


def test_many_intervals_are_computed_at_once():
    together = compute_wilson_intervals([0.2, 1.0], [0.1, 0.0], 2.0, 7)
    assert together.shape == (2, 2)
    assert together[:, 1] == pytest.approx(compute_wilson_intervals(1, 0, 2.0, 7))


def test_few_groups_need_a_larger_quantile():
    assert compute_t_quantile(2) == pytest.approx(12.706, abs=5e-4)  # Student's table
    assert compute_t_quantile(21) == pytest.approx(2.086, abs=5e-4)
    assert compute_t_quantile(10**9) == pytest.approx(NORMAL_QUANTILE, abs=1e-6)


def test_deviations_need_nearly_all_resamples():
    resampled = np.tile(np.random.default_rng(0).normal(3, 2, 10_000), (2, 1))
    resampled[0, :500], resampled[1, :501] = np.nan, np.nan
    deviation, robust = compute_deviations(resampled)
    assert deviation[0] == pytest.approx(2, rel=0.03)
    assert robust[0] == pytest.approx(2, rel=0.03)
    assert np.isnan([deviation[1], robust[1]]).all()
    assert np.isnan(compute_wilson_intervals(0.5, deviation[1], 2.0, 7)).all()
    assert compute_student_intervals(1.0, robust[0], 2.0) == pytest.approx([1 - 2 * robust[0], 1 + 2 * robust[0]])


def test_outliers_do_not_change_the_robust_deviation():
    resampled = np.random.default_rng(0).normal(0, 1, 2000)
    expected = compute_deviations(resampled)[1]
    resampled[:10] = 1e6
    assert compute_deviations(resampled)[1] == pytest.approx(expected, rel=0.05)


def test_wilson_gives_the_published_values():
    """Newcombe, Statistics in Medicine 17, 1998, table I."""
    assert compute_binomial_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert compute_binomial_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert compute_binomial_interval(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)
    assert compute_binomial_interval(29, 29) == pytest.approx((0.8830, 1), abs=5e-5)


@given(st.integers(2, 1000), st.data())
def test_wilson_limits_solve_its_equation(num_trials, data):
    num_hits = data.draw(st.integers(1, num_trials - 1))
    fraction = num_hits / num_trials
    for limit in compute_binomial_interval(num_hits, num_trials):
        assert abs(fraction - limit) == pytest.approx(NORMAL_QUANTILE * math.sqrt(limit * (1 - limit) / num_trials))

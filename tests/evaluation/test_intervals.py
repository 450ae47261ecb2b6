import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hip_mri.evaluation.intervals import QUANTILE, bound_auc, bound_fraction, find_intervals
from hip_mri.evaluation.metrics import evaluate_scores

COUNTS = st.integers(1, 500)


def test_wilson_gives_the_published_values():
    """Newcombe, Statistics in Medicine 17, 1998, table I."""
    assert bound_fraction(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert bound_fraction(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert bound_fraction(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)
    assert bound_fraction(29, 29) == pytest.approx((0.8830, 1), abs=5e-5)


@given(st.integers(2, 1000), st.data())
def test_wilson_bounds_solve_its_equation(num_trials, data):
    num_hits = data.draw(st.integers(1, num_trials - 1))
    share = num_hits / num_trials
    for bound in bound_fraction(num_hits, num_trials):
        assert abs(share - bound) == pytest.approx(QUANTILE * math.sqrt(bound * (1 - bound) / num_trials))


@given(st.floats(0.02, 0.98), COUNTS, COUNTS)
def test_auc_bounds_lie_one_quantile_of_hanley_and_mcneil_away(auc, num_normal, num_lesions):
    for bound in bound_auc(auc, num_normal, num_lesions):
        q1, q2 = bound / (2 - bound), 2 * bound**2 / (1 + bound)
        num_equal = (num_normal + num_lesions) / 2
        variance = bound * (1 - bound) + (num_equal - 1) * (q1 - bound**2 + q2 - bound**2)
        assert abs(auc - bound) == pytest.approx(QUANTILE * math.sqrt(variance / (num_normal * num_lesions)), rel=1e-6)


@given(st.floats(0, 1), COUNTS, COUNTS)
def test_auc_bounds_surround_it(auc, num_normal, num_lesions):
    lower, upper = bound_auc(auc, num_normal, num_lesions)
    assert 0 <= lower <= auc + 1e-12
    assert auc - 1e-12 <= upper <= 1


def test_perfect_auc_still_has_an_interval():
    lower, upper = bound_auc(1.0, 20, 20)
    assert 0.8 < lower < 0.95
    assert upper == 1


def test_auc_interval_covers_the_truth():
    """About 95 of 100 samples of two normal distributions have the true area within their interval."""
    generator = np.random.default_rng(0)
    true_auc = 0.5 * (1 + math.erf(1.5 / 2))  # of two distributions 1.5 deviations apart
    hits = 0
    for _ in range(400):
        normal, lesions = generator.normal(0, 1, 40), generator.normal(1.5, 1, 30)
        auc = float((lesions[:, None] > normal).mean())
        lower, upper = bound_auc(auc, 40, 30)
        hits += lower <= true_auc <= upper
    assert 0.92 < hits / 400 < 0.985


def test_intervals_surround_the_metrics_of_a_split():
    metrics = evaluate_scores([0] * 30 + [1] * 20, np.linspace(0, 1, 50), 0.7)
    for name, (lower, upper) in find_intervals(metrics).items():
        assert lower <= metrics[name] <= upper

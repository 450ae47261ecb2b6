import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hip_mri.evaluation.metrics.confidence_intervals import QUANTILE, bound_fraction

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

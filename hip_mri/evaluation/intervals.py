"""The interval of a share from counts, which take what they count as independent."""

import math
from typing import Final

Interval = tuple[float, float]

QUANTILE: Final = 1.959963984540054
"""97.5 % quantile of the standard normal distribution, for an interval of 95 %."""


def bound_fraction(num_hits: int, num_trials: int) -> Interval:
    """Wilson's score interval of a share; stays within 0-1 and has width even at 0 % and 100 %.

    Args:
        num_hits: Times it happened, 0 to `num_trials`.
        num_trials: Times it could have happened, at least 1.

    Source: Wilson, Journal of the American Statistical Association 22, 1927; recommended by Newcombe, Statistics in
    Medicine 17, 1998.
    """
    share, square = num_hits / num_trials, QUANTILE**2
    centre = share + square / (2 * num_trials)
    half = QUANTILE * math.sqrt(share * (1 - share) / num_trials + square / (4 * num_trials**2))
    scale = 1 + square / num_trials
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)

"""The interval of a share from counts, which take what they count as independent."""

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
    from scipy.stats import binomtest  # noqa: PLC0415 - half a second to import

    bounds = binomtest(num_hits, num_trials).proportion_ci(confidence_level=0.95, method="wilson")
    return float(bounds.low), float(bounds.high)

"""95 % intervals from how much a measure varies over resamples.

A share (AUC, sensitivity, and all else that lies from 0 to 1) gets Wilson's score interval of an effective sample: as
many independent trials as would vary as much as the resamples do. It stays within 0-1, holds the point estimate, and
has width at 0 % and 100 %, where percentiles of resamples collapse to a point. Measures without an end (calibration
slope and intercept) get Student's interval. In simulations of grouped images both cover the truth more often than
percentile and BCa intervals do, most of all where few groups have a lesion.

Sources: Wilson, Journal of the American Statistical Association 22, 1927; Rao and Scott, "A simple method for the
analysis of clustered binary data", Biometrics 48, 1992; Efron and Tibshirani, An Introduction to the Bootstrap, 1993.

The interval of a share from counts, which take what they count as independent.
"""

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE: Final = 0.95
"""Share of repeated studies whose interval shall hold the truth."""

MOST_UNDEFINED: Final = 0.05
"""Share of the resamples in which a measure may be undefined; with more there is no interval."""

SMALLEST_DEVIATION: Final = 1e-9
"""Resamples that deviate less differ by rounding only."""

Floats = NDArray[np.float64]


def find_quantile(num_groups: int) -> float:
    """Student's quantile for an interval of `CONFIDENCE`.

    Args:
        num_groups: Groups that have a lesion, or groups that have a normal image, whichever is fewer; at least 2.
    """
    from scipy.special import stdtrit  # noqa: PLC0415 - a tenth of a second to import

    return float(stdtrit(num_groups - 1, (1 + CONFIDENCE) / 2))


def find_deviations(resampled: Floats) -> tuple[Floats, Floats]:
    """Standard deviations over resamples, where enough of them are defined.

    Args:
        resampled: A measure in every resample, NaN where it is not defined, shape (..., num_resamples).

    Returns:
        The standard deviation, and half the width of the central 68 %, which a few wild resamples do not move; shape
        (...), NaN where more than `MOST_UNDEFINED` are undefined.
    """
    from scipy.special import ndtr  # noqa: PLC0415 - a tenth of a second to import

    defined = np.isfinite(resampled)
    enough = defined.mean(axis=-1) >= 1 - MOST_UNDEFINED
    kept = np.where(enough[..., None], resampled, 0.0)
    lower, upper = np.nanquantile(kept, ndtr([-1, 1]), axis=-1)
    deviation = np.nanstd(kept, axis=-1)
    return np.where(enough, deviation, np.nan), np.where(enough, (upper - lower) / 2, np.nan)


def bound_reals(values: ArrayLike, deviations: ArrayLike, quantile: float) -> Floats:
    """Student's intervals of measures without an end; bounds of shape (2, ...), NaN where a deviation is."""
    halves = quantile * np.asarray(deviations, np.float64)
    return np.stack([np.asarray(values) - halves, np.asarray(values) + halves])


def bound_shares(shares: ArrayLike, deviations: ArrayLike, quantile: float, num_groups: ArrayLike) -> Floats:
    """Wilson's score intervals of shares, each with the size of the sample that would vary as much.

    Args:
        shares: Point estimates, 0-1, shape (...).
        deviations: Standard deviations, shape (...).
        quantile: By `find_quantile`.
        num_groups: Groups that a share rests on. They are the size where a share is 0 or 1, or does not vary:
            each group counts as one trial.

    Returns:
        Lower and upper bounds, shape (2, ...); NaN where the share or the deviation is.
    """
    shares, deviations = np.asarray(shares, np.float64), np.asarray(deviations, np.float64)
    spread = shares * (1 - shares)
    varies = (deviations > SMALLEST_DEVIATION) & (spread > 0)
    sizes = np.broadcast_to(np.asarray(num_groups, np.float64), shares.shape).copy()
    np.divide(spread, deviations**2, out=sizes, where=varies)
    sizes = np.maximum(sizes, 1)
    square = quantile**2
    centres = shares + square / (2 * sizes)
    halves = quantile * np.sqrt(spread / sizes + square / (4 * sizes**2))
    bounds = np.stack([centres - halves, centres + halves]) / (1 + square / sizes)
    bounds = np.clip(bounds, 0, 1)
    bounds = np.stack([np.minimum(bounds[0], shares), np.maximum(bounds[1], shares)])  # against rounding
    return np.where(np.isnan(deviations), np.nan, bounds)


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

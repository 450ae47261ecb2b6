"""95% confidence intervals from counts, and from the standard deviation of a metric over bootstrap resamples.

A metric from 0 to 1 (AUC, sensitivity and so on) gets Wilson's score interval with an effective sample size: the
number of independent trials whose fraction would have the same variance. It stays within 0-1, contains the point
estimate, and has a width at 0% and 100%, where percentiles of resamples collapse to a point. Unbounded metrics
(calibration slope and intercept) get Student's t interval. In simulations of grouped images both covered the true
value more often than percentile and BCa intervals, above all with few groups that have a lesion.

Sources: Wilson, Journal of the American Statistical Association 22, 1927; Newcombe, Statistics in Medicine 17, 1998;
Rao and Scott, "A simple method for the analysis of clustered binary data", Biometrics 48, 1992; Efron and Tibshirani,
An Introduction to the Bootstrap, 1993.
"""

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE: Final = 0.95
"""Confidence level of all intervals."""

NORMAL_QUANTILE: Final = 1.959963984540054
"""97.5% quantile of the standard normal distribution."""

MIN_GROUPS: Final = 2
"""Minimum number of groups with a lesion, and of groups with a normal image, for an interval."""

MAX_UNDEFINED_FRACTION: Final = 0.05
"""Fraction of the resamples in which a metric may be undefined; with more there is no interval."""

MIN_DEVIATION: Final = 1e-9
"""Smaller standard deviations over resamples are rounding errors."""

Floats = NDArray[np.float64]
Interval = tuple[float, float]


def compute_t_quantile(num_groups: int) -> float:
    """Compute the quantile of Student's t distribution for an interval of `CONFIDENCE`.

    Args:
        num_groups: Groups with a lesion or groups with a normal image, whichever are fewer; at least `MIN_GROUPS`.
    """
    from scipy.special import stdtrit  # noqa: PLC0415 - a tenth of a second to import

    return float(stdtrit(num_groups - 1, (1 + CONFIDENCE) / 2))


def compute_deviations(resampled: Floats) -> tuple[Floats, Floats]:
    """Compute standard deviations over resamples.

    Args:
        resampled: A metric in every resample, NaN where it is not defined, shape (..., num_resamples).

    Returns:
        The standard deviation, and half the width of the central 68%, which is robust against outliers; shape (...),
        NaN where more than `MAX_UNDEFINED_FRACTION` of the resamples are undefined.
    """
    from scipy.special import ndtr  # noqa: PLC0415 - a tenth of a second to import

    is_usable = np.isfinite(resampled).mean(axis=-1) >= 1 - MAX_UNDEFINED_FRACTION
    usable = np.where(is_usable[..., None], resampled, 0.0)
    lower, upper = np.nanquantile(usable, ndtr([-1, 1]), axis=-1)
    deviation = np.nanstd(usable, axis=-1)
    return np.where(is_usable, deviation, np.nan), np.where(is_usable, (upper - lower) / 2, np.nan)


def compute_student_intervals(values: ArrayLike, deviations: ArrayLike, quantile: float) -> Floats:
    """Compute Student's t intervals, shape (2, ...); NaN where a deviation is NaN."""
    halves = quantile * np.asarray(deviations, np.float64)
    return np.stack([np.asarray(values) - halves, np.asarray(values) + halves])


def compute_wilson_intervals(
    fractions: ArrayLike, deviations: ArrayLike, quantile: float, num_groups: ArrayLike
) -> Floats:
    """Compute Wilson's score intervals with effective sample sizes.

    Args:
        fractions: Point estimates, 0-1, shape (...).
        deviations: Standard deviations over resamples, shape (...).
        quantile: See `compute_t_quantile`.
        num_groups: Groups that an estimate is computed from. They are the sample size where the estimate is 0 or 1 or
            does not vary: each group counts as one trial.

    Returns:
        Lower and upper limits, shape (2, ...); NaN where the fraction or the deviation is NaN.
    """
    fractions, deviations = np.asarray(fractions, np.float64), np.asarray(deviations, np.float64)
    variances = fractions * (1 - fractions)
    is_varying = (deviations > MIN_DEVIATION) & (variances > 0)
    sizes = np.broadcast_to(np.asarray(num_groups, np.float64), fractions.shape).copy()
    np.divide(variances, deviations**2, out=sizes, where=is_varying)
    sizes = np.maximum(sizes, 1)
    square = quantile**2
    centers = fractions + square / (2 * sizes)
    halves = quantile * np.sqrt(variances / sizes + square / (4 * sizes**2))
    limits = np.clip(np.stack([centers - halves, centers + halves]) / (1 + square / sizes), 0, 1)
    limits = np.stack([np.minimum(limits[0], fractions), np.maximum(limits[1], fractions)])  # rounding errors
    return np.where(np.isnan(deviations), np.nan, limits)


def compute_binomial_interval(num_successes: int, num_trials: int) -> Interval:
    """Compute Wilson's score interval of a fraction of independent trials, of which there is at least one."""
    from scipy.stats import binomtest  # noqa: PLC0415 - half a second to import

    limits = binomtest(num_successes, num_trials).proportion_ci(confidence_level=CONFIDENCE, method="wilson")
    return float(limits.low), float(limits.high)

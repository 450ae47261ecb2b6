"""Fits the learning curve over patients and predicts what more patients would bring.

The curve is an inverse power law, AUC = a - b n^-c, fitted to every resample. The prediction for twice the patients is
given only where the resamples show that the AUC still rises, and never as a number beyond the measured sizes by more
than `MAX_EXTRAPOLATION`.

Source: Figueroa et al., BMC Medical Informatics and Decision Making 12, 2012.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hip_mri.evaluation.metrics.confidence_intervals import compute_t_quantile

EXPONENTS: Final = np.geomspace(0.1, 2, 25)
"""Values of c that are tried; the best fit of each resample is used."""

MAX_EXTRAPOLATION: Final = 3.0
"""Largest ratio of predicted to measured number of groups."""

WIDENING: Final = 1.6
"""Factor on the deviations of the resamples. The training sets of the draws overlap, so that resamples vary less than
data sets of other patients do. In three simulations of 60, 150 and 100 groups (`tests/benchmarks/training_sizes.py`),
95% intervals without it covered the true AUC of a size in 73 to 95%, with it in 91 to 99%. The rise between two sizes
needs no widening (93 to 99%), since both share the scored groups."""

CENTRAL: Final = (0.025, 0.975)
"""Quantiles of a 95% interval."""

FACTORS: Final = np.linspace(1, 4, 61)
"""Factors on the number of test groups that are tried; four times as many halve a standard error."""

Floats = NDArray[np.float64]


def summarize_training_sizes(sizes: pd.DataFrame, num_groups: int) -> dict[str, Any] | None:
    """Summarize the curve and extrapolate it.

    Args:
        sizes: See `hip_mri.monitoring.training_sizes.measure_training_sizes`.
        num_groups: Groups of the training split.

    Returns:
        `points`: fraction, num_groups, num_images, `auc` (mean of the draws) and 95% `interval` of each; `rise`: what
        the AUC gained from the third last point to the last, with its `interval`; `twice`: `num_groups`,
        `auc` and `auc_interval` predicted for them, `gain` over the present number of groups and its `interval`, or
        `None` with the `reason`: `flat` (no rise is shown) or
        `too_far` (few of many groups were used). `None` without rows.
    """
    if sizes.empty:
        return None
    draws, resamples = (_pivot(sizes[sizes["kind"] == kind]) for kind in ("draw", "resample"))
    rises = resamples[:, -1] - resamples[:, -3]
    resamples = np.clip(resamples.mean(axis=0) + WIDENING * (resamples - resamples.mean(axis=0)), 0, 1)
    counts = sizes.groupby("fraction")[["num_groups", "num_images"]].first()
    means, limits = draws.mean(axis=0), np.quantile(resamples, CENTRAL, axis=0)
    points = [
        {
            "fraction": float(fraction),
            "num_groups": int(counts["num_groups"].iloc[place]),
            "num_images": int(counts["num_images"].iloc[place]),
            "auc": float(means[place]),
            "interval": limits[:, place].tolist(),
        }
        for place, fraction in enumerate(counts.index)
    ]
    trained_on = counts["num_groups"].to_numpy(np.float64)
    rise = {"auc": float(means[-1] - means[-3]), "interval": np.quantile(rises, CENTRAL).tolist()}
    rise |= {"from_fraction": float(counts.index[-3])}
    return {"points": points, "rise": rise, **_extrapolate(trained_on, resamples, num_groups, rise["interval"][0])}


def _pivot(rows: pd.DataFrame) -> Floats:
    return rows.pivot(index="number", columns="fraction", values="auc").to_numpy(np.float64)


def _extrapolate(trained_on: Floats, resamples: Floats, num_groups: int, lowest_rise: float) -> dict[str, Any]:
    target = 2 * num_groups
    if target > MAX_EXTRAPOLATION * trained_on[-1]:
        return {"twice": None, "reason": "too_far"}
    if lowest_rise <= 0:
        return {"twice": None, "reason": "flat"}
    weights = 1 / np.maximum(resamples.var(axis=0), 1e-8)
    predicted = fit_power_law(trained_on, resamples, weights, np.array([num_groups, target], np.float64))
    gains = predicted[:, 1] - predicted[:, 0]
    twice = {
        "num_groups": target,
        "auc": float(np.median(predicted[:, 1])),
        "auc_interval": np.quantile(predicted[:, 1], CENTRAL).tolist(),
        "gain": float(np.median(gains)),
        "interval": np.quantile(gains, CENTRAL).tolist(),
    }
    return {"twice": twice, "reason": None}


def fit_power_law(sizes: Floats, aucs: Floats, weights: Floats, targets: Floats) -> Floats:
    """Fit AUC = a - b n^-c to each curve, with a at most 1 and b at least 0.

    Args:
        sizes: Numbers of groups, ascending, shape (num_sizes,).
        aucs: One curve per row, shape (num_curves, num_sizes).
        weights: Weight of each size, shape (num_sizes,).
        targets: Numbers of groups to predict for, shape (num_targets,).

    Returns:
        Predicted AUCs, shape (num_curves, num_targets).
    """
    weights = weights / weights.sum()
    errors, predictions = [], []
    for exponent in EXPONENTS:
        powers, at_targets = sizes**-exponent, targets**-exponent
        center, means = powers @ weights, aucs @ weights
        slopes = (aucs - means[:, None]) @ (weights * (powers - center)) / (weights @ (powers - center) ** 2)
        slopes = np.minimum(slopes, 0)
        heights = means - slopes * center
        is_above = heights > 1
        bound = np.minimum((aucs - 1) @ (weights * powers) / (weights @ powers**2), 0)
        slopes, heights = np.where(is_above, bound, slopes), np.where(is_above, 1, heights)
        errors.append((heights[:, None] + slopes[:, None] * powers - aucs) ** 2 @ weights)
        predictions.append(heights[:, None] + slopes[:, None] * at_targets)
    best = np.argmin(np.stack(errors), axis=0)
    return np.stack(predictions)[best, np.arange(len(aucs))]


def find_test_lesions(test: Mapping[str, Any], num_rarer_groups: int) -> dict[str, Any] | None:
    """Find how many test lesions would halve the 95% interval of the test AUC.

    The standard error falls with the root of the number of groups, if further groups are like the present ones; the
    quantile of Student's t distribution falls as well, so that somewhat fewer than four times as many are enough.

    Args:
        test: Metrics of the test images.
        num_rarer_groups: Test groups with a lesion, or with a normal image, whichever are fewer.

    Returns:
        The `num_lesions` and `num_groups` that are needed; `None` if there is no interval.
    """
    if test["intervals"]["auc"] is None:
        return None
    half = compute_t_quantile(num_rarer_groups) / 2
    factor = next(
        factor
        for factor in FACTORS
        if compute_t_quantile(round(num_rarer_groups * factor)) / np.sqrt(factor) <= half * (1 + 1e-9)
    )
    return {name: int(np.ceil(factor * test[name])) for name in ("num_lesions", "num_groups")}

"""ROC and precision-recall curves with pointwise 95 % bands.

Whether a decision by the model does more good than harm: net benefit by threshold.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hip_mri.errors import EvaluationError, list_offenders
from hip_mri.evaluation.metrics.confidence_intervals import bound_shares, find_deviations, find_quantile
from hip_mri.evaluation.metrics.resampling import NUM_RESAMPLES, count_rarer_groups, resample
from hip_mri.evaluation.metrics.validation import Sample, check_sample
from hip_mri.evaluation.metrics.weighted import Tally, tally_sample

NUM_POINTS: Final = 101
"""Points of a curve, one per percent."""

ROUNDING: Final = 1e-12
"""A recall is reached where it is this near."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Band:
    """A curve and the band around it; all arrays have the shape (num_points,).

    Attributes:
        grid: Where the curve is read, 0 to 1: false alarms (1 - specificity) for ROC, recall for precision-recall.
        curve: Sensitivity, or precision, there.
        lower: Lower end of the 95 % interval of each point, taken by itself.
        upper: Its upper end.
    """

    grid: Floats
    curve: Floats
    lower: Floats
    upper: Floats


@dataclass(frozen=True)
class CurveBands:
    """Both curves of a split.

    Attributes:
        roc: Sensitivity by false alarms, on straight lines between thresholds; where thresholds share their false
            alarms, the highest.
        precision_recall: Precision at the first threshold from above that reaches the recall.
    """

    roc: Band
    precision_recall: Band


def bootstrap_curves(
    labels: ArrayLike,
    scores: ArrayLike,
    groups: ArrayLike | None,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
    num_points: int = NUM_POINTS,
) -> CurveBands:
    """Find the curves of a split and how far chance could move each point up or down.

    Args:
        labels: True classes, 0 normal or 1 lesion, shape (num_images,).
        scores: Probability of a lesion, 0-1, shape (num_images,).
        groups: Numbers or names of groups within which images resemble each other, shape (num_images,); `None` takes
            all images as independent.
        seed: The same seed gives the same bands.
        num_resamples: Resamples.
        num_points: Points of a curve, at least 2.

    Returns:
        The curves and their bands. The ROC curve's last point, where everything is called, is certain.

    Raises:
        EvaluationError: The images cannot be measured, or fewer than two groups have a lesion, or a normal image.
    """
    sample = check_sample(labels, scores, groups)
    if (num_groups := count_rarer_groups(sample)) < 2:
        raise EvaluationError(
            "curves: a band needs at least two groups with lesions and two with normal images, found only "
            f"{num_groups} of one kind. Give images of more groups."
        )
    grid = np.linspace(0, 1, num_points)
    curves = _read_curves(tally_sample(sample), grid)
    resampled = resample(sample, lambda tally: _read_curves(tally, grid), seed, num_resamples)
    with_lesions = len(np.unique(sample.groups[sample.labels == 1]))
    supports = {"roc": with_lesions, "precision_recall": _count_called_groups(sample, grid)}
    bands = {}
    for name, values in curves.items():
        deviations, _ = find_deviations(resampled[name])
        lower, upper = bound_shares(values[:, 0], deviations, find_quantile(num_groups), supports[name])
        bands[name] = Band(grid, values[:, 0], lower, upper)
    bands["roc"].lower[-1] = 1
    return CurveBands(**bands)


def _count_called_groups(sample: Sample, recalls: Floats) -> NDArray[np.int64]:
    """Groups of which an image is called where each recall is reached: few, at the beginning of the curve."""
    lesions = np.sort(sample.scores[sample.labels == 1])[::-1]
    num_found = np.maximum(np.ceil(recalls * len(lesions) - ROUNDING).astype(int), 1)
    highest = np.full(sample.num_groups, -1.0)
    np.maximum.at(highest, sample.groups, sample.scores)
    return sample.num_groups - np.searchsorted(np.sort(highest), lesions[num_found - 1])


def _read_curves(tally: Tally, grid: Floats) -> dict[str, Floats]:
    """Both curves of every column, shape (num_points, num_columns) each."""
    found, alarms = np.cumsum(tally.lesions[::-1], axis=0), np.cumsum(tally.normals[::-1], axis=0)
    sensitivities, false_alarms = found / found[-1], alarms / alarms[-1]
    calls = found + alarms
    precisions = np.divide(found, calls, out=np.ones_like(found), where=calls > 0)
    origin = np.zeros(1)
    roc, precision_recall = np.empty((2, len(grid), found.shape[1]))
    for column in range(found.shape[1]):
        x, y = np.append(origin, false_alarms[:, column]), np.append(origin, sensitivities[:, column])
        roc[:, column] = np.interp(grid, x, y)  # where x repeats, the last y counts
        reached = np.searchsorted(sensitivities[:, column], grid - ROUNDING)
        precision_recall[:, column] = precisions[reached, column]
    return {"roc": roc, "precision_recall": precision_recall}


DEFAULT_THRESHOLDS: Final = tuple(number / 100 for number in range(1, 100))
"""Threshold probabilities from 1 % to 99 %."""


@dataclass(frozen=True)
class DecisionCurve:
    """Net benefit by threshold, in true positives per image; all arrays have the shape (num_thresholds,).

    Attributes:
        thresholds: Probability of a lesion from which on one would act. Its odds are what a needless act weighs
            against a lesion found: at 0.1, nine needless acts undo the good of one lesion found.
        model: Benefit of acting where the score reaches the threshold.
        treat_all: Benefit of acting on every image.
        treat_none: Benefit of never acting, which is 0.
    """

    thresholds: NDArray[np.float64]
    model: NDArray[np.float64]
    treat_all: NDArray[np.float64]
    treat_none: NDArray[np.float64]


def find_net_benefit(
    labels: ArrayLike,
    scores: ArrayLike,
    thresholds: ArrayLike = DEFAULT_THRESHOLDS,
    prevalence: float | None = None,
) -> DecisionCurve:
    """Weigh lesions found against false alarms, at every threshold.

    Args:
        labels: True classes, 0 normal or 1 lesion, shape (num_images,).
        scores: Calibrated probability of a lesion, 0-1, shape (num_images,).
        thresholds: Threshold probabilities, each above 0 and below 1, shape (num_thresholds,).
        prevalence: Share of lesions where the model is to work, 0-1; without it that of the images.

    Returns:
        The curve. Acting helps where `model` lies above the two others.

    Raises:
        EvaluationError: The images cannot be measured, or a threshold or the prevalence is out of range.

    Source: Vickers and Elkin, "Decision curve analysis", Medical Decision Making 26, 2006.
    """
    sample = check_sample(labels, scores)
    chances = _check_thresholds(thresholds)
    share = float(sample.labels.mean()) if prevalence is None else prevalence
    if not 0 <= share <= 1:
        raise EvaluationError(f"decision curve: a prevalence from 0 to 1 is needed, received {prevalence}.")
    odds = chances / (1 - chances)
    sensitivities = _find_shares_called(sample.scores[sample.labels == 1], chances)
    false_alarms = _find_shares_called(sample.scores[sample.labels == 0], chances)
    return DecisionCurve(
        thresholds=chances,
        model=sensitivities * share - false_alarms * (1 - share) * odds,
        treat_all=share - (1 - share) * odds,
        treat_none=np.zeros_like(chances),
    )


def _find_shares_called(scores: NDArray[np.float64], thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the scores at or above each threshold."""
    return 1 - np.searchsorted(np.sort(scores), thresholds) / len(scores)


def _check_thresholds(thresholds: ArrayLike) -> NDArray[np.float64]:
    chances = np.asarray(thresholds, np.float64)
    if chances.ndim != 1:
        raise EvaluationError(f"decision curve: one row of thresholds is needed, received the shape {chances.shape}.")
    outside = chances[~((chances > 0) & (chances < 1))]
    if outside.size:
        raise EvaluationError(
            "decision curve: thresholds must lie above 0 and below 1, received "
            f"{list_offenders([str(chance) for chance in outside])}. Leave them out."
        )
    return chances

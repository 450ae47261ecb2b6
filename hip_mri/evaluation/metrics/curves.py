"""Computes curves over all thresholds: ROC and precision-recall with pointwise 95% bands, and net benefit."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hip_mri.errors import EvaluationError
from hip_mri.evaluation.metrics.confidence_intervals import (
    MIN_GROUPS,
    compute_deviations,
    compute_t_quantile,
    compute_wilson_intervals,
)
from hip_mri.evaluation.metrics.measures import Tally, tally_scores
from hip_mri.evaluation.metrics.resampling import NUM_RESAMPLES, resample
from hip_mri.evaluation.metrics.validation import ValidatedScores, validate_scores

NUM_POINTS: Final = 101
"""Points of a curve, one per percent."""

ROUNDING_ERROR: Final = 1e-12
"""Tolerance for comparing recalls."""

DECISION_THRESHOLDS: Final = np.arange(1, 100) / 100
"""Threshold probabilities of a decision curve, 1% to 99%."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Band:
    """A curve with a pointwise 95% band; all arrays have the shape (num_points,).

    Attributes:
        grid: Positions on the horizontal axis, 0 to 1: 1 - specificity for ROC, recall for precision-recall.
        curve: Sensitivity or precision.
        lower: Lower limit of the 95% interval of each point.
        upper: Upper limit.
    """

    grid: Floats
    curve: Floats
    lower: Floats
    upper: Floats


@dataclass(frozen=True)
class CurveBands:
    """Both curves of a split.

    Attributes:
        roc: Sensitivity by 1 - specificity, interpolated linearly between thresholds; of thresholds with the same
            specificity the highest sensitivity.
        precision_recall: Precision at the highest threshold that reaches the recall.
    """

    roc: Band
    precision_recall: Band


@dataclass(frozen=True)
class DecisionCurve:
    """Net benefit by threshold, in true positives per image; all arrays have the shape (num_thresholds,).

    Attributes:
        thresholds: Probability of a lesion at or above which an image is treated. Its odds are the weight of a false
            positive relative to a true positive: at 0.1, nine false positives offset one true positive.
        model: Net benefit of treating the images with a score at or above the threshold.
        treat_all: Net benefit of treating every image. Treating none has net benefit 0.
    """

    thresholds: Floats
    model: Floats
    treat_all: Floats


def bootstrap_curves(
    labels: ArrayLike,
    scores: ArrayLike,
    groups: ArrayLike | None,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
    num_points: int = NUM_POINTS,
) -> CurveBands:
    """Compute ROC and precision-recall curves with their bands.

    Args:
        labels: See `validate_scores`.
        scores: See `validate_scores`.
        groups: Correlated images share a group; `None` takes all images as independent.
        seed: The same seed gives the same bands.
        num_resamples: Number of resamples.
        num_points: Points of a curve, at least 2.

    Returns:
        The curves and their bands. The last point of the ROC curve, where all images are called, has no width.

    Raises:
        EvaluationError: `validate_scores` raises it, or fewer than two groups have a lesion, or a normal image.
    """
    validated = validate_scores(labels, scores, groups)
    if validated.num_rarer_groups < MIN_GROUPS:
        raise EvaluationError(
            "curves: a band needs at least two groups with lesions and two with normal images, found "
            f"{validated.count_groups(1)} and {validated.count_groups(0)}. Add images of more groups."
        )
    grid = np.linspace(0, 1, num_points)
    curves = _compute_curves(tally_scores(validated), grid)
    resampled = resample(validated, lambda tally: _compute_curves(tally, grid), seed, num_resamples)
    num_groups = {"roc": validated.count_groups(1), "precision_recall": _count_called_groups(validated, grid)}
    quantile = compute_t_quantile(validated.num_rarer_groups)
    bands = {}
    for name, values in curves.items():
        deviations, _ = compute_deviations(resampled[name])
        bands[name] = Band(
            grid, values[:, 0], *compute_wilson_intervals(values[:, 0], deviations, quantile, num_groups[name])
        )
    bands["roc"].lower[-1] = 1
    return CurveBands(**bands)


def _count_called_groups(validated: ValidatedScores, recalls: Floats) -> NDArray[np.int64]:
    """Count the groups with a called image at the threshold that reaches each recall."""
    lesions = np.sort(validated.scores[validated.labels == 1])[::-1]
    num_found = np.maximum(np.ceil(recalls * len(lesions) - ROUNDING_ERROR).astype(int), 1)
    maxima = np.full(validated.num_groups, -1.0)
    np.maximum.at(maxima, validated.groups, validated.scores)
    return validated.num_groups - np.searchsorted(np.sort(maxima), lesions[num_found - 1])


def _compute_curves(tally: Tally, grid: Floats) -> dict[str, Floats]:
    """Compute both curves of every column, shape (num_points, num_columns) each."""
    true_positives, false_positives = np.cumsum(tally.lesions[::-1], axis=0), np.cumsum(tally.normals[::-1], axis=0)
    sensitivities, false_rates = true_positives / true_positives[-1], false_positives / false_positives[-1]
    positives = true_positives + false_positives
    precisions = np.divide(true_positives, positives, out=np.ones_like(positives), where=positives > 0)
    origin = np.zeros(1)
    roc, precision_recall = np.empty((2, len(grid), positives.shape[1]))
    for column in range(positives.shape[1]):
        x, y = np.append(origin, false_rates[:, column]), np.append(origin, sensitivities[:, column])
        roc[:, column] = np.interp(grid, x, y)  # where x repeats, the last y counts
        reached = np.searchsorted(sensitivities[:, column], grid - ROUNDING_ERROR)
        precision_recall[:, column] = precisions[reached, column]
    return {"roc": roc, "precision_recall": precision_recall}


def compute_net_benefit(
    labels: ArrayLike, scores: ArrayLike, thresholds: Floats = DECISION_THRESHOLDS
) -> DecisionCurve:
    """Compute a decision curve; the model is useful where its net benefit is above 0 and above `treat_all`.

    Args:
        labels: True classes, 0 normal or 1 lesion, shape (num_images,).
        scores: Calibrated probability of a lesion, 0-1, shape (num_images,).
        thresholds: Threshold probabilities, each above 0 and below 1, shape (num_thresholds,).

    Raises:
        EvaluationError: `validate_scores` raises it.

    Source: Vickers and Elkin, "Decision curve analysis", Medical Decision Making 26, 2006.
    """
    validated = validate_scores(labels, scores)
    prevalence = float(validated.labels.mean())
    odds = thresholds / (1 - thresholds)
    sensitivities, false_rates = (
        1 - np.searchsorted(np.sort(own := validated.scores[validated.labels == label]), thresholds) / len(own)
        for label in (1, 0)
    )
    return DecisionCurve(
        thresholds=thresholds,
        model=sensitivities * prevalence - false_rates * (1 - prevalence) * odds,
        treat_all=prevalence - (1 - prevalence) * odds,
    )

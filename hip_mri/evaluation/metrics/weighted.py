"""Every measure of a split, for many weightings of its images at once.

A column is one weighting: all ones gives the measures themselves, the counts of a resample give those of the resample.
So the point estimate and its bootstrap come from the same lines. NaN stands for what is not defined.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hip_mri.evaluation.metrics.logistic import find_logits, fit_intercept, fit_logistic
from hip_mri.evaluation.metrics.validation import Sample

NUM_BINS: Final = 10
"""Bins of the expected calibration error."""

RANKING_MEASURES: Final = ("auc", "average_precision")
PROBABILITY_MEASURES: Final = ("brier", "expected_calibration_error", "calibration_slope", "calibration_intercept")
DECISION_MEASURES: Final = (
    "sensitivity",
    "specificity",
    "ppv",
    "npv",
    "accuracy",
    "f1",
    "balanced_accuracy",
    "mcc",
)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Tally:
    """How much lesions and normal images weigh at each distinct score; all measures follow from it.

    Attributes:
        scores: Distinct scores, ascending, shape (num_scores,).
        lesions: Weight of the lesions at each score, shape (num_scores, num_columns).
        normals: Weight of the normal images at each score, the same shape.
    """

    scores: Floats
    lesions: Floats
    normals: Floats


def tally_sample(sample: Sample, group_weights: Floats | None = None) -> Tally:
    """Sum the weights of a sample by class and score.

    Args:
        sample: The images.
        group_weights: Weight of each group, shape (num_groups, num_columns); without it one column of ones.

    Returns:
        The tally. Columns must keep weight in both classes for ranking and decisions to be defined.
    """
    if group_weights is None:
        group_weights = np.ones((sample.num_groups, 1))
    scores, starts, labels, groups = sample.ranking
    weights = group_weights[groups]
    lesions = np.add.reduceat(weights * labels[:, None], starts, axis=0)
    return Tally(scores, lesions, np.add.reduceat(weights, starts, axis=0) - lesions)


def measure_ranking(tally: Tally) -> dict[str, Floats]:
    """AUC and average precision, shape (num_columns,) each; NaN where a class has no weight.

    Source: Hanley and McNeil, Radiology 143, 1982 (AUC as a share of pairs); average precision as in
    `sklearn.metrics.average_precision_score`, without interpolation.
    """
    num_lesions, num_normals = tally.lesions.sum(axis=0), tally.normals.sum(axis=0)
    normals_up_to = np.cumsum(tally.normals, axis=0)
    won = np.einsum("sc,sc->c", tally.lesions, normals_up_to - tally.normals / 2)
    found = num_lesions - np.cumsum(tally.lesions, axis=0) + tally.lesions
    alarms = found + num_normals - normals_up_to + tally.normals
    precisions = np.divide(found, alarms, out=np.zeros_like(found), where=alarms > 0)
    return {
        "auc": divide(won, num_lesions * num_normals),
        "average_precision": divide(np.einsum("sc,sc->c", tally.lesions, precisions), num_lesions),
    }


def measure_probabilities(tally: Tally) -> dict[str, Floats]:
    """Brier score, expected calibration error, calibration slope and intercept, shape (num_columns,) each."""
    totals = (tally.lesions + tally.normals).sum(axis=0)
    logits = find_logits(tally.scores)
    slopes, _ = fit_logistic(logits, tally.lesions, tally.normals)
    squares = np.einsum("s,sc->c", (1 - tally.scores) ** 2, tally.lesions)  # not `@`: see `logistic._find_gradients`
    squares += np.einsum("s,sc->c", tally.scores**2, tally.normals)
    return {
        "brier": divide(squares, totals),
        "expected_calibration_error": _find_calibration_error(tally),
        "calibration_slope": slopes,
        "calibration_intercept": fit_intercept(logits, tally.lesions, tally.normals),
    }


def _find_calibration_error(tally: Tally) -> Floats:
    """Mean distance of score and share of lesions, over bins of equal mass.

    Images are ordered by score and cut into `NUM_BINS` bins by their mid-rank, so that equal scores share a bin and
    no bin depends on the order of the rows.
    """
    weights = tally.lesions + tally.normals
    up_to = np.cumsum(weights, axis=0)
    totals = up_to[-1]
    middles = up_to - weights / 2
    surplus = np.cumsum(tally.lesions - weights * tally.scores[:, None], axis=0)
    surplus = np.concatenate([np.zeros((1, len(totals))), surplus])
    edges = np.stack([(middles < totals * (number / NUM_BINS)).sum(axis=0) for number in range(1, NUM_BINS)])
    edges = np.concatenate([np.zeros((1, len(totals)), int), edges, np.full((1, len(totals)), len(weights))])
    at_edges = np.take_along_axis(surplus, edges, axis=0)
    return divide(np.abs(np.diff(at_edges, axis=0)).sum(axis=0), totals)


def count_decisions(tally: Tally, threshold: float) -> tuple[Floats, Floats, Floats, Floats]:
    """Weights of true negatives, false positives, false negatives and true positives, shape (num_columns,) each.

    Args:
        tally: The weights.
        threshold: Scores at or above it are called a lesion.
    """
    first = int(np.searchsorted(tally.scores, threshold))
    true_negatives, false_negatives = tally.normals[:first].sum(axis=0), tally.lesions[:first].sum(axis=0)
    false_positives, true_positives = tally.normals[first:].sum(axis=0), tally.lesions[first:].sum(axis=0)
    return true_negatives, false_positives, false_negatives, true_positives


def measure_decisions(tally: Tally, threshold: float) -> dict[str, Floats]:
    """Measures of the decisions at a threshold, shape (num_columns,) each.

    Source: Matthews, Biochimica et Biophysica Acta 405, 1975 (`mcc`, the correlation of calls and truth).
    """
    tn, fp, fn, tp = count_decisions(tally, threshold)
    sensitivity, specificity = divide(tp, tp + fn), divide(tn, tn + fp)
    return {
        "sensitivity": sensitivity,
        "specificity": specificity,
        "ppv": divide(tp, tp + fp),
        "npv": divide(tn, tn + fn),
        "accuracy": divide(tp + tn, tp + tn + fp + fn),
        "f1": divide(2 * tp, 2 * tp + fp + fn),
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "mcc": divide(tp * tn - fp * fn, np.sqrt(tp + fp) * np.sqrt(tp + fn) * np.sqrt(tn + fp) * np.sqrt(tn + fn)),
    }


def project_prevalence(decisions: dict[str, Floats], prevalence: float) -> dict[str, Floats]:
    """Predictive values where another share of the images has a lesion, by Bayes' rule.

    Args:
        decisions: With `sensitivity` and `specificity`.
        prevalence: Share of lesions, 0-1.

    Returns:
        `ppv` and `npv`, shape (num_columns,) each.
    """
    sensitivity, specificity = decisions["sensitivity"], decisions["specificity"]
    true_alarms, false_alarms = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    true_clears, missed = specificity * (1 - prevalence), (1 - sensitivity) * prevalence
    return {
        "ppv": divide(true_alarms, true_alarms + false_alarms),
        "npv": divide(true_clears, true_clears + missed),
    }


def divide(numerators: Floats, denominators: Floats) -> Floats:
    """Quotients; NaN where the denominator is not positive."""
    return np.divide(numerators, denominators, out=np.full(np.shape(numerators), np.nan), where=denominators > 0)

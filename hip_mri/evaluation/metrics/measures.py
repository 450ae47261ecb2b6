"""Computes metrics of scored images, for one or many weightings of the images at once.

A column is one weighting: all ones gives the point estimates, the counts of a bootstrap resample give the metrics of
the resample, so both come from the same code. NaN marks what is not defined. `measure_ranking`,
`measure_probabilities` and `measure_decisions` return point estimates for strict JSON, with `None` instead of NaN.
Titles and meanings of the metrics: `hip_mri.evaluation.metrics.table`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hip_mri.errors import EvaluationError
from hip_mri.evaluation.metrics.logistic import compute_logits, fit_intercept, fit_logistic
from hip_mri.evaluation.metrics.validation import ValidatedScores, validate_scores

NUM_BINS: Final = 10
"""Bins of the expected calibration error."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Tally:
    """Weight of the lesions and of the normal images at each distinct score; all metrics follow from it.

    Attributes:
        scores: Distinct scores, ascending, shape (num_scores,).
        lesions: Weight of the lesions at each score, shape (num_scores, num_columns).
        normals: Weight of the normal images at each score, the same shape.
    """

    scores: Floats
    lesions: Floats
    normals: Floats


def tally_scores(validated: ValidatedScores, group_weights: Floats | None = None) -> Tally:
    """Sum weights by class and score.

    Args:
        validated: The images.
        group_weights: Weight of each group, shape (num_groups, num_columns); `None` is one column of ones.

    Returns:
        The tally. Ranking and decision metrics need columns with weight in both classes.
    """
    if group_weights is None:
        group_weights = np.ones((validated.num_groups, 1))
    scores, starts, labels, groups = validated.ranking
    weights = group_weights[groups]
    lesions = np.add.reduceat(weights * labels[:, None], starts, axis=0)
    return Tally(scores, lesions, np.add.reduceat(weights, starts, axis=0) - lesions)


def compute_ranking_metrics(tally: Tally) -> dict[str, Floats]:
    """Compute AUC and average precision, shape (num_columns,) each; NaN where a class has no weight.

    The AUC is the fraction of pairs of a lesion and a normal image in which the lesion has the higher score, ties
    counted half. Average precision is not interpolated, as in `sklearn.metrics.average_precision_score`.

    Source: Hanley and McNeil, Radiology 143, 1982.
    """
    num_lesions, num_normals = tally.lesions.sum(axis=0), tally.normals.sum(axis=0)
    normals_up_to = np.cumsum(tally.normals, axis=0)
    num_ordered = np.einsum("sc,sc->c", tally.lesions, normals_up_to - tally.normals / 2)
    true_positives = num_lesions - np.cumsum(tally.lesions, axis=0) + tally.lesions
    positives = true_positives + num_normals - normals_up_to + tally.normals
    precisions = np.divide(true_positives, positives, out=np.zeros_like(positives), where=positives > 0)
    return {
        "auc": divide(num_ordered, num_lesions * num_normals),
        "average_precision": divide(np.einsum("sc,sc->c", tally.lesions, precisions), num_lesions),
    }


def compute_probability_metrics(tally: Tally) -> dict[str, Floats]:
    """Compute Brier score, expected calibration error, calibration slope and intercept, shape (num_columns,) each.

    The slope is that of a logistic regression of the label on the logit of the score; NaN where a threshold separates
    the classes. The intercept is calibration in the large: what must be added to every logit so that the mean score
    equals the prevalence (slope fixed at 1). Logits are taken of scores clipped to 1e-6 from 0 and 1.

    Source: Van Calster et al., "Calibration: the Achilles heel of predictive analytics", BMC Medicine 17, 2019.
    """
    totals = (tally.lesions + tally.normals).sum(axis=0)
    logits = compute_logits(tally.scores)
    slopes, _ = fit_logistic(logits, tally.lesions, tally.normals)
    squares = np.einsum("s,sc->c", (1 - tally.scores) ** 2, tally.lesions)  # not `@`: see `logistic._compute_gradients`
    squares += np.einsum("s,sc->c", tally.scores**2, tally.normals)
    return {
        "brier": divide(squares, totals),
        "expected_calibration_error": _compute_calibration_error(tally),
        "calibration_slope": slopes,
        "calibration_intercept": fit_intercept(logits, tally.lesions, tally.normals),
    }


def _compute_calibration_error(tally: Tally) -> Floats:
    """Mean over the images of |prevalence - mean score| of their bin.

    Images are ordered by score and divided into `NUM_BINS` bins of equal weight by their mid-rank, so that equal scores
    share a bin and no bin depends on the order of the rows.
    """
    weights = tally.lesions + tally.normals
    up_to = np.cumsum(weights, axis=0)
    totals = up_to[-1]
    mid_ranks = up_to - weights / 2
    surplus = np.cumsum(tally.lesions - weights * tally.scores[:, None], axis=0)
    surplus = np.concatenate([np.zeros((1, len(totals))), surplus])
    edges = np.stack([(mid_ranks < totals * (number / NUM_BINS)).sum(axis=0) for number in range(1, NUM_BINS)])
    edges = np.concatenate([np.zeros((1, len(totals)), int), edges, np.full((1, len(totals)), len(weights))])
    at_edges = np.take_along_axis(surplus, edges, axis=0)
    return divide(np.abs(np.diff(at_edges, axis=0)).sum(axis=0), totals)


def count_decisions(tally: Tally, threshold: float) -> tuple[Floats, Floats, Floats, Floats]:
    """Count true negatives, false positives, false negatives and true positives, shape (num_columns,) each.

    Args:
        tally: The weights.
        threshold: Scores at or above it are called a lesion.
    """
    first = int(np.searchsorted(tally.scores, threshold))
    true_negatives, false_negatives = tally.normals[:first].sum(axis=0), tally.lesions[:first].sum(axis=0)
    false_positives, true_positives = tally.normals[first:].sum(axis=0), tally.lesions[first:].sum(axis=0)
    return true_negatives, false_positives, false_negatives, true_positives


def compute_decision_metrics(tally: Tally, threshold: float) -> dict[str, Floats]:
    """Compute the metrics of the calls at a threshold, shape (num_columns,) each.

    Source: Matthews, Biochimica et Biophysica Acta 405, 1975 (`mcc`).
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


def project_prevalence(decisions: Mapping[str, Any], prevalence: float) -> dict[str, Floats]:
    """Compute predictive values at another prevalence, by Bayes' rule.

    Args:
        decisions: `sensitivity` and `specificity`, arrays of one shape.
        prevalence: Fraction of lesions, 0-1.

    Returns:
        `ppv` and `npv`, of the same shape.
    """
    sensitivity, specificity = (np.asarray(decisions[key], np.float64) for key in ("sensitivity", "specificity"))
    true_positives, false_positives = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    true_negatives, false_negatives = specificity * (1 - prevalence), (1 - sensitivity) * prevalence
    return {
        "ppv": divide(true_positives, true_positives + false_positives),
        "npv": divide(true_negatives, true_negatives + false_negatives),
    }


def divide(numerators: Floats, denominators: Floats) -> Floats:
    """Divide; NaN where the denominator is not positive."""
    return np.divide(numerators, denominators, out=np.full(np.shape(numerators), np.nan), where=denominators > 0)


def measure_ranking(labels: ArrayLike, scores: ArrayLike) -> dict[str, Any]:
    """Compute AUC and average precision; arguments and errors: `validate_scores`."""
    return _unpack(compute_ranking_metrics(tally_scores(validate_scores(labels, scores))))


def measure_probabilities(labels: ArrayLike, scores: ArrayLike) -> dict[str, Any]:
    """Compute the probability metrics; arguments and errors: `validate_scores`."""
    return _unpack(compute_probability_metrics(tally_scores(validate_scores(labels, scores))))


def measure_decisions(
    labels: ArrayLike, scores: ArrayLike, threshold: float, prevalences: Sequence[float] = ()
) -> dict[str, Any]:
    """Compute the decision metrics at a threshold.

    Args:
        labels: True classes, 0 normal or 1 lesion, shape (num_images,).
        scores: Probability of a lesion, 0-1, shape (num_images,).
        threshold: Scores at or above it are called a lesion, 0-1.
        prevalences: Fractions of lesions at which predictive values are also computed, 0-1.

    Returns:
        `threshold`, `confusion_matrix` as counts `[[tn, fp], [fn, tp]]`, `at_prevalences`, and the metrics by key.

    Raises:
        EvaluationError: `validate_scores` raises it, or the threshold or a prevalence is not from 0 to 1.
    """
    for name, values in (("threshold", [threshold]), ("prevalence", prevalences)):
        if invalid := [value for value in values if not 0 <= value <= 1]:
            raise EvaluationError(f"{name}: a number from 0 to 1 is needed, received {invalid}. Pass another value.")
    tally = tally_scores(validate_scores(labels, scores))
    tn, fp, fn, tp = (int(count[0]) for count in count_decisions(tally, threshold))
    decisions = compute_decision_metrics(tally, threshold)
    return {
        "threshold": float(threshold),
        "confusion_matrix": [[tn, fp], [fn, tp]],
        "at_prevalences": [
            {"prevalence": float(prevalence), **_unpack(project_prevalence(decisions, prevalence))}
            for prevalence in prevalences
        ],
        **_unpack(decisions),
    }


def _unpack(metrics: dict[str, Floats]) -> dict[str, float | None]:
    """Take the only column of each metric as a number."""
    return {key: None if math.isnan(values[0]) else float(values[0]) for key, values in metrics.items()}

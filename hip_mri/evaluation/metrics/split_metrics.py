"""Computes all metrics of a split, with 95% confidence intervals from bootstrap resamples of its groups."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hip_mri.evaluation.metrics.confidence_intervals import (
    MIN_GROUPS,
    compute_deviations,
    compute_student_intervals,
    compute_t_quantile,
    compute_wilson_intervals,
)
from hip_mri.evaluation.metrics.measures import (
    Tally,
    compute_decision_metrics,
    compute_probability_metrics,
    compute_ranking_metrics,
    measure_decisions,
    measure_probabilities,
    measure_ranking,
    project_prevalence,
)
from hip_mri.evaluation.metrics.resampling import NUM_RESAMPLES, resample
from hip_mri.evaluation.metrics.table import METRICS, list_keys
from hip_mri.evaluation.metrics.validation import ValidatedScores, validate_scores

HALF: Final = 0.5
"""Threshold whose decisions are also measured, beside the chosen one."""

Floats = NDArray[np.float64]
Limits = list[float] | None
"""Lower and upper limit of a 95% interval; `None` where there is none."""


def measure_split(
    labels: ArrayLike,
    scores: ArrayLike,
    groups: ArrayLike | None,
    threshold: float,
    prevalences: Sequence[float] = (),
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> dict[str, Any]:
    """Compute all metrics of a split and their intervals.

    Args:
        labels: See `validate_scores`.
        scores: See `validate_scores`.
        groups: Correlated images share a group; `None` takes all images as independent.
        threshold: Scores at or above it are called a lesion, 0-1.
        prevalences: Fractions of lesions at which predictive values are also computed, 0-1.
        seed: The same seed gives the same intervals.
        num_resamples: Number of resamples.

    Returns:
        The result of `measure_points` and `intervals`, which has the same keys. An interval is `None` where the metric
        is, where more than 5% of the resamples leave it undefined, and where fewer than `MIN_GROUPS` groups have a
        lesion, or a normal image. The interval of the expected calibration error is corrected for the error that
        random variation adds, so it can lie below the estimate. In simulations of 60 to 150 patients it covered the
        true value in 87 to 96% of the studies, the other intervals in 93 to 98%.

    Raises:
        EvaluationError: `validate_scores` raises it, or the threshold or a prevalence is not from 0 to 1.
    """
    validated = validate_scores(labels, scores, groups)
    result = measure_points(validated, threshold, prevalences)
    sections = {section: result[section] for section in ("at_threshold", "at_half")}

    def compute_all(tally: Tally) -> dict[str, Floats]:
        metrics = compute_ranking_metrics(tally) | compute_probability_metrics(tally)
        for section, decisions in sections.items():
            computed = compute_decision_metrics(tally, decisions["threshold"])
            metrics |= {f"{section}.{key}": values for key, values in computed.items()}
        return metrics

    resampled = (
        resample(validated, compute_all, seed, num_resamples) if validated.num_rarer_groups >= MIN_GROUPS else {}
    )
    intervals: dict[str, Any] = {**compute_intervals(validated, result, resampled)}
    for section, decisions in sections.items():
        own = {key: resampled[f"{section}.{key}"] for key in list_keys("decision") if resampled}
        intervals[section] = _compute_decision_intervals(validated, decisions, own)
    return {**result, "intervals": intervals}


def measure_points(validated: ValidatedScores, threshold: float, prevalences: Sequence[float] = ()) -> dict[str, Any]:
    """Compute all metrics of a split without intervals; arguments as of `measure_split`.

    Returns:
        `num_images`, `num_lesions`, `num_groups`, the ranking and probability metrics by key, and the results of
        `measure_decisions` at the threshold (`at_threshold`) and at 0.5 (`at_half`). `None` is not defined.
    """
    labels, scores = validated.labels, validated.scores
    return {
        "num_images": len(labels),
        "num_lesions": int(labels.sum()),
        "num_groups": validated.num_groups,
        **measure_ranking(labels, scores),
        **measure_probabilities(labels, scores),
        "at_threshold": measure_decisions(labels, scores, threshold, prevalences),
        "at_half": measure_decisions(labels, scores, HALF, prevalences),
    }


def pool_by_patient(labels: ArrayLike, scores: ArrayLike, patients: ArrayLike) -> tuple[NDArray[np.int64], Floats]:
    """Combine the images of each patient into one case.

    Args:
        labels: True classes, 0 normal or 1 lesion, shape (num_images,).
        scores: Probability of a lesion, 0-1, shape (num_images,).
        patients: Numbers or names of the patients, shape (num_images,).

    Returns:
        Label of each patient, 1 where any image has a lesion, and mean score of the patient's images; shape
        (num_patients,) each, in the order of the names.

    Raises:
        EvaluationError: `validate_scores` raises it.
    """
    validated = validate_scores(labels, scores, patients)
    has_lesion = np.bincount(validated.groups, validated.labels) > 0
    means = average_scores(validated.scores, validated.groups, validated.num_groups)
    return has_lesion.astype(np.int64), means


def average_scores(scores: Floats, patients: NDArray[np.int64], num_patients: int) -> Floats:
    """Compute the mean score of the images of each patient, for evaluation and for new images alike.

    Args:
        scores: Probability of a lesion, 0-1, shape (num_images,).
        patients: Number of the patient, from 0, shape (num_images,).
        num_patients: Number of patients.

    Returns:
        Shape (num_patients,); NaN for patients without images.
    """
    sums, counts = (np.bincount(patients, weights, num_patients) for weights in (scores, np.ones_like(scores)))
    means = np.divide(sums, counts, out=np.full(num_patients, np.nan), where=counts > 0)
    return np.clip(means, 0, 1)  # rounding errors


def compute_intervals(
    validated: ValidatedScores,
    metrics: Mapping[str, Any],
    resampled: Mapping[str, Floats],
    threshold: float = HALF,
) -> dict[str, Limits]:
    """Compute the interval of each metric.

    Args:
        validated: The images.
        metrics: Point estimates by key; keys that are no metric are ignored.
        resampled: The same metrics in every resample, shape (num_resamples,); empty if there are no resamples.
        threshold: Threshold of the decision metrics.

    Returns:
        Lower and upper limit by key, or `None`.
    """
    keys = [key for key in metrics if key in METRICS]
    if not resampled:
        return dict.fromkeys(keys)
    num_groups = _count_groups(validated, threshold)
    quantile = compute_t_quantile(validated.num_rarer_groups)
    return {key: _compute_interval(key, metrics[key], resampled[key], quantile, num_groups[key]) for key in keys}


def _compute_interval(key: str, value: float | None, resampled: Floats, quantile: float, num_groups: int) -> Limits:
    if value is None:
        return None
    deviation, robust_deviation = compute_deviations(resampled)
    if key in ("calibration_slope", "calibration_intercept"):
        limits = compute_student_intervals(value, robust_deviation, quantile)
    elif key == "expected_calibration_error":  # random variation increases it, in the resamples as in the images
        limits = np.clip(compute_student_intervals(2 * value - np.mean(resampled), deviation, quantile), 0, 1)
    elif key == "mcc":
        limits = 2 * compute_wilson_intervals((1 + value) / 2, deviation / 2, quantile, num_groups) - 1
    else:
        limits = compute_wilson_intervals(value, deviation, quantile, num_groups)
    return None if np.isnan(limits).any() else [float(limit) for limit in limits]


def _count_groups(validated: ValidatedScores, threshold: float) -> dict[str, int]:
    """Count the groups that each metric is computed from."""
    is_called = validated.scores >= threshold
    subsets = {
        "sensitivity": validated.labels == 1,
        "specificity": validated.labels == 0,
        "ppv": is_called,
        "npv": ~is_called,
        "accuracy": np.ones_like(is_called),
        "brier": np.ones_like(is_called),
    }
    counts = {key: len(np.unique(validated.groups[subset])) for key, subset in subsets.items()}
    return dict.fromkeys(METRICS, validated.num_rarer_groups) | counts


def _compute_decision_intervals(
    validated: ValidatedScores, decisions: Mapping[str, Any], resampled: Mapping[str, Floats]
) -> dict[str, Any]:
    intervals = compute_intervals(validated, decisions, resampled, decisions["threshold"])
    at_prevalences = [
        {"prevalence": values["prevalence"], **_project_intervals(validated, values, intervals, resampled)}
        for values in decisions["at_prevalences"]
    ]
    return {**intervals, "at_prevalences": at_prevalences}


def _project_intervals(
    validated: ValidatedScores,
    values: Mapping[str, Any],
    intervals: Mapping[str, Limits],
    resampled: Mapping[str, Floats],
) -> dict[str, Limits]:
    """Compute intervals of predictive values at a prevalence.

    Where sensitivity or specificity is 0 or 1 in every resample, the resamples do not vary; the limits of both are
    projected instead, which gives a conservative interval.
    """
    keys = ("ppv", "npv")
    if not resampled:
        return dict.fromkeys(keys)
    prevalence, num_groups = values["prevalence"], validated.num_rarer_groups
    varied, corners = project_prevalence(resampled, prevalence), project_prevalence(intervals, prevalence)
    quantile = compute_t_quantile(num_groups)
    return {
        key: corners[key].tolist()
        if values[key] is not None and not 0 < values[key] < 1
        else _compute_interval(key, values[key], varied[key], quantile, num_groups)
        for key in keys
    }

"""Decides `normal`, `osseous_lesion` or `uncertain` for a score, at a stated error rate of each class.

The rule is class-conditional conformal prediction, calibrated on validation images. Images of one group (patient,
examination) are dependent, so they are not counted as independent: with K groups that have images of a class, each
group has weight 1 / (K + 1), divided equally among its images of the class, and the rest is the weight of the new
group. An image of a class that is drawn at random from a random new group then gets the other class with at most the
error rate, on average over validation sets, for any number and sizes of groups. It needs no repeated sampling of one
image per group: its limit is that of the mean p-value over all such samples.

A score is uncertain if the class that it is not called cannot be excluded. An image is therefore never decided against
its label at the threshold, and where the classes are separated so well that neither can be included (an empty set), the
label stands, which keeps the error rate as well.

Sources: Lee, Barber and Willett, "Distribution-free inference with hierarchical data", 2023 (arXiv:2306.06342);
Dunn, Wasserman and Ramdas, "Distribution-free prediction sets for two-layer hierarchical models", Journal of the
American Statistical Association 118, 2023; Vovk, "Conditional validity of inductive conformal predictors", Machine
Learning 92, 2013.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hip_mri.config import LABELS
from hip_mri.evaluation.metrics.confidence_intervals import MIN_GROUPS, compute_t_quantile, compute_wilson_intervals
from hip_mri.evaluation.metrics.validation import ValidatedScores, validate_scores

UNCERTAIN: Final = "uncertain"
"""Decision where the label at the threshold is not certain enough."""

NOT_MEASURED: Final = "the run of the model was made by an earlier version, which did not calibrate decisions"
"""Reason of a run without `conformal` in `metrics.json`."""

_ROUNDING: Final = 1e-9
"""Tolerance of sums of weights."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class DecisionRule:
    """Turns a score into a decision.

    Attributes:
        threshold: Scores at or above it are called a lesion.
        error_rate: Largest fraction of either class that is decided as the other one; `None` if it is not known.
        min_lesion: At or above this score a lesion cannot be excluded; `None` if decisions are not calibrated.
        max_normal: At or below this score a normal image cannot be excluded; `None` likewise.
        reason: Why decisions are not calibrated; empty if they are.
    """

    threshold: float
    error_rate: float | None = None
    min_lesion: float | None = None
    max_normal: float | None = None
    reason: str = NOT_MEASURED


class Cases(NamedTuple):
    """Labels, scores and groups; see `validate_scores`."""

    labels: ArrayLike
    scores: ArrayLike
    groups: ArrayLike | None


def decide(scores: ArrayLike, rule: DecisionRule) -> NDArray[np.str_]:
    """Decide for scores.

    Args:
        scores: Probability of a lesion, 0-1, any shape; NaN for images without a score.
        rule: The rule of the model.

    Returns:
        One of `LABELS` or `UNCERTAIN` for each score, of the same shape; empty where there is no score or no
        calibrated rule.
    """
    known = np.asarray(scores, np.float64)
    if rule.min_lesion is None or rule.max_normal is None:
        return np.full(known.shape, "")
    is_lesion = known >= rule.threshold
    is_uncertain = np.where(is_lesion, known <= rule.max_normal, known >= rule.min_lesion)
    decided = np.where(is_uncertain, UNCERTAIN, np.where(is_lesion, LABELS[1], LABELS[0]))
    return np.where(np.isnan(known), "", decided)


def calibrate(
    labels: ArrayLike, scores: ArrayLike, groups: ArrayLike | None, threshold: float, error_rate: float
) -> DecisionRule:
    """Calibrate the rule on validation images.

    Args:
        labels: See `validate_scores`.
        scores: See `validate_scores`.
        groups: See `validate_scores`.
        threshold: Scores at or above it are called a lesion.
        error_rate: Above 0, below 0.5.

    Returns:
        The rule; with the reason instead of limits if a class has fewer groups than `count_needed_groups`.

    Raises:
        EvaluationError: `validate_scores` raises it.
    """
    validated, needed = validate_scores(labels, scores, groups), count_needed_groups(error_rate)
    counts = {label: validated.count_groups(number) for number, label in enumerate(LABELS)}
    if min(counts.values()) < needed:
        listed = ", ".join(f"{label} {count}" for label, count in counts.items())
        reason = f"validation groups: {listed}; an error rate of {error_rate:g} needs {needed} of each class"
        return DecisionRule(threshold, error_rate, reason=reason)
    lesion, normal = _find_limit(validated, 1, error_rate), _find_limit(validated, 0, error_rate)
    others = validated.scores  # a limit lies between two scores, so that rounding differences change no decision
    below, above = others[others < lesion].max(initial=0.0), others[others > normal].min(initial=1.0)
    return DecisionRule(threshold, error_rate, float(lesion + below) / 2, float(normal + above) / 2, reason="")


def count_needed_groups(error_rate: float) -> int:
    """Count the groups of a class that are needed to calibrate; with fewer, the class could never be excluded."""
    return math.ceil(1 / error_rate - 1 - _ROUNDING)


def _find_limit(validated: ValidatedScores, label: int, error_rate: float) -> float:
    """Find the score up to which a class reaches the weight 1 - `error_rate`; for lesions, from the highest score."""
    is_class = validated.labels == label
    scores, groups = validated.scores[is_class], validated.groups[is_class]
    sizes = np.bincount(groups)
    weights = 1 / sizes[groups] / (np.count_nonzero(sizes) + 1)
    ordered = np.argsort(scores if label == 0 else -scores, kind="stable")
    reached = np.cumsum(weights[ordered]) >= 1 - error_rate - _ROUNDING
    return float(scores[ordered[np.argmax(reached)]])


def measure_coverage(
    labels: ArrayLike, scores: ArrayLike, groups: ArrayLike | None, rule: DecisionRule
) -> dict[str, Any] | None:
    """Measure the decisions of a rule on other images than it was calibrated on.

    Args:
        labels: See `validate_scores`.
        scores: See `validate_scores`.
        groups: See `validate_scores`.
        rule: The rule.

    Returns:
        For each class: `num_images`, `num_groups`, and the fractions `coverage` (not decided as the other class) and
        `uncertain` with their 95% intervals in `intervals`. Each group counts once, as in the guarantee; intervals are
        Wilson's, with the variance between groups. `None` without a calibrated rule.

    Raises:
        EvaluationError: `validate_scores` raises it.
    """
    if rule.reason:
        return None
    validated, decisions = validate_scores(labels, scores, groups), decide(scores, rule)
    measured = {}
    for number, label in enumerate(LABELS):
        is_class = validated.labels == number
        own, decided = np.unique(validated.groups[is_class], return_inverse=True)[1], decisions[is_class]
        fractions = {
            "coverage": _average_groups(own, (decided == label) | (decided == UNCERTAIN)),
            "uncertain": _average_groups(own, decided == UNCERTAIN),
        }
        measured[label] = {
            "num_images": len(own),
            "num_groups": int(own.max()) + 1,
            **{key: float(values.mean()) for key, values in fractions.items()},
            "intervals": {key: _compute_interval(values) for key, values in fractions.items()},
        }
    return measured


def _average_groups(groups: NDArray[np.int64], is_true: NDArray[np.bool_]) -> Floats:
    """Compute the fraction of the images of each group for which something is true."""
    return np.bincount(groups, is_true) / np.bincount(groups)


def _compute_interval(fractions: Floats) -> list[float] | None:
    """Compute the 95% interval of the mean of independent groups; `None` with fewer than `MIN_GROUPS`."""
    count = len(fractions)
    if count < MIN_GROUPS:
        return None
    deviation = fractions.std(ddof=1) / math.sqrt(count)
    limits = compute_wilson_intervals(fractions.mean(), deviation, compute_t_quantile(count), count)
    return [float(limit) for limit in limits]


def calibrate_and_measure(val: Cases, test: Cases, threshold: float, error_rate: float) -> dict[str, Any]:
    """Calibrate the rule on validation images and measure it on test images.

    Returns:
        The fields of `DecisionRule`, and the result of `measure_coverage` as `test`.
    """
    rule = calibrate(*val, threshold, error_rate)
    return {**asdict(rule), "test": measure_coverage(*test, rule)}


def read_image_rule(metrics: Mapping[str, Any]) -> DecisionRule:
    """Read the rule for images from the content of a run's `metrics.json`; without limits if the run is older."""
    recorded = (metrics.get("conformal") or {}).get("images")
    return _restore_rule(recorded) if recorded else DecisionRule(float(metrics["threshold"]))


def read_patient_rule(metrics: Mapping[str, Any]) -> DecisionRule | None:
    """Read the rule for the mean score of a patient's images; `None` if the run has no threshold for patients."""
    if recorded := (metrics.get("conformal") or {}).get("patients"):
        return _restore_rule(recorded)
    measured = metrics.get("patients")
    return DecisionRule(float(measured["at_threshold"]["threshold"])) if measured else None


def _restore_rule(recorded: Mapping[str, Any]) -> DecisionRule:
    return DecisionRule(**{field.name: recorded[field.name] for field in fields(DecisionRule)})

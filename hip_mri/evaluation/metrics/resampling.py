"""Samples as they might have come: groups of images drawn anew, with replacement.

Images of one group are not independent, so whole groups are drawn. A resample draws one group fewer than there are
and weighs what it draws a little more, which makes its variance that of the study (Rao and Wu); without that, few
groups would vary too little. Lesions and normal images are drawn together, not class by class: how many lesions a
study has is chance as well, and measures that depend on it (predictive values, accuracy, calibration) would otherwise
look surer than they are. A resample that happens to lack a class is drawn again.

Source: Rao and Wu, "Resampling inference with complex survey data", Journal of the American Statistical Association
83, 1988.

A split's measures with their 95 % intervals, from resamples of its groups.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hip_mri.evaluation.metrics import weighted
from hip_mri.evaluation.metrics.confidence_intervals import bound_reals, bound_shares, find_deviations, find_quantile
from hip_mri.evaluation.metrics.measures import (
    Bounds,
    DecisionBounds,
    DecisionMeasures,
    Measure,
    PredictiveValueBounds,
    SplitBounds,
    SplitResult,
    measure_decisions,
    measure_probabilities,
    measure_ranking,
)
from hip_mri.evaluation.metrics.validation import Sample, check_sample
from hip_mri.evaluation.metrics.weighted import (
    DECISION_MEASURES,
    PROBABILITY_MEASURES,
    RANKING_MEASURES,
    Tally,
    tally_sample,
)

NUM_RESAMPLES: Final = 2000
"""Resamples by default; chance moves the width of an interval by about 2 %."""

MOST_CELLS: Final = 2**18
"""Images times resamples that are measured at a time: 2 MB per matrix, which stays in a processor's cache."""

Floats = NDArray[np.float64]


def resample(
    sample: Sample, measure: Callable[[Tally], dict[str, Floats]], seed: int, num_resamples: int = NUM_RESAMPLES
) -> dict[str, Floats]:
    """Measure many resamples of a sample.

    Args:
        sample: The images; at least two groups must have lesions, and two normal images (see `count_rarer_groups`).
        measure: Measures all columns of a tally at once; each array's last axis counts the columns.
        seed: The same seed gives the same resamples.
        num_resamples: How many.

    Returns:
        What `measure` returns, with the resamples along the last axis.
    """
    measured = [measure(tally) for tally in tally_resamples(sample, seed, num_resamples)]
    return {name: np.concatenate([chunk[name] for chunk in measured], axis=-1) for name in measured[0]}


def tally_resamples(sample: Sample, seed: int, num_resamples: int) -> Iterator[Tally]:
    """Draw resamples and tally them, so many at a time that memory stays bounded."""
    generator = np.random.default_rng(seed)
    num_columns = max(1, MOST_CELLS // len(sample.labels))
    for first in range(0, num_resamples, num_columns):
        yield tally_sample(sample, draw_group_weights(sample, generator, min(num_columns, num_resamples - first)))


def draw_group_weights(sample: Sample, generator: np.random.Generator, num_columns: int) -> Floats:
    """Draw resamples in which both classes occur.

    Args:
        sample: The images, of at least two groups with lesions and two with normal images.
        generator: Source of chance.
        num_columns: Resamples to draw.

    Returns:
        Weight of each group, shape (num_groups, num_columns); a column's mean is 1.
    """
    images = [np.bincount(sample.groups[sample.labels == label], minlength=sample.num_groups) for label in (0, 1)]
    presence = np.stack(images) > 0
    weights = _draw_columns(sample.num_groups, generator, num_columns)
    while (lacking := np.flatnonzero((np.einsum("pg,gc->pc", presence, weights) == 0).any(axis=0))).size:
        weights[:, lacking] = _draw_columns(sample.num_groups, generator, lacking.size)
    return weights


def count_rarer_groups(sample: Sample) -> int:
    """Groups that have a lesion, or groups that have a normal image, whichever is fewer."""
    return min(len(np.unique(sample.groups[sample.labels == label])) for label in (0, 1))


def _draw_columns(num_groups: int, generator: np.random.Generator, num_columns: int) -> Floats:
    drawn = generator.integers(num_groups, size=(num_columns, num_groups - 1))
    places = drawn + num_groups * np.arange(num_columns)[:, None]
    counts = np.bincount(places.ravel(), minlength=num_groups * num_columns).reshape(num_columns, num_groups)
    return np.ascontiguousarray(counts.T, np.float64) * (num_groups / (num_groups - 1))


HALF: Final = 0.5
"""Threshold that is measured beside the chosen one."""

SECTIONS: Final = ("at_threshold", "at_half")
"""Parts of a result that depend on a threshold."""

Floats = NDArray[np.float64]


class PatientPool(NamedTuple):
    """A sample of patients.

    Attributes:
        labels: 1 where any image of the patient has a lesion, else 0, shape (num_patients,).
        scores: Mean score of the patient's images, shape (num_patients,).
        patients: Their names, ascending, shape (num_patients,).
    """

    labels: NDArray[np.int64]
    scores: Floats
    patients: NDArray


def measure_split(
    labels: ArrayLike,
    scores: ArrayLike,
    groups: ArrayLike | None,
    threshold: float,
    prevalences: Sequence[float] = (),
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> SplitResult:
    """Measure a split, every figure with its interval.

    Args:
        labels: True classes, 0 normal or 1 lesion, shape (num_images,).
        scores: Probability of a lesion, 0-1, shape (num_images,).
        groups: Numbers or names of groups within which images resemble each other, shape (num_images,); `None` takes
            all images as independent.
        threshold: Scores at or above it are called a lesion, 0-1.
        prevalences: Shares of lesions at which predictive values are wanted, 0-1.
        seed: The same seed gives the same intervals.
        num_resamples: Resamples.

    Returns:
        The result, ready for strict JSON. Intervals are `None` where a measure is, where more than 5 % of the resamples
        leave it undefined, and throughout where fewer than two groups have a lesion, or a normal image. The interval of
        the expected calibration error is corrected for the error that chance adds, so it can lie below the estimate;
        it is rougher than the others: in simulations of 60 to 150 patients it covered the truth in 87 to 96 % of the
        studies, the others in 93 to 98 %.

    Raises:
        EvaluationError: The images cannot be measured, or the threshold or a prevalence is not from 0 to 1.
    """
    sample = check_sample(labels, scores, groups)
    thresholds: dict[str, float] = dict(zip(SECTIONS, (threshold, HALF), strict=True))
    decisions = {
        section: measure_decisions(sample.labels, sample.scores, value, prevalences)
        for section, value in thresholds.items()
    }
    ranking = measure_ranking(sample.labels, sample.scores)
    probabilities = measure_probabilities(sample.labels, sample.scores)
    resampled: dict[str, Floats] = {}
    if count_rarer_groups(sample) > 1:
        resampled = resample(sample, partial(_measure_all, thresholds=thresholds), seed, num_resamples)
    flat = bound_measures(sample, {**ranking, **probabilities}, resampled)
    at_threshold, at_half = (_bound_decisions(sample, decisions[name], resampled, name) for name in SECTIONS)
    return SplitResult(
        num_images=len(sample.labels),
        num_lesions=int(sample.labels.sum()),
        num_groups=sample.num_groups,
        **ranking,
        **probabilities,
        at_threshold=decisions["at_threshold"],
        at_half=decisions["at_half"],
        intervals=SplitBounds(**flat, at_threshold=at_threshold, at_half=at_half),
    )


def pool_by_patient(labels: ArrayLike, scores: ArrayLike, patients: ArrayLike) -> PatientPool:
    """Make one case of all images of a patient, to measure by patient: `measure_split(labels, scores, None, ...)`.

    Args:
        labels: True classes, 0 normal or 1 lesion, shape (num_images,).
        scores: Probability of a lesion, 0-1, shape (num_images,).
        patients: Numbers or names of the patients, shape (num_images,).

    Returns:
        One case per patient. A patient of whom no image has a lesion is normal.

    Raises:
        EvaluationError: The images cannot be measured.
    """
    sample = check_sample(labels, scores, patients)
    num_images = np.bincount(sample.groups)
    return PatientPool(
        labels=(np.bincount(sample.groups, sample.labels) > 0).astype(np.int64),
        scores=np.clip(np.bincount(sample.groups, sample.scores) / num_images, 0, 1),
        patients=np.unique(np.asarray(patients)),
    )


def bound_measures(
    sample: Sample, measures: Mapping[str, Any], resampled: Mapping[str, Floats], threshold: float = HALF
) -> dict[str, Bounds]:
    """Put an interval around each measure.

    Args:
        sample: The images.
        measures: Point estimates by name; what is no measure with an interval is passed over.
        resampled: The same measures in every resample, shape (num_resamples,); empty where there are none.
        threshold: At which the decisions among them were made.

    Returns:
        Lower and upper bound by name, or `None`.
    """
    names = [name for name in measures if name in RANKING_MEASURES + PROBABILITY_MEASURES + DECISION_MEASURES]
    if not resampled:
        return dict.fromkeys(names)
    supports = _count_supports(sample, threshold)
    quantile = find_quantile(count_rarer_groups(sample))
    return {name: _bound(name, measures[name], resampled[name], quantile, supports[name]) for name in names}


def _bound(name: str, value: Measure, resampled: Floats, quantile: float, num_groups: int) -> Bounds:
    if value is None:
        return None
    deviation, robust_deviation = find_deviations(resampled)
    if name in ("calibration_slope", "calibration_intercept"):
        bounds = bound_reals(value, robust_deviation, quantile)
    elif name == "expected_calibration_error":  # chance alone raises it, in the resamples as in the sample
        centre = 2 * value - np.mean(resampled)
        bounds = np.clip(bound_reals(centre, deviation, quantile), 0, 1)
    elif name == "mcc":
        bounds = 2 * bound_shares((1 + value) / 2, deviation / 2, quantile, num_groups) - 1
    else:
        bounds = bound_shares(value, deviation, quantile, num_groups)
    return None if np.isnan(bounds).any() else [float(bound) for bound in bounds]


def _count_supports(sample: Sample, threshold: float) -> dict[str, int]:
    """Groups that each measure rests on."""
    called = sample.scores >= threshold
    subsets = {
        "sensitivity": sample.labels == 1,
        "specificity": sample.labels == 0,
        "ppv": called,
        "npv": ~called,
        "accuracy": np.ones_like(called),
        "brier": np.ones_like(called),
    }
    supports = dict.fromkeys(RANKING_MEASURES + PROBABILITY_MEASURES + DECISION_MEASURES, count_rarer_groups(sample))
    return supports | {name: len(np.unique(sample.groups[subset])) for name, subset in subsets.items()}


def _bound_decisions(
    sample: Sample, decisions: DecisionMeasures, resampled: Mapping[str, Floats], section: str
) -> DecisionBounds:
    own = {name: resampled[f"{section}.{name}"] for name in DECISION_MEASURES if resampled}
    bounds = bound_measures(sample, decisions, own, decisions["threshold"])
    at_prevalences = []
    for values in decisions["at_prevalences"]:
        projected = _bound_projected(sample, values["prevalence"], decisions, own, bounds)
        at_prevalences.append(PredictiveValueBounds(prevalence=values["prevalence"], **projected))
    return DecisionBounds(**bounds, at_prevalences=at_prevalences)


def _bound_projected(
    sample: Sample,
    prevalence: float,
    decisions: DecisionMeasures,
    resampled: dict[str, Floats],
    bounds: dict[str, Bounds],
) -> dict[str, Bounds]:
    """Intervals of predictive values at a prevalence.

    Where sensitivity or specificity is 0 or 1 in every resample, the resamples do not say how far from it the truth may
    be; there the bounds of both stand in, which is wide rather than narrow.
    """
    if not resampled:
        return dict.fromkeys(("ppv", "npv"))
    shares = {name: np.array([decisions[name]]) for name in ("sensitivity", "specificity")}
    values = {name: value[0] for name, value in weighted.project_prevalence(shares, prevalence).items()}
    varied = weighted.project_prevalence(resampled, prevalence)
    corners = weighted.project_prevalence({name: np.array(bounds[name]) for name in shares}, prevalence)
    quantile, num_groups = find_quantile(count_rarer_groups(sample)), count_rarer_groups(sample)
    projected: dict[str, Bounds] = {}
    for name, value in values.items():
        if math.isnan(value) or 0 < value < 1:
            projected[name] = _bound(name, None if math.isnan(value) else value, varied[name], quantile, num_groups)
        else:
            projected[name] = corners[name].tolist()
    return projected


def _measure_all(tally: Tally, thresholds: Mapping[str, float]) -> dict[str, Floats]:
    measures = weighted.measure_ranking(tally) | weighted.measure_probabilities(tally)
    for section, threshold in thresholds.items():
        decisions = weighted.measure_decisions(tally, threshold)
        measures |= {f"{section}.{name}": values for name, values in decisions.items()}
    return measures

"""Point estimates of a split: how well scores rank, how far they hold as probabilities, what decisions come of them.

`None` stands for what is not defined, so that every result can be written as strict JSON.
"""

import math
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hip_mri.errors import EvaluationError
from hip_mri.evaluation.metrics import weighted
from hip_mri.evaluation.metrics.validation import check_sample

Measure = float | None
Bounds = list[float] | None
"""Lower and upper bound of a 95 % interval."""


class RankingMeasures(TypedDict):
    """How well scores put lesions above normal images.

    Attributes:
        auc: Share of pairs of a lesion and a normal image in which the lesion has the higher score, ties counted half.
        average_precision: Precision averaged over the lesions found as the threshold falls.
    """

    auc: Measure
    average_precision: Measure


class ProbabilityMeasures(TypedDict):
    """How far scores hold as probabilities.

    Attributes:
        brier: Mean squared distance of score and label, 0 best.
        expected_calibration_error: Images are ordered by score and cut into ten bins of equal mass by their mid-rank
            (equal scores share a bin); the mean over the images of |share of lesions - mean score| of their bin.
        calibration_slope: Slope of a logistic regression of the label on the logit of the score; 1 is right, below 1
            the scores are too extreme. `None` where a threshold separates the classes: no finite slope fits best.
        calibration_intercept: Calibration in the large: what must be added to every logit so that the mean score
            equals the share of lesions (slope fixed at 1); 0 is right, below 0 the scores are too high.
    """

    brier: Measure
    expected_calibration_error: Measure
    calibration_slope: Measure
    calibration_intercept: Measure


class PredictiveValues(TypedDict):
    """Predictive values where another share of the images has a lesion.

    Attributes:
        prevalence: That share, 0-1.
        ppv: Share of the calls that are right.
        npv: Share of the all-clears that are right.
    """

    prevalence: float
    ppv: Measure
    npv: Measure


class DecisionMeasures(TypedDict):
    """What comes of calling every score at or above a threshold a lesion.

    Attributes:
        threshold: The threshold, 0-1.
        confusion_matrix: Counts `[[tn, fp], [fn, tp]]`: a row per true class, a column per called class.
        sensitivity: Share of the lesions that are called.
        specificity: Share of the normal images that are not.
        ppv: Share of the calls that are right; `None` without a call.
        npv: Share of the all-clears that are right; `None` without one.
        accuracy: Share of the images on the right side.
        f1: Harmonic mean of sensitivity and PPV.
        balanced_accuracy: Mean of sensitivity and specificity.
        mcc: Matthews's correlation of calls and truth, -1 to 1; `None` where all images are called alike.
        at_prevalences: Predictive values at other shares of lesions.
    """

    threshold: float
    confusion_matrix: list[list[int]]
    sensitivity: Measure
    specificity: Measure
    ppv: Measure
    npv: Measure
    accuracy: Measure
    f1: Measure
    balanced_accuracy: Measure
    mcc: Measure
    at_prevalences: list[PredictiveValues]


class PredictiveValueBounds(TypedDict):
    """Intervals of `PredictiveValues`."""

    prevalence: float
    ppv: Bounds
    npv: Bounds


class DecisionBounds(TypedDict):
    """Intervals of `DecisionMeasures`."""

    sensitivity: Bounds
    specificity: Bounds
    ppv: Bounds
    npv: Bounds
    accuracy: Bounds
    f1: Bounds
    balanced_accuracy: Bounds
    mcc: Bounds
    at_prevalences: list[PredictiveValueBounds]


class SplitBounds(TypedDict):
    """Intervals of `SplitResult`, under the same names; `None` where there is none."""

    auc: Bounds
    average_precision: Bounds
    brier: Bounds
    expected_calibration_error: Bounds
    calibration_slope: Bounds
    calibration_intercept: Bounds
    at_threshold: DecisionBounds
    at_half: DecisionBounds


class SplitResult(RankingMeasures, ProbabilityMeasures):
    """Everything that is measured of a split.

    Attributes:
        num_images: Images.
        num_lesions: Those with a lesion.
        num_groups: Groups of images that are independent of each other.
        at_threshold: Decisions at the chosen threshold.
        at_half: Decisions at 0.5.
        intervals: 95 % intervals.
    """

    num_images: int
    num_lesions: int
    num_groups: int
    at_threshold: DecisionMeasures
    at_half: DecisionMeasures
    intervals: SplitBounds


def measure_ranking(labels: ArrayLike, scores: ArrayLike) -> RankingMeasures:
    """Measure how well scores put lesions above normal images.

    Args:
        labels: True classes, 0 normal or 1 lesion, shape (num_images,).
        scores: Probability of a lesion, 0-1, shape (num_images,).

    Raises:
        EvaluationError: The images cannot be measured.
    """
    tally = weighted.tally_sample(check_sample(labels, scores))
    return RankingMeasures(**_take_only(weighted.measure_ranking(tally)))


def measure_probabilities(labels: ArrayLike, scores: ArrayLike) -> ProbabilityMeasures:
    """Measure how far scores hold as probabilities.

    Scores nearer than 1e-6 to 0 or 1 count as this near where their logit is taken.

    Args:
        labels: True classes, 0 normal or 1 lesion, shape (num_images,).
        scores: Probability of a lesion, 0-1, shape (num_images,).

    Raises:
        EvaluationError: The images cannot be measured.

    Source: Van Calster et al., "Calibration: the Achilles heel of predictive analytics", BMC Medicine 17, 2019.
    """
    tally = weighted.tally_sample(check_sample(labels, scores))
    return ProbabilityMeasures(**_take_only(weighted.measure_probabilities(tally)))


def measure_decisions(
    labels: ArrayLike, scores: ArrayLike, threshold: float, prevalences: Sequence[float] = ()
) -> DecisionMeasures:
    """Measure what comes of calling every score at or above a threshold a lesion.

    Args:
        labels: True classes, 0 normal or 1 lesion, shape (num_images,).
        scores: Probability of a lesion, 0-1, shape (num_images,).
        threshold: The threshold, 0-1.
        prevalences: Shares of lesions at which predictive values are wanted, 0-1.

    Raises:
        EvaluationError: The images cannot be measured, or the threshold or a prevalence is not from 0 to 1.
    """
    check_shares([threshold], "threshold")
    check_shares(prevalences, "prevalence")
    tally = weighted.tally_sample(check_sample(labels, scores))
    tn, fp, fn, tp = (int(count[0]) for count in weighted.count_decisions(tally, threshold))
    decisions = weighted.measure_decisions(tally, threshold)
    return DecisionMeasures(
        threshold=float(threshold),
        confusion_matrix=[[tn, fp], [fn, tp]],
        at_prevalences=[
            PredictiveValues(
                prevalence=float(prevalence), **_take_only(weighted.project_prevalence(decisions, prevalence))
            )
            for prevalence in prevalences
        ],
        **_take_only(decisions),
    )


def check_shares(shares: Sequence[float], name: str) -> None:
    """See that numbers lie from 0 to 1.

    Raises:
        EvaluationError: One does not.
    """
    outside = [share for share in shares if not 0 <= share <= 1]
    if outside:
        raise EvaluationError(f"{name}: a number from 0 to 1 is needed, received {outside}. Give another.")


def _take_only(measures: dict[str, NDArray[np.float64]]) -> dict[str, Measure]:
    """The one column of each measure as a plain number."""
    return {name: None if math.isnan(values[0]) else float(values[0]) for name, values in measures.items()}

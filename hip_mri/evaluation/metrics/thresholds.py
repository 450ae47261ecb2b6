"""Where to draw the line: a threshold chosen on validation scores.

A score at or above the threshold is called a lesion. A threshold stands in the middle between two neighbouring scores,
so that no image stands on it and small differences of arithmetic between machines change no decision.
"""

import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hip_mri.errors import EvaluationError
from hip_mri.evaluation.metrics.validation import Sample, check_sample

Rule = Literal["youden", "sensitivity"]


def choose_threshold(
    labels: ArrayLike, scores: ArrayLike, rule: Rule, required_sensitivity: float | None = None
) -> float:
    """Choose the threshold that a rule asks for.

    Args:
        labels: True classes, 0 normal or 1 lesion, shape (num_images,).
        scores: Probability of a lesion, 0-1, shape (num_images,).
        rule: `youden` takes the largest sum of sensitivity and specificity and, among equals, the one that finds the
            most lesions. `sensitivity` takes the highest threshold that reaches `required_sensitivity`.
        required_sensitivity: Share of the lesions that must be found, above 0 to 1; for the rule `sensitivity` only.

    Returns:
        The threshold, above 0 and below 1. Next to the outermost scores it stands halfway to 0 or 1.

    Raises:
        EvaluationError: The images cannot be measured, the rule is unknown or its sensitivity missing, or no threshold
            between 0 and 1 does what is asked (scores of exactly 0 are never called, those of exactly 1 always).

    Source: Youden, "Index for rating diagnostic tests", Cancer 3, 1950.
    """
    sample = check_sample(labels, scores)
    thresholds, num_found, num_alarms = _list_cuts(sample)
    if rule == "youden":
        return _take_youden(sample, thresholds, num_found, num_alarms)
    if rule != "sensitivity":
        raise EvaluationError(f"threshold: the rule {rule!r} is unknown. Give 'youden' or 'sensitivity'.")
    if required_sensitivity is None or not 0 < required_sensitivity <= 1:
        raise EvaluationError(
            f"threshold: the rule 'sensitivity' needs a required sensitivity above 0 and at most 1, received "
            f"{required_sensitivity}. Give one, such as 0.9."
        )
    return _take_sensitivity(sample, thresholds, num_found, required_sensitivity)


def _take_youden(
    sample: Sample, thresholds: NDArray[np.float64], num_found: NDArray[np.int64], num_alarms: NDArray[np.int64]
) -> float:
    if not thresholds.size:
        raise EvaluationError(
            "threshold: every score is 0 or every score is 1, which no threshold divides. Train again."
        )
    num_lesions = int(sample.labels.sum())
    num_normals = len(sample.labels) - num_lesions
    youden = num_found * num_normals - num_alarms * num_lesions  # whole numbers, so that equals are equal
    return float(thresholds[np.argmax(youden)])


def _take_sensitivity(
    sample: Sample, thresholds: NDArray[np.float64], num_found: NDArray[np.int64], required_sensitivity: float
) -> float:
    num_lesions = int(sample.labels.sum())
    num_needed = math.ceil(required_sensitivity * num_lesions - 1e-9)  # 0.9 * 10 shall need 9
    reaching = np.flatnonzero(num_found >= num_needed)
    if not reaching.size:
        most = int(num_found.max(initial=0))
        raise EvaluationError(
            f"threshold: a sensitivity of {required_sensitivity:g} needs {num_needed} of {num_lesions} lesions, "
            f"but only {most} can be found: the others have a score of 0. Train again or require less."
        )
    return float(thresholds[reaching[-1]])


def _list_cuts(sample: Sample) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Every threshold that decides differently, ascending, with the lesions and the normal images at or above it."""
    distinct, numbers = np.unique(sample.scores, return_inverse=True)
    lesions = np.bincount(numbers, sample.labels, len(distinct)).astype(np.int64)
    images = np.bincount(numbers, minlength=len(distinct))
    num_found = np.append(np.cumsum(lesions[::-1])[::-1], 0)
    num_alarms = np.append(np.cumsum((images - lesions)[::-1])[::-1], 0)
    below, above = np.concatenate([[0.0], distinct]), np.concatenate([distinct, [1.0]])
    middles = below + (above - below) / 2
    thresholds = np.where(middles > below, middles, above)  # between neighbours there is no number: the upper one
    usable = (thresholds > 0) & (thresholds < 1) & (below < thresholds)
    usable[:-1] &= thresholds[:-1] <= distinct
    return thresholds[usable], num_found[usable], num_alarms[usable]

"""Chooses a threshold on validation scores.

A score at or above the threshold is called a lesion. Thresholds lie halfway between two neighboring scores, so that
no score equals the threshold and rounding differences between machines change no call.
"""

import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hip_mri.errors import EvaluationError
from hip_mri.evaluation.metrics.measures import Tally, tally_scores
from hip_mri.evaluation.metrics.validation import validate_scores

Rule = Literal["youden", "sensitivity"]


def choose_threshold(
    labels: ArrayLike, scores: ArrayLike, rule: Rule, required_sensitivity: float | None = None
) -> float:
    """Choose a threshold by a rule.

    Args:
        labels: True classes, 0 normal or 1 lesion, shape (num_images,).
        scores: Probability of a lesion, 0-1, shape (num_images,).
        rule: `youden` maximizes the sum of sensitivity and specificity; of equal thresholds it takes the most
            sensitive. `sensitivity` takes the highest threshold that reaches `required_sensitivity`.
        required_sensitivity: Above 0 to 1; only for the rule `sensitivity`.

    Returns:
        The threshold, above 0 and below 1. Beyond the outermost scores it is halfway to 0 or 1.

    Raises:
        EvaluationError: `validate_scores` raises it, the rule is unknown or its sensitivity is missing, or no threshold
            between 0 and 1 fulfils the rule (scores of exactly 0 are never called, those of exactly 1 always).

    Source: Youden, "Index for rating diagnostic tests", Cancer 3, 1950.
    """
    tally = tally_scores(validate_scores(labels, scores))
    thresholds, num_found, num_false = _list_thresholds(tally)
    num_lesions, num_normals = (int(weights.sum()) for weights in (tally.lesions, tally.normals))
    if rule == "youden":
        if not thresholds.size:
            raise EvaluationError(
                "threshold: every score is 0 or every score is 1, so that no threshold separates them. Train again."
            )
        youden = num_found * num_normals - num_false * num_lesions  # integers, so that equal values compare equal
        return float(thresholds[np.argmax(youden)])
    if rule != "sensitivity":
        raise EvaluationError(f"threshold: the rule {rule!r} is unknown. Use 'youden' or 'sensitivity'.")
    if required_sensitivity is None or not 0 < required_sensitivity <= 1:
        raise EvaluationError(
            "threshold: the rule 'sensitivity' needs a required sensitivity above 0 and at most 1, received "
            f"{required_sensitivity}. Pass a value such as 0.9."
        )
    num_needed = math.ceil(required_sensitivity * num_lesions - 1e-9)  # 0.9 * 10 needs 9
    sufficient = np.flatnonzero(num_found >= num_needed)
    if not sufficient.size:
        raise EvaluationError(
            f"threshold: a sensitivity of {required_sensitivity:g} needs {num_needed} of {num_lesions} lesions, but "
            f"only {num_found.max(initial=0)} have a score above 0. Train again or require less."
        )
    return float(thresholds[sufficient[-1]])


def _list_thresholds(tally: Tally) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """List every threshold with different calls, ascending, with the lesions and normal images at or above it."""
    num_found, num_false = (
        np.append(np.cumsum(weights[::-1, 0])[::-1], 0).astype(np.int64) for weights in (tally.lesions, tally.normals)
    )
    below, above = np.append(0.0, tally.scores), np.append(tally.scores, 1.0)
    middles = below + (above - below) / 2
    thresholds = np.where(middles > below, middles, above)  # there is no number between them: the upper one
    is_usable = (thresholds > 0) & (thresholds < 1) & (below < thresholds)
    is_usable[:-1] &= thresholds[:-1] <= tally.scores
    return thresholds[is_usable], num_found[is_usable], num_false[is_usable]

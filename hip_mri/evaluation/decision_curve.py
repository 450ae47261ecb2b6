"""Whether a decision by the model does more good than harm: net benefit by threshold."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hip_mri.errors import EvaluationError, list_offenders
from hip_mri.evaluation.sample import check_sample

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

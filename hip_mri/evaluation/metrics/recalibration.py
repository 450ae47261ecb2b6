"""Recalibrates scores by Platt scaling, which changes probabilities but not their order."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hip_mri.errors import EvaluationError
from hip_mri.evaluation.metrics.logistic import compute_logits, fit_logistic
from hip_mri.evaluation.metrics.measures import tally_scores
from hip_mri.evaluation.metrics.validation import validate_scores


@dataclass(frozen=True)
class Platt:
    """A linear function of the log odds.

    Attributes:
        slope: Factor, above 0; below 1 it reduces overconfidence.
        intercept: Constant.
    """

    slope: float
    intercept: float

    def apply(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Recalibrate scores.

        Args:
            scores: Probability of a lesion, 0-1, any shape.

        Returns:
            Probabilities above 0 and below 1 in the same order, of the same shape. Scores that `compute_logits` clips
            to one value become equal.
        """
        logits = compute_logits(np.asarray(scores, np.float64))
        return 1 / (1 + np.exp(-(self.intercept + self.slope * logits)))


def fit_platt(labels: ArrayLike, scores: ArrayLike) -> Platt:
    """Fit Platt scaling, on validation images.

    The targets are Platt's, (n1 + 1) / (n1 + 2) for a lesion and 1 / (n0 + 2) for a normal image, which keep the fit
    finite even where a threshold separates the classes.

    Args:
        labels: True classes, 0 normal or 1 lesion, shape (num_images,).
        scores: Probability of a lesion, 0-1, shape (num_images,).

    Raises:
        EvaluationError: `validate_scores` raises it, all scores are equal, or lesions do not score higher than normal
            images, so that recalibration would reverse the order.

    Source: Platt, "Probabilistic outputs for support vector machines", Advances in Large Margin Classifiers, 1999.
    """
    tally = tally_scores(validate_scores(labels, scores))
    num_lesions, num_normals = tally.lesions.sum(), tally.normals.sum()
    lesion_target, normal_target = (num_lesions + 1) / (num_lesions + 2), 1 / (num_normals + 2)
    soft_lesions = tally.lesions * lesion_target + tally.normals * normal_target
    soft_normals = tally.lesions + tally.normals - soft_lesions
    slopes, intercepts = fit_logistic(compute_logits(tally.scores), soft_lesions, soft_normals)
    if not slopes[0] > 0:  # NaN where all scores are equal
        raise EvaluationError(
            f"recalibration: on the validation images lesions do not score higher than normal images (slope "
            f"{slopes[0]:.3g}), so probabilities would reverse the order. Train again or add images."
        )
    return Platt(float(slopes[0]), float(intercepts[0]))

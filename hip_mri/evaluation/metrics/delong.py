"""Standard error of the difference of two AUCs on the same images: DeLong's, and Obuchowski's for grouped images."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hip_mri.errors import EvaluationError
from hip_mri.evaluation.metrics.validation import ValidatedScores, validate_scores

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class AucComparison:
    """Two AUCs of the same images.

    Attributes:
        first_auc: AUC of the first scores.
        second_auc: AUC of the second scores.
        difference: First minus second.
        standard_error: Standard error of the difference.
        degrees_of_freedom: Of the standard error, for Student's t distribution; at least 1.
        num_rarer_groups: Groups with a lesion, or groups with a normal image, whichever are fewer.
    """

    first_auc: float
    second_auc: float
    difference: float
    standard_error: float
    degrees_of_freedom: float
    num_rarer_groups: int


def compare_auc(
    labels: ArrayLike, first_scores: ArrayLike, second_scores: ArrayLike, groups: ArrayLike | None = None
) -> AucComparison:
    """Estimate the difference of the AUCs of two models, and its standard error.

    Args:
        labels: True classes, 0 normal or 1 lesion, shape (num_images,).
        first_scores: Scores of one model, 0-1, shape (num_images,).
        second_scores: Scores of the other model, the same shape.
        groups: Numbers or names of groups of correlated images, shape (num_images,); `None` takes the images as
            independent, which is DeLong's method.

    Raises:
        EvaluationError: `validate_scores` raises it, or fewer than two groups have lesions, or normal images.

    Source: DeLong, DeLong and Clarke-Pearson, Biometrics 44, 1988; computed as by Sun and Xu, IEEE Signal Processing
    Letters 21, 2014; clustered as by Obuchowski, Biometrics 53, 1997; degrees of freedom as by Satterthwaite,
    Biometrics Bulletin 2, 1946.
    """
    first = validate_scores(labels, first_scores, groups)
    second = validate_scores(labels, second_scores, groups)
    if first.num_rarer_groups < 2:
        raise EvaluationError(
            f"comparison of AUCs: {first.count_groups(1)} groups have lesions and {first.count_groups(0)} have normal "
            "images, but at least 2 of each are needed to estimate a variance. Add images of more groups."
        )
    first_auc, first_placements = place_scores(first.labels, first.scores)
    second_auc, second_placements = place_scores(second.labels, second.scores)
    placements = first_placements - second_placements
    return AucComparison(
        first_auc=first_auc,
        second_auc=second_auc,
        difference=first_auc - second_auc,
        standard_error=math.sqrt(compute_variance(first, placements)),
        degrees_of_freedom=_compute_degrees_of_freedom(first, placements),
        num_rarer_groups=first.num_rarer_groups,
    )


def place_scores(labels: NDArray[np.int64], scores: Floats) -> tuple[float, Floats]:
    """Compute the AUC and the placement of each image among those of the other class.

    Args:
        labels: True classes, 0 or 1, both present, shape (num_images,).
        scores: Scores, shape (num_images,).

    Returns:
        The AUC, and for each image the fraction of the other class that is ordered correctly with it (below a lesion,
        above a normal image; ties count half). The mean placement of either class is the AUC.
    """
    lesions, normals = np.sort(scores[labels == 1]), np.sort(scores[labels == 0])
    below = (np.searchsorted(normals, scores, "left") + np.searchsorted(normals, scores, "right")) / 2
    above = len(lesions) - (np.searchsorted(lesions, scores, "left") + np.searchsorted(lesions, scores, "right")) / 2
    placements = np.where(labels == 1, below / len(normals), above / len(lesions))
    return float(placements[labels == 1].mean()), placements


def compute_variance(validated: ValidatedScores, placements: Floats) -> float:
    """Compute the variance of an AUC, or of a difference of two.

    Args:
        validated: The images; if each is a group of its own, this is DeLong's variance.
        placements: Result of `place_scores`, or the difference of two, shape (num_images,).

    Returns:
        The variance, at least 0.
    """
    num_groups = validated.num_groups
    of_lesions, of_normals = (_sum_deviations(validated, placements, label) for label in (1, 0))
    with_lesions, with_normals = validated.count_groups(1), validated.count_groups(0)
    variance = with_lesions / (with_lesions - 1) * (of_lesions**2).sum()
    variance += with_normals / (with_normals - 1) * (of_normals**2).sum()
    variance += 2 * num_groups / (num_groups - 1) * (of_lesions * of_normals).sum()
    return max(float(variance), 0.0)


def _sum_deviations(validated: ValidatedScores, placements: Floats, label: int) -> Floats:
    """Sum the deviations from the mean placement of a class, divided by its images, by group; shape (num_groups,)."""
    is_member = validated.labels == label
    deviations = np.where(is_member, placements - placements[is_member].mean(), 0) / is_member.sum()
    return np.bincount(validated.groups, deviations, validated.num_groups).astype(np.float64)


def _compute_degrees_of_freedom(validated: ValidatedScores, placements: Floats) -> float:
    """Combine the degrees of freedom of both classes, one less than their groups, by their parts of the variance."""
    freedom = np.array([validated.count_groups(label) - 1 for label in (1, 0)])
    parts = np.array([(_sum_deviations(validated, placements, label) ** 2).sum() for label in (1, 0)])
    parts *= (freedom + 1) / freedom
    return float(parts.sum() ** 2 / (parts**2 / freedom).sum()) if parts.any() else 1.0

"""Whether two models differ in AUC on the same images, or by chance only."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hip_mri.errors import EvaluationError
from hip_mri.evaluation.metrics.confidence_intervals import QUANTILE, Interval
from hip_mri.evaluation.metrics.validation import Sample, check_sample

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class AucComparison:
    """Two AUCs of the same images.

    Attributes:
        first_auc: AUC of the first scores.
        second_auc: AUC of the second scores.
        difference: First less second.
        standard_error: Of the difference.
        interval: 95 % interval of the difference.
        p_value: Two-sided, of the hypothesis that the AUCs are equal. 1 where the difference and its error are both 0;
            `None` where only the error is 0, for then the images say nothing about chance.
    """

    first_auc: float
    second_auc: float
    difference: float
    standard_error: float
    interval: Interval
    p_value: float | None


def compare_auc(
    labels: ArrayLike, first_scores: ArrayLike, second_scores: ArrayLike, groups: ArrayLike | None = None
) -> AucComparison:
    """Compare two models on the same images, by DeLong's test or, with groups, by Obuchowski's.

    Args:
        labels: True classes, 0 normal or 1 lesion, shape (num_images,).
        first_scores: One model's scores, 0-1, shape (num_images,).
        second_scores: The other's, the same shape.
        groups: Numbers or names of groups within which images resemble each other, shape (num_images,); without them
            the images count as independent, and the test is DeLong's.

    Returns:
        Both AUCs, their difference and how sure it is.

    Raises:
        EvaluationError: The images cannot be measured, or fewer than two groups have lesions, or normal images.

    Source: DeLong, DeLong and Clarke-Pearson, Biometrics 44, 1988; computed as by Sun and Xu, IEEE Signal Processing
    Letters 21, 2014; clustered as by Obuchowski, Biometrics 53, 1997.
    """
    first = check_sample(labels, first_scores, groups)
    second = check_sample(labels, second_scores, groups)
    _check_group_counts(first)
    first_auc, first_placements = place_scores(first.labels, first.scores)
    second_auc, second_placements = place_scores(second.labels, second.scores)
    difference = first_auc - second_auc
    error = math.sqrt(find_variance(first, first_placements - second_placements))
    return AucComparison(
        first_auc=first_auc,
        second_auc=second_auc,
        difference=difference,
        standard_error=error,
        interval=(difference - QUANTILE * error, difference + QUANTILE * error),
        p_value=_find_p_value(difference, error),
    )


def place_scores(labels: NDArray[np.int64], scores: Floats) -> tuple[float, Floats]:
    """Place each image among those of the other class.

    Args:
        labels: True classes, 0 or 1, both present, shape (num_images,).
        scores: Scores, shape (num_images,).

    Returns:
        The AUC, and per image the share of the other class on the right side of it (below a lesion, above a normal
        image; ties half). Of either class the mean placement is the AUC.
    """
    lesions, normals = np.sort(scores[labels == 1]), np.sort(scores[labels == 0])
    below = (np.searchsorted(normals, scores, "left") + np.searchsorted(normals, scores, "right")) / 2
    above = len(lesions) - (np.searchsorted(lesions, scores, "left") + np.searchsorted(lesions, scores, "right")) / 2
    placements = np.where(labels == 1, below / len(normals), above / len(lesions))
    return float(placements[labels == 1].mean()), placements


def find_variance(sample: Sample, placements: Floats) -> float:
    """Variance of an AUC, or of a difference of two.

    Args:
        sample: The images; their groups may be single images, which gives DeLong's variance exactly.
        placements: By `place_scores`, or the difference of two such, shape (num_images,).

    Returns:
        The variance, at least 0.
    """
    is_lesion = sample.labels == 1
    sums = []
    for members in (is_lesion, ~is_lesion):
        deviations = np.where(members, placements - placements[members].mean(), 0) / members.sum()
        sums.append(np.bincount(sample.groups, deviations, sample.num_groups))
    of_lesions, of_normals = sums
    with_lesions, with_normals = _count_groups(sample)
    variance = with_lesions / (with_lesions - 1) * (of_lesions**2).sum()
    variance += with_normals / (with_normals - 1) * (of_normals**2).sum()
    variance += 2 * sample.num_groups / (sample.num_groups - 1) * (of_lesions * of_normals).sum()
    return max(float(variance), 0.0)


def _find_p_value(difference: float, error: float) -> float | None:
    if error > 0:
        return math.erfc(abs(difference) / error / math.sqrt(2))
    return 1.0 if difference == 0 else None


def _count_groups(sample: Sample) -> tuple[int, int]:
    """Groups that have a lesion, and groups that have a normal image."""
    with_lesions, with_normals = (len(np.unique(sample.groups[sample.labels == label])) for label in (1, 0))
    return with_lesions, with_normals


def _check_group_counts(sample: Sample) -> None:
    with_lesions, with_normals = _count_groups(sample)
    if min(with_lesions, with_normals) < 2:
        raise EvaluationError(
            f"comparison of AUCs: {with_lesions} groups have lesions and {with_normals} have normal images, but at "
            "least 2 of each are needed to see how much they vary. Give images of more groups."
        )

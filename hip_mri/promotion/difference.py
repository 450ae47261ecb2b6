"""Estimates the difference in AUC between two models on the same test images, by two tests that respect groups."""

import math
from dataclasses import dataclass
from typing import Final

from numpy.typing import ArrayLike

from hip_mri.evaluation.metrics.confidence_intervals import Interval
from hip_mri.evaluation.metrics.delong import AucComparison, compare_auc
from hip_mri.promotion.permutation import NUM_SUBSETS, compare_by_permutation

CONCENTRATED_LOSS: Final = 0.1
"""Loss of AUC, 0-1, within the groups that show a loss; see `_bound_error`."""


@dataclass(frozen=True)
class Difference:
    """Difference in AUC between challenger and champion on the test images.

    Attributes:
        champion_auc: AUC of the champion.
        challenger_auc: AUC of the challenger.
        value: AUC of the challenger minus that of the champion.
        interval: Lower and upper limit of the difference, each one-sided at the error of the comparison.
        p_value: One-sided, of the hypothesis that the challenger is no better.
        excludes_loss: Whether a loss of the non-inferiority margin is ruled out at the error of the comparison.
    """

    champion_auc: float
    challenger_auc: float
    value: float
    interval: Interval
    p_value: float
    excludes_loss: bool


def bound_difference(
    labels: ArrayLike,
    champion: ArrayLike,
    challenger: ArrayLike,
    groups: ArrayLike,
    alpha: float,
    margin: float,
    num_subsets: int = NUM_SUBSETS,
) -> Difference:
    """Estimate the difference of two AUCs on the same images, with one-sided confidence limits.

    Two tests have to agree; limits and p-value are the less favorable ones. The permutation test keeps its error for
    models whose ROC curves have the same shape, also where a few groups have most of the images. Student's t with
    Obuchowski's standard error needs no equal shape. In simulations (`tests/benchmarks/gate.py`) either alone promotes
    up to twice as often as it should where the condition of the other one holds.

    Args:
        labels: True classes, 0 normal or 1 lesion, shape (num_images,).
        champion: Scores of the champion, 0-1, shape (num_images,).
        challenger: Scores of the challenger, 0-1, shape (num_images,).
        groups: Names of groups of dependent images, shape (num_images,).
        alpha: One-sided error of each limit, 0-0.5; with 0 the limits are -1 and 1.
        margin: Non-inferiority margin of the AUC, 0-0.5.
        num_subsets: Of the permutation test.

    Raises:
        EvaluationError: A class is missing, or fewer than two groups have lesions, or normal images.
    """
    compared = compare_auc(labels, challenger, champion, groups)
    (lower, upper), p_value = compare_by_permutation(labels, challenger, champion, groups, alpha, num_subsets)
    value, error = compared.difference, compared.standard_error
    half = -_find_quantile(compared, alpha) * error if alpha > 0 else 2.0
    lower, upper = max(min(lower, value - half), -1.0), min(max(upper, value + half), 1.0)
    loss_p_value = _compute_p_value(compared, margin, _bound_error(compared, margin))
    return Difference(
        champion_auc=compared.second_auc,
        challenger_auc=compared.first_auc,
        value=value,
        interval=(lower, upper),
        p_value=max(p_value, _compute_p_value(compared, 0.0, error)),
        excludes_loss=lower > 0 or (lower > -margin and loss_p_value <= alpha),
    )


def _find_quantile(compared: AucComparison, alpha: float) -> float:
    from scipy.special import stdtrit  # noqa: PLC0415 - a tenth of a second to import

    return float(stdtrit(compared.degrees_of_freedom, alpha))


def _compute_p_value(compared: AucComparison, loss: float, error: float) -> float:
    """Compute the one-sided p-value of the hypothesis that the challenger loses as much AUC, by Student's t."""
    from scipy.special import stdtr  # noqa: PLC0415 - a tenth of a second to import

    distance = compared.difference + loss
    if error == 0:
        return 0.0 if distance > 0 else 1.0
    return float(stdtr(compared.degrees_of_freedom, -distance / error))


def _bound_error(compared: AucComparison, margin: float) -> float:
    """Estimate the standard error of the difference if the challenger loses the margin, from above.

    Test images that happen to show no loss show too little variance as well, above all where the AUC is near 1. The
    variance of an AUC is about proportional to AUC (1 - AUC) (Hanley and McNeil, Radiology 143, 1982), which gives its
    value after the loss. The lower limit is for losses that are concentrated in few groups, none of which is in the
    test set; its factor comes from simulations (`tests/benchmarks/gate.py`).
    """
    num_groups = compared.num_rarer_groups
    highest = min(max(compared.first_auc, compared.second_auc), 1 - 1 / (2 * num_groups))
    after_loss = max(compared.second_auc - margin, 0.5)
    growth = max(after_loss * (1 - after_loss) / (highest * (1 - highest)), 1.0)
    return math.sqrt(max(growth * compared.standard_error**2, CONCENTRATED_LOSS * margin / num_groups))

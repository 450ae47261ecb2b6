"""Tests whether one of two models has the higher AUC on the same images, by permutation of groups.

If the ROC curves of two models have the same shape, it does not matter which of them scored the images of a group. The
test exchanges the two scores of every image in random subsets of the groups, and counts how often the difference in AUC
is then as large as the one observed. Nothing is assumed about the dependence within a group.

The scores of a model are replaced by their ranks, which makes models with different calibration comparable. The
difference is then a sum of one contribution per group, and exchanging a group changes the sign of its contribution.

Sources: Bandos, Rockette and Gur, "A permutation test sensitive to differences in areas for comparing ROC curves from a
paired design", Statistics in Medicine 24, 2005; intervals from subsets of the groups: Hartigan, "Using subsample values
as typical values", Journal of the American Statistical Association 64, 1969.
"""

import math
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hip_mri.errors import EvaluationError
from hip_mri.evaluation.metrics.confidence_intervals import Interval
from hip_mri.evaluation.metrics.validation import validate_scores

NUM_SUBSETS: Final = 1 << 18
"""Default number of random subsets: the standard error of a p-value of 0.002 is then 4% of it."""

CHUNK_SIZE: Final = 1 << 13
"""Subsets that are drawn at a time, with one bit for each group."""

MAX_BYTES: Final = 1 << 26
"""Memory for the subsets that are multiplied at a time; the result does not depend on it."""

ROUNDING: Final = 1e-12
"""Contributions are sums of fractions; smaller differences between them are rounding errors."""

Floats = NDArray[np.float64]


def compare_by_permutation(
    labels: ArrayLike,
    first_scores: ArrayLike,
    second_scores: ArrayLike,
    groups: ArrayLike,
    alpha: float,
    num_subsets: int = NUM_SUBSETS,
) -> tuple[Interval, float]:
    """Test whether the first AUC is higher than the second. The same input gives the same result.

    Args:
        labels: True classes, 0 normal or 1 lesion, shape (num_images,).
        first_scores: Scores of one model, 0-1, shape (num_images,).
        second_scores: Scores of the other model, the same shape.
        groups: Numbers or names of groups of dependent images, shape (num_images,).
        alpha: One-sided error of each limit, 0-0.5. Where it is smaller than 1 / (number of subsets), the limits are
            -1 and 1.
        num_subsets: Random subsets of the groups; where there are fewer, all are taken.

    Returns:
        Lower and upper limit of the first AUC minus the second; and the one-sided p-value of the hypothesis that the
        first is not higher.

    Raises:
        EvaluationError: `validate_scores` raises it, or there are fewer than three groups.
    """
    first, second = (validate_scores(labels, scores, groups) for scores in (first_scores, second_scores))
    if first.num_groups < 3:
        raise EvaluationError(
            f"comparison of AUCs: at least 3 groups are needed, found {first.num_groups}. Add images of more groups."
        )
    is_lesion = first.labels == 1
    contributions = _compute_contributions(is_lesion, first.scores, second.scores)
    shares = np.where(is_lesion, 0.5 / is_lesion.sum(), 0.5 / (~is_lesion).sum())
    per_group = np.stack(
        [np.bincount(first.groups, values, first.num_groups) for values in (contributions, shares)]
    ).astype(np.float64)
    lower, upper = _invert_test(per_group, num_subsets)
    rank = math.floor(alpha * len(lower))
    interval = max(float(lower[rank]), -1.0), min(float(upper[-1 - rank]), 1.0)
    return interval, float(np.searchsorted(lower, ROUNDING, side="right") / len(lower))


def find_min_p_value(labels: ArrayLike, groups: ArrayLike, num_subsets: int = NUM_SUBSETS) -> float:
    """Compute the smallest p-value that any two models can have: that of one which is as much better in every group.

    Args:
        labels: See `compare_by_permutation`.
        groups: See `compare_by_permutation`.
        num_subsets: See `compare_by_permutation`.
    """
    perfect = np.asarray(labels, np.float64)
    return compare_by_permutation(labels, perfect, np.full(len(perfect), 0.5), groups, 0.0, num_subsets)[1]


def _compute_contributions(is_lesion: NDArray[np.bool_], first: Floats, second: Floats) -> Floats:
    """Compute the contribution of each image to the difference of the AUCs; they sum to it.

    An image contributes the difference between its placements, by each of its two ranks, among the images of the
    other class with the ranks of both models.

    Returns:
        Shape (num_images,).
    """
    ranks = _rank(first), _rank(second)
    contributions = np.empty(len(is_lesion))
    for members, sign in ((is_lesion, 1), (~is_lesion, -1)):
        others = np.sort(np.concatenate([it[~members] for it in ranks]))
        placements = [_place(it[members], others) for it in ranks]
        contributions[members] = sign * (placements[0] - placements[1]) / members.sum()
    return contributions


def _rank(scores: Floats) -> Floats:
    """Rank the scores of one model; equal scores share the mean of their ranks."""
    ordered = np.sort(scores)
    return (np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")) / 2


def _place(values: Floats, ordered: Floats) -> Floats:
    """Compute which fraction of a sorted array is below each value; equal ones count half."""
    return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / (2 * len(ordered))


def _invert_test(per_group: Floats, num_subsets: int) -> tuple[Floats, Floats]:
    """Find the difference at which each subset of exchanged groups is as extreme as the observed data.

    Ranks depend on all groups, which makes contributions vary less than their sum by two degrees of freedom: in
    simulations (`tests/benchmarks/gate.py`) the variance of the sum is num_groups / (num_groups - 2) of theirs.

    Args:
        per_group: Contribution of each group to the difference, and to a difference of 1 if all groups have the same
            share in it, shape (2, num_groups).
        num_subsets: Random subsets; where there are fewer, all are taken.

    Returns:
        These differences by subset, ascending, for lower and for upper limits. No subset and subsets with a very
        small share are as extreme at any difference: -inf for lower, inf for upper limits.
    """
    num_groups = per_group.shape[1]
    factor = math.sqrt(num_groups / (num_groups - 2))
    exchanged = np.concatenate([chunk @ per_group.T for chunk in _draw_subsets(num_groups, num_subsets)])
    values, shares = (2 * factor * exchanged - (factor - 1) * per_group.sum(axis=1)).T
    is_finite = shares > ROUNDING
    differences = np.divide(values, shares, out=np.zeros_like(values), where=is_finite)
    return np.sort(np.where(is_finite, differences, -np.inf)), np.sort(np.where(is_finite, differences, np.inf))


def _draw_subsets(num_groups: int, num_subsets: int) -> Iterator[Floats]:
    """Yield whether each group belongs to each subset, the empty one among them, shape (num_subsets, num_groups)."""
    if 1 << num_groups <= num_subsets:
        numbers = np.arange(1 << num_groups)
        yield (numbers[:, None] >> np.arange(num_groups) & 1).astype(np.float64)
        return
    yield np.zeros((1, num_groups))
    generator = np.random.default_rng(0)
    step = max(MAX_BYTES // (8 * num_groups) // 8, 1) * 8  # of eight subsets each, which are whole bytes
    for first in range(0, num_subsets, CHUNK_SIZE):
        size = min(CHUNK_SIZE, num_subsets - first)
        drawn = np.frombuffer(generator.bytes(size * num_groups // 8 + 1), np.uint8)
        for start in range(0, size, step):
            count = min(step, size - start)
            bits = np.unpackbits(drawn[start * num_groups // 8 :], count=count * num_groups)
            yield bits.reshape(count, num_groups).astype(np.float64)

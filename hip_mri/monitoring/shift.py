"""Permutation test for shifts of image statistics between training groups and new groups.

Images of one group (a patient, a series) are correlated, so each group is represented by one image, drawn at random.
Means of groups are not used: their variance falls with the number of images, so that a batch with fewer images of each
patient would look shifted. The test permutes which groups are called new. It is exact for any distribution: if both
sides have the same source, all such relabelings are equally probable.

The test statistic is the largest distance of the two cumulative distributions (Kolmogorov and Smirnov), which responds
to changes of position, spread and shape. The p value of a statistic is the fraction of relabelings in which the
largest distance over *all* statistics reaches its own. This bounds the family-wise error rate under any correlation.

Sources: Westfall and Young, "Resampling-Based Multiple Testing", 1993 (single-step maxT); Phipson and Smyth,
"Permutation p-values should never be zero", Statistical Applications in Genetics and Molecular Biology 9, 2010.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

from hip_mri.dataset.preprocessing import read_stored_image
from hip_mri.images.image_statistics import STATISTICS, Statistic, compute_statistics
from hip_mri.workspace import Workspace

MAX_NUM_GROUPS: Final = 500
"""Groups of each side that are compared. A difference that only more groups would reveal is too small to matter."""

MAX_CELLS: Final = 2**19
"""Groups times relabelings that are held in memory at once, a few megabytes per matrix."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class StatisticShift:
    """One statistic, compared between training groups and new groups; one image represents each group.

    Attributes:
        statistic: The statistic.
        reference_range: Lowest and highest of the training groups.
        new_range: Lowest and highest of the new groups.
        reference_median: Median of the training groups.
        new_median: Median of the new groups.
        effect: Wasserstein distance of the two distributions, divided by the standard deviation between training
            groups, or by `Statistic.min_spread` where that is larger.
        is_beyond: Whether all new groups lie outside the range of the training groups, widened on both sides by its
            own width, or by four times `min_spread` where that is larger.
        p_value: Family-wise p value of the difference; `None` if it was not tested.
    """

    statistic: Statistic
    reference_range: tuple[float, float]
    new_range: tuple[float, float]
    reference_median: float
    new_median: float
    effect: float
    is_beyond: bool
    p_value: float | None


def sample_one_per_group(groups: NDArray[np.integer], seed: int, max_groups: int = MAX_NUM_GROUPS) -> NDArray[np.int64]:
    """Sample one image of each group.

    Args:
        groups: Code of each image's group, shape (num_images,).
        seed: Seed of the sampling.
        max_groups: If there are more groups, a random subset of this size is taken.

    Returns:
        Positions of the images, ascending; the images of a group are equally probable.
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(groups))
    positions = order[np.unique(groups[order], return_index=True)[1]]
    if len(positions) > max_groups:
        positions = generator.choice(positions, max_groups, replace=False)
    return np.sort(positions)


def measure_shifts(reference: Floats, new: Floats, alpha: float | None, seed: int) -> list[StatisticShift]:
    """Compare each statistic between training groups and new groups.

    Args:
        reference: Statistics of one image of each training group, shape (num_groups, len(STATISTICS)), at least one.
        new: The same of the new groups.
        alpha: Significance level that the p values must resolve; `None` omits the test.
        seed: Seed of the relabelings.

    Returns:
        One shift for each of `STATISTICS`, in the same order.
    """
    p_values: Sequence[float | None] = [None] * len(STATISTICS)
    if alpha is not None:
        p_values = _test_distances(reference, new, alpha, seed).tolist()
    return [_measure_shift(*row) for row in zip(STATISTICS, reference.T, new.T, p_values, strict=True)]


def draw_relabelings(num_reference: int, num_new: int, alpha: float, seed: int) -> Iterator[NDArray[np.bool_]]:
    """Draw labels of groups: the true labels first, then random permutations of them.

    Args:
        num_reference: Number of training groups, which come first.
        num_new: Number of new groups.
        alpha: Significance level; 10 / alpha rows are drawn in all.
        seed: Seed of the permutations.

    Yields:
        Chunks of rows, shape (count, num_reference + num_new), true for the groups called new. The first row of all
        has the true labels; the p value is the fraction of all rows that are at least as extreme.
    """
    generator = np.random.default_rng(seed)
    real = np.arange(num_reference + num_new) >= num_reference
    yield real[None]
    num_left = int(np.ceil(10 / alpha)) - 1
    while num_left:
        count = min(num_left, max(1, MAX_CELLS // len(real)))
        yield generator.permuted(np.tile(real, (count, 1)), axis=1)
        num_left -= count


def measure_distances(pooled: Floats, is_new: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Compute the largest distance of the cumulative distributions of each statistic, for each relabeling.

    Args:
        pooled: Values of all groups, shape (num_groups, num_statistics).
        is_new: Rows as `draw_relabelings` yields them.

    Returns:
        Distances times the numbers of old and of new groups, so that they are exact; shape (rows, num_statistics).
    """
    num_new = int(is_new[0].sum())
    steps = np.where(is_new, is_new.shape[1] - num_new, -num_new)
    distances = np.empty((len(is_new), pooled.shape[1]), np.int64)
    for column, values in enumerate(pooled.T):
        order = np.argsort(values)
        is_last_of_equals = np.append(np.diff(values[order]) > 0, True)
        heights = np.cumsum(steps[:, order], axis=1)[:, is_last_of_equals]
        distances[:, column] = np.abs(heights).max(axis=1)
    return distances


def _test_distances(reference: Floats, new: Floats, alpha: float, seed: int) -> Floats:
    pooled = np.concatenate([reference, new])
    draws = draw_relabelings(len(reference), len(new), alpha, seed)
    real = measure_distances(pooled, next(draws))[0]
    largest = np.concatenate([measure_distances(pooled, is_new).max(axis=1) for is_new in draws])
    return (1 + (largest[:, None] >= real).sum(axis=0)) / (1 + len(largest))


def _measure_shift(statistic: Statistic, reference: Floats, new: Floats, p_value: float | None) -> StatisticShift:
    from scipy.stats import wasserstein_distance  # noqa: PLC0415 - half a second to import

    low, high = float(reference.min()), float(reference.max())
    margin = max(high - low, 4 * statistic.min_spread)
    spread = max(float(reference.std()), statistic.min_spread)
    return StatisticShift(
        statistic=statistic,
        reference_range=(low, high),
        new_range=(float(new.min()), float(new.max())),
        reference_median=float(np.median(reference)),
        new_median=float(np.median(new)),
        effect=float(wasserstein_distance(reference, new)) / spread,
        is_beyond=bool(((new < low - margin) | (new > high + margin)).all()),
        p_value=p_value,
    )


def describe_stored_images(hashes: Sequence[str], workspace: Workspace, num_threads: int) -> NDArray[np.float64]:
    """Compute the statistics of stored source images.

    Returns:
        Shape (len(hashes), len(STATISTICS)), in the order of `hashes`, the SHA-256 of the source images.

    Raises:
        WorkspaceError: A stored source image is missing or damaged.
    """

    def describe(sha256: str) -> NDArray[np.float64]:
        return compute_statistics(read_stored_image(sha256, workspace))

    rows = Parallel(n_jobs=num_threads, backend="threading")(delayed(describe)(sha256) for sha256 in hashes)
    return np.array(rows, np.float64).reshape(len(hashes), len(STATISTICS))

"""Do two samples of patients look alike? A test on the appearance of their images that permutes whole groups.

Images of one patient resemble each other, so that a test on images would take twelve patients with fifty images each
for six hundred witnesses. Here a group (a patient, a series) is one witness: one of its images, drawn at random,
speaks for it. Means of groups would spread less the more images there are, and a batch with fewer images of each
patient would look shifted for that alone. The test permutes which groups are called new. That is exact for any
distribution: if the new groups come from where the training groups came from, every such relabelling is as probable
as the real one.

Of each statistic the largest distance of the two cumulative distributions is taken (Kolmogorov and Smirnov), which
sees any change of position, spread or shape. The p value of a statistic counts the relabellings in which the largest
distance of *all* statistics reaches its own; so the chance of a false alarm by any of them is bounded, whatever
their correlation (Westfall and Young).

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
"""Groups of either side that are compared; a difference that more would be needed to see is too small to matter."""

MOST_CELLS: Final = 2**19
"""Groups times relabellings that are held at a time, some megabytes per matrix."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class StatisticShift:
    """One statistic of the training images and of a new batch; each group speaks with the value of one image.

    Attributes:
        statistic: Which.
        reference_range: Lowest and highest of the training groups.
        new_range: Lowest and highest of the new groups.
        reference_median: Median of the training groups.
        new_median: Median of the new groups.
        effect: Distance of the two distributions (Wasserstein's, in units of the statistic: how far values must be
            moved, on average, to turn one into the other) over the standard deviation between training groups, or
            over `Statistic.min_spread` where that is larger.
        is_beyond: Whether all new groups lie outside the range of the training groups, widened on both sides by its
            own width, or by four times `min_spread` where that is larger.
        p_value: Chance of such a difference, in any statistic, between groups from one source; `None`: not tested.
    """

    statistic: Statistic
    reference_range: tuple[float, float]
    new_range: tuple[float, float]
    reference_median: float
    new_median: float
    effect: float
    is_beyond: bool
    p_value: float | None


def choose_witnesses(groups: NDArray[np.integer], seed: int, most: int = MAX_NUM_GROUPS) -> NDArray[np.int64]:
    """Draw one image of each group.

    Args:
        groups: Code of each image's group, shape (num_images,).
        seed: The same seed draws the same images.
        most: Of more groups than that, a random choice is taken.

    Returns:
        Positions of the images, ascending; each group's images are equally probable.
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(groups))
    witnesses = order[np.unique(groups[order], return_index=True)[1]]
    if len(witnesses) > most:
        witnesses = generator.choice(witnesses, most, replace=False)
    return np.sort(witnesses)


def measure_shifts(reference: Floats, new: Floats, alpha: float | None, seed: int) -> list[StatisticShift]:
    """Compare each statistic of training groups and new groups.

    Args:
        reference: Appearance of one image of each training group, shape (num_groups, len(STATISTICS)), at least one.
        new: The same of the new groups.
        alpha: Chance of a false alarm that the p values must be able to tell; `None`: p values are left out.
        seed: The same seed draws the same relabellings.

    Returns:
        One for each of `STATISTICS`, in their order.
    """
    p_values: Sequence[float | None] = [None] * len(STATISTICS)
    if alpha is not None:
        p_values = _test_distances(reference, new, alpha, seed).tolist()
    columns = zip(STATISTICS, reference.T, new.T, p_values, strict=True)
    return [_measure_shift(statistic, old, young, p_value) for statistic, old, young, p_value in columns]


def draw_relabellings(num_reference: int, num_new: int, alpha: float, seed: int) -> Iterator[NDArray[np.bool_]]:
    """Say which groups are called new: as they are first, then at random.

    Args:
        num_reference: Training groups; they stand first.
        num_new: New groups.
        alpha: Enough relabellings are drawn that ten of them may still beat the real one at this level.
        seed: The same seed draws the same ones.

    Yields:
        Rows of which each has `num_new` places set, some at a time, shape (count, num_reference + num_new). The first
        row of all is the real one; the p value is the share of rows that are at least as extreme.
    """
    generator = np.random.default_rng(seed)
    real = np.arange(num_reference + num_new) >= num_reference
    yield real[None]
    num_left = int(np.ceil(10 / alpha)) - 1
    while num_left:
        count = min(num_left, max(1, MOST_CELLS // len(real)))
        yield generator.permuted(np.tile(real, (count, 1)), axis=1)
        num_left -= count


def measure_distances(pooled: Floats, is_new: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Largest distance of the cumulative distributions of each statistic, after each relabelling.

    Args:
        pooled: Values of all groups, shape (num_groups, num_statistics).
        is_new: Rows as `draw_relabellings` yields them.

    Returns:
        Distances times the number of old and of new groups, which makes them exact; shape (rows, num_statistics).
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
    draws = draw_relabellings(len(reference), len(new), alpha, seed)
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
    """Describe source images as they lie in the workspace.

    Args:
        hashes: SHA-256 of the source images.
        workspace: Where they lie.
        num_threads: Threads that decode.

    Returns:
        A row per image, in the order of `hashes`, shape (len(hashes), len(STATISTICS)).

    Raises:
        WorkspaceError: A stored source image is missing or damaged.
    """
    parallel = Parallel(n_jobs=num_threads, backend="threading")
    rows = parallel(delayed(_describe_stored)(sha256, workspace) for sha256 in hashes)
    return np.array(rows, np.float64).reshape(len(hashes), len(STATISTICS))


def _describe_stored(sha256: str, workspace: Workspace) -> NDArray[np.float64]:
    return compute_statistics(read_stored_image(sha256, workspace))

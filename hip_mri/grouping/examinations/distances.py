"""Distances between neighbors and between runs of images, and how they compare with those of strangers.

Strangers are images of different examinations. They are known without any patient: images far apart in the order.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import binomtest

from hip_mri.grouping.examinations.images import ComparableImages, Run, spread

MAX_LAG: Final = 3
"""Largest distance in the order of images that are compared, so that one image unlike its neighbors cuts nothing."""

NUM_STRANGER_BORDERS: Final = 20_000
NUM_STRANGERS: Final = 64
"""Strangers with which each of two runs is compared."""

MAX_COMPARED: Final = 12
"""Images of a run that are compared, evenly spaced."""

MIN_DISTANCE_IN_ORDER: Final = 60
"""Images at least so far apart in the order, or a quarter of all images, are strangers."""

NEAR_P_VALUE, MIN_NEAR_FRACTION, MAX_CHANCE = 0.05, 0.15, 0.001
"""An order is informative if at least `MIN_NEAR_FRACTION` of the neighbors have a p-value of `NEAR_P_VALUE` or less,
and if that is not by chance: it has a probability of `MAX_CHANCE` or less."""

_MEDIAN_TO_DEVIATION: Final = 1.4826
"""Standard deviation of a normal distribution whose median absolute deviation is 1."""

_MIN_DEVIATION: Final = 1e-9


def compute_border_p_values(images: ComparableImages, generator: np.random.Generator) -> NDArray[np.float64]:
    """Compute for each border between neighbors the fraction of strangers that are as near as the images beside it.

    The distance at a border is the smallest between an image before it and one behind it, up to `MAX_LAG` apart.

    Returns:
        Shape (images - 1,); NaN where an image and the next one are not neighbors.
    """
    if len(images) < 2 or not (has_neighbor := images.has_neighbor).any():
        return np.full(max(len(images) - 1, 0), np.nan)
    strangers = np.sort(_draw_stranger_borders(images, generator))
    rank = np.searchsorted(strangers, _measure_borders(images), side="right")
    return np.where(has_neighbor, (rank + 1) / (len(strangers) + 1), np.nan)


def is_informative(p_values: NDArray[np.float64]) -> bool:
    """Whether more neighbors in an order are near to each other than by chance, by the p-values of their borders.

    Descriptors must not be in a metric that was learned from these neighbors, in which they are nearer by chance.
    """
    num_near = int((p_values <= NEAR_P_VALUE).sum())
    if not num_near or num_near < MIN_NEAR_FRACTION * len(p_values):
        return False
    return bool(binomtest(num_near, len(p_values), NEAR_P_VALUE, alternative="greater").pvalue <= MAX_CHANCE)


def _measure_borders(images: ComparableImages) -> NDArray[np.float32]:
    nearest = np.full(len(images) - 1, np.inf, np.float32)
    for lag in range(1, min(MAX_LAG, len(images) - 1) + 1):
        distances = _square(images.points[lag:] - images.points[:-lag])
        distances[images.sequence[lag:] != images.sequence[:-lag]] = np.inf
        for start in range(lag):  # images `lag` apart lie on both sides of this many borders
            covered = nearest[start : start + len(distances)]
            np.minimum(covered, distances, out=covered)
    return nearest


def _draw_stranger_borders(images: ComparableImages, generator: np.random.Generator) -> NDArray[np.float32]:
    """Distances as at a border, where the images before it and those behind it are far apart in the order."""
    before, behind = _draw_strangers(images, 8 * NUM_STRANGER_BORDERS, generator)
    is_far = np.abs(before - behind) >= _count_far(images)
    before, behind = before[is_far][:NUM_STRANGER_BORDERS], behind[is_far][:NUM_STRANGER_BORDERS]
    nearest = np.full(len(before), np.inf, np.float32)
    for steps_before in range(MAX_LAG):
        for steps_behind in range(MAX_LAG - steps_before):
            first = np.maximum(before - steps_before, 0)
            second = np.minimum(behind + steps_behind, len(images) - 1)
            is_there = (images.sequence[first] == images.sequence[before]) & (
                images.sequence[second] == images.sequence[behind]
            )
            distances = _square(images.points[first] - images.points[second])
            nearest = np.where(is_there, np.minimum(nearest, distances), nearest)
    return nearest


def _draw_strangers(
    images: ComparableImages, size: int, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw pairs of images of one sequence, whose class is the same; of any sequence where it is short."""
    first = generator.integers(len(images), size=size)
    start = np.searchsorted(images.sequence, images.sequence[first], side="left")
    end = np.searchsorted(images.sequence, images.sequence[first], side="right")
    is_short = end - start < 2 * _count_far(images)
    start, end = np.where(is_short, 0, start), np.where(is_short, len(images), end)
    return first, generator.integers(start, end)


def measure_runs(images: ComparableImages, first: Run, second: Run) -> float:
    """Measure how far two runs are apart: mean squared distance of each image from the nearest one of the other run."""
    near, far = (images.points[spread(run, MAX_COMPARED)] for run in (first, second))
    squares = _square(near)[:, None] + _square(far) - 2 * near @ far.T
    return float(np.maximum((squares.min(axis=1).mean() + squares.min(axis=0).mean()) / 2, 0))


def compare_neighboring_runs(
    images: ComparableImages, first: Run, second: Run, generator: np.random.Generator
) -> float:
    """P-value of two neighboring runs: the fraction of strangers of the same size that are as near to either."""
    scores = []
    distance = measure_runs(images, first, second)
    for run, other in ((first, second), (second, first)):
        size = min(len(other), MAX_COMPARED)
        starts = generator.integers(max(1, len(images) - size + 1), size=4 * NUM_STRANGERS)
        is_far = np.abs(starts + size / 2 - run.mean()) >= _count_far(images)
        strangers = [np.arange(start, min(start + size, len(images))) for start in starts[is_far][:NUM_STRANGERS]]
        center, deviation = describe_strangers([measure_runs(images, run, stranger) for stranger in strangers])
        scores.append((np.cbrt(distance) - center) / deviation)
    return float(ndtr(np.mean(scores)))


def describe_strangers(distances: Sequence[float]) -> tuple[float, float]:
    """Median and standard deviation of the cube roots of squared distances, by which a distance is standardized.

    Cube roots of sums of squares are close to normal. The deviation is robust: some of the strangers may be none.

    Source: Wilson and Hilferty, "The distribution of chi-square", PNAS 17:684, 1931.
    """
    roots = np.cbrt(distances)
    center = np.median(roots)
    deviation = _MEDIAN_TO_DEVIATION * np.median(np.abs(roots - center))
    return float(center), float(max(deviation, _MIN_DEVIATION))


def _count_far(images: ComparableImages) -> int:
    return min(MIN_DISTANCE_IN_ORDER, len(images) // 4)


def _square(points: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.einsum("ij,ij->i", points, points)

"""Describes images for comparison: gradient orientations of thumbnails, and features of a pretrained network.

Gradient orientations do not depend on the contrast, so that series of one examination look alike.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from hip_mri.dataset.row_store import StoredRows
from hip_mri.grouping.examinations.distances import compute_border_p_values, is_informative
from hip_mri.grouping.examinations.images import UNKNOWN, ComparableImages
from hip_mri.grouping.examinations.learned_metric import fit_metric, normalize

MAX_NUM_LEARNED: Final = 4096
"""Images from which the metric is learned."""

MIN_NUM_JUDGED: Final = 60
"""Neighbors from which the order of a sequence is judged by itself."""

STRETCH: Final = 64
"""Neighbors that are learned from together, where there are more images."""

NUM_QUERIES: Final = 1024
"""Images whose nearest image is searched, if there is no order."""

ROWS_PER_BLOCK: Final = 2048

_BLUR: Final = 0.7  # standard deviation, pixels of the thumbnail
_EDGE: Final = 0.25  # squared gradient, relative to its mean, above which an orientation counts in full


@dataclass(frozen=True)
class Descriptors:
    """Descriptors of one kind, which are computed from rows on disk.

    Attributes:
        rows: One row per image.
        describe: Turns rows to float32, shape (rows, values).
    """

    rows: StoredRows
    describe: Callable[[NDArray], NDArray[np.float32]]

    def read(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Read descriptors by position, shape (positions, values)."""
        return self.describe(self.rows[positions])


def describe_orientations(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Compute the orientation of the gradient at each pixel, whatever its sign.

    Args:
        thumbnails: Gray levels 0-255, shape (images, height, width).

    Returns:
        Shape (images, 2 * height * width): cosine and sine of twice the angle, near 0 where there is no edge.

    Source: Haber and Modersitzki, "Intensity gradient based registration and fusion of multi-modal images", MICCAI
        2006.
    """
    rows = []
    for thumbnail in thumbnails:
        smooth = cv2.GaussianBlur(thumbnail.astype(np.float32), (0, 0), _BLUR)
        gradient = cv2.Sobel(smooth, cv2.CV_32F, 1, 0) + 1j * cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
        squared = gradient**2
        strength = np.abs(squared)
        orientation = squared / (strength + _EDGE * strength.mean() + 1)
        rows.append(np.concatenate([orientation.real.ravel(), orientation.imag.ravel()]))
    return np.array(rows, np.float32)


def describe_features(features: NDArray) -> NDArray[np.float32]:
    """Take features of a network as they are."""
    return features.astype(np.float32, copy=False)


def find_informative_order(kinds: Sequence[Descriptors], sequence: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """Find the sequences whose order brings similar images together.

    Args:
        kinds: Descriptors of the images, sorted by sequence and place.
        sequence: Number of each image's sequence, or `UNKNOWN`.
        seed: Seed of the random choices.

    Returns:
        Whether the sequence of each image is informative, shape (images,). Sequences of fewer than
        `MIN_NUM_JUDGED` neighbors are judged together.
    """
    generator = np.random.default_rng(seed)
    sample, stretch = _sample_stretches(sequence, generator)
    points = _join_kinds([kind.read(sample) for kind in kinds])

    def judge(chosen: NDArray[np.bool_]) -> bool:
        images = ComparableImages(points[chosen], stretch[chosen], np.full(int(chosen.sum()), UNKNOWN))
        p_values = compute_border_p_values(images, generator)
        return is_informative(p_values[np.isfinite(p_values)])

    numbers, counts = np.unique(sequence[sample], return_counts=True)
    long = numbers[(counts > MIN_NUM_JUDGED) & (numbers != UNKNOWN)]
    informative = [number for number in long if judge(sequence[sample] == number)]
    is_short = ~np.isin(sequence, [*long, UNKNOWN])
    return np.isin(sequence, informative) | (is_short & judge(is_short[sample]))


def make_comparable(
    kinds: Sequence[Descriptors], sequence: NDArray[np.int64], patient: NDArray[np.int64], seed: int
) -> ComparableImages:
    """Learn a metric for each kind of descriptors, and project all images.

    Args:
        kinds: Descriptors of the images, sorted by sequence and place.
        sequence: Number of each image's sequence, or `UNKNOWN`; of an informative order.
        patient: Number of each image's patient, or `UNKNOWN`.
        seed: Seed of the random choices.
    """
    generator = np.random.default_rng(seed)
    sample, stretch = _sample_stretches(sequence, generator)
    samples = [kind.read(sample) for kind in kinds]
    first = np.flatnonzero((stretch[1:] == stretch[:-1]) & (stretch[1:] != UNKNOWN))
    pairs = np.stack([first, first + 1], axis=1)
    if not len(pairs):
        samples, pairs = _pair_nearest(kinds, len(sequence), sample, samples, generator)
    metrics = [fit_metric(values, pairs, seed) for values in samples]
    blocks = [
        np.concatenate([metric.project(kind.read(block)) for metric, kind in zip(metrics, kinds, strict=True)], axis=1)
        for block in _cut_blocks(len(sequence))
    ]
    return ComparableImages(np.concatenate(blocks), sequence, patient)


def _join_kinds(values: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Descriptors of all kinds beside each other, each centered and of length 1."""
    return np.concatenate([normalize(rows - rows.mean(axis=0)) for rows in values], axis=1)


def _cut_blocks(num_images: int) -> list[NDArray[np.int64]]:
    starts = range(0, num_images, ROWS_PER_BLOCK)
    return [np.arange(start, min(start + ROWS_PER_BLOCK, num_images)) for start in starts]


def _sample_stretches(
    sequence: NDArray[np.int64], generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of stretches of neighbors, sorted, and a number for each stretch of one sequence, or `UNKNOWN`."""
    if len(sequence) <= MAX_NUM_LEARNED:
        return np.arange(len(sequence)), sequence
    starts = np.arange(0, len(sequence), STRETCH)
    chosen = np.sort(generator.choice(starts, MAX_NUM_LEARNED // STRETCH, replace=False))
    positions = np.concatenate([np.arange(start, min(start + STRETCH, len(sequence))) for start in chosen])
    number = positions // STRETCH * (sequence.max() + 1) + sequence[positions]
    return positions, np.where(sequence[positions] == UNKNOWN, UNKNOWN, number)


def _pair_nearest(
    kinds: Sequence[Descriptors],
    num_images: int,
    sample: NDArray[np.int64],
    samples: Sequence[NDArray[np.float32]],
    generator: np.random.Generator,
) -> tuple[list[NDArray[np.float32]], NDArray[np.int64]]:
    """Pair some images of a sample with the nearest of all images.

    Returns:
        The descriptors of the sample and of these nearest images, by kind, and the pairs of positions in them.
    """
    queries = generator.permutation(len(sample))[:NUM_QUERIES]
    means = [values.mean(axis=0) for values in samples]
    queried = _join_kinds(samples)[queries]
    nearest, similarity = np.zeros(len(queries), np.int64), np.full(len(queries), -np.inf, np.float32)
    for block in _cut_blocks(num_images):
        rows = [normalize(kind.read(block) - mean) for kind, mean in zip(kinds, means, strict=True)]
        found = queried @ np.concatenate(rows, axis=1).T
        found[sample[queries][:, None] == block] = -np.inf
        best = found.argmax(axis=1)
        value = found[np.arange(len(queries)), best]
        is_nearer = value > similarity
        nearest[is_nearer], similarity[is_nearer] = block[best[is_nearer]], value[is_nearer]
    joined = [np.concatenate([values, kind.read(nearest)]) for values, kind in zip(samples, kinds, strict=True)]
    return joined, np.stack([queries, len(sample) + np.arange(len(queries))], axis=1)

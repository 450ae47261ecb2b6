"""Learns from a data set how far apart two images of one patient are.

Differences between neighboring images, most of which show one patient, say in which directions the images of a patient
vary: from slice to slice. Directions in which patients differ, but neighbors do not, tell them apart.

Source: the score is that of two Gaussian distributions, within a patient and of all images, as in probabilistic linear
discriminant analysis; Ioffe, "Probabilistic Linear Discriminant Analysis", ECCV 2006.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

MAX_NUM_DIRECTIONS: Final = 48
"""Principal components that are kept. With 246 images of phantoms, 32 told patients apart best; more overfit."""

IMAGES_PER_DIRECTION: Final = 8
"""Images that are needed for each direction."""

MAX_STRANGER_FRACTION: Final = 0.05
"""Neighbors count as images of one patient while they are nearer to each other than this fraction of random pairs."""

MIN_VARIANCE: Final = 1e-12
"""Variance of a component below which descriptors count as equal."""

NUM_ROUNDS: Final = 5
"""Rounds in which the neighbors of one patient are chosen anew; on phantoms the choice is stable after three."""


@dataclass(frozen=True)
class LearnedMetric:
    """Projection of descriptors, in which squared Euclidean distances tell images of one patient from others.

    Attributes:
        mean: Mean of the descriptors, shape (num_values,).
        projection: Shape (num_values, num_directions).
    """

    mean: NDArray[np.float32]
    projection: NDArray[np.float32]

    def project(self, descriptors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Project descriptors, shape (images, num_values), to shape (images, num_directions)."""
        return normalize(descriptors - self.mean) @ self.projection


def fit_metric(
    descriptors: NDArray[np.float32], pairs: NDArray[np.int64], seed: int, *, are_certain: bool = False
) -> LearnedMetric:
    """Learn a metric.

    Args:
        descriptors: Shape (images, num_values), finite.
        pairs: Positions of pairs of images that often show one patient, such as neighbors in the order of files, shape
            (pairs, 2).
        seed: Seed of the random pairs.
        are_certain: Whether all pairs show one patient; else those that are far apart are left out.
    """
    from sklearn.covariance import ledoit_wolf  # noqa: PLC0415 - a second to import
    from sklearn.decomposition import PCA  # noqa: PLC0415 - see above

    mean = descriptors.mean(axis=0)
    num_directions = max(1, min(MAX_NUM_DIRECTIONS, len(descriptors) // IMAGES_PER_DIRECTION, descriptors.shape[1]))
    normalized = normalize(descriptors - mean)
    if not normalized.any():  # all are equal
        return LearnedMetric(mean.astype(np.float32), np.zeros((len(mean), 1), np.float32))
    pca = PCA(num_directions, svd_solver="randomized", random_state=seed).fit(normalized)
    whitening = pca.components_.T / np.sqrt(np.maximum(pca.explained_variance_, MIN_VARIANCE))
    whitened = normalized @ whitening  # without their mean, which differences do not have
    differences = whitened[pairs[:, 0]] - whitened[pairs[:, 1]]
    random_pairs = np.random.default_rng(seed).integers(len(whitened), size=(20_000, 2))
    random_differences = whitened[random_pairs[:, 0]] - whitened[random_pairs[:, 1]]
    scaling = np.eye(num_directions)
    for _ in range(1 if are_certain else NUM_ROUNDS):
        limit = np.quantile(_measure(random_differences @ scaling), MAX_STRANGER_FRACTION)
        of_one_patient = differences[are_certain | (_measure(differences @ scaling) <= limit)]
        if len(of_one_patient) <= num_directions:
            break
        within = ledoit_wolf(of_one_patient, assume_centered=True)[0] / 2  # of all images it is 1 in each direction
        variance, directions = np.linalg.eigh(within)
        scaling = directions * np.sqrt(np.clip(1 - variance, 0, None) / variance)
    return LearnedMetric(mean.astype(np.float32), (whitening @ scaling).astype(np.float32))


def _measure(differences: NDArray) -> NDArray:
    return np.einsum("ij,ij->i", differences, differences)


def normalize(centered: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale rows to length 1, shape (images, values)."""
    return centered / np.maximum(np.linalg.norm(centered, axis=1, keepdims=True), np.float32(1e-12))

"""Blocks of images that probably show one patient: consecutive images, and pairs that are close in feature space."""

from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hip_mri.models.network_inputs import Rows, cut_positions
from hip_mri.models.predict import ROWS_PER_BLOCK

STRETCH_LENGTH: Final = 50
"""Consecutive images that are sampled together: several patients, so that a patient is rarely cut."""

NUM_NEIGHBORHOODS: Final = 8
"""Regions of feature space that are sampled."""

MAX_PAIR_DISTANCE: Final = 0.5
"""Maximum distance of the images of a pair, as a fraction of that to the neighbor of rank `NEIGHBOR_RANKS`. Images of
different patients lie at 0.6 and more of it; see docs/splits.md."""

NEIGHBOR_RANKS: Final = (4, 20)
"""Minimum and maximum rank of the neighbor whose distance is the local scale; between them a tenth of the images."""


def select_stretches(order: pd.DataFrame, max_images: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Select the images whose order is known; of too many, random stretches of consecutive ones.

    Args:
        order: Columns sequence (empty where the order is not known) and place.
        max_images: Maximum number of images.
        generator: Selects the stretches.

    Returns:
        Positions in `order`, ascending.
    """
    known = order.reset_index(drop=True)
    known = known[known["sequence"] != ""].sort_values(["sequence", "place"], kind="stable")
    positions = known.index.to_numpy()
    if len(positions) <= max_images:
        return np.sort(positions)
    stretches = list(cut_positions(len(positions), STRETCH_LENGTH))
    chosen = generator.choice(len(stretches), max_images // STRETCH_LENGTH, replace=False)
    return np.sort(np.concatenate([positions[stretches[number]] for number in chosen]))


def number_blocks(order: pd.DataFrame, length: int, offset: int) -> NDArray[np.int64]:
    """Divide each sequence into blocks of `length` consecutive places, the first of `length` - `offset`.

    Returns:
        Number of each image's block, from 0.
    """
    sequences, _ = pd.factorize(order["sequence"])
    blocks = (order["place"].to_numpy() + offset) // length
    return np.unique(sequences * (blocks.max() + 1) + blocks, return_inverse=True)[1]


def select_neighborhoods(rows: Rows, max_images: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Select all images; of too many, those that are nearest to a few random ones.

    Args:
        rows: Features, shape (images, features).
        max_images: Maximum number of images.
        generator: Selects the random ones.

    Returns:
        Positions in `rows`, ascending.
    """
    if len(rows) <= max_images:
        return np.arange(len(rows))
    centers = rows[np.sort(generator.choice(len(rows), NUM_NEIGHBORHOODS, replace=False))]
    mean = rows[np.sort(generator.choice(len(rows), max_images, replace=False))].mean(axis=0)
    centers = normalize(centers, mean)
    blocks = cut_positions(len(rows), ROWS_PER_BLOCK)
    similarity = np.concatenate([normalize(rows[block], mean) @ centers.T for block in blocks])
    nearest = np.argpartition(-similarity, max_images // NUM_NEIGHBORHOODS, axis=0)
    return np.unique(nearest[: max_images // NUM_NEIGHBORHOODS])


def find_isolated_pairs(similarity: NDArray[np.floating]) -> NDArray[np.int64]:
    """Find pairs of images that are each other's nearest and lie far closer to each other than to most others around.

    Args:
        similarity: Cosine of each two images, shape (images, images).

    Returns:
        Number of each image's block; an image without partner is a block of its own.
    """
    distance = 1 - similarity
    np.fill_diagonal(distance, np.inf)
    images = np.arange(len(distance))
    rank = int(np.clip(len(images) // 10, *NEIGHBOR_RANKS))
    scale = np.partition(distance, min(rank, len(images)) - 1, axis=1)[:, min(rank, len(images)) - 1]
    nearest = distance.argmin(axis=1)
    is_close = distance[images, nearest] <= MAX_PAIR_DISTANCE * np.minimum(scale, scale[nearest])
    is_paired = (nearest[nearest] == images) & is_close
    return np.unique(np.where(is_paired, np.minimum(images, nearest), images), return_inverse=True)[1]


def count_blocks(blocks: NDArray[np.int64]) -> int:
    """Count the blocks of at least two images."""
    return int((np.bincount(blocks) > 1).sum())


def normalize(features: NDArray[np.floating], mean: NDArray[np.floating]) -> NDArray[np.floating]:
    """Subtract the mean from rows of features and scale them to unit length."""
    centered = features - mean
    return centered / np.maximum(np.linalg.norm(centered, axis=1, keepdims=True), 1e-12)

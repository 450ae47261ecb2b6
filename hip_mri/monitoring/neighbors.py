"""Finds nearest images by their features, such as the training image that is nearest to each test image."""

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hip_mri.dataset.manifest import digest_table, read_manifest, select_ready
from hip_mri.hashes import digest
from hip_mri.models.features import FeatureSet
from hip_mri.models.network_inputs import Rows, cut_positions, iterate_blocks
from hip_mri.models.predict import ROWS_PER_BLOCK
from hip_mri.monitoring.leakage_blocks import normalize
from hip_mri.storage import replace_file
from hip_mri.workspace import Workspace

MAX_NUM_QUERIES: Final = 2000
"""Test images whose nearest neighbor is searched. More take hours for a million training images."""

NEIGHBOR_RECIPE: Final = 2
"""Version of the search; raised by changes that alter its table."""


def find_neighbors(workspace: Workspace, features: FeatureSet) -> Path:
    """Find the nearest training image of each test image.

    Distances are 1 - cosine of the features after subtraction of their mean over training images, 0 (the same
    direction) to 2. Of more than `MAX_NUM_QUERIES` test images, those with the lowest hashes are used.

    Args:
        workspace: Its manifest and features are read; its `neighbours` folder is written.
        features: The set of features that are compared.

    Returns:
        CSV with the columns image_id, neighbour_id and distance, the closest pair first.
    """
    images = select_ready(read_manifest(workspace.manifest_file)).sort_values("sha256", ignore_index=True)
    identity = digest([NEIGHBOR_RECIPE, features.digest, digest_table(images[["image_id", "sha256", "split"]])])
    file = workspace.neighbors_folder / f"{identity[:16]}.csv"
    if file.exists():
        return file
    train, test = (images[images["split"] == split].reset_index(drop=True) for split in ("train", "test"))
    queries = test.head(MAX_NUM_QUERIES)
    rows, query_rows = (
        features.open_store(workspace).select(part["sha256"], mirrored=False) for part in (train, queries)
    )
    mean = _average(rows)
    nearest, similarity = _search(normalize(query_rows[np.arange(len(queries))], mean), rows, mean)
    nearest, similarity = nearest[:, 0], similarity[:, 0]
    table = pd.DataFrame(
        {
            "image_id": queries["image_id"],
            "neighbour_id": train["image_id"].to_numpy()[nearest],
            "distance": (1 - similarity.astype(np.float64)).round(7),
        }
    )
    with replace_file(file) as temporary:
        table.sort_values("distance", kind="stable").to_csv(temporary, index=False)
    return file


def find_nearest(rows: Rows, num_queries: int, num_nearest: int) -> NDArray[np.int64]:
    """Find the nearest other rows of the first rows, by the cosine of the features after subtraction of their mean.

    Args:
        rows: Features, shape (num_rows, num_features).
        num_queries: Number of rows, from the first, whose neighbors are found.
        num_nearest: Number of neighbors of each; fewer if there are not as many other rows.

    Returns:
        Positions of the neighbors, the nearest first, shape (num_queries, num_nearest).
    """
    mean, first = _average(rows), np.arange(num_queries)
    nearest, _ = _search(normalize(rows[first], mean), rows, mean, min(num_nearest + 1, len(rows)))
    order = np.argsort(nearest == first[:, None], axis=1, kind="stable")  # the row itself, if found, comes last
    return np.take_along_axis(nearest, order, axis=1)[:, :-1]


def _average(rows: Rows) -> NDArray[np.float32]:
    """Compute the mean row."""
    total = np.sum([block.sum(axis=0, dtype=np.float64) for block in iterate_blocks(rows, ROWS_PER_BLOCK)], axis=0)
    return (total / len(rows)).astype(np.float32)


def _search(
    queries: NDArray[np.floating], rows: Rows, mean: NDArray[np.floating], num_nearest: int = 1
) -> tuple[NDArray[np.int64], NDArray[np.floating]]:
    """Find positions and similarities of the nearest rows of each query, the nearest first."""
    positions = np.zeros((len(queries), 0), np.int64)
    similarities = np.zeros((len(queries), 0), np.float32)
    for block in cut_positions(len(rows), ROWS_PER_BLOCK):
        found = queries @ normalize(rows[block], mean).T
        positions = np.hstack([positions, np.broadcast_to(block, found.shape)])
        similarities = np.hstack([similarities, found])
        if positions.shape[1] > num_nearest:
            best = np.argpartition(-similarities, num_nearest - 1, axis=1)[:, :num_nearest]
            positions = np.take_along_axis(positions, best, axis=1)
            similarities = np.take_along_axis(similarities, best, axis=1)
    order = np.argsort(-similarities, axis=1, kind="stable")
    return np.take_along_axis(positions, order, axis=1), np.take_along_axis(similarities, order, axis=1)

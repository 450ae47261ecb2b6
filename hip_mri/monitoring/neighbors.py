"""Leakage audit: finds the training images that are nearest to each test image.

The distances between training images of one group, and between groups, give the scale: a test image as close to a
training image as images of one group are to each other may show the same patient.
"""

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hip_mri.dataset.manifest import digest_table, read_manifest, select_ready
from hip_mri.hashes import digest
from hip_mri.models.features import FeatureSet
from hip_mri.models.network_inputs import Rows, cut_positions, iterate_blocks
from hip_mri.models.scoring import ROWS_PER_BLOCK
from hip_mri.storage import replace_file
from hip_mri.workspace import Workspace

MAX_NUM_QUERIES: Final = 2000
"""Images of each kind whose nearest neighbor is searched. More add no information and take hours for a million."""

NEIGHBOR_RECIPE: Final = 1
"""Version of the search; raised by changes that alter distances."""


def find_neighbors(workspace: Workspace, features: FeatureSet) -> Path:
    """Find the nearest training image of each test image, and of each training image within and outside its group.

    Distances are 1 - cosine of the features after subtraction of their mean over training images, 0 (the same
    direction) to 2. Of more than `MAX_NUM_QUERIES` images of a split, those with the lowest hashes are used.

    Args:
        workspace: Its manifest and features are read; its `neighbours` folder is written.
        features: The set of features that are compared.

    Returns:
        CSV with the columns kind (`test_to_train`, `within_group` or `between_groups`), image_id, neighbour_id and
        distance. A training image that is alone in its group has no row `within_group`.
    """
    images = select_ready(read_manifest(workspace.manifest_file)).sort_values("sha256", ignore_index=True)
    columns = ["image_id", "sha256", "group", "split"]
    identity = digest([NEIGHBOR_RECIPE, features.digest, digest_table(images[columns])])
    file = workspace.neighbors_folder / f"{identity[:16]}.csv"
    if file.exists():
        return file
    train, test = (images[images["split"] == split].reset_index(drop=True) for split in ("train", "test"))
    rows = features.open_store(workspace).select(train["sha256"], mirrored=False)
    mean = np.sum([block.sum(axis=0, dtype=np.float64) for block in iterate_blocks(rows, ROWS_PER_BLOCK)], axis=0)
    mean = (mean / len(rows)).astype(np.float32)
    queries, test_queries = train.head(MAX_NUM_QUERIES), test.head(MAX_NUM_QUERIES)
    query_rows = _normalize(rows[np.arange(len(queries))], mean)
    test_rows = features.open_store(workspace).select(test_queries["sha256"], mirrored=False)
    test_rows = _normalize(test_rows[np.arange(len(test_queries))], mean)
    groups, _ = pd.factorize(train["group"])
    no_group = np.full(len(test_queries), -1)
    own_group = groups[: len(queries)]
    nearest = {
        "test_to_train": (test_queries, *_search(test_rows, no_group, rows, groups, mean, within=False)),
        "within_group": (queries, *_search(query_rows, own_group, rows, groups, mean, within=True)),
        "between_groups": (queries, *_search(query_rows, own_group, rows, groups, mean, within=False)),
    }
    table = pd.concat([_tabulate(kind, *found, train["image_id"]) for kind, found in nearest.items()])
    with replace_file(file) as temporary:
        table.to_csv(temporary, index=False)
    return file


def _search(
    queries: NDArray[np.float32],
    groups: NDArray[np.int64],
    rows: Rows,
    row_groups: NDArray[np.int64],
    mean: NDArray[np.float32],
    *,
    within: bool,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Find position and similarity of the nearest row, within or outside the query's group; -inf if there is none."""
    position = np.zeros(len(queries), np.int64)
    similarity = np.full(len(queries), -np.inf, np.float32)
    for block in cut_positions(len(rows), ROWS_PER_BLOCK):
        found = queries @ _normalize(rows[block], mean).T
        found[(groups[:, None] == row_groups[block]) != within] = -np.inf
        if within:  # query number k is row number k
            itself = block[block < len(queries)]
            found[itself, itself - block[0]] = -np.inf
        best = found.argmax(axis=1)
        nearer = found[np.arange(len(queries)), best] > similarity
        position[nearer] = block[best[nearer]]
        similarity[nearer] = found[nearer, best[nearer]]
    return position, similarity


def _tabulate(
    kind: str, queries: pd.DataFrame, position: NDArray[np.int64], similarity: NDArray[np.float32], names: pd.Series
) -> pd.DataFrame:
    table = pd.DataFrame(
        {
            "kind": kind,
            "image_id": queries["image_id"].to_numpy(),
            "neighbour_id": names.to_numpy()[position],
            "distance": (1 - similarity.astype(np.float64)).round(7),
        }
    )
    return table[np.isfinite(similarity)].sort_values("distance", kind="stable")


def _normalize(features: NDArray[np.float32], mean: NDArray[np.float32]) -> NDArray[np.float32]:
    centered = features - mean
    return centered / np.maximum(np.linalg.norm(centered, axis=1, keepdims=True), np.float32(1e-12))

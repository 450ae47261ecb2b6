"""The leakage audit: does a test image have a suspiciously close relative among the training images?

The features tell how alike two images are. How close is close shows in the training images themselves: the distance
to the nearest image of the same group, and to the nearest image of any other group.
"""

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hip_mri.dataset.manifest import digest_table, read_manifest, select_ready
from hip_mri.models.features import FeatureSet
from hip_mri.models.fitting import Rows
from hip_mri.storage import digest, replace_file
from hip_mri.workspace import Workspace

MAX_NUM_ASKED: Final = 2000
"""Images of each kind whose nearest neighbour is looked up; more would tell no more and take hours on a million."""

ROWS_PER_BLOCK: Final = 4096

RECIPE: Final = 1
"""Number of this way to look for neighbours; a change that alters distances raises it."""


def find_neighbours(workspace: Workspace, features: FeatureSet) -> Path:
    """Find the nearest training image of test images, and of training images within and outside their group.

    Distances are 1 - cosine of the features after subtraction of their mean over training images, 0 (the same
    direction) to 2. Of more than `MAX_NUM_ASKED` images of a split, those with the lowest hashes are looked up.

    Args:
        workspace: Its manifest and features are read; its `neighbours` folder is written.
        features: The set to compare by.

    Returns:
        CSV with the columns kind (`test_to_train`, `within_group` or `between_groups`), image_id, neighbour_id and
        distance. Training images without another one in their group have no row `within_group`.
    """
    images = select_ready(read_manifest(workspace.manifest_file)).sort_values("sha256", ignore_index=True)
    columns = ["image_id", "sha256", "group", "split"]
    file = workspace.neighbours_folder / (
        f"{digest([RECIPE, features.digest, digest_table(images[columns])])[:16]}.csv"
    )
    if file.exists():
        return file
    train, test = (images[images["split"] == split].reset_index(drop=True) for split in ("train", "test"))
    rows = features.open_store(workspace).select(train["sha256"], mirrored=False)
    mean = _find_mean(rows)
    asked = train.head(MAX_NUM_ASKED)
    asked_rows = _normalise(rows[np.arange(len(asked))], mean)
    tested = test.head(MAX_NUM_ASKED)
    tested_rows = features.open_store(workspace).select(tested["sha256"], mirrored=False)
    tested_rows = _normalise(tested_rows[np.arange(len(tested))], mean)
    codes, _ = pd.factorize(train["group"])
    own = codes[: len(asked)]
    nearest = {
        "test_to_train": (tested, *_search(tested_rows, np.full(len(tested), -1), rows, codes, mean, within=False)),
        "within_group": (asked, *_search(asked_rows, own, rows, codes, mean, within=True)),
        "between_groups": (asked, *_search(asked_rows, own, rows, codes, mean, within=False)),
    }
    table = pd.concat([_tabulate(kind, *found, train["image_id"]) for kind, found in nearest.items()])
    with replace_file(file) as temporary:
        table.to_csv(temporary, index=False)
    return file


def _search(
    asked: NDArray[np.float32],
    groups: NDArray[np.int64],
    rows: Rows,
    row_groups: NDArray[np.int64],
    mean: NDArray[np.float32],
    *,
    within: bool,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Position and similarity of the nearest row of another image, in the same group or outside it; -inf: none."""
    position = np.zeros(len(asked), np.int64)
    similarity = np.full(len(asked), -np.inf, np.float32)
    for start in range(0, len(rows), ROWS_PER_BLOCK):
        block = np.arange(start, min(start + ROWS_PER_BLOCK, len(rows)))
        found = asked @ _normalise(rows[block], mean).T
        is_related = groups[:, None] == row_groups[block]
        found[is_related != within] = -np.inf
        if within:  # an image that is asked stands at its own position among the rows
            itself = np.arange(start, min(start + ROWS_PER_BLOCK, len(asked)))
            found[itself, itself - start] = -np.inf
        best = found.argmax(axis=1)
        nearer = found[np.arange(len(asked)), best] > similarity
        position[nearer] = block[best[nearer]]
        similarity[nearer] = found[nearer, best[nearer]]
    return position, similarity


def _tabulate(
    kind: str, asked: pd.DataFrame, position: NDArray[np.int64], similarity: NDArray[np.float32], names: pd.Series
) -> pd.DataFrame:
    table = pd.DataFrame(
        {
            "kind": kind,
            "image_id": asked["image_id"].to_numpy(),
            "neighbour_id": names.to_numpy()[position],
            "distance": (1 - similarity.astype(np.float64)).round(7),
        }
    )
    return table[np.isfinite(similarity)].sort_values("distance", kind="stable")


def _find_mean(rows: Rows) -> NDArray[np.float32]:
    total = 0.0
    for start in range(0, len(rows), ROWS_PER_BLOCK):
        total = total + rows[np.arange(start, min(start + ROWS_PER_BLOCK, len(rows)))].sum(axis=0, dtype=np.float64)
    return (np.asarray(total) / len(rows)).astype(np.float32)


def _normalise(features: NDArray[np.float32], mean: NDArray[np.float32]) -> NDArray[np.float32]:
    centred = features - mean
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), np.float32(1e-12))

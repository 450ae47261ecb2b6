"""The nearest training images, compared with an exhaustive search."""

import numpy as np
import pandas as pd

from hip_mri.dataset.manifest import read_manifest
from hip_mri.monitoring import neighbors
from hip_mri.monitoring.neighbors import find_neighbors


def test_neighbors_are_the_nearest_of_all(trained_workspace, monkeypatch) -> None:
    workspace, features = trained_workspace
    monkeypatch.setattr(neighbors, "ROWS_PER_BLOCK", 7)
    table = pd.read_csv(find_neighbors(workspace, features), dtype={"image_id": "str", "neighbour_id": "str"})
    manifest = read_manifest(workspace.manifest_file)
    images = manifest[manifest["split"].isin(["train", "test"])].set_index("image_id")
    store = features.open_store(workspace)
    rows = store.select(images["sha256"], mirrored=False)[np.arange(len(images))].astype(np.float64)
    is_train = (images["split"] == "train").to_numpy()
    rows -= rows[is_train].mean(axis=0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    distance = pd.DataFrame(1 - rows @ rows.T, images.index, images.index).loc[~is_train, images.index[is_train]]
    found = table.set_index("image_id")
    assert set(found.index) == set(distance.index)
    for image_id, row in found.iterrows():
        assert abs(row["distance"] - distance.loc[image_id].min()) < 1e-5
        assert abs(distance.loc[image_id, row["neighbour_id"]] - row["distance"]) < 1e-5


def test_it_is_done_once(trained_workspace) -> None:
    workspace, features = trained_workspace
    file = find_neighbors(workspace, features)
    written = file.stat().st_mtime_ns
    assert find_neighbors(workspace, features).stat().st_mtime_ns == written

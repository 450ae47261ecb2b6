"""A batch of new images with their names, which are stored in a separate file."""

import pandas as pd

from hip_mri.dataset.manifest import read_manifest
from hip_mri.workspace import Workspace


def read_batch(workspace: Workspace) -> pd.DataFrame:
    """The manifest of a batch by the names of its files; both files are in the order of image ids and names."""
    names = pd.read_csv(workspace.batch_names_file, dtype="str")
    manifest = read_manifest(workspace.manifest_file)
    assert list(names["image_id"]) == list(manifest["image_id"])
    return manifest.assign(source_name=names["source_name"]).set_index("source_name")

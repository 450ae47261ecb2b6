"""The registry of splits, `splits.parquet`: keeps the split that each image was given, or its quarantine.

Images of a batch that does not look like the training images are quarantined: the registry keeps them under the split
`set_aside`, so that later runs do not use them either, and the manifest lists them as quarantined.
"""

import logging
from collections.abc import Collection
from typing import Final

import pandas as pd

from hip_mri.dataset.manifest import read_manifest, write_manifest, write_quarantine
from hip_mri.dataset.table_files import read_table, write_table
from hip_mri.errors import WorkspaceError
from hip_mri.hashes import digest
from hip_mri.storage import read_json, write_json
from hip_mri.workspace import Workspace

logger = logging.getLogger(__name__)

HELD_OUT: Final = "held_out"
"""Split of an image that is related to images of two splits or of a locked test set, and its state in the manifest."""

SET_ASIDE: Final = "set_aside"
"""Value in the registry of splits for a quarantined image."""

UNLIKE_TRAINING: Final = "unlike_training"
"""Reason code of an image whose batch does not look like the training images."""

SPLIT_COLUMNS: Final = ("sha256", "split", "patient")
"""SHA-256 of the image, its split, `held_out` or `set_aside`, and the keyed hash of its patient or empty."""


def read_split_registry(workspace: Workspace) -> pd.DataFrame:
    """Read the splits of earlier runs; columns of `SPLIT_COLUMNS`, without a row before the first split.

    Raises:
        WorkspaceError: The file is damaged.
    """
    advice = (
        "Restore it from a backup; without it images would change their split. To draw all splits anew, start in an "
        "empty workspace."
    )
    return read_table(workspace.splits_file, SPLIT_COLUMNS, advice)[list(SPLIT_COLUMNS)]


def extend_split_registry(images: pd.DataFrame, workspace: Workspace) -> None:
    """Add or replace the splits of these images (`SPLIT_COLUMNS`); earlier images that are not among them stay."""
    rows = pd.concat([read_split_registry(workspace), images.loc[:, list(SPLIT_COLUMNS)]])
    write_split_registry(rows.drop_duplicates("sha256", keep="last"), workspace)


def write_split_registry(rows: pd.DataFrame, workspace: Workspace) -> None:
    """Replace the registry; one row per image (`SPLIT_COLUMNS`)."""
    write_table(workspace.splits_file, rows.sort_values("sha256", ignore_index=True))


def lock_test_set(workspace: Workspace) -> dict[str, int | str]:
    """Lock the test set at its first use, so that any later change of it is an error.

    Returns:
        `sha256` of the sorted list of its images' SHA-256, and `num_images`.

    Raises:
        WorkspaceError: The list is not the one that was locked.
    """
    if not workspace.test_set_file.exists():
        write_json(workspace.test_set_file, _describe_test_set(workspace))
    return check_test_set(workspace)


def check_test_set(workspace: Workspace) -> dict[str, int | str]:
    """Check that a locked test set is unchanged; see `lock_test_set`."""
    found = _describe_test_set(workspace)
    if workspace.test_set_file.exists() and read_json(workspace.test_set_file) != found:
        raise WorkspaceError(
            f"{workspace.splits_file} no longer holds the test set that was locked in {workspace.test_set_file.name}. "
            "Restore both from a backup, or start in an empty workspace."
        )
    return found


def _describe_test_set(workspace: Workspace) -> dict[str, int | str]:
    registry = read_split_registry(workspace)
    listed = sorted(registry.loc[registry["split"] == "test", "sha256"])
    return {"sha256": digest(listed), "num_images": len(listed)}


def quarantine_images(hashes: Collection[str], workspace: Workspace) -> None:
    """Exclude images from this run and from later ones, until `lift_quarantine`.

    Args:
        hashes: SHA-256 of images that no model has been trained on.
        workspace: Its registry of splits, manifest and `quarantine.csv` are written.
    """
    manifest = read_manifest(workspace.manifest_file)
    chosen = manifest[manifest["sha256"].isin(hashes) & (manifest["state"] == "ready")]
    extend_split_registry(chosen.assign(split=SET_ASIDE), workspace)
    manifest = apply_quarantine(manifest, workspace)
    write_manifest(workspace.manifest_file, manifest)
    write_quarantine(workspace.quarantine_file, manifest)
    logger.warning("%d images are quarantined and listed in quarantine.csv as %s", len(chosen), UNLIKE_TRAINING)


def apply_quarantine(manifest: pd.DataFrame, workspace: Workspace) -> pd.DataFrame:
    """Mark the rows of a manifest as quarantined whose images an earlier call of `quarantine_images` excluded."""
    registry = read_split_registry(workspace)
    is_marked = manifest["sha256"].isin(registry.loc[registry["split"] == SET_ASIDE, "sha256"])
    is_marked &= manifest["state"] != "quarantined"
    marked = manifest.copy()
    marked.loc[is_marked, ["state", "reason", "split", "group"]] = ["quarantined", UNLIKE_TRAINING, "", ""]
    return marked


def lift_quarantine(workspace: Workspace) -> int:
    """Let the next ingest use all images again that `quarantine_images` excluded; returns their number."""
    registry = read_split_registry(workspace)
    is_excluded = registry["split"] == SET_ASIDE
    if is_excluded.any():
        write_split_registry(registry[~is_excluded], workspace)
        logger.info("The quarantine of %d images is lifted", is_excluded.sum())
    return int(is_excluded.sum())

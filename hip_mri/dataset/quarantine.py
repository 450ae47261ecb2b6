"""Quarantine of image batches that do not look like the training images.

The registry of splits remembers them under the split `set_aside`, so later runs do not use them either; the manifest
lists them as quarantined.
"""

import logging
from collections.abc import Collection
from typing import Final

import pandas as pd

from hip_mri.dataset.manifest import read_manifest, write_manifest, write_quarantine
from hip_mri.dataset.split_registry import extend_split_registry, read_split_registry, write_split_registry
from hip_mri.workspace import Workspace

logger = logging.getLogger(__name__)

SET_ASIDE: Final = "set_aside"
"""Value in the registry of splits for a quarantined image."""

UNLIKE_TRAINING: Final = "unlike_training"
"""Reason code of an image whose batch does not look like the training images."""


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

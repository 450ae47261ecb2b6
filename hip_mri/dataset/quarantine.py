"""Images that look unlike those of training are set aside, until someone admits them.

The ledger of splits remembers them under the split `set_aside`; the manifest lists them as quarantined.
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
"""Stands in the ledger in place of a split."""

UNLIKE_TRAINING: Final = "unlike_training"
"""Reason code of an image that came with a batch which does not look like the training images."""


def quarantine_images(hashes: Collection[str], workspace: Workspace) -> None:
    """Take images out of use, in this run and in later ones.

    Args:
        hashes: SHA-256 of images that no model has been trained on.
        workspace: Its ledger, manifest and `quarantine.csv` are written.
    """
    manifest = read_manifest(workspace.manifest_file)
    chosen = manifest[manifest["sha256"].isin(hashes) & (manifest["state"] == "ready")]
    extend_split_registry(chosen.assign(split=SET_ASIDE), workspace)
    manifest = apply_quarantine(manifest, workspace)
    write_manifest(workspace.manifest_file, manifest)
    write_quarantine(workspace.quarantine_file, manifest)
    logger.warning("%d images are set aside and listed in quarantine.csv as %s", len(chosen), UNLIKE_TRAINING)


def apply_quarantine(manifest: pd.DataFrame, workspace: Workspace) -> pd.DataFrame:
    """Quarantine the rows of a manifest whose images the ledger has set aside."""
    ledger = read_split_registry(workspace)
    is_set_aside = manifest["sha256"].isin(ledger.loc[ledger["split"] == SET_ASIDE, "sha256"])
    is_set_aside &= manifest["state"] != "quarantined"
    marked = manifest.copy()
    marked.loc[is_set_aside, ["state", "reason", "split", "group"]] = ["quarantined", UNLIKE_TRAINING, "", ""]
    return marked


def lift_quarantine(workspace: Workspace) -> int:
    """Let every image that was set aside be taken in again; returns their number."""
    ledger = read_split_registry(workspace)
    is_set_aside = ledger["split"] == SET_ASIDE
    if is_set_aside.any():
        write_split_registry(ledger[~is_set_aside], workspace)
        logger.info("%d images that were set aside are admitted", is_set_aside.sum())
    return int(is_set_aside.sum())

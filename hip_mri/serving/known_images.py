"""Finds the images of a batch that trained, validated or tested the model that scores them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pandas as pd

from hip_mri.evaluation.run_tables import read_table

NOT_RECORDED: Final = "not_recorded"
"""Stands for the split of each image if the folder of the model has no `manifest.csv`."""

USES: Final = {"train": "trained", "val": "validated", "test": "tested"}
"""How the model used the images of each split, for sentences."""


def read_known_splits(manifest_file: Path | None) -> dict[str, str] | None:
    """Read the split of each image that a run used.

    Args:
        manifest_file: The `manifest.csv` of the run; `None` if it is missing.

    Returns:
        `train`, `val` or `test` by the SHA-256 of the pixels of the image; `None` without a manifest.

    Raises:
        WorkspaceError: The manifest cannot be read.
    """
    if manifest_file is None:
        return None
    manifest = read_table(manifest_file)
    used = manifest[manifest["split"] != ""]  # a duplicate has the hash of the image that is used, and no split
    return dict(zip(used["sha256"], used["split"], strict=True))


def find_known_splits(hashes: pd.Series, known_splits: Mapping[str, str] | None) -> pd.Series:
    """Find the split of each image in the run that trained the model.

    Images are compared by the SHA-256 of their pixels. A lossless copy is found in any file format; a copy with other
    pixels, such as one that was resized or saved as JPEG, is not.

    Args:
        hashes: SHA-256 of the pixels of each image.
        known_splits: See `read_known_splits`.

    Returns:
        `train`, `val`, `test`, or empty for an image that the run did not use; `NOT_RECORDED` for all images without a
        manifest. The index is that of `hashes`.
    """
    if known_splits is None:
        return pd.Series(NOT_RECORDED, hashes.index)
    return pd.Series([known_splits.get(sha256, "") for sha256 in hashes], hashes.index, dtype="str")


def count_known(splits: pd.Series) -> dict[str, int] | None:
    """Count the images of each split of `USES`; `None` if the splits are not recorded."""
    if splits.eq(NOT_RECORDED).any():
        return None
    return {split: int(splits.eq(split).sum()) for split in USES}


def describe_known(known: dict[str, int] | None, num_images: int) -> str:
    """Describe the known images of a batch in a notice; empty if there are none, or if they are not recorded."""
    uses = [f"{count:,} {USES[split]}" for split, count in (known or {}).items() if count]
    if not uses:
        return ""
    return (
        f"KNOWN IMAGES: of {num_images:,} images, {', '.join(uses)} this model. "
        "Their scores do not show how well it works on new images."
    )

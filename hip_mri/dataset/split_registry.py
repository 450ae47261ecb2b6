"""The registry of splits, `splits.parquet`: keeps the split that each image was given."""

from typing import Final

import pandas as pd

from hip_mri.dataset.tables import read_table, write_table
from hip_mri.errors import WorkspaceError
from hip_mri.storage import digest, read_json, write_json
from hip_mri.workspace import Workspace

HELD_OUT: Final = "held_out"
"""Split of an image that is related to images of two splits or of a locked test set, and its state in the manifest."""

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

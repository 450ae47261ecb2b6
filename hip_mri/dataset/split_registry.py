"""`splits.parquet`: which split each image was given, for good."""

import pandas as pd

from hip_mri.dataset.manifest import UNREADABLE
from hip_mri.errors import WorkspaceError
from hip_mri.storage import digest, read_json, replace_file, write_json
from hip_mri.workspace import Workspace

SPLIT_COLUMNS = ("sha256", "split", "patient")
"""SHA-256 of the image, its split, `held_out` or `set_aside`, and the keyed hash of its patient or empty."""


def read_split_registry(workspace: Workspace) -> pd.DataFrame:
    """Read what was given before; columns of `SPLIT_COLUMNS`, without a row before the first split.

    Raises:
        WorkspaceError: The file is damaged.
    """
    if not workspace.splits_file.exists():
        return pd.DataFrame({column: [] for column in SPLIT_COLUMNS}, dtype="str")
    try:
        return pd.read_parquet(workspace.splits_file)[list(SPLIT_COLUMNS)]
    except UNREADABLE as error:
        raise WorkspaceError(
            f"{workspace.splits_file} cannot be read. Restore it from a backup; without it images would change their "
            "split. To draw all splits anew, start in an empty workspace."
        ) from error


def extend_split_registry(images: pd.DataFrame, workspace: Workspace) -> None:
    """Keep the splits of these images (`SPLIT_COLUMNS`), and of earlier ones that the source no longer holds."""
    rows = pd.concat([read_split_registry(workspace), images.loc[:, list(SPLIT_COLUMNS)]])
    write_split_registry(rows.drop_duplicates("sha256", keep="last"), workspace)


def write_split_registry(rows: pd.DataFrame, workspace: Workspace) -> None:
    """Replace the ledger; one row per image (`SPLIT_COLUMNS`)."""
    rows = rows.sort_values("sha256", ignore_index=True)
    with replace_file(workspace.splits_file, is_private=True) as temporary:
        rows.to_parquet(temporary, index=False)


def lock_test_set(workspace: Workspace) -> dict[str, int | str]:
    """Lock the test set at its first use, so that nothing joins or leaves it unnoticed.

    Returns:
        `sha256` of the sorted list of its images' SHA-256, and `num_images`.

    Raises:
        WorkspaceError: The list is not the one that was locked.
    """
    if not workspace.test_set_file.exists():
        write_json(workspace.test_set_file, _describe_test_set(workspace))
    return check_test_set(workspace)


def check_test_set(workspace: Workspace) -> dict[str, int | str]:
    """See that a locked test set is still the same; see `lock_test_set`."""
    found = _describe_test_set(workspace)
    if workspace.test_set_file.exists() and read_json(workspace.test_set_file) != found:
        raise WorkspaceError(
            f"{workspace.splits_file} no longer holds the test set that was locked in {workspace.test_set_file.name}. "
            "Restore both from a backup, or start in an empty workspace."
        )
    return found


def _describe_test_set(workspace: Workspace) -> dict[str, int | str]:
    ledger = read_split_registry(workspace)
    listed = sorted(ledger.loc[ledger["split"] == "test", "sha256"])
    return {"sha256": digest(listed), "num_images": len(listed)}

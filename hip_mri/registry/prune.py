"""Removes cached files that the latest run does not need."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from hip_mri.errors import WorkspaceError
from hip_mri.workspace import Workspace


@dataclass(frozen=True)
class Removal:
    """A folder that the latest run does not use.

    Attributes:
        kind: Name of the cache, such as `features`.
        path: What is removed.
        num_bytes: Size of the files in it.
    """

    kind: str
    path: Path
    num_bytes: int


def plan_pruning(workspace: Workspace) -> list[Removal]:
    """Find the sets of features and preprocessed images that the latest finished run does not use.

    Removing them costs nothing but the time to compute them again, should their settings return.

    Args:
        workspace: Where to look.

    Raises:
        WorkspaceError: There is no finished run that says what is in use.
    """
    used = _read_used(workspace)
    folders = [
        folder
        for parent in (workspace.features_folder, workspace.preprocessed_folder)
        if parent.exists()
        for folder in sorted(parent.iterdir())
        if folder.is_dir() and folder.name not in used
    ]
    return [
        Removal(folder.parent.name, folder, sum(file.stat().st_size for file in folder.rglob("*")))
        for folder in folders
    ]


def prune(workspace: Workspace) -> list[Removal]:
    """Remove what `plan_pruning` lists, and return it."""
    _read_used(workspace)  # refuses a folder that is not a workspace before the lock creates files in it
    with workspace.hold():
        plan = plan_pruning(workspace)
        for removal in plan:
            shutil.rmtree(removal.path)
    return plan


def _read_used(workspace: Workspace) -> set[str]:
    """Names of the sets that the latest run used."""
    finished = sorted(workspace.runs_folder.glob("[0-9]*/metrics.json"), key=lambda file: int(file.parent.name))
    try:
        features = json.loads(finished[-1].read_text())["features"]
        return {features["set"], features["preprocessed"]}
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise WorkspaceError(
            f"{workspace.runs_folder} holds no finished run that says which sets are in use. "
            "Finish a run first, or give another workspace."
        ) from error

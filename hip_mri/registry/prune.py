"""Removing what no run needs any more: `python -m hip_mri.registry.prune WORKSPACE [--yes]`."""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hip_mri.errors import HipMriError, WorkspaceError
from hip_mri.workspace import Workspace


@dataclass(frozen=True)
class Leftover:
    """A folder that the latest run does not use.

    Attributes:
        folder: What would be removed.
        num_bytes: Size of the files in it.
    """

    folder: Path
    num_bytes: int


def find_leftovers(workspace: Workspace) -> list[Leftover]:
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
    return [Leftover(folder, sum(file.stat().st_size for file in folder.rglob("*"))) for folder in folders]


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


def main(arguments: Sequence[str] | None = None) -> int:
    """List what can go, and remove it when told to; returns the exit code."""
    parser = argparse.ArgumentParser(description="Remove feature sets and images that the latest run does not use.")
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--yes", action="store_true", help="remove; without it they are only listed")
    given = parser.parse_args(arguments)
    try:
        workspace = Workspace(given.workspace)
        _read_used(workspace)  # a folder that is no workspace is refused before it is made one
        with workspace.hold():
            leftovers = find_leftovers(workspace)
            for leftover in leftovers:
                print(f"{leftover.num_bytes / 1e6:10.1f} MB  {leftover.folder}")
                if given.yes:
                    shutil.rmtree(leftover.folder)
    except HipMriError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not leftovers:
        print("Nothing to remove: the latest run uses all sets.")
        return 0
    total = sum(leftover.num_bytes for leftover in leftovers) / 1e6
    print(f"{total:10.1f} MB  {'removed' if given.yes else 'can go; add --yes to remove'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What the latest run does not use is listed, and goes only when told to."""

import json
from pathlib import Path

import pytest

from hip_mri.errors import WorkspaceError
from hip_mri.registry.prune import plan_pruning, prune
from hip_mri.workspace import Workspace


@pytest.fixture
def filled(workspace: Workspace) -> Workspace:
    for parent, names in ((workspace.features_folder, ("new", "old")), (workspace.preprocessed_folder, ("p1", "p0"))):
        for name in names:
            (parent / name).mkdir(parents=True)
            (parent / name / "file").write_bytes(b"x" * 1_000_000)
    run = workspace.runs_folder / "0001"
    run.mkdir(parents=True)
    (run / "metrics.json").write_text(json.dumps({"features": {"set": "new", "preprocessed": "p1"}}))
    return workspace


def list_folders(workspace: Workspace) -> set[str]:
    return {folder.name for folder in (*workspace.features_folder.iterdir(), *workspace.preprocessed_folder.iterdir())}


def test_listing_removes_nothing(filled: Workspace) -> None:
    assert sum(removal.num_bytes for removal in plan_pruning(filled)) == 2_000_000
    assert list_folders(filled) == {"new", "old", "p1", "p0"}


def test_yes_removes_what_the_latest_run_does_not_use(filled: Workspace) -> None:
    prune(filled)
    assert list_folders(filled) == {"new", "p1"}


def test_without_a_run_nothing_is_touched(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="holds no finished run"):
        prune(Workspace(tmp_path))

"""Fixtures with finished runs and registered versions, whose model is a file of a few bytes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from hip_mri.hashes import hash_files
from hip_mri.registry.registration import register_version
from hip_mri.registry.versions import Version
from hip_mri.storage import find_next_folder, write_json
from hip_mri.workspace import Workspace

TEST_SET = "ab" * 32

WriteRun = Callable[..., Path]


@pytest.fixture
def write_run(workspace: Workspace) -> WriteRun:
    """Write the next run; its files follow from `content`."""

    def write(content: str = "", further: dict[str, bytes] | None = None) -> Path:
        folder = find_next_folder(workspace.runs_folder)
        (folder / "figures").mkdir(parents=True)
        content = content or f"of run {folder.name}"
        for name in ("model.keras", "predictions.csv", "manifest.csv", "config.yaml", "figures/roc.png"):
            (folder / name).write_text(f"{name} {content}")
        for name, made in (further or {}).items():
            (folder / name).write_bytes(made)
        write_json(folder / "metrics.json", {"test": {"auc": 0.875}, "test_set": {"sha256": TEST_SET}})
        write_json(folder / "files.json", hash_files(folder))
        return folder

    return write


@pytest.fixture
def versions(workspace: Workspace, write_run: WriteRun) -> list[Version]:
    """Three registered versions, none of them champion."""
    return [register_version(workspace, write_run()) for _ in range(3)]

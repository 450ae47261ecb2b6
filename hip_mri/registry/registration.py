"""Registers finished runs as model versions."""

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from hip_mri.errors import ReleaseError, list_offenders
from hip_mri.hashes import HASHES, compare_hashes, read_hashes
from hip_mri.registry.champion import read_history
from hip_mri.registry.versions import (
    MODEL,
    RECORD,
    Version,
    describe_version,
    list_unreported,
    list_versions,
    name_version,
)
from hip_mri.storage import find_next_number, publish_folder, read_json, write_json
from hip_mri.workspace import Workspace

FILES: Final = (MODEL, "metrics.json", "predictions.csv", "manifest.csv", "config.yaml")
"""Files of a run that every version has."""

RESULTS: Final = (MODEL, "predictions.csv", "manifest.csv")
"""Those that are the same, byte for byte, when a run is repeated."""

FURTHER_FILES: Final = ("novelty.npz",)
"""Files of a run that a version takes along where the run has them."""


def register_version(workspace: Workspace, run_folder: Path, *, is_challenger: bool = False) -> Version:
    """Make a version of a finished run; the same run always gives the same version.

    Args:
        workspace: The version is published, whole or not at all, below its `releases/versions`.
        run_folder: Such as `workspace/runs/0003`; every file must be the one that the run recorded.
        is_challenger: Whether a retraining made it. One that was killed is run again, and finds what it registered by
            its model, its scores and its images.

    Returns:
        The new version, or the one that this run already has.

    Raises:
        ReleaseError: The folder is no finished run, or a file of it was changed.
        WorkspaceError: The disk is full or not writable.
    """
    run_folder = run_folder.resolve()
    files = _check_run(run_folder)
    with workspace.hold_releases():
        for registered in list_versions(workspace):
            if registered.run == run_folder.name and registered.files == files:
                return registered
        for unreported in list_unreported(workspace) if is_challenger else ():
            if all(unreported.files[name] == files[name] for name in RESULTS):
                return unreported
        number, history = find_next_number(workspace.versions_folder), read_history(workspace)
        version = Version(
            number=number,
            folder=workspace.versions_folder / name_version(number),
            run=run_folder.name,
            parent=history[-1].version if history else None,
            files=files,
            test_set_sha256=read_json(run_folder / "metrics.json")["test_set"]["sha256"],
            registered_at=datetime.now(UTC).isoformat(timespec="seconds"),
            is_challenger=is_challenger,
        )
        _publish(version, run_folder)
        return version


def _check_run(folder: Path) -> dict[str, str]:
    """Hashes of the files that a version takes from a run, once all of the run's files are as recorded."""
    if not (folder / HASHES).is_file():
        raise ReleaseError(f"release: {folder} is no finished run: it has no {HASHES}. Give a folder below runs.")
    differences = compare_hashes(folder)
    if differences:
        raise ReleaseError(
            f"release: {folder} is not as its run left it: {list_offenders(differences)}. Restore it, or train again."
        )
    recorded = read_hashes(folder)
    missing = [name for name in FILES if name not in recorded]
    if missing:
        raise ReleaseError(
            f"release: {folder} has no {list_offenders(missing)}, which a version needs. Train again: a finished run "
            "has them all."
        )
    return {name: recorded[name] for name in (*FILES, *FURTHER_FILES) if name in recorded}


def _publish(version: Version, run_folder: Path) -> None:
    with publish_folder(version.folder) as fresh:
        for name in version.files:
            shutil.copyfile(run_folder / name, fresh / name)  # no links: what is written into a run must not serve
        write_json(fresh / RECORD, describe_version(version))

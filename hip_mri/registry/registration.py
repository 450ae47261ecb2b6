"""Registers finished runs as model versions."""

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from hip_mri.errors import ReleaseError, list_offenders
from hip_mri.hashes import HASHES, compare_hashes, read_hashes
from hip_mri.registry.champion import read_history
from hip_mri.registry.conclusions import list_unconcluded
from hip_mri.registry.versions import RECORD, Version, describe_version, list_versions
from hip_mri.run_files import CONFIG_FILE, MANIFEST_FILE, METRICS_FILE, MODEL_FILE, NOVELTY_FILE, PREDICTIONS_FILE
from hip_mri.storage import find_next_folder, publish_folder, read_json, write_json
from hip_mri.workspace import Workspace

FILES: Final = (MODEL_FILE, METRICS_FILE, PREDICTIONS_FILE, MANIFEST_FILE, CONFIG_FILE)
"""Files of a run that every version has."""

OPTIONAL_FILES: Final = (NOVELTY_FILE,)
"""Files of a run that a version has if the run has them."""

REPRODUCIBLE_FILES: Final = (MODEL_FILE, PREDICTIONS_FILE, MANIFEST_FILE)
"""Files that are identical, byte for byte, when a run is repeated."""


def register_version(workspace: Workspace, run_folder: Path, *, is_challenger: bool = False) -> Version:
    """Register a finished run as a version; the same run always gives the same version.

    Args:
        workspace: The version is published in its `releases/versions`, completely or not at all.
        run_folder: Such as `workspace/runs/0003`; every file must be the one that the run recorded.
        is_challenger: Whether a retraining registers it. A retraining that was interrupted is repeated, and its
            version is found by its model, scores and images.

    Returns:
        The new version, or the one that this run already has.

    Raises:
        ReleaseError: The folder is not a finished run, or a file of it was changed.
        WorkspaceError: The disk is full or not writable.
    """
    run_folder = run_folder.resolve()
    files = check_run(run_folder)
    with workspace.hold_releases():
        for registered in list_versions(workspace):
            if registered.run == run_folder.name and registered.files == files:
                return registered
        for unconcluded in list_unconcluded(workspace) if is_challenger else ():
            if all(unconcluded.files[name] == files[name] for name in REPRODUCIBLE_FILES):
                return unconcluded
        folder, history = find_next_folder(workspace.versions_folder), read_history(workspace)
        version = Version(
            number=int(folder.name),
            folder=folder,
            run=run_folder.name,
            parent=history[-1].version if history else None,
            files=files,
            test_set_sha256=read_json(run_folder / METRICS_FILE)["test_set"]["sha256"],
            registered_at=datetime.now(UTC).isoformat(timespec="seconds"),
            is_challenger=is_challenger,
        )
        with publish_folder(version.folder) as fresh:
            for name in files:
                shutil.copyfile(run_folder / name, fresh / name)  # not linked: the run folder may be edited later
            write_json(fresh / RECORD, describe_version(version))
        return version


def check_run(folder: Path) -> dict[str, str]:
    """Check that all files of a finished run are as it recorded them.

    Returns:
        SHA-256 of each file that a version takes from the run, by name.

    Raises:
        ReleaseError: The folder is not a finished run, or a file of it was changed.
    """
    if not (folder / HASHES).is_file():
        raise ReleaseError(f"release: {folder} is not a finished run: it has no {HASHES}. Give a folder in runs.")
    differences = compare_hashes(folder)
    if differences:
        raise ReleaseError(
            f"release: {folder} was changed after its run: {list_offenders(differences)}. Restore it, or train again."
        )
    recorded = read_hashes(folder)
    missing = [name for name in FILES if name not in recorded]
    if missing:
        raise ReleaseError(f"release: {folder} has no {list_offenders(missing)}, which a version needs. Train again.")
    return {name: recorded[name] for name in (*FILES, *OPTIONAL_FILES) if name in recorded}

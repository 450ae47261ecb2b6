"""Registered model versions, each a folder with its model, what it was made from, and their SHA-256.

A version outlives its run and is never changed. Versions are ordered by number, not by time.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hip_mri.errors import ReleaseError, list_offenders
from hip_mri.hashes import digest_file, find_changed
from hip_mri.run_files import CONFIG_FILE, MANIFEST_FILE, METRICS_FILE, MODEL_FILE
from hip_mri.storage import read_json
from hip_mri.workspace import Workspace

RECORD: Final = "version.json"
"""The fields of `Version`."""


@dataclass(frozen=True)
class Version:
    """A registered model.

    Attributes:
        number: 1 for the first; a later version has a higher number.
        folder: Where its files are.
        run: Name of the run that made it.
        parent: Number of the version that was champion when this one was registered; `None` where there was none.
        files: SHA-256 of each of its files, by name.
        test_set_sha256: Of the list of test images that were locked when it was evaluated.
        registered_at: Time in UTC, for display; versions are ordered by number.
        is_challenger: Whether a retraining registered it, which must then conclude and report on it.
    """

    number: int
    folder: Path
    run: str
    parent: int | None
    files: Mapping[str, str]
    test_set_sha256: str
    registered_at: str
    is_challenger: bool = False

    @property
    def name(self) -> str:
        """Its number as it is written in paths, such as `0003`."""
        return name_version(self.number)

    @property
    def model_file(self) -> Path:
        """The whole network."""
        return self.folder / MODEL_FILE

    @property
    def model_sha256(self) -> str:
        """Of `model.keras`."""
        return self.files[MODEL_FILE]

    @property
    def record_sha256(self) -> str:
        """Of `version.json`."""
        return digest_file(self.folder / RECORD)

    @property
    def data_sha256(self) -> str:
        """Of `manifest.csv`, which lists every image with its label, group and split."""
        return self.files[MANIFEST_FILE]

    @property
    def config_sha256(self) -> str:
        """Of `config.yaml`, which holds every setting."""
        return self.files[CONFIG_FILE]

    def read_metrics(self) -> dict[str, Any]:
        """Read the metrics of its run, with the threshold that was chosen on validation images."""
        return read_json(self.folder / METRICS_FILE)


def name_version(number: int) -> str:
    """Format a version's number as it is written in paths, such as `0003`."""
    return f"{number:04d}"


def list_versions(workspace: Workspace) -> list[Version]:
    """List all versions in the order of their numbers."""
    numbers = [int(folder.name) for folder in workspace.versions_folder.glob("[0-9]*") if folder.name.isdigit()]
    return [read_version(workspace, number) for number in sorted(numbers)]


def read_version(workspace: Workspace, number: int) -> Version:
    """Read the record of a version; `check_version` also checks its files.

    Raises:
        ReleaseError: There is no such version, or its record was changed.
    """
    folder = workspace.versions_folder / name_version(number)
    if not (folder / RECORD).is_file():
        known = sorted(path.name for path in workspace.versions_folder.glob("[0-9]*"))
        raise ReleaseError(
            f"release: there is no version {folder.name} in {workspace.versions_folder}, only "
            f"{list_offenders(known) or 'none at all'}. Give one of these, or register a run first."
        )
    return read_record(folder, number)


def read_record(folder: Path, number: int | None = None) -> Version:
    """Read the record of a version's folder, which may have been copied elsewhere, under any name.

    Args:
        folder: Holds `version.json`.
        number: The number that the record must have; `None` for any.

    Raises:
        ReleaseError: The record is incomplete, inconsistent, or of another number.
        WorkspaceError: It cannot be read.
    """
    record = read_json(folder / RECORD)
    with contextlib.suppress(KeyError, TypeError, ValueError):
        version = Version(
            number=int(record["number"]),
            folder=folder,
            run=record["run"],
            parent=None if record["parent"] is None else int(record["parent"]),
            files=record["files"],
            test_set_sha256=record["test_set_sha256"],
            registered_at=record["registered_at"],
            is_challenger=record["is_challenger"],
        )
        if describe_version(version) == record and number in (None, version.number):
            return version
    raise ReleaseError(
        f"release: {folder / RECORD} contradicts itself or its folder. Restore the folder from a backup, or register "
        "the run again."
    )


def check_version(version: Version) -> None:
    """Check that every file of a version has the registered SHA-256; reads them all, in under a second.

    Raises:
        ReleaseError: A file is missing or has other content, so the model must not be used.
    """
    changed = find_changed(version.folder, version.files)
    if changed:
        raise ReleaseError(
            f"release: version {version.name} differs from what was registered: {list_offenders(changed)} in "
            f"{version.folder} is missing or has another SHA-256 than {RECORD} records. Restore the folder from a "
            "backup, or use another version."
        )


def describe_version(version: Version) -> dict[str, Any]:
    """Return the content of `version.json`."""
    return {
        "version": version.name,
        "number": version.number,
        "run": version.run,
        "parent": None if version.parent is None else name_version(version.parent),
        "model_sha256": version.model_sha256,
        "data_sha256": version.data_sha256,
        "config_sha256": version.config_sha256,
        "test_set_sha256": version.test_set_sha256,
        "registered_at": version.registered_at,
        "is_challenger": version.is_challenger,
        "files": dict(version.files),
    }

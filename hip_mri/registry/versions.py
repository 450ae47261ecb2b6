"""Versions: models that were registered, each in a folder with what it came from, hashed and never changed.

A version outlives its run. Versions are counted, not dated: `0002` came after `0001`, whatever the clocks said.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hip_mri.errors import ReleaseError, list_offenders
from hip_mri.storage import digest_file, read_json
from hip_mri.workspace import Workspace

MODEL: Final = "model.keras"
"""The whole network; the one large file of a version."""

RECORD: Final = "version.json"
"""What a version is; see `Version`."""


@dataclass(frozen=True)
class Version:
    """A registered model.

    Attributes:
        number: 1 for the first; a later version has a higher number.
        folder: Where its files lie.
        run: Name of the run that it came from.
        parent: Number of the version that was champion when this one was registered; `None` where there was none.
        files: SHA-256 of each of its files, by name.
        test_set_sha256: Of the list of test images that were locked when it was evaluated.
        registered_at: Time in UTC, for people; the order is that of the numbers.
        is_challenger: Whether a retraining made it, which owes a report on it.
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
        """Its number as it stands in paths, such as `0003`."""
        return name_version(self.number)

    @property
    def model_file(self) -> Path:
        return self.folder / MODEL

    @property
    def model_sha256(self) -> str:
        """Of `model.keras`."""
        return self.files[MODEL]

    @property
    def data_sha256(self) -> str:
        """Of `manifest.csv`, which lists every image with its label, group and split."""
        return self.files["manifest.csv"]

    @property
    def config_sha256(self) -> str:
        """Of `config.yaml`, which holds every setting."""
        return self.files["config.yaml"]

    def read_metrics(self) -> dict[str, Any]:
        """What its run measured, with the threshold that was chosen on validation images."""
        return read_json(self.folder / "metrics.json")


def name_version(number: int) -> str:
    """A version's number as it stands in paths, such as `0003`."""
    return f"{number:04d}"


def list_versions(workspace: Workspace) -> list[Version]:
    """All versions, in the order of their numbers."""
    numbers = [int(folder.name) for folder in workspace.versions_folder.glob("[0-9]*") if folder.name.isdigit()]
    return [read_version(workspace, number) for number in sorted(numbers)]


def list_unreported(workspace: Workspace) -> list[Version]:
    """Challengers of retrainings that ended before they could report; the next retraining takes them up again."""
    records = workspace.retrainings_folder.glob("[0-9]*/retraining.json")
    reported = {read_json(file)["challenger"] for file in records}
    return [it for it in list_versions(workspace) if it.is_challenger and it.name not in reported]


def read_version(workspace: Workspace, number: int) -> Version:
    """Read what a version is; its files are looked at by `check_version` alone.

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
    version = read_record(folder)
    if version.number != number:
        raise _contradict(folder)
    return version


def read_record(folder: Path) -> Version:
    """Read the record of a version's folder, which may have been copied elsewhere, under any name.

    Raises:
        ReleaseError: It contradicts itself, or is no record of a version.
        WorkspaceError: It cannot be read.
    """
    version = _parse(folder, read_json(folder / RECORD))
    if version is None:
        raise _contradict(folder)
    return version


def check_version(version: Version) -> None:
    """See that every file of a version is the one that was registered; reads them all, under a second.

    Raises:
        ReleaseError: A file is missing or has other bytes. Such a model must not serve.
    """
    changed = [
        name
        for name, sha256 in version.files.items()
        if not (version.folder / name).is_file() or digest_file(version.folder / name) != sha256
    ]
    if changed:
        raise ReleaseError(
            f"release: version {version.name} is not what was registered: {list_offenders(changed)} in "
            f"{version.folder} is missing or has another SHA-256 than {RECORD} says. Restore the folder from a "
            "backup, or release another version."
        )


def describe_version(version: Version) -> dict[str, Any]:
    """What `version.json` holds, ready for JSON."""
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


def _contradict(folder: Path) -> ReleaseError:
    return ReleaseError(
        f"release: {folder / RECORD} contradicts itself or its folder. Restore the folder from a backup, or register "
        "the run again."
    )


def _parse(folder: Path, record: Any) -> Version | None:
    """Take a version from its record; `None` where the record is none, or contradicts itself."""
    try:
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
        return version if describe_version(version) == record else None
    except (KeyError, TypeError, ValueError):
        return None

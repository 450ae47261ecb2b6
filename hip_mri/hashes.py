"""Hashes of values and files; those of a folder are stored in its `files.json`, to detect later changes."""

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from hip_mri.errors import WorkspaceError
from hip_mri.run_files import PATIENTS_DRAFT_FILE
from hip_mri.storage import read_json, write_json

HASHES: Final = "files.json"
"""SHA-256 of every other file of a folder, by its path in it."""


def digest(content: Any) -> str:
    """SHA-256 of a JSON-like value, independent of the order of keys; 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def digest_file(file: Path) -> str:
    """SHA-256 of a file's content; 64 hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def record_hashes(folder: Path) -> None:
    """Write the list of a folder, after all its other files."""
    write_json(folder / HASHES, hash_files(folder))


def is_as_recorded(folder: Path, needed: Collection[str]) -> bool:
    """Whether all recorded files exist with the same bytes; reads them all.

    Args:
        folder: May hold further files, such as those that an engine exported later.
        needed: Names that must be among the recorded ones.
    """
    try:
        recorded = read_hashes(folder)
        return recorded.keys() >= set(needed) and not find_changed(folder, recorded)
    except (OSError, WorkspaceError):
        return False


def find_changed(folder: Path, recorded: Mapping[str, str]) -> list[str]:
    """Name the recorded files that are missing or have another SHA-256; reads them all."""
    files = {name: folder / name for name in recorded}
    return [name for name, file in files.items() if not file.is_file() or digest_file(file) != recorded[name]]


def hash_files(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a folder, by its path in it, but for the list itself and files that users edit."""
    left_out = (folder / HASHES, folder / PATIENTS_DRAFT_FILE)
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file not in left_out)
    return {file.relative_to(folder).as_posix(): digest_file(file) for file in files}


def read_hashes(folder: Path) -> dict[str, str]:
    """Recorded SHA-256 of every file of a folder but the list itself, by its path in it.

    Raises:
        WorkspaceError: The run has no readable list of hashes.
    """
    recorded = read_json(folder / HASHES)
    if not isinstance(recorded, dict) or not all(isinstance(sha256, str) for sha256 in recorded.values()):
        raise WorkspaceError(
            f"{folder / HASHES} must hold the SHA-256 of each file by its name. Restore it from a backup, or train "
            "again."
        )
    return recorded


def compare_hashes(folder: Path) -> list[str]:
    """Describe each file of a run folder that is missing, added or changed; empty if there are none.

    Raises:
        WorkspaceError: The run has no readable list of hashes.
    """
    recorded, found = read_hashes(folder), hash_files(folder)
    return [
        _describe_change(name, recorded.get(name), found.get(name))
        for name in sorted(recorded.keys() | found.keys())
        if recorded.get(name) != found.get(name)
    ]


def _describe_change(name: str, recorded: str | None, found: str | None) -> str:
    if found is None:
        return f"{name} is missing"
    if recorded is None:
        return f"{name} does not belong to the run"
    return f"{name} was changed: its SHA-256 is {found[:12]}…, {recorded[:12]}… was recorded"

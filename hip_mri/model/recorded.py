"""Folders that carry the SHA-256 of what is in them: what was changed is noticed, and made anew."""

from collections.abc import Collection
from pathlib import Path
from typing import Final

from hip_mri.errors import WorkspaceError
from hip_mri.storage import digest_file, read_json, write_json

HASHES_NAME: Final = "files.json"
"""SHA-256 of the files, by name."""


def record_hashes(folder: Path) -> None:
    """Write down the SHA-256 of every file in a folder that is about to be published; the last thing to do with it."""
    write_json(folder / HASHES_NAME, {file.name: digest_file(file) for file in sorted(folder.iterdir())})


def is_as_recorded(folder: Path, needed: Collection[str]) -> bool:
    """Whether every file is there that was recorded, with the same bytes; reads them all.

    Args:
        folder: May hold more by now, such as what an engine exports.
        needed: Names that must be among the recorded ones.
    """
    try:
        recorded = read_json(folder / HASHES_NAME)
        is_complete = recorded.keys() >= set(needed)
        return is_complete and all(digest_file(folder / name) == sha256 for name, sha256 in recorded.items())
    except (OSError, AttributeError, TypeError, WorkspaceError):
        return False

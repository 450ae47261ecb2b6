"""The table of patients that lies in a delivery, beside its class folders or one folder above: `...patients.csv`."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hip_mri.config import SourceLimits
from hip_mri.data.archive import Archive, open_archive
from hip_mri.data.class_folders import NEEDED
from hip_mri.data.folder_listing import list_near_top
from hip_mri.data.source import SHOWN
from hip_mri.errors import ImageError, SourceError

_NAME: Final = re.compile(r"(.*-)?patients\.csv", re.IGNORECASE)

_MOST_BYTES: Final = 2**27
"""Largest table of patients: a hundred bytes for each of a million images."""

_INSTEAD: Final = "give the table with --data.patients-file."


def read_patients_table(path: Path, limits: SourceLimits = SourceLimits()) -> bytes | None:
    """Read the table of patients in a source.

    Args:
        path: A zip file or a folder.
        limits: How much the source may hold.

    Returns:
        The file's content; `None` where there is none.

    Raises:
        SourceError: There are several, or it cannot be read, is too large, a link that leads out of the folder, a
            pipe, a device or a folder.
        ArchiveError: The zip file cannot be trusted.
    """
    if path.is_dir():
        return _read_from_folder(path, limits)
    with open_archive(path, SHOWN, limits, NEEDED) as archive:
        return _read_from_archive(archive)


def _read_from_folder(folder: Path, limits: SourceLimits) -> bytes | None:
    tables = list_near_top(folder, lambda name: _NAME.fullmatch(name) is not None, limits)
    if (name := _choose_one(sorted(tables))) is None:
        return None
    num_bytes = tables[name].st_size
    _check_size(num_bytes)
    try:
        with (folder / name).open("rb") as stream:
            content = stream.read(num_bytes + 1)
    except OSError as error:
        raise SourceError(
            f"source: its table of patients cannot be read ({error.strerror}). "
            f"Give yourself the right to read it, or {_INSTEAD}"
        ) from None  # the error names the file
    if len(content) != num_bytes:
        raise SourceError(
            f"source: its table of patients changed while it was read. Start again when it is written, or {_INSTEAD}"
        )
    return content


def _read_from_archive(archive: Archive) -> bytes | None:
    tables = [name for name in archive.names if name.count("/") <= 1 and _NAME.fullmatch(name.rpartition("/")[2])]
    if (name := _choose_one(tables)) is None:
        return None
    _check_size(archive.tell_size(name))
    try:
        return archive.read(name)
    except ImageError as error:
        raise SourceError(
            f"source: the table of patients in it is damaged. Pack the folders again, or {_INSTEAD}"
        ) from error


def _choose_one(names: Sequence[str]) -> str | None:
    """The name of the table; `None` without one. Names of several are not told: they can identify patients."""
    if len(names) > 1:
        raise SourceError(
            f"source: it holds {len(names)} tables of patients, files whose names end in patients.csv. "
            "Keep one, or give the right one with --data.patients-file."
        )
    return names[0] if names else None


def _check_size(num_bytes: int) -> None:
    if num_bytes > _MOST_BYTES:
        raise SourceError(
            f"source: its table of patients has {num_bytes:,} bytes, above {_MOST_BYTES:,}. "
            "Keep the rows of its images alone."
        )

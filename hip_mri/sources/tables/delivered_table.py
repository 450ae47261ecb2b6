"""Reads the table in a delivery, at its top or one folder below: `...patients.csv` or `...labels.csv`."""

import logging
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from hip_mri.config import SourceLimits
from hip_mri.errors import ImageError, SourceError
from hip_mri.sources.class_folders import NEEDED
from hip_mri.sources.folder_listing import list_near_top
from hip_mri.sources.ignored_files import select_data_files
from hip_mri.sources.source import SHOWN
from hip_mri.sources.tables.patient_table import NEEDED_COLUMNS, has_labels, has_needed_columns
from hip_mri.sources.zip_files.archive import Archive, open_archive

logger = logging.getLogger(__name__)

_PATIENTS: Final = re.compile(r"(.*[-_])?patients\.csv", re.IGNORECASE)
_LABELS: Final = re.compile(r"(.*[-_])?labels\.csv", re.IGNORECASE)
"""Read only with the required columns: data sets contain files of this name for other programs."""

_MAX_BYTES: Final = 2**27
"""Maximum size of a table: a hundred bytes for each of a million images."""

_ALTERNATIVE: Final = "give the table with --data.patients-file."


def read_patients_table(path: Path, limits: SourceLimits = SourceLimits()) -> bytes | None:
    """Read the table of patients, labels and splits in a source.

    Args:
        path: A zip file or a folder.
        limits: Maximum size and number of files of the source.

    Returns:
        The content of the table; `None` if there is none.

    Raises:
        SourceError: There are several tables, or it cannot be read, is too large, a link that leads out of the folder,
            a pipe, a device or a folder.
        ArchiveError: The zip file cannot be trusted.
    """
    if path.is_dir():
        listed = list_near_top(path, _is_wanted, limits)
        return _read_one({name: partial(_read_file, path / name, listed[name].st_size) for name in listed})
    with open_archive(path, SHOWN, limits, NEEDED) as archive:
        near_top = [name for name in archive.entries if name.count("/") <= 1]
        names = [name for name in select_data_files(near_top) if _is_wanted(name.rpartition("/")[2])]
        return _read_one({name: partial(_read_entry, archive, name) for name in names})


def has_label_table(folder: Path, limits: SourceLimits = SourceLimits()) -> bool:
    """Whether there is a valid table with labels at the top of a folder."""
    listed = list_near_top(folder, _is_wanted, limits)
    return any(has_labels(_read_file(folder / name, listed[name].st_size)) for name in listed if "/" not in name)


def _is_wanted(name: str) -> bool:
    return bool(_PATIENTS.fullmatch(name) or _LABELS.fullmatch(name))


def _read_one(readers: Mapping[str, Callable[[], bytes]]) -> bytes | None:
    """Read the only table among files. Messages omit their names, which can identify patients."""
    tables = [name for name in readers if _PATIENTS.fullmatch(name.rpartition("/")[2])]
    candidates = [readers[name]() for name in sorted(readers.keys() - set(tables))]
    labels = [content for content in candidates if has_needed_columns(content)]
    if len(labels) < len(candidates):
        logger.warning(
            "A file labels.csv is not read as a table of labels: its first line does not have %s", NEEDED_COLUMNS
        )
    if len(tables) + len(labels) > 1:
        raise SourceError(
            f"source: it holds {len(tables) + len(labels)} tables of patients, files whose names end in patients.csv "
            "or labels.csv. Keep one, or give the right one with --data.patients-file."
        )
    return readers[tables[0]]() if tables else next(iter(labels), None)


def _read_file(file: Path, num_bytes: int) -> bytes:
    _check_size(num_bytes)
    try:
        with file.open("rb") as stream:
            content = stream.read(num_bytes + 1)
    except OSError as error:
        raise SourceError(
            f"source: its table of patients cannot be read ({error.strerror}). "
            f"Give yourself the right to read it, or {_ALTERNATIVE}"
        ) from None  # the error contains the path
    if len(content) != num_bytes:
        raise SourceError(
            f"source: its table of patients changed while it was read. Start again when it is written, "
            f"or {_ALTERNATIVE}"
        )
    return content


def _read_entry(archive: Archive, name: str) -> bytes:
    _check_size(archive.entries[name].size)
    try:
        return archive.read(name)
    except ImageError as error:
        raise SourceError(
            f"source: the table of patients in it is damaged. Pack the folders again, or {_ALTERNATIVE}"
        ) from error


def _check_size(num_bytes: int) -> None:
    if num_bytes > _MAX_BYTES:
        raise SourceError(
            f"source: its table of patients has {num_bytes:,} bytes, above {_MAX_BYTES:,}. "
            "Keep the rows of its images alone."
        )

"""Reads the table in a delivery, at its top or in a folder there: `...patients.csv` or `...labels.csv`."""

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from hip_mri.config import SourceLimits
from hip_mri.errors import ImageError, SourceError
from hip_mri.sources.class_folders import NEEDED
from hip_mri.sources.folder_listing import list_near_top
from hip_mri.sources.ignored_files import select_data_files
from hip_mri.sources.source import SHOWN, read_file
from hip_mri.sources.tables.patient_table import NEEDED_COLUMNS, has_labels, has_needed_columns
from hip_mri.sources.zip_files.archive import open_archive

logger = logging.getLogger(__name__)

_PATIENTS: Final = re.compile(r"(.*[-_])?patients\.csv", re.IGNORECASE)
_LABELS: Final = re.compile(r"(.*[-_])?labels\.csv", re.IGNORECASE)
"""Read only with the required columns: data sets contain files of this name for other programs."""

_MAX_BYTES: Final = 2**27
"""Maximum size of a table: a hundred bytes for each of a million images."""


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
        ArchiveError: The zip file is rejected.
    """
    if path.is_dir():
        return _read_only_table(*_list_tables(path, limits))
    with open_archive(path, SHOWN, limits, NEEDED) as archive:
        near_top = [name for name in archive.entries if name.count("/") <= 1]
        names = [name for name in select_data_files(near_top) if _is_wanted(name.rpartition("/")[2])]
        return _read_only_table({name: archive.entries[name].size for name in names}, archive.read)


def has_label_table(folder: Path, limits: SourceLimits = SourceLimits()) -> bool:
    """Whether there is a valid table with labels at the top of a folder."""
    sizes, read = _list_tables(folder, limits)
    return any(has_labels(_read_table(read, name, size)) for name, size in sizes.items() if "/" not in name)


def _list_tables(folder: Path, limits: SourceLimits) -> tuple[dict[str, int], Callable[[str], bytes]]:
    """Sizes of the tables in a folder, by name, and the function that reads one."""
    sizes = {name: status.st_size for name, status in list_near_top(folder, _is_wanted, limits).items()}
    return sizes, lambda name: read_file(folder / name, sizes[name])


def is_table_name(name: str) -> bool:
    """Whether a file is a table by its name or path: `...patients.csv` or `...labels.csv`."""
    return _is_wanted(name.rpartition("/")[2])


def _is_wanted(name: str) -> bool:
    return bool(_PATIENTS.fullmatch(name) or _LABELS.fullmatch(name))


def _read_only_table(sizes: Mapping[str, int], read: Callable[[str], bytes]) -> bytes | None:
    """Read the only table among files. Messages omit their names, which can identify patients."""
    tables = [name for name in sizes if _PATIENTS.fullmatch(name.rpartition("/")[2])]
    candidates = [_read_table(read, name, sizes[name]) for name in sorted(sizes.keys() - set(tables))]
    labels = [content for content in candidates if has_needed_columns(content)]
    if len(labels) < len(candidates):
        logger.warning(
            "A file labels.csv is not read as a table of labels: its first line does not have %s", NEEDED_COLUMNS
        )
    if len(tables) + len(labels) > 1:
        raise SourceError(
            f"source: it contains {len(tables) + len(labels)} tables of patients (files whose names end in "
            "patients.csv or labels.csv). Keep one, or give the right one with --data.patients-file."
        )
    return _read_table(read, tables[0], sizes[tables[0]]) if tables else next(iter(labels), None)


def _read_table(read: Callable[[str], bytes], name: str, num_bytes: int) -> bytes:
    if num_bytes > _MAX_BYTES:
        raise SourceError(
            f"source: its table of patients has {num_bytes:,} bytes, above {_MAX_BYTES:,}. "
            "Keep only the rows of its images."
        )
    try:
        return read(name)
    except ImageError as error:
        raise SourceError(
            f"source: its table of patients is unusable: {error}. Replace it, or give the table with "
            "--data.patients-file."
        ) from None  # its cause contains the path

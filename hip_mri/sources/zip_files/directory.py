"""The directory of a zip file, held against the file itself before a byte of any entry is unpacked.

The standard library's `zipfile` reads what it can: it cuts names at a NUL, takes the last of two entries of one name,
finds archives inside other files and does not see that entries overlap. What it drops cannot be judged afterwards, so
the records are read here, from their bytes, and what is judged is what is unpacked. Entries are known by their position
in the directory, counted from 1 in messages: names can identify patients.
"""

import stat
import struct
from typing import Final

import numpy as np

from hip_mri.config import SourceLimits
from hip_mri.errors import LimitError
from hip_mri.sources.entry_names import decode_name, find_path_fault, normalize_path, read_unicode_path
from hip_mri.sources.zip_files.end_record import DirectoryPlace, OpenFile
from hip_mri.sources.zip_files.extents import check_extents
from hip_mri.sources.zip_files.faults import ZipFaults, name_method_fault
from hip_mri.sources.zip_files.name_clashes import find_clashes
from hip_mri.sources.zip_files.records import (
    DEFLATED,
    ENCRYPTED,
    PATCHED,
    STORED,
    UTF8,
    Directory,
    read_records,
    read_zip64,
    split_extra,
)

SMALL_ENTRY_BYTES: Final = 2**20
"""Entries up to this size may be packed as tightly as they are: an empty picture is, and does no harm."""

_LOOSE_BYTES: Final = 2**16
"""What an entry may take, packed, beyond twice its size; the worst programs add half, or some bytes."""

_HIGHEST_VERSION: Final = 63
"""6.3, the last version of the format."""


def read_directory(file: OpenFile, place: DirectoryPlace, limits: SourceLimits) -> Directory:
    """Read and judge every entry of a directory, and where its data lie.

    Args:
        file: The zip file.
        place: Where its directory is.
        limits: How much it may hold.

    Raises:
        ArchiveError: An entry cannot be trusted. Offenders are told together, by position: those that are faulty by
            themselves, then those that clash, then those that lie elsewhere than they say.
        LimitError: There is too much; this ends the reading.
    """
    _check_number(file, place, limits)
    faults = ZipFaults(file.name)
    directory = Directory()
    total = 0
    for record, raw, extra in read_records(file, place):
        faults.add(_take_in(record, raw, extra, directory), len(directory.names))
        total += directory.sizes[-1]
        _check_total(file, total, limits)
    _find_tight(directory, limits, faults)
    faults.refuse()  # before names are compared: what that takes grows with their depth, which is bounded only now
    find_clashes(directory.names, limits.most_entries, faults)
    faults.refuse()
    check_extents(file, place, directory, faults)
    faults.refuse()
    return directory


def _check_number(file: OpenFile, place: DirectoryPlace, limits: SourceLimits) -> None:
    if place.num_entries > limits.most_entries or place.num_bytes > 1024 * limits.most_entries:
        raise LimitError(
            f"source: {file.name} holds {place.num_entries:,} entries, above {limits.most_entries:,}. "
            "Divide it, or allow more with --limits.most-entries."
        )


def _check_total(file: OpenFile, total: int, limits: SourceLimits) -> None:
    if total > limits.most_bytes:
        raise LimitError(
            f"source: {file.name} would unpack to more than {limits.most_bytes:,} bytes. "
            "Divide it, or allow more with --limits.most-bytes."
        )
    if total > max(SMALL_ENTRY_BYTES, limits.most_ratio * file.num_bytes):
        raise LimitError(
            f"source: {file.name} would unpack to more than {limits.most_ratio:g} times its size, as no images do. "
            "Pack the folders again, or allow more with --limits.most-ratio."
        )


def _take_in(record: tuple, raw: bytes, extra: bytes, directory: Directory) -> str | None:
    """Add an entry to the directory; returns what is wrong with it, as one of the codes of `ZipFaults`."""
    _, _, _, version, flags, method, _, _, checksum, packed, size, _, _, _, disk, _, attributes, start = record
    name, fault = "", None
    try:
        fields = split_extra(extra)
        size, packed, start = read_zip64(fields.get(1, b""), size, packed, start)
        name = decode_name(raw, is_utf8=bool(flags & UTF8))
        if 0x7075 in fields:
            name = read_unicode_path(raw, fields[0x7075]) or name
        name = normalize_path(name)
    except UnicodeDecodeError:
        fault = "name_not_utf8"
    except (ValueError, struct.error):
        fault = "broken_record"
    directory.names.append(name)
    for column, value in (
        (directory.sizes, size),
        (directory.packed_sizes, packed),
        (directory.checksums, checksum),
        (directory.methods, method),
        (directory.flags, flags),
        (directory.starts, start),
        (directory.raw_names, hash(raw)),
    ):
        column.append(value)
    fault = fault or find_path_fault(name) or _find_kind_fault(name, attributes >> 16, size)
    if fault is None and disk:
        fault = "broken_record"
    return fault or _find_method_fault(version & 0xFF, flags, method, size, packed)


def _find_kind_fault(name: str, mode: int, size: int) -> str | None:
    """Whether an entry is something else than a file or a folder; programs off Unix leave the mode at 0."""
    is_folder = name.endswith("/")
    kind = stat.S_IFMT(mode)
    if kind not in (0, stat.S_IFDIR if is_folder else stat.S_IFREG):
        return "special_file"
    return "folder_with_content" if is_folder and size else None


def _find_method_fault(version: int, flags: int, method: int, size: int, packed: int) -> str | None:
    if flags & ENCRYPTED:
        return "encrypted"
    if method not in (STORED, DEFLATED):
        return name_method_fault(method)
    if version > _HIGHEST_VERSION or flags & PATCHED:
        return "unsupported_version"
    if method == STORED:
        return "wrong_size" if size != packed else None
    return "too_loose" if packed > 2 * size + _LOOSE_BYTES else None


def _find_tight(directory: Directory, limits: SourceLimits, faults: ZipFaults) -> None:
    sizes, packed = np.array(directory.sizes), np.array(directory.packed_sizes)
    is_tight = (sizes > SMALL_ENTRY_BYTES) & (sizes > limits.most_ratio * packed.astype(np.float64))
    for position in np.flatnonzero(is_tight).tolist():
        faults.add("too_tight", position + 1)

"""Reads the directory of a zip file with `zipfile` and checks every entry before any is extracted.

`zipfile` accepts more than can be trusted: it cuts names at a NUL, keeps the last of two entries with one name, finds
archives inside other files, and on some Python versions does not notice that entries overlap. Messages refer to entries
by their position in the directory, counted from 1, because names can identify patients.
"""

import stat
import struct
import zipfile
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hip_mri.config import SourceLimits
from hip_mri.errors import ArchiveError, LimitError
from hip_mri.sources.entry_names import decode_name, find_path_fault, normalize_path, read_unicode_path
from hip_mri.sources.zip_files.end_record import DirectoryPlace, OpenFile
from hip_mri.sources.zip_files.faults import ZipFaults, name_method_fault
from hip_mri.sources.zip_files.layout import ENCRYPTED, UTF8, find_data, split_extra
from hip_mri.sources.zip_files.name_clashes import find_clashes

METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Compression methods that are accepted. No imaging program writes others."""

SMALL_ENTRY_BYTES: Final = 2**20
"""Entries up to this size may have any compression ratio: an empty picture has a high one and does no harm."""

_MAX_OVERHEAD_BYTES: Final = 2**16
"""Packed bytes allowed beyond twice the size of an entry; the least efficient programs add half, or some bytes."""

_PATCHED: Final = 1 << 5
_ENTRY: Final = np.dtype([("start", "u8"), ("packed_size", "u8"), ("size", "u8"), ("checksum", "u4"), ("method", "u2")])


@dataclass(frozen=True)
class Directory:
    """Entries of a zip file, in the order of its directory.

    Attributes:
        names: Decoded names; names of folders end in a slash.
        entries: Offset of the data, packed size, size, CRC-32 and method of each entry, 30 bytes each.
    """

    names: list[str]
    entries: NDArray[np.void]


def read_directory(file: OpenFile, place: DirectoryPlace, limits: SourceLimits) -> Directory:
    """Read and check all entries of a zip file.

    Args:
        file: The zip file.
        place: Where its directory is.
        limits: How much it may hold.

    Raises:
        ArchiveError: An entry cannot be trusted. All offenders are listed: entries with faults of their own first, else
            names that clash, else entries that are not where the directory says.
        LimitError: It holds too much.
    """
    _check_number(file, place, limits)
    faults = ZipFaults(file.name)
    infos, unread_fault = _parse(file, place)
    names = []
    for position, info in enumerate(infos, start=1):
        name, fault = _check_entry(info)
        names.append(name)
        faults.add(fault, position)
        if info.file_size > max(SMALL_ENTRY_BYTES, limits.max_compression_ratio * info.compress_size):
            faults.add("too_tight", position)
    faults.add(unread_fault, len(infos) + 1)
    _check_total(file, sum(info.file_size for info in infos), limits)
    faults.refuse()  # names are compared only if their depth is within bounds, which the time to compare depends on
    find_clashes(names, limits.max_entries, faults)
    faults.refuse()
    starts = find_data(file, place, infos, faults)
    faults.refuse()
    rows = ((s, i.compress_size, i.file_size, i.CRC, i.compress_type) for s, i in zip(starts, infos, strict=True))
    return Directory(names, np.fromiter(rows, _ENTRY, len(infos)))


def _parse(file: OpenFile, place: DirectoryPlace) -> tuple[list[zipfile.ZipInfo], str | None]:
    """All records, and the fault of the record behind them if it stopped `zipfile`."""
    archive = zipfile.ZipFile.__new__(zipfile.ZipFile)  # an object, so that the records before a fault are known
    fault = None
    try:
        archive.__init__(file.stream)
    except UnicodeDecodeError:
        fault = "name_not_utf8"
    except NotImplementedError:
        fault = "unsupported_version"
    except zipfile.BadZipFile:
        fault = "broken_record"
    except OSError as error:
        raise file.describe_unreadable(error) from error
    infos = archive.filelist
    if archive.start_dir != place.offset or (fault is None and len(infos) != place.num_entries):
        raise ArchiveError(
            f"source: {file.name} is a damaged or truncated zip file: its directory breaks off behind entry "
            f"{min(len(infos), place.num_entries):,}. Fetch it again, or pack the folders again."
        )
    return infos, fault


def _check_number(file: OpenFile, place: DirectoryPlace, limits: SourceLimits) -> None:
    if place.num_entries > limits.max_entries or place.num_bytes > 1024 * limits.max_entries:
        raise LimitError(
            f"source: {file.name} holds {place.num_entries:,} entries, above {limits.max_entries:,}. "
            "Divide it, or allow more with --limits.max-entries."
        )


def _check_total(file: OpenFile, total: int, limits: SourceLimits) -> None:
    if total > limits.max_bytes:
        raise LimitError(
            f"source: {file.name} would unpack to more than {limits.max_bytes:,} bytes. "
            "Divide it, or allow more with --limits.max-bytes."
        )
    if total > max(SMALL_ENTRY_BYTES, limits.max_compression_ratio * file.num_bytes):
        raise LimitError(
            f"source: {file.name} would unpack to more than {limits.max_compression_ratio:g} times its size. "
            "Pack the folders again, or allow more with --limits.max-compression-ratio."
        )


def _check_entry(info: zipfile.ZipInfo) -> tuple[str, str | None]:
    """Name of an entry, and its fault as one of the codes of `ZipFaults`."""
    try:
        name = _read_name(info)
    except UnicodeDecodeError:
        return "", "name_not_utf8"
    except (ValueError, struct.error):
        return "", "broken_record"
    fault = find_path_fault(name) or _find_kind_fault(name, info.external_attr >> 16, info.file_size)
    if fault is None and info.volume:
        fault = "broken_record"
    return name, fault or _find_method_fault(info)


def _read_name(info: zipfile.ZipInfo) -> str:
    is_utf8 = bool(info.flag_bits & UTF8)
    raw = info.orig_filename.encode("utf-8" if is_utf8 else "cp437")
    fields = split_extra(info.extra)
    name = decode_name(raw, is_utf8=is_utf8)
    return normalize_path(read_unicode_path(raw, fields.get(0x7075, b"")) or name)


def _find_kind_fault(name: str, mode: int, size: int) -> str | None:
    """Whether an entry is something else than a file or a folder; programs off Unix leave the mode at 0."""
    is_folder = name.endswith("/")
    if stat.S_IFMT(mode) not in (0, stat.S_IFDIR if is_folder else stat.S_IFREG):
        return "special_file"
    return "folder_with_content" if is_folder and size else None


def _find_method_fault(info: zipfile.ZipInfo) -> str | None:
    if info.flag_bits & ENCRYPTED:
        return "encrypted"
    if info.compress_type not in METHODS:
        return name_method_fault(info.compress_type)
    if info.flag_bits & _PATCHED:
        return "unsupported_version"
    if info.compress_type == zipfile.ZIP_STORED:
        return "wrong_size" if info.file_size != info.compress_size else None
    return "too_loose" if info.compress_size > 2 * info.file_size + _MAX_OVERHEAD_BYTES else None

"""Reads the directory of a zip file with `zipfile` and checks every entry before any is extracted.

`zipfile` accepts more than can be trusted: it cuts names at a NUL, keeps the last of two entries with one name, finds
archives inside other files, and on some Python versions does not detect overlapping entries. Messages refer to entries
by their position in the directory, counted from 1, because names can identify patients.
"""

import stat
import zipfile
from collections.abc import Sequence
from typing import Final, NamedTuple

from hip_mri.config import SourceLimits
from hip_mri.errors import ArchiveError, LimitError
from hip_mri.sources.entry_names import decode_name, find_path_fault, fold_name, normalize_path, read_unicode_path
from hip_mri.sources.zip_files.end_record import DirectoryPlace, OpenFile, explain_unreadable
from hip_mri.sources.zip_files.faults import METHOD, ZipFaults
from hip_mri.sources.zip_files.local_headers import ENCRYPTED, UTF8, find_data, split_extra

SMALL_ENTRY_BYTES: Final = 2**20
"""Size up to which an entry may have any compression ratio: a blank image has a high one and is harmless."""

_MAX_OVERHEAD_BYTES: Final = 2**16
"""Packed bytes allowed in addition to twice the size of an entry; the least efficient programs add half of it."""

_PATCHED: Final = 1 << 5
_AES_METHOD: Final = 99
_UNIX_MODE_SHIFT: Final = 16


class ZipEntry(NamedTuple):
    """An entry of a zip file.

    Attributes:
        name: Decoded name; that of a folder ends in a slash.
        position: Position in the directory, counted from 1.
        start: Offset of its data.
        packed_size: Bytes of its data.
        size: Bytes uncompressed.
        checksum: CRC-32 of the uncompressed bytes.
        is_stored: Whether the data are not compressed; otherwise the method is Deflate.
    """

    name: str
    position: int
    start: int
    packed_size: int
    size: int
    checksum: int
    is_stored: bool


def read_directory(file: OpenFile, place: DirectoryPlace, limits: SourceLimits) -> list[ZipEntry]:
    """Read and check all entries of a zip file, in the order of its directory.

    Args:
        file: The zip file.
        place: Position of its directory.
        limits: Maximum size and number of entries.

    Raises:
        ArchiveError: An entry is rejected. All offenders are listed: entries with faults of their own first, else
            names that clash, else entries with wrong positions.
        LimitError: The zip file exceeds a limit.
    """
    if place.num_entries > limits.max_entries or place.num_bytes > 1024 * limits.max_entries:
        raise LimitError(
            f"source: {file.name} has {place.num_entries:,} entries, above {limits.max_entries:,}. "
            "Divide it, or allow more with --limits.max-entries."
        )
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
    faults.raise_error()  # before names are compared: the time for that depends on their depth
    find_clashes(names, limits.max_entries, faults)
    faults.raise_error()
    starts = find_data(file, place, infos, faults)
    faults.raise_error()
    return [
        ZipEntry(name, at, start, i.compress_size, i.file_size, i.CRC, i.compress_type == zipfile.ZIP_STORED)
        for at, (name, start, i) in enumerate(zip(names, starts, infos, strict=True), start=1)
    ]


def _parse(file: OpenFile, place: DirectoryPlace) -> tuple[list[zipfile.ZipInfo], str | None]:
    """All records, and the fault of the next record if it stopped `zipfile`."""
    archive = zipfile.ZipFile.__new__(zipfile.ZipFile)  # keeps the records before a fault, unlike `ZipFile(...)`
    fault = None
    try:
        with explain_unreadable(file.name):
            archive.__init__(file.stream)
    except UnicodeDecodeError:
        fault = "name_not_utf8"
    except NotImplementedError:
        fault = "unsupported_version"
    except zipfile.BadZipFile:
        fault = "broken_record"
    infos = archive.filelist
    if archive.start_dir != place.offset or (fault is None and len(infos) != place.num_entries):
        raise ArchiveError(
            f"source: {file.name} is a damaged or truncated zip file: its directory ends after entry "
            f"{min(len(infos), place.num_entries):,}. Download it again, or pack the folders again."
        )
    return infos, fault


def _check_total(file: OpenFile, total: int, limits: SourceLimits) -> None:
    if total > limits.max_bytes:
        raise LimitError(
            f"source: {file.name} decompresses to more than {limits.max_bytes:,} bytes. "
            "Divide it, or allow more with --limits.max-bytes."
        )
    if total > max(SMALL_ENTRY_BYTES, limits.max_compression_ratio * file.num_bytes):
        raise LimitError(
            f"source: {file.name} decompresses to more than {limits.max_compression_ratio:g} times its size. "
            "Pack the folders again, or allow more with --limits.max-compression-ratio."
        )


def _check_entry(info: zipfile.ZipInfo) -> tuple[str, str | None]:
    """Name of an entry, and its fault as one of the codes of `ZipFaults`."""
    is_utf8 = bool(info.flag_bits & UTF8)
    raw = info.orig_filename.encode("utf-8" if is_utf8 else "cp437")
    try:
        unicode_path = read_unicode_path(raw, split_extra(info.extra).get(0x7075, b""))
        name = normalize_path(unicode_path or decode_name(raw, is_utf8=is_utf8))
    except UnicodeDecodeError:
        return "", "name_not_utf8"
    except ValueError:
        return "", "broken_record"
    return name, find_path_fault(name) or _find_kind_fault(name, info) or _find_packing_fault(info)


def _find_kind_fault(name: str, info: zipfile.ZipInfo) -> str | None:
    """Fault of an entry that is neither a file nor an empty folder; programs outside Unix leave the mode at 0."""
    is_folder = name.endswith("/")
    kind = stat.S_IFMT(info.external_attr >> _UNIX_MODE_SHIFT)
    if kind not in (0, stat.S_IFDIR if is_folder else stat.S_IFREG):
        return "special_file"
    return "folder_with_content" if is_folder and info.file_size else None


def _find_packing_fault(info: zipfile.ZipInfo) -> str | None:
    if info.volume:
        return "broken_record"
    if info.flag_bits & ENCRYPTED or info.compress_type == _AES_METHOD:
        return "encrypted"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # imaging programs use no others
        return f"{METHOD}{info.compress_type}"
    if info.flag_bits & _PATCHED:
        return "unsupported_version"
    if info.compress_type == zipfile.ZIP_STORED:
        return "wrong_size" if info.file_size != info.compress_size else None
    return "too_loose" if info.compress_size > 2 * info.file_size + _MAX_OVERHEAD_BYTES else None


def find_clashes(names: Sequence[str], max_folders: int, faults: ZipFaults) -> None:
    """Find names that are equal on some system, files that are also folders, and too many folders."""
    first_of: dict[str, int] = {}
    for at, name in enumerate(names):
        first = first_of.setdefault(fold_name(name.removesuffix("/")), at)
        if first != at:
            faults.add(_classify_clash(names[first], name), at + 1)
    folders = _hash_folders(names, max_folders, faults)
    for folded, at in first_of.items():
        if hash(folded) in folders and not names[at].endswith("/"):
            faults.add("file_and_folder", at + 1)


def _classify_clash(first: str, second: str) -> str:
    if first.endswith("/") != second.endswith("/"):
        return "file_and_folder"
    return "duplicate" if first == second else "same_name_elsewhere"


def _hash_folders(names: Sequence[str], max_folders: int, faults: ZipFaults) -> set[int]:
    """Hashes of the folded paths of all folders, up to `max_folders`; the paths themselves would fill the memory."""
    seen: set[int] = set()
    folded: set[int] = set()
    for position, name in enumerate(names, start=1):
        folder = name.removesuffix("/").rpartition("/")[0]
        while folder and hash(folder) not in seen:
            if len(seen) == max_folders:
                faults.add("too_many_folders", position)
                return folded
            seen.add(hash(folder))
            folded.add(hash(fold_name(folder)))
            folder = folder.rpartition("/")[0]
    return folded

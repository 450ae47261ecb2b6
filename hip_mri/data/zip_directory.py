"""The directory of a zip file, held against the file itself before a byte of any entry is unpacked.

The standard library's `zipfile` reads what it can: it cuts names at a NUL, takes the last of two entries of one name,
finds archives inside other files and does not see that entries overlap. What it drops cannot be judged afterwards, so
the records are read here, from their bytes, and what is judged is what is unpacked. Entries are known by their position
in the directory, counted from 1 in messages: names can identify patients.

Source of the layout: PKWARE, APPNOTE.TXT, .ZIP File Format Specification 6.3.10.
"""

import stat
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from hip_mri.config import SourceLimits
from hip_mri.data.entry_names import decode_name, find_path_fault, fold_name, read_unicode_path
from hip_mri.data.zip_end import DirectoryPlace, OpenFile
from hip_mri.data.zip_faults import ZipFaults
from hip_mri.errors import ArchiveError

STORED: Final = 0
DEFLATED: Final = 8
"""The methods that are unpacked. Others (bzip2, LZMA, deflate64) no imaging program writes."""

SMALL_ENTRY_BYTES: Final = 2**20
"""Entries up to this size may be packed as tightly as they are: an empty picture is, and does no harm."""

_HIGHEST_VERSION: Final = 63
"""6.3, the last version of the format."""

_ENCRYPTED: Final = 1 << 0 | 1 << 6 | 1 << 13
_PATCHED: Final = 1 << 5
_SIZES_FOLLOW: Final = 1 << 3
"""The local header was written before the sizes were known; they stand behind the data once more."""
_UTF8: Final = 1 << 11
_FLAGS_THAT_MATTER: Final = _ENCRYPTED | _SIZES_FOLLOW | _UTF8

_CENTRAL: Final = struct.Struct("<4s2B5H3L5H2L")
_LOCAL: Final = struct.Struct("<4s5H3L2H")
_SIZES_AFTER_DATA: Final = (12, 16, 20, 24)
"""Lengths of the sizes behind the data: of 4 or 8 bytes each, with a signature or without."""

_UNKNOWN: Final = 0xFFFFFFFF
"""Stands in a header where the figure is in the extra field for zip64."""

_CHUNK_BYTES: Final = 2**20
_USUAL_EXTRA_BYTES: Final = 64
"""Read along with a local header, so that it is mostly read in one go."""


@dataclass
class Directory:
    """What a zip file holds, in the order of its directory; 40 bytes an entry and the name.

    Attributes:
        names: Decoded names; those of folders end in a slash.
        sizes: Bytes, unpacked.
        packed_sizes: Bytes in the file.
        checksums: CRC-32 of the unpacked bytes.
        methods: How each is packed.
        flags: General purpose flags.
        starts: Where the local header is; after `check_entries` where the data begin.
        raw_names: Hashes of the names as they stand in the file.
    """

    names: list[str] = field(default_factory=list)
    sizes: array = field(default_factory=lambda: array("Q"))
    packed_sizes: array = field(default_factory=lambda: array("Q"))
    checksums: array = field(default_factory=lambda: array("I"))
    methods: array = field(default_factory=lambda: array("H"))
    flags: array = field(default_factory=lambda: array("H"))
    starts: array = field(default_factory=lambda: array("Q"))
    raw_names: array = field(default_factory=lambda: array("q"))


def read_directory(file: OpenFile, place: DirectoryPlace, limits: SourceLimits) -> Directory:
    """Read and judge every entry of a directory, and where its data lie.

    Args:
        file: The zip file.
        place: Where its directory is.
        limits: How much it may hold.

    Raises:
        ArchiveError: An entry cannot be trusted, or there is too much. All offenders are told at once, by position;
            what is over a limit ends the reading.
    """
    _check_number(file, place, limits)
    faults = ZipFaults(file.name)
    directory = Directory()
    total = 0
    for record, raw, extra in _read_records(file, place):
        faults.add(_take_in(record, raw, extra, directory), len(directory.names))
        total += directory.sizes[-1]
        _check_total(file, total, limits)
    _find_tight(directory, limits, faults)
    _find_clashes(directory.names, limits, faults)
    faults.refuse()
    _check_entries(file, place, directory, faults)
    faults.refuse()
    return directory


def _check_number(file: OpenFile, place: DirectoryPlace, limits: SourceLimits) -> None:
    if place.num_entries > limits.most_entries or place.num_bytes > 1024 * limits.most_entries:
        raise ArchiveError(
            f"source: {file.name} holds {place.num_entries:,} entries, above {limits.most_entries:,}. "
            "Divide it, or allow more with --limits.most-entries."
        )


def _check_total(file: OpenFile, total: int, limits: SourceLimits) -> None:
    if total > limits.most_bytes:
        raise ArchiveError(
            f"source: {file.name} would unpack to more than {limits.most_bytes:,} bytes. "
            "Divide it, or allow more with --limits.most-bytes."
        )
    if total > max(SMALL_ENTRY_BYTES, limits.most_ratio * file.num_bytes):
        raise ArchiveError(
            f"source: {file.name} would unpack to more than {limits.most_ratio:g} times its size, as no images do. "
            "Pack the folders again, or allow more with --limits.most-ratio."
        )


def _read_records(file: OpenFile, place: DirectoryPlace) -> Iterator[tuple[tuple, bytes, bytes]]:
    """Fields, raw name and extra field of each record; the records must fill the directory to its last byte."""
    position, end = place.offset, place.offset + place.num_bytes
    buffer, at = b"", 0
    for number in range(place.num_entries):
        if len(buffer) - at < _CENTRAL.size + 3 * 0xFFFF:
            buffer = buffer[at:] + file.read(position, min(_CHUNK_BYTES, end - position))
            position, at = min(position + _CHUNK_BYTES, end), 0
        if len(buffer) - at < _CENTRAL.size or not buffer.startswith(b"PK\1\2", at):
            raise _describe_break(file, number)
        record = _CENTRAL.unpack_from(buffer, at)
        name_at = at + _CENTRAL.size
        extra_at = name_at + record[11]
        at = extra_at + record[12] + record[13]
        if at > len(buffer):
            raise _describe_break(file, number)
        yield record, buffer[name_at:extra_at], buffer[extra_at : extra_at + record[12]]
    if position != end or at != len(buffer):
        raise _describe_break(file, place.num_entries)


def _describe_break(file: OpenFile, number: int) -> ArchiveError:
    return ArchiveError(
        f"source: {file.name} is a damaged or truncated zip file: its directory breaks off behind entry {number:,}. "
        "Fetch it again, or pack the folders again."
    )


def _take_in(record: tuple, raw: bytes, extra: bytes, directory: Directory) -> str | None:
    """Add an entry to the directory; returns what is wrong with it, as one of the codes of `ZipFaults`."""
    _, _, _, version, flags, method, _, _, checksum, packed, size, _, _, _, disk, _, attributes, start = record
    name, fault = "", None
    try:
        fields = _split_extra(extra)
        size, packed, start = _read_zip64(fields.get(1, b""), size, packed, start)
        name = decode_name(raw, is_utf8=bool(flags & _UTF8))
        if 0x7075 in fields:
            name = read_unicode_path(raw, fields[0x7075]) or name
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


def _split_extra(extra: bytes) -> dict[int, bytes]:
    """Extra fields by their number.

    Raises:
        ValueError: A field is longer than what is left, or occurs twice where one is read.
    """
    fields: dict[int, bytes] = {}
    at = 0
    while len(extra) - at >= 4:
        number, length = struct.unpack_from("<2H", extra, at)
        if length > len(extra) - at - 4 or (number in (1, 0x7075) and number in fields):
            raise ValueError(number)
        fields[number] = extra[at + 4 : at + 4 + length]
        at += 4 + length
    return fields  # up to three bytes of padding are left by programs that align entries


def _read_zip64(content: bytes, *figures: int) -> list[int]:
    """Put 8-byte figures in the place of those that are marked as unknown, in their order.

    Raises:
        struct.error: A figure is missing.
    """
    found, at = [], 0
    for figure in figures:
        if figure == _UNKNOWN and content:
            found.append(struct.unpack_from("<Q", content, at)[0])
            at += 8
        else:
            found.append(figure)
    return found


def _find_kind_fault(name: str, mode: int, size: int) -> str | None:
    """Whether an entry is something else than a file or a folder; programs off Unix leave the mode at 0."""
    is_folder = name.endswith("/")
    kind = stat.S_IFMT(mode)
    if kind not in (0, stat.S_IFDIR if is_folder else stat.S_IFREG):
        return "special_file"
    return "folder_with_content" if is_folder and size else None


def _find_method_fault(version: int, flags: int, method: int, size: int, packed: int) -> str | None:
    if flags & _ENCRYPTED:
        return "encrypted"
    if version > _HIGHEST_VERSION or flags & _PATCHED or method not in (STORED, DEFLATED):
        return "unsupported_compression"
    return "wrong_size" if method == STORED and size != packed else None


def _find_tight(directory: Directory, limits: SourceLimits, faults: ZipFaults) -> None:
    sizes, packed = np.array(directory.sizes), np.array(directory.packed_sizes)
    is_tight = (sizes > SMALL_ENTRY_BYTES) & (sizes > limits.most_ratio * packed.astype(np.float64))
    for position in np.flatnonzero(is_tight):
        faults.add("too_tight", int(position) + 1)


def _find_clashes(names: list[str], limits: SourceLimits, faults: ZipFaults) -> None:
    """Find names that occur twice, on some system at least, and files that are folders as well.

    Hashes are compared first: they take a tenth of the memory, and few names are left to compare in full.
    """
    hashes = np.fromiter((hash(fold_name(name.removesuffix("/"))) for name in names), np.int64, len(names))
    values, counts = np.unique(hashes, return_counts=True)
    seen: dict[str, str] = {}
    for position in np.flatnonzero(np.isin(hashes, values[counts > 1])):
        name = names[position]
        folded = fold_name(name.removesuffix("/"))
        if folded in seen:
            faults.add(_name_clash(seen[folded], name), int(position) + 1)
        seen.setdefault(folded, name)
    folders = {hash(fold_name(folder)) for folder in _list_folders(names, limits, faults)}
    suspects = np.flatnonzero(np.isin(hashes, np.fromiter(folders, np.int64, len(folders))))
    for position in suspects:
        if not names[position].endswith("/"):
            faults.add("file_and_folder", int(position) + 1)


def _name_clash(first: str, second: str) -> str:
    if first.endswith("/") != second.endswith("/"):
        return "file_and_folder"
    return "duplicate" if first == second else "same_name_elsewhere"


def _list_folders(names: list[str], limits: SourceLimits, faults: ZipFaults) -> set[str]:
    """Every folder that a name stands in, without the last slash; at most as many as entries are allowed."""
    folders: set[str] = set()
    for position, name in enumerate(names, start=1):
        folder = name.removesuffix("/").rpartition("/")[0]
        while folder and folder not in folders:
            folders.add(folder)
            folder = folder.rpartition("/")[0]
        if len(folders) > limits.most_entries:
            faults.add("too_many_folders", position)
            break
    return folders


def _check_entries(file: OpenFile, place: DirectoryPlace, directory: Directory, faults: ZipFaults) -> None:
    """Hold each local header against the directory, and see that the entries fill the file without gap or overlap."""
    order = np.argsort(np.array(directory.starts), kind="stable").tolist()
    expected, may_follow = 0, False
    for position in order:
        start = directory.starts[position]
        gap = start - expected
        if gap < 0:
            faults.add("overlapping", position + 1)
        elif gap and not (may_follow and gap in _SIZES_AFTER_DATA):
            faults.add("gap", position + 1)
        data_start = _check_local(file, directory, position, place.offset)
        if data_start is None:
            faults.add("headers_differ", position + 1)
            continue
        directory.starts[position] = data_start
        expected = max(expected, data_start + directory.packed_sizes[position])
        may_follow = bool(directory.flags[position] & _SIZES_FOLLOW)
    gap = place.offset - expected
    if gap < 0:
        faults.add("overlapping", order[-1] + 1)
    elif gap and not (may_follow and gap in _SIZES_AFTER_DATA):
        faults.add("gap", len(order) + 1)


def _check_local(file: OpenFile, directory: Directory, position: int, end: int) -> int | None:
    """Where the data of an entry begin; `None` where its local header tells something else than the directory."""
    start = directory.starts[position]
    if start + _LOCAL.size > end:
        return None
    likely = _LOCAL.size + len(directory.names[position]) + _USUAL_EXTRA_BYTES
    content = file.read(start, min(likely, end - start))
    if len(content) < _LOCAL.size or not content.startswith(b"PK\3\4"):
        return None
    _, _, flags, method, _, _, checksum, packed, size, name_length, extra_length = _LOCAL.unpack_from(content)
    data_start = start + _LOCAL.size + name_length + extra_length
    if data_start > end:
        return None
    if len(content) < data_start - start:
        content = file.read(start, data_start - start)
    extra_at = _LOCAL.size + name_length
    try:
        fields = _split_extra(content[extra_at : extra_at + extra_length])
        size, packed = _read_zip64(fields.get(1, b""), size, packed)
    except (ValueError, struct.error):
        return None
    told = (checksum, packed, size)
    known = (directory.checksums[position], directory.packed_sizes[position], directory.sizes[position])
    follow = bool(flags & _SIZES_FOLLOW)
    agrees = told == known or (follow and all(a in (b, 0, _UNKNOWN) for a, b in zip(told, known, strict=True)))
    agrees &= hash(content[_LOCAL.size : extra_at]) == directory.raw_names[position]
    agrees &= method == directory.methods[position]
    agrees &= not (flags ^ directory.flags[position]) & _FLAGS_THAT_MATTER
    return data_start if agrees else None

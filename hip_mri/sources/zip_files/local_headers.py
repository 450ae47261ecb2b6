"""Compares the local headers of a zip file with its directory, and finds gaps and overlaps between entries."""

import struct
import zipfile
from collections.abc import Sequence
from typing import Final

from hip_mri.sources.zip_files.end_record import DirectoryPlace, OpenFile
from hip_mri.sources.zip_files.faults import ZipFaults

ENCRYPTED: Final = 1 << 0 | 1 << 6 | 1 << 13
SIZES_FOLLOW: Final = 1 << 3
"""Flag of entries whose sizes were not known when the local header was written; they are repeated after the data."""
UTF8: Final = 1 << 11
_COMPARED_FLAGS: Final = ENCRYPTED | SIZES_FOLLOW | UTF8
_IN_EXTRA_FIELD: Final = 0xFFFFFFFF
"""Size in a header if the zip64 extra field contains the actual one."""

_LOCAL: Final = struct.Struct("<4s5H3L2H")
_DATA_DESCRIPTOR_BYTES: Final = (12, 16, 20, 24)
"""Lengths of checksum and sizes after the data: sizes of 4 or 8 bytes each, with a signature or without."""


def find_data(file: OpenFile, place: DirectoryPlace, infos: Sequence[zipfile.ZipInfo], faults: ZipFaults) -> list[int]:
    """Find where the data of each entry start.

    Each local header must agree with the directory, and the entries must fill the file without gaps or overlaps.

    Args:
        file: The zip file.
        place: Position of the directory, where the data end.
        infos: The records of the directory.
        faults: Receives `headers_differ`, `overlapping` and `gap`.

    Returns:
        Offset of the first byte of data of each entry; 0 if its local header differs.
    """
    starts = [0] * len(infos)
    end, allowed_gaps = 0, (0,)
    order = sorted(range(len(infos)), key=lambda at: infos[at].header_offset)
    for at in order:
        info = infos[at]
        faults.add(_find_distance_fault(info.header_offset - end, allowed_gaps), at + 1)
        start = _check_local(file, info, place.offset)
        if start is None:
            faults.add("headers_differ", at + 1)
            allowed_gaps = None
            continue
        starts[at], end = start, max(end, start + info.compress_size)
        allowed_gaps = (0, *_DATA_DESCRIPTOR_BYTES) if info.flag_bits & SIZES_FOLLOW else (0,)
    fault = _find_distance_fault(place.offset - end, allowed_gaps)
    faults.add(fault, order[-1] + 1 if fault == "overlapping" and order else len(infos) + 1)
    return starts


def _find_distance_fault(distance: int, allowed: tuple[int, ...] | None) -> str | None:
    """Fault of the distance from the end of one entry to the next; `allowed` is `None` if the end is not known."""
    if distance < 0:
        return "overlapping"
    return "gap" if allowed is not None and distance not in allowed else None


def _check_local(file: OpenFile, info: zipfile.ZipInfo, end: int) -> int | None:
    """Offset of the data of an entry; `None` if its local header differs from the directory."""
    name = info.orig_filename.encode("utf-8" if info.flag_bits & UTF8 else "cp437")
    head_bytes = _LOCAL.size + len(name)
    if info.header_offset + head_bytes > end:
        return None
    head = file.read(info.header_offset, head_bytes)
    signature, _, flags, method, _, _, checksum, packed, size, name_bytes, extra_bytes = _LOCAL.unpack_from(head)
    start = info.header_offset + head_bytes + extra_bytes
    if start > end or name_bytes != len(name):
        return None
    try:
        zip64 = split_extra(file.read(info.header_offset + head_bytes, extra_bytes)).get(1, b"") if extra_bytes else b""
        size, packed = _read_zip64(zip64, size, packed)
    except (ValueError, struct.error):
        return None
    pairs = ((checksum, info.CRC), (packed, info.compress_size), (size, info.file_size))
    agrees = all(local == central for local, central in pairs)
    if flags & SIZES_FOLLOW:
        agrees |= all(local in (central, 0, _IN_EXTRA_FIELD) for local, central in pairs)
    agrees &= (signature, head[_LOCAL.size :], method) == (b"PK\3\4", name, info.compress_type)
    agrees &= not (flags ^ info.flag_bits) & _COMPARED_FLAGS
    return start if agrees else None


def split_extra(extra: bytes) -> dict[int, bytes]:
    """Split the extra field of a header into its parts, by their number.

    Raises:
        ValueError: A part is longer than the rest of the field, or one that is used occurs twice.
    """
    fields: dict[int, bytes] = {}
    while len(extra) >= 4:  # programs that align entries leave up to three bytes of padding
        number, length = struct.unpack_from("<2H", extra)
        if length > len(extra) - 4 or (number in (1, 0x7075) and number in fields):
            raise ValueError(number)
        fields[number], extra = extra[4 : 4 + length], extra[4 + length :]
    return fields


def _read_zip64(content: bytes, *sizes: int) -> list[int]:
    """Replace marked sizes by the 8-byte numbers of the extra field; `struct.error` if missing."""
    offsets = iter(range(0, len(content) + 8, 8))
    return [
        struct.unpack_from("<Q", content, next(offsets))[0] if size == _IN_EXTRA_FIELD and content else size
        for size in sizes
    ]

"""Compares the local headers of a zip file with its directory, and finds gaps and overlaps between entries."""

import struct
import zipfile
from collections.abc import Sequence
from typing import Final

from hip_mri.sources.zip_files.end_record import DirectoryPlace, OpenFile
from hip_mri.sources.zip_files.faults import ZipFaults

ENCRYPTED: Final = 1 << 0 | 1 << 6 | 1 << 13
SIZES_FOLLOW: Final = 1 << 3
"""The local header was written before the sizes were known; they stand behind the data once more."""
UTF8: Final = 1 << 11
_FLAGS_THAT_MATTER: Final = ENCRYPTED | SIZES_FOLLOW | UTF8
_UNKNOWN: Final = 0xFFFFFFFF
"""Stands in a header if the number is in the extra field for zip64."""

_LOCAL: Final = struct.Struct("<4s5H3L2H")
_SIZES_AFTER_DATA: Final = (12, 16, 20, 24)
"""Lengths of the sizes behind the data: of 4 or 8 bytes each, with a signature or without."""

_USUAL_EXTRA_BYTES: Final = 64
"""Read along with a local header, so that one read is mostly enough."""


def find_data(file: OpenFile, place: DirectoryPlace, infos: Sequence[zipfile.ZipInfo], faults: ZipFaults) -> list[int]:
    """Find where the data of each entry start.

    Each local header must agree with the directory, and the entries must fill the file without gaps or overlaps.

    Args:
        file: The zip file.
        place: Where its directory is, which ends the data.
        infos: The records of the directory.
        faults: Receives `headers_differ`, `overlapping` and `gap`.

    Returns:
        Offset of the first byte of data of each entry; 0 if its local header differs.
    """
    starts = [0] * len(infos)
    end, may_follow, is_known = 0, False, True

    def check_distance(distance: int, position: int, behind: int) -> None:
        if distance < 0:
            faults.add("overlapping", position)
        elif distance and is_known and not (may_follow and distance in _SIZES_AFTER_DATA):
            faults.add("gap", behind)

    at = 0
    for at in sorted(range(len(infos)), key=lambda at: infos[at].header_offset):
        info = infos[at]
        check_distance(info.header_offset - end, at + 1, at + 1)
        start = _check_local(file, info, place.offset)
        is_known = start is not None
        if start is None:
            faults.add("headers_differ", at + 1)
            continue
        starts[at] = start
        end, may_follow = max(end, start + info.compress_size), bool(info.flag_bits & SIZES_FOLLOW)
    check_distance(place.offset - end, at + 1, len(infos) + 1)
    return starts


def _check_local(file: OpenFile, info: zipfile.ZipInfo, end: int) -> int | None:
    """Where the data of an entry start; `None` if its local header differs from the directory."""
    raw = info.orig_filename.encode("utf-8" if info.flag_bits & UTF8 else "cp437")
    offset = info.header_offset
    if offset + _LOCAL.size > end:
        return None
    content = file.read(offset, min(_LOCAL.size + len(raw) + _USUAL_EXTRA_BYTES, end - offset))
    if len(content) < _LOCAL.size or not content.startswith(b"PK\3\4"):
        return None
    _, _, flags, method, _, _, checksum, packed, size, name_length, extra_length = _LOCAL.unpack_from(content)
    extra_at = _LOCAL.size + name_length
    start = offset + extra_at + extra_length
    if start > end:
        return None
    if len(content) < start - offset:
        content = file.read(offset, start - offset)
    try:
        zip64 = split_extra(content[extra_at : extra_at + extra_length]).get(1, b"")
        size, packed = _read_zip64(zip64, size, packed)
    except (ValueError, struct.error):
        return None
    local, central = (checksum, packed, size), (info.CRC, info.compress_size, info.file_size)
    follow = bool(flags & SIZES_FOLLOW)
    agrees = local == central or (follow and all(a in (b, 0, _UNKNOWN) for a, b in zip(local, central, strict=True)))
    agrees &= content[_LOCAL.size : extra_at] == raw
    agrees &= method == info.compress_type
    agrees &= not (flags ^ info.flag_bits) & _FLAGS_THAT_MATTER
    return start if agrees else None


def split_extra(extra: bytes) -> dict[int, bytes]:
    """Split the extra field of a header into its parts, by their number.

    Raises:
        ValueError: A part is longer than what is left, or occurs twice where one is used.
    """
    fields: dict[int, bytes] = {}
    while len(extra) >= 4:  # programs that align entries leave up to three bytes of padding
        number, length = struct.unpack_from("<2H", extra)
        if length > len(extra) - 4 or (number in (1, 0x7075) and number in fields):
            raise ValueError(number)
        fields[number], extra = extra[4 : 4 + length], extra[4 + length :]
    return fields


def _read_zip64(content: bytes, *sizes: int) -> list[int]:
    """Replace sizes that are marked as unknown by the 8-byte numbers of the extra field; `struct.error` if missing."""
    offsets = iter(range(0, len(content) + 8, 8))
    return [
        struct.unpack_from("<Q", content, next(offsets))[0] if size == _UNKNOWN and content else size for size in sizes
    ]

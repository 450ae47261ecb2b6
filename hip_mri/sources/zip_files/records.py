"""The records of a zip file's directory as they stand there, not judged yet.

Source of the layout: PKWARE, APPNOTE.TXT, .ZIP File Format Specification 6.3.10.
"""

import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from hip_mri.errors import ArchiveError
from hip_mri.sources.zip_files.end_record import DirectoryPlace, OpenFile

STORED: Final = 0
DEFLATED: Final = 8
"""The methods that are unpacked. Others (bzip2, LZMA, deflate64) no imaging program writes."""

ENCRYPTED: Final = 1 << 0 | 1 << 6 | 1 << 13
PATCHED: Final = 1 << 5
SIZES_FOLLOW: Final = 1 << 3
"""The local header was written before the sizes were known; they stand behind the data once more."""
UTF8: Final = 1 << 11
_CENTRAL: Final = struct.Struct("<4s2B5H3L5H2L")
UNKNOWN: Final = 0xFFFFFFFF
"""Stands in a header where the figure is in the extra field for zip64."""

_CHUNK_BYTES: Final = 2**20


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
        starts: Where the local header is; after `check_extents` where the data begin.
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


def read_records(file: OpenFile, place: DirectoryPlace) -> Iterator[tuple[tuple, bytes, bytes]]:
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


def split_extra(extra: bytes) -> dict[int, bytes]:
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


def read_zip64(content: bytes, *figures: int) -> list[int]:
    """Put 8-byte figures in the place of those that are marked as unknown, in their order.

    Raises:
        struct.error: A figure is missing.
    """
    found, at = [], 0
    for figure in figures:
        if figure == UNKNOWN and content:
            found.append(struct.unpack_from("<Q", content, at)[0])
            at += 8
        else:
            found.append(figure)
    return found

"""Zip files written byte by byte, with every field open to lies: `zipfile` refuses to write most of what is tested."""

import stat
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

STORED, DEFLATED = 0, 8
UNKNOWN = 0xFFFFFFFF


@dataclass(frozen=True)
class Member:
    """One entry. What is `None` is computed from the content, and what is given is written as given.

    Attributes:
        name: As it stands in the file.
        content: Unpacked.
        in_local: Attributes that differ in the local header.
        trailer: Bytes behind the data.
    """

    name: bytes
    content: bytes = b"x"
    method: int = STORED
    flags: int = 0
    version: int = 20
    mode: int = stat.S_IFREG | 0o644
    packed: bytes | None = None
    checksum: int | None = None
    size: int | None = None
    packed_size: int | None = None
    extra: bytes = b""
    offset: int | None = None
    disk: int = 0
    trailer: bytes = b""
    in_local: dict[str, Any] = field(default_factory=dict)

    def pack(self) -> bytes:
        if self.packed is not None:
            return self.packed
        if self.method != DEFLATED:
            return self.content
        deflate = zlib.compressobj(wbits=-15)
        return deflate.compress(self.content) + deflate.flush()

    def list_fields(self) -> tuple:
        packed = self.pack()
        return (
            zlib.crc32(self.content) if self.checksum is None else self.checksum,
            len(packed) if self.packed_size is None else self.packed_size,
            len(self.content) if self.size is None else self.size,
        )

    def write_local(self) -> bytes:
        told = replace(self, **self.in_local)
        head = struct.pack("<4s5H", b"PK\3\4", told.version, told.flags, told.method, 0, 33)
        head += struct.pack("<3L2H", *told.list_fields(), len(told.name), len(told.extra))
        return head + told.name + told.extra + self.pack() + self.trailer

    def write_central(self, offset: int) -> bytes:
        made_by = 3 << 8 | 20
        head = struct.pack("<4s6H", b"PK\1\2", made_by, self.version, self.flags, self.method, 0, 33)
        head += struct.pack("<3L3H", *self.list_fields(), len(self.name), len(self.extra), 0)
        head += struct.pack("<2H2L", self.disk, 0, self.mode << 16, offset if self.offset is None else self.offset)
        return head + self.name + self.extra


def build_zip(members: Sequence[Member], comment: bytes = b"", base: int = 0, num_entries: int | None = None) -> bytes:
    """Write a zip file.

    Args:
        members: Its entries.
        comment: Behind everything.
        base: Added to every offset, as if something stood before.
        num_entries: What the end says instead of their number.
    """
    content, directory = b"", b""
    for member in members:
        directory += member.write_central(base + len(content))
        content += member.write_local()
    number = len(members) if num_entries is None else num_entries
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, number, number, len(directory), base + len(content), len(comment))
    return content + directory + end + comment


def build_zip64_end(directory_offset: int, directory_bytes: int, num_entries: int) -> bytes:
    """The three records at the end of a zip64 file, with all figures in the long one."""
    at = directory_offset + directory_bytes
    long = struct.pack(
        "<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, num_entries, num_entries, directory_bytes, directory_offset
    )
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, at, 1)
    return long + locator + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, UNKNOWN, UNKNOWN, 0)


def images(*members: Member) -> list[Member]:
    """The given entries behind a good one of each class."""
    return [Member(b"normal/good.png", b"good"), Member(b"osseous_lesion/good.png", b"good"), *members]

"""Finds the end record of a zip file, which must be at the very end, and explains files that are no zip files."""

import contextlib
import os
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO, Final

from hip_mri.errors import ArchiveError
from hip_mri.images.file_kinds import (
    LFS_ADVICE,
    NUM_BYTES_NEEDED,
    find_format,
    is_lfs_pointer,
    is_web_page,
    name_archive,
)

_END: Final = struct.Struct("<4s4H2LH")
_LOCATOR: Final = struct.Struct("<4sLQL")
_END64: Final = struct.Struct("<4sQ2H2L4Q")
_SIGNATURE: Final = re.compile(b"PK\5\6")
_MAX_COMMENT_BYTES: Final = 0xFFFF

_FIRST_PART_START: Final = b"PK\7\x08PK\3\4"
_PART_SUFFIX: Final = re.compile(r"\.(z\d\d|\d\d\d)", re.IGNORECASE)
"""Suffixes of the parts of a split zip file; the last part of Info-ZIP and WinZip ends in `.zip`."""
_ONE_PART: Final = (
    "one part of several of a zip file. Put the parts into one folder and join them (`zip -s 0 NAME.zip --out "
    "whole.zip`; parts .001, .002 and so on: `cat NAME.zip.* > whole.zip`), or unpack them with 7-Zip, and give the "
    "result."
)


@contextlib.contextmanager
def explain_unreadable(name: str) -> Iterator[None]:
    """Convert an `OSError` of a block that reads a source file to an `ArchiveError` without its path."""
    try:
        yield
    except OSError as error:
        raise ArchiveError(
            f"source: {name} cannot be read ({error.strerror}). Check its permissions and the disk."
        ) from None


@dataclass(frozen=True)
class OpenFile:
    """A zip file that several threads read at the same time.

    Attributes:
        stream: The open file.
        name: Name for messages.
        suffix: Suffix of the file name, such as `.zip`.
    """

    stream: BinaryIO
    name: str
    suffix: str

    @cached_property
    def num_bytes(self) -> int:
        """Size of the file."""
        return os.fstat(self.stream.fileno()).st_size

    def read(self, offset: int, length: int) -> bytes:
        """Read bytes at an offset; fewer at the end of the file. Raises `ArchiveError` if the disk fails."""
        with explain_unreadable(self.name):
            return os.pread(self.stream.fileno(), length, offset)


@dataclass(frozen=True)
class DirectoryPlace:
    """Position of the directory of a zip file.

    Attributes:
        offset: Offset of its first byte.
        num_bytes: Its size.
        num_entries: Number of its records.
    """

    offset: int
    num_bytes: int
    num_entries: int


def find_directory(file: OpenFile, needed: str) -> DirectoryPlace:
    """Find the directory by the end record, which must be the last thing in the file.

    `zipfile` finds it too, but also in files with other content before or after the zip file.

    Args:
        file: The zip file.
        needed: Description of valid sources, for messages.

    Raises:
        ArchiveError: The file is no zip file, one part of several, or has bytes before or after the zip file.
    """
    start = max(0, file.num_bytes - _END.size - _MAX_COMMENT_BYTES)
    tail = file.read(start, file.num_bytes - start)
    whole = [found.start() for found in re.finditer(_SIGNATURE, tail) if len(tail) >= found.start() + _END.size]
    last = [at for at in whole if at + _END.size + _END.unpack_from(tail, at)[-1] == len(tail)]
    if len(last) != 1:
        raise ArchiveError(f"source: {file.name} is {_describe_other_file(file, bool(whole), len(last))} {needed}")
    end = start + last[0]
    locator = file.read(max(0, end - _LOCATOR.size), _LOCATOR.size)
    is_zip64 = locator.startswith(b"PK\6\7") and len(locator) == _LOCATOR.size
    short = _END.unpack_from(tail, last[0])[1:7]
    if short[0] not in (0, 0xFFFF) or (is_zip64 and _LOCATOR.unpack(locator)[3] > 1):
        raise ArchiveError(f"source: {file.name} is {_ONE_PART} {needed}")
    numbers: Sequence[int] | None = short
    if is_zip64:
        numbers, end = _read_zip64_end(file, end, locator, short)
    if numbers is not None:
        disk, first_disk, num_on_disk, num_entries, num_bytes, offset = numbers
        if disk == first_disk == 0 and num_on_disk == num_entries and offset + num_bytes == end:
            return DirectoryPlace(offset, num_bytes, num_entries)
    raise ArchiveError(
        f"source: {file.name} is a damaged zip file, or one after or inside another file: its directory is not "
        f"where its end record says. Download it again, or pack the folders again. {needed}"
    )


def _read_zip64_end(file: OpenFile, end: int, locator: bytes, short: Sequence[int]) -> tuple[Sequence[int] | None, int]:
    """Numbers of the zip64 end record, `None` if it contradicts the others, and where the directory must end."""
    _, locator_disk, end64, num_disks = _LOCATOR.unpack(locator)
    content = file.read(end64, _END64.size) if end64 < file.num_bytes else b""
    if len(content) < _END64.size or not content.startswith(b"PK\6\6"):
        return None, end
    _, length, _, _, *long = _END64.unpack(content)
    unknown = (0xFFFF,) * 4 + (0xFFFFFFFF,) * 2
    is_consistent = end64 + 12 + length == end - _LOCATOR.size and (locator_disk, num_disks) == (0, 1)
    is_consistent &= all(a in (b, none) for a, b, none in zip(short, long, unknown, strict=True))
    return (long if is_consistent else None), end64


def _describe_other_file(file: OpenFile, has_whole_end: bool, num_last: int) -> str:
    """Describe a file without exactly one end record at its end, and the next step."""
    start = file.read(0, NUM_BYTES_NEEDED)
    if num_last:
        what = "a zip file with two end records"
    elif start.startswith(_FIRST_PART_START) or (_PART_SUFFIX.fullmatch(file.suffix) and not name_archive(start)):
        return _ONE_PART
    elif is_lfs_pointer(start):
        return f"a Git LFS pointer, not the file itself. {LFS_ADVICE}"
    elif kind := name_archive(start):
        return f"{kind}, not a zip file. Unpack it, and give the folder or a zip file."
    elif kind := find_format(start):
        return f"a {kind} image, not a zip file. Give the folder that contains it, or a zip file."
    elif has_whole_end:
        what = "a zip file with other bytes after its end"
    elif is_web_page(start):
        what = "a web page (a download page or an error page was saved instead of the file)"
    else:
        what = "a damaged or truncated zip file" if start.lower().startswith(b"pk") else "no zip file"
    return f"{what}. Download it again, or give a zip file or a folder."

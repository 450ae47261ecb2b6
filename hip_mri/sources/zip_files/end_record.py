"""Finds the end record of a zip file, which must be at the very end, and explains files that are no zip files."""

import os
import re
import struct
from dataclasses import dataclass
from typing import BinaryIO, Final

from hip_mri.errors import ArchiveError
from hip_mri.images.file_kinds import (
    LFS_ADVICE,
    NUM_BYTES_NEEDED,
    is_lfs_pointer,
    is_web_page,
    name_archive,
    name_picture,
)

END: Final = struct.Struct("<4s4H2LH")
_LOCATOR: Final = struct.Struct("<4sLQL")
_END64: Final = struct.Struct("<4sQ2H2L4Q")
_SIGNATURE: Final = re.compile(b"PK\5\6")
_MAX_COMMENT_BYTES: Final = 0xFFFF

_PART_START: Final = b"PK\7\x08PK\3\4"
"""First bytes of the first of several parts."""
_PART_SUFFIX: Final = re.compile(r"\.(z\d\d|\d\d\d)", re.IGNORECASE)
"""Endings of parts, but for the last one of Info-ZIP and WinZip, which ends in `.zip`."""
_ONE_PART: Final = (
    "one part of several of a zip file. Put the parts into one folder and join them (`zip -s 0 NAME.zip --out "
    "whole.zip`; parts .001, .002 and so on: `cat NAME.zip.* > whole.zip`), or unpack them with 7-Zip, and give the "
    "result."
)


@dataclass(frozen=True)
class OpenFile:
    """A zip file that several threads read at the same time.

    Attributes:
        stream: The open file.
        num_bytes: Size of the file.
        name: Name for messages.
        suffix: Suffix of the file name, such as `.zip`.
    """

    stream: BinaryIO
    num_bytes: int
    name: str
    suffix: str = ""

    def read(self, offset: int, length: int) -> bytes:
        """Read bytes at an offset; fewer at the end of the file.

        Raises:
            ArchiveError: The disk fails.
        """
        try:
            return os.pread(self.stream.fileno(), length, offset)
        except OSError as error:
            raise self.describe_unreadable(error) from error

    def describe_unreadable(self, error: OSError) -> ArchiveError:
        """Return the error to raise if the file cannot be read; it does not contain the path."""
        return ArchiveError(
            f"source: {self.name} cannot be read ({error.strerror}). Give a file on a sound disk that you may read."
        )


@dataclass(frozen=True)
class DirectoryPlace:
    """Where the directory of a zip file is.

    Attributes:
        offset: Of its first byte.
        num_bytes: Its size.
        num_entries: Records in it.
    """

    offset: int
    num_bytes: int
    num_entries: int


def find_directory(file: OpenFile, needed: str) -> DirectoryPlace:
    """Find the directory by the end record, which must be the last thing in the file.

    Args:
        file: The zip file.
        needed: What the user can give instead, for messages.

    Raises:
        ArchiveError: The file is no zip file, one part of several, or has bytes before or after the zip file.
    """
    start = max(0, file.num_bytes - END.size - _MAX_COMMENT_BYTES)
    tail = file.read(start, file.num_bytes - start)
    whole = [found.start() for found in re.finditer(_SIGNATURE, tail) if len(tail) >= found.start() + END.size]
    last = [at for at in whole if at + END.size + END.unpack_from(tail, at)[-1] == len(tail)]
    if len(last) != 1:
        raise ArchiveError(f"source: {file.name} is {_explain_missing_end(file, bool(whole), len(last))} {needed}")
    end = start + last[0]
    locator = file.read(max(0, end - _LOCATOR.size), _LOCATOR.size)
    is_zip64 = locator.startswith(b"PK\6\7") and len(locator) == _LOCATOR.size
    short = END.unpack_from(tail, last[0])[1:7]
    if short[0] not in (0, 0xFFFF) or (is_zip64 and _LOCATOR.unpack(locator)[3] > 1):
        raise ArchiveError(f"source: {file.name} is {_ONE_PART} {needed}")
    if is_zip64:
        place, end = _read_zip64_end(file, end, locator, short)
    else:
        disk, first_disk, num_on_disk, num_entries, num_bytes, offset = short
        is_consistent = disk == first_disk == 0 and num_on_disk == num_entries
        place = DirectoryPlace(offset, num_bytes, num_entries) if is_consistent else None
    if place is None or place.offset + place.num_bytes != end:
        raise ArchiveError(
            f"source: {file.name} is a damaged zip file, or one behind or inside another file: its directory is not "
            f"where its end says. Fetch it again, or pack the folders again. {needed}"
        )
    return place


def _read_zip64_end(
    file: OpenFile, end: int, locator: bytes, short: tuple[int, ...]
) -> tuple[DirectoryPlace | None, int]:
    """Place of the directory, `None` if the end records contradict each other, and where it must end."""
    _, locator_disk, end64, num_disks = _LOCATOR.unpack(locator)
    content = file.read(end64, _END64.size) if end64 < file.num_bytes else b""
    if len(content) < _END64.size or not content.startswith(b"PK\6\6"):
        return None, end
    _, length, _, _, *long = _END64.unpack(content)
    is_consistent = end64 + 12 + length == end - _LOCATOR.size and (locator_disk, num_disks) == (0, 1)
    is_consistent &= long[:2] == [0, 0] and long[2] == long[3]
    unknown = (0xFFFF,) * 4 + (0xFFFFFFFF,) * 2
    is_consistent &= all(a in (b, none) for a, b, none in zip(short, long, unknown, strict=True))
    return (DirectoryPlace(long[5], long[4], long[3]) if is_consistent else None), end64


def _explain_missing_end(file: OpenFile, has_whole_end: bool, num_last: int) -> str:
    """What a file without exactly one end record at its end is, and what to do."""
    start = file.read(0, NUM_BYTES_NEEDED)
    if num_last:
        what = "a zip file with two ends"
    elif advice := _explain_other_kind(start, file.suffix):
        return advice
    elif has_whole_end:
        what = "a zip file with bytes of something else behind its end"
    elif is_web_page(start):
        what = "a web page (a download page or an error page was saved instead of the file)"
    else:
        what = "a damaged or truncated zip file" if start.lower().startswith(b"pk") else "no zip file"
    return f"{what}. Fetch it again, or give a zip file or a folder."


def _explain_other_kind(start: bytes, suffix: str) -> str:
    """What a file of another kind is, and what to do; empty if the kind is not known."""
    if start.startswith(_PART_START) or (_PART_SUFFIX.fullmatch(suffix) and not name_archive(start)):
        return _ONE_PART
    if is_lfs_pointer(start):
        return f"a Git LFS pointer, not the file itself. {LFS_ADVICE}"
    if kind := name_archive(start):
        return f"{kind}, not a zip file. Unpack it, and give the folder or a zip file."
    if kind := name_picture(start):
        return f"{kind}, not a zip file. Give the folder that it lies in, or a zip file."
    return ""

"""The end of a zip file, which says where its directory is: found at the very end of the file and nowhere else."""

import os
import re
import struct
from dataclasses import dataclass
from typing import Final

from hip_mri.errors import ArchiveError
from hip_mri.sources.file_kinds import (
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
_SIGNATURE: Final = b"PK\5\6"
_LONGEST_COMMENT: Final = 0xFFFF

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
    """A file that several threads read at once.

    Attributes:
        descriptor: Of the operating system.
        num_bytes: Size of the file.
        name: What the user knows it by.
        suffix: Ending of its own name, such as `.zip`.
    """

    descriptor: int
    num_bytes: int
    name: str
    suffix: str = ""

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the file; fewer where it ends.

        Raises:
            ArchiveError: The disk fails.
        """
        try:
            return os.pread(self.descriptor, length, offset)
        except OSError as error:
            raise ArchiveError(
                f"source: {self.name} cannot be read ({error.strerror}). Give a file on a sound disk that you may read."
            ) from error


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
    """Find the directory by the record at the end of a zip file, which must fit to the last byte.

    Args:
        file: The zip file.
        needed: What the user may give instead, for the message.

    Raises:
        ArchiveError: The file is no zip file, a part of one, or one with bytes before or behind it.
    """
    start = max(0, file.num_bytes - END.size - _LONGEST_COMMENT)
    tail = file.read(start, file.num_bytes - start)
    found = [at for at in _find_all(tail, _SIGNATURE) if _fits(tail, at)]
    if len(found) != 1:
        start_bytes = file.read(0, NUM_BYTES_NEEDED)
        if not found and (advice := _explain_other_kind(start_bytes, file.suffix)):
            raise ArchiveError(f"source: {file.name} is {advice} {needed}")
        what = _describe_start(start_bytes) if not found else "a zip file with two ends"
        if not found and _has_whole_end(tail):
            what = "a zip file with bytes of something else behind its end"
        raise ArchiveError(f"source: {file.name} is {what}. Fetch it again, or give a zip file or a folder. {needed}")
    if _is_last_part(file, start + found[0], tail[found[0] :]):
        raise ArchiveError(f"source: {file.name} is {_ONE_PART} {needed}")
    place, end = _read_end(file, start + found[0], tail[found[0] :])
    if place is None or place.offset + place.num_bytes != end:
        raise ArchiveError(
            f"source: {file.name} is a damaged zip file, or one behind or inside another file: its directory is not "
            f"where its end says. Fetch it again, or pack the folders again. {needed}"
        )
    return place


def _find_all(content: bytes, part: bytes) -> list[int]:
    found, at = [], content.find(part)
    while at >= 0:
        found.append(at)
        at = content.find(part, at + 1)
    return found


def _fits(tail: bytes, at: int) -> bool:
    """Whether a record and its comment reach to the last byte."""
    return len(tail) >= at + END.size and at + END.size + END.unpack_from(tail, at)[-1] == len(tail)


def _has_whole_end(tail: bytes) -> bool:
    return any(len(tail) >= at + END.size for at in _find_all(tail, _SIGNATURE))


def _read_end(file: OpenFile, end: int, record: bytes) -> tuple[DirectoryPlace | None, int]:
    """Place of the directory, `None` where the records contradict each other, and where it must end."""
    _, disk, first_disk, on_disk, num_entries, num_bytes, offset, _ = END.unpack_from(record)
    short = (disk, first_disk, on_disk, num_entries, num_bytes, offset)
    locator = file.read(max(0, end - _LOCATOR.size), _LOCATOR.size)
    if not locator.startswith(b"PK\6\7") or len(locator) < _LOCATOR.size:
        is_sound = (disk, first_disk) == (0, 0) and on_disk == num_entries
        return (DirectoryPlace(offset, num_bytes, num_entries) if is_sound else None), end
    _, locator_disk, end64, num_disks = _LOCATOR.unpack(locator)
    content = file.read(end64, _END64.size) if end64 < file.num_bytes else b""
    if len(content) < _END64.size or not content.startswith(b"PK\6\6"):
        return None, end
    _, length, _, _, *long = _END64.unpack(content)
    is_sound = end64 + 12 + length == end - _LOCATOR.size and (locator_disk, num_disks) == (0, 1)
    is_sound &= long[:2] == [0, 0] and long[2] == long[3]
    unknown = (0xFFFF,) * 4 + (0xFFFFFFFF,) * 2
    is_sound &= all(a in (b, none) for a, b, none in zip(short, long, unknown, strict=True))
    return (DirectoryPlace(long[5], long[4], long[3]) if is_sound else None), end64


def _is_last_part(file: OpenFile, end: int, record: bytes) -> bool:
    """Whether the end of a zip file, or the locator of zip64 before it, says that it is one of several parts."""
    disk = END.unpack_from(record)[1]
    locator = file.read(max(0, end - _LOCATOR.size), _LOCATOR.size)
    num_disks = _LOCATOR.unpack(locator)[3] if locator.startswith(b"PK\6\7") and len(locator) == _LOCATOR.size else 1
    return disk not in (0, 0xFFFF) or num_disks > 1


def _explain_other_kind(start: bytes, suffix: str) -> str:
    """What a file without the end of a zip file is, and what to do; empty where it is no known kind."""
    if start.startswith(_PART_START) or (_PART_SUFFIX.fullmatch(suffix) and not name_archive(start)):
        return _ONE_PART
    if is_lfs_pointer(start):
        return f"a Git LFS pointer, not the file itself. {LFS_ADVICE}"
    if kind := name_archive(start):
        return f"{kind}, not a zip file. Unpack it, and give the folder or a zip file."
    if kind := name_picture(start):
        return f"{kind}, not a zip file. Give the folder that it lies in, or a zip file."
    return ""


def _describe_start(start: bytes) -> str:
    if is_web_page(start):
        return "a web page (a download page or an error page was saved instead of the file)"
    return "a damaged or truncated zip file" if start.lower().startswith(b"pk") else "no zip file"

"""Opens zip files: all entries are checked before any is extracted, and extracted within the checked sizes."""

import contextlib
import threading
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from hip_mri.config import SourceLimits
from hip_mri.errors import ArchiveError, ImageError
from hip_mri.sources.zip_files.directory import ZipEntry, read_directory
from hip_mri.sources.zip_files.end_record import OpenFile, explain_unreadable, find_directory

_MAX_DAMAGED_FRACTION: Final = 0.01
"""Fraction of damaged files above which the zip file is rejected. A single damaged file is always accepted."""


class Archive:
    """The files of a zip file. Several threads may read at the same time.

    Attributes:
        entries: All files by name, in the order of the directory; no folders.
    """

    def __init__(self, file: OpenFile, entries: Sequence[ZipEntry]) -> None:
        self.entries = {entry.name: entry for entry in entries if not entry.name.endswith("/")}
        self._file = file
        self._damaged: set[str] = set()
        self._lock = threading.Lock()

    def read(self, name: str) -> bytes:
        """Extract a file and compare its size and checksum with the directory.

        Raises:
            ImageError: The compressed data or the checksum of this file are wrong.
            ArchiveError: Its size differs from the directory, more than one file in a hundred is damaged, or the disk
                fails.
        """
        entry = self.entries[name]
        packed = self._file.read(entry.start, entry.packed_size)
        max_size = 2 * entry.size + 2**16  # more than the size, to distinguish a wrong size from damaged data
        try:
            content = packed if entry.is_stored else _inflate(packed, max_size)
        except zlib.error as error:
            raise self._count_damage(name) from error
        is_intact = zlib.crc32(memoryview(content)[: entry.size]) == entry.checksum
        if len(content) == entry.size and is_intact:
            return content
        if len(content) != entry.size and (
            is_intact or len(content) > max_size or zlib.crc32(content) == entry.checksum
        ):
            raise ArchiveError(
                f"source: entry {entry.position} of {self._file.name} decompresses to another size than the "
                f"{entry.size:,} bytes in its directory. Pack the folders again."
            )
        raise self._count_damage(name)

    def _count_damage(self, name: str) -> ImageError:
        """Return the error for a damaged file; `ArchiveError` if there are too many."""
        with self._lock:
            self._damaged.add(name)
            num_damaged = len(self._damaged)
        if num_damaged > max(1, _MAX_DAMAGED_FRACTION * len(self.entries)):
            raise ArchiveError(
                f"source: {self._file.name} is damaged: {num_damaged:,} of its {len(self.entries):,} files, more than "
                "one in a hundred, could not be extracted. Download it again, or pack the folders again."
            )
        return ImageError("damaged_entry", "the entry's checksum or compressed data are wrong")


def _inflate(packed: bytes, max_size: int) -> bytes:
    """Decompress an entry, up to one byte more than `max_size`."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    content = stream.decompress(packed, max_size + 1)
    if len(content) <= max_size and (not stream.eof or stream.unused_data):
        raise zlib.error("the stream ends too early, or bytes follow its end")
    return content


@contextlib.contextmanager
def open_archive(path: Path, name: str, limits: SourceLimits, needed: str) -> Iterator[Archive]:
    """Open a zip file and check its whole directory; nothing is extracted yet.

    Args:
        path: The file.
        name: Name for messages.
        limits: Maximum size and number of entries.
        needed: Description of valid sources, for messages.

    Raises:
        ArchiveError: The file is no zip file, or is rejected.
        LimitError: The zip file exceeds a limit.
    """
    with explain_unreadable(name):
        stream = path.open("rb")
    with stream:
        file = OpenFile(stream, name, path.suffix)
        yield Archive(file, read_directory(file, find_directory(file, needed), limits))

"""Opens zip files: all entries are checked before any is extracted, and extracted within the checked sizes."""

import contextlib
import io
import os
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from zipfile import ZIP_STORED

from hip_mri.config import SourceLimits
from hip_mri.errors import ArchiveError, ImageError
from hip_mri.sources.zip_files.directory import Directory, read_directory
from hip_mri.sources.zip_files.end_record import OpenFile, find_directory

_CHUNK_BYTES: Final = 2**18

_MAX_DAMAGED_FRACTION: Final = 0.01
"""Fraction of damaged files above which the zip file is rejected. A single damaged file never is."""


class Archive:
    """The files of a zip file. Several threads may read at the same time."""

    def __init__(self, file: OpenFile, directory: Directory) -> None:
        self._file = file
        self._directory = directory
        self._positions = {name: at for at, name in enumerate(directory.names) if not name.endswith("/")}
        self._damaged: set[str] = set()
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        """Names of all files, in the order of the directory; no folders."""
        return list(self._positions)

    def get_size(self, name: str) -> int:
        """Return the size of a file in bytes, uncompressed."""
        return int(self._directory.entries["size"][self._positions[name]])

    def get_checksum(self, name: str) -> int:
        """Return the CRC-32 of a file according to the directory."""
        return int(self._directory.entries["checksum"][self._positions[name]])

    def read(self, name: str) -> bytes:
        """Extract a file and compare its size and checksum with the directory.

        Raises:
            ImageError: The compressed data or the checksum of this file are wrong.
            ArchiveError: Its size differs from the directory, more than one file in a hundred is damaged, or the disk
                fails.
        """
        position = self._positions[name]
        _, _, size, checksum, method = self._directory.entries[position].item()
        try:
            content = b"".join(self._read_packed(position)) if method == ZIP_STORED else self._inflate(position, size)
            is_intact = zlib.crc32(memoryview(content)[:size]) == checksum
            if len(content) != size and (is_intact or len(content) > _bound(size) or zlib.crc32(content) == checksum):
                raise ArchiveError(
                    f"source: entry {position + 1} of {self._file.name} unpacks to another size than the {size:,} "
                    "bytes in its directory, as no program packs it. Pack the folders again."
                )
            if not is_intact or len(content) != size:
                raise zlib.error("size or checksum differ")
        except zlib.error as error:
            self._count_damage(name)
            raise ImageError("damaged_entry", "the entry's checksum or compressed data are wrong") from error
        return content

    def _inflate(self, position: int, size: int) -> bytes:
        """Decompress an entry, up to one byte more than `_bound`."""
        stream = zlib.decompressobj(-zlib.MAX_WBITS)
        content = bytearray()
        for packed in self._read_packed(position):
            if stream.eof:  # zlib would keep what follows, and copy all of it for each further chunk
                raise zlib.error("bytes follow the end of the stream")
            content += stream.decompress(packed, _bound(size) + 1 - len(content))
            while stream.unconsumed_tail and len(content) <= _bound(size):
                content += stream.decompress(stream.unconsumed_tail, _bound(size) + 1 - len(content))
            if len(content) > _bound(size):
                return bytes(content)
        if not stream.eof or stream.unused_data:
            raise zlib.error("the stream ends too early, or bytes follow its end")
        return bytes(content)

    def _read_packed(self, position: int) -> Iterator[bytes]:
        start, num_bytes, *_ = self._directory.entries[position].item()
        for offset in range(start, start + num_bytes, _CHUNK_BYTES):
            yield self._file.read(offset, min(_CHUNK_BYTES, start + num_bytes - offset))

    def _count_damage(self, name: str) -> None:
        with self._lock:
            self._damaged.add(name)
            num_damaged = len(self._damaged)
        if num_damaged > max(1, _MAX_DAMAGED_FRACTION * len(self._positions)):
            raise ArchiveError(
                f"source: {self._file.name} is damaged: {num_damaged:,} of its {len(self._positions):,} files could "
                "not be unpacked so far, more than one in a hundred. Fetch it again, or pack the folders again."
            )


def _bound(size: int) -> int:
    """Bytes up to which an entry is decompressed: beyond its size, to distinguish a wrong size from damaged data."""
    return 2 * size + 2**16


@contextlib.contextmanager
def open_archive(path: Path, name: str, limits: SourceLimits, needed: str) -> Iterator[Archive]:
    """Open a zip file and check its whole directory; nothing is extracted yet.

    Args:
        path: The file.
        name: Name for messages.
        limits: How much it may hold.
        needed: What the user can give instead, for messages.

    Raises:
        ArchiveError: The file is no zip file, or cannot be trusted.
        LimitError: It holds too much.
    """
    try:
        stream = path.open("rb")
    except OSError as error:
        raise OpenFile(io.BytesIO(), 0, name).describe_unreadable(error) from None  # the error contains the path
    with stream:
        file = OpenFile(stream, os.fstat(stream.fileno()).st_size, name, path.suffix)
        yield Archive(file, read_directory(file, find_directory(file, needed), limits))

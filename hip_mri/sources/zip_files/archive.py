"""A zip file, read strictly: judged as a whole before any entry is unpacked, and unpacked within what was judged."""

import contextlib
import os
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from hip_mri.config import SourceLimits
from hip_mri.errors import ArchiveError, ImageError
from hip_mri.sources.zip_files.directory import read_directory
from hip_mri.sources.zip_files.end_record import OpenFile, find_directory
from hip_mri.sources.zip_files.records import STORED, Directory

_CHUNK_BYTES: Final = 2**18

_MOST_DAMAGED_FRACTION: Final = 0.01
"""Share of damaged entries above which the file, and not an image, is damaged. A single one never is too many."""


class Archive:
    """The files in a zip file. Several threads may read at once."""

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

    def tell_size(self, name: str) -> int:
        """Bytes of a file, unpacked."""
        return self._directory.sizes[self._positions[name]]

    def tell_checksum(self, name: str) -> int:
        """CRC-32 of a file, unpacked, as the directory says."""
        return self._directory.checksums[self._positions[name]]

    def read(self, name: str) -> bytes:
        """Unpack a file, and hold size and checksum against the directory.

        Raises:
            ImageError: The packed bytes or the checksum of this file are damaged.
            ArchiveError: It unpacks to another size than the directory says, more than one entry in a hundred is
                damaged, or the disk fails.
        """
        try:
            content = self._unpack(self._positions[name])
        except zlib.error as error:
            self._count_damage(name)
            raise ImageError("damaged_entry", "the entry's checksum or compressed data are wrong") from error
        return content

    def _unpack(self, position: int) -> bytes:
        """Content of an entry; `zlib.error` where it is damaged."""
        size, checksum = self._directory.sizes[position], self._directory.checksums[position]
        if self._directory.methods[position] == STORED:
            content = b"".join(self._read_packed(position))
        else:
            content = self._inflate(position, size)
        is_sound = zlib.crc32(memoryview(content)[:size]) == checksum
        if len(content) != size and (is_sound or len(content) > _bound(size) or zlib.crc32(content) == checksum):
            raise ArchiveError(
                f"source: entry {position + 1} of {self._file.name} unpacks to another size than the {size:,} bytes "
                "that the archive tells, as no program packs it. Pack the folders again."
            )
        if not is_sound or len(content) != size:
            raise zlib.error("size or checksum differ")
        return content

    def _inflate(self, position: int, size: int) -> bytes:
        """Unpack an entry, to no more than a byte above `_bound`."""
        stream = zlib.decompressobj(-zlib.MAX_WBITS)
        content = bytearray()
        for packed in self._read_packed(position):
            if stream.eof:  # zlib would keep what follows, and copy all that it keeps for each new piece
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
        start = self._directory.starts[position]
        end = start + self._directory.packed_sizes[position]
        for offset in range(start, end, _CHUNK_BYTES):
            yield self._file.read(offset, min(_CHUNK_BYTES, end - offset))

    def _count_damage(self, name: str) -> None:
        with self._lock:
            self._damaged.add(name)
            num_damaged = len(self._damaged)
        if num_damaged > max(1, _MOST_DAMAGED_FRACTION * len(self._positions)):
            raise ArchiveError(
                f"source: {self._file.name} is damaged: {num_damaged:,} of its {len(self._positions):,} files could "
                "not be unpacked so far, more than one in a hundred. Fetch it again, or pack the folders again."
            )


def _bound(size: int) -> int:
    """Bytes up to which an entry is unpacked: beyond its own, to tell a wrong size from damaged bytes."""
    return 2 * size + 2**16


@contextlib.contextmanager
def open_archive(path: Path, name: str, limits: SourceLimits, needed: str) -> Iterator[Archive]:
    """Open a zip file and judge its whole directory; nothing is unpacked yet.

    Messages name entries by their position: their names can identify patients.

    Args:
        path: The file.
        name: What the user knows it by.
        limits: How much it may hold.
        needed: What the user may give instead, for the message.

    Raises:
        ArchiveError: The file is no zip file, or one that cannot be trusted.
        LimitError: It holds too much.
    """
    with _open(path, name) as file:
        yield Archive(file, read_directory(file, find_directory(file, needed), limits))


@contextlib.contextmanager
def _open(path: Path, name: str) -> Iterator[OpenFile]:
    try:
        stream = path.open("rb")
    except OSError as error:
        raise ArchiveError(
            f"source: {name} cannot be read ({error.strerror}). Give a file on a sound disk that you may read."
        ) from None  # the error names the file
    with stream:
        yield OpenFile(stream.fileno(), os.fstat(stream.fileno()).st_size, name, path.suffix)

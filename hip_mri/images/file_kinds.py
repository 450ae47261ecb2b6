"""Recognizes files by their first bytes: images, and archives, web pages and Git LFS pointers given by mistake."""

import contextlib
import zlib
from typing import Final

NUM_BYTES_NEEDED: Final = 4096
"""Number of first bytes that identify the kind of a file."""

ZIP_STARTS: Final = (b"PK\3\4", b"PK\5\6", b"PK\7\x08PK\3\4")
"""First bytes of a zip file with entries, of an empty one, and of the first part of one in several parts."""

LFS_START: Final = b"version https://git-lfs.github.com/spec/"
"""Source: Git LFS specification, "The Pointer"."""

LFS_ADVICE: Final = (
    "Run `git lfs pull` in the repository that it comes from (`git lfs install` before, if Git does not know lfs), or "
    "download the file itself."
)

_ARCHIVES: Final = (
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"BZh", "a bzip2 file"),
    (b"\xfd7zXZ\0", "an xz file"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file"),
)
_NUM_BYTES_DECOMPRESSED: Final = 1024
_TAR_MARK: Final = slice(257, 262)
"""Position of `ustar` in a tar archive. Source: POSIX.1-1988, IEEE Std 1003.1."""

_PAGE_STARTS: Final = (b"<!doctype html", b"<html", b"<head")
_FORMATS: Final = {
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "JPEG": (b"\xff\xd8\xff",),
    "JPEG 2000": (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "BMP": (b"BM",),
    "WebP": (b"RIFF",),
    "GIF": (b"GIF87a", b"GIF89a"),
}
"""First bytes of image formats; WebP has its name after the next four. TIFF includes BigTIFF."""

DICOM_PREFIX: Final = b"DICM"
DICOM_PREAMBLE_BYTES: Final = 128
"""Bytes before the prefix of a DICOM file. They are neither stored nor executed."""


def is_lfs_pointer(start: bytes) -> bool:
    """Whether a file begins like a Git LFS pointer, which replaces a large file in a repository."""
    return start.startswith(LFS_START)


def is_web_page(start: bytes) -> bool:
    """Whether a file begins like a page in HTML."""
    return start.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_PAGE_STARTS)


def is_zip(start: bytes) -> bool:
    """Whether a file begins like a zip file."""
    return start.startswith(ZIP_STARTS)


def name_archive(start: bytes) -> str:
    """Return the kind of archive that a file begins like, except zip; empty if none.

    A gzip file counts only if it contains a tar archive, because medical volumes are also compressed by gzip.
    """
    for beginning, kind in _ARCHIVES:
        if start.startswith(beginning):
            return kind
    if start[_TAR_MARK] == b"ustar":
        return "a tar archive"
    if is_gzip(start) and decompress_start(start)[_TAR_MARK] == b"ustar":
        return "a tar archive in a gzip file"
    return ""


def find_format(start: bytes) -> str | None:
    """Return the format of an image file with a signature: DICOM or one of `_FORMATS`; `None` for others."""
    if start.startswith(DICOM_PREFIX, DICOM_PREAMBLE_BYTES):
        return "DICOM"
    found = next((name for name, signatures in _FORMATS.items() if start.startswith(signatures)), None)
    return None if found == "WebP" and start[8:12] != b"WEBP" else found


def is_gzip(start: bytes) -> bool:
    """Whether a file begins like a gzip file."""
    return start.startswith(b"\x1f\x8b")


def decompress_start(start: bytes) -> bytes:
    """Decompress the first 1,024 bytes of a gzip file; return them unchanged for another file."""
    if not is_gzip(start):
        return start[:_NUM_BYTES_DECOMPRESSED]
    with contextlib.suppress(zlib.error):
        return zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(start[: 2**16], _NUM_BYTES_DECOMPRESSED)
    return b""

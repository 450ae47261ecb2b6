"""Recognizes files that are given by mistake by their first bytes: archives, web pages, Git LFS pointers."""

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
_GZIP: Final = b"\x1f\x8b"
_TAR_MARK: Final = slice(257, 262)
"""Position of `ustar` in a tar archive. Source: POSIX.1-1988, IEEE Std 1003.1."""

_PAGE_STARTS: Final = (b"<!doctype html", b"<html", b"<head")
_PICTURES: Final = (
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
)


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
    if start.startswith(_GZIP) and _unpack_start(start)[_TAR_MARK] == b"ustar":
        return "a tar archive in a gzip file"
    return ""


def name_picture(start: bytes) -> str:
    """Return the kind of image that a file begins like; empty if none."""
    if start[128:132] == b"DICM":
        return "a DICOM image"
    return next((kind for beginning, kind in _PICTURES if start.startswith(beginning)), "")


def _unpack_start(start: bytes) -> bytes:
    """First 512 bytes inside a gzip file, which include the signature of a tar archive."""
    with contextlib.suppress(zlib.error):
        return zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(start[:NUM_BYTES_NEEDED], 512)
    return b""

"""The structure of PNG files, checked before any decoder sees them.

Source: Portable Network Graphics (PNG) Specification, third edition, W3C, section 5: a signature, then chunks of
length, type, data and CRC-32.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import Final

from hip_mri.errors import ImageError

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_PIXEL_CHUNKS: Final = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}


def strip_png(content: bytes) -> bytes:
    """Check a PNG file and keep only what makes its pixels.

    Text, color profiles and animation frames are left out: no decoder has to read them, and nothing that they say
    about a person travels on.

    Args:
        content: Bytes of a PNG file.

    Returns:
        Bytes of a PNG file with the same pixels.

    Raises:
        ImageError: A checksum is wrong, or the file ends early or late.
    """
    return SIGNATURE + b"".join(whole for kind, whole in _walk_chunks(content) if kind in _PIXEL_CHUNKS)


def read_size(content: bytes) -> tuple[int, int]:
    """Read the size of the picture from the header.

    Args:
        content: Bytes of a PNG file whose chunks are whole; see `strip_png`.

    Returns:
        Width and height in pixels.

    Raises:
        ImageError: The first chunk is not the header.
    """
    if content[12:16] != b"IHDR":
        raise ImageError("damaged", "the PNG file does not begin with its header")
    return struct.unpack_from(">II", content, 16)


def is_sound_png(content: bytes) -> bool:
    """Whether the bytes are a whole PNG file with right checksums from the first chunk to the last."""
    try:
        return bool(list(_walk_chunks(content)))
    except ImageError:
        return False


def _walk_chunks(content: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Type and whole bytes of each chunk."""
    if not content.startswith(SIGNATURE):
        raise ImageError("not_an_image", "the content does not begin as a PNG file")
    view, start, kind = memoryview(content), len(SIGNATURE), b""
    while kind != b"IEND":
        if start + 12 > len(content):
            raise ImageError("truncated", "the PNG file ends early")
        length, kind = struct.unpack_from(">I4s", content, start)
        end = start + 12 + length
        if end > len(content):
            raise ImageError("truncated", "the PNG file ends early")
        if zlib.crc32(view[start + 4 : end - 4]) != struct.unpack_from(">I", content, end - 4)[0]:
            raise ImageError("damaged", "a checksum inside the PNG file is wrong")
        yield kind, view[start:end]
        start = end
    if start != len(content):
        raise ImageError("appended_data", "the PNG file goes on after its end")

"""The structure of PNG files, checked before any decoder sees them.

Source: Portable Network Graphics (PNG) Specification, third edition, W3C, sections 5 and 11: a signature, then chunks
of length, type, data and CRC-32; IHDR first and once, PLTE and tRNS before the data, IDAT without a gap, IEND last.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hip_mri.data.structure import Structure, check_size
from hip_mri.data.tiff import read_orientation
from hip_mri.errors import ImageError

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_CRITICAL_CHUNKS: Final = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_PIXEL_CHUNKS: Final = {*_CRITICAL_CHUNKS, b"tRNS"}
_ANIMATION_CHUNKS: Final = {b"acTL", b"fcTL", b"fdAT"}
_DEPTHS: Final = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""Bits per sample that each type of color may have."""
_SAMPLES_PER_PIXEL: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PALETTE: Final = 3

_MAX_RATIO: Final = 1032
"""Most bytes that one byte of deflated data becomes. Source: zlib's technical details, "Maximum Compression Factor"."""

_BLOCK_SIZE: Final = 65_535  # bytes; the most that a stored block of RFC 1951, 3.2.4, holds

Chunks = list[tuple[bytes, memoryview]]
"""Type and whole bytes of each chunk."""


def examine_png(content: bytes) -> Structure:
    """Check a PNG file and keep only what makes its pixels.

    Text, color profiles and times are left out: no decoder has to inflate or read them, and nothing that they say
    about a person travels on.

    Args:
        content: Bytes of a PNG file.

    Returns:
        A PNG file with the same pixels.

    Raises:
        ImageError: A checksum is wrong, the file ends early or late, its chunks are out of order, its header is
            impossible, it is animated, or it has too many pixels.
    """
    chunks = list(_walk_chunks(content))
    _check_order([kind for kind, _ in chunks])
    color, num_data_bytes = _check_header(chunks[0][1])
    _check_palette(color, chunks)
    if sum(len(whole) - 12 for kind, whole in chunks if kind == b"IDAT") * _MAX_RATIO < num_data_bytes:
        raise ImageError("truncated", "the PNG file has too few data for its size")
    exif = next((bytes(whole[8:-4]) for kind, whole in chunks if kind == b"eXIf"), b"")
    bare = SIGNATURE + b"".join(whole for kind, whole in chunks if kind in _PIXEL_CHUNKS)
    return Structure(bare, is_bare=True, orientation=read_orientation(exif))


def is_sound_png(content: bytes) -> bool:
    """Whether the bytes are a whole PNG file with right checksums from the first chunk to the last."""
    try:
        return bool(list(_walk_chunks(content)))
    except ImageError:
        return False


def write_plain_png(image: NDArray[np.uint8]) -> bytes:
    """Write gray levels, shape (height, width), as a PNG file that is the same wherever it is made.

    Pixels are not compressed: compressed bytes differ between versions of zlib, and with them the SHA-256 that names
    the image.
    """
    height, width = image.shape
    rows = np.zeros((height, width + 1), np.uint8)  # each row begins with its filter, 0 for none
    rows[:, 1:] = image
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", _store(rows.tobytes())), (b"IEND", b"")]
    return SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


def _store(data: bytes) -> bytes:
    """A zlib stream (RFC 1950) of stored blocks."""
    blocks = [data[start : start + _BLOCK_SIZE] for start in range(0, len(data), _BLOCK_SIZE)]
    heads = [struct.pack("<BHH", block is blocks[-1], len(block), len(block) ^ 0xFFFF) for block in blocks]
    body = b"".join(part for pair in zip(heads, blocks, strict=True) for part in pair)
    return b"\x78\x01" + body + struct.pack(">I", zlib.adler32(data))


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


def _check_order(kinds: list[bytes]) -> None:
    if not _ANIMATION_CHUNKS.isdisjoint(kinds):
        raise ImageError("several_pictures", "the PNG file is animated")
    if kinds[0] != b"IHDR" or kinds.count(b"IHDR") > 1:
        raise ImageError("damaged", "the PNG file does not begin with its one header")
    if any(not kind.isalpha() or (kind[:1].isupper() and kind not in _CRITICAL_CHUNKS) for kind in kinds):
        raise ImageError("damaged", "the PNG file has a chunk of unknown kind that it says is needed")
    if b"IDAT" not in kinds:
        raise ImageError("truncated", "the PNG file has no pixels")
    first, num_data = kinds.index(b"IDAT"), kinds.count(b"IDAT")
    if kinds[first : first + num_data].count(b"IDAT") != num_data:
        raise ImageError("damaged", "the pixels of the PNG file are interrupted")
    before = [kind for kind in kinds if kind in (b"PLTE", b"tRNS")]
    if before != sorted(set(before)) or not set(before) <= set(kinds[:first]):
        raise ImageError("damaged", "palette or transparency of the PNG file are repeated or out of order")


def _check_header(whole: memoryview) -> tuple[int, int]:
    """Type of color, and bytes that the pixels take."""
    if len(whole) != 25:
        raise ImageError("damaged", "the header of the PNG file has a wrong length")
    width, height, depth, color, *methods = struct.unpack(">IIBBBBB", whole[8:21])
    if depth not in _DEPTHS.get(color, ()) or methods not in ([0, 0, 0], [0, 0, 1]):
        raise ImageError("damaged", "the header of the PNG file has impossible values")
    check_size(width, height)
    return color, width * height * depth * _SAMPLES_PER_PIXEL[color] // 8


def _check_palette(color: int, chunks: Chunks) -> None:
    lengths = [len(whole) - 12 for kind, whole in chunks if kind == b"PLTE"]
    if any(length == 0 or length % 3 or length > 3 * 256 for length in lengths) or (color == _PALETTE and not lengths):
        raise ImageError("damaged", "the palette of the PNG file is missing or has a wrong length")

"""Image files made for tests, sound and broken ones, without the help of the library under test."""

import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hip_mri.images.reading import read_pictures
from hip_mri.images.stored_png import hash_pixels


def draw_noise(seed: int, height: int = 24, width: int = 20) -> NDArray[np.uint8]:
    """Noise on a ramp, gray levels 0-255."""
    ramp = np.linspace(0, 180, height * width).reshape(height, width)
    return (ramp + np.random.default_rng(seed).integers(0, 60, (height, width))).astype(np.uint8)


def decode_gray(content: bytes) -> NDArray[np.uint8]:
    """Gray levels of a file with one picture."""
    (picture,) = read_pictures(content)
    return picture.levels


def hash_picture(content: bytes) -> str:
    """The hash under which the picture of a file is stored."""
    return hash_pixels(decode_gray(content))


def encode_image(picture: NDArray | Image.Image, kind: str = "PNG", **options: object) -> bytes:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def join_chunks(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """A PNG file of these chunks, with right checksums."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def split_chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    """Type and data of each chunk of a PNG file."""
    chunks, start = [], 8
    while start < len(content):
        (length,) = struct.unpack_from(">I", content, start)
        chunks.append((content[start + 4 : start + 8], content[start + 8 : start + 8 + length]))
        start += 12 + length
    return chunks


def insert_chunk(content: bytes, kind: bytes, data: bytes) -> bytes:
    """A PNG file with one more chunk behind its header."""
    header, *rest = split_chunks(content)
    return join_chunks([header, (kind, data), *rest])


def write_png(width: int, height: int, data: bytes, depth: int = 8, color: int = 0) -> bytes:
    """A PNG file with right checksums, whatever its header and data say."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return join_chunks([(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")])


def write_crashing_png() -> bytes:
    """An animated PNG whose hidden first picture is cut off; `cv2.imdecode` of OpenCV 5.0 dies of it."""
    header = struct.pack(">IIBBBBB", 100, 3, 8, 3, 0, 0, 0)
    frame = bytes.fromhex("00000001000000010000000300000005000000000001000a0000")
    start = bytes.fromhex("789c012f01d0fe002c23d1dc3c61f32aa2b99472dfa3")
    chunks = [(b"IHDR", header), (b"acTL", struct.pack(">II", 5, 0)), (b"PLTE", bytes(768)), (b"IDAT", start)]
    return join_chunks([*chunks, (b"fcTL", frame), (b"fdAT", b"\0\0\0\2" + start[:16]), (b"IEND", b"")])


def set_tiff_field(content: bytes, tag: int, value: int) -> bytes:
    """A little-endian TIFF file with another value in a field of the type short or long."""
    changed = bytearray(content)
    (start,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, start)
    for place in range(start + 2, start + 2 + 12 * count, 12):
        found, kind = struct.unpack_from("<HH", content, place)
        if found == tag:
            struct.pack_into("<I" if kind == 4 else "<H", changed, place + 8, value)
            return bytes(changed)
    raise KeyError(tag)


def insert_segment(content: bytes, marker: int, data: bytes) -> bytes:
    """A JPEG file with one more segment behind its beginning."""
    return content[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data + content[2:]

"""Reads PNG, JPEG, JPEG 2000, BMP, WebP and GIF files: OpenCV decodes pixels, Pillow headers of all but PNG."""

import io
import struct
from collections.abc import Iterator
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from hip_mri.errors import ImageError
from hip_mri.images.decoding_results import MAX_NUM_PIXELS, check_size, explain_decoder_errors
from hip_mri.images.gray_levels import convert_to_gray, turn_upright

_SCAN: Final = b"\xff\xda"
_END: Final = b"\xff\xd9"
_SIZE: Final = struct.Struct(">II")
_HEADER_CHUNKS: Final = {b"IHDR", b"eXIf"}
_BLOCK_PIXELS: Final = 64
"""Pixels of a block of coefficients in JPEG, which takes at least one bit."""


def read_raster(content: bytes, name: str) -> NDArray[np.uint8]:
    """Read the one picture of a file.

    Args:
        content: Bytes of the file.
        name: Its format.

    Returns:
        Gray levels 0-255, shape (height, width), with the orientation of EXIF applied.

    Raises:
        ImageError: The file is damaged, too large, an animation, or of a kind that is not supported.
    """
    size, orientation = _read_header(content, name)
    check_size(*size)
    if name == "JPEG":
        _check_jpeg_end(content, size)
    decoded = _decode(content)
    if decoded.shape[1::-1] != size:
        raise ImageError("damaged", f"the header says {size[0]} x {size[1]} pixels, which the file does not contain")
    return turn_upright(convert_to_gray(decoded), orientation)


def _read_header(content: bytes, name: str) -> tuple[tuple[int, int], int]:
    """Width and height, and orientation as EXIF numbers it."""
    if name == "PNG":
        return _read_png_header(content)
    with explain_decoder_errors("the header of the file", "damaged"):
        try:
            image = Image.open(io.BytesIO(content), formats=[name.upper().replace(" ", "")])
        except Image.DecompressionBombError as error:
            raise ImageError("too_many_pixels", f"the image has more than {MAX_NUM_PIXELS:,} pixels") from error
        with image:
            # A JPEG file of several pictures ("MPO") starts with the main picture, and previews follow.
            if image.format != "MPO" and getattr(image, "is_animated", False):
                raise ImageError("several_pictures", "the file is an animation")
            return image.size, _read_orientation(image.info.get("exif", b""))


def _read_png_header(content: bytes) -> tuple[tuple[int, int], int]:
    """As `_read_header`, without Pillow, which rejects files for damaged texts and color profiles."""
    chunks = dict(_list_chunks(content))
    if b"acTL" in chunks:
        raise ImageError("several_pictures", "the file is an animation")
    if len(chunks.get(b"IHDR", b"")) < _SIZE.size:
        raise ImageError("truncated", "the PNG file has no header")
    return _SIZE.unpack_from(chunks[b"IHDR"]), _read_orientation(chunks.get(b"eXIf", b""))


def _list_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and data of the chunks of a PNG file, up to its end."""
    start, kind = 8, b""
    while start + 8 <= len(content) and kind != b"IEND":
        end = start + 8 + int.from_bytes(content[start : start + 4], "big")
        kind = content[start + 4 : start + 8]
        yield kind, content[start + 8 : end] if kind in _HEADER_CHUNKS else b""
        start = end + 4


def _read_orientation(exif: bytes) -> int:
    found = Image.Exif()
    try:
        found.load(exif)
        orientation = int(found.get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1
    return orientation if orientation in range(1, 9) else 1


def _check_jpeg_end(content: bytes, size: tuple[int, int]) -> None:
    """Check that a JPEG file is complete: decoders fill missing pixels with gray."""
    end = content.rfind(_END)
    if not 0 <= content.rfind(_SCAN) < end:
        raise ImageError("truncated", "the JPEG file is truncated")
    start = content.find(_SCAN) + len(_SCAN)
    start += int.from_bytes(content[start : start + 2], "big")
    if (end - start) * 8 < size[0] * size[1] / _BLOCK_PIXELS:
        raise ImageError("truncated", "the JPEG file has too few data for its size")


def _decode(content: bytes) -> NDArray:
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError from error
        image = None
    if image is None:
        raise ImageError("undecodable", "the decoder rejects the content; it is damaged or truncated")
    return image

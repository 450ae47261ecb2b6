"""Encodes and decodes the stored form of images: 8-bit gray PNG files without metadata."""

import hashlib
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from hip_mri.errors import ImageError

_FAST: Final = (
    *(cv2.IMWRITE_PNG_COMPRESSION, 1),
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY),
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP),
)
"""Fastest parameters: 0.5 ms for 256 x 256 pixels; files are an eighth smaller than with the default of OpenCV."""

_END: Final = b"\0\0\0\0IEND\xaeB`\x82"
"""Last chunk of a PNG file. OpenCV checks the checksums of all others."""


def encode_png(levels: NDArray[np.uint8]) -> bytes:
    """Encode gray levels, shape (height, width), as the bytes of a PNG file without text, profile or time."""
    encoded, content = cv2.imencode(".png", levels, _FAST)
    if not encoded:
        raise ImageError("unencodable", f"an image of shape {levels.shape} could not be encoded as PNG")
    return content.tobytes()


def decode_png(content: bytes) -> NDArray[np.uint8]:
    """Decode the bytes of `encode_png` to gray levels 0-255, shape (height, width).

    Raises:
        ImageError: The bytes are damaged.
    """
    try:
        levels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE)
    except cv2.error:
        levels = None
    if levels is None or not content.endswith(_END):
        raise ImageError("undecodable", "the stored image is damaged")
    return levels.astype(np.uint8, copy=False)


def hash_pixels(levels: NDArray[np.uint8]) -> str:
    """SHA-256 of gray levels and their shape, 64 hexadecimal digits: the same for every file with these pixels."""
    content = hashlib.sha256(f"gray 8 bits, {levels.shape[0]} x {levels.shape[1]}\n".encode())
    content.update(np.ascontiguousarray(levels).data)
    return content.hexdigest()

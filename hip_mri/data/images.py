"""Image bytes to gray levels and back."""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from hip_mri.data import png
from hip_mri.errors import ImageError

MAGIC_BYTES: dict[bytes, str] = {
    png.SIGNATURE: "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
    b"BM": "BMP",
}

MAX_NUM_PIXELS: Final = 100_000_000
"""Largest PNG image that is decoded, in pixels: a file of some hundred kilobytes can name a picture that takes
gigabytes. The other formats have the limit of OpenCV, 2^30."""

_LUMA: Final = (0.114, 0.587, 0.299)
"""Weights of blue, green and red. Source: ITU-R BT.601."""


def decode_gray(content: bytes) -> NDArray[np.uint8]:
    """Decode an image file to gray levels.

    Color becomes luma (ITU-R BT.601, as OpenCV weighs it); an alpha channel is dropped. Deeper than 8 bits: the
    range from the image's lowest to its highest value is stretched linearly over 0-255, so that 12-bit data in a
    16-bit file keep their contrast.

    Args:
        content: Bytes of a PNG, JPEG, TIFF or BMP file.

    Returns:
        Gray levels 0-255, shape (height, width).

    Raises:
        ImageError: The bytes are empty, of another kind, damaged, or hold no usable picture.
    """
    if not content:
        raise ImageError("empty_file", "the file has no content")
    if not any(content.startswith(magic) for magic in MAGIC_BYTES):
        raise ImageError("not_an_image", "the content is none of " + ", ".join(sorted(set(MAGIC_BYTES.values()))))
    if content.startswith(png.SIGNATURE):
        content = png.strip_png(content)
        _check_size(*png.read_size(content))
    image = _decode(content, cv2.IMREAD_UNCHANGED)
    if not np.isfinite(image).all():
        raise ImageError("not_finite", "some pixels are not a number or infinite")
    gray = _stretch_to_uint8(_drop_color(image))
    if gray.min() == gray.max():
        raise ImageError("blank", "all pixels have the same gray level")
    return gray


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """Encode gray levels, shape (height, width), as the bytes of a PNG file."""
    encoded, content = cv2.imencode(".png", image)
    if not encoded:
        raise ImageError("unencodable", f"an image of shape {image.shape} could not be encoded as PNG")
    return content.tobytes()


def decode_png(content: bytes) -> NDArray[np.uint8]:
    """Decode the bytes that `encode_png` made to gray levels 0-255, shape (height, width)."""
    return _decode(content, cv2.IMREAD_GRAYSCALE).astype(np.uint8, copy=False)


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_NUM_PIXELS:
        raise ImageError("too_many_pixels", f"the image has {width} x {height} pixels, above {MAX_NUM_PIXELS:,}")


def _decode(content: bytes, mode: int) -> NDArray:
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), mode)
    except cv2.error as error:
        raise ImageError("undecodable", "the decoder refuses the content") from error
    if image is None:
        raise ImageError("undecodable", "the decoder refuses the content")
    return image


def _drop_color(image: NDArray) -> NDArray:
    if image.ndim == 2:
        return image
    if image.shape[2] not in (3, 4):
        return image[..., 0]  # gray with alpha
    if image.dtype == np.uint8:
        return cv2.cvtColor(np.ascontiguousarray(image[..., :3]), cv2.COLOR_BGR2GRAY)
    return image[..., :3].astype(np.float64) @ _LUMA  # OpenCV does not know every depth


def _stretch_to_uint8(image: NDArray) -> NDArray[np.uint8]:
    if image.dtype == np.uint8:
        return image
    values = image.astype(np.float64)
    _, exponent = np.frexp(np.abs(values).max())
    values = np.ldexp(values, -exponent)  # exact, and no difference of values between -1 and 1 overflows
    low, high = values.min(), values.max()
    span = high - low if high > low else 1.0
    return np.rint((values - low) * (255.0 / span)).astype(np.uint8)

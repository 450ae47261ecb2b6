"""Image bytes to gray levels and back."""

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
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ImageError("undecodable", "the decoder refuses the content") from error
    if image is None:
        raise ImageError("undecodable", "the decoder refuses the content")
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


def _drop_color(image: NDArray) -> NDArray:
    if image.ndim == 2:
        return image
    num_channels = image.shape[2]
    if num_channels in (3, 4):
        return cv2.cvtColor(np.ascontiguousarray(image[..., :3]), cv2.COLOR_BGR2GRAY)
    return image[..., 0]  # gray with alpha


def _stretch_to_uint8(image: NDArray) -> NDArray[np.uint8]:
    if image.dtype == np.uint8:
        return image
    values = image.astype(np.float64)
    if not np.isfinite(values).all():
        raise ImageError("not_finite", "some pixels are not a number or infinite")
    low, high = values.min(), values.max()
    span = high - low if high > low else 1.0
    return np.rint((values - low) * (255.0 / span)).astype(np.uint8)

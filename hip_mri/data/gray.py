"""From whatever a decoder gives to gray levels 0-255, and whether they show anything."""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from hip_mri.errors import ImageError

MIN_SIDE: Final = 8
"""Shortest side of a usable image, in pixels; thumbnails and markers are smaller, slices ten times larger."""

MAX_ASPECT: Final = 10
"""Longest side of a usable image, in multiples of the shortest; color bars and rulers are longer."""

MIN_TELLING_FRACTION: Final = 0.001
"""Share of the pixels that must stand out of the most frequent gray levels, or the image counts as blank."""

NUM_ALIKE_LEVELS: Final = 5
"""Neighbouring gray levels that count as one; compression makes so many out of one level."""

_LUMA: Final = (0.114, 0.587, 0.299)
"""Weights of blue, green and red. Source: ITU-R BT.601."""


def convert_to_gray(image: NDArray, *, is_inverted: bool = False) -> NDArray[np.uint8]:
    """Turn decoded pixels into gray levels.

    Color becomes luma (ITU-R BT.601, as OpenCV weighs it); an alpha channel is dropped. Deeper than 8 bits: the
    range from the image's lowest to its highest value is stretched linearly over 0-255, so that 12-bit data in a
    16-bit file keep their contrast.

    Args:
        image: As OpenCV decodes it: shape (height, width) or (height, width, channels), blue first.
        is_inverted: Whether high values are dark.

    Returns:
        Gray levels, shape (height, width).

    Raises:
        ImageError: All of it is transparent, or values are not finite.
    """
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise ImageError("not_finite", "some pixels are not a number or infinite")
    if image.ndim == 3 and image.shape[2] in (2, 4) and not image[..., -1].any():
        raise ImageError("transparent", "all pixels are fully transparent")
    gray = stretch_levels(_drop_color(image))
    return cv2.bitwise_not(gray).astype(np.uint8, copy=False) if is_inverted else gray


def stretch_levels(image: NDArray) -> NDArray[np.uint8]:
    """Stretch finite values linearly from black for the lowest to white for the highest; 8-bit levels stay."""
    if image.dtype == np.uint8:
        return image
    if image.dtype == np.uint16:  # every level once in the place of every pixel: a hundredth of the memory
        low, high = int(image.min()), int(image.max())
        table = np.zeros(2**16, np.uint8)
        table[low : high + 1] = stretch_levels(np.arange(low, high + 1, dtype=np.float64))
        return table[image]
    values = image.astype(np.float64)
    _, exponent = np.frexp(np.abs(values).max())
    values = np.ldexp(values, -exponent)  # exact, and no difference of values between -1 and 1 overflows
    low, high = values.min(), values.max()
    span = high - low if high > low else 1.0
    return np.rint((values - low) * (255.0 / span)).astype(np.uint8)


def turn_upright(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Show a picture as its file means it; `Structure.orientation` names the eight ways."""
    if orientation >= 5:
        image = image.T
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def check_usable(image: NDArray[np.uint8]) -> None:
    """See that an image is large enough, of a sensible shape and shows something; `ImageError` otherwise."""
    short, long = sorted(image.shape)
    if short < MIN_SIDE:
        raise ImageError("too_small", f"the image has {image.shape[1]} x {image.shape[0]} pixels, below {MIN_SIDE}")
    if long > MAX_ASPECT * short:
        raise ImageError("extreme_aspect", f"one side is more than {MAX_ASPECT} times as long as the other")
    counts = cv2.calcHist([image], [0], None, [256], [0, 256]).ravel()
    num_alike = np.convolve(counts, np.ones(NUM_ALIKE_LEVELS)).max()
    if image.size - num_alike < MIN_TELLING_FRACTION * image.size:
        raise ImageError("blank", "all pixels, or all but one in a thousand, have the same gray level")


def _drop_color(image: NDArray) -> NDArray:
    if image.ndim == 2:
        return image
    if image.shape[2] not in (3, 4):
        return image[..., 0]  # gray with alpha
    if image.dtype == np.uint8:
        return cv2.cvtColor(np.ascontiguousarray(image[..., :3]), cv2.COLOR_BGR2GRAY)
    return image[..., :3].astype(np.float64) @ _LUMA  # OpenCV does not know every depth

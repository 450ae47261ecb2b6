"""Converts decoded pixel values to gray levels 0-255 and rejects images without content."""

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from hip_mri.errors import ImageError

MIN_SIDE: Final = 8
"""Minimum side of a usable image, in pixels; thumbnails and markers are smaller, slices ten times larger."""

MAX_ASPECT: Final = 10
"""Maximum ratio of the longer to the shorter side; that of color bars and rulers is higher."""

MIN_VARIED_FRACTION: Final = 0.001
"""Fraction of the pixels that must differ from the most frequent gray levels, or the image counts as blank."""

NUM_SIMILAR_LEVELS: Final = 5
"""Neighboring gray levels that count as one, because lossy compression spreads one level over several."""

PERCENTILES: Final = (1, 99)
"""Percentiles of the robust range; see `find_range`."""

_MAX_SAMPLE_SIZE: Final = 2**21
"""Maximum number of values from which percentiles are computed; of more, every n-th is used."""

_LUMA: Final = (0.114, 0.587, 0.299)
"""Weights of blue, green and red in luma. Source: ITU-R BT.601."""


def convert_to_gray(image: NDArray, *, is_inverted: bool = False) -> NDArray[np.uint8]:
    """Convert decoded pixels to gray levels.

    Color becomes luma (ITU-R BT.601); an alpha channel is dropped. Values of more than 8 bits are scaled by
    `find_range`.

    Args:
        image: Shape (height, width) or (height, width, channels), in the order blue, green, red, alpha.
        is_inverted: Whether high values are dark.

    Returns:
        Gray levels, shape (height, width).

    Raises:
        ImageError: All pixels are transparent, or values are not finite.
    """
    return convert_stack([image], is_inverted=is_inverted)[0]


def convert_stack(images: Sequence[NDArray], *, is_inverted: bool = False) -> list[NDArray[np.uint8]]:
    """Convert the slices of one file to gray levels, with one range for all; see `convert_to_gray`."""
    gray = [_drop_color(image) for image in images]
    levels = scale_to_levels(gray)
    return [cv2.bitwise_not(image).astype(np.uint8, copy=False) if is_inverted else image for image in levels]


def scale_to_levels(images: Sequence[NDArray]) -> list[NDArray[np.uint8]]:
    """Scale values linearly from black at the lower end of their common range to white at the upper one.

    Args:
        images: Values of any shape, all of one type; 8-bit levels without a sign stay as they are.

    Raises:
        ImageError: Values are not finite.
    """
    if any(image.dtype.kind == "f" and not np.isfinite(image).all() for image in images):
        raise ImageError("not_finite", "some pixels are not a number or infinite")
    if all(image.dtype == np.uint8 for image in images):
        return list(images)
    low, high = find_range(images)
    return [_scale(image, low, high) for image in images]


def find_range(images: Sequence[NDArray]) -> tuple[float, float]:
    """Find the range of values that is mapped to black to white, without outliers.

    A lowest or highest value farther from all other values than half of the range is excluded: a marker, burned-in
    text, or undeclared padding. Then values below the 1st or above the 99th percentile by more than the distance of
    the two are clipped. Without outliers the range is from the lowest to the highest value.

    Args:
        images: Finite values, not empty.

    Returns:
        The lower and the upper end; equal if there is a single value.
    """
    low, high = float(min(image.min() for image in images)), float(max(image.max() for image in images))
    half = high / 2 - low / 2  # the difference of two floats can overflow
    second_low = min((float(rest.min()) for image in images if (rest := image[image > low]).size), default=high)
    second_high = max((float(rest.max()) for image in images if (rest := image[image < high]).size), default=low)
    if second_low < high and second_low / 2 - low / 2 > half / 2:
        low = second_low
    if second_high > low and high / 2 - second_high / 2 > half / 2:
        high = second_high
    step = max(sum(image.size for image in images) // _MAX_SAMPLE_SIZE, 1)
    sample = np.clip(np.concatenate([image.ravel()[::step] for image in images]), low, high)
    lower, upper = (float(value) for value in np.percentile(sample.astype(np.float64), PERCENTILES))
    span = upper / 2 - lower / 2
    if span > 0 and np.isfinite(2 * span):
        low, high = max(low, lower - 2 * span), min(high, upper + 2 * span)
    return low, high


def _scale(image: NDArray, low: float, high: float) -> NDArray[np.uint8]:
    if image.dtype == np.uint16 and image.size > 2**16:  # each possible value once instead of each pixel
        return _scale(np.arange(2**16, dtype=np.float64), low, high)[image]
    _, exponent = np.frexp(max(abs(low), abs(high)))
    values = np.ldexp(image.astype(np.float64), -exponent)  # exact, and no difference of values overflows
    start, end = np.ldexp(low, -exponent), np.ldexp(high, -exponent)
    span = end - start if end > start else 1.0
    return np.rint(np.clip((values - start) * (255.0 / span), 0, 255)).astype(np.uint8)


def turn_upright(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Apply the orientation of an image file.

    Args:
        image: Shape (height, width).
        orientation: Value of EXIF: 1 unchanged, 2 mirrored, 3 rotated by 180°, 4 flipped vertically, 5 transposed,
            6 rotated clockwise by 90°, 7 transposed along the other diagonal, 8 rotated counterclockwise by 90°.
    """
    if orientation in (5, 6, 7, 8):
        image = image.T
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def check_usable(image: NDArray[np.uint8]) -> None:
    """Check that an image is large enough, of a sensible shape and not blank; `ImageError` otherwise."""
    short, long = sorted(image.shape)
    if short < MIN_SIDE:
        raise ImageError("too_small", f"the image has {image.shape[1]} x {image.shape[0]} pixels, below {MIN_SIDE}")
    if long > MAX_ASPECT * short:
        raise ImageError("extreme_aspect", f"one side is more than {MAX_ASPECT} times as long as the other")
    counts = cv2.calcHist([image], [0], None, [256], [0, 256]).ravel()
    num_similar = np.convolve(counts, np.ones(NUM_SIMILAR_LEVELS)).max()
    if image.size - num_similar < MIN_VARIED_FRACTION * image.size:
        raise ImageError("blank", "all pixels, or all but one in a thousand, have the same gray level")


def _drop_color(image: NDArray) -> NDArray:
    if image.ndim == 2:
        return image
    if image.shape[2] in (2, 4) and not image[..., -1].any():
        raise ImageError("transparent", "all pixels are fully transparent")
    if image.shape[2] not in (3, 4):
        return image[..., 0]  # gray with alpha
    if image.dtype == np.uint8:
        return cv2.cvtColor(np.ascontiguousarray(image[..., :3]), cv2.COLOR_BGR2GRAY)
    return image[..., :3].astype(np.float64) @ _LUMA  # OpenCV does not support every depth

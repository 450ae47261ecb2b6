"""What the walks through the structure of image files have in common: their finding and their budget of pixels."""

from dataclasses import dataclass
from typing import Final

from hip_mri.errors import ImageError

MAX_NUM_PIXELS: Final = 50_000_000
"""Largest image that is decoded, in pixels: a file of some hundred kilobytes can name a picture that takes gigabytes.
The largest medical images, mammograms, have half of it."""


@dataclass(frozen=True)
class Structure:
    """A file whose structure is sound.

    Attributes:
        content: What the decoder is given: the same pixels, and as little beside them as the format allows.
        is_bare: Whether `content` holds nothing but what makes the pixels, so that it may be stored.
        orientation: How the stored rows and columns are meant to be shown, as EXIF numbers it: 1 as they are,
            2 mirrored, 3 turned by 180°, 4 upside down, 5 transposed, 6 turned clockwise by 90°, 7 transposed along
            the other diagonal, 8 turned counterclockwise by 90°.
        is_inverted: Whether the decoder gives high values for dark pixels.
    """

    content: bytes
    is_bare: bool = False
    orientation: int = 1
    is_inverted: bool = False


def check_size(width: int, height: int) -> None:
    """See that a picture has pixels and not too many, before memory is taken for them; `ImageError` otherwise."""
    if width <= 0 or height <= 0:
        raise ImageError("damaged", f"the image has {width} x {height} pixels")
    if width * height > MAX_NUM_PIXELS:
        raise ImageError("too_many_pixels", f"the image has {width} x {height} pixels, above {MAX_NUM_PIXELS:,}")

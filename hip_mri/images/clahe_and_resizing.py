"""Equalizes the contrast of gray images (CLAHE) and resizes them."""

import cv2
import numpy as np
from numpy.typing import NDArray

from hip_mri.config import PreprocessingSettings
from hip_mri.errors import ImageError


def equalize_contrast(image: NDArray[np.uint8], clip_limit: float = 2.0, num_tiles: int = 8) -> NDArray[np.uint8]:
    """Equalize the contrast tile by tile (CLAHE), so that low-contrast structures become visible.

    Args:
        image: Gray levels 0-255, shape (height, width).
        clip_limit: Maximum bin of a tile's histogram, in multiples of the mean bin; higher values increase contrast and
            noise.
        num_tiles: Tiles along each axis.

    Returns:
        A new image of the same shape and range.

    Raises:
        ImageError: `image` is not two-dimensional uint8.

    Source: Zuiderveld, "Contrast Limited Adaptive Histogram Equalization", Graphics Gems IV, 1994.
    """
    if image.ndim != 2 or image.dtype != np.uint8:
        raise ImageError("not_gray", f"gray levels of type uint8 are needed, received {image.dtype} {image.shape}")
    return cv2.createCLAHE(clip_limit, (num_tiles, num_tiles)).apply(image).astype(np.uint8, copy=False)


def preprocess_image(image: NDArray[np.uint8], settings: PreprocessingSettings) -> NDArray[np.uint8]:
    """Equalize the contrast of an image and resize it.

    Args:
        image: Gray levels 0-255, shape (height, width).
        settings: Parameters of CLAHE and size.

    Returns:
        Gray levels 0-255, shape (image_size, image_size).
    """
    if settings.clahe_clip_limit > 0:
        image = equalize_contrast(image, settings.clahe_clip_limit, settings.clahe_num_tiles)
    size = (settings.image_size, settings.image_size)
    if image.shape == size:
        return image
    shrinks = settings.interpolation == "area" and min(image.shape) > settings.image_size
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR).astype(np.uint8)

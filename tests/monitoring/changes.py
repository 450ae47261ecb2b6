"""Changes of images for the tests and the benchmark of the drift check."""

from collections.abc import Callable
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]


def resize(image: Image, factor: float) -> Image:
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA).astype(np.uint8)


def map_levels(image: Image, change: Callable[[NDArray], NDArray]) -> Image:
    return np.clip(np.rint(change(image.astype(np.float64))), 0, 255).astype(np.uint8)


def add_noise(image: Image, deviation: float) -> Image:
    noise = np.random.default_rng(int(image.sum())).normal(0, deviation, image.shape)
    return map_levels(image, lambda levels: levels + noise)


STRONG: Final[dict[str, Callable[[Image], Image]]] = {
    "inverted": lambda image: 255 - image,
    "half_size": lambda image: resize(image, 0.5),
    "double_size": lambda image: resize(image, 2),
    "levels_times_0.6": lambda image: map_levels(image, lambda levels: 0.6 * levels),
    "levels_plus_40": lambda image: map_levels(image, lambda levels: levels + 40),
    "gamma_2": lambda image: map_levels(image, lambda levels: 255 * (levels / 255) ** 2),
    "two_levels": lambda image: map_levels(image, lambda levels: 255 * (levels > 100)),
    "noise_40": lambda image: add_noise(image, 40),
    "blur_3_pixels": lambda image: cv2.GaussianBlur(image, (0, 0), 3).astype(np.uint8),
    "half_cut_off": lambda image: image[:, : image.shape[1] // 2],
    "black_frame": lambda image: cv2.copyMakeBorder(image, 60, 60, 60, 60, cv2.BORDER_CONSTANT, value=0).astype(
        np.uint8
    ),
}
"""Must be found in every batch."""

SLIGHT: Final[dict[str, Callable[[Image], Image]]] = {
    "levels_times_0.97": lambda image: map_levels(image, lambda levels: 0.97 * levels),
    "levels_plus_2": lambda image: map_levels(image, lambda levels: levels + 2),
    "noise_2": lambda image: add_noise(image, 2),
    "mirrored": lambda image: np.ascontiguousarray(np.fliplr(image)),
}
"""Should not stop a run."""

MODERATE: Final[dict[str, Callable[[Image], Image]]] = {
    "upside_down": lambda image: np.ascontiguousarray(np.flipud(image)),
    "levels_times_0.85": lambda image: map_levels(image, lambda levels: 0.85 * levels),
    "blur_1_pixel": lambda image: cv2.GaussianBlur(image, (0, 0), 1).astype(np.uint8),
    "noise_10": lambda image: add_noise(image, 10),
    "size_times_1.25": lambda image: resize(image, 1.25),
}
"""In between; the benchmark measures how often they are found."""

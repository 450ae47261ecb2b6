"""Computes statistics of an image: size, gray levels and sharpness.

They describe the image before contrast enhancement, which would hide shifts of gray levels between scanners or exports.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hip_mri.errors import ImageError

NUM_LEVELS: Final = 256

PERCENTILES: Final = (1, 5, 25, 50, 75, 95, 99)

BORDER_FRACTION: Final = 0.02
"""Width of the border, as a fraction of the shorter side."""


class Statistic(NamedTuple):
    """One number that describes an image.

    Attributes:
        name: As in tables.
        title: As in sentences and charts, with the unit if it is not `unit`.
        min_spread: Smallest standard deviation between patients that is used, in the unit of the statistic. If
            training images agree more closely (for example, all have one size), differences are compared with this
            value, so that differences too small to notice do not count as large.
        unit: Unit in charts; empty if the title has it, or if there is none.
    """

    name: str
    title: str
    min_spread: float
    unit: str = "gray levels, 0-255"


STATISTICS: Final = (
    Statistic("height", "height (pixels)", 16.0, ""),
    Statistic("width", "width (pixels)", 16.0, ""),
    Statistic("aspect", "width / height", 0.05, ""),
    Statistic("mean", "mean gray level", 4.0),
    Statistic("standard_deviation", "standard deviation of gray levels", 4.0),
    *(Statistic(f"percentile_{percent}", f"percentile {percent} of gray levels", 4.0) for percent in PERCENTILES),
    Statistic("skewness", "skewness of gray levels", 0.2, ""),
    Statistic("entropy", "entropy of gray levels (bits)", 0.2, ""),
    Statistic("border", "mean gray level of the border", 4.0),
    Statistic("gradient", "mean step from pixel to pixel", 1.0),
)
"""What `compute_statistics` returns, in this order."""


def compute_statistics(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Describe an image by its size, the distribution of its gray levels, its border and its sharpness.

    Args:
        image: Gray levels 0-255 before contrast enhancement, shape (height, width), at least one pixel.

    Returns:
        The values of `STATISTICS`, all finite, shape (len(STATISTICS),). Gray levels are in units of the image;
        skewness (0 for a single level) and entropy are those of the histogram with 256 bins.

    Raises:
        ImageError: `image` is not two-dimensional uint8, or empty.
    """
    if image.ndim != 2 or image.dtype != np.uint8 or not image.size:
        raise ImageError("not_gray", f"gray levels of type uint8 are needed, received {image.dtype} {image.shape}")
    height, width = image.shape
    size = (height, width, width / height)
    return np.array([*size, *_describe_levels(image), _average_border(image), _average_step(image)], np.float64)


def _describe_levels(image: NDArray[np.uint8]) -> list[float]:
    """Mean, standard deviation, percentiles, skewness and entropy, all from the histogram."""
    fractions = np.bincount(image.ravel(), minlength=NUM_LEVELS) / image.size
    levels = np.arange(NUM_LEVELS)
    mean = float(fractions @ levels)
    deviation = float(np.sqrt(fractions @ (levels - mean) ** 2))
    percentiles = np.searchsorted(np.cumsum(fractions), np.array(PERCENTILES) / 100 - 1e-9)
    skewness = float(fractions @ (levels - mean) ** 3) / deviation**3 if deviation > 0 else 0.0
    occupied = fractions[fractions > 0]
    return [mean, deviation, *percentiles.tolist(), skewness, -float(occupied @ np.log2(occupied))]


def _average_border(image: NDArray[np.uint8]) -> float:
    """Mean gray level of a frame along the edges, which is mostly background."""
    edge = max(1, round(BORDER_FRACTION * min(image.shape)))
    strips = (image[:edge], image[-edge:], image[:, :edge], image[:, -edge:])
    return float(np.concatenate([strip.ravel() for strip in strips]).mean())


def _average_step(image: NDArray[np.uint8]) -> float:
    """Mean absolute difference of neighboring pixels: falls with blur, rises with noise and with finer contrast."""
    levels = image.astype(np.int16)
    steps = [np.abs(np.diff(levels, axis=axis)).mean() for axis in (0, 1) if image.shape[axis] > 1]
    return float(np.mean(steps)) if steps else 0.0

"""Computes numbers of an image file that need no anatomy, to find what else could separate the classes.

Lesions lie in bone, away from the edges of the image, and change neither its size nor its file. So size and file, and
the margin with the center masked, say nothing of a lesion itself. Gray levels of the whole image differ between
scanners and exports, but a lesion changes them as well; they are kept apart for that reason.
"""

from pathlib import PurePosixPath
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hip_mri.images.image_statistics import STATISTICS, compute_statistics

MARGIN_FRACTION: Final = 0.1
"""Width of the margin as a fraction of each side; corners have this side length. The center of 80% is masked."""

CORNERS: Final = ("upper_left", "upper_right", "lower_left", "lower_right")
MARGIN_PERCENTILES: Final = (5, 25, 50, 75, 95)
BLACK_TOLERANCE: Final = 2
"""Gray levels above the lowest one that count as black."""

KINDS: Final[dict[str, tuple[str, ...]]] = {
    "size_and_file": ("height", "width", "aspect", "compression", "file_kind"),
    "margin": (
        *("margin_mean", "margin_deviation", "margin_step", "margin_blur", "margin_noise"),
        *(f"margin_percentile_{percent}" for percent in MARGIN_PERCENTILES),
        *(f"{corner}_{name}" for corner in CORNERS for name in ("mean", "deviation", "maximum")),
    ),
    "gray_levels": ("mean", "standard_deviation", "percentile_50", "black_fraction", "gradient"),
}
"""Names of the numbers by kind. `compression` is the size of the file relative to that of a PNG file with the same
pixels, `file_kind` the suffix; `step` and `gradient` are mean steps from pixel to pixel, a measure of sharpness;
`blur` is the step to the next pixel relative to that to the next but one, `noise` the mean
difference of neighboring steps in both directions, which edges hardly change."""

NUMBERS: Final = tuple(name for names in KINDS.values() for name in names if name != "file_kind")

_SUFFIXES: Final = (
    *("png", "jpg", "jpeg", "jfif", "jp2", "j2k", "tif", "tiff"),
    *("bmp", "webp", "gif", "dcm", "dicom", "ima", "nii", "gz"),
)

FILE_KINDS: Final = frozenset((*_SUFFIXES, *(suffix.upper() for suffix in _SUFFIXES)))
"""Suffixes that are told apart, also in upper case; any other one could be part of a name."""


def name_file_kind(source_name: str) -> str:
    """Return the suffix of a file name without the dot if it is one of `FILE_KINDS`, else `other`."""
    suffix = PurePosixPath(source_name).suffix.removeprefix(".")
    return suffix if suffix in FILE_KINDS else "other"


def compute_numbers(image: NDArray[np.uint8], compression: float) -> dict[str, float]:
    """Compute the values of `NUMBERS`.

    Args:
        image: Gray levels 0-255 before contrast enhancement, shape (height, width).
        compression: Bytes of the source file per byte of the stored PNG file.

    Raises:
        ImageError: `compute_statistics` raises it.
    """
    statistics = dict(zip((statistic.name for statistic in STATISTICS), compute_statistics(image), strict=True))
    black_fraction = float((image <= int(image.min()) + BLACK_TOLERANCE).mean())
    numbers = {**statistics, **_describe_margin(image), "black_fraction": black_fraction, "compression": compression}
    return {name: float(numbers[name]) for name in NUMBERS}


def _describe_margin(image: NDArray[np.uint8]) -> dict[str, float]:
    height, width = (max(1, round(MARGIN_FRACTION * side)) for side in image.shape)
    strips = (image[:height], image[-height:], image[height:-height, :width], image[height:-height, -width:])
    levels = np.concatenate([strip.ravel() for strip in strips])
    steps = np.concatenate([np.abs(np.diff(strip.astype(np.int16), axis=1)).ravel() for strip in strips])
    wide = np.concatenate([np.abs(strip[:, 2:].astype(np.int16) - strip[:, :-2]).ravel() for strip in strips])
    noise = np.concatenate([np.abs(_cross_difference(strip.astype(np.int16))).ravel() for strip in strips])
    numbers = {
        "margin_blur": steps.mean() / wide.mean() if wide.size and wide.any() else 1.0,
        "margin_noise": noise.mean() if noise.size else 0.0,
        "margin_mean": levels.mean(),
        "margin_deviation": levels.std(),
        "margin_step": steps.mean() if steps.size else 0.0,
    }
    for percent, value in zip(MARGIN_PERCENTILES, np.percentile(levels, MARGIN_PERCENTILES), strict=True):
        numbers[f"margin_percentile_{percent}"] = value
    parts = (image[:height, :width], image[:height, -width:], image[-height:, :width], image[-height:, -width:])
    for name, part in zip(CORNERS, parts, strict=True):
        numbers |= {f"{name}_mean": part.mean(), f"{name}_deviation": part.std(), f"{name}_maximum": part.max()}
    return numbers


def _cross_difference(strip: NDArray[np.int16]) -> NDArray[np.int16]:
    """Difference along both axes: zero along straight edges and ramps, not zero for noise."""
    return np.diff(np.diff(strip, axis=0), axis=1)

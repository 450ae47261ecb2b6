"""Converts stored values of DICOM frames to gray levels.

Source: DICOM PS3.3 2024e, C.7.5.1.1.2 (padding), C.11.1 (modality LUT) and C.11.2 (VOI LUT).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hip_mri.errors import ImageError
from hip_mri.images.formats.dicom_parsing import get_number, get_numbers
from hip_mri.images.gray_levels import convert_to_gray, scale_to_levels

if TYPE_CHECKING:
    from pydicom import Dataset


@dataclass(frozen=True)
class Frame:
    """A frame as it is stored.

    Attributes:
        stored: Values of the stored bits, shape (height, width), or (height, width, 3) in the order red, green, blue.
        whole: The same with all allocated bits.
        elements: Elements that define how it is displayed.
    """

    stored: NDArray
    whole: NDArray
    elements: "Dataset"


def show_frames(frames: Sequence[Frame]) -> list[NDArray[np.uint8]]:
    """Convert the frames of one file to gray levels.

    Stored values become those of the modality (rescale or LUT), then those that are shown: by the VOI LUT, or by the
    first window with a positive width, which goes from black to white. Without these, values of 8 bits without a sign
    are gray levels already, unless a rescale changes them; all others are scaled by `gray_levels.find_range`, with one
    range for all frames of the file. MONOCHROME1 is inverted. Padding of a gray image is black and excluded
    from that range. Color becomes luma.

    Returns:
        Gray levels 0-255, shape (height, width) each.

    Raises:
        ImageError: All pixels are padding, or values are not finite.
    """
    if frames[0].stored.ndim == 3:
        return [convert_to_gray(frame.stored[..., ::-1]) for frame in frames]  # blue first
    padding = [_find_padding(frame) for frame in frames]
    if all(is_padding.all() for is_padding in padding):
        raise ImageError("blank", "all pixels of the DICOM file are padding")
    shown: list[NDArray[np.uint8]] = []
    unscaled: list[NDArray] = []
    for frame, is_padding in zip(frames, padding, strict=True):
        values = _apply_modality(frame.stored[~is_padding], frame.elements)
        levels = _apply_voi(values, frame.elements)
        shown.append(np.zeros(0, np.uint8) if levels is None else levels)
        unscaled.append(values if levels is None else values[:0])
    is_unscaled = [values.size > 0 for values in unscaled]
    if any(is_unscaled):
        scaled = iter(scale_to_levels([values for values in unscaled if values.size]))
        shown = [next(scaled) if is_open else levels for is_open, levels in zip(is_unscaled, shown, strict=True)]
    return [_place(levels, is_padding, frame) for levels, is_padding, frame in zip(shown, padding, frames, strict=True)]


def _place(levels: NDArray[np.uint8], is_padding: NDArray[np.bool_], frame: Frame) -> NDArray[np.uint8]:
    """Insert the gray levels into the frame; padding is black."""
    picture = np.zeros(is_padding.shape, np.uint8)
    picture[~is_padding] = 255 - levels if frame.elements.PhotometricInterpretation == "MONOCHROME1" else levels
    return picture


def _apply_modality(stored: NDArray, elements: "Dataset") -> NDArray:
    from pydicom.pixels.processing import apply_modality_lut  # noqa: PLC0415 - half a second, which most runs need not spend

    if elements.get("ModalityLUTSequence"):
        return apply_modality_lut(stored, elements)
    slope, intercept = get_number(elements, "RescaleSlope"), get_number(elements, "RescaleIntercept")
    if slope is None or intercept is None or (slope, intercept) == (1, 0):
        return stored
    return stored.astype(np.float64) * slope + intercept


def _apply_voi(values: NDArray, elements: "Dataset") -> NDArray[np.uint8] | None:
    """Gray levels by the VOI LUT or the first usable window; `None` where there is neither."""
    from pydicom.pixels.processing import apply_voi  # noqa: PLC0415 - see above

    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ImageError("not_finite", "some pixels are not a number or infinite")
    if elements.get("VOILUTSequence"):
        return scale_to_levels([apply_voi(values, elements)])[0]
    centers, widths = get_numbers(elements, "WindowCenter"), get_numbers(elements, "WindowWidth")
    for center, width in zip(centers, widths, strict=False):
        if center is not None and width is not None and np.isfinite([center, width]).all() and width > 0:
            function = str(elements.get("VOILUTFunction") or "LINEAR").strip().upper()
            return _apply_window(values.astype(np.float64), center, width, function)
    return None


def _apply_window(values: NDArray[np.float64], center: float, width: float, function: str) -> NDArray[np.uint8]:
    """Apply a window. Source: PS3.3, C.11.2.1.2 and C.11.2.1.3.

    LINEAR requires a width of at least 1; with a smaller one, as in maps of physical units, LINEAR_EXACT is applied.
    """
    if function == "SIGMOID":
        fractions = 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    elif function == "LINEAR_EXACT" or width <= 1:
        fractions = (values - center) / width + 0.5
    else:
        fractions = (values - (center - 0.5)) / (width - 1) + 0.5
    return np.rint(np.clip(fractions, 0, 1) * 255).astype(np.uint8)


def _find_padding(frame: Frame) -> NDArray[np.bool_]:
    """Find padding: pixels of one value, or of a range with both ends included."""
    stored, whole = frame.stored, frame.whole
    limits = [get_number(frame.elements, name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if limits[0] is None or stored.dtype.kind not in "iu":
        return np.zeros(stored.shape, bool)
    # Their sign is that of the pixels; many files write the same 16 bits with the other.
    words = [np.uint16(int(limit) & 0xFFFF) for limit in limits if limit is not None]
    numbers = [int(word.view(np.int16) if stored.dtype.kind == "i" else word) for word in words]
    low, high = min(numbers), max(numbers)
    padding = (low <= stored) & (stored <= high)
    if whole is not stored:  # 65535 around 12-bit pixels: `stored` has lost the upper bits
        padding |= (low <= whole) & (whole <= high)
    return padding

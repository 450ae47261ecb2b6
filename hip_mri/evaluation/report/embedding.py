"""Pictures inside a page: small enough for it, and as text."""

import base64
from bisect import bisect_left
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from hip_mri.errors import EvaluationError, WorkspaceError

NUM_SHADES: Final = (64, 32, 16)
"""Shades per channel that are tried before a picture is made smaller; few shades compress well."""

SCALES: Final = (1.0, 0.9, 0.8, 0.7, 0.64, 0.58, 0.52, 0.47, 0.42, 0.38, 0.3, 0.2, 0.1)
"""Widths that are tried, as a share of the original's."""


def shrink_png(file: Path, most_bytes: int = 80_000) -> bytes:
    """Make a picture fit into a number of bytes, at the least loss: fewer shades first, then fewer pixels.

    Args:
        file: A PNG file.
        most_bytes: Most bytes of the result.

    Returns:
        A PNG; the file's own bytes where they fit.

    Raises:
        WorkspaceError: The file cannot be read.
        EvaluationError: It is no picture, or cannot be made that small.
    """
    from hip_mri.evaluation.charts.style import encode_compact_png  # noqa: PLC0415 - loads matplotlib, half a second

    content = read_picture(file)
    if len(content) <= most_bytes:
        return content
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise EvaluationError(f"{file.name} is no picture that can be decoded. Remove it and start again.")
    content = encode_compact_png(pixels.astype(np.uint8))
    if len(content) <= most_bytes:
        return content
    # Fewer pixels and fewer shades take fewer bytes, so the largest scale that fits at all is found by bisection.
    place = bisect_left(SCALES, True, key=lambda scale: len(_reduce(pixels, scale, NUM_SHADES[-1])) <= most_bytes)
    if place < len(SCALES):
        candidates = (_reduce(pixels, SCALES[place], num_shades) for num_shades in NUM_SHADES)
        return next(content for content in candidates if len(content) <= most_bytes)
    raise EvaluationError(f"{file.name} cannot be reduced to {most_bytes} bytes. Allow more bytes or leave it out.")


def read_picture(file: Path) -> bytes:
    """Read a picture's bytes.

    Raises:
        WorkspaceError: The file cannot be read.
    """
    try:
        return file.read_bytes()
    except OSError as error:
        raise WorkspaceError(f"{file} cannot be read ({error.strerror}). Start again: it is drawn anew.") from error


def encode_data_uri(content: bytes) -> str:
    """Write a PNG as a `data:` URI, the form in which a page carries its own pictures."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def _reduce(pixels: NDArray, scale: float, num_shades: int) -> bytes:
    """Encode a smaller version of a picture with fewer shades."""
    from hip_mri.evaluation.charts.style import encode_compact_png  # noqa: PLC0415 - loads matplotlib, half a second

    scaled = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    step = 255 / (num_shades - 1)
    return encode_compact_png((np.rint(scaled / step) * step).astype(np.uint8))

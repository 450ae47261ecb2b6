"""Reduces figures to a maximum size and encodes them as `data:` URIs."""

import base64
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from hip_mri.errors import EvaluationError, WorkspaceError

LEVEL_STEP: Final = 255 / 31
"""Distance of the 32 gray levels per channel of a reduced figure; fewer levels compress better."""

SCALES: Final = (1.0, 0.9, 0.8, 0.7, 0.64, 0.58, 0.52, 0.47, 0.42, 0.38, 0.3, 0.2, 0.1)
"""Widths relative to the original, in the order in which they are tried."""


def shrink_png(file: Path, max_bytes: int = 80_000) -> bytes:
    """Reduce a figure to a maximum size, by fewer gray levels and fewer pixels.

    Args:
        file: A PNG file.
        max_bytes: Maximum size of the result.

    Returns:
        A PNG; the bytes of the file if they are not larger.

    Raises:
        WorkspaceError: The file cannot be read.
        EvaluationError: It is no image, or cannot be reduced that far.
    """
    from hip_mri.evaluation.charts.style import encode_compact_png  # noqa: PLC0415 - loads matplotlib, half a second

    content = read_picture(file)
    if len(content) <= max_bytes:
        return content
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise EvaluationError(f"{file.name} cannot be decoded as an image. Delete it and start again.")
    for scale in SCALES:
        scaled = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        content = encode_compact_png((np.rint(scaled / LEVEL_STEP) * LEVEL_STEP).astype(np.uint8))
        if len(content) <= max_bytes:
            return content
    raise EvaluationError(
        f"{file.name} cannot be reduced to {max_bytes} bytes. Allow more bytes or leave the figure out."
    )


def read_picture(file: Path) -> bytes:
    """Read the bytes of a figure.

    Raises:
        WorkspaceError: The file cannot be read.
    """
    try:
        return file.read_bytes()
    except OSError as error:
        raise WorkspaceError(f"{file} cannot be read ({error.strerror}). Start again: it is drawn again.") from error


def encode_data_uri(content: bytes) -> str:
    """Encode a PNG as a `data:` URI."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"

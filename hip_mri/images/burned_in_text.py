"""Finds text that is drawn into the pixels of an image, such as a name or a date; needs the extra `ocr`.

The extra is RapidOCR with the networks PP-OCRv6 (in its wheel, nothing is downloaded) and OpenVINO. The recognized text
only decides whether a region contains text; it is not returned or stored.
"""

import importlib
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from hip_mri.errors import SettingsError

EXTRA: Final = ("rapidocr", "omegaconf", "pyclipper", "shapely", "colorlog", "six", "tqdm")
"""Modules that come with the extra `ocr`."""

DETECTION_MODEL: Final = "PP-OCRv6_det_small.onnx"
RECOGNITION_MODEL: Final = "PP-OCRv6_rec_small.onnx"
"""Files in the folder `models` of RapidOCR."""

MIN_SHORT_SIDE: Final = 736
"""Length to which the shorter side of an image is enlarged, in pixels, as RapidOCR does; 512 finds less."""

MAX_LONG_SIDE: Final = 2000
"""Maximum length of the longer side, in pixels. RapidOCR enlarges without a limit: 3 x 900 pixels took all memory."""

MIN_DETECTION_CONFIDENCE: Final = 0.4
"""Low, because recognition decides: detection alone marks the anatomy of nearly every phantom."""

MIN_CONFIDENCE: Final = 0.7
"""Minimum confidence of the recognized text, 0-1."""

MIN_NUM_CHARACTERS: Final = 2
"""Minimum number of letters and digits. A single letter (R, L) marks the side and identifies no patient."""

Reader = Callable[[NDArray[np.uint8]], Any]


@dataclass(frozen=True)
class TextBox:
    """A region with text; the text itself is not stored.

    Attributes:
        left: First column, in pixels from 0.
        top: First row.
        width: Number of columns.
        height: Number of rows.
        confidence: Of the recognition, 0-1.
    """

    left: int
    top: int
    width: int
    height: int
    confidence: float


_of_this_thread = threading.local()


def find_text(levels: NDArray[np.uint8]) -> list[TextBox]:
    """Find text of at least two letters or digits in an image.

    `tests/benchmarks/burned_in_text.py` measures the sensitivity. Text with low contrast to the anatomy is missed, so
    an empty list does not prove that there is none.

    Args:
        levels: Gray levels, shape (height, width).

    Returns:
        The regions with text, from top to bottom; empty if none was found.

    Raises:
        SettingsError: The extra `ocr` is not installed.
    """
    if levels.ndim != 2 or not levels.size or levels.dtype != np.uint8:
        raise ValueError(f"levels: shape (height, width) and uint8 are needed, found {levels.shape}, {levels.dtype}")
    scale = min(max(1, MIN_SHORT_SIDE / min(levels.shape)), MAX_LONG_SIDE / max(levels.shape))
    result = _get_reader()(_resize(levels, scale))
    if result.boxes is None:
        return []
    places = zip(result.boxes, result.txts, result.scores, strict=True)
    return [
        _make_box(corners / scale, float(confidence), (levels.shape[0], levels.shape[1]))
        for corners, text, confidence in places
        if confidence >= MIN_CONFIDENCE and sum(map(str.isalnum, text)) >= MIN_NUM_CHARACTERS
    ]


def _resize(levels: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    """Resize an image by `scale` to the input of RapidOCR, shape (height, width, 3)."""
    size = max(1, round(levels.shape[1] * scale)), max(1, round(levels.shape[0] * scale))
    resized = cv2.resize(levels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return np.asarray(cv2.cvtColor(resized, cv2.COLOR_GRAY2BGR), np.uint8)


def _make_box(corners: NDArray[Any], confidence: float, shape: tuple[int, int]) -> TextBox:
    """Bounding box of four corners, clipped to the image."""
    limits = np.array([shape[1], shape[0]])
    left, top = np.clip(np.floor(corners.min(axis=0)), 0, limits).astype(int)
    right, bottom = np.clip(np.ceil(corners.max(axis=0)), 0, limits).astype(int)
    return TextBox(int(left), int(top), int(right - left), int(bottom - top), confidence)


def _get_reader() -> Reader:
    """Return the networks of this thread: they are not thread-safe."""
    if not hasattr(_of_this_thread, "reader"):
        _of_this_thread.reader = _load_reader()
    return _of_this_thread.reader


def _load_reader() -> Reader:
    sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType] - import then fails
    try:
        rapidocr = importlib.import_module("rapidocr")
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] not in EXTRA:
            raise
        raise SettingsError(
            f"burned-in text: the check needs packages that are not installed ({error}). Install the project with its "
            "extra, pip install -e '.[ocr]', or leave the check out."
        ) from error
    models = Path(str(rapidocr.__file__)).parent / "models"
    openvino = rapidocr.EngineType.OPENVINO
    return rapidocr.RapidOCR(
        params={
            "Global.log_level": "critical",  # else it logs each image without text
            "Global.use_cls": False,  # text that is upside down
            "Global.text_score": 0.0,
            "Det.engine_type": openvino,
            "Det.model_path": str(models / DETECTION_MODEL),  # without a path a missing file would be downloaded
            "Det.limit_type": "max",  # images are already resized
            "Det.limit_side_len": MAX_LONG_SIDE,
            "Det.box_thresh": MIN_DETECTION_CONFIDENCE,
            "Rec.engine_type": openvino,
            "Rec.model_path": str(models / RECOGNITION_MODEL),
            "EngineConfig.openvino.inference_num_threads": 1,  # images are read in parallel threads
        }
    )

"""The sheet of a batch: new images with their scores, the most suspicious first, in one file that needs no other."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import pandas as pd
from markupsafe import Markup
from numpy.typing import NDArray

from hip_mri.config import LABELS
from hip_mri.evaluation.report.templates import load_templates
from hip_mri.storage import write_bytes

_TEMPLATES: Final = load_templates("hip_mri.serving")

THUMBNAIL_SIZE: Final = 192
"""Height and width of an embedded picture in pixels; about 8 KB each."""

JPEG_QUALITY: Final = 80

MOST_LISTED: Final = 1000
"""Rows of the sheet's table; the file `predictions.csv` has all."""

MOST_IN_MARKDOWN: Final = 50
"""Rows of the table in the summary, which a server keeps."""

MOST_UNREADABLE: Final = 100
"""Unreadable files that are named."""

HEAT_OPACITY: Final = 0.6
"""Of the hottest place of an image."""


@dataclass(frozen=True)
class Portrait:
    """The picture of one image.

    Attributes:
        image_id: Its pseudonym.
        picture: JPEG of the image as the network sees it.
        overlay: JPEG of the same with its heat map; `None` where it is not explained.
    """

    image_id: str
    picture: bytes
    overlay: bytes | None = None


@dataclass(frozen=True)
class PredictionSheet:
    """What a sheet says.

    Attributes:
        name: Number of the batch, such as `0001`.
        facts: Content of `summary.json`: notices, model, features, novelty, counts and reasons.
        table: One row per image: image_id, state, reason, score, label, distance and is_outside.
        portraits: Pictures of images with the highest scores, the highest first.
    """

    name: str
    facts: Mapping[str, Any]
    table: pd.DataFrame
    portraits: tuple[Portrait, ...]

    def list_scored(self, most: int) -> list[dict[str, Any]]:
        """Rows of the images with the highest scores."""
        scored = self.table[self.table["state"] == "scored"]
        return scored.sort_values(["score", "image_id"], ascending=[False, True]).head(most).to_dict("records")

    def list_outside(self, most: int) -> list[dict[str, Any]]:
        """Rows of the images outside what the model knows, the farthest first."""
        outside = self.table[self.table["is_outside"].eq(True)]
        return outside.sort_values(["distance", "image_id"], ascending=[False, True]).head(most).to_dict("records")

    def list_unreadable(self, most: int) -> list[dict[str, Any]]:
        """Rows of files that hold no usable image."""
        return self.table[self.table["state"] == "unreadable"].head(most).to_dict("records")


def write_sheet(file: Path, sheet: PredictionSheet) -> None:
    """Write the sheet as one HTML file that loads nothing from elsewhere."""
    rows = sheet.list_scored(MOST_LISTED)
    by_id = {row["image_id"]: row for row in rows}
    cards = [
        (by_id[portrait.image_id], _make_uri(portrait.picture), portrait.overlay and _make_uri(portrait.overlay))
        for portrait in sheet.portraits
        if portrait.image_id in by_id
    ]
    page = _TEMPLATES.get_template("prediction_sheet.html.jinja").render(
        sheet=sheet,
        facts=sheet.facts,
        counts=sheet.facts["counts"],
        cards=cards,
        rows=rows,
        outside=sheet.list_outside(MOST_LISTED),
        unreadable=sheet.list_unreadable(MOST_UNREADABLE),
        lesion=LABELS[1],
    )
    write_bytes(file, page.encode())


def compose_prediction_markdown(sheet: PredictionSheet) -> str:
    """Write a summary of the batch as Markdown, for the Prefect UI; far below 500 KB, without pictures or names."""
    return _TEMPLATES.get_template("prediction_summary.md.jinja").render(
        sheet=sheet,
        facts=sheet.facts,
        counts=sheet.facts["counts"],
        rows=sheet.list_scored(MOST_IN_MARKDOWN),
    )


def tabulate_counts(sheet: PredictionSheet) -> list[dict[str, Any]]:
    """Counts of a batch as rows of a table: what, and how many."""
    counts = sheet.facts["counts"]
    names = {
        "num_images": "Images scored",
        "num_lesion": "called osseous lesion",
        "num_normal": "called normal",
        "num_outside": "outside what the model knows",
        "num_unreadable": "Files unreadable",
        "num_copies": "Files that are copies",
        "num_ignored": "Files ignored",
    }
    return [{"what": title, "count": counts[name]} for name, title in names.items()]


def encode_thumbnail(image: NDArray[np.uint8]) -> bytes:
    """Shrink gray levels, shape (height, width), to a JPEG of `THUMBNAIL_SIZE`."""
    return _encode_jpeg(_shrink(image))


def encode_overlay(image: NDArray[np.uint8], heat: NDArray[np.float32]) -> bytes:
    """Lay a heat map over an image.

    Args:
        image: Gray levels 0-255, shape (height, width).
        heat: 0-1, of the same shape.

    Returns:
        A JPEG of `THUMBNAIL_SIZE`; where there is no heat the image shows as it is.
    """
    gray = cv2.cvtColor(_shrink(image), cv2.COLOR_GRAY2BGR).astype(np.float32)
    level = np.clip(cv2.resize(heat, gray.shape[1::-1], interpolation=cv2.INTER_LINEAR), 0, 1)
    color = cv2.applyColorMap((255 * level).astype(np.uint8), cv2.COLORMAP_PLASMA).astype(np.float32)
    opacity = HEAT_OPACITY * level[..., None]
    return _encode_jpeg((gray * (1 - opacity) + color * opacity).astype(np.uint8))


def _shrink(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    size = (THUMBNAIL_SIZE, THUMBNAIL_SIZE)
    shrinks = min(image.shape) > THUMBNAIL_SIZE
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR).astype(np.uint8)


def _encode_jpeg(image: NDArray[np.uint8]) -> bytes:
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def _make_uri(jpeg: bytes) -> Markup:
    return Markup("data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii"))

"""Writes the HTML sheet of a batch: images with their scores, the highest first, in one self-contained file."""

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
from hip_mri.evaluation.conformal import UNCERTAIN
from hip_mri.evaluation.report.templates import load_templates
from hip_mri.evaluation.review.pictures import draw_overlay
from hip_mri.serving.known_images import USES
from hip_mri.storage import write_bytes

_TEMPLATES: Final = load_templates("hip_mri.serving")

THUMBNAIL_SIZE: Final = 192
"""Height and width of an embedded picture in pixels; each takes about 8 KB."""

JPEG_QUALITY: Final = 80

MAX_LISTED: Final = 1000
"""Rows of the sheet's table; `predictions.csv` has all."""

MAX_IN_MARKDOWN: Final = 50
"""Rows of the table in the Markdown summary."""

MAX_UNREADABLE: Final = 100
"""Unreadable files that are listed."""


@dataclass(frozen=True)
class PredictionSheet:
    """Content of a sheet.

    Attributes:
        folder: Where the results of the batch are published; its name is a number, such as `0001`.
        facts: Content of `summary.json`: notices, model, features, novelty, decisions, examinations, known, counts and
            reasons.
        table: One row per image: image_id, state, reason, score, label, distance, is_outside, known_split and decision.
        examinations: The columns of `examinations.EXAMINATION_COLUMNS`.
        thumbnails: JPEGs of the images with the highest scores, by image id, the highest first: the preprocessed image,
            and the same with its heat map or `None`.
    """

    folder: Path
    facts: Mapping[str, Any]
    table: pd.DataFrame
    examinations: pd.DataFrame
    thumbnails: Mapping[str, tuple[bytes, bytes | None]]

    def list_scored(self, max_rows: int) -> list[dict[str, Any]]:
        """List the rows of the images with the highest scores."""
        scored = self.table[self.table["state"] == "scored"]
        return scored.sort_values(["score", "image_id"], ascending=[False, True]).head(max_rows).to_dict("records")


def write_sheet(file: Path, sheet: PredictionSheet) -> None:
    """Write the sheet as one HTML file that loads nothing else."""
    table, rows = sheet.table, sheet.list_scored(MAX_LISTED)
    outside = table[table["is_outside"].eq(True)].sort_values(["distance", "image_id"], ascending=[False, True])
    by_id = {row["image_id"]: row for row in rows}
    cards = [
        (by_id[image_id], _encode_uri(picture), overlay and _encode_uri(overlay))
        for image_id, (picture, overlay) in sheet.thumbnails.items()
        if image_id in by_id
    ]
    page = _TEMPLATES.get_template("prediction_sheet.html.jinja").render(
        sheet=sheet,
        facts=sheet.facts,
        counts=sheet.facts["counts"],
        cards=cards,
        rows=rows,
        examinations=sheet.examinations.head(MAX_LISTED).to_dict("records"),
        outside=outside.head(MAX_LISTED).to_dict("records"),
        unreadable=table[table["state"] == "unreadable"].head(MAX_UNREADABLE).to_dict("records"),
        lesion=LABELS[1],
        uncertain=UNCERTAIN,
        uses=USES,
    )
    write_bytes(file, page.encode())


def render_summary(sheet: PredictionSheet) -> str:
    """Render a summary of the batch as Markdown for the Prefect UI, under 10 KB, without pictures or file names."""
    return _TEMPLATES.get_template("prediction_summary.md.jinja").render(
        sheet=sheet,
        facts=sheet.facts,
        counts=tabulate_counts(sheet),
        rows=sheet.list_scored(MAX_IN_MARKDOWN),
    )


def tabulate_counts(sheet: PredictionSheet) -> list[dict[str, Any]]:
    """Return the counts of a batch as rows of a table with the columns what and count."""
    counts = sheet.facts["counts"] | (sheet.facts["known"] or dict.fromkeys(USES, "not recorded"))
    if not sheet.facts["novelty"]:
        counts["num_outside"] = "not measured"
    if sheet.facts["decisions"]["reason"]:
        counts["num_uncertain"] = "not calibrated"
    counts["num_examinations"] = sheet.facts["examinations"]["num_examinations"]
    titles = {
        "num_images": "Images scored",
        "num_lesion": "called osseous lesion",
        "num_normal": "called normal",
        "num_uncertain": "uncertain",
        "num_outside": "outside the training distribution",
        **{split: f"that {use} the model" for split, use in USES.items()},
        "num_examinations": "Examinations",
        "num_unreadable": "Files unreadable",
        "num_copies": "Files that are copies",
        "num_ignored": "Files ignored",
    }
    return [{"what": title, "count": counts[name]} for name, title in titles.items()]


def encode_thumbnail(image: NDArray[np.uint8]) -> bytes:
    """Resize gray levels 0-255, shape (height, width), to a JPEG of `THUMBNAIL_SIZE`."""
    return _encode_jpeg(_resize(image))


def encode_overlay(image: NDArray[np.uint8], heat: NDArray[np.float32]) -> bytes:
    """Draw a heat map over an image.

    Args:
        image: Gray levels 0-255, shape (height, width).
        heat: 0-1, the same shape.

    Returns:
        A JPEG of `THUMBNAIL_SIZE`; where the heat is 0 the image is unchanged.
    """
    return _encode_jpeg(draw_overlay(_resize(image), heat))


def _resize(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    size = (THUMBNAIL_SIZE, THUMBNAIL_SIZE)
    shrinks = min(image.shape) > THUMBNAIL_SIZE
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR).astype(np.uint8)


def _encode_jpeg(image: NDArray[np.uint8]) -> bytes:
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def _encode_uri(jpeg: bytes) -> Markup:
    return Markup("data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii"))

"""Draws sheets of images: before and after preprocessing, Grad-CAM heat maps, pairs of images."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hip_mri.config import LABELS
from hip_mri.evaluation.charts import style
from hip_mri.evaluation.charts.captions import name_label

Outcome = Literal["true positive", "true negative", "false positive", "false negative"]

OUTCOMES: Final[dict[Outcome, str]] = {
    "true positive": "Lesion found",
    "true negative": "Normal, called normal",
    "false positive": "False positive",
    "false negative": "Lesion missed",
}
"""Heading of each outcome, in the order of the columns."""

MAX_CASES: Final = 3
"""Maximum number of images per outcome."""

MAX_ID_LENGTH: Final = 18
"""Characters of an image id that fit beneath an image."""

CONTOUR_LEVEL: Final = 0.5
"""Heat at which the contour is drawn, so that the sheet can also be read in gray."""

NOTE_TEXT: Final[dict[str, Any]] = {"fontsize": style.TEXT_SIZE, "color": style.MUTED}
ID_TEXT: Final[dict[str, Any]] = {"fontsize": 7.0, "color": style.MUTED, "family": "monospace"}
VALUE_TEXT: Final[dict[str, Any]] = {"fontsize": 8.0, "color": style.INK}
ON_IMAGE_TEXT: Final[dict[str, Any]] = {
    "fontsize": 8.0,
    "color": "white",
    "ha": "center",
    "va": "center",
    "bbox": {"facecolor": style.INK, "edgecolor": "none", "alpha": 0.8},
}


@dataclass(frozen=True)
class ContrastSample:
    """One image before and after preprocessing, gray levels 0-255 of shape (height, width), and its label."""

    image_id: str
    label: str
    before: NDArray[np.uint8]
    after: NDArray[np.uint8]


@dataclass(frozen=True)
class ExplainedCase:
    """One image, gray levels 0-255 of shape (height, width), with its score, its outcome and its heat map.

    The heat, 0-1, tells how much each region increased the score; see `explain_images`.
    """

    image_id: str
    outcome: Outcome
    score: float
    image: NDArray[np.uint8]
    heat: NDArray[np.float32]


@dataclass(frozen=True)
class ImagePair:
    """Ids and gray levels 0-255 of two images, and what is said of them."""

    first_id: str
    second_id: str
    first_image: NDArray[np.uint8]
    second_image: NDArray[np.uint8]
    text: str


def draw_contrast_samples(samples: Sequence[ContrastSample], notice: str = "") -> Figure:
    """Draw images before and after preprocessing, a pair of columns per class."""
    columns = {label: [sample for sample in samples if sample.label == label] for label in LABELS}
    num_rows = max(len(column) for column in columns.values())
    figure = style.create_figure(7.4, 1.95 * num_rows + 0.45, notice)
    parts = figure.subfigures(1, 2, squeeze=False, wspace=0.03)[0]
    for part, (label, column) in zip(parts, columns.items(), strict=True):
        _draw_column(part, name_label(label).capitalize(), column, num_rows, _draw_sample)
    return figure


def draw_explanations(cases: Sequence[ExplainedCase], notice: str = "") -> Figure:
    """Draw up to `MAX_CASES` cases of each outcome: the image beside its heat map, with score and id."""
    columns = [[case for case in cases if case.outcome == kind][:MAX_CASES] for kind in OUTCOMES]
    num_rows = max(1, *(len(column) for column in columns))
    figure = style.create_figure(11.4, 1.5 * num_rows + 0.4, notice)
    parts = figure.subfigures(1, len(columns), squeeze=False, wspace=0.02)[0]
    for part, title, column in zip(parts, OUTCOMES.values(), columns, strict=True):
        _draw_column(part, title, column, num_rows, _draw_case)
        if not column:
            part.text(0.5, 0.5, "None among\nthe test images", ha="center", va="center", **NOTE_TEXT)
    return figure


def _draw_column(part: Any, title: str, items: Sequence[Any], num_rows: int, draw: Callable[..., None]) -> None:
    """Draw a pair of panels per item below a heading; rows without an item keep their space."""
    if title:
        part.suptitle(title, fontsize=style.TITLE_SIZE, fontweight="bold", color=style.INK)
    for row, pair in enumerate(part.subplots(num_rows, 2, squeeze=False)):
        for axes in pair:
            axes.set_axis_off()
        if row < len(items):
            draw(pair, items[row], is_first=row == 0)
        else:
            _add_caption(pair[0], "0", alpha=0)


def _draw_sample(pair: NDArray, sample: ContrastSample, *, is_first: bool) -> None:
    _show_gray(pair[0], sample.before, "original" if is_first else "")
    _show_gray(pair[1], sample.after, "preprocessed" if is_first else "")
    _add_caption(pair[0], sample.image_id)


def _draw_case(pair: NDArray, case: ExplainedCase, *, is_first: bool) -> None:  # noqa: ARG001 - see `_draw_column`
    for axes in pair:
        _show_gray(axes, case.image)
    if case.heat.any():
        pair[1].imshow(case.heat, cmap="plasma", vmin=0, vmax=1, alpha=0.75 * np.clip(case.heat, 0, 1))
        if case.heat.min() < CONTOUR_LEVEL < case.heat.max():
            pair[1].contour(case.heat, levels=[CONTOUR_LEVEL], colors="white", linewidths=0.9)
    else:
        pair[1].text(0.5, 0.5, "no region\nincreased\nthe score", transform=pair[1].transAxes, **ON_IMAGE_TEXT)
    _add_caption(pair[0], case.image_id)
    pair[1].text(1, -0.03, f"score {case.score:.3f}", transform=pair[1].transAxes, ha="right", va="top", **VALUE_TEXT)


def draw_pairs(pairs: Sequence[ImagePair], headings: tuple[str, str], notice: str = "") -> Figure:
    """Draw pairs of images, at least one, two pairs per row, in the given order; headings for both images."""
    num_columns = min(2, len(pairs))
    num_rows = math.ceil(len(pairs) / num_columns)
    further_lines = max(pair.text.count("\n") for pair in pairs)
    figure = style.create_figure(3.9 * num_columns, (2.2 + 0.2 * further_lines) * num_rows + 0.2, notice)
    parts = figure.subfigures(1, num_columns, squeeze=False, wspace=0.04)[0]
    for column, part in enumerate(parts):
        _draw_column(part, "", pairs[column::num_columns], num_rows, partial(_draw_pair, headings=headings))
    return figure


def _draw_pair(axes: NDArray, pair: ImagePair, *, is_first: bool, headings: tuple[str, str]) -> None:
    _show_gray(axes[0], pair.first_image, headings[0] if is_first else "")
    _show_gray(axes[1], pair.second_image, headings[1] if is_first else "")
    _add_caption(axes[0], pair.first_id)
    _add_caption(axes[1], pair.second_id)
    axes[0].text(0, -0.13, pair.text, transform=axes[0].transAxes, ha="left", va="top", **VALUE_TEXT)


def _show_gray(axes: Axes, image: NDArray[np.uint8], title: str = "") -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=255)
    if title:
        axes.set_title(title, fontsize=style.SMALL_SIZE, color=style.INK, pad=4)


def _add_caption(axes: Axes, image_id: str, alpha: float = 1) -> None:
    axes.text(0, -0.03, shorten_id(image_id), transform=axes.transAxes, va="top", alpha=alpha, **ID_TEXT)


def shorten_id(image_id: str, max_length: int = MAX_ID_LENGTH) -> str:
    """Leave out the middle of an id that is longer than `max_length`."""
    if len(image_id) <= max_length:
        return image_id
    end = (max_length - 1) // 2
    return f"{image_id[: max_length - 1 - end]}…{image_id[-end:]}"

"""Sheets of images: contrast before and after, explanations, and the closest pairs across the split."""

from collections.abc import Sequence
from dataclasses import dataclass
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
    "false positive": "False alarm",
    "false negative": "Lesion missed",
}
"""Heading of each kind of call, in the order of the columns."""

MOST_CASES: Final = 3
"""Rows of the sheet of explanations."""

LONGEST_ID: Final = 18
"""Characters of an image id that fit beneath an image; the middle of longer ones is left out."""

STRONG_HEAT: Final = 0.5
"""Where the contour is drawn, so that the sheet can be read in gray too."""


@dataclass(frozen=True)
class ContrastSample:
    """One image before and after contrast enhancement.

    Attributes:
        image_id: Its pseudonym.
        label: One of `LABELS`.
        before: Gray levels 0-255 as they came, shape (height, width).
        after: Gray levels 0-255 as the network sees them, shape (image_size, image_size).
    """

    image_id: str
    label: str
    before: NDArray[np.uint8]
    after: NDArray[np.uint8]


@dataclass(frozen=True)
class ExplainedCase:
    """One image, what the model made of it, and where it looked.

    Attributes:
        image_id: Its pseudonym.
        outcome: What the call was.
        score: Probability of a lesion, 0-1.
        image: Gray levels 0-255, shape (height, width).
        heat: How much each place raised the score, 0-1, of the same shape; see `explain_images`.
    """

    image_id: str
    outcome: Outcome
    score: float
    image: NDArray[np.uint8]
    heat: NDArray[np.float32]


@dataclass(frozen=True)
class ClosePair:
    """A test image and the training image that is most like it.

    Attributes:
        test_id: Pseudonym of the test image.
        train_id: Pseudonym of the training image.
        test_image: Gray levels 0-255, shape (height, width).
        train_image: Gray levels 0-255, shape (height, width).
        distance: Between the two; smaller is more alike.
    """

    test_id: str
    train_id: str
    test_image: NDArray[np.uint8]
    train_image: NDArray[np.uint8]
    distance: float


def draw_contrast_samples(samples: Sequence[ContrastSample], notice: str = "") -> Figure:
    """Draw images before and after contrast enhancement, a pair of columns per class."""
    columns = {label: [sample for sample in samples if sample.label == label] for label in LABELS}
    num_rows = max(len(column) for column in columns.values())
    figure = style.create_figure(7.4, 1.95 * num_rows + 0.45, notice)
    parts = figure.subfigures(1, 2, squeeze=False, wspace=0.03)[0]
    for part, (label, column) in zip(parts, columns.items(), strict=True):
        _head(part, name_label(label).capitalize())
        panels = part.subplots(num_rows, 2, squeeze=False)
        for row, pair in enumerate(panels):
            _clear(pair)
            if row < len(column):
                _show_gray(pair[0], column[row].before, "as it came" if row == 0 else "")
                _show_gray(pair[1], column[row].after, "after CLAHE" if row == 0 else "")
                _caption(pair[0], column[row].image_id)
            else:
                _hold_place(pair[0])
    return figure


def draw_explanations(cases: Sequence[ExplainedCase], notice: str = "") -> Figure:
    """Draw up to three cases of each kind of call: the image beside its heat map, with score and id.

    Args:
        cases: The first three of each outcome are shown; a kind without any is said in words.
        notice: What the picture must say about itself.
    """
    columns = [[case for case in cases if case.outcome == kind][:MOST_CASES] for kind in OUTCOMES]
    num_rows = max(1, *(len(column) for column in columns))
    figure = style.create_figure(11.4, 1.5 * num_rows + 0.4, notice)
    parts = figure.subfigures(1, len(columns), squeeze=False, wspace=0.02)[0]
    for part, title, column in zip(parts, OUTCOMES.values(), columns, strict=True):
        _head(part, title)
        panels = part.subplots(num_rows, 2, squeeze=False)
        for row, pair in enumerate(panels):
            _clear(pair)
            if row < len(column):
                _draw_case(pair, column[row])
            else:
                _hold_place(pair[0])
        if not column:
            part.text(0.5, 0.5, "None among\nthe test images", ha="center", va="center", **NOTE_LOOK)
    return figure


def _draw_case(pair: NDArray, case: ExplainedCase) -> None:
    for axes in pair:
        _show_gray(axes, case.image)
    alpha = 0.75 * np.clip(case.heat, 0, 1)
    if case.heat.any():
        pair[1].imshow(case.heat, cmap="plasma", vmin=0, vmax=1, alpha=alpha)
        if case.heat.min() < STRONG_HEAT < case.heat.max():
            pair[1].contour(case.heat, levels=[STRONG_HEAT], colors="white", linewidths=0.9)
    else:
        pair[1].text(0.5, 0.5, "nothing\nspoke for\na lesion", transform=pair[1].transAxes, **ON_IMAGE_LOOK)
    _caption(pair[0], case.image_id)
    pair[1].text(1, -0.03, f"score {case.score:.3f}", transform=pair[1].transAxes, ha="right", va="top", **VALUE_LOOK)


def draw_close_pairs(pairs: Sequence[ClosePair], notice: str = "") -> Figure:
    """Draw pairs of test and training image, two pairs in a row, in the order in which they are given.

    Args:
        pairs: At least one.
        notice: What the picture must say about itself.
    """
    num_columns = min(2, len(pairs))
    num_rows = -(-len(pairs) // num_columns)
    figure = style.create_figure(3.9 * num_columns, 2.2 * num_rows + 0.2, notice)
    parts = figure.subfigures(1, num_columns, squeeze=False, wspace=0.04)[0]
    for column, part in enumerate(parts):
        panels = part.subplots(num_rows, 2, squeeze=False)
        for row, pair_axes in enumerate(panels):
            _clear(pair_axes)
            if row * num_columns + column < len(pairs):
                _draw_pair(pair_axes, pairs[row * num_columns + column], is_first=row == 0)
    return figure


def _draw_pair(axes: NDArray, pair: ClosePair, *, is_first: bool) -> None:
    _show_gray(axes[0], pair.test_image, "Test" if is_first else "")
    _show_gray(axes[1], pair.train_image, "Training" if is_first else "")
    _caption(axes[0], pair.test_id)
    _caption(axes[1], pair.train_id)
    place = {"transform": axes[0].transAxes, "ha": "left", "va": "top"}
    axes[0].text(0, -0.13, f"distance {pair.distance:.4g}", **place, **VALUE_LOOK)


NOTE_LOOK: Final[dict[str, Any]] = {"fontsize": style.TEXT_SIZE, "color": style.MUTED}
ID_LOOK: Final[dict[str, Any]] = {"fontsize": 7.0, "color": style.MUTED, "family": "monospace"}
VALUE_LOOK: Final[dict[str, Any]] = {"fontsize": 8.0, "color": style.INK}
ON_IMAGE_LOOK: Final[dict[str, Any]] = {
    "fontsize": 8.0,
    "color": "white",
    "ha": "center",
    "va": "center",
    "bbox": {"facecolor": style.INK, "edgecolor": "none", "alpha": 0.8},
}


def _head(part: Any, title: str) -> None:
    part.suptitle(title, fontsize=style.TITLE_SIZE, fontweight="bold", color=style.INK)


def _clear(panels: NDArray) -> None:
    for axes in panels:
        axes.set_axis_off()


def _show_gray(axes: Axes, image: NDArray[np.uint8], title: str = "") -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=255)
    if title:
        axes.set_title(title, fontsize=style.SMALL_SIZE, color=style.INK, pad=4)


def _caption(axes: Axes, image_id: str) -> None:
    axes.text(0, -0.03, shorten_id(image_id), transform=axes.transAxes, va="top", **ID_LOOK)


def _hold_place(axes: Axes) -> None:
    """Take the room of a caption without showing one, so that the rows of all columns lie level."""
    axes.text(0, -0.03, "0", transform=axes.transAxes, va="top", alpha=0, **ID_LOOK)


def shorten_id(image_id: str, longest: int = LONGEST_ID) -> str:
    """Leave out the middle of an id that would run into the next image."""
    if len(image_id) <= longest:
        return image_id
    end = (longest - 1) // 2
    return f"{image_id[: longest - 1 - end]}…{image_id[-end:]}"

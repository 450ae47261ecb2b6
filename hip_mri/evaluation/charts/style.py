"""Style of all figures: readable in print, in gray and with color blindness.

Settings are applied to each artist, not to Matplotlib's global settings, since tasks draw in several threads.
"""

from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from hip_mri.config import LABELS
from hip_mri.errors import EvaluationError
from hip_mri.storage import write_bytes

DOTS_PER_INCH: Final = 130
TITLE_SIZE: Final = 12.5
"""Points; so are the other text sizes."""
TEXT_SIZE: Final = 10.5
SMALL_SIZE: Final = 9.0

PNG_COMPRESSION: Final = 6
"""Compression level; 9 saves 4% on a sheet of images and takes ten times as long."""

INK: Final = "#1c1c1c"
"""Gray, like the next two, so that a sheet of gray images can be stored with one channel."""
MUTED: Final = "#595959"
"""Contrast to white: 7 : 1."""
GRID: Final = "#e0e0e0"

SPLIT_LINES: Final[dict[str, dict[str, Any]]] = {
    "train": {"color": "#009E73", "linestyle": (0, (1, 1.2)), "linewidth": 2.2},
    "val": {"color": "#D55E00", "linestyle": (0, (5, 1.8)), "linewidth": 2.0},
    "test": {"color": "#0072B2", "linestyle": "-", "linewidth": 2.4},
}
"""Line of each split: bluish green, vermillion and blue, each with its own dashes.

Source: Okabe and Ito, "Color Universal Design", 2008.
"""


RING: Final[dict[str, Any]] = {
    "linestyle": "none",
    "marker": "o",
    "markersize": 9.5,
    "markerfacecolor": "white",
    "markeredgecolor": INK,
    "markeredgewidth": 1.8,
}
"""Mark of one point on a line."""

DIAMOND: Final[dict[str, Any]] = RING | {"marker": "D", "markersize": 4.5, "markeredgewidth": 1.5}
"""Mark of a second point on a line; fits into a ring, so that both are visible at one position."""

REFERENCE_LINE: Final[dict[str, Any]] = {"color": MUTED, "linewidth": 1.2, "linestyle": (0, (2, 3))}
"""Reference line: chance, ideal calibration, no benefit."""

CLASS_FILLS: Final[dict[str, dict[str, Any]]] = {
    LABELS[0]: {"facecolor": "#56B4E9", "edgecolor": INK, "linewidth": 0.7},
    LABELS[1]: {"facecolor": "#E69F00", "edgecolor": INK, "linewidth": 0.7, "hatch": "////"},
}
"""Fill of each class: sky blue, and orange with hatching; from the same palette as the lines."""

BANNER_HEIGHT: Final = 0.3
"""Height of the banner with the notice, in inches."""


def create_figure(width: float, height: float, notice: str) -> Figure:
    """Create a figure.

    Args:
        width: In inches.
        height: In inches, without the banner.
        notice: Warning in a banner along the top, such as "SYNTHETIC DATA"; empty leaves the banner out.
    """
    full_height = height + BANNER_HEIGHT * bool(notice)
    figure = Figure(figsize=(width, full_height), dpi=DOTS_PER_INCH)
    figure.set_layout_engine("constrained", rect=(0, 0, 1, height / full_height), w_pad=0.09, h_pad=0.09)
    if notice:
        bottom = height / full_height
        figure.patches.append(
            Rectangle((0, bottom), 1, 1 - bottom, transform=figure.transFigure, facecolor=INK, edgecolor="none")
        )
        figure.text(
            0.5, (1 + bottom) / 2, notice, ha="center", va="center_baseline",
            fontsize=TEXT_SIZE, fontweight="bold", color="white",
        )  # fmt: skip
    return figure


def style_axes(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    """Set title, labels, grid and frame of a chart."""
    axes.set_title(title, loc="left", fontsize=TITLE_SIZE, fontweight="bold", color=INK, pad=9)
    axes.set_xlabel(x_label, fontsize=TEXT_SIZE, color=INK)
    axes.set_ylabel(y_label, fontsize=TEXT_SIZE, color=INK)
    axes.tick_params(labelsize=SMALL_SIZE, color=MUTED, labelcolor=MUTED, length=3)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)


def style_unit_axes(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    """Style a chart whose axes both run from 0 to 1, as a square."""
    style_axes(axes, title, x_label, y_label)
    axes.set(xlim=(-0.015, 1.015), ylim=(-0.015, 1.015), xticks=np.linspace(0, 1, 6), yticks=np.linspace(0, 1, 6))
    axes.set_aspect("equal")


def add_legend_beneath(figure: Figure, axes: Axes, num_columns: int = 1, title: str = "") -> None:
    """Add the legend of a chart beneath the charts of the figure.

    Args:
        figure: The figure.
        axes: Chart whose lines are listed.
        num_columns: Columns of the legend.
        title: Title of the legend.
    """
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=num_columns, title=title or None,
        fontsize=SMALL_SIZE, title_fontsize=SMALL_SIZE, labelcolor=INK, frameon=False,
    )  # fmt: skip


def save_figure(figure: Figure, file: Path) -> Path:
    """Draw a figure and write it as PNG.

    Returns:
        `file`.

    Raises:
        WorkspaceError: The disk is full or not writable.
    """
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = cv2.cvtColor(np.asarray(canvas.buffer_rgba()), cv2.COLOR_RGBA2BGR)
    write_bytes(file, encode_compact_png(pixels.astype(np.uint8)))
    return file


def encode_compact_png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode an image as a small PNG, with one channel if it is gray throughout.

    Args:
        pixels: Shape (height, width) or (height, width, 3), in OpenCV's order blue, green, red.
    """
    if pixels.ndim == 3 and (pixels == pixels[..., :1]).all():
        pixels = np.ascontiguousarray(pixels[..., 0])
    contents = []
    for row_filter in (cv2.IMWRITE_PNG_FILTER_NONE, cv2.IMWRITE_PNG_FILTER_UP):  # best for charts, best for photographs
        settings = [cv2.IMWRITE_PNG_COMPRESSION, PNG_COMPRESSION, cv2.IMWRITE_PNG_FILTER, row_filter]
        encoded, content = cv2.imencode(".png", pixels, settings)
        if not encoded:
            raise EvaluationError(
                f"a figure of shape {pixels.shape} could not be encoded as PNG. Report this as a bug."
            )
        contents.append(content.tobytes())
    return min(contents, key=len)

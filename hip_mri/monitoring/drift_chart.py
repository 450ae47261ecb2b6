"""Draws the result of the drift check: distributions of the most shifted statistics, and example images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from hip_mri.evaluation.charts import style
from hip_mri.images.image_statistics import STATISTICS
from hip_mri.monitoring.shift import StatisticShift

NUM_PANELS: Final = 6
"""Number of statistics that are drawn."""

PANELS_PER_ROW: Final = 3

MAX_EXAMPLES: Final = 6
"""Number of images that are drawn of each side."""

NUM_BINS: Final = 24

REFERENCE_STYLE: Final[dict[str, Any]] = {"facecolor": "#d0d0d0", "edgecolor": style.MUTED, "linewidth": 0.8}
NEW_STYLE: Final[dict[str, Any]] = {"facecolor": "none", "edgecolor": "#0072B2", "linewidth": 2.2}
"""An outline over a gray area, so that both stay visible where they overlap."""

SIZE_STYLE: Final[dict[str, Any]] = {"fontsize": 8.0, "color": style.MUTED}


@dataclass(frozen=True)
class ChartBatch:
    """The images of one side that are drawn.

    Attributes:
        statistics: `STATISTICS` of its images, shape (num_images, len(STATISTICS)), at least one.
        examples: Some of its source images, gray levels 0-255, shape (height, width) each; at least one. The first
            `MAX_EXAMPLES` are drawn.
    """

    statistics: NDArray[np.float64]
    examples: Sequence[NDArray[np.uint8]]


def draw_drift(shifts: Sequence[StatisticShift], reference: ChartBatch, new: ChartBatch, notice: str = "") -> Figure:
    """Draw the distributions of the most shifted statistics, above example images of both sides.

    The examples share one gray scale and one scale of size: an image half as wide is drawn half as wide.

    Args:
        shifts: Statistics in the order in which they are drawn, such as `DriftReport.shifts`; at least one.
        reference: The training images.
        new: The new batch.
        notice: Notice that is printed on the figure; empty for none.
    """
    shown = shifts[:NUM_PANELS]
    num_rows = -(-len(shown) // PANELS_PER_ROW)
    heights = (2.4 * num_rows + 0.35, 2.0, 2.0)
    figure = style.create_figure(10.6, sum(heights), notice)
    charts, *strips = figure.subfigures(3, 1, squeeze=False, height_ratios=heights)[:, 0]
    panels = charts.subplots(num_rows, PANELS_PER_ROW, squeeze=False).ravel()
    for place, (axes, shift) in enumerate(zip(panels, shown, strict=False)):
        _draw_shift(axes, shift, reference.statistics, new.statistics)
        axes.set_ylabel("" if place % PANELS_PER_ROW else "Fraction of images", fontsize=style.SMALL_SIZE)
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    style.add_legend_beneath(charts, panels[0], num_columns=2)
    largest = np.array([image.shape for batch in (reference, new) for image in batch.examples[:MAX_EXAMPLES]]).max(
        axis=0
    )
    for strip, title, batch in zip(strips, ("Training images", "New images"), (reference, new), strict=True):
        _draw_examples(strip, title, batch.examples, largest)
    return figure


def _draw_shift(axes: Axes, shift: StatisticShift, reference: NDArray, new: NDArray) -> None:
    place = STATISTICS.index(shift.statistic)
    edges = np.histogram_bin_edges(np.concatenate([reference[:, place], new[:, place]]), NUM_BINS)
    for name, rows, line_style in (("Training images", reference, REFERENCE_STYLE), ("New images", new, NEW_STYLE)):
        fractions = np.histogram(rows[:, place], edges)[0] / len(rows)
        axes.stairs(fractions, edges, fill=name == "Training images", label=f"{name} (n = {len(rows):,})", **line_style)
    title = shift.statistic.title[0].upper() + shift.statistic.title[1:]
    style.style_axes(axes, "", "", "")
    axes.set_xlabel(_describe(shift), fontsize=style.SMALL_SIZE, color=style.INK)
    axes.set_title(title, loc="left", fontsize=style.TEXT_SIZE, fontweight="bold", color=style.INK, pad=6)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, min_n_ticks=2))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, min_n_ticks=2))


def _describe(shift: StatisticShift) -> str:
    """Unit, effect and p value; the p value is that of the test between groups."""
    significance = "not tested" if shift.p_value is None else f"p = {shift.p_value:.2g}"
    unit = f"{shift.statistic.unit}\n" if shift.statistic.unit else ""
    return f"{unit}{shift.effect:.1f} standard deviations apart, {significance}"


def _draw_examples(strip: Any, title: str, images: Sequence[NDArray[np.uint8]], largest: NDArray[np.int64]) -> None:
    height, width = largest
    strip.suptitle(title, fontsize=style.TEXT_SIZE, fontweight="bold", color=style.INK, x=0.01, ha="left")
    for place, axes in enumerate(strip.subplots(1, MAX_EXAMPLES)):
        axes.set_axis_off()
        axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
        if place < len(images):
            rows, columns = images[place].shape
            axes.imshow(images[place], cmap="gray", vmin=0, vmax=255, extent=(0, columns, rows, 0))
            axes.set(xlim=(0, width), ylim=(height, 0))
            axes.annotate(
                f"{columns} x {rows} pixels", (0, rows), (0, -3), textcoords="offset points", va="top", **SIZE_STYLE
            )

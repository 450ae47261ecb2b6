"""Charts of the leakage audit: are test images closer to training images than a stranger's would be?"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from hip_mri.evaluation.charts import style

DISTANCE_LINES: Final = {
    "within a group": style.SPLIT_LINES["train"],
    "between groups": style.SPLIT_LINES["val"],
    "test to training": style.SPLIT_LINES["test"],
}


LEAST_SPREAD: Final = 0.04
"""Of the AUC axis, so that seeds that agree do not look far apart."""


@dataclass(frozen=True)
class NeighbourDistances:
    """Distance of images to the nearest other one, each of shape (num_images,); an empty one is left out.

    Attributes:
        test_to_train: From each test image to the training images.
        within_group: From an image to the others of its group.
        between_groups: From an image to those of all other groups.
        measure: What the distance is, for the axis.
    """

    test_to_train: NDArray[np.float64]
    within_group: NDArray[np.float64]
    between_groups: NDArray[np.float64]
    measure: str = "Distance to the nearest image"


@dataclass(frozen=True)
class FoldComparison:
    """AUC of each fold of cross-validation, once with folds by image and once with folds by group.

    Attributes:
        by_image: Shape (num_folds,), 0-1.
        by_group: Shape (num_folds,) as well, but often of more folds, from several seeds.
    """

    by_image: NDArray[np.float64]
    by_group: NDArray[np.float64]


def draw_neighbour_distances(distances: NeighbourDistances, notice: str = "") -> Figure:
    """Draw the share of images that have a neighbour within each distance, for the three kinds."""
    figure = style.create_figure(6.4, 5.0, notice)
    axes = figure.subplots()
    kinds = {
        "within a group": distances.within_group,
        "between groups": distances.between_groups,
        "test to training": distances.test_to_train,
    }
    for name, values in kinds.items():
        if len(values):
            axes.ecdf(values, label=f"{name.capitalize()} (n = {len(values):,})", **DISTANCE_LINES[name])
    style.style_axes(axes, "Nearest neighbours", distances.measure, "Share of images")
    axes.set_ylim(-0.015, 1.015)
    axes.set_xlim(left=0)
    style.add_legend_beneath(figure, axes, num_columns=2)
    return figure


def draw_fold_comparison(folds: FoldComparison, notice: str = "") -> Figure:
    """Draw the AUC of each fold by both kinds of folds, their means, and the gap between these."""
    figure = style.create_figure(5.6, 4.6, notice)
    axes = figure.subplots()
    columns = (folds.by_image, folds.by_group)
    for place, values in enumerate(columns):
        label = "One fold" if place == 0 else None
        axes.plot(np.full(len(values), place), values, label=label, **SMALL_RING, zorder=3)
        axes.plot([place - 0.16, place + 0.16], [values.mean()] * 2, color=style.INK, linewidth=2.6, zorder=2)
        axes.text(place - 0.2, values.mean(), f"{values.mean():.3f}", ha="right", va="center", **TEXT_LOOK)
    _label_gap(axes, float(folds.by_image.mean()), float(folds.by_group.mean()))
    style.style_axes(axes, "Cross-validated AUC by kind of folds", "", "AUC")
    axes.set_xticks([0, 1], ["folds by image", "folds by group"], fontsize=style.TEXT_SIZE)
    axes.set_xlim(-0.6, 1.75)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, min_n_ticks=3))
    _set_range(axes, np.concatenate(columns))
    return figure


SMALL_RING: Final[dict[str, Any]] = style.RING | {"markersize": 6}
TEXT_LOOK: Final[dict[str, Any]] = {
    "fontsize": style.SMALL_SIZE,
    "color": style.INK,
    "zorder": 4,
    "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 1.5},
}


def _set_range(axes: Axes, values: NDArray[np.float64]) -> None:
    """Leave room around the points, but next to none above an AUC of 1."""
    spread = max(float(np.ptp(values)), LEAST_SPREAD)
    axes.set_ylim(values.min() - 0.2 * spread, min(values.max() + 0.2 * spread, 1 + 0.05 * spread))


def _label_gap(axes: Axes, by_image: float, by_group: float) -> None:
    """Draw the gap between the means to the right of both columns."""
    for mean in (by_image, by_group):
        axes.plot([0.16 if mean == by_image else 1.16, 1.3], [mean, mean], zorder=1, **style.REFERENCE_LINE)
    axes.plot([1.28, 1.28], [by_image, by_group], color=style.INK, linewidth=1.6)
    gap = by_image - by_group
    word = "inflation" if gap > 0 else "no inflation"
    axes.text(1.33, (by_image + by_group) / 2, f"{word}\n{gap:+.3f}", ha="left", va="center", **TEXT_LOOK)

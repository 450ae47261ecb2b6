"""Draws the charts on leakage: AUC of random labels of blocks, and cross-validation by kind of folds."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from hip_mri.evaluation.charts import style

MIN_AUC_RANGE: Final = 0.04
"""Minimum range of the AUC axis, so that small differences do not look large."""

SMALL_RING: Final[dict[str, Any]] = style.RING | {"markersize": 6}
TEXT_STYLE: Final[dict[str, Any]] = {
    "fontsize": style.SMALL_SIZE,
    "color": style.INK,
    "zorder": 4,
    "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 1.5},
}


def draw_leakage(leakage: Mapping[str, Any], notice: str = "") -> Figure:
    """Draw the mean AUC of random labels with its interval for each kind of blocks; see `summarize_leakage`."""
    figure = style.create_figure(5.6, 4.6, notice)
    axes = figure.subplots()
    kinds = leakage["blocks"]
    aucs, limits = (np.array([kind[key] for kind in kinds]) for key in ("auc", "interval"))
    places = np.arange(len(kinds))
    axes.vlines(places, limits[:, 0], limits[:, 1], color=style.INK, linewidth=2.2, label="95% interval")
    axes.plot(places, aucs, label="Mean AUC", **SMALL_RING, zorder=3)
    axes.axhline(0.5, label="No leakage (0.5)", **style.REFERENCE_LINE)
    axes.axhline(leakage["max_auc"], color=style.MUTED, linewidth=1.2, label=f"Limit ({leakage['max_auc']:g})")
    style.style_axes(axes, "AUC of labels drawn at random for blocks", "Block", "AUC")
    axes.set_xticks(places, [_name_blocks(kind) for kind in kinds], fontsize=style.SMALL_SIZE)
    axes.set_xlim(-0.6, len(kinds) - 0.4)
    axes.set_ylim(min(0.4, limits.min() - 0.03), max(0.7, limits.max() + 0.03))
    style.add_legend_beneath(figure, axes, num_columns=2)
    return figure


def _name_blocks(kind: Mapping[str, Any]) -> str:
    return "similar\npair" if kind["by"] == "features" else f"{kind['length']} in\norder"


def draw_fold_comparison(
    by_image: NDArray[np.float64], by_group: NDArray[np.float64], notice: str = "", group: str = "group"
) -> Figure:
    """Draw the AUC of each fold by kind of folds, the means, and the difference between the means.

    There can be more folds by group than by image, from several seeds.
    """
    figure = style.create_figure(5.6, 4.6, notice)
    axes = figure.subplots()
    columns = (by_image, by_group)
    for x, aucs in enumerate(columns):
        label = "One fold" if x == 0 else None
        axes.plot(np.full(len(aucs), x), aucs, label=label, **SMALL_RING, zorder=3)
        axes.plot([x - 0.16, x + 0.16], [aucs.mean()] * 2, color=style.INK, linewidth=2.6, zorder=2)
        axes.text(x - 0.2, aucs.mean(), f"{aucs.mean():.3f}", ha="right", va="center", **TEXT_STYLE)
    _draw_difference(axes, float(by_image.mean()), float(by_group.mean()))
    style.style_axes(axes, "Cross-validated AUC by kind of folds", "", "AUC")
    axes.set_xticks([0, 1], ["folds by image", f"folds by {group}"], fontsize=style.TEXT_SIZE)
    axes.set_xlim(-0.6, 1.75)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, min_n_ticks=3))
    _set_range(axes, np.concatenate(columns))
    return figure


def _set_range(axes: Axes, aucs: NDArray[np.float64]) -> None:
    """Leave space around the points, but almost none above an AUC of 1."""
    spread = max(float(np.ptp(aucs)), MIN_AUC_RANGE)
    axes.set_ylim(aucs.min() - 0.2 * spread, min(aucs.max() + 0.2 * spread, 1 + 0.05 * spread))


def _draw_difference(axes: Axes, by_image: float, by_group: float) -> None:
    """Draw the difference between the means to the right of both columns."""
    for mean in (by_image, by_group):
        axes.plot([0.16 if mean == by_image else 1.16, 1.3], [mean, mean], zorder=1, **style.REFERENCE_LINE)
    axes.plot([1.28, 1.28], [by_image, by_group], color=style.INK, linewidth=1.6)
    difference = by_image - by_group
    text = f"{'inflation' if difference > 0 else 'no inflation'}\n{difference:+.3f}"
    axes.text(1.33, (by_image + by_group) / 2, text, ha="left", va="center", **TEXT_STYLE)

"""Draws confusion matrices, scores by class and the decision curve."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from hip_mri.config import LABELS
from hip_mri.evaluation.charts import style
from hip_mri.evaluation.charts.captions import SPLIT_TITLES, name_label
from hip_mri.evaluation.charts.curves import ScoredSplit
from hip_mri.evaluation.metrics.curves import DecisionCurve
from hip_mri.evaluation.metrics.split_metrics import HALF

NUM_SCORE_BINS: Final = 25
"""Columns of a histogram of scores; each is 0.04 wide."""

COLOR_MAXIMUM: Final = 2.2
"""Fraction at which a cell would have the darkest color; at 1 it is still light enough for dark text."""

COUNT_TEXT: Final[dict[str, Any]] = {"size": 14, "weight": "bold", "color": style.INK}


def draw_confusion_matrices(splits: Mapping[str, ScoredSplit], threshold: float, notice: str = "") -> Figure:
    """Draw a confusion matrix of each split, each cell with its count and its percentage of the row.

    A second row shows the threshold 0.5 if another one was chosen.
    """
    thresholds = [threshold] if threshold == HALF else [threshold, HALF]
    figure = style.create_figure(4.2 * len(splits), 3.5 * len(thresholds), notice)
    grid = figure.subplots(len(thresholds), len(splits), squeeze=False)
    for row, value in zip(grid, thresholds, strict=True):
        for axes, (name, split) in zip(row, splits.items(), strict=True):
            _draw_confusion_matrix(axes, split.count_decisions(value))
            style.style_axes(
                axes, f"{SPLIT_TITLES[name]} images", f"Called, at the threshold {value:.3g}", "True class"
            )
            axes.grid(visible=False)
            axes.tick_params(length=0)
    return figure


def _draw_confusion_matrix(axes: Axes, counts: NDArray[np.int64]) -> None:
    fractions = counts / counts.sum(axis=1, keepdims=True)
    texts = [f"{count:,}\n{part:.1%}" for count, part in zip(counts.ravel(), fractions.ravel(), strict=True)]
    names = [name_label(label) for label in LABELS]
    seaborn.heatmap(
        fractions, vmin=0, vmax=COLOR_MAXIMUM, cmap="Blues", annot=np.reshape(texts, counts.shape), fmt="",
        annot_kws=COUNT_TEXT, linewidths=3, linecolor="white", cbar=False, square=True,
        xticklabels=names, yticklabels=names, ax=axes,
    )  # fmt: skip


def draw_score_histogram(split: ScoredSplit, threshold: float, heading: str, notice: str = "") -> Figure:
    """Draw a histogram of the scores of each class, with both thresholds."""
    figure = style.create_figure(6.4, 4.9, notice)
    panels = figure.subplots(len(LABELS), 1, sharex=True)
    edges = np.linspace(0, 1, NUM_SCORE_BINS + 1)
    for number, (axes, label) in enumerate(zip(panels, LABELS, strict=True)):
        scores = split.scores[split.labels == number]
        axes.hist(scores, bins=edges, **style.CLASS_FILLS[label])
        axes.axvline(threshold, color=style.INK, linewidth=1.8, label=f"{threshold:.3g}, the chosen threshold")
        if threshold != HALF:
            axes.axvline(HALF, label=f"{HALF:g}", **style.REFERENCE_LINE | {"color": style.INK})
        x_label = "Score (probability of a lesion)" if number == len(LABELS) - 1 else ""
        style.style_axes(axes, f"{heading}: {name_label(label)} ({len(scores):,})", x_label, "Images")
        axes.set_xlim(-0.005, 1.005)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    style.add_legend_beneath(figure, panels[0], num_columns=2)
    return figure


def draw_decision_curve(curve: DecisionCurve, threshold: float, title: str, notice: str = "") -> Figure:
    """Draw the net benefit of the model, of treating all and of treating none.

    The threshold is marked if it is within the curve.
    """
    figure = style.create_figure(6.4, 5.1, notice)
    axes = figure.subplots()
    axes.plot(curve.thresholds, curve.model, label="Treat by the model", **style.SPLIT_LINES["test"])
    axes.plot(curve.thresholds, curve.treat_all, label="Treat all", **style.SPLIT_LINES["val"])
    axes.axhline(0, label="Treat none", **style.REFERENCE_LINE)
    highest = max(float(np.nanmax(curve.model)), float(np.nanmax(curve.treat_all)), 0.02)
    lowest = -0.25 * highest  # the curves are unbounded below
    if curve.thresholds[0] <= threshold <= curve.thresholds[-1]:
        benefit = float(np.interp(threshold, curve.thresholds, curve.model))
        axes.plot(threshold, benefit, label=f"At {threshold:.3g}, the chosen threshold", zorder=5, **style.RING)
        lowest = min(lowest, 1.15 * benefit)
    style.style_axes(axes, title, "Threshold probability", "Net benefit (true positives/image)")
    axes.set(xlim=(0, 1), ylim=(lowest, 1.08 * highest))
    style.add_legend_beneath(figure, axes, num_columns=2)
    return figure

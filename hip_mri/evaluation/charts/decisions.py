"""What the threshold decides: confusion matrices, the scores of each class, and the decision curve."""

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
from hip_mri.evaluation.charts.curves import USUAL_THRESHOLD, ScoredSplit
from hip_mri.evaluation.metrics.curves import DecisionCurve

NUM_SCORE_BINS: Final = 25
"""Columns of a histogram of scores; each is 0.04 wide."""

PALE: Final = 2.2
"""Share at which a cell would be darkest: even 100 % stays pale enough for dark text."""

DOTTED: Final[dict[str, Any]] = style.REFERENCE_LINE | {"color": style.INK}
COUNT_LOOK: Final[dict[str, Any]] = {"size": 14, "weight": "bold", "color": style.INK}


def draw_confusion_matrices(splits: Mapping[str, ScoredSplit], threshold: float, notice: str = "") -> Figure:
    """Draw a confusion matrix of each split, each cell with its count and its share of the row.

    Args:
        splits: By name; a column each.
        threshold: In use; a second row shows 0.5, unless that is the threshold.
        notice: What the picture must say about itself.
    """
    thresholds = [threshold] if threshold == USUAL_THRESHOLD else [threshold, USUAL_THRESHOLD]
    figure = style.create_figure(4.2 * len(splits), 3.5 * len(thresholds), notice)
    grid = figure.subplots(len(thresholds), len(splits), squeeze=False)
    for row, value in zip(grid, thresholds, strict=True):
        for axes, (name, split) in zip(row, splits.items(), strict=True):
            _draw_confusion_matrix(axes, split.count_decisions(value))
            style.style_axes(axes, f"{SPLIT_TITLES[name]} images", f"Called, at the threshold {value:.3g}", "Truth")
            axes.grid(visible=False)
            axes.tick_params(length=0)
    return figure


def _draw_confusion_matrix(axes: Axes, counts: NDArray[np.int64]) -> None:
    shares = counts / counts.sum(axis=1, keepdims=True)
    texts = [
        [f"{count:,}\n{share:.1%}" for count, share in zip(*row, strict=True)]
        for row in zip(counts, shares, strict=True)
    ]
    names = [name_label(label) for label in LABELS]
    seaborn.heatmap(
        shares, vmin=0, vmax=PALE, cmap="Blues", annot=np.array(texts), fmt="", annot_kws=COUNT_LOOK,
        linewidths=3, linecolor="white", cbar=False, square=True, xticklabels=names, yticklabels=names, ax=axes,
    )  # fmt: skip


def draw_score_histogram(split: ScoredSplit, threshold: float, whose: str, notice: str = "") -> Figure:
    """Draw how the scores of each class are spread, a panel per class, with both thresholds.

    Args:
        split: Whose scores.
        threshold: In use.
        whose: Beginning of the headings, such as `Test images`.
        notice: What the picture must say about itself.
    """
    figure = style.create_figure(6.4, 4.9, notice)
    panels = figure.subplots(len(LABELS), 1, sharex=True)
    edges = np.linspace(0, 1, NUM_SCORE_BINS + 1)
    for number, (axes, label) in enumerate(zip(panels, LABELS, strict=True)):
        scores = split.scores[split.labels == number]
        axes.hist(scores, bins=edges, **style.CLASS_FILLS[label])
        _mark_threshold_lines(axes, threshold)
        is_last = number == len(LABELS) - 1
        heading = f"{whose}: {name_label(label)} ({len(scores):,})"
        style.style_axes(axes, heading, "Score (probability of a lesion)" if is_last else "", "Images")
        axes.set_xlim(-0.005, 1.005)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    style.add_legend_beneath(figure, panels[0], num_columns=2)
    return figure


def _mark_threshold_lines(axes: Axes, threshold: float) -> None:
    axes.axvline(threshold, color=style.INK, linewidth=1.8, label=f"{threshold:.3g}, the threshold in use")
    if threshold != USUAL_THRESHOLD:
        axes.axvline(USUAL_THRESHOLD, label=f"{USUAL_THRESHOLD:g}", **DOTTED)


def draw_decision_curve(curve: DecisionCurve, threshold: float, title: str, notice: str = "") -> Figure:
    """Draw the net benefit of the model beside that of acting always and never.

    Args:
        curve: What to draw.
        threshold: In use; marked on the curve of the model where it lies within.
        title: Heading, such as `Decision curve (test images)`.
        notice: What the picture must say about itself.
    """
    figure = style.create_figure(6.4, 5.1, notice)
    axes = figure.subplots()
    axes.plot(curve.thresholds, curve.model, label="Act as the model says", **style.SPLIT_LINES["test"])
    axes.plot(curve.thresholds, curve.treat_all, label="Act on every image", **style.SPLIT_LINES["val"])
    axes.axhline(0, label="Act on none", **style.REFERENCE_LINE)
    if curve.thresholds[0] <= threshold <= curve.thresholds[-1]:
        benefit = np.interp(threshold, curve.thresholds, curve.model)
        axes.plot(threshold, benefit, label=f"At {threshold:.3g}, the threshold in use", zorder=5, **style.RING)
    style.style_axes(axes, title, "Threshold probability", "Net benefit (true positives/image)")
    highest = max(float(np.nanmax(curve.model)), float(np.nanmax(curve.treat_all)), 0.02)
    axes.set(xlim=(0, 1), ylim=(-0.25 * highest, 1.08 * highest))  # acting always falls without end: not of interest
    style.add_legend_beneath(figure, axes, num_columns=2)
    return figure

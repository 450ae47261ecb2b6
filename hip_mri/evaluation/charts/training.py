"""Draws loss and accuracy by epoch, and the AUC by number of training groups."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hip_mri.evaluation.charts import style
from hip_mri.evaluation.charts.captions import SPLIT_TITLES

OPEN_RING: Final[dict[str, Any]] = style.RING | {"markerfacecolor": "none"}
"""Ring around a visible point."""

RING: Final[dict[str, Any]] = style.RING | {"markersize": 7}


def draw_learning_curves(history: pd.DataFrame, notice: str = "") -> Figure:
    """Draw loss and accuracy by epoch, of training and validation images, side by side.

    `history` is as in `FigureData`; a line marks the epoch where its column `stage` (`head`, `fine_tune`) changes.
    """
    figure = style.create_figure(9.2, 4.1, notice)
    left, right = figure.subplots(1, 2)
    _draw_metric(left, history, "loss", "Loss", "Binary cross-entropy")
    _draw_metric(right, history, "accuracy", "Accuracy", "Fraction of correct calls")
    style.add_legend_beneath(figure, left, num_columns=3)
    return figure


def _draw_metric(axes: Axes, history: pd.DataFrame, metric: str, title: str, y_label: str) -> None:
    epochs = np.arange(1, len(history) + 1)
    marker = "o" if len(history) <= 12 else ""  # a line with one point is invisible
    for split, column in (("train", metric), ("val", f"val_{metric}")):
        line = style.SPLIT_LINES[split]
        axes.plot(epochs, history[column], marker=marker, markersize=4.5, label=SPLIT_TITLES[split], **line)
    best = int(np.argmin(history["val_loss"]))
    label = f"Lowest validation loss (epoch {epochs[best]})"
    axes.plot(epochs[best], history[f"val_{metric}"].iloc[best], label=label, zorder=5, **OPEN_RING)
    style.style_axes(axes, title, "Epoch", y_label)
    axes.set_xlim(0.5, len(history) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    _mark_stages(axes, history)


def _mark_stages(axes: Axes, history: pd.DataFrame) -> None:
    """Draw a line where fine-tuning begins, if there is any."""
    if "stage" not in history.columns:
        return
    stages = history["stage"].tolist()
    for epoch in range(1, len(stages)):
        if stages[epoch] != stages[epoch - 1]:
            axes.axvline(epoch + 0.5, color=style.INK, linewidth=1.2)
            axes.set_title(
                f"after the line: {stages[epoch].replace('_', '-')}", loc="right",
                fontsize=style.SMALL_SIZE, color=style.INK, pad=9,
            )  # fmt: skip


def draw_training_sizes(sizes: Mapping[str, Any], notice: str = "", group: str = "group") -> Figure:
    """Draw the AUC by number of training groups with its band, and the prediction for twice as many, if there is one.

    Args:
        sizes: See `summarize_training_sizes`.
        notice: Text of the banner.
        group: What is counted, `group` or `patient`.
    """
    figure = style.create_figure(6.4, 4.6, notice)
    axes = figure.subplots()
    points, twice = sizes["points"], sizes["twice"]
    counts, aucs = (np.array([point[key] for point in points], np.float64) for key in ("num_groups", "auc"))
    limits = np.array([point["interval"] for point in points])
    line = style.SPLIT_LINES["test"]
    axes.fill_between(counts, *limits.T, color=line["color"], alpha=0.18, linewidth=0, label="95% interval")
    axes.plot(counts, aucs, marker="o", markersize=5, label="Cross-validated AUC", **line)
    ticks = counts
    if twice:
        ticks, predicted = np.append(counts, twice["num_groups"]), style.SPLIT_LINES["val"]
        axes.plot([counts[-1], twice["num_groups"]], [aucs[-1], twice["auc"]], color=predicted["color"], linestyle=":")
        label = f"Prediction for twice the {group}s"
        axes.vlines(twice["num_groups"], *twice["auc_interval"], color=predicted["color"], linewidth=2.6, label=label)
        axes.plot(twice["num_groups"], twice["auc"], zorder=3, **RING)
    x_label = f"Training {group}s (logarithmic)"
    style.style_axes(axes, f"AUC by number of training {group}s", x_label, "AUC")
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{count:,.0f}" for count in ticks])
    axes.minorticks_off()
    style.add_legend_beneath(figure, axes, num_columns=3)
    return figure

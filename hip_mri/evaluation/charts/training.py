"""Draws loss and accuracy by epoch."""

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

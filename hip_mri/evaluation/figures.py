"""The pictures of a run: learning curves, confusion matrices, ROC, precision-recall, contrast before and after."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve, roc_curve

from hip_mri.config import LABELS
from hip_mri.evaluation import style
from hip_mri.evaluation.metrics import SplitMetrics, evaluate_predictions, number_labels, split_predictions
from hip_mri.evaluation.wording import SPLIT_TITLES, name_label

_one_at_a_time = threading.Lock()
"""Matplotlib shares caches between figures and does not promise that two threads may draw at once."""


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


def draw_figures(
    predictions: pd.DataFrame,
    history: pd.DataFrame,
    samples: Sequence[ContrastSample],
    threshold: float,
    figures_folder: Path,
    notice: str = "",
) -> list[Path]:
    """Draw and write all pictures of a run.

    Args:
        predictions: Columns `image_id`, `split`, `label` (name) and `score` (0-1), one row per image.
        history: Columns `epoch`, `loss`, `accuracy`, `val_loss` and `val_accuracy`, one row per epoch; a column
            `stage` (`head`, `fine_tune`), where there is one, is shown by a divider.
        samples: About three images per class; none leaves the contrast sheet out.
        threshold: Scores at or above it are called a lesion.
        figures_folder: Where the PNG files are written.
        notice: What every picture must say about itself, such as "SYNTHETIC DATA"; see `summarize_notices`.

    Returns:
        The files, in the order in which a report shows them.

    Raises:
        EvaluationError: The predictions cannot be evaluated.
        WorkspaceError: The disk is full or not writable.
    """
    metrics = evaluate_predictions(predictions, threshold)
    by_split = split_predictions(predictions)
    measured = {split: by_split[split] for split in ("test", "val") if split in by_split} or by_split
    with _one_at_a_time:
        figures = {
            "roc.png": draw_roc(measured, metrics, threshold, notice),
            "precision_recall.png": draw_precision_recall(measured, metrics, threshold, notice),
            "confusion_matrix.png": draw_confusion_matrices(metrics, threshold, notice),
            "learning_curves.png": draw_learning_curves(history, notice),
        }
        if samples:
            figures["contrast_samples.png"] = draw_contrast_samples(samples, notice)
        return [style.save_figure(figure, figures_folder / name) for name, figure in figures.items()]


def draw_roc(
    measured: dict[str, pd.DataFrame], metrics: dict[str, SplitMetrics], threshold: float, notice: str
) -> Figure:
    """Draw sensitivity against false alarms, with the point at which the threshold works."""
    figure = style.create_figure(5.0, 5.2, notice)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=style.MUTED, linewidth=1.2, linestyle=(0, (2, 3)), label="Chance (AUC 0.500)")
    for split, rows in measured.items():
        false_alarms, sensitivities, _ = roc_curve(number_labels(rows), rows["score"])
        label = f"{SPLIT_TITLES[split]} (AUC {metrics[split]['auc']:.3f})"
        axes.plot(false_alarms, sensitivities, label=label, **style.SPLIT_LINES[split])
        _mark_point(axes, 1 - metrics[split]["specificity"], metrics[split]["sensitivity"], split)
    _explain_mark(axes, threshold)
    style.style_unit_axes(axes, "ROC curve", "1 - specificity (false alarms)", "Sensitivity (lesions found)")
    style.add_legend(axes, "lower right")
    return figure


def draw_precision_recall(
    measured: dict[str, pd.DataFrame], metrics: dict[str, SplitMetrics], threshold: float, notice: str
) -> Figure:
    """Draw precision against recall, with the share of lesions as the level that chance reaches."""
    figure = style.create_figure(5.0, 5.2, notice)
    axes = figure.subplots()
    prevalence = float(np.concatenate([number_labels(rows) for rows in measured.values()]).mean())
    chance = f"Chance (share of lesions, {prevalence:.3f})"
    axes.axhline(prevalence, color=style.MUTED, linewidth=1.2, linestyle=(0, (2, 3)), label=chance)
    for split, rows in measured.items():
        precisions, recalls, _ = precision_recall_curve(number_labels(rows), rows["score"], drop_intermediate=True)
        label = f"{SPLIT_TITLES[split]} (AP {metrics[split]['average_precision']:.3f})"
        axes.plot(recalls, precisions, drawstyle="steps-post", label=label, **style.SPLIT_LINES[split])
        (_, false_alarms), (_, found) = metrics[split]["confusion_matrix"]
        if found + false_alarms:  # without any alarm there is no precision to mark
            _mark_point(axes, metrics[split]["sensitivity"], found / (found + false_alarms), split)
    _explain_mark(axes, threshold)
    style.style_unit_axes(axes, "Precision-recall curve", "Recall (lesions found)", "Precision (alarms that are right)")
    style.add_legend(axes, "lower left")
    return figure


def _mark_point(axes: Axes, x: float, y: float, split: str) -> None:
    color = style.SPLIT_LINES[split]["color"]
    axes.plot(x, y, **style.RING | {"markersize": 9, "markeredgecolor": color, "markeredgewidth": 2.4}, zorder=5)


def _explain_mark(axes: Axes, threshold: float) -> None:
    """Put the ring into the legend once, for all splits."""
    axes.plot([], [], label=f"At the threshold {threshold:g}", **style.RING)


def draw_confusion_matrices(metrics: dict[str, SplitMetrics], threshold: float, notice: str) -> Figure:
    """Draw a confusion matrix of test and validation, each cell with its count and its share of the row."""
    splits = [split for split in ("test", "val") if split in metrics] or list(metrics)
    figure = style.create_figure(4.0 * len(splits), 3.4, notice)
    for split, axes in zip(splits, figure.subplots(1, len(splits), squeeze=False)[0], strict=True):
        _draw_confusion_matrix(axes, np.array(metrics[split]["confusion_matrix"]))
        style.style_axes(axes, f"{SPLIT_TITLES[split]} images", f"Called, at the threshold {threshold:g}", "Truth")
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
        shares, vmin=0, vmax=1, cmap="Blues", annot=np.array(texts), fmt="", annot_kws={"size": 14, "weight": "bold"},
        linewidths=3, linecolor="white", cbar=False, square=True, xticklabels=names, yticklabels=names, ax=axes,
    )  # fmt: skip


def draw_learning_curves(history: pd.DataFrame, notice: str) -> Figure:
    """Draw loss and accuracy by epoch, of training and validation images, side by side."""
    figure = style.create_figure(9.2, 3.7, notice)
    left, right = figure.subplots(1, 2)
    _draw_measure(left, history, "loss", "Loss (binary cross-entropy)")
    _draw_measure(right, history, "accuracy", "Accuracy")
    style.add_legend(right, "best")
    return figure


def _draw_measure(axes: Axes, history: pd.DataFrame, measure: str, title: str) -> None:
    epochs = np.arange(1, len(history) + 1)
    marker = "o" if len(history) <= 12 else ""  # a line through one epoch would not show
    for split, column in (("train", measure), ("val", f"val_{measure}")):
        line = style.SPLIT_LINES[split]
        axes.plot(epochs, history[column], marker=marker, markersize=4.5, label=SPLIT_TITLES[split], **line)
    best = int(np.argmin(history["val_loss"]))
    label = f"Lowest validation loss (epoch {epochs[best]})"
    axes.plot(epochs[best], history[f"val_{measure}"].iloc[best], label=label, **style.RING)
    style.style_axes(axes, title, "Epoch", "")
    axes.set_xlim(0.5, len(history) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    _divide_stages(axes, history)


def _divide_stages(axes: Axes, history: pd.DataFrame) -> None:
    """Draw a line where the second stage of training begins, if there is one."""
    if "stage" not in history.columns:
        return
    stages = history["stage"].tolist()
    for epoch in range(1, len(stages)):
        if stages[epoch] != stages[epoch - 1]:
            axes.axvline(epoch + 0.5, color=style.INK, linewidth=1.2)
            name = f" {stages[epoch].replace('_', '-')}"
            place = axes.get_xaxis_transform()
            axes.text(epoch + 0.5, 1.0, name, transform=place, va="bottom", fontsize=style.SMALL_SIZE, color=style.INK)


def draw_contrast_samples(samples: Sequence[ContrastSample], notice: str) -> Figure:
    """Draw images before and after contrast enhancement, a pair of columns per class."""
    columns = {label: [sample for sample in samples if sample.label == label] for label in LABELS}
    num_rows = max(len(column) for column in columns.values())
    figure = style.create_figure(7.4, 1.95 * num_rows + 0.45, notice)
    parts = figure.subfigures(1, 2, squeeze=False, wspace=0.03)[0]
    for part, (label, column) in zip(parts, columns.items(), strict=True):
        part.suptitle(name_label(label).capitalize(), fontsize=style.TITLE_SIZE, fontweight="bold", color=style.INK)
        panels = part.subplots(num_rows, 2, squeeze=False)
        for row in range(num_rows):
            _draw_sample(panels[row], column[row] if row < len(column) else None, with_titles=row == 0)
    return figure


def _draw_sample(panels: NDArray, sample: ContrastSample | None, *, with_titles: bool) -> None:
    for axes in panels:
        axes.set_axis_off()
    if sample is None:
        return
    for axes, image, title in zip(panels, (sample.before, sample.after), ("as it came", "after CLAHE"), strict=True):
        axes.imshow(image, cmap="gray", vmin=0, vmax=255)
        if with_titles:
            axes.set_title(title, fontsize=style.SMALL_SIZE, color=style.INK, pad=4)
    looks = {"va": "top", "fontsize": 7.5, "color": style.MUTED, "family": "monospace"}
    panels[0].text(0, -0.02, sample.image_id, transform=panels[0].transAxes, **looks)

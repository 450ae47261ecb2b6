"""Draws ROC and precision-recall curves, and defines the scored split that the charts share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, precision_recall_curve, roc_curve

from hip_mri.evaluation.charts import style
from hip_mri.evaluation.charts.captions import SPLIT_TITLES
from hip_mri.evaluation.metrics.curves import Band, CurveBands
from hip_mri.evaluation.metrics.split_metrics import HALF

WIDTH: Final = 5.0
HEIGHT: Final = 6.5
"""Size in inches of a figure with a square chart and its legend beneath."""


@dataclass(frozen=True)
class ScoredSplit:
    """The scores of one split and their metrics.

    Attributes:
        labels: True classes, 0 normal or 1 lesion, shape (num_images,); both occur.
        scores: Probability of a lesion, 0-1, shape (num_images,).
        metrics: Metrics of the split as in `metrics.json`, with intervals where there are any.
        bands: Bands of both curves.
    """

    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    metrics: Mapping[str, Any] = field(default_factory=dict)
    bands: CurveBands | None = None

    def count_decisions(self, threshold: float) -> NDArray[np.int64]:
        """Count `[[tn, fp], [fn, tp]]`; scores at or above the threshold are called a lesion."""
        return confusion_matrix(self.labels, self.scores >= threshold, labels=[0, 1])


def draw_roc(splits: Mapping[str, ScoredSplit], threshold: float, notice: str = "") -> Figure:
    """Draw ROC curves with marks at the chosen threshold and at 0.5.

    The first split is drawn with its band, the others as thin lines.
    """
    figure = style.create_figure(WIDTH, HEIGHT, notice)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], label="Chance (AUC 0.500)", **style.REFERENCE_LINE)
    for position, (name, split) in enumerate(splits.items()):
        false_rates, sensitivities, _ = roc_curve(split.labels, split.scores)
        axes.plot(
            false_rates, sensitivities, label=_label_curve(name, split, "AUC", "auc"), **_style_line(name, position)
        )
        _draw_band(axes, split.bands.roc if split.bands and position == 0 else None, name)
    _mark_thresholds(axes, splits, threshold, _locate_on_roc)
    style.style_unit_axes(axes, "ROC curve", "1 - specificity (false positive rate)", "Sensitivity")
    style.add_legend_beneath(figure, axes)
    return figure


def draw_precision_recall(splits: Mapping[str, ScoredSplit], threshold: float, notice: str = "") -> Figure:
    """Draw precision-recall curves with the prevalence of the first split as reference; see `draw_roc`."""
    figure = style.create_figure(WIDTH, HEIGHT, notice)
    axes = figure.subplots()
    first = next(iter(splits))
    prevalence = float(splits[first].labels.mean())
    chance = f"Chance (prevalence in {SPLIT_TITLES[first].lower()}, {prevalence:.3f})"
    axes.axhline(prevalence, label=chance, **style.REFERENCE_LINE)
    for position, (name, split) in enumerate(splits.items()):
        precisions, recalls, _ = precision_recall_curve(split.labels, split.scores, drop_intermediate=True)
        label = _label_curve(name, split, "AP", "average_precision")
        axes.plot(recalls, precisions, drawstyle="steps-post", label=label, **_style_line(name, position))
        _draw_band(axes, split.bands.precision_recall if split.bands and position == 0 else None, name)
    _mark_thresholds(axes, splits, threshold, _locate_on_precision_recall)
    style.style_unit_axes(axes, "Precision-recall curve", "Recall (sensitivity)", "Precision")
    style.add_legend_beneath(figure, axes)
    return figure


def _style_line(name: str, position: int) -> dict[str, Any]:
    """Line of a split; the first one is thicker."""
    return style.SPLIT_LINES[name] | ({} if position == 0 else {"linewidth": 1.3})


def _label_curve(name: str, split: ScoredSplit, title: str, key: str) -> str:
    interval = (split.metrics.get("intervals") or {}).get(key)
    limits = f", 95% interval {interval[0]:.3f} to {interval[1]:.3f}" if interval else ""
    return f"{SPLIT_TITLES[name]} ({title} {split.metrics[key]:.3f}{limits})"


def _draw_band(axes: Axes, band: Band | None, name: str) -> None:
    if band is not None:
        label = f"95% band, {SPLIT_TITLES[name].lower()}"
        color = style.SPLIT_LINES[name]["color"]
        axes.fill_between(band.grid, band.lower, band.upper, color=color, alpha=0.16, linewidth=0, label=label)


Place = tuple[float, float] | None


def _mark_thresholds(
    axes: Axes, splits: Mapping[str, ScoredSplit], threshold: float, locate: Callable[[NDArray[np.int64]], Place]
) -> None:
    """Mark each split at the chosen threshold and at 0.5, with one entry per threshold in the legend."""
    marks = {threshold: style.RING}
    if threshold != HALF:
        marks[HALF] = style.DIAMOND
    for value, mark in marks.items():
        for name, split in reversed(list(splits.items())):  # the first split on top
            if place := locate(split.count_decisions(value)):
                axes.plot(*place, **mark | {"markeredgecolor": style.SPLIT_LINES[name]["color"]}, zorder=5)
        axes.plot([], [], label=f"At {value:.3g}{', the chosen threshold' if value == threshold else ''}", **mark)


def _locate_on_roc(counts: NDArray[np.int64]) -> Place:
    (tn, fp), (fn, tp) = counts
    return fp / (tn + fp), tp / (fn + tp)


def _locate_on_precision_recall(counts: NDArray[np.int64]) -> Place:
    (_, fp), (fn, tp) = counts
    return (tp / (fn + tp), tp / (tp + fp)) if tp + fp else None  # without a lesion call precision is not defined

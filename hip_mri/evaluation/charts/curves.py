"""ROC and precision-recall curves with their bands, and what both share with other charts: the scores of a split."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, confusion_matrix, precision_recall_curve, roc_auc_score, roc_curve

from hip_mri.evaluation.charts import style
from hip_mri.evaluation.charts.captions import SPLIT_TITLES
from hip_mri.evaluation.metrics.confidence_intervals import Interval
from hip_mri.evaluation.metrics.curves import Band

USUAL_THRESHOLD: Final = 0.5
"""The threshold that a reader expects where none was chosen; shown beside the one in use."""

WIDTH: Final = 5.0
HEIGHT: Final = 6.5
"""Of a picture with a square chart and its legend beneath, in inches."""


@dataclass(frozen=True)
class ScoredSplit:
    """The scores of one split, and how far chance could move what is made of them.

    Attributes:
        labels: True classes, 0 normal or 1 lesion, shape (num_images,); both occur.
        scores: Probability of a lesion, 0-1, shape (num_images,).
        intervals: 95 % intervals of `auc` and `average_precision`, where they are known.
        roc_band: Sensitivity on a grid of 1 - specificity.
        precision_band: Precision on a grid of recall.
    """

    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    roc_band: Band | None = None
    precision_band: Band | None = None

    def count_decisions(self, threshold: float) -> NDArray[np.int64]:
        """Count `[[tn, fp], [fn, tp]]`, calling a lesion what scores at or above the threshold."""
        return confusion_matrix(self.labels, self.scores >= threshold, labels=[0, 1])


def draw_roc(splits: Mapping[str, ScoredSplit], threshold: float, notice: str = "") -> Figure:
    """Draw sensitivity against false alarms, with the points at which the threshold and 0.5 work.

    Args:
        splits: By name; the first one's band is drawn, the others are thin lines.
        threshold: In use; scores at or above it are called a lesion.
        notice: What the picture must say about itself.
    """
    figure, axes = _start_chart(notice)
    axes.plot([0, 1], [0, 1], label="Chance (AUC 0.500)", **style.REFERENCE_LINE)
    for position, (name, split) in enumerate(splits.items()):
        false_alarms, sensitivities, _ = roc_curve(split.labels, split.scores)
        label = _label_curve(name, "AUC", float(roc_auc_score(split.labels, split.scores)), split.intervals.get("auc"))
        axes.plot(false_alarms, sensitivities, label=label, **_line(name, position))
        _draw_band(axes, split.roc_band if position == 0 else None, name)
    _mark_thresholds(axes, splits, threshold, _locate_on_roc)
    style.style_unit_axes(axes, "ROC curve", "1 - specificity (false alarms)", "Sensitivity (lesions found)")
    style.add_legend_beneath(figure, axes)
    return figure


def draw_precision_recall(splits: Mapping[str, ScoredSplit], threshold: float, notice: str = "") -> Figure:
    """Draw precision against recall, with the share of lesions as the level that chance reaches; see `draw_roc`."""
    figure, axes = _start_chart(notice)
    first = next(iter(splits))
    prevalence = float(splits[first].labels.mean())
    chance = f"Chance (share of lesions in {SPLIT_TITLES[first].lower()}, {prevalence:.3f})"
    axes.axhline(prevalence, label=chance, **style.REFERENCE_LINE)
    for position, (name, split) in enumerate(splits.items()):
        precisions, recalls, _ = precision_recall_curve(split.labels, split.scores, drop_intermediate=True)
        precision = float(average_precision_score(split.labels, split.scores))
        label = _label_curve(name, "AP", precision, split.intervals.get("average_precision"))
        axes.plot(recalls, precisions, drawstyle="steps-post", label=label, **_line(name, position))
        _draw_band(axes, split.precision_band if position == 0 else None, name)
    _mark_thresholds(axes, splits, threshold, _locate_on_precision_recall)
    style.style_unit_axes(axes, "Precision-recall curve", "Recall (lesions found)", "Precision (alarms that are right)")
    style.add_legend_beneath(figure, axes)
    return figure


def _start_chart(notice: str) -> tuple[Figure, Axes]:
    figure = style.create_figure(WIDTH, HEIGHT, notice)
    return figure, figure.subplots()


def _line(name: str, position: int) -> dict:
    """Looks of a split's curve: the first one stands out."""
    return style.SPLIT_LINES[name] | ({} if position == 0 else {"linewidth": 1.3})


def _label_curve(name: str, measure: str, value: float, interval: Interval | None) -> str:
    between = f", 95% interval {interval[0]:.3f} to {interval[1]:.3f}" if interval else ""
    return f"{SPLIT_TITLES[name]} ({measure} {value:.3f}{between})"


def _draw_band(axes: Axes, band: Band | None, name: str) -> None:
    if band is not None:
        label = f"95% band, {SPLIT_TITLES[name].lower()}"
        color = style.SPLIT_LINES[name]["color"]
        axes.fill_between(band.grid, band.lower, band.upper, color=color, alpha=0.16, linewidth=0, label=label)


Place = tuple[float, float] | None


def _mark_thresholds(
    axes: Axes, splits: Mapping[str, ScoredSplit], threshold: float, locate: Callable[[NDArray[np.int64]], Place]
) -> None:
    """Mark where each split stands at the threshold in use and at 0.5, and put each mark into the legend once."""
    marks = {threshold: style.RING}
    if threshold != USUAL_THRESHOLD:
        marks[USUAL_THRESHOLD] = style.DIAMOND
    for value, mark in marks.items():
        for name, split in reversed(list(splits.items())):  # the first split on top
            if place := locate(split.count_decisions(value)):
                axes.plot(*place, **mark | {"markeredgecolor": style.SPLIT_LINES[name]["color"]}, zorder=5)
        axes.plot([], [], label=f"At {value:.3g}{', the threshold in use' if value == threshold else ''}", **mark)


def _locate_on_roc(counts: NDArray[np.int64]) -> Place:
    (tn, fp), (fn, tp) = counts
    return fp / (tn + fp), tp / (fn + tp)


def _locate_on_precision_recall(counts: NDArray[np.int64]) -> Place:
    (_, fp), (fn, tp) = counts
    return (tp / (fn + tp), tp / (tp + fp)) if tp + fp else None  # without any alarm there is no precision

"""Draws the comparison of two models on the same test images."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from hip_mri.evaluation.charts import style
from hip_mri.evaluation.metrics.measures import measure_ranking

CHALLENGER_LINE: Final[dict[str, Any]] = {"color": "#0072B2", "linewidth": 2.2}
CHAMPION_LINE: Final[dict[str, Any]] = {"color": style.INK, "linewidth": 1.4, "linestyle": (0, (5, 2))}


def draw_comparison(
    labels: NDArray[np.int64],
    champion: NDArray[np.float64],
    challenger: NDArray[np.float64],
    interval: Sequence[float],
    margin: float,
    notice: str = "",
) -> Figure:
    """Draw the ROC curves of champion and challenger, and the difference of their AUCs with its interval.

    Args:
        labels: True classes, 0 normal or 1 lesion, shape (num_images,); both occur.
        champion: Scores of the present model, 0-1, shape (num_images,).
        challenger: Scores of the new model, of the same shape.
        interval: Interval of the difference, challenger minus champion.
        margin: Non-inferiority margin, a loss of AUC.
        notice: Text of the banner.
    """
    figure = style.create_figure(8.6, 5.2, notice)
    curves, difference = figure.subplots(1, 2, width_ratios=(1.6, 1))
    curves.plot([0, 1], [0, 1], label="Chance (AUC 0.500)", **style.REFERENCE_LINE)
    aucs = []
    for name, scores, line in (("Champion", champion, CHAMPION_LINE), ("Challenger", challenger, CHALLENGER_LINE)):
        aucs.append(measure_ranking(labels, scores)["auc"])
        false_rates, sensitivities, _ = roc_curve(labels, scores)
        curves.plot(false_rates, sensitivities, label=f"{name} (AUC {aucs[-1]:.3f})", **line)
    style.style_unit_axes(curves, "ROC curves", "1 - specificity (false positive rate)", "Sensitivity")
    curves.legend(loc="lower right", fontsize=style.SMALL_SIZE, frameon=False)
    _draw_difference(difference, aucs[1] - aucs[0], interval, margin)
    return figure


def _draw_difference(axes: Axes, value: float, interval: Sequence[float], margin: float) -> None:
    lower, upper = interval
    axes.axhline(0, color=style.INK, linewidth=1.0)
    axes.axhline(-margin, **style.REFERENCE_LINE)
    axes.errorbar(
        [0], [value], [[max(0.0, value - lower)], [max(0.0, upper - value)]], fmt="o", capsize=7, **CHALLENGER_LINE
    )
    axes.text(0.62, 0, "better", va="bottom", ha="right", fontsize=style.SMALL_SIZE, color=style.MUTED)
    axes.text(0.62, -margin, "margin", va="top", ha="right", fontsize=style.SMALL_SIZE, color=style.MUTED)
    reach = 1.25 * max(abs(lower), abs(upper), 2 * margin)
    style.style_axes(axes, "Difference of AUC", "", "AUC of challenger minus champion")
    axes.set(xlim=(-0.65, 0.65), ylim=(-reach, reach), xticks=[])

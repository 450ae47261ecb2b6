"""Two models on the same test images: their ROC curves, and how far apart their AUCs are."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve

from hip_mri.evaluation.charts import style

CHALLENGER_LOOK: Final[dict[str, Any]] = {"color": "#0072B2", "linewidth": 2.2}
CHAMPION_LOOK: Final[dict[str, Any]] = {"color": style.INK, "linewidth": 1.4, "linestyle": (0, (5, 2))}


def draw_comparison(
    labels: NDArray[np.int64],
    champion: NDArray[np.float64],
    challenger: NDArray[np.float64],
    interval: Sequence[float],
    margin: float,
    notice: str = "",
) -> Figure:
    """Draw the ROC curves of champion and challenger, and the difference of their AUCs between its bounds.

    Args:
        labels: True classes, 0 normal or 1 lesion, shape (num_images,); both occur.
        champion: Scores of the model that serves, 0-1, shape (num_images,).
        challenger: Scores of the model that would take its place.
        interval: Bounds of the difference, challenger less champion.
        margin: Loss of AUC that is as good as none.
        notice: What the picture must say about itself.
    """
    figure = style.create_figure(8.6, 5.2, notice)
    curves, difference = figure.subplots(1, 2, width_ratios=(1.6, 1))
    curves.plot([0, 1], [0, 1], label="Chance (AUC 0.500)", **style.REFERENCE_LINE)
    aucs = []
    for name, scores, look in (("Champion", champion, CHAMPION_LOOK), ("Challenger", challenger, CHALLENGER_LOOK)):
        aucs.append(float(roc_auc_score(labels, scores)))
        false_alarms, sensitivities, _ = roc_curve(labels, scores)
        curves.plot(false_alarms, sensitivities, label=f"{name} (AUC {aucs[-1]:.3f})", **look)
    style.style_unit_axes(curves, "ROC curves", "1 - specificity (false alarms)", "Sensitivity (lesions found)")
    curves.legend(loc="lower right", fontsize=style.SMALL_SIZE, frameon=False)
    _draw_difference(difference, aucs[1] - aucs[0], interval, margin)
    return figure


def _draw_difference(axes: Axes, value: float, interval: Sequence[float], margin: float) -> None:
    lower, upper = interval
    axes.axhline(0, color=style.INK, linewidth=1.0)
    axes.axhline(-margin, **style.REFERENCE_LINE)
    axes.errorbar(
        [0], [value], [[max(0.0, value - lower)], [max(0.0, upper - value)]], fmt="o", capsize=7, **CHALLENGER_LOOK
    )
    axes.text(0.62, 0, "better", va="bottom", ha="right", fontsize=style.SMALL_SIZE, color=style.MUTED)
    axes.text(0.62, -margin, "margin", va="top", ha="right", fontsize=style.SMALL_SIZE, color=style.MUTED)
    reach = 1.25 * max(abs(lower), abs(upper), 2 * margin)
    style.style_axes(axes, "Difference of AUC", "", "Challenger less champion")
    axes.set(xlim=(-0.65, 0.65), ylim=(-reach, reach), xticks=[])

"""Draws calibration: observed fraction of lesions against the score."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from hip_mri.evaluation.charts import style
from hip_mri.evaluation.charts.captions import NOT_AVAILABLE
from hip_mri.evaluation.charts.curves import ScoredSplit
from hip_mri.evaluation.metrics.confidence_intervals import compute_binomial_interval

MAX_BINS: Final = 10
MIN_IMAGES_PER_BIN: Final = 10
"""With fewer images than this per bin there are fewer bins."""

NUM_COLUMNS: Final = 40
"""Columns of the histogram."""

SCORES_LINE: Final[dict[str, Any]] = style.SPLIT_LINES["test"] | {"marker": "o", "markersize": 6, "linewidth": 1.6}
RECALIBRATED_LINE: Final[dict[str, Any]] = style.SPLIT_LINES["val"] | {
    "marker": "s",
    "markersize": 6,
    "markerfacecolor": "white",
    "linewidth": 1.4,
}


class CalibrationBins(NamedTuple):
    """Mean score, fraction of lesions and limits of its 95% interval (Wilson) of each bin; shape (num_bins,) each."""

    means: NDArray[np.float64]
    fractions: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]


def bin_scores(labels: NDArray[np.int64], scores: NDArray[np.float64]) -> CalibrationBins:
    """Bin images into quantiles of the scores; equal scores share a bin, so there can be fewer bins.

    Args:
        labels: 0 normal or 1 lesion, shape (num_images,), at least one.
        scores: Probability of a lesion, 0-1, of the same shape.
    """
    num_bins = int(np.clip(len(scores) // MIN_IMAGES_PER_BIN, 1, MAX_BINS))
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, num_bins + 1)[1:-1], method="inverted_cdf"))
    bins = np.searchsorted(edges, scores, side="left")
    members = [bins == number for number in np.unique(bins)]
    limits = np.array([compute_binomial_interval(int(labels[own].sum()), int(own.sum())) for own in members])
    return CalibrationBins(
        means=np.array([scores[own].mean() for own in members]),
        fractions=np.array([labels[own].mean() for own in members]),
        lower=limits[:, 0],
        upper=limits[:, 1],
    )


def draw_calibration(
    split: ScoredSplit, title: str, recalibrated: NDArray[np.float64] | None = None, notice: str = ""
) -> Figure:
    """Draw the observed fraction of lesions against the score, above a histogram of the scores.

    `recalibrated` are the recalibrated scores of the same images, shape (num_images,).
    """
    figure = style.create_figure(5.0, 7.9, notice)
    chart, histogram = figure.subplots(2, 1, height_ratios=(5, 1))
    chart.plot([0, 1], [0, 1], label="Ideal calibration", **style.REFERENCE_LINE)
    _draw_bins(chart, bin_scores(split.labels, split.scores), "Scores, 95% interval of each bin", SCORES_LINE)
    if recalibrated is not None:
        _draw_bins(chart, bin_scores(split.labels, recalibrated), "After recalibration", RECALIBRATED_LINE)
    style.style_unit_axes(chart, title, "Mean score of the bin", "Observed fraction of lesions")
    histogram.hist(split.scores, bins=np.linspace(0, 1, NUM_COLUMNS + 1), color=style.MUTED)
    style.style_axes(histogram, "", "Score (probability of a lesion)", "Images")
    histogram.set_xlim(-0.015, 1.015)
    histogram.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=3))
    style.add_legend_beneath(figure, chart, title=describe_calibration(split.metrics))
    return figure


def _draw_bins(axes: Axes, bins: CalibrationBins, label: str, line: dict[str, Any]) -> None:
    errors = np.maximum(0, [bins.fractions - bins.lower, bins.upper - bins.fractions])  # rounding can leave -1e-17
    axes.errorbar(bins.means, bins.fractions, yerr=errors, elinewidth=1.2, capsize=3, label=label, **line)


def describe_calibration(metrics: Mapping[str, Any]) -> str:
    """Write calibration error, slope and intercept on two lines."""
    error, slope, intercept = (
        NOT_AVAILABLE if metrics[key] is None else f"{metrics[key]:.3f}"
        for key in ("expected_calibration_error", "calibration_slope", "calibration_intercept")
    )
    return f"Expected calibration error {error}\nSlope {slope} (ideal 1), intercept {intercept} (ideal 0)"

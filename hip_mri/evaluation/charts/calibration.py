"""Whether a score of 70 % means 70 %: observed shares against scores."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from hip_mri.evaluation.charts import style
from hip_mri.evaluation.charts.captions import NOT_AVAILABLE
from hip_mri.evaluation.charts.curves import ScoredSplit
from hip_mri.evaluation.metrics.confidence_intervals import compute_binomial_interval

MOST_BINS: Final = 10
IMAGES_PER_BIN: Final = 10
"""Fewer images make a bin too uncertain to be looked at; then there are fewer bins."""

NUM_COLUMNS: Final = 40
"""Columns of the histogram beneath."""


@dataclass(frozen=True)
class CalibrationSummary:
    """Calibration in numbers; `None` where one is not defined.

    Attributes:
        expected_error: Expected calibration error, 0-1.
        slope: Of the logistic regression of the labels on the logit of the scores; 1 is ideal, below 1 overconfident.
        intercept: Calibration in the large; 0 is ideal, below 0 the scores are too high.
    """

    expected_error: float | None
    slope: float | None
    intercept: float | None


@dataclass(frozen=True)
class CalibrationBins:
    """Images gathered by score, about as many in each bin.

    Attributes:
        means: Mean score, shape (num_bins,).
        shares: Share of lesions, 0-1.
        lower: Lower bound of Wilson's 95 % interval of the share.
        upper: Upper bound.
    """

    means: NDArray[np.float64]
    shares: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]


def bin_scores(labels: NDArray[np.int64], scores: NDArray[np.float64]) -> CalibrationBins:
    """Gather images into bins of equal mass; equal scores share a bin, so there can be fewer than asked for.

    Args:
        labels: 0 normal or 1 lesion, shape (num_images,), at least one.
        scores: Probability of a lesion, 0-1, of the same shape.
    """
    num_bins = int(np.clip(len(scores) // IMAGES_PER_BIN, 1, MOST_BINS))
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, num_bins + 1)[1:-1], method="inverted_cdf"))
    bins = np.searchsorted(edges, scores, side="left")
    members = [bins == number for number in np.unique(bins)]
    bounds = np.array([compute_binomial_interval(int(labels[chosen].sum()), int(chosen.sum())) for chosen in members])
    return CalibrationBins(
        means=np.array([scores[chosen].mean() for chosen in members]),
        shares=np.array([labels[chosen].mean() for chosen in members]),
        lower=bounds[:, 0],
        upper=bounds[:, 1],
    )


def draw_calibration(
    split: ScoredSplit,
    title: str,
    summary: CalibrationSummary | None = None,
    recalibrated: NDArray[np.float64] | None = None,
    notice: str = "",
) -> Figure:
    """Draw the observed share of lesions against the score, above a histogram of the scores.

    Args:
        split: The images.
        title: Heading, such as `Calibration (test images)`.
        summary: Calibration in numbers; `None` leaves the words out.
        recalibrated: The same images' scores after recalibration, shape (num_images,).
        notice: What the picture must say about itself.
    """
    figure = style.create_figure(5.0, 7.9, notice)
    chart, histogram = figure.subplots(2, 1, height_ratios=(5, 1))
    chart.plot([0, 1], [0, 1], label="Ideal: the score is the share", **style.REFERENCE_LINE)
    _draw_bins(chart, bin_scores(split.labels, split.scores), "Scores, 95% interval of each bin", SCORES_LOOK)
    if recalibrated is not None:
        _draw_bins(chart, bin_scores(split.labels, recalibrated), "After recalibration", RECALIBRATED_LOOK)
    style.style_unit_axes(chart, title, "Mean score of the bin", "Observed share of lesions")
    histogram.hist(split.scores, bins=np.linspace(0, 1, NUM_COLUMNS + 1), color=style.MUTED)
    style.style_axes(histogram, "", "Score (probability of a lesion)", "Images")
    histogram.set_xlim(-0.015, 1.015)
    histogram.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=3))
    style.add_legend_beneath(figure, chart, title=describe_calibration(summary) if summary else "")
    return figure


SCORES_LOOK: Final[dict[str, Any]] = style.SPLIT_LINES["test"] | {"marker": "o", "markersize": 6, "linewidth": 1.6}
RECALIBRATED_LOOK: Final[dict[str, Any]] = style.SPLIT_LINES["val"] | {
    "marker": "s",
    "markersize": 6,
    "markerfacecolor": "white",
    "linewidth": 1.4,
}


def _draw_bins(axes: Axes, bins: CalibrationBins, label: str, look: dict[str, Any]) -> None:
    around = np.maximum(0, [bins.shares - bins.lower, bins.upper - bins.shares])  # rounding can leave -1e-17
    axes.errorbar(bins.means, bins.shares, yerr=around, elinewidth=1.2, capsize=3, label=label, **look)


def describe_calibration(summary: CalibrationSummary) -> str:
    """Write calibration in words, on two lines."""
    error, slope, intercept = (
        NOT_AVAILABLE if value is None else f"{value:.3f}"
        for value in (summary.expected_error, summary.slope, summary.intercept)
    )
    return f"Expected calibration error {error}\nSlope {slope} (ideal 1), intercept {intercept} (ideal 0)"

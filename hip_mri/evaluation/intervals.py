"""How far chance alone can move a metric: 95 % confidence intervals, from counts.

They take the images as independent. Several images of one patient are not, so on such data the truth is wider.
"""

import math
from typing import Final

from hip_mri.evaluation.metrics import SplitMetrics

Interval = tuple[float, float]

QUANTILE: Final = 1.959963984540054
"""97.5 % quantile of the standard normal distribution, for an interval of 95 %."""

NUM_HALVINGS: Final = 60
"""Steps of the bisection; 2**-60 is finer than a double near 1."""


def find_intervals(metrics: SplitMetrics) -> dict[str, Interval]:
    """Intervals of accuracy, AUC, sensitivity and specificity; average precision has no such formula."""
    (tn, fp), (fn, tp) = metrics["confusion_matrix"]
    return {
        "accuracy": bound_fraction(tn + tp, metrics["num_images"]),
        "auc": bound_auc(metrics["auc"], tn + fp, fn + tp),
        "sensitivity": bound_fraction(tp, fn + tp),
        "specificity": bound_fraction(tn, tn + fp),
    }


def bound_fraction(num_hits: int, num_trials: int) -> Interval:
    """Wilson's score interval of a share; stays within 0-1 and has width even at 0 % and 100 %.

    Args:
        num_hits: Times it happened, 0 to `num_trials`.
        num_trials: Times it could have happened, at least 1.

    Source: Wilson, Journal of the American Statistical Association 22, 1927; recommended by Newcombe, Statistics in
    Medicine 17, 1998.
    """
    share, square = num_hits / num_trials, QUANTILE**2
    centre = share + square / (2 * num_trials)
    half = QUANTILE * math.sqrt(share * (1 - share) / num_trials + square / (4 * num_trials**2))
    scale = 1 + square / num_trials
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def bound_auc(auc: float, num_normal: int, num_lesions: int) -> Interval:
    """Newcombe's interval of an AUC: the areas from which the measured one lies less than 1.96 deviations away.

    Args:
        auc: Measured area under the ROC curve, 0-1.
        num_normal: Normal images, at least 1.
        num_lesions: Images with a lesion, at least 1.

    Source: Newcombe, "Confidence intervals for an effect size measure based on the Mann-Whitney statistic. Part 2",
    Statistics in Medicine 25, 2006, method 5.
    """
    lower = _find_lower_bound(auc, num_normal, num_lesions)
    upper = 1 - _find_lower_bound(1 - auc, num_normal, num_lesions)  # the deviation is symmetric about 0.5
    return lower, upper


def _find_lower_bound(auc: float, num_normal: int, num_lesions: int) -> float:
    low, high = 0.0, auc
    for _ in range(NUM_HALVINGS):
        middle = (low + high) / 2
        if auc - middle > QUANTILE * _find_deviation(middle, num_normal, num_lesions):
            low = middle
        else:
            high = middle
    return low


def _find_deviation(area: float, num_normal: int, num_lesions: int) -> float:
    """Standard deviation of a measured AUC when the true one is `area`: Hanley and McNeil's, with equal classes."""
    pairs_of_pairs = (num_normal + num_lesions) / 2 - 1
    spread = 1 + pairs_of_pairs * ((1 - area) / (2 - area) + area / (1 + area))
    return math.sqrt(area * (1 - area) * spread / (num_normal * num_lesions))

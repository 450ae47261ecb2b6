"""The metrics of the classifier: key, title, meaning and direction of each, for every report and export."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        key: Name in `metrics.json`.
        title: Name in tables.
        meaning: Explanation in a few words.
        direction: Whether higher or lower values are better; `ideal` where one value, given in `meaning`, is.
        kind: `ranking` and `probability` metrics are computed from the scores, `decision` metrics from the calls at a
            threshold; those stand below `at_threshold` in `metrics.json`.
        is_fraction: Whether values lie from 0 to 1.
    """

    key: str
    title: str
    meaning: str
    direction: Literal["higher", "lower", "ideal"] = "higher"
    kind: Literal["ranking", "probability", "decision"] = "decision"
    is_fraction: bool = True

    @property
    def description(self) -> str:
        """The meaning, with the direction where lower values are better."""
        return f"{self.meaning}; lower is better" if self.direction == "lower" else self.meaning

    def get(self, results: Mapping[str, Any], section: str = "at_threshold") -> Any:
        """Look up the metric.

        Args:
            results: Results of a split as in `metrics.json`, or their intervals.
            section: Where decision metrics are looked up: `at_threshold` or `at_half`.

        Returns:
            The value or interval; `None` where there is none.
        """
        return ((results.get(section) or {}) if self.kind == "decision" else results).get(self.key)


METRICS: Final = {
    metric.key: metric
    for metric in (
        Metric("auc", "AUC", "probability that a lesion scores higher than a normal image", kind="ranking"),
        Metric("average_precision", "Average precision", "area under the precision-recall curve", kind="ranking"),
        Metric("sensitivity", "Sensitivity", "fraction of the lesions called a lesion"),
        Metric("specificity", "Specificity", "fraction of the normal images called normal"),
        Metric("ppv", "Positive predictive value", "fraction of the lesion calls that are correct, at this prevalence"),
        Metric("npv", "Negative predictive value", "fraction of the normal calls that are correct, at this prevalence"),
        Metric("accuracy", "Accuracy", "fraction of the images called correctly"),
        Metric("balanced_accuracy", "Balanced accuracy", "mean of sensitivity and specificity"),
        Metric("f1", "F1 score", "harmonic mean of sensitivity and positive predictive value"),
        Metric("mcc", "Matthews correlation coefficient", "correlation of call and label, -1 to 1", is_fraction=False),
        Metric("brier", "Brier score", "mean squared error of the scores", "lower", "probability"),
        Metric(
            "expected_calibration_error",
            "Expected calibration error",
            "mean difference between score and observed frequency, over ten bins",
            "lower",
            "probability",
        ),
        Metric(
            "calibration_slope",
            "Calibration slope",
            "1 is ideal; below 1 the scores are too extreme",
            "ideal",
            "probability",
            is_fraction=False,
        ),
        Metric(
            "calibration_intercept",
            "Calibration intercept",
            "0 is ideal; below 0 the scores are too high",
            "ideal",
            "probability",
            is_fraction=False,
        ),
    )
}
"""All metrics by key, in the order in which tables show them."""

SUBGROUP_METRICS: Final = ("auc", "sensitivity", "specificity")
"""Metrics that are computed for each subgroup."""


def list_keys(kind: Literal["ranking", "probability", "decision"]) -> tuple[str, ...]:
    """Keys of the metrics of one kind."""
    return tuple(metric.key for metric in METRICS.values() if metric.kind == kind)

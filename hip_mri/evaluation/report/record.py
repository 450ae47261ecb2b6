"""A finished run as its records tell it, and one thing that it says about itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hip_mri.evaluation.charts.captions import NOT_AVAILABLE
from hip_mri.evaluation.report.summary import disclose
from hip_mri.evaluation.report.templates import format_measure

RANKING: Final = {
    "auc": "AUC",
    "average_precision": "Average precision",
    "brier": "Brier score",
    "expected_calibration_error": "Expected calibration error",
    "calibration_slope": "Calibration slope",
    "calibration_intercept": "Calibration intercept",
}
"""Measures of the scores themselves, by their key in `metrics.json`."""

DECISIONS: Final = {
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ppv": "Positive predictive value",
    "npv": "Negative predictive value",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "f1": "F1 score",
    "mcc": "Matthews correlation coefficient",
}
"""Measures of the calls at the threshold, below `at_threshold`."""


@dataclass(frozen=True)
class RunRecord:
    """A run as its records tell it.

    Attributes:
        metrics: Content of `metrics.json`.
        settings: Settings by dotted name; those that could name a person or a place are withheld.
        files: Files of the run that can be linked to, relative to its folder, such as `figures/roc.png`.
    """

    metrics: Mapping[str, Any]
    settings: Mapping[str, object]
    files: frozenset[str] = field(default_factory=frozenset)

    def show(self, name: str) -> str:
        """Write the value of a setting, as far as it may be shown."""
        return disclose(name, self.settings[name]) if name in self.settings else NOT_AVAILABLE

    def knows(self, *names: str) -> bool:
        """Whether all these settings are recorded."""
        return all(name in self.settings for name in names)

    def measure(self, split: str, name: str, group: str = "") -> str:
        """Write a measure of a split with its interval; `group` is `at_threshold` or none."""
        values = self.metrics.get(split) or {}
        intervals = values.get("intervals") or {}
        if group:
            values, intervals = values.get(group) or {}, intervals.get(group) or {}
        return format_measure(values.get(name), intervals.get(name))


@dataclass(frozen=True)
class Statement:
    """One thing that a run says.

    Attributes:
        text: In words; empty where the records do not hold it.
        file: Where it can be looked up, relative to the run's folder.
    """

    text: str
    file: str = "metrics.json"


def list_files(run_folder: Path) -> frozenset[str]:
    """Files of a run by their path relative to its folder, with forward slashes."""
    return frozenset(file.relative_to(run_folder).as_posix() for file in run_folder.rglob("*") if file.is_file())

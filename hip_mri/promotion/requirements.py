"""Sensitivity and specificity that a model must reach at its own threshold, in all test images and in each subgroup."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from hip_mri.config import LABELS, ReleaseSettings
from hip_mri.dataset.identities import ATTRIBUTE_PREFIX
from hip_mri.evaluation.metrics.confidence_intervals import Interval
from hip_mri.evaluation.metrics.results import join_attributes
from hip_mri.evaluation.metrics.split_metrics import measure_split
from hip_mri.evaluation.metrics.subgroups import MIN_SUBGROUP_SIZE
from hip_mri.evaluation.metrics.validation import number_labels


@dataclass(frozen=True)
class Requirement:
    """A sensitivity or specificity that a model must reach.

    Attributes:
        metric: `sensitivity` or `specificity`.
        name: Which test images: `all`, or a subgroup such as `sex = F`.
        num_images: Images of the class that the metric is computed from.
        num_groups: Groups with at least one of these images.
        value: What the model reaches, 0-1; `None` where there are too few groups.
        interval: 95% interval of the value; `None` where it cannot be computed.
        required: What it must reach, 0-1.
    """

    metric: str
    name: str
    num_images: int
    num_groups: int
    value: float | None
    interval: Interval | None
    required: float

    @property
    def is_met(self) -> bool:
        """Whether the model passes; a subgroup that is too small does not stop it."""
        return self.value is None or self.value >= self.required


def measure_requirements(
    scores: pd.DataFrame,
    measured: Mapping[str, Any],
    settings: ReleaseSettings,
    attributes: pd.DataFrame | None = None,
    min_size: int = MIN_SUBGROUP_SIZE,
) -> tuple[Requirement, ...]:
    """Measure sensitivity and specificity in all test images, and sensitivity in each subgroup.

    Args:
        scores: Columns image_id, label, score (0-1) and group, one row per test image.
        measured: Their metrics, from `measure_split`.
        settings: What is required.
        attributes: Columns image_id and those that define subgroups, as text; `None` without any.
        min_size: Groups with lesions below which a subgroup is not judged, and groups below which its name is withheld.

    Returns:
        All test images first, then the subgroups by column and value.
    """
    requirements = [
        _require("sensitivity", "all", scores, measured, settings.min_sensitivity),
        _require("specificity", "all", scores, measured, settings.min_specificity),
    ]
    if attributes is None:
        return tuple(requirements)
    threshold = measured["at_threshold"]["threshold"]
    joined, columns = join_attributes(scores, attributes, min_size)
    for column in columns:
        for value, rows in joined.groupby(column):
            is_judged = rows.loc[rows["label"] == LABELS[1], "group"].nunique() >= max(min_size, 1)
            in_subgroup = _measure_sensitivity(rows, threshold) if is_judged else None
            name = f"{column.removeprefix(ATTRIBUTE_PREFIX)} = {value}"
            requirements.append(_require("sensitivity", name, rows, in_subgroup, settings.min_subgroup_sensitivity))
    return tuple(requirements)


def describe_requirements(requirements: tuple[Requirement, ...]) -> list[str]:
    """List the requirements that are missed or not judged, a sentence each; one sentence where there is none."""
    sentences = [
        f"{it.metric.capitalize()} in {it.name}: not judged, only {it.num_groups} groups have lesions."
        if it.value is None
        else f"{it.metric.capitalize()} in {it.name}: {_format(it)}, below the required {it.required:g}."
        for it in requirements
        if it.value is None or not it.is_met
    ]
    reached = " and ".join(f"{it.metric} {_format(it)}" for it in requirements if it.name == "all")
    return sentences or [f"Every requirement is reached: {reached} in all test images."]


def _format(requirement: Requirement) -> str:
    assert requirement.value is not None
    images = "lesions" if requirement.metric == "sensitivity" else "normal images"
    num_correct = round(requirement.value * requirement.num_images)
    limits = requirement.interval
    interval = "" if limits is None else f", 95% interval {limits[0]:.3f} to {limits[1]:.3f}"
    return f"{num_correct} of {requirement.num_images} {images} ({requirement.value:.3f}{interval})"


def _require(
    metric: str, name: str, scores: pd.DataFrame, measured: Mapping[str, Any] | None, required: float
) -> Requirement:
    """Compare a metric at the threshold with what is required."""
    groups = scores.loc[scores["label"] == LABELS[int(metric == "sensitivity")], "group"]
    value = limits = None
    if measured is not None:
        value, limits = (it["at_threshold"][metric] for it in (measured, measured["intervals"]))
    interval = None if limits is None else (limits[0], limits[1])
    return Requirement(metric, name, len(groups), int(groups.nunique()), value, interval, required)


def _measure_sensitivity(scores: pd.DataFrame, threshold: float) -> dict[str, Any]:
    """Measure a subgroup like `measure_split`, also one without normal images, which leaves the interval out."""
    if scores["label"].nunique() == len(LABELS):
        return measure_split(number_labels(scores), scores["score"], scores["group"], threshold)
    sensitivity = float((scores["score"] >= threshold).mean())
    return {"at_threshold": {"sensitivity": sensitivity}, "intervals": {"at_threshold": {"sensitivity": None}}}

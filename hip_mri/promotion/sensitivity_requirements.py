"""Sensitivities that a model must reach at its own threshold, in all test images and in each subgroup."""

from dataclasses import dataclass

import pandas as pd

from hip_mri.config import LABELS, ReleaseSettings
from hip_mri.dataset.identities import ATTRIBUTE_PREFIX
from hip_mri.evaluation.metrics.results import join_attributes
from hip_mri.evaluation.metrics.subgroups import MIN_SUBGROUP_SIZE


@dataclass(frozen=True)
class SensitivityRequirement:
    """A sensitivity that the challenger must reach.

    Attributes:
        name: Which test images: `all`, or a subgroup such as `sex = F`.
        num_lesions: Lesions among them.
        num_groups: Groups with at least one of these lesions.
        sensitivity: Fraction of the lesions that are called, 0-1; `None` where there are too few groups.
        required: Sensitivity that it must reach, 0-1.
    """

    name: str
    num_lesions: int
    num_groups: int
    sensitivity: float | None
    required: float

    @property
    def is_met(self) -> bool:
        """Whether the challenger passes; a subgroup that is too small does not stop it."""
        return self.sensitivity is None or self.sensitivity >= self.required


def measure_sensitivities(
    scores: pd.DataFrame,
    settings: ReleaseSettings,
    threshold: float,
    attributes: pd.DataFrame | None = None,
    min_size: int = MIN_SUBGROUP_SIZE,
) -> tuple[SensitivityRequirement, ...]:
    """Measure the sensitivity of a model in all test images and in each subgroup.

    Args:
        scores: Columns image_id, label, score (0-1) and group, one row per test image.
        settings: The required sensitivities.
        threshold: Scores at or above it are called a lesion, 0-1.
        attributes: Columns image_id and those that define subgroups, as text; `None` without any.
        min_size: Groups with lesions below which a subgroup is not judged, and groups below which its name is
            withheld.

    Returns:
        All test images first, then the subgroups by column and value.
    """
    measured = [_measure("all", scores, threshold, settings.min_sensitivity, 1)]
    if attributes is not None:
        joined, columns = join_attributes(scores, attributes, min_size)
        required = settings.min_subgroup_sensitivity
        measured += [
            _measure(f"{column.removeprefix(ATTRIBUTE_PREFIX)} = {value}", rows, threshold, required, min_size)
            for column in columns
            for value, rows in joined.groupby(column)
        ]
    return tuple(measured)


def describe_requirements(requirements: tuple[SensitivityRequirement, ...]) -> list[str]:
    """List the requirements that are missed or not judged, a sentence each; one sentence where there is none."""
    sentences = [
        f"Sensitivity in {it.name}: not judged, only {it.num_groups} groups have lesions."
        if it.sensitivity is None
        else f"Sensitivity in {it.name}: {it.sensitivity:.3f} of {it.num_lesions} lesions, below the required "
        f"{it.required:g}."
        for it in requirements
        if it.sensitivity is None or not it.is_met
    ]
    return sentences or [
        f"Every required sensitivity is reached: {requirements[0].sensitivity:.3f} in all test images."
    ]


def _measure(
    name: str, scores: pd.DataFrame, threshold: float, required: float, min_size: int
) -> SensitivityRequirement:
    lesions = scores[scores["label"] == LABELS[1]]
    num_groups = int(lesions["group"].nunique())
    sensitivity = float((lesions["score"] >= threshold).mean()) if num_groups >= min_size else None
    return SensitivityRequirement(name, len(lesions), num_groups, sensitivity, required)

"""The floors: sensitivities that a model must reach at its own threshold, however good its AUC is."""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from hip_mri.config import LABELS, ReleaseSettings
from hip_mri.dataset.identities import ATTRIBUTE_PREFIX
from hip_mri.evaluation.metrics.results import join_attributes
from hip_mri.evaluation.metrics.subgroups import MINIMUM_SIZE


@dataclass(frozen=True)
class Floor:
    """A sensitivity that the challenger must reach.

    Attributes:
        name: Which test images: `all`, or a subgroup such as `sex = F`.
        num_lesions: Lesions among them.
        num_groups: Groups that have one of these.
        sensitivity: Share of the lesions that are called; `None` where they are too few to be judged.
        required: What it must reach.
    """

    name: str
    num_lesions: int
    num_groups: int
    sensitivity: float | None
    required: float

    @property
    def is_met(self) -> bool:
        """Whether the floor lets the challenger pass; what cannot be judged is no obstacle."""
        return self.sensitivity is None or self.sensitivity >= self.required


def measure_floors(
    scores: pd.DataFrame,
    settings: ReleaseSettings,
    threshold: float,
    attributes: pd.DataFrame | None = None,
    minimum_size: int = MINIMUM_SIZE,
) -> tuple[Floor, ...]:
    """Measure the sensitivity of a model in all test images and in each subgroup.

    Args:
        scores: Columns image_id, label, score (0-1) and group, one row per test image.
        settings: The floors.
        threshold: Scores at or above it are called a lesion, 0-1.
        attributes: Column image_id and those that describe subgroups, as text; `None` without any.
        minimum_size: Groups with lesions that a subgroup needs to be judged, and groups below which its name is
            withheld.

    Returns:
        All test images first, then the subgroups by column and value.
    """
    floors = [_measure_floor("all", scores, threshold, settings.min_sensitivity, 1)]
    for name, rows in _divide(scores, attributes, minimum_size):
        required = settings.min_subgroup_sensitivity
        floors.append(_measure_floor(name, rows, threshold, required, minimum_size))
    return tuple(floors)


def tell_floors(floors: tuple[Floor, ...]) -> list[str]:
    """Say of each floor that it is missed or cannot be judged, in a sentence; one for all where there is none."""
    told = [
        f"Sensitivity in {floor.name}: not judged, only {floor.num_groups} groups have lesions."
        if floor.sensitivity is None
        else f"Sensitivity in {floor.name}: {floor.sensitivity:.3f} of {floor.num_lesions} lesions, below the floor "
        f"of {floor.required:g}."
        for floor in floors
        if floor.sensitivity is None or not floor.is_met
    ]
    return told or [f"Sensitivity reaches every floor: {floors[0].sensitivity:.3f} in all test images."]


def _divide(
    scores: pd.DataFrame, attributes: pd.DataFrame | None, minimum_size: int
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Every subgroup by its name, such as `sex = F`."""
    if attributes is None:
        return
    joined, columns = join_attributes(scores, attributes, minimum_size)
    for column in columns:
        for value, rows in joined.groupby(column):
            yield f"{column.removeprefix(ATTRIBUTE_PREFIX)} = {value}", rows


def _measure_floor(name: str, rows: pd.DataFrame, threshold: float, required: float, minimum_size: int) -> Floor:
    lesions = rows[rows["label"] == LABELS[1]]
    num_groups = int(lesions["group"].nunique())
    sensitivity = float((lesions["score"] >= threshold).mean()) if num_groups >= minimum_size else None
    return Floor(name, len(lesions), num_groups, sensitivity, required)

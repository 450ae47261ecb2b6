"""Whether the model serves everybody alike: the main measures by scanner, age band or any other column."""

from collections.abc import Iterator, Sequence
from typing import Any, Final, TypedDict

import pandas as pd
from numpy.typing import NDArray

from hip_mri.errors import EvaluationError
from hip_mri.evaluation.metrics import weighted
from hip_mri.evaluation.metrics.measures import Bounds, Measure
from hip_mri.evaluation.metrics.resampling import NUM_RESAMPLES, bound_measures, count_rarer_groups, resample
from hip_mri.evaluation.metrics.validation import Sample, check_predictions, check_sample, number_groups, number_labels
from hip_mri.evaluation.metrics.weighted import Tally

MINIMUM_SIZE: Final = 10
"""Groups of either class below which a figure says more about chance than about the model."""

SUBGROUP_MEASURES: Final = ("auc", "sensitivity", "specificity")
"""What is measured of a subgroup."""


class SubgroupIntervals(TypedDict):
    """95 % intervals of a subgroup's measures."""

    auc: Bounds
    sensitivity: Bounds
    specificity: Bounds


class SubgroupRow(TypedDict):
    """One subgroup.

    Attributes:
        column: Column by which the images were divided.
        value: Its value there, as text; `missing` where there was none.
        num_images: Images.
        num_lesions: Those with a lesion.
        num_groups: Groups of images that are independent of each other.
        auc: Area under the ROC curve; like all figures `None` where the subgroup is too small.
        sensitivity: Share of the lesions that are called.
        specificity: Share of the normal images that are not.
        intervals: Their 95 % intervals.
    """

    column: str
    value: str
    num_images: int
    num_lesions: int
    num_groups: int
    auc: Measure
    sensitivity: Measure
    specificity: Measure
    intervals: SubgroupIntervals


def measure_subgroups(
    predictions: pd.DataFrame,
    columns: Sequence[str],
    threshold: float,
    minimum_size: int = MINIMUM_SIZE,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> list[SubgroupRow]:
    """Measure each value of each column by itself.

    Args:
        predictions: Columns `image_id`, `split`, `label` (name), `score` (0-1), those of `columns` and, where images
            resemble each other, `group`; one row per image of the split that is measured.
        columns: Columns by which to divide; few distinct values each.
        threshold: Scores at or above it are called a lesion, 0-1.
        minimum_size: Groups (without a column `group`: images) that must have a lesion, and as many a normal image;
            subgroups below it are listed with their counts and no figures.
        seed: The same seed gives the same intervals.
        num_resamples: Resamples.

    Returns:
        A row per value, in the order of `columns` and then of the values.

    Raises:
        EvaluationError: The table cannot be used or lacks a column.
    """
    check_predictions(predictions)
    missing = [column for column in columns if column not in predictions.columns]
    if missing:
        raise EvaluationError(
            f"subgroups: the predictions have no column {', '.join(missing)}, only "
            f"{', '.join(map(str, predictions.columns))}. Leave it out, or join it to the predictions."
        )
    return [
        _measure_subgroup(column, value, rows, threshold, minimum_size, seed, num_resamples)
        for column in columns
        for value, rows in _divide(predictions, column)
    ]


def _divide(predictions: pd.DataFrame, column: str) -> Iterator[tuple[str, pd.DataFrame]]:
    for value, rows in predictions.groupby(column, dropna=False, observed=True):
        yield "missing" if pd.isna(value) else str(value), rows


def _measure_subgroup(
    column: str, value: str, rows: pd.DataFrame, threshold: float, minimum_size: int, seed: int, num_resamples: int
) -> SubgroupRow:
    labels, groups = number_labels(rows), _name_groups(rows)
    measures: dict[str, Any] = dict.fromkeys(SUBGROUP_MEASURES)
    intervals: dict[str, Bounds] = dict.fromkeys(SUBGROUP_MEASURES)
    if 0 < labels.sum() < len(labels):
        sample = check_sample(labels, rows["score"], groups)
        if count_rarer_groups(sample) >= max(minimum_size, 2):
            measures, intervals = _measure(sample, threshold, seed, num_resamples)
    return SubgroupRow(
        column=column,
        value=value,
        num_images=len(rows),
        num_lesions=int(labels.sum()),
        num_groups=number_groups(groups, len(rows))[1],
        **measures,
        intervals=SubgroupIntervals(**intervals),
    )


def _measure(
    sample: Sample, threshold: float, seed: int, num_resamples: int
) -> tuple[dict[str, float], dict[str, Bounds]]:
    def measure(tally: Tally) -> dict[str, NDArray]:
        found = weighted.measure_ranking(tally) | weighted.measure_decisions(tally, threshold)
        return {name: found[name] for name in SUBGROUP_MEASURES}

    measures = {name: float(values[0]) for name, values in measure(weighted.tally_sample(sample)).items()}
    return measures, bound_measures(sample, measures, resample(sample, measure, seed, num_resamples), threshold)


def _name_groups(rows: pd.DataFrame) -> NDArray:
    """The column `group`, or without it each image by itself."""
    return (rows["group"] if "group" in rows.columns else rows["image_id"]).to_numpy()

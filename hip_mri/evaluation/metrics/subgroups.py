"""Computes AUC, sensitivity and specificity by subgroup, such as scanner or age band."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hip_mri.errors import EvaluationError
from hip_mri.evaluation.metrics.confidence_intervals import MIN_GROUPS
from hip_mri.evaluation.metrics.measures import (
    Tally,
    compute_decision_metrics,
    compute_ranking_metrics,
    tally_scores,
)
from hip_mri.evaluation.metrics.resampling import NUM_RESAMPLES, resample
from hip_mri.evaluation.metrics.split_metrics import compute_intervals
from hip_mri.evaluation.metrics.table import SUBGROUP_METRICS
from hip_mri.evaluation.metrics.validation import ValidatedScores, check_predictions, number_labels, validate_scores

MIN_SUBGROUP_SIZE: Final = 10
"""Default number of groups of either class below which metrics of a subgroup are too uncertain to report."""


def measure_subgroups(
    predictions: pd.DataFrame,
    columns: Sequence[str],
    threshold: float,
    min_size: int = MIN_SUBGROUP_SIZE,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> list[dict[str, Any]]:
    """Compute the metrics for each value of each column.

    Args:
        predictions: Columns `image_id`, `split`, `label` (name), `score` (0-1), `group` and those of `columns`; one row
            per image of the split that is measured.
        columns: Columns with few distinct values each.
        threshold: Scores at or above it are called a lesion, 0-1.
        min_size: Minimum number of groups with a lesion, and of groups with a normal image; smaller subgroups are
            listed with their counts and without metrics.
        seed: The same seed gives the same intervals.
        num_resamples: Number of resamples.

    Returns:
        A row per value, in the order of `columns` and then of the values: `column`, `value` (`missing` for missing
        values), `num_images`, `num_lesions`, `num_groups`, the `SUBGROUP_METRICS` and their `intervals`.

    Raises:
        EvaluationError: The table cannot be used or a column is missing.
    """
    check_predictions(predictions)
    if missing := [column for column in (*columns, "group") if column not in predictions.columns]:
        raise EvaluationError(
            f"subgroups: the predictions have no column {', '.join(missing)}, only "
            f"{', '.join(map(str, predictions.columns))}. Remove it, or join it to the predictions."
        )
    rows = []
    for column in columns:
        for value, images in predictions.groupby(column, dropna=False, observed=True):
            labels = number_labels(images)
            metrics: dict[str, Any] = dict.fromkeys(SUBGROUP_METRICS)
            intervals: dict[str, Any] = dict.fromkeys(SUBGROUP_METRICS)
            if 0 < labels.sum() < len(labels):
                validated = validate_scores(labels, images["score"], images["group"])
                if validated.num_rarer_groups >= max(min_size, MIN_GROUPS):
                    metrics, intervals = _measure(validated, threshold, seed, num_resamples)
            counts = {
                "num_images": len(images),
                "num_lesions": int(labels.sum()),
                "num_groups": images["group"].nunique(),
            }
            name = "missing" if pd.isna(value) else str(value)
            rows.append({"column": column, "value": name, **counts, **metrics, "intervals": intervals})
    return rows


def _measure(
    validated: ValidatedScores, threshold: float, seed: int, num_resamples: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    def compute(tally: Tally) -> dict[str, NDArray[np.float64]]:
        computed = compute_ranking_metrics(tally) | compute_decision_metrics(tally, threshold)
        return {key: computed[key] for key in SUBGROUP_METRICS}

    metrics = {key: float(values[0]) for key, values in compute(tally_scores(validated)).items()}
    return metrics, compute_intervals(validated, metrics, resample(validated, compute, seed, num_resamples), threshold)

"""Compares the AUC of numbers that need no anatomy with that of the network; see `hip_mri.monitoring.shortcuts`."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hip_mri.config import LABELS
from hip_mri.evaluation.metrics.confidence_intervals import MIN_GROUPS
from hip_mri.evaluation.metrics.measures import compute_ranking_metrics, measure_ranking
from hip_mri.evaluation.metrics.resampling import resample
from hip_mri.evaluation.metrics.split_metrics import compute_intervals
from hip_mri.evaluation.metrics.validation import number_labels, validate_scores
from hip_mri.images.shortcut_statistics import NUMBERS

CHANCE: Final = 0.5
"""AUC of numbers that do not differ between the classes."""

SCORE_PREFIX: Final = "score_"
"""Beginning of the names of the columns with scores."""

DECISIVE: Final = "without_anatomy"
"""Combination of numbers that the warning is based on: size, file and margin. Gray levels of the whole image are not in
it, since a lesion changes them."""


def summarize_shortcuts(
    shortcuts: pd.DataFrame,
    predictions: pd.DataFrame,
    network_interval: Sequence[float] | None,
    seed: int,
    num_resamples: int,
) -> dict[str, Any] | None:
    """Compute the AUC of each combination of numbers on the test images, and whether it explains that of the network.

    Args:
        shortcuts: See `hip_mri.monitoring.shortcuts.measure_shortcuts`.
        predictions: Columns image_id, label and group.
        network_interval: 95% interval of the network's AUC on the test images.
        seed: Seed of the resampling of groups.
        num_resamples: Number of resamples.

    Returns:
        `num_images`; `combinations`: `auc` and 95% `interval` of each; `numbers`: the median of each class and the AUC
        of each number alone, the most different first; `is_explained`, see `is_explained`. `None` if the images are
        not of both classes, which can occur where few of many were drawn.
    """
    images = shortcuts.merge(predictions[["image_id", "label", "group"]], on="image_id", validate="one_to_one")
    if images["label"].nunique() < len(LABELS):
        return None
    combinations = {
        column.removeprefix(SCORE_PREFIX): measure_auc(
            images, images[column].astype("float64").to_numpy(), seed, num_resamples
        )
        for column in shortcuts.columns
        if column.startswith(SCORE_PREFIX)
    }
    numbers = [_compare_classes(images, name) for name in NUMBERS]
    numbers.sort(key=lambda number: -abs(number["auc"] - CHANCE))
    return {
        "num_images": len(images),
        "combinations": combinations,
        "numbers": numbers,
        "is_explained": is_explained(combinations[DECISIVE], network_interval),
    }


def is_explained(without_anatomy: Mapping[str, Any], network_interval: Sequence[float] | None) -> bool | None:
    """Whether numbers without anatomy separate the classes and the network is not shown to do better.

    The lower limit of their own interval must lie above chance, so that a network which is hardly better than chance
    causes no warning by accident; and their AUC must not lie below the interval of the network.

    Returns:
        `None` where one of the intervals is missing.
    """
    if network_interval is None or without_anatomy["interval"] is None:
        return None
    return bool(without_anatomy["interval"][0] > CHANCE and without_anatomy["auc"] >= network_interval[0])


def measure_auc(images: pd.DataFrame, scores: NDArray[np.float64], seed: int, num_resamples: int) -> dict[str, Any]:
    """Compute the AUC and its 95% interval over groups, which is `None` with fewer than `MIN_GROUPS` of either class.

    Args:
        images: Columns label and group.
        scores: Scores of the images, 0-1, shape (num_images,).
        seed: Seed of the resampling.
        num_resamples: Number of resamples.
    """
    validated = validate_scores(number_labels(images), scores, images["group"])
    auc = measure_ranking(validated.labels, scores)["auc"]
    if validated.num_rarer_groups < MIN_GROUPS:
        return {"auc": auc, "interval": None}
    resampled = resample(validated, lambda tally: {"auc": compute_ranking_metrics(tally)["auc"]}, seed, num_resamples)
    return {"auc": auc, "interval": compute_intervals(validated, {"auc": auc}, resampled)["auc"]}


def _compare_classes(images: pd.DataFrame, name: str) -> dict[str, Any]:
    """Compare one number between the classes; an AUC above 0.5: larger where there is a lesion."""
    labels, values = number_labels(images), images[name].to_numpy(np.float64)
    ranks = (pd.Series(values).rank() - 1) / max(len(values) - 1, 1)
    medians = {label: float(np.median(values[labels == number])) for number, label in enumerate(LABELS)}
    return {"name": name, **medians, "auc": measure_ranking(labels, ranks)["auc"]}

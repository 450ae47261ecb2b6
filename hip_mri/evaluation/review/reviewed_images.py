"""Collects what the page says of each image, and selects the most informative images of a large run."""

from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hip_mri.config import LABELS, SPLITS
from hip_mri.errors import EvaluationError
from hip_mri.evaluation.audits.label_review import is_suspected
from hip_mri.evaluation.conformal import UNCERTAIN, DecisionRule, decide
from hip_mri.evaluation.metrics.results import Scores, join_attributes

MAX_IMAGES: Final = 5000
"""Images of one page; with thumbnails of 96 pixels they take 16 MB."""

NUM_STEPS: Final = 1000
"""Steps of the threshold from 0 to 1."""

COLUMNS: Final = (
    *("image_id", "split", "label", "score", "rank", "is_suspected", "reason", "neighbors"),
    *("group", "distance", "is_outside", "decision"),
)
"""Columns of an image, before those of its attributes."""

SPLIT_ORDER: Final = ("test", "val", "train")
"""Splits in the order in which a page of limited size prefers their images."""


def collect_images(
    scores: Scores, distances: pd.DataFrame | None, rule: DecisionRule, min_subgroup_size: int
) -> tuple[pd.DataFrame, list[str]]:
    """Collect the images of a run with what is known of each.

    Args:
        scores: Tables of the run.
        distances: See `hip_mri.monitoring.novelty.measure_distances`; `None` without it.
        rule: Decides for each score.
        min_subgroup_size: Values of attributes that fewer groups have are combined, since they could identify a person.

    Returns:
        `COLUMNS` and the attributes, the most suspect label first; and the names of the attributes. Training images
        have their score out of fold; a value that is not known is `None` or empty.

    Raises:
        EvaluationError: The run has no label review.
    """
    if scores.label_review is None:
        raise EvaluationError("review: the run has no label_review.csv. Run the pipeline again.")
    review = scores.label_review.assign(is_suspected=is_suspected(scores.label_review))
    images = review.merge(scores.predictions[["image_id", "group"]], on="image_id", validate="one_to_one")
    nearest = scores.neighbors.set_index("image_id")["neighbour_id"]
    images["neighbors"] = images["neighbors"].where(
        images["neighbors"] != "", images["image_id"].map(nearest).fillna("")
    )
    images = _join_distances(images, distances).assign(decision=decide(images["score"], rule))
    names: list[str] = []
    if scores.attributes is not None:
        images, names = join_attributes(images, scores.attributes, min_subgroup_size)
    return images[[*COLUMNS, *names]].sort_values("rank", ignore_index=True), names


def _join_distances(images: pd.DataFrame, distances: pd.DataFrame | None) -> pd.DataFrame:
    if distances is None:
        return images.assign(distance=np.nan, is_outside=None)
    joined = images.merge(distances, on="image_id", how="left")
    return joined.assign(is_outside=joined["is_outside"].map({"True": True, "False": False}))


def compute_losses(images: pd.DataFrame) -> NDArray[np.float64]:
    """Compute the cross-entropy of each image, shape (num_images,); -infinity without a score."""
    scores = images["score"].to_numpy(np.float64)
    likelihoods = np.where(images["label"] == LABELS[1], scores, 1 - scores)
    with np.errstate(divide="ignore"):
        losses = -np.log(likelihoods)
    return np.where(np.isnan(losses), -np.inf, losses)


def rank_informative(images: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Sort images, the most informative first.

    Suspected labels, wrong calls, images outside the training distribution and uncertain ones come first; within them
    and within the others test, validation and training images in this order, each by loss.
    """
    is_called = images["score"] >= threshold
    is_wrong = images["score"].notna() & (is_called != (images["label"] == LABELS[1]))
    is_flagged = images["is_suspected"] | is_wrong | images["is_outside"].eq(True) | (images["decision"] == UNCERTAIN)
    keys = pd.DataFrame(
        {
            "is_plain": ~is_flagged,
            "split": images["split"].map(SPLIT_ORDER.index),
            "loss": -compute_losses(images),
            "image_id": images["image_id"],
        }
    )
    return images.loc[keys.sort_values(list(keys)).index]


def count_calls(images: pd.DataFrame, threshold: float) -> dict[str, dict[str, list[int]]]:
    """Count the scores of each split and label at or above each threshold.

    Returns:
        Counts for the `NUM_STEPS` + 1 thresholds from 0 to 1, and for `threshold`.
    """
    thresholds = np.append(np.arange(NUM_STEPS + 1) / NUM_STEPS, threshold)
    return {split: {label: _count_above(images, split, label, thresholds) for label in LABELS} for split in SPLITS}


def _count_above(images: pd.DataFrame, split: str, label: str, thresholds: NDArray[np.float64]) -> list[int]:
    chosen = (images["split"] == split) & (images["label"] == label) & images["score"].notna()
    scores = np.sort(images.loc[chosen, "score"].to_numpy(np.float64))
    return [int(count) for count in len(scores) - np.searchsorted(scores, thresholds, side="left")]


def list_columns(images: pd.DataFrame) -> dict[str, list[Any]]:
    """Turn images into lists by column for strict JSON; missing numbers become `None`."""
    plain = images.astype(object).where(images.notna(), None)
    return {str(name): column for name, column in plain.to_dict("list").items()}

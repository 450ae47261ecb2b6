"""From scores to metrics, with scikit-learn's definitions.

A score is the probability of an osseous lesion, 0-1. At or above the threshold an image is called a lesion.
"""

from typing import Final, TypedDict

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import average_precision_score, confusion_matrix, roc_auc_score

from hip_mri.config import LABELS, SPLITS
from hip_mri.errors import EvaluationError, list_offenders

PREDICTION_COLUMNS: Final = ("image_id", "split", "label", "score")
"""Columns that a table of predictions needs: pseudonym, one of `SPLITS`, one of `LABELS`, probability 0-1."""


class SplitMetrics(TypedDict):
    """Metrics of one split, as they stand in `metrics.json`; shares are 0-1.

    Attributes:
        accuracy: Share of images on the right side of the threshold.
        auc: Area under the ROC curve: the share of pairs of a lesion and a normal image in which the lesion has the
            higher score, ties counted half.
        average_precision: Precision averaged over the lesions found as the threshold falls.
        sensitivity: Share of the lesions that are called a lesion.
        specificity: Share of the normal images that are called normal.
        confusion_matrix: Counts `[[tn, fp], [fn, tp]]`: a row per true class, a column per called class.
        num_images: Number of images.
    """

    accuracy: float
    auc: float
    average_precision: float
    sensitivity: float
    specificity: float
    confusion_matrix: list[list[int]]
    num_images: int


def evaluate_scores(labels: ArrayLike, scores: ArrayLike, threshold: float) -> SplitMetrics:
    """Measure how well scores tell lesions from normal images.

    Args:
        labels: True classes, 0 normal or 1 lesion, shape (num_images,).
        scores: Probability of a lesion, 0-1, shape (num_images,).
        threshold: Scores at or above it are called a lesion.

    Returns:
        The metrics; every value is finite.

    Raises:
        EvaluationError: Shapes differ, a label is not 0 or 1, a score is not a number from 0 to 1, or one class has
            no image.

    Source: Fawcett, "An introduction to ROC analysis", Pattern Recognition Letters 27, 2006; average precision as in
    `sklearn.metrics.average_precision_score`, without interpolation.
    """
    true, probabilities = _check_arrays(labels, scores)
    counts = confusion_matrix(true, probabilities >= threshold, labels=[0, 1])
    (tn, fp), (fn, tp) = counts.tolist()
    return SplitMetrics(
        accuracy=(tn + tp) / len(true),
        auc=float(roc_auc_score(true, probabilities)),
        average_precision=float(average_precision_score(true, probabilities)),
        sensitivity=tp / (tp + fn),
        specificity=tn / (tn + fp),
        confusion_matrix=counts.tolist(),
        num_images=len(true),
    )


def evaluate_predictions(predictions: pd.DataFrame, threshold: float) -> dict[str, SplitMetrics]:
    """Measure every split of a table of predictions.

    Args:
        predictions: The columns of `PREDICTION_COLUMNS`, one row per image.
        threshold: Scores at or above it are called a lesion.

    Returns:
        Metrics by split, in the order of `SPLITS`; a split without rows is left out.

    Raises:
        EvaluationError: The table cannot be used, or a split lacks one of the classes.
    """
    check_predictions(predictions)
    metrics = {}
    for split, rows in split_predictions(predictions).items():
        try:
            metrics[split] = evaluate_scores(number_labels(rows), rows["score"], threshold)
        except EvaluationError as error:
            raise EvaluationError(f"split {split}: {error}") from error
    return metrics


def check_predictions(predictions: pd.DataFrame) -> None:
    """See that a table of predictions can be evaluated, and name every image that stands in the way.

    Raises:
        EvaluationError: A column is missing, there is no row, an image occurs twice, a split or label is unknown, or
            a score is not a number from 0 to 1.
    """
    missing = [column for column in PREDICTION_COLUMNS if column not in predictions.columns]
    if missing:
        raise EvaluationError(f"predictions: column {', '.join(missing)} is missing. Score the images again.")
    if predictions.empty:
        raise EvaluationError("predictions: there is no row to evaluate. Score the images of at least one split.")
    image_ids = predictions["image_id"]
    faults = {
        "occur more than once": image_ids.duplicated(),
        f"have a split other than {', '.join(SPLITS)}": ~predictions["split"].isin(SPLITS),
        f"have a label other than {', '.join(LABELS)}": ~predictions["label"].isin(LABELS),
        "have a score that is not a number from 0 to 1": ~predictions["score"].between(0, 1),
    }
    for fault, rows in faults.items():
        if rows.any():
            raise EvaluationError(
                f"predictions: {rows.sum()} of {len(rows)} images {fault}: "
                f"{list_offenders(image_ids[rows].astype(str).tolist())}. Score the images again."
            )


def split_predictions(predictions: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Rows of each split that has any, in the order of `SPLITS`."""
    present = set(predictions["split"])
    return {split: predictions.loc[predictions["split"] == split] for split in SPLITS if split in present}


def number_labels(predictions: pd.DataFrame) -> NDArray[np.int64]:
    """True classes as numbers, 0 normal or 1 lesion, shape (num_images,)."""
    return np.array([LABELS.index(label) for label in predictions["label"]], np.int64)


def _check_arrays(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    true, probabilities = np.asarray(labels), np.asarray(scores, np.float64)
    if true.ndim != 1 or true.shape != probabilities.shape:
        raise EvaluationError(
            f"one label per score is needed, received {true.shape} labels, {probabilities.shape} scores."
        )
    unusable = np.flatnonzero(~((probabilities >= 0) & (probabilities <= 1)))
    if unusable.size:
        raise EvaluationError(
            f"{unusable.size} of {len(true)} scores are not a number from 0 to 1, at position "
            f"{list_offenders([f'{row} ({probabilities[row]})' for row in unusable])}. Train or score again."
        )
    if not np.isin(true, (0, 1)).all():
        raise EvaluationError(
            f"labels must be 0 ({LABELS[0]}) or 1 ({LABELS[1]}), received {np.unique(true).tolist()}."
        )
    present = np.unique(true).tolist()
    if len(present) < 2:
        only = f"all {len(true)} images are {LABELS[int(present[0])]}" if present else "there is no image"
        raise EvaluationError(
            f"{only}, but sensitivity, specificity and AUC need both classes. "
            "Give more images of the missing class, or a larger share to this split."
        )
    return true.astype(np.int64), probabilities

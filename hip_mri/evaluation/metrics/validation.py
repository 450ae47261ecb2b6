"""Validates labels, scores and groups, and the table of predictions, before anything is computed from them."""

from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from hip_mri.config import LABELS, SPLITS
from hip_mri.errors import EvaluationError, list_offenders

PREDICTION_COLUMNS: Final = ("image_id", "split", "label", "score")
"""Columns of a table of predictions: pseudonym, one of `SPLITS`, one of `LABELS`, probability of a lesion 0-1."""


class Ranking(NamedTuple):
    """Distinct scores, ascending, with the position of their first image, and labels and groups in that order."""

    scores: NDArray[np.float64]
    starts: NDArray[np.int64]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]


@dataclass(frozen=True)
class ValidatedScores:
    """Labeled and scored images of both classes; made by `validate_scores`.

    Attributes:
        labels: 0 normal or 1 lesion, shape (num_images,).
        scores: Probability of a lesion, 0-1, float64, shape (num_images,).
        groups: Number of the group, 0 to `num_groups` - 1, shape (num_images,). Images of one group (a patient, a
            series) are correlated; images of different groups are independent.
        num_groups: Number of groups, each with at least one image.
    """

    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    groups: NDArray[np.int64]
    num_groups: int

    @cached_property
    def ranking(self) -> Ranking:
        """The images sorted by score; cached, since a bootstrap uses it thousands of times."""
        order = np.argsort(self.scores, kind="stable")
        scores, starts = np.unique(self.scores[order], return_index=True)
        return Ranking(scores, starts, self.labels[order], self.groups[order])

    def count_groups(self, label: int) -> int:
        """Number of groups with at least one image of a class, 0 normal or 1 lesion."""
        return len(np.unique(self.groups[self.labels == label]))

    @property
    def num_rarer_groups(self) -> int:
        """Number of groups with a lesion or of groups with a normal image, whichever is smaller."""
        return min(self.count_groups(0), self.count_groups(1))


def validate_scores(labels: ArrayLike, scores: ArrayLike, groups: ArrayLike | None = None) -> ValidatedScores:
    """Check that metrics can be computed.

    Args:
        labels: True classes, 0 normal or 1 lesion, shape (num_images,).
        scores: Probability of a lesion, 0-1, shape (num_images,).
        groups: Numbers or names of groups, shape (num_images,); `None` makes every image a group of its own.

    Returns:
        The arrays; groups are numbered in the order of their names.

    Raises:
        EvaluationError: Shapes differ, a label is not 0 or 1, a score is not a number from 0 to 1, a group is missing,
            or a class has no image.
    """
    true, probabilities = np.asarray(labels), np.asarray(scores, np.float64)
    if true.ndim != 1 or true.shape != probabilities.shape:
        raise EvaluationError(
            f"one label per score is needed, received {true.shape} labels and {probabilities.shape} scores. "
            "Pass two one-dimensional arrays of the same length."
        )
    _check_scores(probabilities)
    _check_labels(true)
    if groups is None:
        return ValidatedScores(true.astype(np.int64), probabilities, np.arange(len(true)), len(true))
    return ValidatedScores(true.astype(np.int64), probabilities, *_number_groups(groups, len(true)))


def _number_groups(groups: ArrayLike, num_images: int) -> tuple[NDArray[np.int64], int]:
    names = np.asarray(groups)
    if names.shape != (num_images,):
        raise EvaluationError(
            f"one group per image is needed, received {names.shape} groups for {num_images} images. "
            "Pass the name of the group of each image."
        )
    missing = np.flatnonzero(pd.isna(names))
    if missing.size:
        raise EvaluationError(
            f"{missing.size} of {num_images} images have no group, at position "
            f"{list_offenders([str(row) for row in missing])}. Pass the name of the group of each image."
        )
    distinct, numbers = np.unique(names, return_inverse=True)
    return numbers.astype(np.int64), len(distinct)


def _check_scores(scores: NDArray[np.float64]) -> None:
    invalid = np.flatnonzero(~((scores >= 0) & (scores <= 1)))
    if invalid.size:
        raise EvaluationError(
            f"{invalid.size} of {len(scores)} scores are not a number from 0 to 1, at position "
            f"{list_offenders([f'{row} ({scores[row]})' for row in invalid])}. Train or score again."
        )


def _check_labels(labels: NDArray) -> None:
    present = np.unique(labels).tolist()
    if not set(present) <= {0, 1}:
        raise EvaluationError(f"labels must be 0 ({LABELS[0]}) or 1 ({LABELS[1]}), received {present}.")
    if len(present) < 2:
        found = f"all {len(labels)} images are {LABELS[int(present[0])]}" if present else "there is no image"
        raise EvaluationError(
            f"{found}, but the metrics compare two classes. "
            "Add images of the missing class, or assign a larger fraction to this split."
        )


def check_predictions(predictions: pd.DataFrame) -> None:
    """Check that a table of predictions can be evaluated.

    Raises:
        EvaluationError: A column is missing, there is no row, an image occurs twice, a split or label is unknown, or
            a score is not a number from 0 to 1; the message lists the images.
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


def number_labels(predictions: pd.DataFrame) -> NDArray[np.int64]:
    """Encode the column `label` as numbers, 0 normal or 1 lesion, shape (num_images,)."""
    return (predictions["label"] == LABELS[1]).to_numpy(np.int64)

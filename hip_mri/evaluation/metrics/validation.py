"""The scored images that a measure speaks of: checked once, then taken as they are.

The table of scores, checked before anything is measured.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from hip_mri.config import LABELS, SPLITS
from hip_mri.errors import EvaluationError, list_offenders


class Ranking(NamedTuple):
    """Images in the order of their scores.

    Attributes:
        scores: Distinct scores, ascending, shape (num_scores,).
        starts: Place of the first image of each score, shape (num_scores,).
        labels: Labels in that order, shape (num_images,).
        groups: Groups in that order, shape (num_images,).
    """

    scores: NDArray[np.float64]
    starts: NDArray[np.int64]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]


@dataclass(frozen=True)
class Sample:
    """Scored images whose true class is known, of both classes.

    Attributes:
        labels: 0 normal or 1 lesion, shape (num_images,).
        scores: Probability of a lesion, 0-1, float64, shape (num_images,).
        groups: Number of the group, 0 to `num_groups` - 1, shape (num_images,). Images of one group (a patient, a
            series) resemble each other; images of different groups are independent.
        num_groups: Number of groups; each has an image.
    """

    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    groups: NDArray[np.int64]
    num_groups: int

    @cached_property
    def ranking(self) -> Ranking:
        """Sorted once, though a bootstrap asks for it thousands of times: sorting alone would take most of its time."""
        order = np.argsort(self.scores, kind="stable")
        scores, starts = np.unique(self.scores[order], return_index=True)
        return Ranking(scores, starts, self.labels[order], self.groups[order])


def check_sample(labels: ArrayLike, scores: ArrayLike, groups: ArrayLike | None = None) -> Sample:
    """See that scored images can be measured.

    Args:
        labels: True classes, 0 normal or 1 lesion, shape (num_images,).
        scores: Probability of a lesion, 0-1, shape (num_images,).
        groups: Numbers or names of groups, shape (num_images,); without them every image is a group of its own.

    Returns:
        The sample; its groups are numbered in the order of their names.

    Raises:
        EvaluationError: Shapes differ, a label is not 0 or 1, a score is not a number from 0 to 1, a group is missing,
            or one class has no image.
    """
    true, probabilities = np.asarray(labels), np.asarray(scores, np.float64)
    if true.ndim != 1 or true.shape != probabilities.shape:
        raise EvaluationError(
            f"one label per score is needed, received {true.shape} labels, {probabilities.shape} scores. "
            "Give two rows of the same length."
        )
    _check_scores(probabilities)
    _check_labels(true)
    if groups is None:
        return Sample(true.astype(np.int64), probabilities, np.arange(len(true)), len(true))
    numbers, num_groups = number_groups(groups, len(true))
    return Sample(true.astype(np.int64), probabilities, numbers, num_groups)


def number_groups(groups: ArrayLike, num_images: int) -> tuple[NDArray[np.int64], int]:
    """Number groups from 0, in the order of their names.

    Args:
        groups: Numbers or names, shape (num_images,).
        num_images: How many are needed.

    Returns:
        The number of each image's group, shape (num_images,), and the count of groups.

    Raises:
        EvaluationError: There is not one group per image, or some have none.
    """
    names = np.asarray(groups)
    if names.shape != (num_images,):
        raise EvaluationError(
            f"one group per image is needed, received {names.shape} groups, {num_images} images. "
            "Give each image the name of its group."
        )
    missing = np.flatnonzero(pd.isna(names))
    if missing.size:
        raise EvaluationError(
            f"{missing.size} of {num_images} images have no group, at position "
            f"{list_offenders([str(row) for row in missing])}. Give each image the name of its group."
        )
    distinct, numbers = np.unique(names, return_inverse=True)
    return numbers.astype(np.int64), len(distinct)


def _check_scores(scores: NDArray[np.float64]) -> None:
    unusable = np.flatnonzero(~((scores >= 0) & (scores <= 1)))
    if unusable.size:
        raise EvaluationError(
            f"{unusable.size} of {len(scores)} scores are not a number from 0 to 1, at position "
            f"{list_offenders([f'{row} ({scores[row]})' for row in unusable])}. Train or score again."
        )


def _check_labels(labels: NDArray) -> None:
    present = np.unique(labels).tolist()
    if not set(present) <= {0, 1}:
        raise EvaluationError(f"labels must be 0 ({LABELS[0]}) or 1 ({LABELS[1]}), received {present}.")
    if len(present) < 2:
        only = f"all {len(labels)} images are {LABELS[int(present[0])]}" if present else "there is no image"
        raise EvaluationError(
            f"{only}, but the measures compare two classes. "
            "Give images of the missing class, or a larger share to this split."
        )


PREDICTION_COLUMNS: Final = ("image_id", "split", "label", "score")
"""Columns that a table of predictions needs: pseudonym, one of `SPLITS`, one of `LABELS`, probability 0-1."""


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

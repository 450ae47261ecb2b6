"""The table of scores, checked before anything is measured."""

from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hip_mri.config import LABELS, SPLITS
from hip_mri.errors import EvaluationError, list_offenders

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

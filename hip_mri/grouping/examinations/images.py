"""Images whose examinations are inferred, and the table of the joins that the inference makes."""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

UNKNOWN: Final = -1
"""Number of the sequence of images without an order, and of the patient of images whose patient is not known."""

JOIN_COLUMNS: Final = ("first", "second", "kind", "certainty")
"""Positions of two images, the evidence that they are of one examination, and the probability of it, 0-1. The evidence
is `order` for neighbors, and `features` for others that are near by their descriptors."""

Run = NDArray[np.int64]
"""Positions of the images of a run."""


@dataclass(frozen=True)
class ComparableImages:
    """What is known of images, sorted by sequence and place in it.

    Attributes:
        points: Descriptors in a learned metric, float32, shape (images, directions).
        sequence: Number of each image's sequence, such as a folder of numbered files, or `UNKNOWN`.
        patient: Number of each image's patient, or `UNKNOWN`.
    """

    points: NDArray[np.float32]
    sequence: NDArray[np.int64]
    patient: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.sequence)

    @property
    def has_neighbor(self) -> NDArray[np.bool_]:
        """Whether each image but the last is followed by its neighbor in the order; shape (images - 1,)."""
        return (self.sequence[1:] == self.sequence[:-1]) & (self.sequence[1:] != UNKNOWN)

    def of_two_patients(self, first: Run, second: Run) -> bool:
        """Whether two runs are known to show different patients."""
        patients = (self.patient[first], self.patient[second])
        named = [found[found != UNKNOWN] for found in patients]
        return bool(len(named[0]) and len(named[1]) and not set(named[0]) & set(named[1]))


def tabulate_joins(
    first: ArrayLike, second: ArrayLike, kind: Literal["order", "features"], certainty: ArrayLike
) -> pd.DataFrame:
    """Make a table of `JOIN_COLUMNS`; the arrays have shape (joins,)."""
    columns = {
        "first": np.asarray(first, np.int64),
        "second": np.asarray(second, np.int64),
        "kind": kind,
        "certainty": np.asarray(certainty, np.float64),
    }
    return pd.DataFrame(columns).astype({"kind": "str"})


def spread(run: Run, max_images: int) -> Run:
    """Choose at most `max_images` images of a run, evenly spaced."""
    return run if len(run) <= max_images else run[np.linspace(0, len(run) - 1, max_images).astype(int)]

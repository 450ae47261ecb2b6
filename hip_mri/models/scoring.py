"""Scores images with a trained network: as a whole, or divided into backbone and head."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hip_mri.errors import TrainingError
from hip_mri.models.features import FeatureSet
from hip_mri.models.keras_settings import Model, import_keras
from hip_mri.models.loading import load_head
from hip_mri.models.network_inputs import Rows, cut_positions, iterate_blocks

ROWS_PER_BLOCK: Final = 4096
"""Feature rows that are scored at once, 8 KB each."""


@dataclass(frozen=True)
class SplitNetwork:
    """A trained network, divided so that an engine can compute its backbone.

    Attributes:
        features: The set of features that its backbone computes.
        head_file: The layers behind the backbone, as Keras saves them: features to a probability.
    """

    features: FeatureSet
    head_file: Path

    def score(
        self, rows: Rows, head: "Model | None" = None
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Score images, block by block.

        Args:
            rows: Features of the images, shape (images, features).
            head: The head, if it is loaded already.

        Yields:
            The features of a block, and the probability of a lesion for each of its rows.
        """
        head = head or load_head(self.head_file)
        for block in iterate_blocks(rows, ROWS_PER_BLOCK):
            yield block, predict(head, block)


def predict(network: Model, inputs: NDArray[np.float32], batch_size: int = 32) -> NDArray[np.float32]:
    """Run a network; returns shape (len(inputs),). Short batches are padded, so that scores do not depend on them."""
    import_keras()
    scores = np.empty(len(inputs), np.float32)
    batch = np.zeros((batch_size, *inputs.shape[1:]), np.float32)
    for positions in cut_positions(len(inputs), batch_size):
        batch[: len(positions)] = inputs[positions]
        scores[positions] = np.asarray(network.predict_on_batch(batch))[: len(positions), 0]
    return scores


def score_rows(network: Model, rows: Rows, images: pd.DataFrame, block_size: int) -> pd.DataFrame:
    """Score every image, of which `rows` are the features or the pixels, in the same order; see `tabulate_scores`."""
    return tabulate_scores(
        images, np.concatenate([predict(network, block) for block in iterate_blocks(rows, block_size)])
    )


def tabulate_scores(images: pd.DataFrame, scores: NDArray[np.float32]) -> pd.DataFrame:
    """Join images with their scores.

    Returns:
        Columns image_id, split, label and score (probability of `osseous_lesion`, 0-1), in the order of `images`.

    Raises:
        TrainingError: A score is not finite.
    """
    num_bad = int((~np.isfinite(scores)).sum())
    if num_bad:
        raise TrainingError(f"scores: {num_bad} of {len(scores)} are not finite numbers. The model is not kept.")
    return images[["image_id", "split", "label"]].assign(score=scores.astype(np.float64))

"""Scores images with a trained network: as a whole, or divided into backbone and head."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hip_mri.errors import TrainingError
from hip_mri.models.features import FeatureSet
from hip_mri.models.keras_settings import Model
from hip_mri.models.loading import load_head
from hip_mri.models.network_inputs import Views
from hip_mri.models.predict import predict_views


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
        self, views: Views, head: "Model | None" = None
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Score images, block by block; see `predict_views`.

        Args:
            views: Features of the images, as `FeatureSet.open_views` opens them.
            head: The head, if it is loaded already.
        """
        return predict_views(head or load_head(self.head_file), views)


def score_views(network: Model, views: Views, images: pd.DataFrame, block_size: int) -> pd.DataFrame:
    """Score every image, of which `views` are the features or the pixels, in the same order; see `tabulate_scores`."""
    return tabulate_scores(images, np.concatenate([scores for _, scores in predict_views(network, views, block_size)]))


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

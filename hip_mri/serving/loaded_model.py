"""A model in memory that scores decoded images without writing to the disk."""

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hip_mri.config import Engine, Precision
from hip_mri.errors import EvaluationError
from hip_mri.evaluation.explain import compute_heat_maps
from hip_mri.images.clahe_and_resizing import preprocess_image
from hip_mri.images.decoding_results import Picture
from hip_mri.images.stored_png import hash_pixels
from hip_mri.models.backbones.engines import open_engine
from hip_mri.models.loading import load_head
from hip_mri.models.network_inputs import Rows, Views
from hip_mri.serving.scorer import Scorer, load_scorer
from hip_mri.serving.served_model import find_model
from hip_mri.serving.served_network import prepare_network
from hip_mri.workspace import Workspace

logger = logging.getLogger(__name__)

NUM_IMAGES: Final = 10**6
"""Expected number of images, for which the network is exported to OpenVINO if there is no GPU."""


@dataclass(frozen=True)
class PreparedImage:
    """An image that is ready to be scored.

    Attributes:
        sha256: Hash of the pixels of the decoded image.
        levels: Preprocessed gray levels 0-255, shape (image_size, image_size).
    """

    sha256: str
    levels: NDArray[np.uint8]


class LoadedModel:
    """A model with its engine and head in memory. `prepare` may be called by several threads, the rest by one.

    Attributes:
        scorer: The model, and what else is needed to score images.
        explains: Whether heat maps can be computed for its head.
    """

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        features = scorer.network.features
        self._preprocessing = features.preprocessing
        self._engine = open_engine(features.backbone, features.choice.engine, features.choice.precision)
        self.explains = False

    def warm_up(self) -> None:
        """Compute everything once, so that the first image does not take longer than others."""
        size = self._preprocessing.image_size
        blank = [PreparedImage("", np.zeros((size, size), np.uint8))]
        views = self.compute(blank)
        self.score(blank, views)
        with suppress(EvaluationError):  # the head has other layers than Grad-CAM supports
            self.explain(blank, views)
            self.explains = True

    def prepare(self, picture: Picture) -> PreparedImage:
        """Preprocess a decoded image, as `prediction_inputs.ingest_inputs` does."""
        return PreparedImage(hash_pixels(picture.levels), preprocess_image(picture.levels, self._preprocessing))

    def compute(self, images: Sequence[PreparedImage]) -> Views:
        """Compute the features of images, and those of their mirror images where scores are averaged over both."""
        levels = [image.levels for image in images]
        if not self.scorer.network.features.averages_mirrored:
            return Views(cast("Rows", self._engine.compute(levels)))
        rows = self._engine.compute([*levels, *map(np.fliplr, levels)])  # together, since that uses all cores
        return Views(cast("Rows", rows[: len(levels)]), cast("Rows", rows[len(levels) :]))

    def score(self, images: Sequence[PreparedImage], views: Views) -> list[dict[str, Any]]:
        """Score images whose features are computed; see `Scorer.score` for the fields of each result.

        Raises:
            EvaluationError: A score is not a number.
        """
        hashes = pd.Series([image.sha256 for image in images], dtype="str")
        return self.scorer.score(hashes, views).to_dict("records")

    def explain(self, images: Sequence[PreparedImage], views: Views) -> NDArray[np.float32]:
        """Compute the Grad-CAM heat map of each image, 0-1, shape (num_images, image_size, image_size)."""
        stacked, features = np.stack([image.levels for image in images]), views.plain[np.arange(len(images))]
        return compute_heat_maps(self.scorer.network, stacked, self.scorer.head, features)


def load_model(
    folder: Path, model: str, engine: Engine | Literal["auto"], precision: Precision | Literal["auto"]
) -> LoadedModel:
    """Find a model, check its files and load it.

    Args:
        folder: The workspace. Another process may not score new images while the network is prepared.
        model: See `served_model.find_model`.
        engine: See `served_network.prepare_network`.
        precision: Likewise.

    Raises:
        HipMriError: The model cannot be used.
    """
    workspace = Workspace.at(folder)
    found = find_model(workspace, model)
    logger.info("Loading %s", found.name)
    with workspace.hold_serving():
        network = prepare_network(found.network, engine, precision, NUM_IMAGES, workspace)
        loaded = LoadedModel(load_scorer(found, network, load_head(network.head_file)))
        loaded.warm_up()
    return loaded

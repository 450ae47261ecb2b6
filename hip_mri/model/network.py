"""The whole network as one file: gray image in, probability of a lesion out."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hip_mri.config import LABELS, TrainingSettings
from hip_mri.data.manifest import read_manifest, select_ready
from hip_mri.errors import TrainingError
from hip_mri.model.backbone import load_backbone
from hip_mri.model.features import FeatureSet
from hip_mri.model.head import EpochReport, TrainingImages, train_head
from hip_mri.workspace import Workspace, digest, publish_folder, write_json

if TYPE_CHECKING:
    import keras

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedModel:
    """A trained network on disk.

    Attributes:
        folder: Holds the files below.
        digest: What determined it: features, images, split, settings, seed; 64 hexadecimal digits.
    """

    folder: Path
    digest: str

    @property
    def model_file(self) -> Path:
        """The whole network, as Keras saves it."""
        return self.folder / "model.keras"

    @property
    def history_file(self) -> Path:
        """One row per epoch."""
        return self.folder / "history.csv"

    @property
    def predictions_file(self) -> Path:
        """Image id, split, label and score of every image."""
        return self.folder / "predictions.csv"

    def read_history(self) -> list[dict[str, float]]:
        """Figures of each epoch."""
        return pd.read_csv(self.history_file).to_dict("records")


def train_model(
    workspace: Workspace,
    features: FeatureSet,
    hidden_units: int,
    settings: TrainingSettings,
    seed: int,
    on_epoch: EpochReport = lambda epoch: None,
) -> TrainedModel:
    """Train a head on the stored features, join it to the backbone, score every image, and keep all of it.

    A model that was trained on the same images with the same settings and seed is not trained again.

    Args:
        workspace: Its manifest and features are read, its `models` folder is written.
        features: The set to train on.
        hidden_units: Width of the head's dense layer.
        settings: How it is trained.
        seed: Start of every random choice.
        on_epoch: Called after each epoch.

    Returns:
        The trained model.

    Raises:
        TrainingError: The loss is not a finite number, or a score is not.
    """
    images = select_ready(read_manifest(workspace.manifest_file))
    identity = {
        "features": features.digest,
        "hidden_units": hidden_units,
        "settings": settings.model_dump(),
        "seed": seed,
        "images": digest(images[["image_id", "sha256", "label", "split"]].to_dict("list")),
    }
    model = TrainedModel(workspace.models_folder / digest(identity)[:16], digest(identity))
    if model.predictions_file.exists():
        logger.info("The model for these images, settings and seed is there already")
        return model
    training = select_images(images, "train", workspace, features, with_mirrored=features.with_mirrored)
    validation = select_images(images, "val", workspace, features, with_mirrored=False)
    head, history = train_head(training, validation, hidden_units, settings, seed, on_epoch)
    scores = score_features(head, images, workspace, features)
    with publish_folder(model.folder) as fresh:
        there = replace(model, folder=fresh)
        join_network(load_backbone(features.backbone), head).save(there.model_file)
        history.to_csv(there.history_file, index=False)
        write_json(fresh / "identity.json", identity)
        scores.to_csv(there.predictions_file, index=False)
    return model


def select_images(
    images: pd.DataFrame, split: str, workspace: Workspace, features: FeatureSet, *, with_mirrored: bool
) -> TrainingImages:
    """Gather the stored features and labels of one split, sorted by image id."""
    chosen = images[images["split"] == split].sort_values("image_id")
    store = features.open_store(workspace)
    return TrainingImages(
        plain=store.select(chosen["sha256"], mirrored=False),
        mirrored=store.select(chosen["sha256"], mirrored=True) if with_mirrored else None,
        labels=chosen["label"].map(LABELS.index).to_numpy(np.int64),
    )


def join_network(backbone: "keras.Model", head: "keras.Model") -> "keras.Model":
    """Put a head onto a backbone.

    Args:
        backbone: Gray levels 0-255, shape (batch, height, width, 1), to features.
        head: Features to a probability.

    Returns:
        One flat network with the layers and weights of both; only the head's are trainable.
    """
    import keras  # noqa: PLC0415 - seconds to import

    score = backbone.output
    for layer in head.layers[1:]:
        score = layer(score)
    return keras.Model(backbone.input, score, name=f"hip_mri_{backbone.name}")


def score_features(
    head: "keras.Model", images: pd.DataFrame, workspace: Workspace, features: FeatureSet
) -> pd.DataFrame:
    """Score every image from its stored, unmirrored features.

    Returns:
        Columns image_id, split, label and score (probability of `osseous_lesion`, 0-1), sorted by image id.

    Raises:
        TrainingError: A score is not a number.
    """
    rows = features.open_store(workspace).select(images["sha256"], mirrored=False)
    parts = [predict(head, rows[np.arange(start, stop)]) for start, stop in _cut(len(rows), 4096)]
    return tabulate_scores(images, np.concatenate(parts))


def predict(network: "keras.Model", inputs: NDArray[np.float32], batch_size: int = 32) -> NDArray[np.float32]:
    """Run a network; shape (len(inputs),). Short batches are filled up, so no score depends on its neighbours."""
    scores = np.empty(len(inputs), np.float32)
    batch = np.zeros((batch_size, *inputs.shape[1:]), np.float32)
    for start, stop in _cut(len(inputs), batch_size):
        batch[: stop - start] = inputs[start:stop]
        scores[start:stop] = np.asarray(network.predict_on_batch(batch))[: stop - start, 0]
    return scores


def tabulate_scores(images: pd.DataFrame, scores: NDArray[np.float32]) -> pd.DataFrame:
    """Put scores beside their images; columns image_id, split, label and score.

    Raises:
        TrainingError: A score is not a number.
    """
    num_bad = int((~np.isfinite(scores)).sum())
    if num_bad:
        raise TrainingError(f"scores: {num_bad} of {len(scores)} are not a number. The model is not kept.")
    return images[["image_id", "split", "label"]].assign(score=scores.astype(np.float64))


def _cut(total: int, size: int) -> Iterable[tuple[int, int]]:
    return ((start, min(start + size, total)) for start in range(0, total, size))

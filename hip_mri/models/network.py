"""The whole network as one file: gray image in, probability of a lesion out."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hip_mri.config import LABELS, TrainingSettings
from hip_mri.dataset.manifest import digest_table, read_manifest, select_ready
from hip_mri.errors import TrainingError
from hip_mri.hashes import is_as_recorded, record_hashes
from hip_mri.models.backbones.backbone import (
    BYTES_PER_PARAMETER,
    Backbone,
    build_backbone,
    load_backbone,
    load_own_backbone,
    open_backbone,
    write_backbone,
)
from hip_mri.models.backbones.engines import EngineChoice
from hip_mri.models.features import FeatureSet
from hip_mri.models.fine_tune import ImageRows, discard_checkpoint, fine_tune
from hip_mri.models.fitting import EpochReport, Rows, TrainingImages, choose_jit, weigh_classes
from hip_mri.models.head import build_head, compile_head, cut_network, join_network, train_head
from hip_mri.models.keras_settings import count_network_threads, describe_keras, import_keras
from hip_mri.models.saved import load_head
from hip_mri.storage import digest, publish_folder, require_room, write_json
from hip_mri.workspace import Workspace

if TYPE_CHECKING:
    import keras

logger = logging.getLogger(__name__)

RECIPE: Final = 2
"""Number of this way to train; a change that alters weights or scores raises it. Below 2 the user's settings of Keras
could alter them."""

MODEL_NAME: Final = "model.keras"
HEAD_NAME: Final = "head.keras"
TUNED_BACKBONE: Final = "backbone"
"""Names in the folder of a trained model."""

ROWS_PER_BLOCK: Final = 4096
"""Feature rows that are scored at a time, 8 KB each."""


@dataclass(frozen=True)
class SplitNetwork:
    """A trained network in two parts, so that an engine can compute the first one.

    Attributes:
        features: The set of features that its backbone computes.
        head_file: The rest of it: features to a probability.
    """

    features: FeatureSet
    head_file: Path

    def score(self, rows: Rows) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Score images, block by block.

        Args:
            rows: Their features, shape (images, 2048).

        Yields:
            The features of a block, and the probability of a lesion for each of its rows.
        """
        head = load_head(self.head_file)
        for start, stop in _cut(len(rows), ROWS_PER_BLOCK):
            block = rows[np.arange(start, stop)]
            yield block, predict(head, block)


@dataclass(frozen=True)
class TrainedModel:
    """A trained network on disk.

    Attributes:
        folder: Holds the files below.
        digest: What determined it: features, images, split, settings, seed; 64 hexadecimal digits.
        features: The features that its head takes: those that it was trained on, or after fine-tuning its own.
    """

    folder: Path
    digest: str
    features: FeatureSet

    @property
    def model_file(self) -> Path:
        """The whole network, as Keras saves it."""
        return self.folder / MODEL_NAME

    @property
    def history_file(self) -> Path:
        """One row per epoch."""
        return self.folder / "history.csv"

    @property
    def predictions_file(self) -> Path:
        """Image id, split, label and score of every image."""
        return self.folder / "predictions.csv"

    @property
    def head_file(self) -> Path:
        """The layers behind the backbone, as Keras saves them."""
        return self.folder / HEAD_NAME

    @property
    def files(self) -> tuple[Path, ...]:
        """All of these."""
        return self.model_file, self.head_file, self.history_file, self.predictions_file

    @property
    def tuned_backbone_folder(self) -> Path:
        """Where fine-tuning leaves its backbone."""
        return self.folder / TUNED_BACKBONE

    @property
    def parts(self) -> "SplitNetwork":
        """The same network in two parts."""
        return SplitNetwork(self.features, self.head_file)

    @property
    def checkpoint_folder(self) -> Path:
        """Where fine-tuning keeps its state while it runs."""
        return self.folder.with_name(f"{self.folder.name}-checkpoint")

    def read_history(self) -> list[dict[str, Any]]:
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

    A model that was trained on the same images with the same settings and seed is not trained again, unless one of its
    files is missing or has other bytes than were written.

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
        "recipe": RECIPE,
        "features": features.digest,
        "hidden_units": hidden_units,
        "settings": settings.model_dump(),
        "seed": seed,
        "keras": describe_keras(),
        "num_threads": count_network_threads(),
        "images": digest_table(images[["image_id", "sha256", "label", "split"]]),
    }
    model = TrainedModel(workspace.models_folder / digest(identity)[:16], digest(identity), features)
    if is_as_recorded(model.folder, [file.name for file in model.files]):
        logger.info("The model for these images, settings and seed is there already")
        discard_checkpoint(model.checkpoint_folder)  # a run that was killed just before it could
        return _with_own_features(model, settings)
    if model.folder.exists():
        logger.warning("%s is not as it was written, or not recorded: the model is trained again", model.folder)
    trained = _train(images, workspace, features, hidden_units, settings, seed, model.checkpoint_folder, on_epoch)
    require_room(model.folder, 2 * BYTES_PER_PARAMETER * trained.network.count_params())
    with publish_folder(model.folder) as fresh:
        there = replace(model, folder=fresh)
        trained.network.save(there.model_file)
        backbone, head = cut_network(trained.network)
        head.save(there.head_file)
        if settings.fine_tune.epochs:
            there.tuned_backbone_folder.mkdir()
            write_backbone(backbone, there.tuned_backbone_folder, features.backbone.identity | {"model": model.digest})
        trained.history.to_csv(there.history_file, index=False)
        used = _with_own_features(there, settings).features.backbone
        write_json(fresh / "identity.json", identity | {"backbone": used.digest})
        trained.predictions.to_csv(there.predictions_file, index=False)
        record_hashes(fresh)
    discard_checkpoint(model.checkpoint_folder)
    return _with_own_features(model, settings)


def _with_own_features(model: TrainedModel, settings: TrainingSettings) -> TrainedModel:
    """A fine-tuned network has a backbone, and so features, of its own; it is evaluated in float32."""
    if not settings.fine_tune.epochs:
        return model
    choice = EngineChoice("keras", "float32", "a fine-tuned network is evaluated in float32")
    own = replace(model.features, backbone=open_backbone(model.tuned_backbone_folder), choice=choice)
    return replace(model, features=replace(own, with_mirrored=False))


@dataclass(frozen=True)
class _Trained:
    network: "keras.Model"
    history: pd.DataFrame
    predictions: pd.DataFrame


def _train(
    images: pd.DataFrame,
    workspace: Workspace,
    features: FeatureSet,
    hidden_units: int,
    settings: TrainingSettings,
    seed: int,
    checkpoint_folder: Path,
    on_epoch: EpochReport,
) -> _Trained:
    training = select_images(images, "train", workspace, features, with_mirrored=features.with_mirrored)
    validation = select_images(images, "val", workspace, features, with_mirrored=False)
    head = compile_head(hidden_units, settings)
    epochs = train_head(head, training, validation, settings, seed, on_epoch)
    history = pd.DataFrame([asdict(epoch) for epoch in epochs]).assign(stage="head")
    if not settings.fine_tune.epochs:
        network = join_network(load_backbone(features.backbone), head)
        return _Trained(network, history, score_features(head, images, workspace, features))

    mixed = "mixed_bfloat16" if features.choice.precision == "bfloat16" else "float32"
    network, tuned = fine_tune(
        join_network(load_own_backbone(features.backbone, mixed), head),
        open_images(images, "train", workspace, features, with_mirrored=features.with_mirrored),
        open_images(images, "val", workspace, features, with_mirrored=False),
        settings.fine_tune,
        weigh_classes(training.labels) if settings.class_weight == "balanced" else None,
        seed,
        checkpoint_folder,
        lambda epoch: on_epoch(replace(epoch, epoch=len(epochs) + epoch.epoch)),
    )
    network = _copy_in_float32(network, features.backbone, hidden_units)
    later = pd.DataFrame([asdict(epoch) for epoch in tuned]).assign(stage="fine_tune")
    history = pd.concat([history, later.assign(epoch=later["epoch"] + len(epochs))])
    return _Trained(network, history, score_images(network, images, workspace, features))


def _copy_in_float32(network: "keras.Model", backbone: Backbone, hidden_units: int) -> "keras.Model":
    """The same weights in a network that computes in float32, as every saved model does."""
    plain = join_network(
        build_backbone(backbone.name, backbone.image_size, standardized=backbone.standardized),
        build_head(hidden_units, seed=0),
    )
    plain.set_weights(network.get_weights())
    if choose_jit() is False:
        plain.jit_compile = False
    return plain


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


def open_images(
    images: pd.DataFrame, split: str, workspace: Workspace, features: FeatureSet, *, with_mirrored: bool
) -> TrainingImages:
    """Gather the preprocessed images and labels of one split, sorted by image id."""
    chosen = images[images["split"] == split].sort_values("image_id")

    def rows(*, mirrored: bool) -> ImageRows:
        return ImageRows(chosen["sha256"], workspace, features.preprocessing, mirrored=mirrored)

    return TrainingImages(
        plain=rows(mirrored=False),
        mirrored=rows(mirrored=True) if with_mirrored else None,
        labels=chosen["label"].map(LABELS.index).to_numpy(np.int64),
    )


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
    parts = [predict(head, rows[np.arange(start, stop)]) for start, stop in _cut(len(rows), ROWS_PER_BLOCK)]
    return tabulate_scores(images, np.concatenate(parts))


def score_images(
    network: "keras.Model", images: pd.DataFrame, workspace: Workspace, features: FeatureSet
) -> pd.DataFrame:
    """Score every image with the whole network; see `score_features`."""
    rows = ImageRows(images["sha256"], workspace, features.preprocessing, mirrored=False)
    parts = [predict(network, rows[np.arange(start, stop)]) for start, stop in _cut(len(rows), 256)]
    return tabulate_scores(images, np.concatenate(parts))


def predict(network: "keras.Model", inputs: NDArray[np.float32], batch_size: int = 32) -> NDArray[np.float32]:
    """Run a network; shape (len(inputs),). Short batches are filled up, so no score depends on its neighbours."""
    import_keras()
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

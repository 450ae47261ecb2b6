"""Trains a head on stored features, optionally fine-tunes the network, and stores the trained model with its scores."""

import functools
import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from hip_mri.config import LABELS, HeadDesign, TrainingSettings
from hip_mri.dataset.manifest import digest_table, read_manifest, select_ready
from hip_mri.disk_errors import require_room
from hip_mri.hashes import digest, is_as_recorded, record_hashes
from hip_mri.models.backbones.backbone import (
    BYTES_PER_NUMBER,
    load_backbone,
    load_own_backbone,
    open_backbone,
    write_backbone,
)
from hip_mri.models.backbones.engine_choice import EngineChoice
from hip_mri.models.features import FeatureSet
from hip_mri.models.fine_tune import fine_tune
from hip_mri.models.fitting import Epoch, EpochReport, TrainingImages, choose_jit, weigh_classes
from hip_mri.models.heads.head import build_network, cut_network, fit_head, join_network, list_head_libraries
from hip_mri.models.keras_settings import Model, count_network_threads, describe_keras
from hip_mri.models.network_inputs import ImageRows, Rows, Views
from hip_mri.models.predict import ROWS_PER_BLOCK
from hip_mri.models.scoring import SplitNetwork, score_views
from hip_mri.run_files import HISTORY_FILE, MODEL_FILE, PREDICTIONS_FILE
from hip_mri.storage import publish_folder, write_json
from hip_mri.workspace import Workspace

logger = logging.getLogger(__name__)

NETWORK_RECIPE: Final = 2
"""Version of the training; raised by changes that alter weights or scores. Before 2 the user's settings of Keras could
alter them."""

HEAD_NAME: Final = "head.keras"
TUNED_BACKBONE: Final = "backbone"
"""Names in the folder of a trained model; `backbone` is the folder of a fine-tuned backbone."""

TUNED_CHOICE: Final = EngineChoice("keras", "float32", "a fine-tuned network is evaluated in float32")
"""Engine and precision of a fine-tuned network."""

IMAGES_PER_BLOCK: Final = 256
"""Images that are scored at once, 200 KB each as float32."""


@dataclass(frozen=True)
class TrainedModel:
    """A trained network on disk.

    Attributes:
        folder: Holds the files below.
        digest: Digest of features, images, split, settings and seed, which determine the model; 64 hexadecimal digits.
        features: The input of its head: the features that it was trained on, or after fine-tuning those of the tuned
            backbone.
    """

    folder: Path
    digest: str
    features: FeatureSet

    @property
    def model_file(self) -> Path:
        """The whole network, as Keras saves it."""
        return self.folder / MODEL_FILE

    @property
    def history_file(self) -> Path:
        """History of the training, one row per epoch."""
        return self.folder / HISTORY_FILE

    @property
    def predictions_file(self) -> Path:
        """Image id, split, label and score of every image."""
        return self.folder / PREDICTIONS_FILE

    @property
    def head_file(self) -> Path:
        """The layers behind the backbone, as Keras saves them."""
        return self.folder / HEAD_NAME

    @property
    def parts(self) -> SplitNetwork:
        """The network, divided into backbone and head."""
        return SplitNetwork(self.features, self.head_file)

    @property
    def checkpoint_folder(self) -> Path:
        """Folder of the state of an unfinished fine-tuning."""
        return self.folder.with_name(f"{self.folder.name}-checkpoint")

    def read_history(self) -> list[dict[str, Any]]:
        """Losses and accuracies of each epoch."""
        return pd.read_csv(self.history_file).to_dict("records")


def train_model(
    workspace: Workspace,
    features: FeatureSet,
    head: HeadDesign,
    settings: TrainingSettings,
    seed: int,
    on_epoch: EpochReport = lambda epoch: None,
) -> TrainedModel:
    """Train a head on the stored features, join it to the backbone, score every image, and store the result.

    A model that was trained on the same images with the same settings and seed is reused, unless one of its files is
    missing or changed.

    Args:
        workspace: Its manifest and features are read, its `models` folder is written.
        features: The set to train on.
        head: Kind and size of the head.
        settings: Settings of the training.
        seed: Seed of every random choice.
        on_epoch: Called after each epoch.

    Raises:
        TrainingError: The loss is not a finite number, or a score is not.
    """
    images = select_ready(read_manifest(workspace.manifest_file))
    identity = {
        "recipe": NETWORK_RECIPE,
        "features": features.digest,
        "head": asdict(head),
        "averages_mirrored": features.averages_mirrored,
        "settings": settings.model_dump(),
        "seed": seed,
        "keras": describe_keras(),
        "num_threads": count_network_threads(),
        "images": digest_table(images[["image_id", "sha256", "label", "split", "group"]]),
        "libraries": list_head_libraries(head),
    }
    model = TrainedModel(workspace.models_folder / digest(identity)[:16], digest(identity), features)
    if is_as_recorded(model.folder, [MODEL_FILE, HEAD_NAME, HISTORY_FILE, PREDICTIONS_FILE]):
        logger.info("The model for these images, settings and seed is reused")
        shutil.rmtree(model.checkpoint_folder, ignore_errors=True)  # left by a run that was killed before its end
        return _with_own_features(model, settings)
    if model.folder.exists():
        logger.warning("%s is not as it was written, or not recorded: the model is trained again", model.folder)
    network, history, scores = _train(
        images, workspace, features, head, settings, seed, model.checkpoint_folder, on_epoch
    )
    require_room(model.folder, 2 * BYTES_PER_NUMBER * network.count_params())
    with publish_folder(model.folder) as fresh:
        unpublished = replace(model, folder=fresh)
        network.save(unpublished.model_file)
        backbone, fitted = cut_network(network)
        fitted.save(unpublished.head_file)
        if settings.fine_tune.epochs:
            (fresh / TUNED_BACKBONE).mkdir()
            origin = features.backbone.identity | {"model": model.digest}
            write_backbone(backbone, fresh / TUNED_BACKBONE, origin)
        history.to_csv(unpublished.history_file, index=False)
        used = _with_own_features(unpublished, settings).features.backbone
        write_json(fresh / "identity.json", identity | {"backbone": used.digest})
        scores.to_csv(unpublished.predictions_file, index=False)
        record_hashes(fresh)
    shutil.rmtree(model.checkpoint_folder, ignore_errors=True)
    return _with_own_features(model, settings)


def _with_own_features(model: TrainedModel, settings: TrainingSettings) -> TrainedModel:
    """Replace the features of a fine-tuned network by those of its tuned backbone, in float32."""
    if not settings.fine_tune.epochs:
        return model
    own = replace(model.features, backbone=open_backbone(model.folder / TUNED_BACKBONE), choice=TUNED_CHOICE)
    return replace(model, features=replace(own, with_mirrored=False))


def _train(
    images: pd.DataFrame,
    workspace: Workspace,
    features: FeatureSet,
    head: HeadDesign,
    settings: TrainingSettings,
    seed: int,
    checkpoint_folder: Path,
    on_epoch: EpochReport,
) -> tuple[Model, pd.DataFrame, pd.DataFrame]:
    """Train the network; returns it with its history and the scores of all images."""
    training = select_features(images, "train", workspace, features, with_mirrored=features.with_mirrored)
    validation = select_features(images, "val", workspace, features, with_mirrored=False)
    fitted, epochs = fit_head(head, training, validation, settings, seed, on_epoch)
    history = pd.DataFrame([asdict(epoch) for epoch in epochs]).assign(stage="head")
    if not settings.fine_tune.epochs:
        scores = score_views(fitted, features.open_views(workspace, images["sha256"]), images, ROWS_PER_BLOCK)
        return join_network(load_backbone(features.backbone), fitted), history, scores

    network, tuned = tune_network(
        fitted,
        head,
        features,
        open_images(images, "train", workspace, features, with_mirrored=features.with_mirrored),
        open_images(images, "val", workspace, features, with_mirrored=False),
        settings,
        seed,
        checkpoint_folder,
        lambda epoch: on_epoch(replace(epoch, epoch=len(epochs) + epoch.epoch)),
    )
    later = pd.DataFrame([asdict(epoch) for epoch in tuned]).assign(stage="fine_tune")
    history = pd.concat([history, later.assign(epoch=later["epoch"] + len(epochs))])
    views = open_image_views(images["sha256"], workspace, features)
    return network, history, score_views(network, views, images, IMAGES_PER_BLOCK)


def tune_network(
    fitted: Model,
    head: HeadDesign,
    features: FeatureSet,
    training: TrainingImages,
    validation: TrainingImages | None,
    settings: TrainingSettings,
    seed: int,
    checkpoint_folder: Path,
    on_epoch: EpochReport = lambda epoch: None,
) -> tuple[Model, list[Epoch]]:
    """Join a fitted head to its backbone and fine-tune both.

    Args:
        fitted: The head.
        head: Its design.
        features: Names the backbone and the precision.
        training: Pixels of the training images.
        validation: Pixels of the images on which each epoch is evaluated; `None` skips the evaluation.
        settings: Settings of the training.
        seed: Seed of order and flips.
        checkpoint_folder: See `fine_tune`.
        on_epoch: Called after each epoch.

    Returns:
        The network in float32 and the history of its fine-tuning.
    """
    mixed = "mixed_bfloat16" if features.choice.precision == "bfloat16" else "float32"
    network, epochs = fine_tune(
        join_network(load_own_backbone(features.backbone, mixed), fitted),
        training,
        validation,
        settings.fine_tune,
        weigh_classes(training.labels) if settings.class_weight == "balanced" else None,
        seed,
        checkpoint_folder,
        on_epoch,
    )
    return _copy_in_float32(network, features, head), epochs


def open_image_views(hashes: pd.Series, workspace: Workspace, features: FeatureSet) -> Views:
    """Open the preprocessed images to score, in the order of `hashes`."""
    open_rows = functools.partial(ImageRows, hashes, workspace, features.preprocessing)
    return Views(open_rows(mirrored=False), open_rows(mirrored=True) if features.averages_mirrored else None)


def _copy_in_float32(network: Model, features: FeatureSet, head: HeadDesign) -> Model:
    """Copy the weights into a network that computes in float32, as every saved model does."""
    backbone = features.backbone
    copy = build_network(
        backbone.name,
        backbone.image_size,
        head,
        scaling=backbone.scaling,
        standardized=backbone.standardized,
    )
    copy.set_weights(network.get_weights())
    if choose_jit() is False:
        copy.jit_compile = False
    return copy


def select_features(
    images: pd.DataFrame, split: str, workspace: Workspace, features: FeatureSet, *, with_mirrored: bool
) -> TrainingImages:
    """Select the stored features and the labels of one split, sorted by image id."""
    return _select_split(images, split, features.open_store(workspace).select, with_mirrored)


def open_images(
    images: pd.DataFrame, split: str, workspace: Workspace, features: FeatureSet, *, with_mirrored: bool
) -> TrainingImages:
    """Select the preprocessed images and the labels of one split, sorted by image id."""
    open_rows = functools.partial(ImageRows, workspace=workspace, settings=features.preprocessing)
    return _select_split(images, split, open_rows, with_mirrored)


def _select_split(
    images: pd.DataFrame, split: str, open_rows: Callable[..., Rows], with_mirrored: bool
) -> TrainingImages:
    chosen = images[images["split"] == split].sort_values("image_id")
    return TrainingImages(
        plain=open_rows(chosen["sha256"], mirrored=False),
        mirrored=open_rows(chosen["sha256"], mirrored=True) if with_mirrored else None,
        labels=chosen["label"].map(LABELS.index).to_numpy(np.int64),
        groups=chosen["group"].to_numpy(),
    )

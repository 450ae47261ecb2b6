"""The second stage: the top of the backbone is trained too.

Costs a forward pass of the whole network and a backward pass of its top for every image and epoch, where the first
stage costs next to nothing. A checkpoint after each epoch lets a run that was cut off go on exactly where it was.
"""

import json
import logging
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hip_mri.config import FineTuneSettings, PreprocessingSettings
from hip_mri.dataset.preprocessing import read_images
from hip_mri.models.fitting import Epoch, EpochReport, TrainingImages, choose_jit, fit
from hip_mri.models.keras_settings import import_keras
from hip_mri.models.saved import load_weights
from hip_mri.storage import link_or_copy, publish_folder, require_room, write_json
from hip_mri.workspace import Workspace

if TYPE_CHECKING:
    import keras

logger = logging.getLogger(__name__)

BYTES_PER_STATE = 12
"""A weight and Adam's two moments of it, as float32."""

BLOCKS = ("conv2", "conv3", "conv4", "conv5")
"""Blocks of a ResNet from the image to the features; a layer's name begins with its block's."""


class ImageRows:
    """Preprocessed images, read from disk when they are asked for.

    Indexing with an array of positions gives gray levels 0-255, shape (positions, height, width, 1).
    """

    def __init__(
        self,
        hashes: pd.Series,
        workspace: Workspace,
        settings: PreprocessingSettings,
        *,
        mirrored: bool,
    ) -> None:
        self._hashes = hashes.to_numpy()
        self._workspace, self._settings, self._mirrored = workspace, settings, mirrored

    def __len__(self) -> int:
        return len(self._hashes)

    def __getitem__(self, positions: NDArray[np.integer] | slice) -> NDArray[np.float32]:
        hashes = list(self._hashes[positions])
        images = np.stack(read_images(hashes, self._workspace, self._settings, num_threads=-1))
        return (images[:, :, ::-1] if self._mirrored else images)[..., None].astype(np.float32)


def fine_tune(
    network: "keras.Model",
    training: TrainingImages,
    validation: TrainingImages,
    settings: FineTuneSettings,
    class_weight: dict[int, float] | None,
    seed: int,
    checkpoint_folder: Path,
    on_epoch: EpochReport = lambda epoch: None,
) -> tuple["keras.Model", list[Epoch]]:
    """Train the top blocks of a network together with its head.

    BatchNormalization layers keep their statistics and stay in inference mode.

    Args:
        network: The whole network, its head already trained.
        training: Images that the weights are fitted to.
        validation: Images that each epoch is measured on.
        settings: How. With patience, training ends when the validation loss has not fallen for as many epochs, and
            the weights of the best epoch are kept.
        class_weight: Weight of each label's loss.
        seed: Start of order and flips.
        checkpoint_folder: Keeps the state after the last finished epoch; training goes on from there, to the same
            weights as without the interruption.
        on_epoch: Called after each epoch of this call.

    Returns:
        The trained network, and the figures of each epoch, those before an interruption included.

    Raises:
        TrainingError: The loss is not a finite number; the checkpoint of the last good epoch stays.
    """
    keras = import_keras()
    epochs: list[Epoch] = []
    last = max(checkpoint_folder.glob("epoch-*"), default=None)
    unfreeze(network, settings.from_block)
    network.compile(
        keras.optimizers.Adam(settings.learning_rate),
        "binary_crossentropy",
        metrics=["accuracy"],
        jit_compile=choose_jit(),
    )
    if last:
        epochs = [Epoch(**epoch) for epoch in json.loads((last / "epochs.json").read_text())]
        network.optimizer.build(network.trainable_variables)
        load_weights(network, last / "network.keras")
        logger.info("Going on after epoch %d of fine-tuning", len(epochs))

    def keep(epoch: Epoch) -> bool:
        nonlocal last
        epochs.append(epoch)
        checkpoint = checkpoint_folder / f"epoch-{epoch.epoch:05d}"
        require_room(checkpoint_folder, BYTES_PER_STATE * network.count_params())
        with publish_folder(checkpoint) as fresh:
            network.save(fresh / "network.keras")
            write_json(fresh / "epochs.json", [asdict(past) for past in epochs])
            best_file = last / "best.keras" if last and _find_best(epochs) is not epoch else fresh / "network.keras"
            link_or_copy(best_file, fresh / "best.keras")
        if last:
            shutil.rmtree(last)
        last = checkpoint
        on_epoch(epoch)
        return _has_stalled(epochs, settings.early_stopping_patience)

    if not _has_stalled(epochs, settings.early_stopping_patience):
        remaining = range(len(epochs), settings.epochs)
        fit(network, training, validation, remaining, settings.batch_size, seed, class_weight, keep)
    if settings.early_stopping_patience and last:
        load_weights(network, last / "best.keras")
    return network, epochs


def _find_best(epochs: list[Epoch]) -> Epoch:
    return min(epochs, key=lambda epoch: epoch.val_loss)


def _has_stalled(epochs: list[Epoch], patience: int) -> bool:
    return bool(patience and epochs) and len(epochs) - _find_best(epochs).epoch >= patience


def unfreeze(network: "keras.Model", from_block: str) -> None:
    """Make the blocks from `from_block` on trainable, BatchNormalization left out."""
    keras = import_keras()
    trained = tuple(BLOCKS[BLOCKS.index(from_block) :])
    for layer in network.layers:
        if layer.name.startswith(trained):
            layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)


def discard_checkpoint(checkpoint_folder: Path) -> None:
    """Remove the checkpoint of a training that has come to its end."""
    shutil.rmtree(checkpoint_folder, ignore_errors=True)

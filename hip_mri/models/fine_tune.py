"""Fine-tuning: trains the top blocks of the backbone together with the head.

Every image and epoch needs a forward pass of the whole network and a backward pass of the top blocks. A checkpoint
after each epoch lets an interrupted run continue with the same result.
"""

import json
import logging
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Final

from hip_mri.config import FineTuneSettings
from hip_mri.disk_errors import require_room
from hip_mri.models.backbones.preset_layer import find_preset, unfreeze_blocks
from hip_mri.models.backbones.stages import STAGES, list_operations_from
from hip_mri.models.fitting import Epoch, EpochReport, TrainingImages, choose_jit, fit
from hip_mri.models.keras_settings import Model, import_keras
from hip_mri.models.loading import load_weights
from hip_mri.storage import link_or_copy, publish_folder, write_bytes

logger = logging.getLogger(__name__)

BYTES_PER_STATE: Final = 12
"""One parameter in a checkpoint: the weight and Adam's two moments, as float32."""


def fine_tune(
    network: Model,
    training: TrainingImages,
    validation: TrainingImages | None,
    settings: FineTuneSettings,
    class_weight: dict[int, float] | None,
    seed: int,
    checkpoint_folder: Path,
    on_epoch: EpochReport = lambda epoch: None,
) -> tuple[Model, list[Epoch]]:
    """Train the top blocks of a network together with its head.

    BatchNormalization layers keep their statistics and stay in inference mode.

    Args:
        network: The whole network with a trained head.
        training: Training images.
        validation: Images on which each epoch is evaluated; `None` skips the evaluation.
        settings: Settings of the training. With patience, training ends when the validation loss has not fallen for as
            many epochs, and the weights of the best epoch are kept.
        class_weight: Weight of the loss of each label.
        seed: Seed of order and flips.
        checkpoint_folder: Holds the state after the last finished epoch. Training continues from it, and ends in the
            same weights as without the interruption.
        on_epoch: Called after each epoch of this call.

    Returns:
        The trained network and the history of all epochs, including those before an interruption.

    Raises:
        TrainingError: The loss is not finite; the checkpoint of the last finished epoch is kept.
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
        logger.info("Fine-tuning continues after epoch %d", len(epochs))

    def save_checkpoint(epoch: Epoch) -> bool:
        nonlocal last
        epochs.append(epoch)
        checkpoint = checkpoint_folder / f"epoch-{epoch.epoch:05d}"
        require_room(checkpoint_folder, BYTES_PER_STATE * network.count_params())
        with publish_folder(checkpoint) as fresh:
            network.save(fresh / "network.keras")
            # Losses without validation are NaN, which `write_json` refuses.
            write_bytes(fresh / "epochs.json", json.dumps([asdict(past) for past in epochs]).encode())
            best_file = last / "best.keras" if last and _find_best(epochs) is not epoch else fresh / "network.keras"
            link_or_copy(best_file, fresh / "best.keras")
        if last:
            shutil.rmtree(last)
        last = checkpoint
        on_epoch(epoch)
        return _has_stalled(epochs, settings.early_stopping_patience)

    if not _has_stalled(epochs, settings.early_stopping_patience):
        remaining = range(len(epochs), settings.epochs)
        fit(network, training, validation, remaining, settings.batch_size, seed, class_weight, save_checkpoint)
    if settings.early_stopping_patience and last:
        load_weights(network, last / "best.keras")
    return network, epochs


def _find_best(epochs: list[Epoch]) -> Epoch:
    return min(epochs, key=lambda epoch: epoch.val_loss)


def _has_stalled(epochs: list[Epoch], patience: int) -> bool:
    return bool(patience and epochs) and len(epochs) - _find_best(epochs).epoch >= patience


def unfreeze(network: Model, from_block: str) -> None:
    """Make the stages from `from_block` on trainable, except their BatchNormalization layers.

    The blocks of a vision transformer count as four stages of equal length.
    """
    keras = import_keras()
    if find_preset(network):
        unfreeze_blocks(network, (len(STAGES) - STAGES.index(from_block)) / len(STAGES))
        return
    for operation in list_operations_from(network, from_block):
        if isinstance(operation, keras.layers.Layer):
            operation.trainable = not isinstance(operation, keras.layers.BatchNormalization)

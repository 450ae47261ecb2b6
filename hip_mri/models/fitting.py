"""Training loop, used for a head on features and for a whole network on images."""

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hip_mri.errors import TrainingError
from hip_mri.models.keras_settings import Model, import_keras
from hip_mri.models.network_inputs import Rows, SelectedRows, Views, cut_positions
from hip_mri.models.predict import predict_views


@dataclass(frozen=True)
class Epoch:
    """Losses and accuracies of one epoch.

    Attributes:
        epoch: Number of the epoch, from 1.
        loss: Mean binary cross-entropy of the training images during the epoch, in nats.
        accuracy: Fraction of training images classified correctly at a threshold of 0.5.
        val_loss: Mean binary cross-entropy of the validation images after the epoch; NaN without validation.
        val_accuracy: Accuracy on the validation images after the epoch; NaN without validation.
    """

    epoch: int
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float


EpochReport = Callable[[Epoch], None]


@dataclass(frozen=True)
class TrainingImages:
    """Inputs and labels to train on.

    Attributes:
        plain: Rows of the images.
        mirrored: Rows of the mirrored images, in the same order; `None` trains without flips.
        labels: 0 (normal) or 1 (lesion) per image, shape (num_images,).
        groups: Group of each image, shape (num_images,); `None` where no fit needs them.
    """

    plain: Rows
    mirrored: Rows | None
    labels: NDArray[np.int64]
    groups: NDArray | None = None

    @property
    def num_features(self) -> int:
        """Length of a row of features."""
        return self.plain[np.arange(1)].shape[1]

    def select(self, positions: NDArray[np.integer]) -> "TrainingImages":
        """Select images by position."""
        return TrainingImages(
            SelectedRows(self.plain, positions),
            None if self.mirrored is None else SelectedRows(self.mirrored, positions),
            self.labels[positions],
            None if self.groups is None else self.groups[positions],
        )


Batch = tuple[NDArray[np.float32], NDArray[np.float32]]


def fit(
    network: Model,
    training: TrainingImages,
    validation: TrainingImages | None,
    epochs: range,
    batch_size: int,
    seed: int,
    class_weight: dict[int, float] | None = None,
    on_epoch: Callable[[Epoch], bool | None] = lambda epoch: None,
) -> None:
    """Train a compiled network in place.

    Each epoch draws a new order of the training images and mirrors each with a probability of one half. Both depend
    only on the seed and the number of the epoch, so that training can continue after an interruption.

    Args:
        network: Compiled with a mean loss and the metric `accuracy`.
        training: Training images.
        validation: Images on which each epoch is evaluated, without flips; `None` skips the evaluation.
        epochs: Numbers of the epochs, from 0.
        batch_size: Images per step.
        seed: Seed of order and flips.
        class_weight: Weight of the loss of each label.
        on_epoch: Called after each epoch; training ends when it returns true.

    Raises:
        TrainingError: The loss is not finite.
    """
    make_deterministic()
    train = functools.partial(network.train_on_batch, class_weight=class_weight)
    for number in epochs:
        loss, accuracy = _process(_draw_batches(training, batch_size, seed, number), train)
        val_loss = val_accuracy = math.nan
        if validation is not None:
            val_loss, val_accuracy = _process(_cut_batches(validation, batch_size), network.test_on_batch)
        epoch = Epoch(number + 1, loss, accuracy, val_loss, val_accuracy)
        _check_finite(epoch, is_validated=validation is not None)
        if on_epoch(epoch):
            break


def measure_epoch(network: Model, training: TrainingImages, validation: TrainingImages) -> Epoch:
    """Measure loss and accuracy of a network that was fitted in one step, as those of a first epoch."""
    loss, accuracy = _measure(network, training)
    epoch = Epoch(1, loss, accuracy, *_measure(network, validation))
    _check_finite(epoch, is_validated=True)
    return epoch


def _measure(network: Model, images: TrainingImages) -> tuple[float, float]:
    """Compute mean binary cross-entropy and accuracy of the plain images."""
    scores = np.concatenate([scores for _, scores in predict_views(network, Views(images.plain))])
    scores = scores.astype(np.float64).clip(np.finfo(np.float32).eps, 1 - np.finfo(np.float32).eps)
    likelihoods = np.where(images.labels == 1, scores, 1 - scores)
    return -float(np.log(likelihoods).mean()), float((likelihoods > 0.5).mean())


def choose_jit() -> bool | Literal["auto"]:
    """Choose `jit_compile` of a network with convolutions.

    `False` for TensorFlow: XLA's convolutions on a CPU sum in an order that depends on the load of the processor.
    """
    keras = import_keras()
    return False if keras.backend.backend() == "tensorflow" else "auto"


def make_deterministic() -> None:
    """Make TensorFlow's operations deterministic; otherwise sums depend on the load of the processor."""
    keras = import_keras()
    if keras.backend.backend() == "tensorflow":
        import tensorflow  # noqa: PLC0415 - not needed by other backends

        tensorflow.config.experimental.enable_op_determinism()


def weigh_classes(labels: NDArray[np.int64]) -> dict[int, float]:
    """Compute balanced class weights: images / (classes * images of the class)."""
    counts = np.bincount(labels, minlength=2)
    return {label: len(labels) / (len(counts) * int(count)) for label, count in enumerate(counts)}


def draw_epoch(num_images: int, seed: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Draw the order of the images in an epoch, and which of them are mirrored.

    Args:
        num_images: Number of training images.
        seed: Seed of the training.
        epoch: Number of the epoch, from 0.

    Returns:
        A permutation, and for each of its positions whether the image is mirrored; both of shape (num_images,).
    """
    generator = np.random.default_rng([seed, epoch])
    return generator.permutation(num_images), generator.random(num_images) < 0.5


def _draw_batches(images: TrainingImages, batch_size: int, seed: int, epoch: int) -> Iterator[Batch]:
    order, flips = draw_epoch(len(images.labels), seed, epoch)
    for start in range(0, len(order), batch_size):
        positions, mirror = order[start : start + batch_size], flips[start : start + batch_size]
        inputs = images.plain[positions]
        if images.mirrored is not None and mirror.any():
            inputs[mirror] = images.mirrored[positions[mirror]]
        yield inputs, _as_column(images.labels[positions])


def _cut_batches(images: TrainingImages, batch_size: int) -> Iterator[Batch]:
    for positions in cut_positions(len(images.labels), batch_size):
        yield images.plain[positions], _as_column(images.labels[positions])


def _process(batches: Iterator[Batch], process: Callable[..., Mapping[str, float]]) -> tuple[float, float]:
    """Process batches up to the first loss that is not finite; returns the mean loss and accuracy of the images."""
    loss = accuracy = 0.0
    num_images = 0
    for inputs, labels in _read_ahead(batches):
        figures = process(inputs, labels, return_dict=True)
        num_images += len(labels)
        fraction = len(labels) / num_images
        loss += fraction * (float(figures["loss"]) - loss)
        accuracy += fraction * (float(figures["accuracy"]) - accuracy)
        if not math.isfinite(loss):
            break
    return loss, accuracy


def _read_ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Read the next batch in a thread while the network processes the current one."""
    with ThreadPoolExecutor(max_workers=1) as reader:
        following = reader.submit(next, batches, None)
        while (batch := following.result()) is not None:
            following = reader.submit(next, batches, None)
            yield batch


def _as_column(labels: NDArray[np.int64]) -> NDArray[np.float32]:
    return labels[:, None].astype(np.float32)


def _check_finite(epoch: Epoch, *, is_validated: bool) -> None:
    if not (math.isfinite(epoch.loss) and (math.isfinite(epoch.val_loss) or not is_validated)):
        raise TrainingError(
            f"training: the loss of epoch {epoch.epoch} is {epoch.loss} (validation {epoch.val_loss}). "
            "Lower the learning rate, or check that the weights fit the backbone."
        )

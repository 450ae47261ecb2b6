"""The training loop, the same for a head on features and for a network on images."""

import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from hip_mri.errors import TrainingError
from hip_mri.models.keras_settings import import_keras

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Epoch:
    """Figures of one pass over the training images.

    Attributes:
        epoch: Number of the pass, from 1.
        loss: Mean binary cross-entropy of the training images, in nats, while the weights moved.
        accuracy: Share of them on the right side of 0.5.
        val_loss: Mean binary cross-entropy of the validation images after the pass; NaN without such images.
        val_accuracy: Share of them on the right side of 0.5, likewise.
    """

    epoch: int
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float


EpochReport = Callable[[Epoch], None]


class Rows(Protocol):
    """Inputs that can be picked by position: an array, features on disk, images on disk."""

    def __len__(self) -> int: ...

    def __getitem__(self, positions: NDArray[np.integer]) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class TrainingImages:
    """Inputs and labels to train on.

    Attributes:
        plain: Rows of the images as they are.
        mirrored: Rows of the mirrored images, in the same order; `None` trains without flips.
        labels: 0 or 1 per image.
    """

    plain: Rows
    mirrored: Rows | None
    labels: NDArray[np.int64]


Batch = tuple[NDArray[np.float32], NDArray[np.float32]]


def fit(
    network: "keras.Model",
    training: TrainingImages,
    validation: TrainingImages | None,
    epochs: range,
    batch_size: int,
    seed: int,
    class_weight: dict[int, float] | None = None,
    on_epoch: Callable[[Epoch], bool | None] = lambda epoch: None,
) -> None:
    """Train a compiled network in place.

    Each epoch visits the training images in a new order and takes each as it is or mirrored, with equal chance.
    What an epoch does depends on the seed and its number alone, so that training can go on where it was cut off.

    Args:
        network: Compiled with a mean loss and the metric `accuracy`.
        training: What the weights are fitted to.
        validation: What each epoch is measured on; its mirrored rows are not used. `None` measures nothing.
        epochs: Numbers of the epochs, from 0.
        batch_size: Images per step.
        seed: Start of order and flips.
        class_weight: Weight of each label's loss.
        on_epoch: Called after each epoch; training ends when it returns true.

    Raises:
        TrainingError: The loss is not a finite number.
    """
    make_repeatable()
    for number in epochs:
        loss, accuracy = _train_once(network, _draw_batches(training, batch_size, seed, number), class_weight)
        val_loss = val_accuracy = math.nan
        if validation is not None:
            val_loss, val_accuracy = _validate(network, _cut_batches(validation, batch_size))
        epoch = Epoch(number + 1, loss, accuracy, val_loss, val_accuracy)
        _check_finite(epoch, is_validated=validation is not None)
        if on_epoch(epoch):
            break


def choose_jit() -> bool | Literal["auto"]:
    """Whether Keras compiles a network with convolutions.

    Not on TensorFlow: XLA's convolutions on a CPU add up in an order that changes while the processor is busy.
    """
    keras = import_keras()
    return False if keras.backend.backend() == "tensorflow" else "auto"


def make_repeatable() -> None:
    """Let TensorFlow add up in a fixed order, or the same training gives other bits when the processor is busy."""
    keras = import_keras()
    if keras.backend.backend() == "tensorflow":
        import tensorflow  # noqa: PLC0415 - another backend does without it

        tensorflow.config.experimental.enable_op_determinism()


def weigh_classes(labels: NDArray[np.int64]) -> dict[int, float]:
    """Weight of each class: images / (classes x images of the class), so that both count the same in sum."""
    counts = np.bincount(labels, minlength=2)
    return {label: len(labels) / (len(counts) * int(count)) for label, count in enumerate(counts)}


def draw_epoch(num_images: int, seed: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Draw the order of an epoch and which images it mirrors.

    Args:
        num_images: Number of training images.
        seed: Start of the random choice.
        epoch: Number of the epoch, from 0.

    Returns:
        A permutation, and for each position of it whether the image is mirrored; shape (num_images,) both.
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
    for start in range(0, len(images.labels), batch_size):
        positions = np.arange(start, min(start + batch_size, len(images.labels)))
        yield images.plain[positions], _as_column(images.labels[positions])


def _train_once(
    network: "keras.Model", batches: Iterator[Batch], class_weight: dict[int, float] | None
) -> tuple[float, float]:
    mean = _RunningMean()
    for inputs, labels in _read_ahead(batches):
        figures = network.train_on_batch(inputs, labels, class_weight=class_weight, return_dict=True)
        mean.add(figures, len(labels))
        if not math.isfinite(mean.loss):
            break
    return mean.loss, mean.accuracy


def _validate(network: "keras.Model", batches: Iterator[Batch]) -> tuple[float, float]:
    mean = _RunningMean()
    for inputs, labels in _read_ahead(batches):
        mean.add(network.test_on_batch(inputs, labels, return_dict=True), len(labels))
    return mean.loss, mean.accuracy


def _read_ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Read the next batch while the network works on this one."""
    with ThreadPoolExecutor(max_workers=1) as reader:
        coming = reader.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = reader.submit(next, batches, None)
            yield batch


class _RunningMean:
    """Means over images of what Keras reports as means over one batch."""

    def __init__(self) -> None:
        self.loss = self.accuracy = 0.0
        self._num_images = 0

    def add(self, figures: Mapping[str, float], num_images: int) -> None:
        self._num_images += num_images
        share = num_images / self._num_images
        self.loss += share * (float(figures["loss"]) - self.loss)
        self.accuracy += share * (float(figures["accuracy"]) - self.accuracy)


def _as_column(labels: NDArray[np.int64]) -> NDArray[np.float32]:
    return labels[:, None].astype(np.float32)


def _check_finite(epoch: Epoch, *, is_validated: bool) -> None:
    if not (math.isfinite(epoch.loss) and (math.isfinite(epoch.val_loss) or not is_validated)):
        raise TrainingError(
            f"training: the loss of epoch {epoch.epoch} is {epoch.loss} (validation {epoch.val_loss}). "
            "Lower the learning rate, or check that the weights fit the backbone."
        )

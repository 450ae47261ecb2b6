"""The head: Dense ReLU and a sigmoid on frozen features, trained as the original recipe trains it."""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hip_mri.config import TrainingSettings
from hip_mri.errors import TrainingError
from hip_mri.model.backbone import NUM_FEATURES

if TYPE_CHECKING:
    import keras

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Epoch:
    """Figures of one pass over the training images.

    Attributes:
        epoch: Number of the pass, from 1.
        loss: Mean binary cross-entropy of the training images, in nats, while the weights moved.
        accuracy: Share of them on the right side of 0.5.
        val_loss: Mean binary cross-entropy of the validation images after the pass.
        val_accuracy: Share of them on the right side of 0.5.
    """

    epoch: int
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float


EpochReport = Callable[[Epoch], None]


class Rows(Protocol):
    """Rows of features that can be picked by position: an array, or rows on disk."""

    def __len__(self) -> int: ...

    def __getitem__(self, positions: NDArray[np.integer]) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class TrainingImages:
    """Features and labels to train on.

    Attributes:
        plain: Rows of the images as they are.
        mirrored: Rows of the mirrored images, in the same order; `None` trains without flips.
        labels: 0 or 1 per image.
    """

    plain: Rows
    mirrored: Rows | None
    labels: NDArray[np.int64]


def build_head(hidden_units: int, seed: int, num_features: int = NUM_FEATURES) -> "keras.Model":
    """Build the head; features in, probability of a lesion out.

    Args:
        hidden_units: Width of the dense layer.
        seed: Start of the initial weights. It goes to each layer, since Keras' global random state is shared with
            other threads.
        num_features: Width of the input.

    Source of the initial weights: Glorot and Bengio, AISTATS 2010, Keras' default.
    """
    import keras  # noqa: PLC0415 - seconds to import

    first_seed, second_seed = (int(number) for number in np.random.default_rng(seed).integers(2**31, size=2))
    features = keras.Input((num_features,), name="features")
    hidden = keras.layers.Dense(
        hidden_units, "relu", kernel_initializer=keras.initializers.GlorotUniform(first_seed), name="hidden"
    )(features)
    # The loss is taken on float32, whatever the precision of the rest.
    score = keras.layers.Dense(
        1, "sigmoid", kernel_initializer=keras.initializers.GlorotUniform(second_seed), dtype="float32", name="score"
    )(hidden)
    return keras.Model(features, score, name="head")


def train_head(
    training: TrainingImages,
    validation: TrainingImages,
    hidden_units: int,
    settings: TrainingSettings,
    seed: int,
    on_epoch: EpochReport = lambda epoch: None,
) -> tuple["keras.Model", pd.DataFrame]:
    """Train a head with Adam on binary cross-entropy.

    Each epoch visits the training images in a new order and takes each as it is or mirrored, with equal chance.
    This is the original recipe's training on live images, with the frozen backbone's work done beforehand.

    Args:
        training: What the weights are fitted to.
        validation: What each epoch is measured on; its mirrored rows are not used.
        hidden_units: Width of the dense layer.
        settings: How.
        seed: Start of initial weights, order and flips.
        on_epoch: Called after each epoch.

    Returns:
        The head, and one row per epoch with the fields of `Epoch`.

    Raises:
        TrainingError: The loss is not a finite number.
    """
    import keras  # noqa: PLC0415 - seconds to import

    head = build_head(hidden_units, seed)
    head.compile(
        optimizer=keras.optimizers.Adam(settings.learning_rate), loss="binary_crossentropy", metrics=["accuracy"]
    )
    return fit_head(head, training, validation, settings, seed, on_epoch)


def fit_head(
    head: "keras.Model",
    training: TrainingImages,
    validation: TrainingImages,
    settings: TrainingSettings,
    seed: int,
    on_epoch: EpochReport = lambda epoch: None,
) -> tuple["keras.Model", pd.DataFrame]:
    """Train a compiled head; see `train_head`."""
    class_weight = weigh_classes(training.labels) if settings.class_weight == "balanced" else None
    epochs: list[Epoch] = []
    best_loss, best_epoch, best_weights = math.inf, 0, head.get_weights()
    for number in range(settings.epochs):
        loss, accuracy = _train_once(head, training, settings.batch_size, seed, number, class_weight)
        val_loss, val_accuracy = _validate(head, validation, settings.batch_size)
        epoch = Epoch(number + 1, loss, accuracy, val_loss, val_accuracy)
        _check_finite(epoch)
        epochs.append(epoch)
        on_epoch(epoch)
        if settings.early_stopping_patience:
            if val_loss < best_loss:
                best_loss, best_epoch, best_weights = val_loss, number, head.get_weights()
            elif number - best_epoch >= settings.early_stopping_patience:
                break
    if settings.early_stopping_patience:
        head.set_weights(best_weights)
    return head, pd.DataFrame([asdict(epoch) for epoch in epochs])


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


def _train_once(
    head: "keras.Model",
    images: TrainingImages,
    batch_size: int,
    seed: int,
    epoch: int,
    class_weight: dict[int, float] | None,
) -> tuple[float, float]:
    order, flips = draw_epoch(len(images.labels), seed, epoch)
    mean = _RunningMean()
    for start in range(0, len(order), batch_size):
        positions, mirror = order[start : start + batch_size], flips[start : start + batch_size]
        features = images.plain[positions]
        if images.mirrored is not None and mirror.any():
            features[mirror] = images.mirrored[positions[mirror]]
        labels = images.labels[positions][:, None].astype(np.float32)
        mean.add(head.train_on_batch(features, labels, class_weight=class_weight, return_dict=True), len(labels))
    return mean.loss, mean.accuracy


def _validate(head: "keras.Model", images: TrainingImages, batch_size: int) -> tuple[float, float]:
    mean = _RunningMean()
    for start in range(0, len(images.labels), batch_size):
        positions = np.arange(start, min(start + batch_size, len(images.labels)))
        labels = images.labels[positions][:, None].astype(np.float32)
        mean.add(head.test_on_batch(images.plain[positions], labels, return_dict=True), len(labels))
    return mean.loss, mean.accuracy


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


def _check_finite(epoch: Epoch) -> None:
    if not (math.isfinite(epoch.loss) and math.isfinite(epoch.val_loss)):
        raise TrainingError(
            f"training: the loss of epoch {epoch.epoch} is {epoch.loss} (validation {epoch.val_loss}). "
            "Lower --training.learning-rate, or check that the weights fit the backbone."
        )

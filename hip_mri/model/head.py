"""The head: Dense ReLU and a sigmoid on frozen features, trained as the original recipe trains it."""

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hip_mri.config import BackboneName, TrainingSettings
from hip_mri.model.backbone import NUM_FEATURES, build_backbone
from hip_mri.model.fitting import Epoch, EpochReport, TrainingImages, fit, weigh_classes

if TYPE_CHECKING:
    import keras


FIRST_HEAD_LAYER: Final = "hidden"
"""Layer that takes the features; everything before it is the backbone."""


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

    features = keras.Input((num_features,), name="features")
    return keras.Model(features, _score(features, hidden_units, seed), name="head")


def build_network(name: BackboneName, image_size: int, hidden_units: int, *, standardized: bool) -> "keras.Model":
    """Build the whole architecture, with random weights: what `join_network` makes, each layer called once."""
    import keras  # noqa: PLC0415 - seconds to import

    backbone = build_backbone(name, image_size, standardized=standardized)
    return keras.Model(backbone.input, _score(backbone.output, hidden_units, seed=0), name=_name_network(backbone))


def _score(features: Any, hidden_units: int, seed: int) -> Any:
    """Symbolic features to a symbolic probability."""
    import keras  # noqa: PLC0415 - seconds to import

    first_seed, second_seed = (int(number) for number in np.random.default_rng(seed).integers(2**31, size=2))
    hidden = keras.layers.Dense(
        hidden_units, "relu", kernel_initializer=keras.initializers.GlorotUniform(first_seed), name=FIRST_HEAD_LAYER
    )(features)
    # The loss is taken on float32, whatever the precision of the rest.
    return keras.layers.Dense(
        1, "sigmoid", kernel_initializer=keras.initializers.GlorotUniform(second_seed), dtype="float32", name="score"
    )(hidden)


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
    return keras.Model(backbone.input, score, name=_name_network(backbone))


def _name_network(backbone: "keras.Model") -> str:
    return f"hip_mri_{backbone.name}"


def train_head(
    training: TrainingImages,
    validation: TrainingImages,
    hidden_units: int,
    settings: TrainingSettings,
    seed: int,
    on_epoch: EpochReport = lambda epoch: None,
) -> tuple["keras.Model", list[Epoch]]:
    """Train a head with Adam on binary cross-entropy.

    This is the original recipe's training on live images, with the frozen backbone's work done beforehand.

    Args:
        training: Features that the weights are fitted to.
        validation: Features that each epoch is measured on.
        hidden_units: Width of the dense layer.
        settings: How. With patience, training ends when the validation loss has not fallen for as many epochs, and
            the weights of the best epoch are kept.
        seed: Start of initial weights, order and flips.
        on_epoch: Called after each epoch.

    Returns:
        The head, and the figures of each epoch.

    Raises:
        TrainingError: The loss is not a finite number.
    """
    import keras  # noqa: PLC0415 - seconds to import

    head = build_head(hidden_units, seed)
    head.compile(keras.optimizers.Adam(settings.learning_rate), "binary_crossentropy", metrics=["accuracy"])
    epochs: list[Epoch] = []
    patience = settings.early_stopping_patience
    best_loss, best_epoch, best_weights = math.inf, 0, head.get_weights()

    def follow(epoch: Epoch) -> bool:
        nonlocal best_loss, best_epoch, best_weights
        epochs.append(epoch)
        on_epoch(epoch)
        if patience and epoch.val_loss < best_loss:
            best_loss, best_epoch, best_weights = epoch.val_loss, epoch.epoch, head.get_weights()
        return bool(patience) and len(epochs) - best_epoch >= patience

    class_weight = weigh_classes(training.labels) if settings.class_weight == "balanced" else None
    fit(head, training, validation, range(settings.epochs), settings.batch_size, seed, class_weight, follow)
    if patience:
        head.set_weights(best_weights)
    return head, epochs

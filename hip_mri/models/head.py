"""Builds and trains the head: a dense ReLU layer and a sigmoid on frozen features."""

import math
from typing import Any, Final

import numpy as np

from hip_mri.config import BackboneName, InputScaling, TrainingSettings
from hip_mri.models.backbones.backbone import build_backbone
from hip_mri.models.fitting import Epoch, EpochReport, TrainingImages, fit, make_deterministic, weigh_classes
from hip_mri.models.keras_settings import Model, import_keras

FIRST_HEAD_LAYER: Final = "hidden"
"""First layer of the head; the layers before it are the backbone."""

PREFIX: Final = "hip_mri_"
"""Prefix of the name of a whole network; the rest is the name of its backbone."""


def build_head(num_features: int, hidden_units: int, seed: int) -> Model:
    """Build the head, from features to the probability of a lesion.

    The seed determines the initial weights. Each layer has an initializer with a seed of its own, since Keras' global
    random state is shared between threads.

    Source of the initial weights: Glorot and Bengio, AISTATS 2010, the default of Keras.
    """
    keras = import_keras()
    features = keras.Input((num_features,), name="features")
    return keras.Model(features, _score(features, hidden_units, seed), name="head")


def build_network(
    name: BackboneName, image_size: int, hidden_units: int, *, scaling: InputScaling | None = None, standardized: bool
) -> Model:
    """Build a whole network with random weights, of the same architecture as `join_network` returns."""
    keras = import_keras()
    backbone = build_backbone(name, image_size, scaling=scaling, standardized=standardized)
    return keras.Model(backbone.input, _score(backbone.output, hidden_units, seed=0), name=_name_network(backbone))


def _score(features: Any, hidden_units: int, seed: int) -> Any:
    """Add the layers of the head to symbolic features; returns the symbolic probability."""
    keras = import_keras()
    first_seed, second_seed = _draw_layer_seeds(seed)
    hidden = keras.layers.Dense(
        hidden_units, "relu", kernel_initializer=keras.initializers.GlorotUniform(first_seed), name=FIRST_HEAD_LAYER
    )(features)
    # float32, since the loss is computed from it; the other layers may have another precision.
    return keras.layers.Dense(
        1, "sigmoid", kernel_initializer=keras.initializers.GlorotUniform(second_seed), dtype="float32", name="score"
    )(hidden)


def _draw_layer_seeds(seed: int) -> tuple[int, int]:
    """Draw the seeds of the initial weights of the hidden layer and of the last layer."""
    first, second = np.random.default_rng(seed).integers(2**31, size=2)
    return int(first), int(second)


def join_network(backbone: Model, head: Model) -> Model:
    """Join a backbone and a head.

    Args:
        backbone: Gray levels 0-255, shape (batch, height, width, 1), to features.
        head: Features to a probability.

    Returns:
        One flat network with the layers and weights of both; only those of the head are trainable.
    """
    keras = import_keras()
    score = backbone.output
    for layer in head.layers[1:]:
        score = layer(score)
    return keras.Model(backbone.input, score, name=_name_network(backbone))


def cut_network(network: Model) -> tuple[Model, Model]:
    """Divide a network into backbone and head with their weights, the reverse of `join_network`."""
    keras = import_keras()
    hidden = network.get_layer(FIRST_HEAD_LAYER)
    features = network.layers[network.layers.index(hidden) - 1].output
    backbone = keras.Model(network.input, features, name=network.name.removeprefix(PREFIX))
    head = build_head(features.shape[-1], hidden.units, seed=0)
    for layer in head.layers[1:]:
        layer.set_weights(network.get_layer(layer.name).get_weights())
    return backbone, head


def _name_network(backbone: Model) -> str:
    return f"{PREFIX}{backbone.name}"


def compile_head(num_features: int, hidden_units: int, settings: TrainingSettings) -> Model:
    """Build and compile a head. `train_head` can be called on it repeatedly; its functions are traced once."""
    keras = import_keras()
    make_deterministic()
    head = build_head(num_features, hidden_units, seed=0)
    head.compile(keras.optimizers.Adam(settings.learning_rate), "binary_crossentropy", metrics=["accuracy"])
    head.optimizer.build(head.trainable_variables)
    return head


def train_head(
    head: Model,
    training: TrainingImages,
    validation: TrainingImages | None,
    settings: TrainingSettings,
    seed: int,
    on_epoch: EpochReport = lambda epoch: None,
) -> list[Epoch]:
    """Train a head with Adam on binary cross-entropy, from the initial weights that the seed gives.

    Equivalent to training the whole network on images with a frozen backbone.

    Args:
        head: From `compile_head`; its weights are initialized again.
        training: Training features.
        validation: Features on which each epoch is evaluated; `None` skips the evaluation.
        settings: Settings of the training. With patience, training ends when the validation loss has not fallen for as
            many epochs, and the weights of the best epoch are kept.
        seed: Seed of initial weights, order and flips.
        on_epoch: Called after each epoch.

    Returns:
        The history, one entry per epoch.

    Raises:
        TrainingError: The loss is not finite.
    """
    _reset(head, seed)
    epochs: list[Epoch] = []
    patience = settings.early_stopping_patience
    best_loss, best_epoch, best_weights = math.inf, 0, head.get_weights() if patience else []

    def record(epoch: Epoch) -> bool:
        nonlocal best_loss, best_epoch, best_weights
        epochs.append(epoch)
        on_epoch(epoch)
        if patience and epoch.val_loss < best_loss:
            best_loss, best_epoch, best_weights = epoch.val_loss, epoch.epoch, head.get_weights()
        return bool(patience) and len(epochs) - best_epoch >= patience

    class_weight = weigh_classes(training.labels) if settings.class_weight == "balanced" else None
    fit(head, training, validation, range(settings.epochs), settings.batch_size, seed, class_weight, record)
    if patience:
        head.set_weights(best_weights)
    return epochs


def _reset(head: Model, seed: int) -> None:
    """Set a compiled head to the initial weights of a seed, and reset its optimizer."""
    keras = import_keras()
    for layer, layer_seed in zip(head.layers[1:], _draw_layer_seeds(seed), strict=True):
        layer.kernel.assign(keras.initializers.GlorotUniform(layer_seed)(layer.kernel.shape))
        layer.bias.assign(np.zeros(layer.bias.shape, np.float32))
    learning_rate = head.optimizer.learning_rate
    for variable in head.optimizer.variables:
        if variable is not learning_rate:
            variable.assign(np.zeros(variable.shape, variable.dtype))

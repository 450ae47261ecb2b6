"""Trains the dense head: a ReLU layer and a sigmoid on frozen features."""

import math
import threading
from typing import Any, Final

import numpy as np

from hip_mri.config import TrainingSettings
from hip_mri.models.fitting import Epoch, EpochReport, TrainingImages, fit, make_deterministic, weigh_classes
from hip_mri.models.keras_settings import Model, import_keras

HIDDEN: Final = "hidden"
"""Name of the dense ReLU layer."""

SCORE: Final = "score"
"""Name of the last layer of every head."""


def add_dense(features: Any, hidden_units: int, seed: int) -> Any:
    """Add a dense head to symbolic features; returns the symbolic probability.

    The seed determines the initial weights. Each layer has an initializer with a seed of its own, since Keras' global
    random state is shared between threads.

    Source of the initial weights: Glorot and Bengio, AISTATS 2010, the default of Keras.
    """
    keras = import_keras()
    first_seed, second_seed = _draw_layer_seeds(seed)
    hidden = keras.layers.Dense(
        hidden_units, "relu", kernel_initializer=keras.initializers.GlorotUniform(first_seed), name=HIDDEN
    )(features)
    return add_sigmoid(hidden, second_seed)


def add_sigmoid(inputs: Any, seed: int) -> Any:
    """Add one unit with a sigmoid; returns the symbolic probability."""
    keras = import_keras()
    initializer = keras.initializers.GlorotUniform(seed)
    # float32, since the loss is computed from it; the other layers may have another precision.
    return keras.layers.Dense(1, "sigmoid", kernel_initializer=initializer, dtype="float32", name=SCORE)(inputs)


def _draw_layer_seeds(seed: int) -> tuple[int, int]:
    """Draw the seeds of the initial weights of the hidden layer and of the last layer."""
    first, second = np.random.default_rng(seed).integers(2**31, size=2)
    return int(first), int(second)


def compile_head(num_features: int, hidden_units: int, settings: TrainingSettings) -> Model:
    """Build and compile a dense head. `train_head` can be called on it repeatedly; its functions are traced once."""
    keras = import_keras()
    make_deterministic()
    features = keras.Input((num_features,), name="features")
    head = keras.Model(features, add_dense(features, hidden_units, seed=0), name="head")
    head.compile(keras.optimizers.Adam(settings.learning_rate), "binary_crossentropy", metrics=["accuracy"])
    head.optimizer.build(head.trainable_variables)
    return head


_compiled = threading.local()
"""Head of each thread; tracing its functions costs more than training on few images."""


def get_compiled_head(num_features: int, hidden_units: int, settings: TrainingSettings) -> Model:
    """Return the compiled head of this thread; its next training overwrites its weights."""
    key = (num_features, hidden_units, settings.learning_rate)
    if getattr(_compiled, "key", None) != key:
        _compiled.key, _compiled.head = key, compile_head(num_features, hidden_units, settings)
    return _compiled.head


def train_head(
    head: Model,
    training: TrainingImages,
    validation: TrainingImages | None,
    settings: TrainingSettings,
    seed: int,
    on_epoch: EpochReport = lambda epoch: None,
) -> list[Epoch]:
    """Train a dense head with Adam on binary cross-entropy, from the initial weights that the seed gives.

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

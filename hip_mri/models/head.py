"""The head: Dense ReLU and a sigmoid on frozen features, trained as the original recipe trains it."""

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hip_mri.config import BackboneName, TrainingSettings
from hip_mri.models.backbones.backbone import NUM_FEATURES, build_backbone
from hip_mri.models.fitting import Epoch, EpochReport, TrainingImages, fit, make_repeatable, weigh_classes
from hip_mri.models.keras_settings import import_keras

if TYPE_CHECKING:
    import keras


FIRST_HEAD_LAYER: Final = "hidden"
"""Layer that takes the features; everything before it is the backbone."""


PREFIX: Final = "hip_mri_"
"""What the name of a whole network begins with; the rest is its backbone's."""


def build_head(hidden_units: int, seed: int, num_features: int = NUM_FEATURES) -> "keras.Model":
    """Build the head; features in, probability of a lesion out.

    Args:
        hidden_units: Width of the dense layer.
        seed: Start of the initial weights. It goes to each layer, since Keras' global random state is shared with
            other threads.
        num_features: Width of the input.

    Source of the initial weights: Glorot and Bengio, AISTATS 2010, Keras' default.
    """
    keras = import_keras()
    features = keras.Input((num_features,), name="features")
    return keras.Model(features, _score(features, hidden_units, seed), name="head")


def build_network(name: BackboneName, image_size: int, hidden_units: int, *, standardized: bool) -> "keras.Model":
    """Build the whole architecture, with random weights: what `join_network` makes, each layer called once."""
    keras = import_keras()
    backbone = build_backbone(name, image_size, standardized=standardized)
    return keras.Model(backbone.input, _score(backbone.output, hidden_units, seed=0), name=_name_network(backbone))


def _score(features: Any, hidden_units: int, seed: int) -> Any:
    """Symbolic features to a symbolic probability."""
    keras = import_keras()
    first_seed, second_seed = _draw_layer_seeds(seed)
    hidden = keras.layers.Dense(
        hidden_units, "relu", kernel_initializer=keras.initializers.GlorotUniform(first_seed), name=FIRST_HEAD_LAYER
    )(features)
    # The loss is taken on float32, whatever the precision of the rest.
    return keras.layers.Dense(
        1, "sigmoid", kernel_initializer=keras.initializers.GlorotUniform(second_seed), dtype="float32", name="score"
    )(hidden)


def _draw_layer_seeds(seed: int) -> tuple[int, int]:
    """Seeds of the initial weights of the hidden layer and of the last one."""
    first, second = np.random.default_rng(seed).integers(2**31, size=2)
    return int(first), int(second)


def join_network(backbone: "keras.Model", head: "keras.Model") -> "keras.Model":
    """Put a head onto a backbone.

    Args:
        backbone: Gray levels 0-255, shape (batch, height, width, 1), to features.
        head: Features to a probability.

    Returns:
        One flat network with the layers and weights of both; only the head's are trainable.
    """
    keras = import_keras()
    score = backbone.output
    for layer in head.layers[1:]:
        score = layer(score)
    return keras.Model(backbone.input, score, name=_name_network(backbone))


def cut_network(network: "keras.Model") -> tuple["keras.Model", "keras.Model"]:
    """Cut a whole network into its backbone and its head, the reverse of `join_network`; the weights stay."""
    keras = import_keras()
    hidden = network.get_layer(FIRST_HEAD_LAYER)
    features = network.layers[network.layers.index(hidden) - 1].output
    backbone = keras.Model(network.input, features, name=network.name.removeprefix(PREFIX))
    head = build_head(hidden.units, seed=0, num_features=features.shape[-1])
    for layer in head.layers[1:]:
        layer.set_weights(network.get_layer(layer.name).get_weights())
    return backbone, head


def _name_network(backbone: "keras.Model") -> str:
    return f"{PREFIX}{backbone.name}"


def compile_head(hidden_units: int, settings: TrainingSettings) -> "keras.Model":
    """Build a head and make it ready for `train_head`, as often as one likes: its functions are traced once."""
    keras = import_keras()
    make_repeatable()
    head = build_head(hidden_units, seed=0)
    head.compile(keras.optimizers.Adam(settings.learning_rate), "binary_crossentropy", metrics=["accuracy"])
    head.optimizer.build(head.trainable_variables)
    return head


def train_head(
    head: "keras.Model",
    training: TrainingImages,
    validation: TrainingImages | None,
    settings: TrainingSettings,
    seed: int,
    on_epoch: EpochReport = lambda epoch: None,
) -> list[Epoch]:
    """Train a head with Adam on binary cross-entropy, from the initial weights that the seed gives.

    This is the original recipe's training on live images, with the frozen backbone's work done beforehand.

    Args:
        head: From `compile_head`; whatever it has learned before is forgotten.
        training: Features that the weights are fitted to.
        validation: Features that each epoch is measured on; `None` measures nothing.
        settings: How. With patience, training ends when the validation loss has not fallen for as many epochs, and
            the weights of the best epoch are kept.
        seed: Start of initial weights, order and flips.
        on_epoch: Called after each epoch.

    Returns:
        The figures of each epoch.

    Raises:
        TrainingError: The loss is not a finite number.
    """
    _reset(head, seed)
    epochs: list[Epoch] = []
    patience = settings.early_stopping_patience
    best_loss, best_epoch, best_weights = math.inf, 0, head.get_weights() if patience else []

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
    return epochs


def _reset(head: "keras.Model", seed: int) -> None:
    """Give a compiled head the initial weights of a seed, and its optimizer the state before the first step."""
    keras = import_keras()
    for layer, layer_seed in zip(head.layers[1:], _draw_layer_seeds(seed), strict=True):
        layer.kernel.assign(keras.initializers.GlorotUniform(layer_seed)(layer.kernel.shape))
        layer.bias.assign(np.zeros(layer.bias.shape, np.float32))
    learning_rate = head.optimizer.learning_rate
    for variable in head.optimizer.variables:
        if variable is not learning_rate:
            variable.assign(np.zeros(variable.shape, variable.dtype))

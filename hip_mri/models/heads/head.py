"""Builds, fits, joins and cuts heads of every kind."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any, Final

from hip_mri.config import BackboneName, HeadDesign, InputScaling, TrainingSettings
from hip_mri.models.backbones.backbone import build_backbone
from hip_mri.models.fitting import Epoch, EpochReport, TrainingImages, measure_epoch
from hip_mri.models.heads.dense import (
    HIDDEN,
    SCORE,
    add_dense,
    add_sigmoid,
    compile_head,
    get_compiled_head,
    train_head,
)
from hip_mri.models.heads.logistic import fit_logistic
from hip_mri.models.heads.nearest_neighbors import KNN_CLASS, add_nearest_neighbors, fit_nearest_neighbors
from hip_mri.models.keras_settings import Model, import_keras

PREFIX: Final = "hip_mri_"
"""Prefix of the name of a whole network; the rest is the name of its backbone."""

MAX_HIDDEN_UNITS: Final = 65_536
MAX_STORED_REFERENCES: Final = 2**20
"""Limits of the head that a file may describe."""


def build_head(num_features: int, design: HeadDesign, seed: int) -> Model:
    """Build a head, from features to the probability of a lesion; the seed determines its initial weights."""
    keras = import_keras()
    features = keras.Input((num_features,), name="features")
    return keras.Model(features, _score(features, design, seed), name="head")


def build_network(
    name: BackboneName, image_size: int, design: HeadDesign, *, scaling: InputScaling | None = None, standardized: bool
) -> Model:
    """Build a whole network with random weights, of the same architecture as `join_network` returns."""
    keras = import_keras()
    backbone = build_backbone(name, image_size, scaling=scaling, standardized=standardized)
    return keras.Model(backbone.input, _score(backbone.output, design, seed=0), name=_name_network(backbone))


def _score(features: Any, design: HeadDesign, seed: int) -> Any:
    """Add the layers of a head to symbolic features; returns the symbolic probability."""
    match design.kind:
        case "dense":
            return add_dense(features, design.hidden_units, seed)
        case "logistic":
            return add_sigmoid(features, seed)
        case "knn":
            return add_nearest_neighbors(features, design.num_references)


def fit_head(
    design: HeadDesign,
    training: TrainingImages,
    validation: TrainingImages | None,
    settings: TrainingSettings,
    seed: int,
    on_epoch: EpochReport = lambda epoch: None,
    *,
    reuse_compiled: bool = False,
) -> tuple[Model, list[Epoch]]:
    """Fit a head on features.

    Args:
        design: Kind of the head and its size.
        training: Training features, with groups for a logistic head.
        validation: Features on which each epoch is evaluated; `None` skips the evaluation.
        settings: Settings of the training.
        seed: Seed of every random choice.
        on_epoch: Called after each epoch.
        reuse_compiled: Whether the next call in this thread may overwrite the weights of a dense head, which saves
            tracing its functions again.

    Returns:
        The head and the history, one entry per epoch. Logistic and knn heads have a single entry.

    Raises:
        TrainingError: The loss is not finite.
    """
    num_features = training.num_features
    if design.kind == "dense":
        compiled = (get_compiled_head if reuse_compiled else compile_head)(num_features, design.hidden_units, settings)
        return compiled, train_head(compiled, training, validation, settings, seed, on_epoch)
    if design.kind == "logistic":
        head, weights = build_head(num_features, design, seed=0), fit_logistic(training, settings, seed)
    else:
        weights = fit_nearest_neighbors(training, seed)
        head = build_head(num_features, replace(design, num_references=len(weights[-1])), seed=0)
    head.get_layer(SCORE).set_weights(weights)
    head.run_eagerly = True  # tracing takes longer than these few operations
    if validation is None:
        return head, []
    epoch = measure_epoch(head, training, validation)
    on_epoch(epoch)
    return head, [epoch]


def list_head_libraries(design: HeadDesign) -> dict[str, str]:
    """Return the version of each library beside Keras that determines the weights of a head."""
    return {"scikit-learn": version("scikit-learn")} if design.kind == "logistic" else {}


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
    design = find_head_design([keras.saving.serialize_keras_object(layer) for layer in network.layers[-2:]])
    first = network.get_layer(HIDDEN if design.kind == "dense" else SCORE)
    features = network.layers[network.layers.index(first) - 1].output
    backbone = keras.Model(network.input, features, name=network.name.removeprefix(PREFIX))
    head = build_head(features.shape[-1], design, seed=0)
    for layer in head.layers[1:]:
        layer.set_weights(network.get_layer(layer.name).get_weights())
    return backbone, head


def find_head_design(layers: Sequence[Mapping[str, Any]]) -> HeadDesign:
    """Find the design of a head from the description of the last two layers of a network, as Keras serializes them.

    Raises:
        ValueError: Its size is out of range.
    """
    before, last = layers[-2:]
    if last["class_name"] == KNN_CLASS:
        return HeadDesign("knn", num_references=_check_size(last["config"]["num_references"], MAX_STORED_REFERENCES))
    if before["config"].get("name") != HIDDEN:
        return HeadDesign("logistic")
    return HeadDesign("dense", hidden_units=_check_size(before["config"]["units"], MAX_HIDDEN_UNITS))


def _check_size(size: Any, limit: int) -> int:
    if not (isinstance(size, int) and 0 < size <= limit):
        raise ValueError(f"its head has the width {str(size)[:20]}")
    return size


def _name_network(backbone: Model) -> str:
    return f"{PREFIX}{backbone.name}"

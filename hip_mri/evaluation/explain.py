"""Grad-CAM heat maps of images, and the choice of images to explain.

The last feature maps are followed by global average pooling, optional normalizations and dense layers. For such a
head the gradient of the logit with respect to the maps has a closed form, so that any engine can compute heat maps with
forward passes only.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from hip_mri.dataset.table_files import load_array
from hip_mri.errors import EvaluationError
from hip_mri.evaluation.charts.image_sheets import MAX_CASES, Outcome
from hip_mri.hashes import digest, digest_file
from hip_mri.models.backbones.backbone import Backbone, get_architecture, load_backbone
from hip_mri.models.backbones.engines import open_engine
from hip_mri.models.heads.nearest_neighbors import KNN_CLASS, differentiate_nearest_neighbors
from hip_mri.models.keras_settings import Model, import_keras
from hip_mri.models.loading import load_head
from hip_mri.models.scoring import SplitNetwork
from hip_mri.storage import replace_file

EXPLANATION_RECIPE: Final = 1
"""Version of the explanation; raised by changes that alter heat maps."""

BATCH_SIZE: Final = 16
"""Images whose last maps are held in memory at once; 400 KB each for a ResNet at 224 pixels."""

ExplainImages = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""From images, shape (num_images, height, width), to heat maps of the same shape; see `explain_images`."""


def explain_images(network: SplitNetwork, images: NDArray[np.uint8], cache_folder: Path) -> NDArray[np.float32]:
    """Compute Grad-CAM heat maps, or read them from the cache.

    Args:
        network: The network that scored the images.
        images: Preprocessed gray levels 0-255, shape (num_images, height, width).
        cache_folder: Folder of computed heat maps.

    Returns:
        Heat 0-1, of the same shape. The maximum of an image is 1, independent of its score; an image without evidence
        for a lesion is 0 everywhere.

    Raises:
        EvaluationError: The images do not fit the network, or its head has other layers than Grad-CAM supports.

    Source: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization",
    ICCV 2017. Maps are enlarged by linear interpolation.
    """
    _check_images(images, network.features.backbone.image_size)
    content = hashlib.sha256(np.ascontiguousarray(images).data).hexdigest()
    identity = [EXPLANATION_RECIPE, network.features.digest, digest_file(network.head_file), len(images), content]
    file = cache_folder / f"{digest(identity)[:16]}.npy"
    heat = _read_heat(file, images.shape)
    if heat is None:
        heat = compute_heat_maps(network, images)
        with replace_file(file) as temporary:
            np.save(temporary, heat)
    return heat


def _read_heat(file: Path, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
    """Read cached heat maps; `None` if the file is missing or damaged."""
    try:
        heat = load_array(file)
    except (OSError, ValueError, EOFError):
        return None
    return heat if heat.shape == shape and heat.dtype == np.float32 else None


def compute_heat_maps(
    network: SplitNetwork,
    images: NDArray[np.uint8],
    head: "Model | None" = None,
    features: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Compute Grad-CAM heat maps without a cache on disk; see `explain_images`.

    Args:
        network: The network that scored the images.
        images: Preprocessed gray levels 0-255, shape (num_images, height, width).
        head: The head of the network, if it is loaded already.
        features: The features of the images, if they are computed already.
    """
    backbone, choice = network.features.backbone, network.features.choice
    _check_images(images, backbone.image_size)
    engine = open_engine(backbone, choice.engine, choice.precision)
    head = head or load_head(network.head_file)
    normalizations = _list_normalizations(backbone)
    heat = np.empty(images.shape, np.float32)
    for start in range(0, len(images), BATCH_SIZE):
        positions = slice(start, start + BATCH_SIZE)
        batch = list(images[positions])
        maps = engine.compute_maps(batch)
        gradients = differentiate_head(head, engine.compute(batch) if features is None else features[positions])
        gradients = differentiate_normalizations(normalizations, maps.mean(axis=(1, 2)), gradients)
        for row, (image_maps, gradient) in enumerate(zip(maps, gradients, strict=True), start):
            heat[row] = _shape_heat(image_maps @ gradient, (images.shape[1], images.shape[2]))
    return heat


def differentiate_head(head: Model, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute the gradient of the logit with respect to the features, by the chain rule.

    The closed form needs NumPy only. Automatic differentiation would need code for each backend of Keras.

    Args:
        head: A head of any kind; the sigmoid of its last layer is left out.
        features: Input of the head, shape (num_images, num_features).

    Returns:
        Gradients, shape (num_images, num_features).

    Raises:
        EvaluationError: The head has another kind of layer.
    """
    if type(head.layers[-1]).__name__ == KNN_CLASS:
        return differentiate_nearest_neighbors(head.layers[-1].get_weights(), features)
    _check_layers(head)
    *hidden, last = (layer.get_weights() for layer in head.layers[1:])
    output, is_active = features, []
    for kernel, bias in hidden:
        output = output @ kernel + bias
        is_active.append(output > 0)
        output = output * is_active[-1]
    gradient = np.repeat(last[0].T, len(features), axis=0)
    for (kernel, _), mask in zip(reversed(hidden), reversed(is_active), strict=True):
        gradient = (gradient * mask) @ kernel.T
    return gradient


def _check_layers(head: Model) -> None:
    keras = import_keras()
    for layer in head.layers[1:]:
        is_last = layer is head.layers[-1]
        allowed = ("sigmoid", "linear") if is_last else ("relu",)
        is_dense = isinstance(layer, keras.layers.Dense) and (layer.units == 1 or not is_last)
        if not (is_dense and layer.activation.__name__ in allowed):
            raise EvaluationError(
                f"explanation: Grad-CAM does not support the layer {layer.name} ({type(layer).__name__}). It needs "
                "dense layers with ReLU, and a last one with one unit and a sigmoid. Omit explanations of this model."
            )


def _list_normalizations(backbone: Backbone) -> list[Any]:
    """List the layers between the average of the maps and the features; most backbones have none."""
    if not (backbone.standardized or get_architecture(backbone.name).has_last_normalization):
        return []
    keras = import_keras()
    layers = load_backbone(backbone).layers
    pooling = next(layer for layer in reversed(layers) if isinstance(layer, keras.layers.GlobalAveragePooling2D))
    return layers[layers.index(pooling) + 1 :]


def differentiate_normalizations(
    layers: Sequence[Any], pooled: NDArray[np.float32], gradients: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Compute the gradient with respect to the average of the maps from that with respect to the features.

    The factor of the average itself is the same for all features and has no effect on the relative heat.

    Args:
        layers: LayerNormalization and BatchNormalization layers between them.
        pooled: Average of the maps, shape (num_images, num_features).
        gradients: Gradients with respect to the features, of the same shape.

    Source of the gradient of LayerNormalization: Ba, Kiros and Hinton, "Layer Normalization", 2016.
    """
    if not layers:
        return gradients
    layer, *later = layers
    if hasattr(layer, "moving_variance"):
        deviation = np.sqrt(np.asarray(layer.moving_variance, np.float32) + layer.epsilon)
        output = (pooled - np.asarray(layer.moving_mean, np.float32)) / deviation
        return differentiate_normalizations(later, output, gradients) / deviation
    gamma, beta = (np.asarray(it, np.float32) for it in (layer.gamma, layer.beta))
    deviation = np.sqrt(pooled.var(axis=1, keepdims=True) + layer.epsilon)
    normalized = (pooled - pooled.mean(axis=1, keepdims=True)) / deviation
    scaled = gamma * differentiate_normalizations(later, gamma * normalized + beta, gradients)
    shared = scaled.mean(axis=1, keepdims=True) + normalized * (scaled * normalized).mean(axis=1, keepdims=True)
    return (scaled - shared) / deviation


def _check_images(images: NDArray[np.uint8], size: int) -> None:
    if images.ndim != 3 or images.dtype != np.uint8 or images.shape[1:] != (size, size):
        raise EvaluationError(
            f"explanation: images of shape (n, {size}, {size}) and type uint8 are needed, received {images.shape}, "
            f"{images.dtype}. Give images with the preprocessing of the network."
        )


def _shape_heat(heat: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Keep positive values, enlarge them to the size of the image, and scale the maximum to 1."""
    enlarged = cv2.resize(np.maximum(heat, 0), size[::-1], interpolation=cv2.INTER_LINEAR)
    maximum = enlarged.max()
    return (enlarged / maximum if maximum > 0 else enlarged).astype(np.float32)


def pick_cases(
    labels: ArrayLike,
    scores: ArrayLike,
    threshold: float,
    groups: ArrayLike | None = None,
    max_cases: int = MAX_CASES,
) -> list[tuple[int, Outcome]]:
    """Choose the most confident correct and wrong classifications.

    Args:
        labels: 0 normal or 1 lesion, shape (num_images,).
        scores: Probability of a lesion, 0-1, of the same shape.
        threshold: Scores at or above it are classified as lesion.
        groups: Group of each image, such as its patient. Only the most confident image of a group is chosen for an
            outcome, since neighboring slices look alike. `None` treats every image as a group.
        max_cases: Maximum number for each outcome.

    Returns:
        Position and outcome of each chosen image, the most confident of an outcome first; equal scores in the
        order of the images.
    """
    true, probabilities = np.asarray(labels), np.asarray(scores, np.float64)
    group_of = np.arange(len(true)) if groups is None else np.asarray(groups)
    is_positive = probabilities >= threshold
    kinds: dict[Outcome, tuple[NDArray[np.bool_], int]] = {
        "true positive": (is_positive & (true == 1), -1),
        "true negative": (~is_positive & (true == 0), 1),
        "false positive": (is_positive & (true == 0), -1),
        "false negative": (~is_positive & (true == 1), 1),
    }
    chosen: list[tuple[int, Outcome]] = []
    for outcome, (members, direction) in kinds.items():
        positions = np.flatnonzero(members)
        ranked = positions[np.argsort(direction * probabilities[positions], kind="stable")]
        _, first_of_group = np.unique(group_of[ranked], return_index=True)
        chosen.extend((int(position), outcome) for position in ranked[np.sort(first_of_group)][:max_cases])
    return chosen

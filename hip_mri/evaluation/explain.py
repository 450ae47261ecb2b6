"""Where the network looked: Grad-CAM, with the gradient written out instead of differentiated.

Behind the last maps stand global average pooling, at most a normalization, and dense layers. For such a head the
gradient of the logit follows from the weights by the chain rule, so whatever engine computes the features computes the
maps, too, by running the network forwards only.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from hip_mri.dataset.tables import load_array
from hip_mri.errors import EvaluationError
from hip_mri.evaluation.charts.sheets import MAX_CASES, ExplainedCase, Outcome
from hip_mri.models.backbones.backbone import STANDARDIZE, Backbone, load_backbone
from hip_mri.models.backbones.engines import open_engine
from hip_mri.models.keras_settings import import_keras
from hip_mri.models.network import SplitNetwork
from hip_mri.models.saved import load_head
from hip_mri.storage import digest, digest_file, replace_file

if TYPE_CHECKING:
    import keras

RECIPE: Final = 1
"""Number of this way to explain; a change that alters heat raises it."""

BATCH_SIZE: Final = 16
"""Images whose last maps are held at once; 400 KB each for a ResNet at 224 pixels."""

ExplainImages = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Images, shape (num_images, height, width), to heat 0-1 of the same shape; see `explain_images`."""


def explain_images(network: SplitNetwork, images: NDArray[np.uint8], cache_folder: Path) -> NDArray[np.float32]:
    """Find which places of each image raised its score most; done before for the same images, it is not repeated.

    Args:
        network: What scored them.
        images: Gray levels 0-255 as the network sees them, shape (num_images, height, width).
        cache_folder: Keeps what was found.

    Returns:
        Heat 0-1, of the same shape. The hottest place of an image is 1, whatever its score; an image in which
        nothing spoke for a lesion is 0 throughout.

    Raises:
        EvaluationError: The images do not fit the network, or its head is of another kind.

    Source: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization",
    ICCV 2017. The map is enlarged with linear interpolation.
    """
    size = network.features.backbone.image_size
    _check_images(images, size)
    content = hashlib.sha256(np.ascontiguousarray(images).data).hexdigest()
    identity = [RECIPE, network.features.digest, digest_file(network.head_file), len(images), content]
    file = cache_folder / f"{digest(identity)[:16]}.npy"
    heat = _read_heat(file, images.shape)
    if heat is None:
        heat = _compute_heat(network, images)
        with replace_file(file) as temporary:
            np.save(temporary, heat)
    return heat


def _read_heat(file: Path, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
    """What was found before; `None` where there is nothing or the file is damaged."""
    try:
        heat = load_array(file)
    except (OSError, ValueError, EOFError):
        return None
    return heat if heat.shape == shape and heat.dtype == np.float32 else None


def _compute_heat(network: SplitNetwork, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    features = network.features
    engine = open_engine(features.backbone, features.choice.engine, features.choice.precision)
    head = load_head(network.head_file)
    scale = _find_scale(features.backbone)
    heat = np.empty(images.shape, np.float32)
    for start in range(0, len(images), BATCH_SIZE):
        batch = list(images[start : start + BATCH_SIZE])
        maps = engine.compute_maps(batch)
        gradients = scale * differentiate_head(head, engine.compute(batch))
        for row, (image_maps, gradient) in enumerate(zip(maps, gradients, strict=True), start):
            heat[row] = _shape_heat(image_maps @ gradient, (images.shape[1], images.shape[2]))
    return heat


def differentiate_head(head: "keras.Model", features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Gradient of the logit by the features, with the chain rule from the last layer to the first.

    Args:
        head: Dense layers with ReLU or none; the last one has one unit, and counts without its sigmoid: the logit is
            explained, not the probability.
        features: What the head takes, shape (num_images, num_features).

    Returns:
        Shape (num_images, num_features).

    Raises:
        EvaluationError: The head has a layer of another kind.
    """
    weights: list[NDArray[np.float32]] = []
    gates: list[NDArray[Any]] = []
    output = features
    for number, layer in enumerate(head.layers[1:], 2):
        is_gated = _check_layer(layer, is_last=number == len(head.layers))
        kernel, bias = (np.asarray(values, np.float32) for values in layer.get_weights())
        output = output @ kernel + bias
        gates.append(output > 0 if is_gated else np.ones_like(output))
        output = output * gates[-1]
        weights.append(kernel)
    gradient: NDArray[Any] = np.ones((len(features), 1), np.float32)
    for kernel, gate in zip(reversed(weights), reversed(gates), strict=True):
        gradient = (gradient * gate) @ kernel.T
    return gradient.astype(np.float32)


def _check_layer(layer: "keras.Layer", *, is_last: bool) -> bool:
    """Whether a layer lets only positive values through.

    Raises:
        EvaluationError: It is none that can be differentiated here.
    """
    keras = import_keras()
    activations = keras.activations
    allowed = (activations.sigmoid, activations.linear) if is_last else (activations.relu, activations.linear)
    if isinstance(layer, keras.layers.Dense) and layer.activation in allowed and (layer.units == 1 or not is_last):
        return layer.activation is activations.relu
    raise EvaluationError(
        f"explanation: the layer {layer.name} ({type(layer).__name__}) is none that Grad-CAM knows here. Needed are "
        "dense layers with ReLU, the last one with one unit and a sigmoid. Leave the explanation out for this model."
    )


def _find_scale(backbone: Backbone) -> NDArray[np.float32] | np.float32:
    """What a normalization behind the pooling multiplies each feature by, shape (num_features,) or none.

    The pooling divides all features by the same number, which the heat, being relative, does not show.
    """
    if not backbone.standardized:
        return np.float32(1)
    layer = load_backbone(backbone).get_layer(STANDARDIZE)
    return (1 / np.sqrt(np.asarray(layer.moving_variance, np.float32) + layer.epsilon)).astype(np.float32)


def _check_images(images: NDArray[np.uint8], size: int) -> None:
    if images.ndim != 3 or images.dtype != np.uint8 or images.shape[1:] != (size, size):
        raise EvaluationError(
            f"explanation: images of shape (n, {size}, {size}) and type uint8 are needed, received {images.shape}, "
            f"{images.dtype}. Give the preprocessed images that the network was trained on."
        )


def _shape_heat(heat: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Keep what raises the score, enlarge it to the image, and bring its highest value to 1."""
    raised = cv2.resize(np.maximum(heat, 0), size[::-1], interpolation=cv2.INTER_LINEAR)
    highest = raised.max()
    return (raised / highest if highest > 0 else raised).astype(np.float32)


def pick_cases(
    labels: ArrayLike,
    scores: ArrayLike,
    threshold: float,
    groups: ArrayLike | None = None,
    most: int = MAX_CASES,
) -> list[tuple[int, Outcome]]:
    """Choose the most confident right and wrong calls.

    Args:
        labels: 0 normal or 1 lesion, shape (num_images,).
        scores: Probability of a lesion, 0-1, of the same shape.
        threshold: Scores at or above it are called a lesion.
        groups: Group of each image, such as its patient; of each outcome a group shows its most confident image
            only, since neighbouring slices look alike. `None` lets every image stand for itself.
        most: Of each outcome.

    Returns:
        Position and outcome of each chosen image, the most confident of an outcome first; equal scores in the
        order of the images.
    """
    true, probabilities = np.asarray(labels), np.asarray(scores, np.float64)
    group_of = np.arange(len(true)) if groups is None else np.asarray(groups)
    called = probabilities >= threshold
    kinds: dict[Outcome, tuple[NDArray[np.bool_], int]] = {
        "true positive": (called & (true == 1), -1),
        "true negative": (~called & (true == 0), 1),
        "false positive": (called & (true == 0), -1),
        "false negative": (~called & (true == 1), 1),
    }
    chosen: list[tuple[int, Outcome]] = []
    for outcome, (members, direction) in kinds.items():
        positions = np.flatnonzero(members)
        ranked = positions[np.argsort(direction * probabilities[positions], kind="stable")]
        _, first_of_group = np.unique(group_of[ranked], return_index=True)
        chosen.extend((int(position), outcome) for position in ranked[np.sort(first_of_group)][:most])
    return chosen


def explain_cases(
    explain: ExplainImages,
    image_ids: Sequence[str],
    images: NDArray[np.uint8],
    scores: ArrayLike,
    outcomes: Sequence[Outcome],
) -> list[ExplainedCase]:
    """Explain chosen images, ready to be drawn; all arguments but the first have one entry per image."""
    heats = explain(images)
    numbers = np.asarray(scores, np.float64).tolist()
    return [
        ExplainedCase(image_id, outcome, score, image, heat)
        for image_id, outcome, score, image, heat in zip(image_ids, outcomes, numbers, images, heats, strict=True)
    ]

"""Where the network looked: Grad-CAM, with the gradient written out instead of differentiated.

Behind the last convolution block stand global average pooling, at most a normalization, and dense layers. For such a
head the gradient of the logit follows from the weights by the chain rule, so any Keras backend computes it by running
the network forwards only.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from hip_mri.errors import EvaluationError, WeightsError
from hip_mri.evaluation.charts.sheets import MOST_CASES, ExplainedCase, Outcome
from hip_mri.model.saved import load_network

if TYPE_CHECKING:
    import keras

BATCH_SIZE: Final = 16
"""Images whose last maps are held at once; 400 KB each for a ResNet at 224 pixels."""


def explain_images(model_file: Path, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Find which places of each image raised its score most.

    Args:
        model_file: The whole network, as Keras saved it.
        images: Gray levels 0-255 as the network sees them, shape (num_images, height, width).

    Returns:
        Heat 0-1, of the same shape. The hottest place of an image is 1, whatever its score; an image in which
        nothing spoke for a lesion is 0 throughout.

    Raises:
        EvaluationError: The file is no network of this pipeline, the images do not fit it, or its head is of another
            kind.

    Source: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization",
    ICCV 2017. The map is enlarged with linear interpolation.
    """
    network = _load_network(model_file)
    _check_images(images, network)
    position = _find_last_map(network)
    head = network.layers[position + 1 :]
    heat = np.empty(images.shape, np.float32)
    for start in range(0, len(images), BATCH_SIZE):
        batch = images[start : start + BATCH_SIZE]
        outputs = _run_forwards(network, position, batch[..., None].astype(np.float32))
        gradients = differentiate_head(head, outputs[0], outputs[1:])
        for row, (maps, gradient) in enumerate(zip(outputs[0], gradients, strict=True), start):
            heat[row] = _shape_heat(maps @ gradient, (images.shape[1], images.shape[2]))
    return heat


def differentiate_head(
    head: "Sequence[keras.Layer]", maps: NDArray[np.float32], outputs: Sequence[NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Gradient of the logit by the last maps, with the chain rule from the last layer to the first.

    Args:
        head: Layers behind the maps: global average pooling, dense layers with ReLU or none, and normalizations or
            dropout, which do nothing but scale when a network is used; the last one is dense with one unit.
        maps: Output of the last convolution block, shape (num_images, map_height, map_width, num_channels).
        outputs: Output of each layer of `head` for these images.

    Returns:
        Gradient by a channel, the same at every place of the map, shape (num_images, num_channels).

    Raises:
        EvaluationError: The head has a layer of another kind.
    """
    import keras  # noqa: PLC0415 - seconds to import

    gradient: NDArray[Any] = np.ones((len(maps), 1), np.float32)
    for number, (layer, output) in reversed(list(enumerate(zip(head, outputs, strict=True)))):
        if isinstance(layer, keras.layers.Dense) and _can_differentiate(layer, is_last=number == len(head) - 1):
            open_gates = output > 0 if layer.activation is keras.activations.relu else 1
            gradient = (gradient * open_gates) @ np.asarray(layer.get_weights()[0], np.float32).T
        elif isinstance(layer, keras.layers.BatchNormalization):
            gradient = gradient * _find_scale(layer)
        elif isinstance(layer, keras.layers.GlobalAveragePooling2D):
            gradient = gradient / np.prod(maps.shape[1:3], dtype=np.float32)
        elif not isinstance(layer, keras.layers.Dropout):
            raise EvaluationError(
                f"explanation: the layer {layer.name} ({type(layer).__name__}) is none that Grad-CAM knows here. "
                "Needed is a head of global average pooling, dense layers with ReLU, and a sigmoid. Leave the "
                "explanation out for this model."
            )
    return gradient.astype(np.float32)


def _can_differentiate(layer: "keras.layers.Dense", *, is_last: bool) -> bool:
    """The last layer counts without its sigmoid: the logit is explained, not the probability."""
    import keras  # noqa: PLC0415 - seconds to import

    if is_last:
        return layer.units == 1 and layer.activation in (keras.activations.sigmoid, keras.activations.linear)
    return layer.activation in (keras.activations.relu, keras.activations.linear)


def _find_scale(layer: "keras.layers.BatchNormalization") -> NDArray[np.float32]:
    """What a normalization multiplies each channel with when a network is used."""
    variance = np.asarray(layer.moving_variance.numpy(), np.float32)
    gamma = np.asarray(layer.gamma.numpy(), np.float32) if layer.scale else np.float32(1)
    return (gamma / np.sqrt(variance + layer.epsilon)).astype(np.float32)


def _load_network(model_file: Path) -> "keras.Model":
    try:
        return load_network(model_file)
    except WeightsError as error:
        raise EvaluationError(f"explanation: {error}") from error


def _check_images(images: NDArray[np.uint8], network: "keras.Model") -> None:
    _, height, width, _ = network.input_shape
    if images.ndim != 3 or images.dtype != np.uint8 or images.shape[1:] != (height, width):
        raise EvaluationError(
            f"explanation: images of shape (n, {height}, {width}) and type uint8 are needed, received {images.shape}, "
            f"{images.dtype}. Give the preprocessed images that the network was trained on."
        )


def _find_last_map(network: "keras.Model") -> int:
    """Position of the last layer whose output still has height and width."""
    for position in reversed(range(len(network.layers))):
        if len(network.layers[position].output.shape) == 4:
            return position
    raise EvaluationError("explanation: no layer of the network puts out maps. Give an image classifier.")


def _run_forwards(network: "keras.Model", position: int, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Outputs of the layer at a position and of all behind it."""
    import keras  # noqa: PLC0415 - seconds to import

    watched = keras.Model(network.input, [layer.output for layer in network.layers[position:]])
    return [np.asarray(output, np.float32) for output in watched.predict_on_batch(batch)]


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
    most: int = MOST_CASES,
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
    model_file: Path,
    image_ids: Sequence[str],
    images: NDArray[np.uint8],
    scores: ArrayLike,
    outcomes: Sequence[Outcome],
) -> list[ExplainedCase]:
    """Explain chosen images, ready to be drawn; all arguments but the first have one entry per image."""
    heats = explain_images(model_file, images)
    numbers = np.asarray(scores, np.float64).tolist()
    return [
        ExplainedCase(image_id, outcome, score, image, heat)
        for image_id, outcome, score, image, heat in zip(image_ids, outcomes, numbers, images, heats, strict=True)
    ]

"""The network that is exported: from gray levels to the probability of a lesion, mirror averaging included."""

import numpy as np
from numpy.typing import NDArray

from hip_mri.config import InputScaling
from hip_mri.models.backbones.input_scaling import find_scaling
from hip_mri.models.keras_settings import Model, import_keras
from hip_mri.serving.served_network import SavedNetwork, load_whole_network


def load_exported(saved: SavedNetwork) -> tuple[Model, InputScaling]:
    """Load what is exported of a saved network.

    Returns:
        The network, with mirror averaging if its scores are averaged, and the scaling of the input of its backbone.

    Raises:
        WeightsError: The file was changed, or is not a network of this architecture.
    """
    network = load_whole_network(saved)
    scaling = find_scaling(layer.name for layer in network.layers)
    return average_mirrored(network) if saved.averages_mirrored else network, scaling


def average_mirrored(network: Model) -> Model:
    """Build a network that returns the mean of the scores of an image and of its mirror image.

    Both are computed as one batch, so that the graph holds the network once.
    """
    keras = import_keras()
    image = keras.Input(network.input_shape[1:], name="image")
    both = keras.ops.concatenate([image, image[:, :, ::-1]], axis=0)
    scores = keras.ops.reshape(network(both), (2, -1, 1))
    return keras.Model(image, keras.ops.mean(scores, axis=0), name=network.name)


def to_network_input(levels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Convert preprocessed images, shape (num_images, height, width), to the input of a graph."""
    return levels[..., None].astype(np.float32)

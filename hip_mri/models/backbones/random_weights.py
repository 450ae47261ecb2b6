"""Draws the weights of a backbone without pretraining, and calibrates its normalization layers."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hip_mri.models.backbones.stages import find_cuts
from hip_mri.models.keras_settings import Model, import_keras

RESIDUAL_GAIN: Final = 0.3
"""Scale of the residual branches. At 1, a hundred random layers destroy most of the image: on demo images the
cross-validated AUC of a linear classifier on ResNet50's features was .70 at 1 and .87 at 0.5."""

NUM_CALIBRATION_IMAGES: Final = 32
"""Images from which mean and variance of the features are estimated."""

NUM_STATISTICS_IMAGES: Final = 8
"""Images from which the inner BatchNormalization statistics are estimated; each statistic is then based on
392 positions or more."""

STANDARDIZE: Final = "standardize"
"""Layer that scales the features of a random backbone to mean 0 and variance 1."""


def draw_weights(network: Model, seed: int, branch_end: str) -> None:
    """Initialize the kernels of all layers from the seed, and scale down the residual branches.

    Keras' default initializers take their seeds from Python's global random state, which other threads use too.

    Args:
        network: A backbone.
        seed: Seed of the kernels.
        branch_end: End of the names of the layers that end the residual branches; empty for none.

    Source: He et al., "Delving Deep into Rectifiers", ICCV 2015.
    """
    keras = import_keras()
    seeds = np.random.default_rng(seed)
    for layer in list_layers(network):
        if hasattr(layer, "kernel"):
            initializer = keras.initializers.HeNormal(seed=int(seeds.integers(2**31)))
            layer.kernel.assign(initializer(layer.kernel.shape))
        if branch_end and layer.name.endswith(branch_end):
            _scale_down(layer)


def list_layers(network: Model) -> Iterator[Any]:
    """List the layers of a network, those of nested models included."""
    for layer in network.layers:
        yield from list_layers(layer) if hasattr(layer, "layers") else (layer,)


def _scale_down(layer: Any) -> None:
    """Set the output of a layer to `RESIDUAL_GAIN` times its usual scale."""
    if hasattr(layer, "gamma"):
        layer.gamma.assign(np.full(layer.gamma.shape, RESIDUAL_GAIN, np.float32))
    else:
        layer.kernel.assign(layer.kernel * RESIDUAL_GAIN)


def calibrate(network: Model, images: Sequence[NDArray[np.uint8]]) -> None:
    """Set the statistics of each BatchNormalization layer to those of its input for these images.

    A randomly initialized network has BatchNormalization statistics of 0 and 1, with which its activations grow from
    block to block. Random features also have much in common between images, which a head would need epochs to learn.
    LayerNormalization computes its statistics from each image and needs no calibration.
    """
    keras = import_keras()
    normalizations = [layer for layer in list_layers(network) if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [layer.momentum for layer in normalizations]
    for layer in normalizations:
        layer.trainable, layer.momentum = True, 0.0
    inputs = np.stack(images)[..., None].astype(np.float32)
    _compute_output(network, inputs[:NUM_STATISTICS_IMAGES], training=True)
    for layer, momentum in zip(normalizations, momenta, strict=True):
        layer.trainable, layer.momentum = False, momentum
    standardize = network.get_layer(STANDARDIZE)
    pooled = keras.Model(network.input, standardize.input)
    batches = np.array_split(inputs, -(-len(inputs) // NUM_STATISTICS_IMAGES))
    features = np.concatenate([_compute_output(pooled, batch, training=False) for batch in batches])
    standardize.moving_mean.assign(features.mean(axis=0))
    standardize.moving_variance.assign(features.var(axis=0))


def _compute_output(network: Model, inputs: NDArray[np.float32], *, training: bool) -> NDArray[np.float32]:
    """Run a network piece by piece; a single call would hold all activations, 130 MB per image for a ResNet50."""
    keras = import_keras()
    value, start = inputs, network.input
    for cut in find_cuts(network)[1:]:
        end = network.operations[cut].output
        value, start = keras.Model(start, end)(value, training=training), end
    return keras.ops.convert_to_numpy(value).astype(np.float32)

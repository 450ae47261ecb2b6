"""Scales gray levels to the input of a network, and finds the scaling that weights need.

A scaling multiplies and shifts each of the three channels. The channels of a gray image are equal, so that their order
matters for the shift only.
"""

from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any, Final, get_args

import numpy as np
from numpy.typing import NDArray

from hip_mri.config import InputScaling
from hip_mri.models.keras_settings import Model, import_keras

_BGR_MEAN: Final = (103.939, 116.779, 123.68)
_RGB_MEAN: Final = (0.485, 0.456, 0.406)
_RGB_DEVIATION: Final = (0.229, 0.224, 0.225)
"""Statistics of the channels of ImageNet, as `keras.applications.imagenet_utils` has them."""

FACTORS: Final[Mapping[InputScaling, tuple[tuple[float, ...], tuple[float, ...]]]] = {
    "caffe": ((1.0,) * 3, tuple(-mean for mean in _BGR_MEAN)),
    "caffe_255": ((1 / 255,) * 3, tuple(-mean / 255 for mean in _BGR_MEAN)),
    "tf": ((1 / 127.5,) * 3, (-1.0,) * 3),
    "tf_128": ((1 / 128,) * 3, (-1.0,) * 3),
    "torch": (
        tuple(1 / (255 * deviation) for deviation in _RGB_DEVIATION),
        tuple(-mean / deviation for mean, deviation in zip(_RGB_MEAN, _RGB_DEVIATION, strict=True)),
    ),
    "none": ((1.0,) * 3, (0.0,) * 3),
}
"""Factor and shift of each channel."""

_LAYER_PREFIX: Final = "scaling_"
"""Beginning of the name of the layer that scales; the rest is the scaling. `caffe` has no such layer."""

_NUM_LAYERS: Final = 3
"""BatchNormalization layers whose input is compared. In later layers more depends on what the images show."""

_PIXELS_PER_CALL: Final = 8 * 224**2
"""Pixels of the images that are computed at once; 100 MB after the first convolution of a ResNet."""

_NATURAL_MEAN: Final = 117.0
_NATURAL_DEVIATION: Final = 58.0
"""Mean and standard deviation of gray levels in ImageNet."""

_SMALL_VARIANCE: Final = 1e-3
"""Variance, as a fraction of the median of a layer, below which a channel counts as constant."""

MIN_RATIO: Final = 1.25
"""Misfit of the usual scaling, relative to the smallest one, at which `auto` chooses another. Measured with ImageNet
weights of a ResNet50, converted to each scaling: on demo images of 224 pixels .1 with their own scaling and .3 to 2
with the next one; on 32 pixels .6 and .8 to 3; on noise, and on dark, bright and smooth images, at most 1.2 with their
own scaling, which fitted best each time. `tf` and `tf_128` differ by .01."""

MIN_RATIO_OF_NOTICE: Final = 2.0
"""Misfit of the given scaling, relative to the smallest one, at which every output carries a notice."""

MAX_MISFIT: Final = 2.5
"""Misfit above which a scaling does not fit the weights."""


def add_scaling(keras: ModuleType, color: Any, scaling: InputScaling) -> Any:
    """Add the scaling to symbolic images with three equal channels of gray levels 0-255.

    Keras is given, since `import_keras` would reset the dtype policy of the network.
    """
    if scaling == "caffe":  # the same operations as in models of earlier versions, so that these can be loaded
        return keras.applications.resnet.preprocess_input(color)
    factor, shift = FACTORS[scaling]
    return keras.layers.Rescaling(list(factor), list(shift), name=f"{_LAYER_PREFIX}{scaling}")(color)


def find_scaling(layer_names: Iterable[str]) -> InputScaling:
    """Find the scaling of a network by the names of its layers."""
    names = {f"{_LAYER_PREFIX}{scaling}": scaling for scaling in get_args(InputScaling)}
    return next((names[name] for name in layer_names if name in names), "caffe")


def measure_misfits(network: Model, images: Sequence[NDArray[np.uint8]]) -> dict[InputScaling, float]:
    """Measure how far what reaches the first BatchNormalization layers is from their stored statistics.

    The images are brought to the mean and the standard deviation of gray levels in ImageNet first, since dark images or
    images of low contrast would otherwise look like another scaling.

    Args:
        network: A backbone with the scaling `none`, and with its weights.
        images: Gray levels 0-255, shape (height, width) each.

    Returns:
        Misfit of each scaling, 0 or more, averaged over the layers. The misfit of a layer is the median over its
        channels of log(1 + d²) with the difference d of the means in stored standard deviations, plus the median of
        the squared logarithm of the ratio of variances. Medians, since channels that respond to colors see nothing in
        gray images. Empty if the network has no BatchNormalization layers.
    """
    keras = import_keras()
    found = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    layers = [layer for layer in found if len(layer.output.shape) == 4][:_NUM_LAYERS]  # not that of the features
    if not layers:
        return {}
    scaled = network.get_layer(f"{_LAYER_PREFIX}none").output
    first_layers = keras.Model(scaled, [layer.input for layer in layers])
    levels = _standardize(np.stack(images))
    stored = [(np.asarray(layer.moving_mean), np.asarray(layer.moving_variance)) for layer in layers]
    misfits: dict[InputScaling, float] = {}
    for scaling, (factor, shift) in FACTORS.items():
        moments = _measure_moments(first_layers, levels, np.asarray(factor), np.asarray(shift))
        misfits[scaling] = float(np.mean([_compare(*pair) for pair in zip(moments, stored, strict=True)]))
    return misfits


def _standardize(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    deviation = max(float(images.std()), 1.0)  # black images stay constant
    return (images - images.mean()) * (_NATURAL_DEVIATION / deviation) + _NATURAL_MEAN


def _measure_moments(
    first_layers: Model, levels: NDArray[np.float64], factor: NDArray[np.float64], shift: NDArray[np.float64]
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Measure mean and variance of each channel of each output, over all images and positions."""
    num_images = max(1, _PIXELS_PER_CALL // levels[0].size)
    moments: list[list[NDArray[np.float64]]] = []
    for start in range(0, len(levels), num_images):
        batch = levels[start : start + num_images, ..., None] * factor + shift
        outputs = [np.asarray(output, np.float64) for output in first_layers.predict_on_batch(batch.astype(np.float32))]
        powers = [np.stack([output.mean((1, 2)), (output**2).mean((1, 2))]).sum(axis=1) for output in outputs]
        moments.append(powers)
    means = [np.sum(parts, axis=0) / len(levels) for parts in zip(*moments, strict=True)]
    return [(mean, np.maximum(square - mean**2, 0)) for mean, square in means]


def _compare(
    found: tuple[NDArray[np.float64], NDArray[np.float64]], stored: tuple[NDArray[np.float64], NDArray[np.float64]]
) -> float:
    """Compute the misfit of a layer; see `measure_misfits`."""
    (mean, variance), (stored_mean, stored_variance) = found, stored
    small = _SMALL_VARIANCE * np.median(stored_variance) + np.finfo(np.float32).tiny
    distance = np.log1p((mean - stored_mean) ** 2 / (stored_variance + small))
    ratio = np.log((variance + small) / (stored_variance + small)) ** 2
    return float(np.median(distance) + np.median(ratio))


def find_best(misfits: Mapping[InputScaling, float], usual: InputScaling) -> InputScaling:
    """Return the scaling that fits best, or the usual one of the architecture if it fits nearly as well."""
    distinct = dict(misfits)
    del distinct["tf_128"]  # which is nearly tf
    best = min(distinct, key=distinct.__getitem__)
    return best if misfits[usual] >= MIN_RATIO * misfits[best] else usual

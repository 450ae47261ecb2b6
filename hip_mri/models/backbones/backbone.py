"""The frozen network: gray images in, 2,048 features out."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from hip_mri.config import BackboneName, PreprocessingSettings
from hip_mri.dataset.preprocessing import read_training_sample
from hip_mri.errors import WeightsError, WorkspaceError
from hip_mri.hashes import is_as_recorded, read_hashes, record_hashes
from hip_mri.models.backbones.weights import UNREADABLE, Weights, named_for_keras, tell_cause
from hip_mri.models.keras_settings import describe_keras, import_keras
from hip_mri.storage import digest, digest_file, publish_folder, read_json, require_room, write_json
from hip_mri.workspace import Workspace

if TYPE_CHECKING:
    import keras

NUM_FEATURES: Final = 2048
"""Channels of the last block of every ResNet here, averaged over the image."""

RECIPE: Final = 3
"""Number of this way to build and calibrate; a change that alters features raises it. Below 3 the user's settings of
Keras could alter what was built."""

RESIDUAL_GAIN: Final = 0.3
"""Scale of the residual branches of a random backbone. At 1, a hundred random layers leave little of the image: on
demo images the cross-validated AUC of a linear classifier on ResNet50's features was .70 at 1, .87 at 0.5."""

NUM_CALIBRATION_IMAGES: Final = 32
"""Training images from which mean and variance of a random backbone's features are estimated."""

NUM_STATISTICS_IMAGES: Final = 8
"""Training images from which its inner BatchNormalization statistics are estimated; each statistic then rests on 392
places in the images or more."""

WEIGHTS_NAME: Final = "backbone.weights.h5"
IDENTITY_NAME: Final = "identity.json"
STANDARDIZE: Final = "standardize"
"""Layer that brings the features of a random backbone to mean 0 and variance 1."""

PARTS: Final = (WEIGHTS_NAME, IDENTITY_NAME)

NUM_MAP_AXES: Final = 4
"""Images, height, width, channels."""

BYTES_PER_PARAMETER: Final = 4
"""Weights are kept as float32."""


@dataclass(frozen=True)
class Backbone:
    """A backbone that is ready to run.

    Attributes:
        name: Architecture.
        image_size: Height and width of its input, in pixels.
        digest: What determines every feature: architecture, input size, SHA-256 of the weights file; 64 hexadecimal
            digits.
        standardized: Whether a last layer standardizes the features, as random weights need.
        folder: Where everything derived from it is kept.
    """

    name: BackboneName
    image_size: int
    digest: str
    standardized: bool
    folder: Path

    @property
    def weights_file(self) -> Path:
        """Weights as Keras saves them."""
        return self.folder / WEIGHTS_NAME

    @property
    def identity(self) -> dict[str, Any]:
        """What `write_backbone` needs to know of the architecture."""
        return {"name": self.name, "image_size": self.image_size, "is_standardized": self.standardized}


def get_builder(name: BackboneName) -> Callable[..., "keras.Model"]:
    """The function of `keras.applications` that builds an architecture."""
    keras = import_keras()
    return getattr(keras.applications, name)


def build_backbone(
    name: BackboneName, image_size: int, dtype: str = "float32", *, standardized: bool = False
) -> "keras.Model":
    """Build the architecture, with random weights.

    Args:
        name: Which ResNet.
        image_size: Height and width of the input, in pixels.
        dtype: Keras dtype policy, such as `float32` or `mixed_bfloat16`.
        standardized: Whether the features are brought to mean 0 and variance 1 by a last layer; for random weights.

    Returns:
        A frozen model from gray levels 0-255, shape (batch, image_size, image_size, 1), to features, shape
        (batch, 2048). Its layers are flat, so `conv5_block3_out` and its like can be reached by name. The
        ImageNet preprocessing (BGR, mean subtracted) is part of it.

    Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.
    """
    keras = import_keras()
    build = get_builder(name)
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)  # no function that calls `import_keras` may follow in the block
    try:
        image = keras.Input((image_size, image_size, 1), name="image")
        color = keras.layers.Concatenate(name="color")([image, image, image])
        centered = keras.applications.resnet.preprocess_input(color)
        features = build(include_top=False, weights=None, input_tensor=centered, pooling="avg").output
        if standardized:
            features = keras.layers.BatchNormalization(center=False, scale=False, name=STANDARDIZE)(features)
    finally:
        keras.config.set_dtype_policy(policy)
    network = keras.Model(image, features, name=name.lower())
    network.trainable = False
    return network


def prepare_backbone(
    weights: Weights,
    workspace: Workspace,
    preprocessing: PreprocessingSettings,
    seed: int,
    num_threads: int = 1,
) -> Backbone:
    """Make a backbone ready: its weights in one file under a name that says what they are.

    A randomly initialised network keeps BatchNormalization statistics of 0 and 1, under which its activations grow
    from block to block. So they are estimated from training images here, in one forward pass in training mode, and
    so are mean and variance of the features: in random features all images have much in common, and a head would
    spend its epochs on that. It is done once for a workspace, so that images that come later change no feature.

    Args:
        weights: From `resolve_weights`; they name the architecture.
        workspace: Where backbones are kept; for random weights its training images are read.
        preprocessing: How images reach the network.
        seed: Start of random weights.
        num_threads: Threads that decode images.

    Returns:
        The backbone.

    Raises:
        WeightsError: The file does not fit the architecture.
    """
    name = weights.backbone
    origin = {"recipe": RECIPE, "name": name, "image_size": preprocessing.image_size, "weights": weights.sha256}
    is_random = weights.file is None
    if is_random:
        origin |= {"seed": seed, "preprocessing": preprocessing.model_dump(), "keras": describe_keras()}
    folder = workspace.backbones_folder / digest(origin)[:16]
    if not is_as_recorded(folder, PARTS):
        network = build_backbone(name, preprocessing.image_size, standardized=is_random)
        if weights.file is None:
            hashes, images = read_training_sample(workspace, preprocessing, NUM_CALIBRATION_IMAGES, num_threads)
            origin |= {"images": list(hashes)}
            _draw_weights(network, seed)
            _calibrate(network, images)
        else:
            _check_hash(weights.file, weights.sha256)
            _load_weights(network, weights.file)
        require_room(folder, BYTES_PER_PARAMETER * network.count_params())
        with publish_folder(folder) as fresh:
            write_backbone(network, fresh, {**origin, "is_standardized": is_random})
    return open_backbone(folder)


def write_backbone(network: "keras.Model", folder: Path, identity: Mapping[str, Any]) -> None:
    """Fill a folder that is about to be published with a backbone.

    Args:
        network: As `build_backbone` makes it.
        folder: Where to.
        identity: Where the weights come from; at least `name`, `image_size` and `is_standardized`.
    """
    network.save_weights(folder / WEIGHTS_NAME)
    write_json(folder / IDENTITY_NAME, identity)
    record_hashes(folder)


def open_backbone(folder: Path) -> Backbone:
    """Describe a backbone that `write_backbone` wrote.

    Raises:
        WorkspaceError: The folder holds none.
    """
    identity = read_json(folder / IDENTITY_NAME)
    determines = [identity["name"], identity["image_size"], identity["is_standardized"]]
    return Backbone(
        identity["name"],
        identity["image_size"],
        digest([RECIPE, *determines, read_hashes(folder)[WEIGHTS_NAME]]),
        identity["is_standardized"],
        folder,
    )


def find_backbone(digest: str, folders: Iterable[Path]) -> Backbone | None:
    """Find a backbone that is there and whole, by its digest, among folders that may hold one."""
    for folder in folders:
        with contextlib.suppress(WorkspaceError, LookupError, TypeError):
            if open_backbone(folder).digest == digest and is_as_recorded(folder, PARTS):
                return open_backbone(folder)
    return None


def add_maps(network: "keras.Model") -> "keras.Model":
    """Let a backbone put out the last maps beside its features: shape (batch, map_height, map_width, channels)."""
    keras = import_keras()
    maps = next(layer.output for layer in reversed(network.layers) if len(layer.output.shape) == NUM_MAP_AXES)
    return keras.Model(network.input, [network.output, maps], name=network.name)


@functools.lru_cache(maxsize=2)
def load_backbone(backbone: Backbone, dtype: str = "float32") -> "keras.Model":
    """Load a prepared backbone that nobody trains; kept in memory and shared with the next call."""
    return load_own_backbone(backbone, dtype)


def load_own_backbone(backbone: Backbone, dtype: str = "float32") -> "keras.Model":
    """Build a prepared backbone and load its weights, for a caller that will change them."""
    if not is_as_recorded(backbone.folder, [WEIGHTS_NAME]):
        raise WeightsError(
            f"model.weights: {backbone.weights_file} is not as it was written. It is not loaded. Start again: it is "
            "made anew."
        )
    network = build_backbone(backbone.name, backbone.image_size, dtype, standardized=backbone.standardized)
    _load_weights(network, backbone.weights_file)
    return network


def _check_hash(file: Path, sha256: str) -> None:
    """See that a weights file is still the one that was settled at the start."""
    found = digest_file(file)
    if found != sha256:
        raise WeightsError(
            f"model.weights: the SHA-256 of {file} is {found[:12]}, {sha256[:12]} was settled at the start of the run. "
            "It is not loaded. Leave the file alone while a run works, then start again."
        )


def _load_weights(network: "keras.Model", file: Path) -> None:
    try:
        with named_for_keras(file) as named:
            network.load_weights(str(named))
    except UNREADABLE as error:
        raise WeightsError(
            f"model.weights: {file} does not fit {network.name} ({tell_cause(error)}). "
            "Give a file that Keras saved for this architecture with include_top=False."
        ) from error


def _draw_weights(network: "keras.Model", seed: int) -> None:
    """Draw the convolutions' kernels anew from the seed, and let the residual branches speak softly.

    Keras' default initializers take their seeds from Python's global random state, which other threads use too.

    Source: He et al., "Delving Deep into Rectifiers", ICCV 2015.
    """
    keras = import_keras()
    seeds = np.random.default_rng(seed)
    for layer in network.layers:
        if isinstance(layer, keras.layers.Conv2D):
            initializer = keras.initializers.HeNormal(seed=int(seeds.integers(2**31)))
            layer.kernel.assign(initializer(layer.kernel.shape))
        elif layer.name.endswith("_3_bn"):  # the last layer of a residual branch
            layer.gamma.assign(np.full(layer.gamma.shape, RESIDUAL_GAIN, np.float32))


def _calibrate(network: "keras.Model", images: Sequence[NDArray[np.uint8]]) -> None:
    """Set each BatchNormalization's statistics to those of its own input for these images."""
    keras = import_keras()
    normalizations = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
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


def _compute_output(network: "keras.Model", inputs: NDArray[np.float32], *, training: bool) -> NDArray[np.float32]:
    """Run a network block by block.

    Calling it as a whole holds the activations of all layers at once, 130 MB an image for a ResNet50.
    """
    keras = import_keras()
    blocks = [layer.output for layer in network.layers if layer.name.endswith("_out")]
    value, start = inputs, network.input
    for end in (*blocks, network.output):
        value, start = keras.Model(start, end)(value, training=training), end
    return keras.ops.convert_to_numpy(value).astype(np.float32)

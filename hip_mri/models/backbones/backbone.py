"""Builds, stores and loads backbones: frozen networks from gray images to 2,048 features."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hip_mri.config import BackboneName, PreprocessingSettings
from hip_mri.dataset.preprocessing import read_training_sample
from hip_mri.disk_errors import require_room
from hip_mri.errors import WeightsError, WorkspaceError
from hip_mri.hashes import digest, digest_file, is_as_recorded, read_hashes, record_hashes
from hip_mri.models.backbones.hdf5_checks import UNREADABLE, describe_cause, named_for_keras
from hip_mri.models.backbones.random_weights import NUM_CALIBRATION_IMAGES, STANDARDIZE, calibrate, draw_weights
from hip_mri.models.backbones.weights import Weights
from hip_mri.models.keras_settings import Model, describe_keras, import_keras
from hip_mri.storage import publish_folder, read_json, write_json
from hip_mri.workspace import Workspace

BACKBONE_RECIPE: Final = 3
"""Version of building and calibration; raised by changes that alter features. Before 3 the user's Keras settings could
alter the network."""

WEIGHTS_NAME: Final = "backbone.weights.h5"
IDENTITY_NAME: Final = "identity.json"
PARTS: Final = (WEIGHTS_NAME, IDENTITY_NAME)
"""Files of a stored backbone."""

NUM_MAP_AXES: Final = 4
"""Dimensions of feature maps: images, height, width, channels."""

BYTES_PER_NUMBER: Final = 4
"""Size of a parameter or a feature in float32."""


@dataclass(frozen=True)
class Backbone:
    """A stored backbone.

    Attributes:
        name: Architecture.
        image_size: Height and width of the input, in pixels.
        digest: Digest of recipe, architecture, input size, standardization and SHA-256 of `weights_file`, which
            determine all features; 64 hexadecimal digits.
        standardized: Whether a last layer standardizes the features, as with random weights.
        folder: Folder of its files. Its exports and the record of its engine are in folders beside it.
    """

    name: BackboneName
    image_size: int
    digest: str
    standardized: bool
    folder: Path

    @property
    def weights_file(self) -> Path:
        """Weights, as Keras saves them."""
        return self.folder / WEIGHTS_NAME

    @property
    def identity(self) -> dict[str, Any]:
        """The part of its identity that describes the architecture, for `write_backbone`."""
        return {"name": self.name, "image_size": self.image_size, "is_standardized": self.standardized}


def get_builder(name: BackboneName) -> Callable[..., Model]:
    """Return the function of `keras.applications` that builds an architecture."""
    keras = import_keras()
    return getattr(keras.applications, name)


def build_backbone(name: BackboneName, image_size: int, dtype: str = "float32", *, standardized: bool = False) -> Model:
    """Build a backbone with random weights.

    Args:
        name: Architecture.
        image_size: Height and width of the input, in pixels.
        dtype: Keras dtype policy, such as `float32` or `mixed_bfloat16`.
        standardized: Whether a last layer scales the features to mean 0 and variance 1; for random weights.

    Returns:
        A frozen model from gray levels 0-255, shape (batch, image_size, image_size, 1), to features, shape
        (batch, 2048). It has no nested models, so that all layers can be found by name. The ImageNet preprocessing
        (BGR, mean subtracted) is part of it.

    Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.
    """
    keras = import_keras()
    build = get_builder(name)
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)  # `import_keras` would reset it, and must not be called in the block
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
    """Store a backbone with its weights in the workspace, unless it is stored already.

    Random weights are calibrated on training images, once for a workspace, so that later images change no features.

    Args:
        weights: From `resolve_weights`, with their architecture.
        workspace: Its `backbones` folder is written; for random weights its training images are read.
        preprocessing: Preprocessing of the images.
        seed: Seed of random weights.
        num_threads: Threads that decode images.

    Raises:
        WeightsError: The file does not fit the architecture, or has changed since `resolve_weights`.
    """
    name = weights.backbone
    origin = {
        "recipe": BACKBONE_RECIPE,
        "name": name,
        "image_size": preprocessing.image_size,
        "weights": weights.sha256,
    }
    is_random = weights.file is None
    if is_random:
        origin |= {"seed": seed, "preprocessing": preprocessing.model_dump(), "keras": describe_keras()}
    folder = workspace.backbones_folder / digest(origin)[:16]
    if not is_as_recorded(folder, PARTS):
        network = build_backbone(name, preprocessing.image_size, standardized=is_random)
        if weights.file is None:
            hashes, images = read_training_sample(workspace, preprocessing, NUM_CALIBRATION_IMAGES, num_threads)
            origin |= {"images": list(hashes)}
            draw_weights(network, seed)
            calibrate(network, images)
        else:
            _check_hash(weights.file, weights.sha256)
            _load_weights(network, weights.file)
        require_room(folder, BYTES_PER_NUMBER * network.count_params())
        with publish_folder(folder) as fresh:
            write_backbone(network, fresh, {**origin, "is_standardized": is_random})
    return open_backbone(folder)


def write_backbone(network: Model, folder: Path, identity: Mapping[str, Any]) -> None:
    """Write a backbone to a folder that is published afterwards.

    Args:
        network: From `build_backbone`, with its weights.
        folder: An empty folder.
        identity: Origin of the weights; at least `name`, `image_size` and `is_standardized`.
    """
    network.save_weights(folder / WEIGHTS_NAME)
    write_json(folder / IDENTITY_NAME, identity)
    record_hashes(folder)


def open_backbone(folder: Path) -> Backbone:
    """Open a backbone that `write_backbone` wrote.

    Raises:
        WorkspaceError: The folder holds no backbone.
    """
    identity = read_json(folder / IDENTITY_NAME)
    determines = [identity["name"], identity["image_size"], identity["is_standardized"]]
    return Backbone(
        identity["name"],
        identity["image_size"],
        digest([BACKBONE_RECIPE, *determines, read_hashes(folder)[WEIGHTS_NAME]]),
        identity["is_standardized"],
        folder,
    )


def find_backbone(digest: str, folders: Iterable[Path]) -> Backbone | None:
    """Find an undamaged backbone by its digest, among folders that may hold one."""
    for folder in folders:
        with contextlib.suppress(WorkspaceError, LookupError, TypeError):
            if open_backbone(folder).digest == digest and is_as_recorded(folder, PARTS):
                return open_backbone(folder)
    return None


def add_maps(network: Model) -> Model:
    """Add the last feature maps as a second output, shape (batch, map_height, map_width, channels)."""
    keras = import_keras()
    maps = next(layer.output for layer in reversed(network.layers) if len(layer.output.shape) == NUM_MAP_AXES)
    return keras.Model(network.input, [network.output, maps], name=network.name)


@functools.lru_cache(maxsize=2)
def load_backbone(backbone: Backbone, dtype: str = "float32") -> Model:
    """Load a stored backbone that is not changed; it is cached and shared between calls."""
    return load_own_backbone(backbone, dtype)


def load_own_backbone(backbone: Backbone, dtype: str = "float32") -> Model:
    """Load a stored backbone that the caller may change."""
    if not is_as_recorded(backbone.folder, [WEIGHTS_NAME]):
        raise WeightsError(
            f"model.weights: {backbone.weights_file} was changed after it was written. It is not loaded. Start "
            "again: it is written again."
        )
    network = build_backbone(backbone.name, backbone.image_size, dtype, standardized=backbone.standardized)
    _load_weights(network, backbone.weights_file)
    return network


def _check_hash(file: Path, sha256: str) -> None:
    """Check that a weights file is still the one that `resolve_weights` found."""
    found = digest_file(file)
    if found != sha256:
        raise WeightsError(
            f"model.weights: the SHA-256 of {file} is {found[:12]}, but was {sha256[:12]} at the start of the run. It "
            "is not loaded. Do not change the file during a run, and start again."
        )


def _load_weights(network: Model, file: Path) -> None:
    try:
        with named_for_keras(file) as named:
            network.load_weights(str(named))
    except UNREADABLE as error:
        raise WeightsError(
            f"model.weights: {file} does not fit {network.name} ({describe_cause(error)}). "
            "Give a file that Keras saved for this architecture with include_top=False."
        ) from error

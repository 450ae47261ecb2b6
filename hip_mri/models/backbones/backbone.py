"""Builds, stores and loads backbones: frozen networks from gray images to features."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np

from hip_mri.config import ARCHITECTURES, PRESET, Architecture, BackboneName, InputScaling
from hip_mri.errors import WeightsError, WorkspaceError
from hip_mri.hashes import digest, is_as_recorded, read_hashes, record_hashes
from hip_mri.models.backbones import input_scaling, preset_design, preset_layer
from hip_mri.models.backbones.hdf5_checks import UNREADABLE, describe_cause, named_for_keras
from hip_mri.models.backbones.random_weights import STANDARDIZE
from hip_mri.models.keras_settings import Model, import_keras
from hip_mri.storage import read_json, write_json

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
        name: Architecture: a key of `ARCHITECTURES`, or the design of a preset.
        image_size: Height and width of the input, in pixels.
        scaling: Scaling of its input.
        digest: Digest of recipe, architecture, input size and scaling, standardization and SHA-256 of `weights_file`,
            which determine all features; 64 hexadecimal digits.
        standardized: Whether a last layer standardizes the features, as with random weights.
        folder: Folder of its files. Its exports and the record of its engine are in folders beside it.
        notice: Warning that every output repeats; empty for none.
    """

    name: BackboneName
    image_size: int
    scaling: InputScaling
    digest: str
    standardized: bool
    folder: Path
    notice: str = field(default="", compare=False)

    @property
    def num_features(self) -> int:
        """Number of features of an image."""
        return get_architecture(self.name).num_features

    @property
    def title(self) -> str:
        """Name of the architecture for people."""
        return preset_design.parse_design(self.name).kind if preset_design.is_preset(self.name) else self.name

    @property
    def weights_file(self) -> Path:
        """Weights, as Keras saves them."""
        return self.folder / WEIGHTS_NAME

    @property
    def identity(self) -> dict[str, Any]:
        """The part of its identity that describes the architecture, for `write_backbone`."""
        return describe_architecture(self.name, self.image_size, self.scaling, standardized=self.standardized)


def describe_architecture(
    name: BackboneName, image_size: int, scaling: InputScaling, *, standardized: bool
) -> dict[str, Any]:
    """Describe the architecture of a backbone as in its `identity.json`."""
    identity = {"name": name, "image_size": image_size, "is_standardized": standardized}
    return identity | describe_scaling(scaling)


def describe_scaling(scaling: InputScaling) -> dict[str, Any]:
    """Describe a scaling for digests; `caffe` is left out, which was the only one of earlier versions."""
    return {} if scaling == "caffe" else {"input_scaling": scaling}


def get_architecture(name: BackboneName) -> Architecture:
    """Return the facts about an architecture: of the table, or from the design of a preset."""
    return preset_design.describe_preset(name) if preset_design.is_preset(name) else ARCHITECTURES[name]


def get_builder(name: BackboneName) -> Callable[..., Model]:
    """Return the function of `keras.applications` that builds an architecture."""
    keras = import_keras()
    return getattr(keras.applications, name)


def build_backbone(
    name: BackboneName,
    image_size: int,
    dtype: str = "float32",
    *,
    scaling: InputScaling | None = None,
    standardized: bool = False,
) -> Model:
    """Build a backbone with random weights.

    Args:
        name: Architecture.
        image_size: Height and width of the input, in pixels.
        dtype: Keras dtype policy, such as `float32` or `mixed_bfloat16`.
        scaling: Scaling of the input; `None` for that of the ImageNet weights.
        standardized: Whether a last layer scales the features to mean 0 and variance 1; for random weights.

    Returns:
        A frozen model from gray levels 0-255, shape (batch, image_size, image_size, 1), to features, shape
        (batch, num_features). The scaling is part of it. Stochastic depth is switched off, since the order of its
        random numbers would differ between runs.
    """
    keras = import_keras()
    architecture = get_architecture(name)
    if preset_design.is_preset(name):
        preset_layer.define_layer()
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)  # `import_keras` would reset it, and must not be called in the block
    try:
        image = keras.Input((image_size, image_size, 1), name="image")
        color = keras.layers.Concatenate(name="color")([image, image, image])
        scaled = input_scaling.add_scaling(keras, color, scaling or architecture.input_scaling)
        features = _add_features(keras, name, scaled, image_size)
        if standardized:
            features = keras.layers.BatchNormalization(center=False, scale=False, name=STANDARDIZE)(features)
    finally:
        keras.config.set_dtype_policy(policy)
    network = keras.Model(image, features, name=PRESET if preset_design.is_preset(name) else name.lower())
    network.trainable = False
    _switch_off_dropout(network)
    return network


def _add_features(keras: ModuleType, name: BackboneName, scaled: Any, image_size: int) -> Any:
    """Add an architecture to symbolic images; returns the symbolic average of its last maps."""
    if preset_design.is_preset(name):
        maps = preset_layer.add_preset(name, scaled, image_size)
        return keras.layers.GlobalAveragePooling2D(name="avg_pool")(maps)
    arguments = {"include_top": False, "weights": None, "pooling": "avg", **ARCHITECTURES[name].options}
    return get_builder(name)(input_tensor=scaled, **arguments).output


def _switch_off_dropout(network: Model) -> None:
    keras = import_keras()
    for layer in network.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
            layer.seed_generator.state.assign(np.zeros(layer.seed_generator.state.shape, np.uint32))


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
    scaling = identity.get("input_scaling", "caffe")
    determines = [identity["name"], identity["image_size"], identity["is_standardized"]]
    determines += describe_scaling(scaling).values()
    return Backbone(
        identity["name"],
        identity["image_size"],
        scaling,
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
    outputs = (operation.output for operation in reversed(network.operations))
    maps = next(output for output in outputs if len(output.shape) == NUM_MAP_AXES)
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
    network = build_backbone(
        backbone.name, backbone.image_size, dtype, scaling=backbone.scaling, standardized=backbone.standardized
    )
    load_weights_file(network, backbone.weights_file)
    return network


def load_weights_file(network: Model, file: Path) -> None:
    """Load the weights of a backbone from a file that Keras saved.

    Raises:
        WeightsError: The file does not fit the network.
    """
    try:
        with named_for_keras(file) as named:
            network.load_weights(str(named))
    except UNREADABLE as error:
        raise WeightsError(
            f"model.weights: {file} does not fit {network.name} ({describe_cause(error)}). "
            "Give a file that Keras saved for this architecture with include_top=False."
        ) from error

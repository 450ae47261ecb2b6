"""Vision transformers of keras-hub as a layer: gray levels to maps of patch features; see `preset_design`."""

import functools
import importlib
import math
from typing import Any, Final

from hip_mri.errors import WeightsError
from hip_mri.models.backbones.preset_design import CLASSES, PresetDesign, parse_design
from hip_mri.models.keras_settings import Model, import_keras

PRESET_CLASS: Final = "PresetMaps"
LAYER: Final = "preset"
"""Class and name of the layer."""

MISSING: Final = (
    "model.backbone: preset needs keras-hub, which is not installed. Install it with "
    '`pip install "hip-mri[foundation]"`, or choose another model.backbone.'
)


def import_keras_hub() -> Any:
    """Import keras-hub.

    Raises:
        WeightsError: It is not installed.
    """
    import_keras()
    try:
        return importlib.import_module("keras_hub")
    except ImportError as error:
        raise WeightsError(f"{MISSING} ({str(error).splitlines()[0]})") from error


def build_encoder(design: PresetDesign, image_size: int | None = None) -> Model:
    """Build the network of a design with random weights; `None` keeps the image size of the preset."""
    size = image_size or design.options["image_shape"][0]
    options = {name: tuple(it) if isinstance(it, list) else it for name, it in design.options.items()}
    options["image_shape"] = (size, size, 3)
    models = importlib.import_module("keras_hub").models  # `import_keras_hub` would reset the dtype policy
    return getattr(models, design.kind)(**options)


def cut_encoder(design: PresetDesign, encoder: Model) -> Model:
    """Cut a network behind its tokens, shape (batch, num_tokens, num_features)."""
    keras = importlib.import_module("keras")
    last = CLASSES[design.kind].last_layer
    tokens = keras.Model(encoder.inputs[0], encoder.get_layer(last).output if last else encoder.output, name="tokens")
    for number, layer in enumerate(tokens._flatten_layers(include_self=False)):
        if layer not in tokens.layers:
            layer.name = f"part_{number}"  # Keras would count through the process, and saved files would differ
    return tokens


def add_preset(name: str, image: Any, image_size: int) -> Any:
    """Add a preset to symbolic images with three equal channels of gray levels; returns symbolic maps.

    `define_layer` must have been called before, since it resets the dtype policy.
    """
    return define_layer()(name, image_size, name=LAYER)(image)


def find_preset(network: Model) -> str:
    """Return the design of the preset in a network; empty if there is none."""
    return next((layer.design for layer in network.layers if type(layer).__name__ == PRESET_CLASS), "")


def get_tokens(network: Model) -> Model:
    """Return the network inside the layer of a preset."""
    return network.get_layer(LAYER).tokens


def unfreeze_blocks(network: Model, fraction: float) -> None:
    """Make the last blocks of the preset in a network trainable.

    Args:
        network: A network with a preset.
        fraction: Fraction of the blocks, rounded up.
    """
    layer = network.get_layer(LAYER)
    kind = CLASSES[parse_design(layer.design).kind]
    blocks = [it for it in layer._flatten_layers() if type(it).__name__ == kind.block]
    chosen = blocks[-max(1, math.ceil(len(blocks) * fraction)) :]
    layer.trainable = True
    trained = {id(variable) for block in chosen for variable in block.trainable_variables}
    for variable in layer.trainable_variables:
        variable.trainable = id(variable) in trained


@functools.cache
def define_layer() -> Any:
    """Define the layer; Keras and keras-hub are imported only where a network is needed."""
    keras = import_keras()
    import_keras_hub()
    ops = keras.ops

    @keras.saving.register_keras_serializable("hip_mri", PRESET_CLASS)
    class PresetMaps(keras.layers.Layer):
        """Features of the patches of an image, shape (batch, height, width, num_features), without class token."""

        def __init__(self, design: str, image_size: int, **options: Any) -> None:
            super().__init__(**options)
            self.design, self.image_size = design, image_size
            parsed = parse_design(design)
            self.tokens = cut_encoder(parsed, build_encoder(parsed, image_size))
            self.grid = image_size // parsed.patch_size
            self.factor = [1 / (255 * deviation) for deviation in parsed.deviation]
            self.shift = [-mean / deviation for mean, deviation in zip(parsed.mean, parsed.deviation, strict=True)]
            self.num_features = parsed.options["hidden_dim"]

        def build(self, _: Any) -> None:
            self.built = True

        def call(self, images: Any) -> Any:
            scaled = images * ops.convert_to_tensor(self.factor, images.dtype)
            tokens = self.tokens(scaled + ops.convert_to_tensor(self.shift, images.dtype), training=False)
            patches = tokens[:, -(self.grid**2) :]  # the first tokens are of class and registers
            return ops.reshape(patches, (-1, self.grid, self.grid, self.num_features))

        def compute_output_shape(self, input_shape: Any) -> Any:
            return (input_shape[0], self.grid, self.grid, self.num_features)

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "design": self.design, "image_size": self.image_size}

    return PresetMaps

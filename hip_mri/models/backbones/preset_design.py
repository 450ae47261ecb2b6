"""Designs of presets: which vision transformers of keras-hub may be built, from checked numbers only.

A design is the name of one of the classes of `CLASSES` and numbers. It is the name of the architecture in a saved
network, so that the network can be built again. Nothing else is ever built from a file. Needs no keras-hub.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from hip_mri.config import Architecture
from hip_mri.errors import WeightsError

MAX_NUMBER: Final = 2**20
MAX_PARAMETERS: Final = 2_000_000_000
MAX_TOKENS: Final = 2**16
"""Limits of a design: each number of it, and the parameters and the patches of an image that follow from it."""

_ACTIVATIONS: Final = ("gelu", "gelu_approximate", "quick_gelu", "silu", "relu")


@dataclass(frozen=True)
class PresetClass:
    """A class of keras-hub that may be built.

    Attributes:
        options: Its arguments that a preset determines.
        block: Class of its transformer blocks.
        mean: Gray level, 0-1, and
        deviation: standard deviation of its usual input scaling, per channel.
        last_layer: Layer whose output are the tokens, where it is not the last one.
        is_resizable: Whether it takes images of any multiple of its patches.
    """

    options: tuple[str, ...]
    block: str
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    deviation: tuple[float, float, float] = (0.5, 0.5, 0.5)
    last_layer: str = ""
    is_resizable: bool = False


_SIZES: Final = ("patch_size", "num_layers", "hidden_dim", "num_heads", "image_shape")
_DINO: Final = (*_SIZES, "intermediate_dim", "layer_scale_init_value", "num_register_tokens", "use_mask_token")
_IMAGENET: Final[Mapping[str, Any]] = {"mean": (0.485, 0.456, 0.406), "deviation": (0.229, 0.224, 0.225)}

CLASSES: Final = {
    "DINOV2Backbone": PresetClass(
        (*_DINO, "use_swiglu_ffn", "position_embedding_shape", "antialias_in_interpolation"),
        "DINOV2Layer",
        is_resizable=True,
        **_IMAGENET,
    ),
    "DINOV3Backbone": PresetClass(
        (
            *_DINO,
            *("hidden_activation", "use_gated_mlp", "use_query_bias", "use_key_bias", "use_value_bias"),
            *("use_proj_bias", "use_mlp_bias", "layer_norm_eps", "rope_theta"),
        ),
        "DINOV3Layer",
        is_resizable=True,
        **_IMAGENET,
    ),
    "SigLIPVisionEncoder": PresetClass(
        (*_SIZES, "intermediate_dim", "intermediate_activation", "layer_norm_epsilon"),
        "SigLIPEncoderLayer",
        last_layer="post_layer_norm",
    ),
    "ViTBackbone": PresetClass(
        (
            *_SIZES,
            *("mlp_dim", "layer_norm_epsilon", "use_mha_bias", "use_mlp_bias", "use_class_token", "use_patch_bias"),
        ),
        "ViTEncoderBlock",
    ),
}
"""Classes of keras-hub that may be built, by name. Dropout and stochastic depth are no options: they stay off."""


@dataclass(frozen=True)
class PresetDesign:
    """Architecture of a preset.

    Attributes:
        kind: Key of `CLASSES`.
        options: Arguments of the class.
        mean: Gray level, 0-1, that is subtracted from each channel (RGB), and
        deviation: the number by which the difference is divided.
    """

    kind: str
    options: Mapping[str, Any] = field(hash=False)
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @property
    def name(self) -> str:
        """The design as text: the name of its architecture, from which `parse_design` reads it."""
        content = {"kind": self.kind, "options": self.options, "mean": self.mean, "deviation": self.deviation}
        return json.dumps(content, sort_keys=True, separators=(",", ":"))

    @property
    def patch_size(self) -> int:
        """Height and width of a patch, in pixels."""
        size = self.options["patch_size"]
        return size if isinstance(size, int) else size[0]

    def check_image_size(self, image_size: int) -> None:
        """Check that the network takes images of a size.

        Raises:
            WeightsError: It does not.
        """
        needed = self.options["image_shape"][0]
        if not CLASSES[self.kind].is_resizable and image_size != needed:
            raise WeightsError(
                f"preprocessing.image_size is {image_size}, and this preset ({self.kind}) takes images of {needed} "
                f"pixels only. Give --preprocessing.image-size {needed}, or another preset."
            )
        if image_size % self.patch_size or image_size < self.patch_size:
            nearest = max(1, round(image_size / self.patch_size)) * self.patch_size
            raise WeightsError(
                f"preprocessing.image_size is {image_size}, and this preset ({self.kind}) needs a multiple of its "
                f"patches of {self.patch_size} pixels. Give --preprocessing.image-size {nearest}."
            )


def is_preset(name: str) -> bool:
    """Whether the name of an architecture is the design of a preset."""
    return name.startswith("{")


@functools.lru_cache(maxsize=8)
def parse_design(name: str) -> PresetDesign:
    """Read and check a design.

    Raises:
        ValueError: It is not one, or beyond the limits.
    """
    content = json.loads(name)
    if not isinstance(content, dict) or set(content) != {"kind", "options", "mean", "deviation"}:
        raise ValueError("it is not the design of a preset")
    return make_design(content["kind"], content["options"], content["mean"], content["deviation"])


def make_design(kind: Any, options: Any, mean: Any, deviation: Any) -> PresetDesign:
    """Make a design of checked values; see `parse_design`."""
    if kind not in CLASSES or not isinstance(options, dict):
        raise ValueError(f"{str(kind)[:40]!r} is none of the networks {', '.join(CLASSES)}")
    if missing := set(_SIZES) - set(options):
        raise ValueError(f"it does not state {', '.join(sorted(missing))}")
    check_options(options, CLASSES[kind].options)
    if too_small := [name for name in _SIZES if not all(it >= 1 for it in _as_numbers(options[name]))]:
        raise ValueError(f"its sizes {', '.join(too_small)} are not all at least 1")
    for numbers, lowest in ((mean, 0.0), (deviation, 1e-3)):
        if len(numbers) != 3 or not all(isinstance(it, (int, float)) and lowest <= it <= 1 for it in numbers):
            raise ValueError(f"its input scaling {str(numbers)[:60]} is not three numbers of 0 to 1")
    design = PresetDesign(kind, options, tuple(mean), tuple(deviation))
    width, height = options["hidden_dim"], options.get("intermediate_dim", options.get("mlp_dim", 0))
    if options["num_layers"] * width * (4 * width + 3 * height) > MAX_PARAMETERS:
        raise ValueError(f"it has more than {MAX_PARAMETERS:,} parameters")
    for shape in (options["image_shape"], options.get("position_embedding_shape", [1])):
        patches = _as_numbers(shape)[0] / _as_numbers(options["patch_size"])[0]
        if patches**2 > MAX_TOKENS:
            raise ValueError(f"its images have more than {MAX_TOKENS:,} patches")
    return design


def _as_numbers(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else [value]


def check_options(options: Mapping[str, Any], allowed: tuple[str, ...]) -> None:
    """Check that options are numbers of a reasonable size, or names of activations.

    Raises:
        ValueError: One is not, or is not allowed.
    """
    if foreign := set(options) - set(allowed):
        raise ValueError(f"it has the foreign options {', '.join(sorted(map(str, foreign)))[:200]}")
    for name, value in options.items():
        numbers = _as_numbers(value)
        is_number = all(isinstance(it, (int, float)) and 0 <= it <= MAX_NUMBER for it in numbers) and len(numbers) <= 3
        if not (value in _ACTIVATIONS if name.endswith("activation") else is_number):
            raise ValueError(f"the option {name} has the value {str(value)[:40]!r}")


def describe_preset(name: str) -> Architecture:
    """Describe a preset as an entry of `ARCHITECTURES`; its layer scales the input itself."""
    design = parse_design(name)
    return Architecture(
        num_parameters=0,
        num_features=design.options["hidden_dim"],
        input_scaling="none",
        imagenet_path="",
        imagenet_hash="",
        license="",
        min_image_size=design.patch_size,
    )

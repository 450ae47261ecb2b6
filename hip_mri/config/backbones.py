"""Table of the networks that can serve as backbone, and the scalings of their input."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

InputScaling = Literal["caffe", "caffe_255", "tf", "tf_128", "torch", "none"]
"""Conversion of gray levels 0-255 to the input of a network; see `hip_mri.models.backbones.input_scaling`."""

KERAS_ADDRESS: Final = "https://storage.googleapis.com/tensorflow/keras-applications/"
"""Folder of the ImageNet weights of `keras.applications`."""

MIT, APACHE, BSD, DINOV3 = "MIT", "Apache-2.0", "BSD-3-Clause", "DINOv3 License"


@dataclass(frozen=True)
class Architecture:
    """Facts about a network of `keras.applications` without top; its name there is its key in `ARCHITECTURES`.

    Attributes:
        num_parameters: Numbers in its weights file, moving statistics included; `count_params()` in Keras.
        num_features: Channels of its last feature maps, averaged over the image.
        input_scaling: Scaling that its ImageNet weights need.
        imagenet_path: Path of its ImageNet weights below `KERAS_ADDRESS`.
        imagenet_hash: MD5 or SHA-256 of that file, as in `keras.applications`.
        license: License of the ImageNet weights.
        min_image_size: Smallest height and width of the input, in pixels.
        branch_end: End of the names of the layers that end the residual branches; with random weights, their output is
            scaled down. Empty where the network has no such branches or scales them itself.
        has_last_normalization: Whether a LayerNormalization follows the average over the image.
        options: Further arguments of the function that builds it.
    """

    num_parameters: int
    num_features: int
    input_scaling: InputScaling
    imagenet_path: str
    imagenet_hash: str
    license: str
    min_image_size: int = 32
    branch_end: str = ""
    has_last_normalization: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def imagenet_name(self) -> str:
        """Name of the file of its ImageNet weights."""
        return self.imagenet_path.rpartition("/")[2]


_WITHOUT_SCALING: Final = {"include_preprocessing": False}
"""Leaves out the scaling that some networks of `keras.applications` contain."""

ARCHITECTURES: Final[dict[str, Architecture]] = {
    "ResNet50": Architecture(
        num_parameters=23_587_712,
        num_features=2048,
        input_scaling="caffe",
        imagenet_path="resnet/resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
        imagenet_hash="4d473c1dd8becc155b73f8504c6f6626",
        license=MIT,
        branch_end="_3_bn",
    ),
    "ResNet101": Architecture(
        num_parameters=42_658_176,
        num_features=2048,
        input_scaling="caffe",
        imagenet_path="resnet/resnet101_weights_tf_dim_ordering_tf_kernels_notop.h5",
        imagenet_hash="88cf7a10940856eca736dc7b7e228a21",
        license=MIT,
        branch_end="_3_bn",
    ),
    "ResNet152": Architecture(
        num_parameters=58_370_944,
        num_features=2048,
        input_scaling="caffe",
        imagenet_path="resnet/resnet152_weights_tf_dim_ordering_tf_kernels_notop.h5",
        imagenet_hash="ee4c566cf9a93f14d82f913c2dc6dd0c",
        license=MIT,
        branch_end="_3_bn",
    ),
    "ResNet152V2": Architecture(
        num_parameters=58_331_648,
        num_features=2048,
        input_scaling="tf",
        imagenet_path="resnet/resnet152v2_weights_tf_dim_ordering_tf_kernels_notop.h5",
        imagenet_hash="ed17cf2e0169df9d443503ef94b23b33",
        license=APACHE,
        branch_end="_3_conv",
    ),
    "DenseNet121": Architecture(
        num_parameters=7_037_504,
        num_features=1024,
        input_scaling="torch",
        imagenet_path="densenet/densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5",
        imagenet_hash="30ee3e1110167f948a6b9946edeeb738",
        license=BSD,
    ),
    "InceptionV3": Architecture(
        num_parameters=21_802_784,
        num_features=2048,
        input_scaling="tf",
        imagenet_path="inception_v3/inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5",
        imagenet_hash="bcbd6486424b2319ff4ef7d526e38f63",
        license=APACHE,
        min_image_size=75,
    ),
    "InceptionResNetV2": Architecture(
        num_parameters=54_336_736,
        num_features=1536,
        input_scaling="tf",
        imagenet_path="inception_resnet_v2/inception_resnet_v2_weights_tf_dim_ordering_tf_kernels_notop.h5",
        imagenet_hash="d19885ff4a710c122648d3b5c3b684e4",
        license=APACHE,
        min_image_size=75,
    ),
    "EfficientNetV2B0": Architecture(
        num_parameters=5_919_312,
        num_features=1280,
        input_scaling="torch",
        imagenet_path="efficientnet_v2/efficientnetv2-b0_notop.h5",
        imagenet_hash="893217f2bb855e2983157299931e43ff",
        license=APACHE,
        branch_end="project_bn",
        options=_WITHOUT_SCALING,
    ),
    "EfficientNetV2S": Architecture(
        num_parameters=20_331_360,
        num_features=1280,
        input_scaling="tf_128",
        imagenet_path="efficientnet_v2/efficientnetv2-s_notop.h5",
        imagenet_hash="af0682fb74e8c54910f2d4393339c070",
        license=APACHE,
        branch_end="project_bn",
        options=_WITHOUT_SCALING,
    ),
    "EfficientNetV2M": Architecture(
        num_parameters=53_150_388,
        num_features=1280,
        input_scaling="tf_128",
        imagenet_path="efficientnet_v2/efficientnetv2-m_notop.h5",
        imagenet_hash="1b8dc055df72dde80d614482840fe342",
        license=APACHE,
        branch_end="project_bn",
        options=_WITHOUT_SCALING,
    ),
    "ConvNeXtTiny": Architecture(
        num_parameters=27_820_128,
        num_features=768,
        input_scaling="torch",
        imagenet_path="convnext/convnext_tiny_notop.h5",
        imagenet_hash="d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1",
        license=MIT,
        branch_end="_layer_scale",
        has_last_normalization=True,
        options=_WITHOUT_SCALING,
    ),
    "ConvNeXtSmall": Architecture(
        num_parameters=49_454_688,
        num_features=768,
        input_scaling="torch",
        imagenet_path="convnext/convnext_small_notop.h5",
        imagenet_hash="6fc8009faa2f00c1c1dfce59feea9b0745eb260a7dd11bee65c8e20843da6eab",
        license=MIT,
        branch_end="_layer_scale",
        has_last_normalization=True,
        options=_WITHOUT_SCALING,
    ),
    "ConvNeXtBase": Architecture(
        num_parameters=87_566_464,
        num_features=1024,
        input_scaling="torch",
        imagenet_path="convnext/convnext_base_notop.h5",
        imagenet_hash="40a20c5548a5e9202f69735ecc06c990e6b7c9d2de39f0361e27baeb24cb7c45",
        license=MIT,
        branch_end="_layer_scale",
        has_last_normalization=True,
        options=_WITHOUT_SCALING,
    ),
}
"""Networks by their name in `keras.applications`. A further one is one more entry."""

PRESET: Final = "preset"
"""Value of `model.backbone` for a preset of keras-hub, which `model.weights` names."""

PRESETS: Final[dict[str, str]] = {
    "dinov2_small": APACHE,
    "dinov2_base": APACHE,
    "dinov2_large": APACHE,
    "dinov2_with_registers_small": APACHE,
    "dinov2_with_registers_base": APACHE,
    "dinov2_with_registers_large": APACHE,
    "dinov3_vit_small_lvd1689m": DINOV3,
    "dinov3_vit_base_lvd1689m": DINOV3,
    "dinov3_vit_large_lvd1689m": DINOV3,
    "siglip_base_patch16_224": APACHE,
    "siglip2_base_patch16_224": APACHE,
    "vit_base_patch16_224_imagenet21k": APACHE,
}
"""Presets of keras-hub by name, with the license of their weights. Others are given by address or folder."""

if TYPE_CHECKING:
    BackboneName = str
else:
    BackboneName = Literal[(*ARCHITECTURES, PRESET)]

"""Table of the networks that can serve as backbone."""

from dataclasses import dataclass
from typing import Final

from hip_mri.config import BackboneName

NUM_FEATURES: Final = 2048
"""Channels of the last block of every network of the table, averaged over the image."""


@dataclass(frozen=True)
class Architecture:
    """Facts about a network without top.

    Attributes:
        num_parameters: Numbers in its weights file, moving statistics included; `count_params()` in Keras.
        imagenet_name: Name of the file of its ImageNet weights.
        imagenet_md5: MD5 of that file, as in `keras.applications.resnet`.
    """

    num_parameters: int
    imagenet_name: str
    imagenet_md5: str


ARCHITECTURES: Final[dict[BackboneName, Architecture]] = {
    "ResNet50": Architecture(
        23_587_712, "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5", "4d473c1dd8becc155b73f8504c6f6626"
    ),
    "ResNet101": Architecture(
        42_658_176, "resnet101_weights_tf_dim_ordering_tf_kernels_notop.h5", "88cf7a10940856eca736dc7b7e228a21"
    ),
    "ResNet152": Architecture(
        58_370_944, "resnet152_weights_tf_dim_ordering_tf_kernels_notop.h5", "ee4c566cf9a93f14d82f913c2dc6dd0c"
    ),
}

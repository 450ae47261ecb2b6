"""Settings of the network, its training and its evaluation."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from hip_mri.addresses import WeightsName
from hip_mri.config.backbones import BackboneName, InputScaling
from hip_mri.config.base import CollectionName, Settings

Engine = Literal["keras", "openvino"]
Precision = Literal["float32", "bfloat16"]
HeadName = Literal["dense", "logistic", "knn"]


@dataclass(frozen=True)
class HeadDesign:
    """Kind and size of a head.

    Attributes:
        kind: Kind of the head.
        hidden_units: Width of the hidden layer of a dense head, else 0.
        num_references: Training images that a knn head holds, else 0; known when it is fitted.
    """

    kind: HeadName
    hidden_units: int = 0
    num_references: int = 0


class ModelSettings(Settings):
    """Settings of the network architecture."""

    backbone: BackboneName = "ResNet101"
    """Frozen network that computes the features of an image, or `preset` for a preset of keras-hub (extra
    `foundation`), which `weights` names; see [models.md](models.md)."""

    weights: WeightsName = Field(default="imagenet", min_length=1)
    """Weights of the backbone: `imagenet` (downloaded by Keras), `random`, or the path of a Keras weights file without
    top (`*.weights.h5` or the older `*_notop.h5`). With the backbone `preset`: its name, such as `dinov2_small`, an
    address of the Hugging Face hub (`hf://OWNER/NAME`), or the folder of a preset."""

    input_scaling: Literal["auto", InputScaling] = "auto"
    """Scaling of gray levels 0-255 that the weights need: `caffe` (BGR minus the ImageNet mean), `caffe_255` (the same
    divided by 255), `tf` (-1 to 1), `tf_128` (gray level / 128 - 1), `torch` (0 to 1, minus mean, divided by standard
    deviation) or `none`. `auto` uses that of the published ImageNet weights, and for other files the one that fits the
    statistics stored in their BatchNormalization layers best."""

    pretrained_on: CollectionName | None = None
    """Collection of images that the weights of a file were trained on, such as `RadImageNet`. If the images of the run
    come from it, or may (`data.collection`), every output says so. ImageNet weights need no value."""

    head: HeadName = "dense"
    """Classifier on the features: `dense` (a ReLU layer and a sigmoid), `logistic` (logistic regression with an L2
    penalty that is chosen by cross-validation) or `knn` (the 20 most similar training images; a baseline, whose model
    file contains the features of training images)."""

    hidden_units: int = Field(default=1024, ge=1, le=65536)
    """Number of units of the ReLU layer of the head `dense`."""

    mirror_averaging: bool | None = None
    """Whether the score of an image is the mean of the scores of the image and of its mirror image, in evaluation,
    prediction and promotion alike. Each image is then computed twice. By default that of `training.horizontal_flip`."""

    @property
    def head_design(self) -> HeadDesign:
        """Kind and size of the head."""
        return HeadDesign(self.head, self.hidden_units if self.head == "dense" else 0)


class FeatureSettings(Settings):
    """Settings of computing features, once per image and per mirrored image."""

    engine: Literal["auto", Engine] = "auto"
    """Inference engine: `keras` on any device, `openvino` on the CPU. `auto` selects Keras if there is a GPU or if
    there are few images, else OpenVINO."""

    precision: Literal["auto", Precision] = "auto"
    """Floating-point format. `auto` selects bfloat16 if the processor supports it in hardware and it changes the
    features of 32 images of this dataset at most half as much as JPEG compression of quality 95 does, else float32."""


class FineTuneSettings(Settings):
    """Settings of the second stage, which also trains the top of the backbone; BatchNormalization is not trained."""

    epochs: int = Field(default=0, ge=0, le=1000)
    """Number of passes over the training images, after the epochs of the head. 0 disables the stage. Per image, an
    epoch takes a forward pass of the whole network and a backward pass of its trained part."""

    from_block: Literal["conv2", "conv3", "conv4", "conv5"] = "conv5"
    """First stage of the backbone that is trained; all later stages are trained, too. `conv5` computes the feature maps
    of the lowest resolution, `conv4` those of twice that resolution, and so on."""

    learning_rate: float = Field(default=1e-5, gt=0, le=1)
    """Learning rate of Adam."""

    batch_size: int = Field(default=32, ge=1, le=4096)
    """Number of images per training step."""

    early_stopping_patience: int = Field(default=0, ge=0, le=1000)
    """Number of epochs without a lower validation loss after which the stage stops and the best epoch is used. 0
    disables early stopping."""


class TrainingSettings(Settings):
    """Settings of training the head."""

    epochs: int = Field(default=30, ge=1, le=10_000)
    """Number of passes over the training images."""

    batch_size: int = Field(default=150, ge=1, le=65536)
    """Number of images per training step."""

    learning_rate: float = Field(default=1e-4, gt=0, le=1)
    """Learning rate of Adam."""

    horizontal_flip: bool = True
    """Whether each training image is mirrored with probability 0.5 in each epoch."""

    class_weight: Literal["none", "balanced"] = "none"
    """Class weights of the loss: `balanced` weights each image by the inverse frequency of its class."""

    early_stopping_patience: int = Field(default=0, ge=0, le=10_000)
    """Number of epochs without a lower validation loss after which training stops and the best epoch is used. 0
    disables early stopping."""

    fine_tune: FineTuneSettings = FineTuneSettings()
    """Settings of the second stage, disabled by default."""


class EvaluationSettings(Settings):
    """Settings of thresholds, metrics and confidence intervals."""

    threshold_rule: Literal["youden", "sensitivity"] = "youden"
    """Rule that selects the threshold on validation images: `youden` maximizes the sum of sensitivity and specificity;
    `sensitivity` selects the highest threshold that reaches `required_sensitivity`. Scores at or above the threshold
    are classified as `osseous_lesion`."""

    required_sensitivity: float = Field(default=0.9, gt=0, le=1)
    """Sensitivity on validation images that the rule `sensitivity` reaches."""

    prevalences: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.01, 0.05, 0.2)
    """Prevalences of lesions for which predictive values are reported in addition to that of the test set."""

    uncertain_error_rate: float = Field(default=0.1, gt=0, lt=0.5)
    """Fraction of the images of either class that may be decided as the other class; scores for which this cannot be
    kept are `uncertain`. It determines the limits on validation images. A smaller rate needs more groups (0.1: 9 of
    each class) and gives more uncertain images."""

    recalibrate: bool = False
    """Whether the report also shows probabilities recalibrated by Platt's method, fitted on validation images."""

    num_resamples: int = Field(default=2000, ge=200, le=100_000)
    """Number of bootstrap samples of each 95 % confidence interval."""

    cross_validation_folds: int = Field(default=5, ge=2, le=20)
    """Number of folds of cross-validation on the training images."""

    cross_validation_seeds: int = Field(default=3, ge=0, le=20)
    """Number of repetitions of cross-validation with grouped folds. 0 disables cross-validation."""

    outside_fraction: float = Field(default=0.01, gt=0, lt=0.5)
    """Expected fraction of in-distribution images that are reported as out of distribution when new images are scored.
    It determines the limit on validation images."""

    min_subgroup_size: int = Field(default=10, ge=5, le=1_000_000)
    """Minimum number of groups with lesions, and without, for which metrics of a subgroup are reported. Intervals of
    smaller subgroups are too wide, and individual patients could be identified."""

"""Every setting of the pipeline: typed, bounded, frozen.

The command line, a YAML file, `prefect.yaml` and the form in the Prefect UI all fill the same object of a flow.
Library functions receive the values that they use, never the whole object.
"""

import os
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from hip_mri.addresses import LocalName, LocalPath, SourceAddress

LABELS: Final = ("normal", "osseous_lesion")
"""Class folders in the order of their label: `normal` = 0, `osseous_lesion` = 1."""

SPLITS: Final = ("train", "val", "test")
"""The splits, as they are named in the manifest and as folders."""

SYNTHETIC_MARK: Final = "SYNTHETIC.txt"
"""File at the top of a delivery, or one folder below it, that marks its images as synthetic."""

Label = Literal["normal", "osseous_lesion"]
BackboneName = Literal["ResNet50", "ResNet101", "ResNet152"]
Engine = Literal["keras", "openvino"]
Precision = Literal["float32", "bfloat16"]


_MAX_CLASS_NAME_LENGTH: Final = 255
"""Longest name of a class, in characters, as of any file; normalizing longer ones could take minutes."""


def spell_class_name(name: str) -> str:
    """What the spellings of a class name have in common.

    Case, blanks, dashes, underscores, dots, a plural s and the Unicode form make no difference.
    """
    if len(name) > _MAX_CLASS_NAME_LENGTH:
        return name
    return re.sub(r"[\s_.-]", "", unicodedata.normalize("NFC", name).casefold()).removesuffix("s")


def check_class_names(class_names: Mapping[str, str]) -> None:
    """See that each other name of a class stands for one class.

    Raises:
        ValueError: A name is blank, or two that are spelled alike stand for two classes, those of the classes included.
    """
    meanings = {spell_class_name(label): label for label in LABELS}
    for name, label in class_names.items():
        spelled = spell_class_name(name)
        if not spelled:
            raise ValueError(f"{name!r} is blank; give the name of a folder or a value of the column label")
        if meanings.setdefault(spelled, label) != label:
            raise ValueError(f"{name!r} stands for {meanings[spelled]} and for {label}; give each name one class")


class Settings(BaseModel):
    """Base of all groups of settings: nothing unknown, nothing changed afterwards."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=(), hide_input_in_errors=True
    )


class ImageSettings(Settings):
    """How image files are read."""

    slices: str = Field(default="all", pattern=r"^(all|middle|every:[1-9][0-9]{0,5})$")
    """Which slices are taken of a file that holds several (DICOM, NIfTI, TIFF): `all`, `middle`, or `every:N` for each
    N-th, from the first."""

    max_slices: int = Field(default=4096, ge=1, le=100_000)
    """Most slices that are taken of one file; a file with more is set aside."""

    accept_burned_in_text: bool = False
    """Whether DICOM files are used that declare text in their pixels (BurnedInAnnotation), or that are secondary
    captures or screen saves. Text in pixels can name patients, and is not removed."""


class DataSettings(ImageSettings):
    """How image files are read, which images belong together, and how they are divided."""

    patients_file: LocalPath | None = None
    """CSV file with the column source_name and at least one of patient_id, label and split (train, val or test);
    further columns describe subgroups. With a column label, labels come from the table instead of class folders.
    Nothing: a file `patients.csv` or `labels.csv` in the source, where there is one."""

    patient_pattern: str | None = None
    """Regular expression that finds the patient in a file's path: its group `patient`, or else its first group. It is
    searched in the path below the class folder and in the whole path; the place where more files have it counts."""

    class_names: dict[str, Label] = {}
    """Other names of the classes, of folders or in the column label, such as `{"healthy": "normal", "lesion":
    "osseous_lesion"}`. Case, blanks, dashes and underscores make no difference, in these and in the two themselves."""

    given_split: Literal["keep", "ignore"] = "keep"
    """What becomes of a split that a source gives, by folders named train, val and test or by the table's column split:
    `keep` uses it, and holds out training and validation images that are related to another part of it; `ignore`
    draws a new split."""

    group_similar: bool = True
    """Whether images that equal or resemble each other (copies, also scaled, mirrored or cropped) share a split."""

    find_text: bool = False
    """Whether images are searched for text in their pixels, such as names; `text_in_images.csv` in the workspace lists
    those that have some. Takes 0.1 to 0.2 s an image, and the extra `ocr`."""

    val_fraction: float = Field(default=0.15, gt=0, lt=0.5)
    """Share of each class that goes to validation."""

    test_fraction: float = Field(default=0.15, gt=0, lt=0.5)
    """Share of each class that goes to the test set; the rest trains."""

    @field_validator("class_names")
    @classmethod
    def _check_class_names(cls, class_names: dict[str, Label]) -> dict[str, Label]:
        check_class_names(class_names)
        return class_names

    @field_validator("patient_pattern")
    @classmethod
    def _check_pattern(cls, pattern: str | None) -> str | None:
        try:
            has_group = pattern is None or re.compile(pattern).groups > 0
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression ({error})") from error
        if not has_group:
            raise ValueError(
                f"{pattern!r} marks no patient; put brackets around the patient's part, such as '(p[0-9]+)_'"
            )
        return pattern


class SourceLimits(Settings):
    """How much a source may hold or take, so that a broken or malicious one ends the run and not the machine."""

    most_entries: int = Field(default=2_000_000, ge=1, le=100_000_000)
    """Files and folders in a source."""

    most_bytes: int = Field(default=2**40, ge=1, le=2**50)
    """Bytes of all files of a source, unpacked, and of a file that is fetched; 2**40 is a tebibyte."""

    most_ratio: float = Field(default=100, ge=1, le=2000)
    """How many times its packed size an entry of a zip file above 1 MiB, or all of them together, may unpack to."""

    fetch_timeout_seconds: float = Field(default=86_400, gt=0, le=604_800)
    """Seconds that one try at fetching a source may take; the next goes on where it ended, if the server allows it."""

    stall_timeout_seconds: float = Field(default=60, gt=0, le=3600)
    """Seconds without a byte after which a connection counts as lost."""


class PreprocessingSettings(Settings):
    """From the image as it came to the image that the network sees."""

    clahe_clip_limit: float = Field(default=2.0, ge=0, le=40)
    """Highest bin of a tile's histogram, in multiples of the mean bin; 0 leaves the contrast as it is."""

    clahe_num_tiles: int = Field(default=8, ge=1, le=64)
    """Tiles along each axis."""

    image_size: int = Field(default=224, ge=32, le=1024)
    """Height and width after resizing, in pixels."""

    interpolation: Literal["linear", "area"] = "linear"
    """How gray levels between pixels are found: `linear` as in the original recipe, `area` averages when shrinking."""


class ModelSettings(Settings):
    """The network."""

    backbone: BackboneName = "ResNet101"
    """The frozen network that turns an image into 2,048 features."""

    weights: LocalName = Field(default="imagenet", min_length=1)
    """`imagenet` (downloaded by Keras), `random`, or the path of a Keras weights file without top
    (`*.weights.h5` or the older `*_notop.h5`)."""

    hidden_units: int = Field(default=1024, ge=1, le=65536)
    """Width of the dense ReLU layer between the features and the sigmoid."""


class FeatureSettings(Settings):
    """How the frozen backbone is computed, once per image and flip."""

    engine: Literal["auto"] | Engine = "auto"
    """`keras` runs on any device, `openvino` on the CPU; `auto` takes Keras where there is a GPU or where there are
    few images, else OpenVINO."""

    precision: Literal["auto"] | Precision = "auto"
    """`auto` takes bfloat16 where the processor computes it in hardware and it moves the features of 32 images of
    this dataset at most half as far as saving these images as JPEG of quality 95 does, else float32."""


class FineTuneSettings(Settings):
    """A second stage that trains the top of the backbone too; BatchNormalization stays in inference mode."""

    epochs: int = Field(default=0, ge=0, le=1000)
    """Passes over the training images, on top of the head's epochs; 0 leaves the stage out. Each one costs a
    forward pass of the whole network and a backward pass of its top per image."""

    from_block: Literal["conv2", "conv3", "conv4", "conv5"] = "conv5"
    """First block of the backbone that is trained; everything above it is trained too."""

    learning_rate: float = Field(default=1e-5, gt=0, le=1)
    """Step size of Adam."""

    batch_size: int = Field(default=32, ge=1, le=4096)
    """Images per step."""

    early_stopping_patience: int = Field(default=0, ge=0, le=1000)
    """Epochs without a lower validation loss after which the stage ends and its best epoch is kept; 0 trains all."""


class TrainingSettings(Settings):
    """How the head is trained."""

    epochs: int = Field(default=30, ge=1, le=10_000)
    """Passes over the training images."""

    batch_size: int = Field(default=150, ge=1, le=65536)
    """Images per step."""

    learning_rate: float = Field(default=1e-4, gt=0, le=1)
    """Step size of Adam."""

    horizontal_flip: bool = True
    """Each epoch takes each training image as it is or mirrored, with equal chance."""

    class_weight: Literal["none", "balanced"] = "none"
    """`balanced` weighs each image by the inverse share of its class."""

    early_stopping_patience: int = Field(default=0, ge=0, le=10_000)
    """Epochs without a lower validation loss after which training ends and the best epoch is kept; 0 trains all."""

    fine_tune: FineTuneSettings = FineTuneSettings()
    """The second stage, off by default."""


class EvaluationSettings(Settings):
    """How the scores become figures."""

    threshold_rule: Literal["youden", "sensitivity"] = "youden"
    """How the threshold is chosen on validation images: the largest sum of sensitivity and specificity, or the
    highest threshold that reaches `required_sensitivity`. Scores at or above it are called `osseous_lesion`."""

    required_sensitivity: float = Field(default=0.9, gt=0, le=1)
    """Sensitivity on validation images that the rule `sensitivity` reaches."""

    prevalences: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.01, 0.05, 0.2)
    """Shares of lesions for which predictive values are also stated, since those of a sample depend on its own."""

    recalibrate: bool = False
    """Whether the report also shows probabilities recalibrated by Platt's method, fitted on validation images."""

    num_resamples: int = Field(default=2000, ge=200, le=100_000)
    """Bootstrap samples behind each 95 % interval."""

    cross_validation_folds: int = Field(default=5, ge=2, le=20)
    """Parts of the training images for cross-validation."""

    cross_validation_seeds: int = Field(default=3, ge=0, le=20)
    """Repetitions of cross-validation with grouped folds; 0 leaves it out."""

    outside_fraction: float = Field(default=0.01, gt=0, lt=0.5)
    """Share of ordinary images that may be called "outside what the model knows" when new images are scored; it sets
    the limit on validation images."""

    subgroup_minimum_size: int = Field(default=10, ge=5, le=1_000_000)
    """Fewest groups with lesions, and without, for which figures of a subgroup are stated; below it an interval says
    next to nothing, and single people could be recognised."""


class DriftSettings(Settings):
    """When new images count as unlike those that the model was trained on."""

    false_alarm_rate: float = Field(default=0.005, ge=0.001, le=0.05)
    """Highest chance that a batch of the same kind of patients is called shifted, over all statistics together."""

    least_effect: float = Field(default=0.8, ge=0, le=100)
    """Smallest shift of a statistic that matters, in standard deviations between training groups; a smaller one is
    no reason, however certain."""

    least_auc: float = Field(default=0.75, ge=0.5, le=1)
    """Smallest AUC of telling new from training groups by their features that matters."""

    min_num_groups: int = Field(default=8, ge=6, le=1_000_000)
    """Fewest groups on either side for a judgement."""


class RunnerSettings(Settings):
    """How the work is spread."""

    kind: Literal["local", "dask"] = "local"
    """`local` works on shards in threads of one process; `dask` on the workers of a Dask cluster, on one machine or
    many, whose workers share the workspace's disk. `dask` needs the extra `dask`."""

    dask_address: str | None = Field(default=None, pattern=r"^(tcp|tls)://[^\s@/?#]+:[0-9]+$")
    """Scheduler of a running Dask cluster, such as `tcp://10.0.0.5:8786`. Nothing: `dask` starts `num_workers`
    processes on this machine, for the run."""

    num_workers: int = Field(default=2, ge=1, le=1024)
    """Shards that are worked on at the same time; with `dask_address` the cluster's workers count instead."""

    num_threads: int = Field(default=0, ge=0, le=1024)
    """Threads that read and preprocess images, over all workers together; 0 takes one per processor core. Networks
    always use all cores."""

    shard_size: int = Field(default=2048, ge=1, le=1_000_000)
    """Most images that one task run handles, on average; smaller shards lose less when a run is killed and cost
    Prefect more, and Dask ten times as much."""

    @model_validator(mode="after")
    def _check_address(self) -> Self:
        if self.dask_address and self.kind != "dask":
            raise ValueError(f"dask_address is given, and kind is {self.kind}; give kind dask, or no address")
        return self

    def count_threads(self) -> int:
        """Threads over all workers together: what was asked for, or the processor cores this process may use."""
        if self.num_threads:
            return self.num_threads
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class ReleaseSettings(Settings):
    """When a newly trained model takes the place of the one that serves."""

    rule: Literal["superior", "non_inferior"] = "superior"
    """What the locked test set must show: that the AUC is higher, or that it is not lower by the margin. The second
    lets models get worse step by step, each within the margin of the one before."""

    non_inferiority_margin: float = Field(default=0.02, gt=0, lt=0.5)
    """Loss of AUC that is as good as none. It is always reported, and decides under the rule `non_inferior`."""

    error_budget: float = Field(default=0.05, gt=0, le=0.5)
    """Probability that chance alone promotes any model at all, over all looks at one test set together."""

    num_looks: int = Field(default=24, ge=1, le=10_000)
    """Comparisons that share the budget evenly: two years of monthly training. After them the test set is used up,
    and no comparison on it promotes any more."""

    spending: Literal["even", "falling"] = "even"
    """How looks share the budget: `even` over `num_looks`, or `falling` with the square of the look's number, which
    gives the first looks most and never ends."""

    minimum_sensitivity: float = Field(default=0.8, ge=0, le=1)
    """Share of the lesions of the test set that a model must call at its own threshold."""

    minimum_subgroup_sensitivity: float = Field(default=0.7, ge=0, le=1)
    """The same within each subgroup that is large enough to be judged."""


class RetrainSettings(Settings):
    """When new images lead to a new model, and who has the last word."""

    min_new_images: int = Field(default=50, ge=1)
    """New images below which nothing is trained; they wait for the next run."""

    accept_drift: bool = False
    """Whether images that look unlike those of training are taken in all the same: those of this run, and all that
    earlier runs have set aside."""

    approval: Literal["automatic", "person"] = "automatic"
    """Who promotes a model that has passed the gate: `person` stops the run and shows the comparison in the Prefect UI,
    with a form for the answer."""

    approval_timeout_hours: float = Field(default=72, gt=0, le=24 * 90)
    """Hours to wait for that answer; without one the champion stays."""


class TrainingConfig(Settings):
    """What every flow that trains is told."""

    workspace: LocalPath = Path("workspace")
    """Folder that holds everything the pipeline writes."""

    seed: int = Field(default=42, ge=0, le=2**32 - 1)
    """Start of every random choice: split, initial weights, order of images, flips."""

    limits: SourceLimits = SourceLimits()
    data: DataSettings = DataSettings()
    preprocessing: PreprocessingSettings = PreprocessingSettings()
    model: ModelSettings = ModelSettings()
    features: FeatureSettings = FeatureSettings()
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    runner: RunnerSettings = RunnerSettings()

    def with_backbone(self, backbone: BackboneName) -> Self:
        """The same settings with another backbone."""
        return self.model_copy(update={"model": self.model.model_copy(update={"backbone": backbone})})


class _OneSource(Settings):
    source: SourceAddress | None = None
    """Where the images come from: a zip file, a folder, an `https://`, `s3://` or `gs://` address, or a Google
    Drive share link or id. An address with a token in it stays out of the settings: `env:NAME` takes it from the
    environment, `secret:NAME` from a Secret block of Prefect's. Nothing: the synthetic demo images."""

    source_sha256: str | None = Field(default=None, pattern=r"^[0-9a-fA-F]{64}$")
    """Expected SHA-256 of the source file, 64 hexadecimal digits; another one ends the run."""

    @model_validator(mode="after")
    def _check_file_source(self) -> Self:
        if self.source_sha256 and self.source is None:
            raise ValueError("source_sha256 is given without a source; give the source that it belongs to")
        return self

    @property
    def is_demo(self) -> bool:
        """Whether the run draws its own synthetic images."""
        return self.source is None


class PipelineConfig(TrainingConfig, _OneSource):  # fields of the last base come first
    """All settings of `hip-pipeline`."""


class _ManySources(Settings):
    sources: tuple[SourceAddress, ...] = ("incoming",)
    """Where new images come from, each like the pipeline's source: class folders, a zip file, an address; or a folder
    into which zip files and folders with class folders are dropped. All images that earlier runs took in stay."""


class RetrainConfig(TrainingConfig, _ManySources):
    """All settings of `hip-retrain`."""

    retrain: RetrainSettings = RetrainSettings()
    drift: DriftSettings = DriftSettings()
    release: ReleaseSettings = ReleaseSettings()


class SheetSettings(Settings):
    """What the sheet of a batch of new images shows."""

    most_shown: int = Field(default=60, ge=0, le=1000)
    """Images with a picture, those with the highest scores; the table has all."""

    explain: bool = False
    """Whether heat maps by Grad-CAM show what raised the highest scores."""

    most_explained: int = Field(default=24, ge=1, le=1000)
    """Images with a heat map, those with the highest scores; at most as many as have a picture."""


class PredictConfig(_OneSource):
    """All settings of `hip-predict`."""

    source: SourceAddress | None = None
    """Images to score: a folder with folders of any kind, a zip file, a single image, or the `https://`, `s3://`,
    `gs://` or Google Drive address of a zip file, or `env:NAME` or `secret:NAME` where an address with a token
    stands. Nothing: the synthetic demo images."""

    workspace: LocalPath = Path("workspace")
    """Folder of the pipeline, where versions are found and results are written."""

    model: LocalName = Field(default="champion", min_length=1)
    """What scores: `champion`, the number of a version such as `0003`, or the folder of a run or of a version."""

    engine: Literal["auto"] | Engine = "auto"
    """`keras` runs on any device, `openvino` on the CPU; `auto` takes Keras where there is a GPU, or where there are
    few images and the backbone was not exported to OpenVINO before; else OpenVINO."""

    precision: Literal["auto"] | Precision = "auto"
    """`auto` takes the precision that the model was evaluated in, where this machine computes it in hardware."""

    keep_images: bool = False
    """Whether the preprocessed images, and a source that was fetched, stay in the workspace's `serving` folder after
    scoring."""

    limits: SourceLimits = SourceLimits()
    data: ImageSettings = ImageSettings()
    sheet: SheetSettings = SheetSettings()
    runner: RunnerSettings = RunnerSettings()

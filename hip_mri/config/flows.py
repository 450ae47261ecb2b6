"""Settings of the flows."""

import os
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, model_validator

from hip_mri.addresses import DaskAddress, LocalName, LocalPath, SourceAddress
from hip_mri.config.backbones import ARCHITECTURES, PRESET, PRESETS, BackboneName
from hip_mri.config.base import Settings
from hip_mri.config.data import DataSettings, PredictionDataSettings, PreprocessingSettings, SourceLimits
from hip_mri.config.promotion import DriftSettings, ReleaseSettings, RetrainSettings
from hip_mri.config.tracking import TrackingSettings
from hip_mri.config.training import (
    Engine,
    EvaluationSettings,
    FeatureSettings,
    ModelSettings,
    Precision,
    TrainingSettings,
)

DEFAULT_DASK_ADDRESS: Final = "env:DASK_SCHEDULER_ADDRESS"
"""Dask's own variable, which `dask worker` and `distributed.Client` read as well."""


class RunnerSettings(Settings):
    """Settings of parallel work."""

    kind: Literal["local", "dask"] = "local"
    """Task runner: `local` processes shards in threads of one process; `dask` uses the workers of a Dask cluster, on
    one or several machines, which share the disk of the workspace. `dask` needs the extra `dask`."""

    dask_address: DaskAddress | None = DEFAULT_DASK_ADDRESS
    """Scheduler of a running Dask cluster, such as `tcp://10.0.0.5:8786`. `env:NAME` reads it from an environment
    variable where the flow runs. If `DASK_SCHEDULER_ADDRESS` is not set, `dask` starts `num_workers` processes on that
    machine for the run."""

    num_workers: int = Field(default=2, ge=1, le=1024)
    """Number of shards that are processed in parallel; on a running Dask cluster, the number of its workers is used
    instead."""

    num_threads: int = Field(default=0, ge=0, le=1024)
    """Total number of threads of all workers that read and preprocess images. 0 uses one per processor core. Networks
    always use all cores."""

    shard_size: int = Field(default=2048, ge=1, le=1_000_000)
    """Maximum average number of images per shard, the unit of work of one task run. With smaller shards, less work is
    lost when a run is interrupted, and Prefect takes more time, with Dask ten times as much."""

    @model_validator(mode="after")
    def _check_address(self) -> Self:
        if self.dask_address not in (None, DEFAULT_DASK_ADDRESS) and self.kind != "dask":
            raise ValueError(f"dask_address is given, and kind is {self.kind}; give kind dask, or no address")
        return self

    def count_threads(self) -> int:
        """Return `num_threads`, or the number of processor cores that this process may use."""
        if self.num_threads:
            return self.num_threads
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class TrainingConfig(Settings):
    """Settings that the flows with training share."""

    workspace: LocalPath = Path("workspace")
    """Folder for everything that the pipeline writes."""

    seed: int = Field(default=42, ge=0, le=2**32 - 1)
    """Random seed of the split, the initial weights, the order of images and the augmentation."""

    limits: SourceLimits = SourceLimits()
    data: DataSettings = DataSettings()
    preprocessing: PreprocessingSettings = PreprocessingSettings()
    model: ModelSettings = ModelSettings()
    features: FeatureSettings = FeatureSettings()
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    runner: RunnerSettings = RunnerSettings()
    tracking: TrackingSettings = TrackingSettings()

    @model_validator(mode="after")
    def _check_preset(self) -> Self:
        is_preset = self.model.backbone == PRESET
        names_preset = self.model.weights in PRESETS or self.model.weights.startswith("hf://")
        if names_preset and not is_preset:
            raise ValueError(
                f"model.weights names a preset, and model.backbone is {self.model.backbone}; give the backbone preset"
            )
        if is_preset and self.model.weights in ("imagenet", "random"):
            raise ValueError(
                f"model.backbone is preset, and model.weights is {self.model.weights}; give the preset there: one of "
                f"{', '.join(PRESETS)}, an address hf://OWNER/NAME, or the folder of a preset"
            )
        if is_preset and self.model.input_scaling != "auto":
            raise ValueError(
                f"model.input_scaling is {self.model.input_scaling}, and a preset has its own scaling; give auto"
            )
        return self

    @model_validator(mode="after")
    def _check_image_size(self) -> Self:
        if self.model.backbone == PRESET:
            return self  # known when the preset was read
        needed = ARCHITECTURES[self.model.backbone].min_image_size
        if self.preprocessing.image_size < needed:
            raise ValueError(
                f"preprocessing.image_size is {self.preprocessing.image_size}, and {self.model.backbone} needs at "
                f"least {needed}; give a larger image_size, or another model.backbone"
            )
        return self

    @model_validator(mode="after")
    def _check_head(self) -> Self:
        if self.model.head == "knn" and self.training.fine_tune.epochs:
            raise ValueError(
                f"training.fine_tune.epochs is {self.training.fine_tune.epochs}, and model.head knn has no weights to "
                "train; give 0 epochs, or head dense or logistic"
            )
        return self

    @property
    def averages_mirrored(self) -> bool:
        """Whether the score of an image is averaged with that of its mirror image."""
        chosen = self.model.mirror_averaging
        return self.training.horizontal_flip if chosen is None else chosen

    def with_backbone(self, backbone: BackboneName) -> Self:
        """Return the same settings with another backbone."""
        return self.model_copy(update={"model": self.model.model_copy(update={"backbone": backbone})})


class _SourceSettings(Settings):
    source: SourceAddress | None = None
    """Source of the images: a zip file, a folder, an `https://`, `s3://` or `gs://` address, or a Google Drive share
    link or id. An address that contains a token is not a setting: `env:NAME` reads it from an environment variable,
    `secret:NAME` from a Prefect Secret block. By default, synthetic images are used."""

    source_sha256: str | None = Field(default=None, pattern=r"^[0-9a-fA-F]{64}$")
    """Expected SHA-256 of the source file, 64 hexadecimal digits. The run fails if it differs."""

    @model_validator(mode="after")
    def _check_file_source(self) -> Self:
        if self.source_sha256 and self.source is None:
            raise ValueError("source_sha256 is given without a source; give the source that it belongs to")
        return self

    @property
    def is_demo(self) -> bool:
        """Whether synthetic images are used."""
        return self.source is None


class PipelineConfig(TrainingConfig, _SourceSettings):  # fields of the last base come first
    """Settings of the flow `hip-pipeline`."""


class _SourcesSettings(Settings):
    sources: tuple[SourceAddress, ...] = ("incoming",)
    """Sources of new images, each as the pipeline's source: class folders, a zip file, an address; or a folder that
    contains zip files and folders with class folders. All images of earlier runs are kept."""


class RetrainConfig(TrainingConfig, _SourcesSettings):
    """Settings of the flow `hip-retrain`."""

    retrain: RetrainSettings = RetrainSettings()
    drift: DriftSettings = DriftSettings()
    release: ReleaseSettings = ReleaseSettings()


class SheetSettings(Settings):
    """Settings of the HTML sheet of scored images."""

    max_shown: int = Field(default=60, ge=0, le=1000)
    """Maximum number of images in the sheet, those with the highest scores. The table lists all images."""

    explain: bool = False
    """Whether Grad-CAM heat maps are shown for the highest scores."""

    max_explained: int = Field(default=24, ge=1, le=1000)
    """Maximum number of images with a heat map, those with the highest scores; not more than are shown."""


class PredictConfig(_SourceSettings):
    """Settings of the flow `hip-predict`."""

    source: SourceAddress | None = None
    """Images to score: a folder with any sub-folders, a zip file, a single image, or the `https://`, `s3://`, `gs://`
    or Google Drive address of a zip file; `env:NAME` or `secret:NAME` for an address that contains a token. By default,
    synthetic images are used."""

    workspace: LocalPath = Path("workspace")
    """Folder of the pipeline, where versions are read and results are written."""

    model: LocalName = Field(default="champion", min_length=1)
    """Model that scores: `champion`, the number of a version such as `0003`, or the folder of a run or of a version."""

    engine: Literal["auto", Engine] = "auto"
    """Inference engine: `keras` on any device, `openvino` on the CPU. `auto` selects Keras if there is a GPU, or if
    there are few images and the backbone has not been exported to OpenVINO; else OpenVINO."""

    precision: Literal["auto", Precision] = "auto"
    """Floating-point format. `auto` selects the format in which the model was evaluated if this machine supports it in
    hardware."""

    keep_images: bool = False
    """Whether the preprocessed images, and a downloaded source, stay in the folder `serving` of the workspace after
    scoring."""

    limits: SourceLimits = SourceLimits()
    data: PredictionDataSettings = PredictionDataSettings()
    sheet: SheetSettings = SheetSettings()
    runner: RunnerSettings = RunnerSettings()

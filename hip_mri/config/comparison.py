"""Settings of the comparison of candidates for the model."""

from typing import Final, Literal, Self

from pydantic import Field, ValidationError, model_validator

from hip_mri.addresses import LocalName
from hip_mri.config.backbones import BackboneName, InputScaling
from hip_mri.config.base import Settings
from hip_mri.config.flows import PipelineConfig
from hip_mri.config.training import HeadName

MAX_NUM_CANDIDATES: Final = 50


class CandidateSettings(Settings):
    """One candidate of a comparison. What is not given is as in the other settings."""

    name: str = Field(min_length=1, max_length=60, pattern=r"^[\w][\w .,()+/-]*$")
    """Name in tables and charts."""

    backbone: BackboneName | None = None
    """Replaces `model.backbone`."""

    weights: LocalName | None = None
    """Replaces `model.weights`. A candidate whose ImageNet weights or preset cannot be downloaded is left out."""

    input_scaling: Literal["auto", InputScaling] | None = None
    """Replaces `model.input_scaling`."""

    head: HeadName | None = None
    """Replaces `model.head`."""

    hidden_units: int | None = Field(default=None, ge=1, le=65536)
    """Replaces `model.hidden_units`."""

    mirror_averaging: bool | None = None
    """Replaces `model.mirror_averaging`."""

    clahe_clip_limit: float | None = Field(default=None, ge=0, le=40)
    """Replaces `preprocessing.clahe_clip_limit`; 0 disables CLAHE."""

    image_size: int | None = Field(default=None, ge=32, le=1024)
    """Replaces `preprocessing.image_size`."""

    fine_tune_epochs: int | None = Field(default=None, ge=0, le=1000)
    """Replaces `training.fine_tune.epochs`. A fine-tuned candidate trains the backbone once for each fold."""


PLACES: Final = {
    "backbone": ("model",),
    "weights": ("model",),
    "input_scaling": ("model",),
    "head": ("model",),
    "hidden_units": ("model",),
    "mirror_averaging": ("model",),
    "clahe_clip_limit": ("preprocessing",),
    "image_size": ("preprocessing",),
    "fine_tune_epochs": ("training", "fine_tune"),
}
"""Group of the setting that a setting of a candidate replaces."""

DEFAULT_CANDIDATES: Final = (
    CandidateSettings(name="recipe"),
    CandidateSettings(name="without CLAHE", clahe_clip_limit=0),
    CandidateSettings(name="logistic", head="logistic"),
    CandidateSettings(name="logistic, without CLAHE", head="logistic", clahe_clip_limit=0),
    CandidateSettings(name="logistic, without mirror averaging", head="logistic", mirror_averaging=False),
    CandidateSettings(name="nearest neighbors", head="knn"),
    CandidateSettings(name="DenseNet121, logistic", backbone="DenseNet121", weights="imagenet", head="logistic"),
    CandidateSettings(name="ConvNeXtTiny, logistic", backbone="ConvNeXtTiny", weights="imagenet", head="logistic"),
)
"""The settings as they are; preprocessing, head and averaging changed one by one and together; a baseline without
training; and two smaller backbones. All but the last two share the backbone."""


class CompareConfig(PipelineConfig):
    """Settings of the flow `hip-compare`."""

    candidates: tuple[CandidateSettings, ...] = Field(
        default=DEFAULT_CANDIDATES, min_length=2, max_length=MAX_NUM_CANDIDATES
    )
    """Candidates to compare; the first one is the reference."""

    @model_validator(mode="after")
    def _check_candidates(self) -> Self:
        names = [candidate.name for candidate in self.candidates]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"candidates: {', '.join(repeated)} occurs more than once; give each candidate a name")
        if not self.evaluation.cross_validation_seeds:
            raise ValueError("evaluation.cross_validation_seeds is 0, but candidates are compared by cross-validation")
        for candidate in self.candidates:
            try:
                self.configure(candidate)
            except ValidationError as error:
                causes = "; ".join(it["msg"].removeprefix("Value error, ") for it in error.errors())
                raise ValueError(f"candidates: {candidate.name}: {causes}") from error
        return self

    def configure(self, candidate: CandidateSettings) -> PipelineConfig:
        """Return the settings of a run with a candidate.

        Raises:
            ValidationError: They do not fit together.
        """
        settings = self.model_dump(include=set(PipelineConfig.model_fields))
        for name, value in candidate.model_dump(exclude={"name"}, exclude_none=True).items():
            group = settings
            for part in PLACES[name]:
                group = group[part]
            group["epochs" if name == "fine_tune_epochs" else name] = value
        return PipelineConfig.model_validate(settings)

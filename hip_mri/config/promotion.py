"""Settings of drift detection, of the promotion gate and of retraining."""

from typing import Literal

from pydantic import Field

from hip_mri.config.base import Settings


class DriftSettings(Settings):
    """Settings of comparing new images with the training images."""

    false_alarm_rate: float = Field(default=0.005, ge=0.001, le=0.05)
    """Maximum probability that a batch without a shift is reported as shifted, over all tests together."""

    min_effect_size: float = Field(default=0.8, ge=0, le=100)
    """Minimum shift of an image statistic that counts, in standard deviations between training groups. A smaller shift
    is ignored, even if it is significant."""

    min_auc: float = Field(default=0.75, ge=0.5, le=1)
    """Minimum AUC of a classifier between the features of new and of training groups that counts as a shift."""

    min_num_groups: int = Field(default=8, ge=6, le=1_000_000)
    """Minimum number of new groups, and of training groups, for a decision."""


class ReleaseSettings(Settings):
    """Settings of the gate that decides whether a new model replaces the champion."""

    rule: Literal["superior", "non_inferior"] = "superior"
    """What the locked test set must show: a higher AUC (`superior`), or an AUC that is not lower by the margin
    (`non_inferior`). With `non_inferior`, models can degrade step by step, each within the margin of the previous
    one."""

    non_inferiority_margin: float = Field(default=0.02, gt=0, lt=0.5)
    """Acceptable loss of AUC. It is always reported, and decides with the rule `non_inferior`."""

    error_budget: float = Field(default=0.05, gt=0, le=0.5)
    """Maximum probability that any model is promoted by chance, over all comparisons on one test set together."""

    num_looks: int = Field(default=24, ge=1, le=10_000)
    """Number of comparisons that share the error budget; the default is two years of monthly training. After them the
    test set is used up, and no comparison on it promotes a model."""

    spending: Literal["even", "falling"] = "even"
    """Division of the error budget among comparisons: `even` over `num_looks`, or `falling` with the square of the
    comparison's number, which gives the first comparisons most."""

    min_groups_per_class: int = Field(default=10, ge=5)
    """Minimum number of groups (patients) with a lesion, and of groups with a normal image, in the test set. With fewer
    the gate judges no model and promotes none."""

    min_first_auc: float = Field(default=0.5, ge=0, lt=1)
    """AUC that the lower limit of the 95% interval must exceed for the first champion, which is compared with none."""

    min_sensitivity: float = Field(default=0.8, ge=0, le=1)
    """Minimum sensitivity of a model on the test set at its own threshold."""

    min_specificity: float = Field(default=0.5, ge=0, le=1)
    """Minimum specificity of a model on the test set at its own threshold."""

    min_subgroup_sensitivity: float = Field(default=0.7, ge=0, le=1)
    """Minimum sensitivity within each subgroup that is large enough for metrics."""


class RetrainSettings(Settings):
    """Settings of retraining with new images, and of the approval of a new model."""

    min_new_images: int = Field(default=50, ge=1)
    """Minimum number of images for training that are new or were corrected since the latest version. Fewer are kept for
    the next run."""

    accept_drift: bool = False
    """Whether images with a shift are used all the same: those of this run, and all that earlier runs have
    quarantined."""

    approval: Literal["automatic", "person"] = "automatic"
    """How a model that has passed the gate is promoted: `automatic`, or by a `person`: the run is suspended, and the
    Prefect UI shows the comparison and a form; without a deployment it ends, and `hip-mri models approve` answers."""

    approval_timeout_hours: float = Field(default=72, gt=0, le=24 * 90)
    """Time to answer in the Prefect UI. Without an answer the champion stays."""

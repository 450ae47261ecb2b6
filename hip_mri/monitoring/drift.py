"""Drift detection: compares a new batch of images with the training images, before retraining uses it.

Two tests share the false alarm rate evenly (Bonferroni). In both, one image represents each group, and whole groups
are permuted (see `hip_mri.monitoring.shift`):

- **Image statistics**, such as size, gray levels and sharpness of the source images.
- **Features.** A classifier two-sample test: each group is left out in turn and assigned to the side whose other groups
  are more similar (kernel means, bandwidth by the median heuristic). The AUC of this classifier is about 0.5 or less
  without a difference; its p value comes from relabeling the groups.

A significant difference counts only if it is large enough: the effect of a statistic must reach `DriftSettings`'
minimum effect, the AUC of the features its minimum AUC. So a large batch of slightly different images is accepted.

Independently of the tests, a batch is shifted if all its groups lie far beyond the range of the training groups
(`StatisticShift.is_beyond`), such as an image size that does not occur in training. This rule applies from three new
groups on, where the tests have no power. It is outside the false alarm rate: three groups beyond the *unwidened* range
of 46 occur by chance with a probability below 1 : 18,000 for each side of each statistic, and the range is widened
threefold.

Sources: Rabanser et al., "Failing Loudly", NeurIPS 2019 (shift tests on frozen features); Lopez-Paz and Oquab,
"Revisiting Classifier Two-Sample Tests", ICLR 2017; Gretton et al., "A Kernel Two-Sample Test", JMLR 13, 2012.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from hip_mri.config import DriftSettings
from hip_mri.errors import EvaluationError
from hip_mri.models.network_inputs import Rows
from hip_mri.monitoring.shift import Floats, StatisticShift, draw_relabelings, measure_shifts, sample_one_per_group

MIN_NUM_GROUPS_BEYOND: Final = 3
"""New groups from which `StatisticShift.is_beyond` counts; a single patient may be an outlier."""

MAX_REASONS: Final = 5
"""Statistics that are described one by one; the others are only named."""

MIN_FEATURE_SPREAD: Final = 1e-6
"""Standard deviation below which a feature counts as constant; features are of the order of 1."""

SCORE_DECIMALS: Final = 9
"""Decimals to which scores between -1 and 1 are rounded, so that rounding errors break no ties."""


@dataclass(frozen=True)
class Batch:
    """Images to compare, one row per image.

    Attributes:
        statistics: `STATISTICS` of the source images, shape (num_images, len(STATISTICS)).
        features: Features from the backbone, in memory or on disk, shape (num_images, num_features).
        groups: Code of each image's group, shape (num_images,). Images of different groups are independent.
    """

    statistics: Floats
    features: Rows
    groups: NDArray[np.integer]

    def __post_init__(self) -> None:
        counts = {len(self.statistics), len(self.features), len(self.groups)}
        if len(counts) > 1 or not len(self.groups):
            raise EvaluationError(
                f"drift: the numbers of rows differ or are zero: {len(self.statistics)} of statistics, "
                f"{len(self.features)} of features, {len(self.groups)} of groups. Give one of each per image, for at "
                "least one image."
            )


@dataclass(frozen=True)
class FeatureShift:
    """How well features separate new groups from training groups.

    Attributes:
        auc: AUC of the leave-one-group-out classifier, 0-1; about 0.5 or less without a difference.
        p_value: P value of the AUC.
    """

    auc: float
    p_value: float


@dataclass(frozen=True)
class DriftReport:
    """Result of the comparison.

    Attributes:
        is_shifted: Whether the new batch differs from the training images.
        is_judged: Whether there were enough groups for the tests. If not, `is_shifted` can only result from values far
            beyond the range of training.
        reasons: One sentence per reason, the strongest first; empty unless shifted.
        shifts: All statistics, the largest effect first.
        features: Result of the test of features; `None` if there were too few groups.
        num_images: Number of images in the new batch.
        num_groups: Number of groups in the new batch.
        num_reference_images: Number of training images.
        num_reference_groups: Number of training groups.
        settings: Definition of a shift.
    """

    is_shifted: bool
    is_judged: bool
    reasons: tuple[str, ...]
    shifts: tuple[StatisticShift, ...]
    features: FeatureShift | None
    num_images: int
    num_groups: int
    num_reference_images: int
    num_reference_groups: int
    settings: DriftSettings

    @property
    def p_values(self) -> dict[str, float]:
        """P value of each statistic and of the `features`; empty if nothing was tested."""
        values = {s.statistic.name: s.p_value for s in self.shifts if s.p_value is not None}
        return values | ({"features": self.features.p_value} if self.features else {})

    @property
    def effects(self) -> dict[str, float]:
        """Effect of each statistic, in standard deviations."""
        return {s.statistic.name: s.effect for s in self.shifts}

    @property
    def summary(self) -> str:
        """The result in one or two sentences."""
        batch = f"The new batch ({self.num_images:,} images of {self.num_groups:,} groups)"
        if self.is_shifted:
            return f"{batch} does not look like the training images. {' '.join(self.reasons)}"
        if not self.is_judged:
            return (
                f"{batch} is too small to judge against {self.num_reference_groups:,} training groups: "
                f"{self.settings.min_num_groups} groups are needed on either side."
            )
        return f"{batch} looks like the {self.num_reference_images:,} training images."


def detect_drift(reference: Batch, new: Batch, settings: DriftSettings = DriftSettings(), seed: int = 0) -> DriftReport:
    """Test whether a new batch of images differs from the training images.

    Args:
        reference: Training images. Of more than `shift.MAX_NUM_GROUPS` groups a random subset is used.
        new: The new batch, sampled likewise.
        settings: Definition of a shift.
        seed: Seed of the sampling and of the relabelings.

    Returns:
        The report. A batch from the same source is called shifted with a probability of at most
        `settings.false_alarm_rate`, over draws of both sides.
    """
    old, young = sample_one_per_group(reference.groups, seed), sample_one_per_group(new.groups, seed)
    is_judged = min(len(old), len(young)) >= settings.min_num_groups
    alpha = settings.false_alarm_rate / 2 if is_judged else None
    shifts = measure_shifts(reference.statistics[old], new.statistics[young], alpha, seed)
    features = compare_features(reference.features[old], new.features[young], alpha, seed) if alpha else None
    shifts = tuple(sorted(shifts, key=lambda shift: -shift.effect))
    is_range_known = len(old) >= settings.min_num_groups and len(young) >= MIN_NUM_GROUPS_BEYOND
    counted = [s for s in shifts if is_relevant(s, settings) or (is_range_known and s.is_beyond)]
    reasons = (*_describe_shifts(counted), *_describe_features(features, settings))
    return DriftReport(
        is_shifted=bool(reasons),
        is_judged=is_judged,
        reasons=reasons,
        shifts=shifts,
        features=features,
        num_images=len(new.groups),
        num_groups=len(np.unique(new.groups)),
        num_reference_images=len(reference.groups),
        num_reference_groups=len(np.unique(reference.groups)),
        settings=settings,
    )


def is_relevant(shift: StatisticShift, settings: DriftSettings) -> bool:
    """Whether a shift is both significant and large enough."""
    is_significant = shift.p_value is not None and shift.p_value <= settings.false_alarm_rate / 2
    return is_significant and shift.effect >= settings.min_effect_size


def compare_features(reference: NDArray, new: NDArray, alpha: float, seed: int) -> FeatureShift:
    """Test whether features separate new groups from training groups.

    Args:
        reference: Features of one image of each training group, shape (num_groups, num_features), at least two.
        new: The same of the new groups.
        alpha: Significance level that the p value must resolve.
        seed: Seed of the relabelings.
    """
    kernel = _compute_kernel(np.concatenate([reference, new]).astype(np.float64))
    draws = draw_relabelings(len(reference), len(new), alpha, seed)
    auc = float(_measure_aucs(kernel, next(draws))[0])
    others = np.concatenate([_measure_aucs(kernel, is_new) for is_new in draws])
    return FeatureShift(auc, float((1 + (others >= auc - 1e-9).sum()) / (1 + len(others))))


def _compute_kernel(features: Floats) -> Floats:
    """Compute the Gaussian kernel of standardized features, 0 between a group and itself.

    Both sides are standardized together, so that the values do not depend on the true labels.
    """
    features = (features - features.mean(axis=0)) / np.maximum(features.std(axis=0), MIN_FEATURE_SPREAD)
    squares = (features**2).sum(axis=1)
    distances = np.maximum(0, squares[:, None] + squares - 2 * features @ features.T)
    median = np.median(distances[np.triu_indices(len(features), 1)])
    kernel = np.exp(-distances / (median if median > 0 else 1))
    np.fill_diagonal(kernel, 0)
    return kernel


def _measure_aucs(kernel: Floats, is_new: NDArray[np.bool_]) -> Floats:
    """Compute the AUC of the leave-one-group-out classifier for each relabeling."""
    num_new = int(is_new[0].sum())
    num_old = is_new.shape[1] - num_new
    to_new = is_new.astype(np.float64) @ kernel
    scores = to_new / (num_new - is_new) - (kernel.sum(axis=0) - to_new) / (num_old - ~is_new)
    ranks = rankdata(scores.round(SCORE_DECIMALS), axis=1)
    return ((ranks * is_new).sum(axis=1) - num_new * (num_new + 1) / 2) / (num_new * num_old)


def _describe_shifts(shifts: list[StatisticShift]) -> list[str]:
    sentences = [_describe_shift(shift) for shift in shifts[:MAX_REASONS]]
    if others := [shift.statistic.title for shift in shifts[MAX_REASONS:]]:
        sentences.append(f"Shifted as well: {', '.join(others)}.")
    return sentences


def _describe_shift(shift: StatisticShift) -> str:
    """For instance `Mean gray level: median 101 of the new groups, 148 of the training groups; ...`."""
    title = shift.statistic.title[0].upper() + shift.statistic.title[1:]
    medians = f"median {shift.new_median:.4g} of the new groups, {shift.reference_median:.4g} of the training groups"
    significance = "" if shift.p_value is None else f", p = {shift.p_value:.2g}"
    sentence = f"{title}: {medians}; {shift.effect:.1f} standard deviations apart{significance}."
    if shift.is_beyond:
        (new_low, new_high), (low, high) = shift.new_range, shift.reference_range
        sentence += f" All new groups ({new_low:.4g} to {new_high:.4g}) lie far beyond those ({low:.4g} to {high:.4g})."
    return sentence


def _describe_features(found: FeatureShift | None, settings: DriftSettings) -> list[str]:
    """One sentence if the difference is both significant and large enough."""
    if found is None or found.p_value > settings.false_alarm_rate / 2 or found.auc < settings.min_auc:
        return []
    separation = f"AUC of {found.auc:.2f}, p = {found.p_value:.2g}"
    return [f"Features: a classifier separates new from training groups with an {separation}."]

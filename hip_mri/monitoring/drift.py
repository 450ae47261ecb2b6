"""Does a new batch look like the images that the model was trained on? Asked before a retraining takes it in.

Two tests share the rate of false alarms evenly (Bonferroni). In both, one image speaks for each group, and whole
groups are permuted, see `hip_mri.monitoring.shift`:

- **Appearance.** Each statistic of the images as they came, such as size, gray levels and sharpness.
- **Features.** Can one tell, by the features that the model sees, from which side a group comes? Each group is left
  out in turn and given to the side whose other groups it resembles more (kernel means with the median heuristic).
  The AUC of that classifier is 0.5 or less without a difference; its p value comes from relabelling the groups.

Whatever is certain must also matter to count: the test of appearance needs an effect of `min_effect_size`, that of
features an AUC of `min_auc`. So a large batch of slightly different images stops nothing.

One thing needs no test: all groups lie far beyond the range of the training groups (`StatisticShift.is_beyond`; an
image size never seen before, say). That rule speaks from three groups on, where the tests have too little to go by.
It stands outside the false alarm rate: three groups beyond the *unwidened* range of 46 come by chance with less than
1 : 18,000 for each side of each statistic, and the range is widened threefold.

Sources: Rabanser et al., "Failing Loudly", NeurIPS 2019 (tests of shift on frozen features); Lopez-Paz and Oquab,
"Revisiting Classifier Two-Sample Tests", ICLR 2017; Gretton et al., "A Kernel Two-Sample Test", JMLR 13, 2012.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from hip_mri.config import DriftSettings
from hip_mri.errors import EvaluationError
from hip_mri.models.fitting import Rows
from hip_mri.monitoring.shift import Floats, StatisticShift, choose_witnesses, draw_relabellings, measure_shifts

MIN_NUM_GROUPS_BEYOND: Final = 3
"""New groups from which on `StatisticShift.is_beyond` counts; one patient may be odd."""

MOST_REASONS: Final = 5
"""Statistics that are described one by one; the others are named."""

LEAST_FEATURE_SPREAD: Final = 1e-6
"""Standard deviation below which a feature is constant; features are of the order of 1."""

SCORE_DECIMALS: Final = 9
"""Scores of -1 to 1 that agree to as many places are equal, so that rounding breaks no tie."""


@dataclass(frozen=True)
class Batch:
    """Images to compare, a row each.

    Attributes:
        appearance: What `compute_statistics` says of the images as they came, shape (num_images, len(STATISTICS)).
        features: What the backbone makes of them, in memory or on disk, shape (num_images, num_features).
        groups: Code of each image's group, shape (num_images,). Images of different groups are independent.
    """

    appearance: Floats
    features: Rows
    groups: NDArray[np.integer]

    def __post_init__(self) -> None:
        counts = {len(self.appearance), len(self.features), len(self.groups)}
        if len(counts) > 1 or not len(self.groups):
            raise EvaluationError(
                f"drift: {len(self.appearance)} rows of appearance, {len(self.features)} of features and "
                f"{len(self.groups)} groups do not belong together. Give one of each per image, for at least one image."
            )


@dataclass(frozen=True)
class FeatureShift:
    """How well features tell new groups from training groups.

    Attributes:
        auc: Of a classifier that leaves each group out, 0-1; about 0.5 or less without a difference.
        p_value: Chance of such an AUC between groups from one source.
    """

    auc: float
    p_value: float


@dataclass(frozen=True)
class DriftReport:
    """What became of the comparison.

    Attributes:
        is_shifted: Whether the new batch is unlike the training images.
        is_judged: Whether there were enough groups for the tests; where there were not, `is_shifted` can only come
            from values far beyond those of training.
        reasons: A sentence for each reason, the strongest first; empty unless shifted.
        shifts: All statistics, the largest effect first.
        features: How well features tell the sides apart; `None`: too few groups.
        num_images: Images of the new batch.
        num_groups: Its groups.
        num_reference_images: Training images.
        num_reference_groups: Their groups.
        settings: What counted as a shift.
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
        """P value of each statistic, and of the `features`; empty where nothing was tested."""
        values = {s.statistic.name: s.p_value for s in self.shifts if s.p_value is not None}
        return values | ({"features": self.features.p_value} if self.features else {})

    @property
    def effects(self) -> dict[str, float]:
        """Effect of each statistic, in standard deviations."""
        return {s.statistic.name: s.effect for s in self.shifts}

    @property
    def summary(self) -> str:
        """The outcome in a sentence or two."""
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
    """Test whether a new batch of images looks like the training images.

    Args:
        reference: Training images. Of more than `shift.MAX_NUM_GROUPS` groups a random choice is used.
        new: The new batch, likewise.
        settings: What counts as a shift.
        seed: The same seed draws the same images and relabellings.

    Returns:
        The report. A batch of the same kind is called shifted with a chance of at most `settings.false_alarm_rate`,
        over draws of both sides.
    """
    old, young = choose_witnesses(reference.groups, seed), choose_witnesses(new.groups, seed)
    is_judged = min(len(old), len(young)) >= settings.min_num_groups
    alpha = settings.false_alarm_rate / 2 if is_judged else None
    shifts = measure_shifts(reference.appearance[old], new.appearance[young], alpha, seed)
    features = compare_features(reference.features[old], new.features[young], alpha, seed) if alpha else None
    shifts = tuple(sorted(shifts, key=lambda shift: -shift.effect))
    believes_range = len(old) >= settings.min_num_groups and len(young) >= MIN_NUM_GROUPS_BEYOND
    counted = [s for s in shifts if is_relevant(s, settings) or (believes_range and s.is_beyond)]
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
    """Whether a statistic's shift is both certain and large enough to matter."""
    is_certain = shift.p_value is not None and shift.p_value <= settings.false_alarm_rate / 2
    return is_certain and shift.effect >= settings.min_effect_size


def compare_features(reference: NDArray, new: NDArray, alpha: float, seed: int) -> FeatureShift:
    """Test whether features tell new groups from training groups.

    Args:
        reference: Features of one image of each training group, shape (num_groups, num_features), at least two.
        new: The same of the new groups.
        alpha: Chance of a false alarm that the p value must be able to tell.
        seed: The same seed draws the same relabellings.
    """
    kernel = _measure_resemblance(np.concatenate([reference, new]).astype(np.float64))
    draws = draw_relabellings(len(reference), len(new), alpha, seed)
    auc = float(_measure_aucs(kernel, next(draws))[0])
    others = np.concatenate([_measure_aucs(kernel, is_new) for is_new in draws])
    return FeatureShift(auc, float((1 + (others >= auc - 1e-9).sum()) / (1 + len(others))))


def _measure_resemblance(features: Floats) -> Floats:
    """Gaussian kernel of standardized features, its width the median distance; 0 between a group and itself.

    Both sides are standardized together: the relabellings must not find any trace of the real labels.
    """
    features = (features - features.mean(axis=0)) / np.maximum(features.std(axis=0), LEAST_FEATURE_SPREAD)
    squares = (features**2).sum(axis=1)
    distances = np.maximum(0, squares[:, None] + squares - 2 * features @ features.T)
    median = np.median(distances[np.triu_indices(len(features), 1)])
    kernel = np.exp(-distances / (median if median > 0 else 1))
    np.fill_diagonal(kernel, 0)
    return kernel


def _measure_aucs(kernel: Floats, is_new: NDArray[np.bool_]) -> Floats:
    """AUC of the classifier that leaves one group out, after each relabelling."""
    num_new = int(is_new[0].sum())
    num_old = is_new.shape[1] - num_new
    to_new = is_new.astype(np.float64) @ kernel
    scores = to_new / (num_new - is_new) - (kernel.sum(axis=0) - to_new) / (num_old - ~is_new)
    ranks = rankdata(scores.round(SCORE_DECIMALS), axis=1)
    return ((ranks * is_new).sum(axis=1) - num_new * (num_new + 1) / 2) / (num_new * num_old)


def _describe_shifts(shifts: list[StatisticShift]) -> list[str]:
    sentences = [_describe_shift(shift) for shift in shifts[:MOST_REASONS]]
    if others := [shift.statistic.title for shift in shifts[MOST_REASONS:]]:
        sentences.append(f"Shifted as well: {', '.join(others)}.")
    return sentences


def _describe_shift(shift: StatisticShift) -> str:
    """For instance `Mean gray level: median 101 of the new groups, 148 of the training groups; ...`."""
    title = shift.statistic.title[0].upper() + shift.statistic.title[1:]
    medians = f"median {shift.new_median:.4g} of the new groups, {shift.reference_median:.4g} of the training groups"
    certainty = "" if shift.p_value is None else f", p = {shift.p_value:.2g}"
    sentence = f"{title}: {medians}; {shift.effect:.1f} standard deviations apart{certainty}."
    if shift.is_beyond:
        (new_low, new_high), (low, high) = shift.new_range, shift.reference_range
        sentence += f" All new groups ({new_low:.4g} to {new_high:.4g}) lie far beyond those ({low:.4g} to {high:.4g})."
    return sentence


def _describe_features(found: FeatureShift | None, settings: DriftSettings) -> list[str]:
    """A sentence where the difference is both certain and large enough to matter."""
    if found is None or found.p_value > settings.false_alarm_rate / 2 or found.auc < settings.min_auc:
        return []
    told = f"tells new from training groups with an AUC of {found.auc:.2f}, p = {found.p_value:.2g}"
    return [f"Features: the network's view {told}."]

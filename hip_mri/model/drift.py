"""Does a new batch look like the images that the model was trained on? Asked before a retraining takes it in.

Two tests share the rate of false alarms evenly (Bonferroni), and both permute whole groups, see `hip_mri.data.shift`:

- **Appearance.** Each statistic of the images as they came, such as size, gray levels and sharpness.
- **Features.** Can one tell, by the features that the model sees, from which side a group comes? Each group is left
  out in turn and given to the side whose other groups it resembles more (kernel means with the median heuristic).
  The AUC of that classifier is 0.5 or less without a difference; its p value comes from relabelling the groups.

Whatever is certain must also matter to count: the test of appearance needs an effect of `least_effect`, that of
features an AUC of `least_auc`. So a large batch of slightly different images stops nothing.

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
from hip_mri.data.shift import Floats, StatisticShift, choose_groups, draw_relabellings, measure_shifts
from hip_mri.errors import EvaluationError
from hip_mri.model.fitting import Rows

MIN_NUM_GROUPS_BEYOND: Final = 3
"""New groups from which on `StatisticShift.is_beyond` counts; one patient may be odd."""

MOST_REASONS: Final = 5
"""Statistics that are described one by one; the others are named."""

LEAST_FEATURE_SPREAD: Final = 1e-6
"""Standard deviation below which a feature is constant; features are of the order of 1."""

SCORE_DECIMALS: Final = 9
"""Scores of -1 to 1 that agree to as many places are equal, so that rounding breaks no tie."""

ROWS_PER_BLOCK: Final = 4096


@dataclass(frozen=True)
class Batch:
    """Images to compare, a row each.

    Attributes:
        appearance: What `describe_appearance` says of the images as they came, shape (num_images, len(STATISTICS)).
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
class DriftReport:
    """What became of the comparison.

    Attributes:
        is_shifted: Whether the new batch is unlike the training images.
        is_judged: Whether there were enough groups for the tests; where there were not, `is_shifted` can only come
            from values far beyond those of training.
        reasons: A sentence for each reason, the strongest first; empty unless shifted.
        shifts: All statistics, the largest effect first.
        feature_auc: How well features tell the sides apart, 0-1; `None`: too few groups.
        feature_p_value: Chance of such an AUC between groups from one source; `None`: too few groups.
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
    feature_auc: float | None
    feature_p_value: float | None
    num_images: int
    num_groups: int
    num_reference_images: int
    num_reference_groups: int
    settings: DriftSettings

    @property
    def p_values(self) -> dict[str, float]:
        """P value of each statistic, and of the `features`; empty where nothing was tested."""
        values = {shift.statistic.name: shift.p_value for shift in self.shifts} | {"features": self.feature_p_value}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def effects(self) -> dict[str, float]:
        """Effect of each statistic, in standard deviations."""
        return {shift.statistic.name: shift.effect for shift in self.shifts}

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
        reference: Training images. Of more than `hip_mri.data.shift.MAX_NUM_GROUPS` groups a random choice is used.
        new: The new batch, likewise.
        settings: What counts as a shift.
        seed: The same seed draws the same choice and relabellings.

    Returns:
        The report. A batch of the same kind is called shifted with a chance of at most `settings.false_alarm_rate`,
        over draws of both sides.
    """
    old, old_features = _average_chosen(reference, seed)
    young, young_features = _average_chosen(new, seed)
    is_judged = min(len(old), len(young)) >= settings.min_num_groups
    alpha = settings.false_alarm_rate / 2 if is_judged else None
    shifts = sorted(measure_shifts(old, young, alpha, seed), key=lambda shift: -shift.effect)
    auc, p_value = compare_features(old_features, young_features, alpha, seed) if alpha else (None, None)
    may_be_beyond = len(young) >= MIN_NUM_GROUPS_BEYOND and len(old) >= settings.min_num_groups
    counted = [shift for shift in shifts if _counts(shift, settings, alpha) or (may_be_beyond and shift.is_beyond)]
    reasons = _describe_shifts(counted)
    if auc is not None and p_value is not None and alpha and p_value <= alpha and auc >= settings.least_auc:
        reasons.append(_describe_features(auc, p_value))
    return DriftReport(
        is_shifted=bool(reasons),
        is_judged=is_judged,
        reasons=tuple(reasons),
        shifts=tuple(shifts),
        feature_auc=auc,
        feature_p_value=p_value,
        num_images=len(new.groups),
        num_groups=len(np.unique(new.groups)),
        num_reference_images=len(reference.groups),
        num_reference_groups=len(np.unique(reference.groups)),
        settings=settings,
    )


def compare_features(reference: Floats, new: Floats, alpha: float, seed: int) -> tuple[float, float]:
    """Test whether features tell new groups from training groups.

    Args:
        reference: Mean features of each training group, shape (num_groups, num_features), at least two.
        new: The same of the new groups.
        alpha: Chance of a false alarm that the p value must be able to tell.
        seed: The same seed draws the same relabellings.

    Returns:
        AUC of the classifier, 0-1, and the p value.
    """
    kernel = _measure_resemblance(np.concatenate([reference, new]))
    draws = draw_relabellings(len(reference), len(new), alpha, seed)
    auc = float(_measure_aucs(kernel, next(draws))[0])
    others = np.concatenate([_measure_aucs(kernel, is_new) for is_new in draws])
    return auc, float((1 + (others >= auc - 1e-9).sum()) / (1 + len(others)))


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


def _average_chosen(batch: Batch, seed: int) -> tuple[Floats, Floats]:
    """Mean appearance and mean features of each chosen group."""
    positions = choose_groups(batch.groups, seed)
    codes, groups = np.unique(batch.groups[positions], return_inverse=True)
    appearance = _average_rows(batch.appearance, positions, groups, len(codes))
    return appearance, _average_rows(batch.features, positions, groups, len(codes))


def _average_rows(rows: Rows | Floats, positions: NDArray[np.int64], groups: NDArray[np.int64], count: int) -> Floats:
    """Mean row of each group, read some rows at a time."""
    total = np.zeros(1)
    for start in range(0, len(positions), ROWS_PER_BLOCK):
        block = slice(start, start + ROWS_PER_BLOCK)
        is_member = (groups[block] == np.arange(count)[:, None]).astype(np.float64)
        total = total + is_member @ np.asarray(rows[positions[block]], np.float64)
    return total / np.bincount(groups, minlength=count)[:, None]


def _counts(shift: StatisticShift, settings: DriftSettings, alpha: float | None) -> bool:
    is_certain = alpha is not None and shift.p_value is not None and shift.p_value <= alpha
    return is_certain and shift.effect >= settings.least_effect


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


def _describe_features(auc: float, p_value: float) -> str:
    return f"Features: the network's view tells new from training groups with an AUC of {auc:.2f}, p = {p_value:.2g}."

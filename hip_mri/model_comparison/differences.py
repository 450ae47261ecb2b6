"""Cross-validated AUCs of candidates and the differences between them, with intervals by bootstrap over groups.

The AUC of a candidate is the mean over repetitions; within a repetition, folds are weighted by their pairs of a lesion
and a normal image. Scores of different folds come from different heads and are not compared. All candidates are scored
on the same folds, so that their differences are paired.

Groups are resampled through the influence of each group on the AUC, which is linear, so no head is trained again. This
captures which groups were scored. The variance is multiplied by a factor for the groups that were trained on, since
the training sets of the folds overlap (Nadeau and Bengio; Bouckaert and Frank for repetitions). Intervals are
symmetric bootstrap-t intervals: the quantile of the studentized resamples replaces that of Student's t distribution.
Simultaneous intervals use the quantile of the largest value over all pairs of candidates, so that all of them hold
together with a confidence of 95%, also for the difference to a best candidate that the data have selected.

Sources: LeDell, Petersen and van der Laan, Electronic Journal of Statistics 9, 2015 (influence); Nadeau and Bengio,
Machine Learning 52, 2003; Bouckaert and Frank, PAKDD 2004 (correction); Efron and Tibshirani, An Introduction to the
Bootstrap, 1993, chapter 12 (bootstrap-t); Westfall and Young, Resampling-Based Multiple Testing, 1993 (largest value);
Hsu, Multiple Comparisons, 1996 (the best candidate).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hip_mri.errors import EvaluationError
from hip_mri.evaluation.metrics.confidence_intervals import CONFIDENCE
from hip_mri.evaluation.metrics.delong import place_scores
from hip_mri.evaluation.metrics.validation import number_labels

NUM_RESAMPLES: Final = 2000

RESAMPLES_PER_BLOCK: Final = 250
"""Resamples that are computed at once; limits memory with many candidates."""

MIN_NUM_GROUPS: Final = 10
"""Minimum number of groups with a lesion, and of groups with a normal image; with fewer there are no intervals."""

MIN_VARIANCE: Final = 1e-18
"""Smaller variances of a difference are rounding errors: the candidates order all images alike."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CrossValidatedAucs:
    """AUCs of candidates on the same folds.

    Attributes:
        by_seed: AUC of each candidate in each repetition, shape (num_candidates, num_seeds).
        influences: Change of each AUC by one more copy of each group, shape (num_candidates, num_groups).
        correction: Factor of the variance for the groups that were trained on.
        num_rarer_groups: Groups with a lesion, or groups with a normal image, whichever are fewer.
    """

    by_seed: Floats
    influences: Floats
    correction: float
    num_rarer_groups: int

    @property
    def values(self) -> Floats:
        """AUC of each candidate, shape (num_candidates,)."""
        return self.by_seed.mean(axis=1)

    @property
    def standard_errors(self) -> Floats:
        """Standard error of each AUC, shape (num_candidates,)."""
        return np.sqrt(self.correction * _compute_variances(self.influences))


@dataclass(frozen=True)
class PairedDifferences:
    """Differences of the AUCs of all pairs of candidates, first minus second.

    Attributes:
        values: Differences, shape (num_candidates, num_candidates), like the others; antisymmetric.
        halves: Half the width of the 95% interval of each difference on its own.
        simultaneous_halves: Half the widths of the intervals that hold together.
    """

    values: Floats
    halves: Floats
    simultaneous_halves: Floats

    @property
    def are_shown(self) -> NDArray[np.bool_]:
        """Whether the simultaneous interval excludes 0."""
        return np.abs(self.values) > self.simultaneous_halves


def measure_aucs(scores: pd.DataFrame, names: Sequence[str]) -> CrossValidatedAucs:
    """Compute the AUC of each candidate and the influence of each group.

    Args:
        scores: Columns candidate, seed, fold, group, label and score; the same images and folds for all candidates.
        names: The candidates.

    Raises:
        EvaluationError: In a repetition, no fold holds both classes.
    """
    groups, group_names = pd.factorize(scores["group"], sort=True)
    seeds = sorted(scores["seed"].unique())
    table = scores.assign(group=groups, label=number_labels(scores))
    by_seed, influences = np.zeros((len(names), len(seeds))), np.zeros((len(names), len(group_names)))
    for (name, seed), rows in table.groupby(["candidate", "seed"]):
        label, score, group, fold = (rows[column].to_numpy() for column in ("label", "score", "group", "fold"))
        auc, influence = measure_repetition(label, score, group, fold, len(group_names))
        by_seed[names.index(str(name)), seeds.index(seed)] = auc
        influences[names.index(str(name))] += influence / len(seeds)
    return CrossValidatedAucs(
        by_seed,
        influences,
        correct_for_training(table["fold"].nunique(), len(seeds)),
        int(table.groupby("label")["group"].nunique().min()),
    )


def correct_for_training(num_folds: int, num_seeds: int) -> float:
    """Compute the factor of the variance for overlapping training sets.

    The variance of the mean over J folds is (1 / J + num_scored / num_trained) times that of one fold, instead of
    1 / num_folds times, which is what resampling the scored groups gives.

    Source: Bouckaert and Frank, "Evaluating the Replicability of Significance Tests for Comparing Learning
    Algorithms", PAKDD 2004.
    """
    return num_folds * (1 / (num_folds * num_seeds) + 1 / (num_folds - 1))


def measure_repetition(
    labels: NDArray[np.int64], scores: Floats, groups: NDArray[np.int64], folds: NDArray[np.int64], num_groups: int
) -> tuple[float, Floats]:
    """Compute the AUC of one repetition, the mean over folds weighted by pairs, and the influence of each group.

    Args:
        labels: 0 normal or 1 lesion, shape (num_images,), like the next three.
        scores: Scores; only those of one fold are compared.
        groups: Number of each image's group, from 0.
        folds: Number of each image's fold.
        num_groups: Number of groups.

    Raises:
        EvaluationError: No fold holds both classes.
    """
    auc, influences, total = 0.0, np.zeros(num_groups), 0
    for fold in np.unique(folds):
        scored = folds == fold
        sizes = np.bincount(labels[scored], minlength=2)
        num_pairs = int(sizes.prod())
        if not num_pairs:
            continue
        fold_auc, placements = place_scores(labels[scored], scores[scored])
        auc += num_pairs * fold_auc
        total += num_pairs
        deviations = (placements - fold_auc) / sizes[labels[scored]]
        influences += num_pairs * np.bincount(groups[scored], deviations, num_groups)
    if not total:
        raise EvaluationError(
            "comparison: no fold of a repetition holds both classes, so there is no AUC. Add images of more patients."
        )
    return auc / total, influences / total


def compare_candidates(aucs: CrossValidatedAucs, seed: int) -> PairedDifferences | None:
    """Compute the differences of all pairs of candidates with their intervals.

    Args:
        aucs: From `measure_aucs`.
        seed: Seed of the resamples.

    Returns:
        The differences; `None` with fewer than `MIN_NUM_GROUPS` groups of a class.
    """
    if aucs.num_rarer_groups < MIN_NUM_GROUPS:
        return None
    values, num_candidates = aucs.values, len(aucs.values)
    pairs = np.array(list(combinations(range(num_candidates), 2)))
    influences = aucs.influences[pairs[:, 0]] - aucs.influences[pairs[:, 1]]
    variances = _compute_variances(influences)
    studentized = np.abs(_studentize_resamples(influences, variances, seed))
    errors = np.sqrt(aucs.correction * np.where(variances > MIN_VARIANCE, variances, 0))
    alone = np.quantile(studentized, CONFIDENCE, axis=0)
    together = np.quantile(studentized.max(axis=1), CONFIDENCE)
    halves, simultaneous_halves = (np.zeros((num_candidates, num_candidates)) for _ in range(2))
    first, second = pairs.T
    halves[first, second] = halves[second, first] = alone * errors
    simultaneous_halves[first, second] = simultaneous_halves[second, first] = together * errors
    return PairedDifferences(values[:, None] - values, halves, simultaneous_halves)


def _compute_variances(influences: Floats) -> Floats:
    """Compute the variance of a sum of influences over groups, which are independent; shape (num_rows,)."""
    num_groups = influences.shape[1]
    deviations = influences - influences.mean(axis=1, keepdims=True)
    return num_groups / (num_groups - 1) * (deviations**2).sum(axis=1)


def _studentize_resamples(influences: Floats, variances: Floats, seed: int) -> Floats:
    """Draw groups with replacement; returns the error of each resample over its standard error, (resamples, rows)."""
    num_groups = influences.shape[1]
    generator = np.random.default_rng(seed)
    uniform = np.full(num_groups, 1 / num_groups)
    blocks = []
    for _ in range(NUM_RESAMPLES // RESAMPLES_PER_BLOCK):
        drawn = generator.multinomial(num_groups, uniform, size=RESAMPLES_PER_BLOCK).astype(np.float64)
        errors, squares = drawn @ influences.T, drawn @ (influences**2).T
        resampled = num_groups / (num_groups - 1) * (squares - errors**2 / num_groups)
        is_usable = (variances > MIN_VARIANCE) & (resampled > 1e-3 * variances)
        blocks.append(np.where(is_usable, errors / np.sqrt(np.where(is_usable, resampled, 1)), 0))
    return np.concatenate(blocks)

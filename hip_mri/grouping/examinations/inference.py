"""Infers examinations from the order of files and from descriptors of the images.

Neighbors in the order are images of one examination unless their descriptors say otherwise.

1. Neighbors that are nearer than nearly all strangers form runs, such as the slices of a series.
2. Neighboring runs are joined up to a limit that follows from the mixture of their p-values.
3. Runs of different sequences, and images without an order, are joined with the nearest one, if hardly any stranger is
   expected to be as near.
"""

import itertools
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hip_mri.grouping.examinations.distances import compare_neighboring_runs, compute_border_p_values
from hip_mri.grouping.examinations.images import UNKNOWN, ComparableImages, Run, tabulate_joins
from hip_mri.grouping.examinations.learned_metric import fit_metric
from hip_mri.grouping.examinations.nearest import join_nearest
from hip_mri.grouping.examinations.p_value_mixture import PValueMixture, fit_mixture

MAX_RUN_P_VALUE: Final = 0.005
"""P-value up to which neighbors form runs; one of 200 borders between examinations is missed."""

MAX_FALSE_CUTS: Final = 0.01
"""Expected fraction of the neighbors within examinations that may be cut. A false cut leaks; a false join costs one
group. So joins are preferred."""

MIN_LIMIT, MAX_LIMIT = 0.1, 0.2
"""Range of the p-value up to which runs are joined: the fraction of the borders between examinations that is missed."""

MIN_CERTAINTY: Final = 0.1
"""Runs are joined only if at least one in ten such pairs is of one examination, even if that leaves more false cuts."""

MAX_NUM_PAIRS: Final = 20_000
"""Pairs of images of a run from which the metric is learned anew."""

MIN_NUM_LEARNED: Final = 60
"""Images in runs of at least two from which the metric can be learned anew."""

MIN_NUM_RUNS: Final = 10
"""Neighboring pairs of runs from which a mixture is fitted; with fewer the limit is `MAX_LIMIT`."""


@dataclass(frozen=True)
class Inference:
    """Inferred examinations.

    Attributes:
        joins: Joins that connect the images of each examination, without a cycle; columns of `JOIN_COLUMNS`.
        cuts: Borders between neighbors that are not joined; as above.
        false_cuts: Expected fraction of the neighbors within examinations that are cut; 0-1, `None` without an order.
        missed_borders: Expected fraction of the borders between examinations that are missed; as above.
    """

    joins: pd.DataFrame
    cuts: pd.DataFrame
    false_cuts: float | None = None
    missed_borders: float | None = None

    @property
    def is_ordered(self) -> bool:
        """Whether the order of the files was used."""
        return self.false_cuts is not None


def infer_examinations(images: ComparableImages, max_images: int, seed: int) -> Inference:
    """Infer which images are of one examination.

    Args:
        images: Descriptors, order and known patients of at least two images.
        max_images: Largest number of images of an inferred examination; a larger one is divided at its least certain
            joins.
        seed: Seed of the random comparisons.
    """
    generator = np.random.default_rng(seed)
    runs, inference = _join_neighbors(images, generator)
    joins = pd.concat([inference.joins, join_nearest(images, runs, generator)], ignore_index=True)
    return replace(inference, joins=_limit_size(joins, images.patient, max_images))


def _join_neighbors(images: ComparableImages, generator: np.random.Generator) -> tuple[list[Run], Inference]:
    """Steps 1 and 2; the runs of step 1 and all joins."""
    nothing = tabulate_joins([], [], "order", [])
    if not images.has_neighbor.any():
        return list(np.arange(len(images))[:, None]), Inference(nothing, nothing)
    p_values = compute_border_p_values(images, generator)
    patient = images.patient
    is_known = (patient[1:] != UNKNOWN) & (patient[:-1] != UNKNOWN)
    is_joined = np.where(is_known, patient[1:] == patient[:-1], p_values <= MAX_RUN_P_VALUE) & images.has_neighbor
    near = np.flatnonzero(is_joined)
    by_image = fit_mixture(p_values[np.isfinite(p_values)])
    joins = tabulate_joins(near, near + 1, "order", by_image.certainty(p_values[near]))

    runs = np.split(np.arange(len(images)), np.flatnonzero(~is_joined) + 1)
    images = _learn_from_runs(images, runs, generator)
    pairs = [pair for pair in itertools.pairwise(runs) if _may_join(images, *pair)]
    run_p_values = np.array([compare_neighboring_runs(images, *pair, generator) for pair in pairs])
    by_run, limit, false_cuts = _choose_limit(run_p_values, num_joined=len(joins))
    border = np.array([second[0] for _, second in pairs], np.int64)
    judged = tabulate_joins(border - 1, border, "order", by_run.certainty(run_p_values))
    is_near = run_p_values <= limit
    joins = pd.concat([joins, judged[is_near]], ignore_index=True)
    cuts = judged[~is_near].reset_index(drop=True)
    return runs, Inference(joins, cuts, false_cuts, missed_borders=limit)


def _learn_from_runs(images: ComparableImages, runs: list[Run], generator: np.random.Generator) -> ComparableImages:
    """Learn the metric anew from images anywhere in a run: series differ by more than neighbors in a series do."""
    run = np.repeat(np.arange(len(runs)), [len(members) for members in runs])
    first = generator.integers(len(images), size=MAX_NUM_PAIRS)
    start = np.array([members[0] for members in runs])[run[first]]
    second = start + generator.integers(np.array([len(members) for members in runs])[run[first]])
    pairs = np.stack([first, second], axis=1)[first != second]
    learned, places = np.unique(pairs, return_inverse=True)
    if len(learned) < MIN_NUM_LEARNED:
        return images
    metric = fit_metric(images.points[learned], places.reshape(pairs.shape), seed=0, are_certain=True)
    return replace(images, points=metric.project(images.points))


def _may_join(images: ComparableImages, first: Run, second: Run) -> bool:
    return bool(images.has_neighbor[second[0] - 1]) and not images.of_two_patients(first, second)


def _choose_limit(p_values: NDArray[np.float64], num_joined: int) -> tuple[PValueMixture, float, float]:
    """Mixture of the p-values of neighboring runs, limit up to which they are joined, expected fraction of false cuts.

    Args:
        p_values: Shape (pairs of runs,).
        num_joined: Neighbors within runs.
    """
    if len(p_values) < MIN_NUM_RUNS:
        mixture, limit = PValueMixture(0.5, 0.1), MAX_LIMIT
    else:
        mixture = fit_mixture(p_values)
        num_together = (1 - mixture.stranger_fraction) * len(p_values)
        allowed = MAX_FALSE_CUTS * (num_joined + num_together) / max(num_together, 1e-9)
        wanted = min(mixture.find_limit(allowed), mixture.find_certain(MIN_CERTAINTY))
        limit = float(np.clip(wanted, MIN_LIMIT, MAX_LIMIT))
    num_together = (1 - mixture.stranger_fraction) * len(p_values)
    num_missed = num_together * mixture.miss_fraction(limit)
    return mixture, limit, float(num_missed / max(num_joined + num_together, 1))


def _limit_size(joins: pd.DataFrame, patient: NDArray[np.int64], max_images: int) -> pd.DataFrame:
    """Keep joins in the order of their certainty, but none that makes an examination too large or of two patients."""
    named, parent, size = patient.tolist(), list(range(len(patient))), [1] * len(patient)

    def find(image: int) -> int:
        while parent[image] != image:
            parent[image] = image = parent[parent[image]]
        return image

    joins = joins.sort_values("certainty", ascending=False, kind="stable", ignore_index=True)
    kept = []
    for row, (first, second) in enumerate(zip(joins["first"].tolist(), joins["second"].tolist(), strict=True)):
        one, other = find(first), find(second)
        are_two_patients = named[one] != named[other] and UNKNOWN not in (named[one], named[other])
        if one != other and size[one] + size[other] <= max_images and not are_two_patients:
            parent[other] = one
            named[one] = named[other] if named[one] == UNKNOWN else named[one]
            size[one] += size[other]
            kept.append(row)
    return joins.iloc[kept].reset_index(drop=True)

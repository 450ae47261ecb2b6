"""Errors of the comparison of candidates on simulated, grouped images: `python -m tests.benchmarks.comparison`.

Heads are linear discriminants on simulated features, trained for each fold. True differences are known by symmetry, or
as the mean over all draws. Prints the coverage of the paired 95% intervals, how often equal candidates are called
different, and how often a better candidate comes first.
"""

import argparse
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from hip_mri.model_comparison.differences import (
    CrossValidatedAucs,
    compare_candidates,
    correct_for_training,
    measure_repetition,
)

NUM_FOLDS: Final = 5
NUM_SEEDS: Final = 3


class Study(NamedTuple):
    """A simulated study: features of some images for each candidate.

    Attributes:
        effects: Distance of the class means of each candidate, in standard deviations of a feature.
        num_groups: Groups of 1 to 3 images, half of them with lesions.
        num_features: Features of each candidate; their standard deviation falls as one over the square root of their
            number. The distance of the means is spread over the first 5.
        shared: Correlation of the features of two candidates.
    """

    effects: tuple[float, ...]
    num_groups: int
    num_features: int
    shared: float


def draw_aucs(study: Study, generator: np.random.Generator) -> CrossValidatedAucs:
    """Draw images, and cross-validate the candidates on them."""
    num_groups, sizes = study.num_groups, generator.integers(1, 4, study.num_groups)
    groups = np.repeat(np.arange(num_groups), sizes)
    of_groups = generator.permutation(num_groups) % 2
    labels = of_groups[groups] ^ (generator.random(len(groups)) < 0.05).astype(int)
    common = draw_features(study, groups, generator)
    spread = 1 / np.sqrt(1 + np.arange(study.num_features) / 5)
    repetitions = [assign_folds(of_groups, generator)[groups] for _ in range(NUM_SEEDS)]
    by_seed = np.zeros((len(study.effects), NUM_SEEDS))
    influences = np.zeros((len(study.effects), num_groups))
    for number, effect in enumerate(study.effects):
        own = draw_features(study, groups, generator)
        features = np.sqrt(study.shared) * common + np.sqrt(1 - study.shared) * own
        features[:, :5] += effect / np.sqrt(5) * labels[:, None]
        features *= spread
        for seed, folds in enumerate(repetitions):
            scores = np.empty(len(groups))
            for scored in (folds == place for place in range(NUM_FOLDS)):
                scores[scored] = features[scored] @ fit(features[~scored], labels[~scored])
            by_seed[number, seed], influence = measure_repetition(labels, scores, groups, folds, num_groups)
            influences[number] += influence / NUM_SEEDS
    rarer = int(min(np.unique(groups[labels == label]).size for label in (0, 1)))
    return CrossValidatedAucs(by_seed, influences, correct_for_training(NUM_FOLDS, NUM_SEEDS), rarer)


def draw_features(study: Study, groups: NDArray, generator: np.random.Generator) -> NDArray:
    """Draw features with a correlation of one half within groups."""
    of_groups = generator.normal(size=(study.num_groups, study.num_features))[groups]
    return (of_groups + generator.normal(size=(len(groups), study.num_features))) / np.sqrt(2)


def assign_folds(of_groups: NDArray, generator: np.random.Generator) -> NDArray:
    """Deal groups to folds by class."""
    folds = np.empty(len(of_groups), int)
    for label in (0, 1):
        members = np.flatnonzero(of_groups == label)
        folds[generator.permutation(members)] = np.arange(len(members)) % NUM_FOLDS
    return folds


def fit(features: NDArray, labels: NDArray) -> NDArray:
    """Fit a linear discriminant with a ridge penalty."""
    means = np.stack([features[labels == label].mean(axis=0) for label in (0, 1)])
    deviations = features - means[labels]
    covariance = deviations.T @ deviations / len(labels)
    covariance[np.diag_indices_from(covariance)] += np.trace(covariance) / len(covariance)
    return np.linalg.solve(covariance, means[1] - means[0])


class Outcome(NamedTuple):
    """Of one draw: difference of candidate 1 to 0, half its interval, whether any is shown, and the best."""

    difference: float
    half: float
    is_any_shown: bool
    best: int


@threadpool_limits.wrap(limits=1, user_api="blas")
def simulate(study: Study, num_draws: int, seed: int = 0) -> list[Outcome]:
    """Compare the candidates in so many draws."""
    generator, outcomes = np.random.default_rng(seed), []
    for number in range(num_draws):
        aucs = draw_aucs(study, generator)
        found = compare_candidates(aucs, seed=number)
        assert found is not None
        best = int(np.argmax(aucs.values))
        outcomes.append(Outcome(found.values[1, 0], found.halves[1, 0], bool(found.are_shown.any()), best))
    return outcomes


def measure_coverage(outcomes: list[Outcome], truth: float | None = None) -> float:
    """Return the fraction of intervals that contain the true difference; `None` takes the mean over the draws."""
    differences, halves = (np.array([getattr(it, name) for it in outcomes]) for name in ("difference", "half"))
    return float((np.abs(differences - (differences.mean() if truth is None else truth)) <= halves).mean())


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=1000)
    draws = parser.parse_args().draws
    for num_groups in (60, 150, 400):
        for num_features in (10, 50, 200):
            for effects in ((1.5, 1.5), (1.5, 1.9)):
                outcomes = simulate(Study(effects, num_groups, num_features, 0.5), draws)
                coverage = measure_coverage(outcomes, 0.0 if effects[0] == effects[1] else None)
                print(f"coverage, {num_groups} groups, {num_features} features, effects {effects}: {coverage:.3f}")
    for num_groups in (60, 150):
        equal = simulate(Study((1.5,) * 20, num_groups, 50, 0.5), draws // 5)
        rate = np.mean([it.is_any_shown for it in equal])
        print(f"20 equal candidates, {num_groups} groups: a difference is shown in {rate:.3f} of {len(equal)} draws")
    better = simulate(Study((1.0,) * 7 + (2.0,), 150, 50, 0.5), draws // 5)
    first = np.mean([it.best == 7 for it in better])
    shown = np.mean([it.is_any_shown for it in better])
    print(f"one better candidate of 8: first in {first:.3f}, shown in {shown:.3f} of {len(better)} draws")


if __name__ == "__main__":
    main()

"""Coverage of the bands of the learning curve over patients: `python -m tests.benchmarks.training_sizes`.

Data sets are drawn from a known process, in which images of a group are alike. The true AUC of a number of groups is
the mean over many training sets of that size, tested on many other groups.
"""

import argparse

import numpy as np
from numpy.typing import NDArray

from hip_mri.evaluation.audits.training_sizes import summarize_training_sizes
from hip_mri.evaluation.metrics.delong import place_scores
from hip_mri.monitoring.training_sizes import _fit, draw_curves

IMAGES_PER_GROUP = 3
WITHIN = 0.5
NUM_TEST_GROUPS = 2000
NUM_TRAINING_SETS = 200
PROCESSES = ((40, 60, 1.5), (40, 150, 1.2), (150, 100, 2.0))
"""Number of features, number of groups, and distance of the class means in standard deviations."""

Draw = tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]


def draw_images(num_groups: int, num_features: int, distance: float, generator: np.random.Generator) -> Draw:
    """Features, labels and groups; two of five groups have a lesion."""
    direction = np.random.default_rng(0).normal(size=num_features)
    groups = np.repeat(np.arange(num_groups), IMAGES_PER_GROUP)
    labels = (groups % 5 < 2).astype(np.int64)
    features = generator.normal(size=(num_groups, num_features))[groups]
    features += WITHIN * generator.normal(size=features.shape)
    features += distance * labels[:, None] * direction / np.linalg.norm(direction)
    return features.astype(np.float32), labels, groups


def measure_truth(num_groups: int, num_features: int, distance: float) -> float:
    generator = np.random.default_rng(1)
    tested, labels, _ = draw_images(NUM_TEST_GROUPS, num_features, distance, generator)
    aucs = []
    for _ in range(NUM_TRAINING_SETS):
        features, own_labels, _ = draw_images(num_groups, num_features, distance, generator)
        aucs.append(place_scores(labels, (tested @ _fit(features, own_labels)).astype(np.float64))[0])
    return float(np.mean(aucs))


def measure_coverage(num_features: int, num_groups: int, distance: float, num_data_sets: int) -> None:
    truths: list[float] = []
    covered, is_rise_covered = [], []
    for seed in range(num_data_sets):
        images = draw_images(num_groups, num_features, distance, np.random.default_rng([7, seed]))
        features = (images[0] - images[0].mean(axis=0)) / images[0].std(axis=0)
        summary = summarize_training_sizes(draw_curves(features, *images[1:], seed), num_groups)
        assert summary is not None
        points = summary["points"]
        truths = truths or [measure_truth(point["num_groups"], num_features, distance) for point in points]
        covered.append(
            [low <= truth <= high for truth, (low, high) in zip(truths, (it["interval"] for it in points), strict=True)]
        )
        low, high = summary["rise"]["interval"]
        is_rise_covered.append(low <= truths[-1] - truths[-3] <= high)
    print(f"{num_features} features, {num_groups} groups: true AUC {np.round(truths, 3)}")
    print(f"  covered {np.round(np.mean(covered, axis=0), 3)}, rise {np.mean(is_rise_covered):.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-sets", type=int, default=120)
    number = parser.parse_args().data_sets
    for num_features, num_groups, distance in PROCESSES:
        measure_coverage(num_features, num_groups, distance, number)


if __name__ == "__main__":
    main()

"""Measures how many wrong labels are among the first of the label review, and how many correct ones are suspected.

    python -m tests.benchmarks.label_review WEIGHTS [NUM_SEEDS]

WEIGHTS is a weights file of ResNet50. For each seed, the demo's 290 phantoms are drawn, and 5% of the images, or of the
patients, get the wrong label. Every image is scored out of fold by the head of the default settings, as in a run.
Takes about two minutes for each seed on two idle cores.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hip_mri.config import LABELS, HeadDesign, TrainingSettings
from hip_mri.models.cross_validation import Fold, FoldPlan, score_fold
from hip_mri.models.fitting import TrainingImages
from hip_mri.models.network_inputs import Views
from hip_mri.monitoring.label_review import rank_labels
from hip_mri.synthetic.demo import draw_demo
from tests.benchmarks.drift import open_network
from tests.benchmarks.shortcuts import SETTINGS, compute_features

FRACTION: Final = 0.05
NUM_FOLDS: Final = 5
NUM_REPETITIONS: Final = 3
PLANTS: Final = ("none", "images", "patients")


def plant_errors(plant: str, groups: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.bool_]:
    """Draw which labels are wrong."""
    if plant == "none":
        return np.zeros(len(groups), bool)
    units = groups if plant == "patients" else np.arange(len(groups))
    num_units = units.max() + 1
    return np.isin(units, generator.choice(num_units, round(FRACTION * num_units), replace=False))


def score_out_of_fold(
    rows: NDArray[np.float32], mirrored: NDArray[np.float32], labels: NDArray[np.int64], groups: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Mean score of every image over the repetitions of grouped cross-validation."""
    plan = FoldPlan(Path("unused"), NUM_FOLDS, (), None, HeadDesign("dense", 1024), TrainingSettings())  # type: ignore[arg-type]
    training, views = TrainingImages(rows, mirrored, labels, groups), Views(rows, mirrored)
    folds = [Fold("grouped", seed, number) for seed in range(NUM_REPETITIONS) for number in range(NUM_FOLDS)]
    scores = pd.concat([score_fold(fold, plan, training, views) for fold in folds])
    return scores.groupby("position")["score"].mean().reindex(range(len(labels))).to_numpy(np.float64)


def main(weights_file: str, num_seeds: int = 4) -> None:
    """Print, for each seed and plant, the fraction found among the first tenth, and the suspected labels."""
    with TemporaryDirectory() as folder:
        engine = open_network(Path(folder), weights_file, SETTINGS, 2)
        for seed in range(num_seeds):
            drawn = list(draw_demo(seed))
            rows = compute_features(engine, [image.pixels for image in drawn])
            mirrored = compute_features(engine, [np.fliplr(image.pixels) for image in drawn])
            truth = np.array([LABELS.index(image.label) for image in drawn])
            groups = pd.factorize(np.array([image.patient_id for image in drawn]))[0]
            for plant in PLANTS:
                is_wrong = plant_errors(plant, groups, np.random.default_rng(seed))
                labels = np.where(is_wrong, 1 - truth, truth)
                names = [f"{number:04d}" for number in range(len(labels))]
                scores = score_out_of_fold(rows, mirrored, labels, groups)
                images = pd.DataFrame({"image_id": names, "sha256": names, "label": np.array(LABELS)[labels]})
                ranked = rank_labels(images.assign(score=scores, is_wrong=is_wrong), set())
                first, suspected = ranked[: round(0.1 * len(ranked))], ranked[ranked["is_suspected"]]
                found = f"{first['is_wrong'].sum() / max(is_wrong.sum(), 1):.0%} of {is_wrong.sum()} in the first 10%"
                print(
                    f"seed {seed}, {plant:8}: {found}; suspected {suspected['is_wrong'].sum()} wrong, "
                    f"{(~suspected['is_wrong']).sum()} correct labels of {len(ranked)}",
                    flush=True,
                )


if __name__ == "__main__":
    main(sys.argv[1], *(int(number) for number in sys.argv[2:3]))

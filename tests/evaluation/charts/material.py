"""Data for charts: a small, a typical and an extreme run."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from hip_mri.evaluation.charts.curves import ScoredSplit
from hip_mri.evaluation.charts.image_sheets import ExplainedCase, ImagePair, Outcome
from hip_mri.evaluation.metrics.curves import Band, CurveBands, DecisionCurve
from hip_mri.evaluation.metrics.measures import measure_ranking

CALIBRATION = {"expected_calibration_error": 0.061, "calibration_slope": 0.84, "calibration_intercept": None}
LONG_ID = "a-hospital-with-a-very-long-name-000000000000000001"


@dataclass(frozen=True)
class Kind:
    """Size and difficulty of a run."""

    num_images: int
    num_lesions: int
    separation: float
    image_id: str
    threshold: float


KINDS = {
    "small": Kind(30, 12, 0.8, "0123456789abcdef", 0.5),
    "typical": Kind(400, 120, 0.9, "0123456789abcdef", 0.31),
    "extreme": Kind(300, 1, 30.0, LONG_ID, 0.31),
}
"""`extreme`: one lesion, clearly separated from all normal images, and long ids."""


def make_split(kind: Kind, seed: int = 0) -> ScoredSplit:
    generator = np.random.default_rng(seed)
    labels = (np.arange(kind.num_images) < kind.num_lesions).astype(np.int64)
    noise = generator.normal(0, 1.1, kind.num_images)
    scores = 1 / (1 + np.exp(-np.where(labels, kind.separation, -kind.separation) - noise))
    grid = np.linspace(0, 1, 21)
    lower = np.where(grid < 0.1, np.nan, grid)
    band = Band(grid, grid, lower, np.minimum(1, grid + 0.3))
    metrics = measure_ranking(labels, scores) | CALIBRATION
    intervals = {"auc": [0.71, 0.93], "average_precision": [0.6, 0.9]}
    return ScoredSplit(labels, scores, {**metrics, "intervals": intervals}, CurveBands(band, band))


def make_splits(kind: Kind) -> dict[str, ScoredSplit]:
    return {"test": make_split(kind), "val": make_split(kind, seed=1)}


def make_decision_curve(kind: Kind) -> DecisionCurve:
    thresholds = np.linspace(0.01, 0.99, 50)
    prevalence = kind.num_lesions / kind.num_images
    treat_all = prevalence - (1 - prevalence) * thresholds / (1 - thresholds)
    return DecisionCurve(thresholds, prevalence * (1 - thresholds), treat_all)


def make_cases(kind: Kind, outcomes: list[Outcome]) -> list[ExplainedCase]:
    generator = np.random.default_rng(3)
    images = generator.integers(0, 256, (len(outcomes), 48, 48), np.uint8)
    heats = generator.random((len(outcomes), 48, 48)).astype(np.float32)
    heats[1:2] = 0
    return [
        ExplainedCase(kind.image_id, outcome, 0.5, image, heat)
        for outcome, image, heat in zip(outcomes, images, heats, strict=True)
    ]


def make_pairs(kind: Kind, count: int) -> list[ImagePair]:
    image = np.random.default_rng(4).integers(0, 256, (40, 50), np.uint8)
    return [
        ImagePair(kind.image_id, kind.image_id[::-1], image, image, f"distance {0.01 * number:.4g}")
        for number in range(count)
    ]


def make_shortcuts(kind: Kind) -> dict[str, Any]:
    """The part of `metrics.json` on shortcuts; without intervals where there is one lesion."""
    names = ("without_anatomy", "size_and_file", "margin", "gray_levels", "all")
    aucs = dict(zip(names, (0.58, 0.5, 0.61, 0.86, 0.88), strict=True))
    has_interval = kind.num_lesions > 1
    interval = {name: [auc - 0.1, auc + 0.09] if has_interval else None for name, auc in aucs.items()}
    return {"combinations": {name: {"auc": aucs[name], "interval": interval[name]} for name in names}}


def make_sizes(kind: Kind) -> dict[str, Any]:
    """The part of `metrics.json` on training sizes; with a prediction for the typical run alone."""
    points = [
        {"num_groups": count * kind.num_images // 100, "auc": 0.7 + 0.01 * place, "interval": [0.65, 0.78]}
        for place, count in enumerate((10, 20, 40, 70, 100))
    ]
    twice = {"num_groups": 2 * kind.num_images, "auc": 0.75, "auc_interval": [0.7, 0.8]}
    return {"points": points, "twice": twice if kind.num_lesions > 100 else None}


def make_flow(kind: Kind) -> dict[str, Any]:
    """The part of `metrics.json` that the flow diagram shows."""
    num_images, num_lesions = kind.num_images, kind.num_lesions
    quarantined = {f"reason_{number}": number + 1 for number in range(8 if num_lesions == 1 else 2)}
    has_held_out = num_lesions > 100
    return {
        "train": {"num_images": 4 * num_images - 20, "num_lesions": 4 * num_lesions, "num_groups": 40},
        "val": {"num_images": num_images, "num_lesions": num_lesions, "num_groups": 1},
        "test": {"num_images": num_images, "num_lesions": num_lesions, "num_groups": 12},
        "data": {
            "num_entries": 6 * num_images + 30,
            "num_ignored": 7,
            "num_duplicates": 13,
            "quarantined": quarantined,
            "num_held_out": 27 * has_held_out,
            "num_held_out_lesions": 5 * has_held_out,
        },
    }


def make_leakage(kind: Kind) -> dict[str, Any]:
    """The part of `metrics.json` on the leakage test; of a small run it has one kind of blocks."""
    kinds = [("order", 2), ("order", 4), ("order", 8), ("order", 16), ("features", 2)]
    auc = 0.99 if kind.num_lesions == 1 else 0.61
    blocks = [{"by": by, "length": length, "auc": auc, "interval": [auc - 0.05, auc + 0.01]} for by, length in kinds]
    return {"max_auc": 0.55, "blocks": blocks if kind.num_images > 100 else blocks[-1:]}


def make_folds(kind: Kind) -> tuple[np.ndarray, np.ndarray]:
    if kind.num_lesions == 1:
        return np.ones(1), np.ones(1)
    return np.array([0.93, 0.95, 0.94]), np.array([0.86, 0.89, 0.88])
